"""tbn-bench export RUN --format c: a trained run as a C library, its whole test set computed by the C code before it is called done."""

import copy
import hashlib
import os
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench import __version__
from tbn_bench.experiment import build
from tbn_bench.layers import packed
from tbn_bench.mcu import bundle, check, emit, graph, layout, memory, program, reference
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.program import Program, Quant
from tbn_bench.records.store import RunRecord, replace, to_json
from tbn_bench.scores import FIRST, score_of

TARGETS = {
    "generic": "nat",
    "m4": "lane4",
    "m55": "nat",
    "avr": "nat",
}  # target -> order of the weight bits
CALIBRATION = 512  # training samples whose ranges set the scales
VECTORS = 4
WHOLE = (
    "build/test_set.npz"  # in the folder: inputs and outputs of the whole test set, for simulators
)
GRAPH_TOLERANCE = 1e-4  # of the largest output, float64 against torch's float32
MAX_DROP, MIN_AGREEMENT = 0.002, 0.995  # of top-1 as a fraction; of equal classes


def compile_(
    model: nn.Module, x: Tensor, activations: str, target: str, source: Quant | None = None
) -> Program:
    """model: trained, of any binary method or full precision; x: calibration inputs (B, *in_shape). The C program, placed in its arena.

    Raises McuError for what cannot run, or a choice that does not exist.
    """
    if target not in TARGETS:
        raise McuError(f"--target must be one of {', '.join(TARGETS)}, got {target!r}")
    small = copy.deepcopy(model).eval()
    if any(hasattr(m, "parametrizations") for m in small.modules()):
        packed.pack_(small)
    network = graph.trace(small, tuple(x.shape[1:]))
    _check_graph(network, model, x)
    form = TARGETS[target] if activations == "u8" else "nat"
    prog = program.build(network, activations, form, maps(x.numpy(), network), source)
    memory.plan(prog)
    _check_sizes(prog)
    prog.warnings += _warnings(prog)
    return prog


def _check_graph(network: graph.Graph, model: nn.Module, x: Tensor) -> None:
    """The graph that was read must be the network: in float64 it gives torch's outputs."""
    with torch.no_grad():
        y = packed.dense(model).eval()(x[:64].clone())  # the network may change it in place
    expected = (y.permute(0, 2, 3, 1) if y.dim() == 4 else y).reshape(len(y), -1).numpy()
    found = reference.forward(network, maps(x[:64].numpy(), network))[network.output].reshape(
        expected.shape
    )
    error = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-30))
    if not error <= GRAPH_TOLERANCE:
        raise McuError(
            f"the graph read from the network differs from it by {error:.1e} of the largest output (allowed {GRAPH_TOLERANCE:.0e}): it does "
            "something that is not seen, e.g. changes a value in place; please report this network"
        )


def maps(x: Any, network: graph.Graph) -> Any:
    """(B, C, H, W), (B, C, L) or (B, N) -> (B, h, w, c)."""
    h, w, c = network.shapes[0]
    return np.ascontiguousarray(x.reshape(len(x), c, h, w).transpose(0, 2, 3, 1))


def _check_sizes(prog: Program) -> None:
    for op in prog.ops:
        node = op.node
        sizes = [node.columns, node.rows if node.kind != "add" else 0] + (
            [node.per_input, node.per_tile] if node.kind == "tiled" else []
        )
        if node.window is not None:
            sizes += [
                *node.window.shape,
                *node.window.kernel,
                *node.window.out,
                op.out_bytes // max(1, node.window.out[0] * node.window.out[1]),
            ]
        if max(sizes) > 65_535:
            raise McuError(
                f"{node.name}: a size of {max(sizes):,} is more than 65,535; this is no network for a microcontroller"
            )


def _warnings(prog: Program) -> list[str]:
    found = []
    for op in prog.ops:
        node = op.node
        if (
            node.kind == "tiled"
            and node.p > 1
            and (node.segment < 16 or 4 * node.per_input * node.per_tile > 8192)
        ):
            better = [p for p in range(1, node.p + 1) if node.rows % p == 0]
            found.append(
                f"{node.name}: rows of {node.columns} and tiles of {node.q} share segments of {node.segment} only: "
                f"{4 * node.per_input * node.per_tile:,} bytes of RAM for their sums, padded words; p = {better[-1]} would divide its {node.rows} rows"
            )
        if node.has_weights and node.method.startswith("expanded"):
            found.append(
                f"{node.name}: {node.method}; stored as {'bytes' if prog.activations == 'u8' else 'floats'}"
            )
    return found


