"""tbn-bench export RUN --format c: a trained run as a C library.

The C code computes the whole test set before an export succeeds.
"""

import copy
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench import __version__, convert
from tbn_bench.experiment.weights import trained
from tbn_bench.mcu import bundle, check, emit, graph, layout, lowering, memory, program, reference
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.program import Program, Quant
from tbn_bench.mcu.table import aligned
from tbn_bench.records.store import RunRecord, replace, to_json
from tbn_bench.scores import FIRST, score_of

# target -> order of the weight bits
TARGETS = {
    "generic": "nat",
    "m4": "lane4",
    "m55": "nat",
    "avr": "nat",
}
CALIBRATION = 512  # training samples whose ranges set the scales
VECTORS = 4
# in the folder: inputs and outputs of the whole test set, for simulators
WHOLE = "build/test_set.npz"
GRAPH_TOLERANCE = 1e-4  # of the largest output, float64 against torch's float32
MAX_DROP = 0.002  # of top-1, a fraction
MIN_AGREEMENT = 0.995  # fraction of samples with the same class


def compile_(
    model: nn.Module,
    x: Tensor,
    activations: str,
    target: str,
    source: Quant | None = None,
) -> Program:
    """The C program of a network, with its arena laid out.

    model: trained, of any binary method or full precision. x: calibration inputs (B, *in_shape).
    source: see program.build. Raises McuError for what cannot run, or a choice that does not exist.
    """
    if target not in TARGETS:
        known = ", ".join(TARGETS)
        raise McuError(f"--target must be one of {known}, got {target!r}")
    small = copy.deepcopy(model).eval()
    if any(hasattr(m, "parametrizations") for m in small.modules()):
        convert.pack_(small)
    network = lowering.lower(small, tuple(x.shape[1:]))
    _check_graph(network, model, x)
    form = TARGETS[target] if activations == "u8" else "nat"
    prog = program.build(network, activations, form, maps(x.numpy(), network), source)
    memory.plan(prog)
    _check_sizes(prog)
    prog.warnings += _warnings(prog)
    return prog


def _check_graph(network: graph.Graph, model: nn.Module, x: Tensor) -> None:
    """The graph that was read must be the network: in float64 it gives torch's outputs."""
    x = x[:64]
    with torch.no_grad():
        y = convert.dense(model).eval()(x.clone())  # the network may change it in place
    if y.dim() == 4:
        y = y.permute(0, 2, 3, 1)
    expected = y.reshape(len(y), -1).numpy()
    values = reference.forward(network, maps(x.numpy(), network))
    found = values[network.output].reshape(expected.shape)
    largest = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(found - expected).max() / largest)
    if not error <= GRAPH_TOLERANCE:
        raise McuError(
            f"the graph read from the network differs from it by {error:.1e} of the largest output "
            f"(allowed {GRAPH_TOLERANCE:.0e}): it does something that is not seen, e.g. changes a "
            "value in place; please report this network"
        )


def maps(x: Any, network: graph.Graph) -> Any:
    """(B, C, H, W), (B, C, L) or (B, N) -> (B, h, w, c)."""
    h, w, c = network.shapes[0]
    images = x.reshape(len(x), c, h, w)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _check_sizes(prog: Program) -> None:
    """The C code keeps sizes in 16 bits."""
    for op in prog.ops:
        largest = max(_sizes(op))
        if largest > 65_535:
            raise McuError(
                f"{op.node.name}: a size of {largest:,} is more than 65,535; "
                "this is no network for a microcontroller"
            )


def _sizes(op: program.Op) -> list[int]:
    node = op.node
    sizes = [node.columns]
    if node.kind != "add":
        sizes.append(node.rows)
    if node.kind == "tiled":
        sizes += [node.per_input, node.per_tile]
    window = node.window
    if window is not None:
        pixels = window.out[0] * window.out[1]
        pixel_bytes = op.out_bytes // max(1, pixels)
        sizes += [*window.shape, *window.kernel, *window.out, pixel_bytes]
    return sizes


