"""tbn-bench export RUN --format c: a trained run as a C library.

The C code computes the whole test set before an export succeeds.
"""

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
from torch import nn

from tbn_bench import __version__, convert
from tbn_bench.experiment.weights import trained_or_packed
from tbn_bench.mcu import bundle, check, emit, layout
from tbn_bench.mcu.compile import compile_, quantised, source_of
from tbn_bench.mcu.graph import McuError
from tbn_bench.mcu.program import Program
from tbn_bench.mcu.size_table import layer_row
from tbn_bench.records.files import replace, to_json
from tbn_bench.records.run import RunRecord
from tbn_bench.scores import FIRST, score_of

CALIBRATION = 512  # training samples whose ranges set the scales
VECTORS = 4
# in the folder: inputs and outputs of the whole test set, for simulators
WHOLE = "build/test_set.npz"
MAX_DROP = 0.002  # of top-1, a fraction
MIN_AGREEMENT = 0.995  # fraction of samples with the same class


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
    samples: int | None = None,
) -> dict[str, Any]:
    """Writes the folder of one trained run and returns its report (also FOLDER/report.json).

    The test set runs through the C code, compiled for this machine. Without a compiler it runs
    through the bit-exact emulation. keep_inputs: FOLDER/build gets the test set too, for mcu run.
    samples: only the first ones of the test set; None: all.

    Raises McuError for a run that is no classifier or whose network C cannot run. Raises McuError
    too, and removes the folder, where the C code loses more than 0.2 points of accuracy or gives
    another class than torch for more than 0.5 % of the samples.
    """
    job = prepare(record, activations, target, name, samples)
    folder = out or Path(job.name)
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    report = job.write(folder, keep_inputs)
    report["path"] = str(folder)
    if amalgamated:
        single = folder.parent / f"{job.name}_single.h"
        report["single"] = str(single)
        text = emit.single(job.name, job.prog)
        replace(single, text.encode())
    if zipped:
        report["zip"] = shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    return report


def prepare(
    record: RunRecord,
    activations: str,
    target: str,
    name: str | None,
    samples: int | None = None,
) -> "Export":
    """The run with its C program. Raises McuError."""
    if record.summary is None or score_of(record.summary) != FIRST:
        raise McuError(
            f"run {record.run_id} is no finished classifier; C libraries are made of classifiers"
        )
    data, model = trained_or_packed(record)
    data.setup()
    most = min(CALIBRATION, data.size("train"))
    calibration = data.first("train", most)
    prog = compile_(model, calibration, activations, target, source_of(data))
    data_name, *_ = record.config["data"].split("(")
    own_name = c_name(name or f"{data_name}_{record.run_id[:6]}")
    return Export(record, data, model, prog, own_name, activations, target, samples)


def _check_replaceable(folder: Path) -> None:
    """A folder that is no export, and not empty, is never removed."""
    model = folder / "extras" / "model.json"
    if not folder.exists() or model.exists():
        return
    if any(folder.iterdir()):
        raise McuError(f"{folder} exists and is no exported library; choose another --out")


@dataclass(frozen=True)
class Export:
    """One run with its program. samples: of the test set that are computed; None: all."""

    record: RunRecord
    data: Any
    model: nn.Module
    prog: Program
    name: str
    activations: str
    target: str
    samples: int | None = None

    def write(self, folder: Path, keep_inputs: bool) -> dict[str, Any]:
        """Writes the folder, whole or not at all, and returns the report."""
        made = tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
        temporary = Path(made)
        temporary.chmod(0o777 & ~_umask())  # mkdtemp's is for its owner alone
        try:
            report = self._fill(temporary, keep_inputs)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return report

    def _fill(self, folder: Path, keep_inputs: bool) -> dict[str, Any]:
        """Writes the folder, checks the C code on the test set, and returns the report."""
        inputs = self._inputs()
        about = self._about()
        vectors = inputs[:VECTORS]
        bundle.write(folder, self.name, self.prog, self.target, vectors, about)
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
        text = to_json(report, indent=1) + "\n"
        replace(folder / "report.json", text.encode())
        return report

    def _inputs(self) -> Any:
        """The test set as the firmware gets it: (B, input_len)."""
        raw, _ = self._test()
        takes_raw = self.activations == "u8" and source_of(self.data) is not None
        parts = []
        for part in raw.split(1000):
            prepared = self.data.prepare(part)
            own = part if takes_raw else None
            parts.append(quantised(self.prog, own, prepared))
        return np.concatenate(parts)

    def _test(self) -> tuple[Any, Any]:
        raw, labels = self.data.splits["test"]
        return raw[: self.samples], labels[: self.samples]

    def _about(self) -> dict[str, Any]:
        """The entries of extras/model.json, and the first ones of the report."""
        prog = self.prog
        record = self.record
        return {
            "activations": self.activations,
            "arena_bytes": prog.arena_bytes,
            "layout": prog.bit_order,
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
            "layers": [layer_row(op) for op in prog.ops],
        }

    def _scores(self, outputs: Any) -> dict[str, float]:
        """Accuracy of torch and of C, and the fraction of equal classes."""
        raw, labels = self._test()
        y = labels.numpy()
        expected = self._torch_classes(raw)
        found = outputs.argmax(1)
        return {
            "top1_torch": _share_of_equal(expected, y),
            "top1_c": _share_of_equal(found, y),
            "agreement": _share_of_equal(found, expected),
        }

    def _torch_classes(self, raw: Any) -> Any:
        """The class that torch gives each sample: (B,)."""
        plain = convert.dense(self.model).eval()
        classes = []
        with torch.no_grad():
            for part in raw.split(1000):
                prepared = self.data.prepare(part)
                scores = plain(prepared)
                classes.append(scores.argmax(1))

        return torch.cat(classes).numpy()


def _share_of_equal(a: Any, b: Any) -> float:
    equal = a == b
    return float(equal.mean())


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