def source_of(data: Any) -> Quant | None:
    """How raw bytes stand for inputs: images of one channel are normalised by (u / 255 - mean) / std. None where the firmware has to."""
    raw, _ = data.splits["test"]
    mean, std = getattr(data, "mean", ()), getattr(data, "std", ())
    if raw.dtype != torch.uint8 or len(mean) != 1 or len(std) != 1:
        return None
    return Quant(1 / (255 * std[0]), 255 * mean[0])


def quantised(prog: Program, raw: Any, prepared: Any) -> Any:
    """Inputs as the firmware gives them: (B, input_len) uint8 or float32. raw: as the data set has them, prepared: as the model sees them."""
    if prog.activations == "f32":
        return maps(prepared.numpy(), prog.graph).reshape(len(prepared), -1).astype(np.float32)
    if raw is not None:
        return maps(raw.numpy(), prog.graph).reshape(len(raw), -1)
    u = np.round(prepared.numpy() / prog.input.scale + prog.input.offset)
    return maps(np.clip(u, 0, 255).astype(np.uint8), prog.graph).reshape(len(prepared), -1)


def c_name(text: str) -> str:
    """A valid C identifier that clashes with nothing of the runtime."""
    name = re.sub(r"\W+", "_", text.lower(), flags=re.ASCII).strip("_")
    return (
        f"net_{name}"
        if not name or name[0].isdigit() or name.startswith("tbn") or name in _C_WORDS
        else name
    )