def _warnings(prog: Program) -> list[str]:
    found = []
    for op in prog.ops:
        node = op.node
        if node.kind == "tiled" and node.p > 1:
            found += _short_segments(node)
        if node.has_weights and node.method.startswith("expanded"):
            kind = "bytes" if prog.activations == "u8" else "floats"
            found.append(f"{node.name}: {node.method}; stored as {kind}")
    return found


def _short_segments(node: graph.Node) -> list[str]:
    """A warning where the segments of a tiled layer cost much RAM or padding."""
    ram = 4 * node.per_input * node.per_tile
    if node.segment >= 16 and ram <= 8192:
        return []
    better = max(p for p in range(1, node.p + 1) if node.rows % p == 0)
    return [
        f"{node.name}: rows of {node.columns} and tiles of {node.q} share segments of "
        f"{node.segment} only: {ram:,} bytes of RAM for their sums, padded words; "
        f"p = {better} would divide its {node.rows} rows"
    ]


def source_of(data: Any) -> Quant | None:
    """The real values of raw bytes, for a data set of images.

    Images of one channel are normalised by (u / 255 - mean) / std. None where the firmware has to
    normalise.
    """
    raw, _ = data.splits["test"]
    mean = getattr(data, "mean", ())
    std = getattr(data, "std", ())
    if raw.dtype != torch.uint8 or len(mean) != 1 or len(std) != 1:
        return None
    return Quant(1 / (255 * std[0]), 255 * mean[0])


def quantised(prog: Program, raw: Any, prepared: Any) -> Any:
    """Inputs as the firmware gives them: (B, input_len) uint8 or float32.

    raw: as the data set has them, or None. prepared: as the model sees them.
    """
    if prog.activations == "f32":
        values = prepared.numpy().astype(np.float32)
    elif raw is not None:
        values = raw.numpy()
    else:
        steps = np.round(prepared.numpy() / prog.input.scale + prog.input.offset)
        values = np.clip(steps, 0, 255).astype(np.uint8)
    return maps(values, prog.graph).reshape(len(values), -1)


def c_name(text: str) -> str:
    """A valid C identifier that clashes with nothing of the runtime."""
    name = re.sub(r"\W+", "_", text.lower(), flags=re.ASCII).strip("_")
    is_identifier = bool(name) and not name[0].isdigit()
    is_taken = name.startswith("tbn") or name in _C_WORDS
    if is_identifier and not is_taken:
        return name
    return f"net_{name}"


_RESERVED = """
auto break case char class const continue default delete do double else enum extern float for goto
if inline int long main new register restrict return short signed sizeof static struct switch this
typedef union unsigned void volatile while
"""
_C_WORDS = set(_RESERVED.split())


def export(
    record: RunRecord,
    activations: str = "u8",
    target: str = "generic",
    out: Path | None = None,
    name: str | None = None,
    zipped: bool = False,
    amalgamated: bool = False,
    keep_inputs: bool = False,
) -> dict[str, Any]:
    """Writes the folder of one trained run and returns its report (also FOLDER/report.json).

    The test set runs through the C code, compiled for this machine. Without a compiler it runs
    through the bit-exact emulation. keep_inputs: FOLDER/build gets the test set too, for mcu run.

    Raises McuError for a run that is no classifier or whose network C cannot run. Raises McuError
    too, and removes the folder, where the C code loses more than 0.2 points of accuracy or gives
    another class than torch for more than 0.5 % of the samples.
    """
    if record.summary is None or score_of(record.summary) != FIRST:
        raise McuError(
            f"run {record.run_id} is no finished classifier; C libraries are made of classifiers"
        )
    run = trained(record)
    data = run.data
    model = run.model
    data.setup()
    calibration = data.first("train", min(CALIBRATION, data.size("train")))
    prog = compile_(model, calibration, activations, target, source_of(data))
    data_name = record.config["data"].split("(")[0]
    name = c_name(name or f"{data_name}_{record.run_id[:6]}")
    folder = out or Path(name)
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
    try:
        job = _Export(record, data, model, prog, name, activations, target)
        report = job.fill(temporary, keep_inputs)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    report["path"] = str(folder)
    if amalgamated:
        single = folder.parent / f"{name}_single.h"
        report["single"] = str(single)
        replace(single, emit.single(name, prog).encode())
    if zipped:
        report["zip"] = shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    return report