_C_WORDS = {
    "auto", "break", "case", "char", "class", "const", "continue", "default", "delete", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "main", "new", "register", "restrict", "return", "short", "signed", "sizeof", "static",
    "struct", "switch", "this", "typedef", "union", "unsigned", "void", "volatile", "while",
}  # fmt: skip


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

    The test set runs through the C code, compiled for this machine where there is a compiler, else through the bit-exact emulation of it.
    Raises McuError for a run that is no classifier or whose network C cannot run, and where the C code loses more than 0.2 points of
    accuracy or gives another class than torch for more than 0.5 % of the samples: the folder is then removed. keep_inputs: the test set
    lies in FOLDER/build too, for mcu run.
    """
    if record.summary is None or score_of(record.summary) != FIRST:
        raise McuError(
            f"run {record.run_id} is no finished classifier; C libraries are made of classifiers"
        )
    data, model, _ = build.trained(record)
    data.setup()
    prog = compile_(
        model,
        data.first("train", min(CALIBRATION, data.size("train"))),
        activations,
        target,
        source_of(data),
    )
    name = c_name(name or f"{record.config['data'].split('(')[0]}_{record.run_id[:6]}")
    folder = out or Path(name)
    if (
        folder.exists()
        and not (folder / "extras" / "model.json").exists()
        and any(folder.iterdir())
    ):
        raise McuError(f"{folder} exists and is no exported library; choose another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
    try:
        report = _fill(temporary, record, data, model, prog, name, activations, target, keep_inputs)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    report["path"] = str(folder)
    if amalgamated:
        report["single"] = str(folder.parent / f"{name}_single.h")
        replace(Path(report["single"]), emit.single(name, prog).encode())
    if zipped:
        report["zip"] = shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    return report


def _fill(
    folder: Path,
    record: RunRecord,
    data: Any,
    model: nn.Module,
    prog: Program,
    name: str,
    activations: str,
    target: str,
    keep_inputs: bool,
) -> dict[str, Any]:
    raw, labels = data.splits["test"]
    exact = source_of(data) is not None and activations == "u8"
    u = np.concatenate(
        [quantised(prog, part if exact else None, data.prepare(part)) for part in raw.split(1000)]
    )
    about = {
        "activations": activations, "arena_bytes": prog.arena_bytes, "layout": prog.layout, "layout_version": layout.VERSION,
        "rt_version": 1, "run_id": record.run_id, "sweep": record.sweep, "data": record.config["data"], "model": record.config["model"],
        "binarizer": record.config["binarizer"], "input_shape": list(prog.graph.shapes[0]), "input_scale": prog.input.scale,
        "input_offset": prog.input.offset, "output_scale": prog.output_scale, "table_crc32": emit.crc(prog.table),
        "producer": f"tbn_bench {__version__}", "layers": [_layer(op) for op in prog.ops],
    }  # fmt: skip
    bundle.write(folder, name, prog, target, u[:VECTORS], about)
    with torch.no_grad():
        plain = packed.dense(model).eval()
        torch_class = torch.cat(
            [plain(data.prepare(part)).argmax(1) for part in raw.split(1000)]
        ).numpy()
    by, outputs = check.outputs(folder, prog, u)
    found = outputs.argmax(1)
    y = labels.numpy()
    report = about | {
        "name": name, "target": target, "table_bytes": 4 * len(prog.table), "model_sha256": hashlib.sha256(prog.table.astype("<u4").tobytes()).hexdigest(),
        "test_samples": len(y), "computed_by": by, "top1_torch": float((torch_class == y).mean()), "top1_c": float((found == y).mean()),
        "agreement": float((found == torch_class).mean()), "input_crc32": zlib.crc32(u.tobytes()), "warnings": prog.warnings,
        "source_sha256": hashlib.sha256((folder / "src" / f"{name}.c").read_bytes()).hexdigest(),
    }  # fmt: skip
    one = 1.5 / len(y)  # of small test sets a sample may differ
    if report["top1_torch"] - report["top1_c"] > max(MAX_DROP + 1e-9, one) or report[
        "agreement"
    ] < min(MIN_AGREEMENT, 1 - one):
        raise McuError(
            f"the C code reaches {report['top1_c']:.2%} where torch reaches {report['top1_torch']:.2%}, with the same class for "
            f"{report['agreement']:.2%} of {len(y)} test samples (allowed: a drop of {MAX_DROP:.1%}, at least {MIN_AGREEMENT:.1%}); use --activations f32"
        )
    if keep_inputs:
        (folder / "build").mkdir()
        np.savez(folder / WHOLE, inputs=u, outputs=outputs)
    replace(folder / "report.json", (to_json(report, indent=1) + "\n").encode())
    return report


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
    pixels = 1 if node.window is None else node.window.out[0] * node.window.out[1]
    if node.kind == "tiled":
        plan = "untiled" if node.p == 1 else "aligned" if node.per_input == 1 else "segmented"
        row |= {
            "p": node.p, "q": node.q, "g": node.segment, "plan": plan, "macs": pixels * node.rows * node.columns,
            "distinct_macs": pixels * node.per_input * node.per_tile * node.segment,
            "padding_bytes": 4 * len(op.weights) - -(-node.q // 8),
        }  # fmt: skip
    elif node.has_weights:
        macs = pixels * (node.columns if node.kind == "depthwise" else node.rows * node.columns)
        row |= {
            "p": 1,
            "plan": "full precision",
            "macs": macs,
            "distinct_macs": macs,
            "padding_bytes": 0,
        }
    sizes = {
        "weight_bytes": 4 * len(op.weights),
        "scale_bytes": 4 * len(op.scales),
        "bias_bytes": 0 if op.biases is None else 4 * len(op.biases),
    }
    return row | sizes


def show(report: dict[str, Any]) -> str:
    """The size table, a line per layer."""
    head = (
        "layer",
        "kind",
        "plan",
        "p",
        "g",
        "MACs",
        "distinct",
        "weights B",
        "padding B",
        "scales B",
        "biases B",
    )
    keys = (
        "name",
        "kind",
        "plan",
        "p",
        "g",
        "macs",
        "distinct_macs",
        "weight_bytes",
        "padding_bytes",
        "scale_bytes",
        "bias_bytes",
    )
    lines = [head] + [
        tuple(f"{v:,}" if isinstance(v := row.get(k, "—"), int) else str(v) for k in keys)
        for row in report["layers"]
    ]
    total = {k: sum(row.get(k, 0) for row in report["layers"]) for k in keys[5:]}
    lines.append(("total", "", "", "", "", *(f"{total[k]:,}" for k in keys[5:])))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = "\n".join(
        "  ".join(
            v.ljust(w) if i < 3 else v.rjust(w)
            for i, (v, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
    tail = [
        f"tables {report['table_bytes']:,} bytes, arena {report['arena_bytes']:,} bytes, layout {report['layout']}, activations {report['activations']}",
        f"test set ({report['test_samples']:,}, {report['computed_by']}): top-1 {report['top1_c']:.2%}, torch {report['top1_torch']:.2%}, "
        f"same class {report['agreement']:.2%}",
        *(f"warning: {w}" for w in report["warnings"]),
    ]
    return "\n".join([text, *tail])