def _check_replaceable(folder: Path) -> None:
    """A folder that is no export, and not empty, is never removed."""
    if not folder.exists() or (folder / "extras" / "model.json").exists():
        return
    if any(folder.iterdir()):
        raise McuError(f"{folder} exists and is no exported library; choose another --out")


@dataclass(frozen=True)
class _Export:
    """One run with its program."""

    record: RunRecord
    data: Any
    model: nn.Module
    prog: Program
    name: str
    activations: str
    target: str

    def fill(self, folder: Path, keep_inputs: bool) -> dict[str, Any]:
        """Writes the folder, checks the C code on the test set, and returns the report."""
        inputs = self._inputs()
        about = self._about()
        bundle.write(folder, self.name, self.prog, self.target, inputs[:VECTORS], about)
        computed_by, outputs = check.outputs(folder, self.prog, inputs)
        scores = self._scores(outputs)
        source = (folder / "src" / f"{self.name}.c").read_bytes()
        table = self.prog.table.astype("<u4")
        report = about | {
            "name": self.name,
            "target": self.target,
            "table_bytes": 4 * len(table),
            "model_sha256": hashlib.sha256(table.tobytes()).hexdigest(),
            "test_samples": len(inputs),
            "computed_by": computed_by,
            **scores,
            "input_crc32": zlib.crc32(inputs.tobytes()),
            "warnings": self.prog.warnings,
            "source_sha256": hashlib.sha256(source).hexdigest(),
        }
        _check_scores(report)
        if keep_inputs:
            (folder / "build").mkdir()
            np.savez(folder / WHOLE, inputs=inputs, outputs=outputs)
        replace(folder / "report.json", (to_json(report, indent=1) + "\n").encode())
        return report

    def _inputs(self) -> Any:
        """The whole test set as the firmware gets it: (B, input_len)."""
        raw, _ = self.data.splits["test"]
        takes_raw = self.activations == "u8" and source_of(self.data) is not None
        parts = []
        for part in raw.split(1000):
            prepared = self.data.prepare(part)
            parts.append(quantised(self.prog, part if takes_raw else None, prepared))
        return np.concatenate(parts)

    def _about(self) -> dict[str, Any]:
        """The entries of extras/model.json, and the first ones of the report."""
        prog = self.prog
        record = self.record
        return {
            "activations": self.activations,
            "arena_bytes": prog.arena_bytes,
            "layout": prog.layout,
            "layout_version": layout.VERSION,
            "rt_version": 1,
            "run_id": record.run_id,
            "sweep": record.sweep,
            "data": record.config["data"],
            "model": record.config["model"],
            "binarizer": record.config["binarizer"],
            "input_shape": list(prog.graph.shapes[0]),
            "input_scale": prog.input.scale,
            "input_offset": prog.input.offset,
            "output_scale": prog.output_scale,
            "table_crc32": emit.crc(prog.table),
            "producer": f"tbn_bench {__version__}",
            "layers": [_layer(op) for op in prog.ops],
        }

    def _scores(self, outputs: Any) -> dict[str, float]:
        """Accuracy of torch and of C, and the fraction of equal classes."""
        raw, labels = self.data.splits["test"]
        plain = convert.dense(self.model).eval()
        with torch.no_grad():
            parts = [plain(self.data.prepare(part)).argmax(1) for part in raw.split(1000)]
        expected = torch.cat(parts).numpy()
        found = outputs.argmax(1)
        y = labels.numpy()
        return {
            "top1_torch": float((expected == y).mean()),
            "top1_c": float((found == y).mean()),
            "agreement": float((found == expected).mean()),
        }


def _check_scores(report: dict[str, Any]) -> None:
    samples = report["test_samples"]
    one = 1.5 / samples  # of small test sets a sample may differ
    drop = report["top1_torch"] - report["top1_c"]
    is_worse = drop > max(MAX_DROP + 1e-9, one)
    if is_worse or report["agreement"] < min(MIN_AGREEMENT, 1 - one):
        raise McuError(
            f"the C code reaches {report['top1_c']:.2%} where torch reaches "
            f"{report['top1_torch']:.2%}, with the same class for {report['agreement']:.2%} of "
            f"{samples} test samples (allowed: a drop of {MAX_DROP:.1%}, at least "
            f"{MIN_AGREEMENT:.1%}); use --activations f32"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _layer(op: program.Op) -> dict[str, Any]:
    """One line of the size table."""
    node = op.node
    row: dict[str, Any] = {
        "name": node.name,
        "kind": node.kind,
        "outputs": node.rows,
        "inputs": node.columns,
        "stored": node.method,
    }
    if node.has_weights:
        row |= _weights_of(op)
    row |= {
        "weight_bytes": 4 * len(op.weights),
        "scale_bytes": 4 * len(op.scales),
        "bias_bytes": 0 if op.biases is None else 4 * len(op.biases),
    }
    return row


def _weights_of(op: program.Op) -> dict[str, Any]:
    """Multiply-adds, padding and reuse of a layer with weights."""
    node = op.node
    pixels = 1
    if node.window is not None:
        pixels = node.window.out[0] * node.window.out[1]
    if node.kind == "tiled":
        used_bytes = -(-node.q // 8)
        return {
            "p": node.p,
            "q": node.q,
            "g": node.segment,
            "plan": _plan(node),
            "macs": pixels * node.rows * node.columns,
            "distinct_macs": pixels * node.per_input * node.per_tile * node.segment,
            "padding_bytes": 4 * len(op.weights) - used_bytes,
        }
    weights = node.columns if node.kind == "depthwise" else node.rows * node.columns
    return {
        "p": 1,
        "plan": "full precision",
        "macs": pixels * weights,
        "distinct_macs": pixels * weights,
        "padding_bytes": 0,
    }


def _plan(node: graph.Node) -> str:
    if node.p == 1:
        return "untiled"
    return "aligned" if node.per_input == 1 else "segmented"


# key of a report's layer -> head of the column in the size table
_NAMES = {
    "name": "layer",
    "kind": "kind",
    "plan": "plan",
}
_FORM = {
    "p": "p",
    "g": "g",
}
_COUNTS = {
    "macs": "MACs",
    "distinct_macs": "distinct",
    "weight_bytes": "weights B",
    "padding_bytes": "padding B",
    "scale_bytes": "scales B",
    "bias_bytes": "biases B",
}


def show(report: dict[str, Any]) -> str:
    """The size table, a line per layer."""
    columns = _NAMES | _FORM | _COUNTS
    layers = report["layers"]
    lines = [list(columns.values())]
    for layer in layers:
        lines.append([_cell(layer.get(key, "—")) for key in columns])
    totals = []
    for key in _COUNTS:
        total = sum(layer.get(key, 0) for layer in layers)
        totals.append(f"{total:,}")
    lines.append(["total", "", "", "", "", *totals])
    tail = [
        f"tables {report['table_bytes']:,} bytes, arena {report['arena_bytes']:,} bytes, "
        f"layout {report['layout']}, activations {report['activations']}",
        f"test set ({report['test_samples']:,}, {report['computed_by']}): "
        f"top-1 {report['top1_c']:.2%}, torch {report['top1_torch']:.2%}, "
        f"same class {report['agreement']:.2%}",
        *(f"warning: {w}" for w in report["warnings"]),
    ]
    return "\n".join([aligned(lines, left=len(_NAMES)), *tail])


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
