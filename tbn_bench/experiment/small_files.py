"""tbn-bench pack: a run's packed network as a small file, and what its options cost.

Bytes are those of the written file. Outputs and scores are those of the network that is read from
it, by the native executor on the whole test set, and by numpy alone on its first samples.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.compiler.executor import Executor
from tbn_bench.config import RunConfig, make
from tbn_bench.convert.saved import small_artifact
from tbn_bench.experiment import build, scoring, verify
from tbn_bench.experiment.build import build_task
from tbn_bench.experiment.numpy_forward import NumpyForward
from tbn_bench.experiment.weights import trained
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import Artifact, ArtifactError
from tbn_bench.format.small import Small
from tbn_bench.records.files import write_atomic
from tbn_bench.records.provenance import provenance
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell

FOLDER = "small_files"
TOLERANCE = 1e-3  # of numpy's outputs, relative to the largest, against the native ones


@dataclass(frozen=True)
class Choice:
    """Options of a small file. small: None for the packed file as a run writes it."""

    name: str
    small: Small | None = None
    fold_norm: bool = False


EACH = (
    Choice("packed file"),
    Choice("constants", Small()),
    Choice("fold_norm", Small(), fold_norm=True),
    Choice("side float16", Small("float16")),
    Choice("side bfloat16", Small("bfloat16")),
    Choice("kept int8", Small(kept="int8")),
    Choice("short header", Small(short_header=True)),
    Choice("all, float16", Small("float16", "int8", True), fold_norm=True),
    Choice("all, bfloat16", Small("bfloat16", "int8", True), fold_norm=True),
)


@dataclass
class Measured:
    """One file. score: on the test set. bits_bytes: of the values of binary weights alone.

    largest_difference: of an output from that of the packed file, relative to the largest output.
    other_classes: samples whose largest output is another; None if the outputs are no classes.
    numpy_difference: of numpy's outputs from the native ones, relative, on `numpy_samples`.
    refused: why there is no such file; all numbers are 0 then.
    """

    name: str
    options: dict[str, Any] | None
    file_bytes: int = 0
    header_bytes: int = 0
    payload_bytes: int = 0
    bits_bytes: int = 0
    score: float = 0.0
    largest_difference: float = 0.0
    other_classes: int | None = None
    numpy_samples: int = 0
    numpy_difference: float = 0.0
    refused: str = ""


@dataclass
class _Case:
    """A file with the two ways to run it."""

    measured: Measured
    content: Artifact
    native: Executor
    metric: Any
    difference: float = 0.0
    others: int = 0
    has_classes: bool = field(default=False)


def pack(record: RunRecord, choice: Choice, out: Path, numpy_samples: int) -> dict[str, Any]:
    """Writes one small file and returns what was measured of it, and of the packed file.

    Raises ValueError where the file cannot be written or computes something else by numpy.
    """
    plain, small = measure(record, (EACH[0], choice), numpy_samples, out)
    tell(table([plain, small]))
    return {"run_id": record.run_id, "path": str(out), "before": asdict(plain)} | asdict(small)


def each(store: RunStore, record: RunRecord, numpy_samples: int, command: str) -> dict[str, Any]:
    """Measures every option alone and all together; writes results/small_files/SWEEP/RUN.json."""
    found = measure(record, EACH, numpy_samples)
    tell(table(found))
    path = store.root / FOLDER / record.sweep / f"{record.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "schema_version": 1,
        "run_id": record.run_id,
        "sweep": record.sweep,
        "binarizer": record.config["binarizer"],
        "model": record.config["model"],
        "files": [asdict(one) for one in found],
        "provenance": provenance(command, "cpu"),
    }
    write_atomic(path, content)
    return {"run_id": record.run_id, "path": str(path), "files": content["files"]}


def measure(
    record: RunRecord, choices: Sequence[Choice], numpy_samples: int, out: Path | None = None
) -> list[Measured]:
    """Each choice, written, read and run. The first one is what the others are compared with.

    out: where the last file stays. Without it, a choice that the network does not allow is measured
    as refused. Raises ArtifactError for such a choice otherwise, and where numpy and the native
    executor differ.
    """
    config = make(record.config)
    data = build.data_of(config)
    data.setup()
    model, content = _packed(record, config, data)
    x = data.first("test", 1)
    cases = []
    refused = []
    with tempfile.TemporaryDirectory(prefix="tbn-pack-") as folder:
        for choice in choices:
            path = Path(folder) / "network.safetensors"
            held = content
            try:
                if choice.small is not None:
                    held = small_artifact(model, content, choice.small, choice.fold_norm)
            except ArtifactError as error:
                if out is not None:
                    raise
                refused.append(Measured(choice.name, _said(choice), refused=str(error)))
                continue
            packed_file.write(path, held)
            cases.append(_case(choice, path, config, data, x))
            if out is not None and choice is choices[-1]:
                out.parent.mkdir(parents=True, exist_ok=True)
                packed_file.write(out, held)
    _run_all(cases, data)
    for case in cases:
        _run_numpy(case, config, data, numpy_samples)
    found = {case.measured.name: _finished(case) for case in cases}
    found |= {one.name: one for one in refused}
    return [found[choice.name] for choice in choices]


def _said(choice: Choice) -> dict[str, Any] | None:
    """The options, for the record."""
    if choice.small is None:
        return None
    return {"fold_norm": choice.fold_norm, **asdict(choice.small)}


def _packed(record: RunRecord, config: RunConfig, data: Any) -> tuple[nn.Module, Artifact]:
    """The packed network of a run, from its packed file or else from its checkpoint."""
    path = record.path / NETWORK
    if path.exists():
        content = packed_file.read(path)
        why = verify.wrong_file(content, config, record)
        if content.small is not None:
            why = "it is a small file already; train the run again for a file in float32"
        if why:
            raise ArtifactError(f"{path}: {why}")
        return convert.load_(verify.structure(config, data), content), content
    model = trained(record).model
    if any(hasattr(module, "parametrizations") for module in model.modules()):
        convert.pack_(model)
    commit = record.provenance.get("commit")
    return model, convert.to_artifact(model, config.non_defaults, commit)


def _case(choice: Choice, path: Path, config: RunConfig, data: Any, x: Tensor) -> _Case:
    content = packed_file.read(path)
    model = convert.load_(verify.structure(config, data), content)
    stored = content.stored_bytes()
    bits = 0
    for weight in content.weights.values():
        bits += stored[weight.tile]
        bits += stored[weight.names["codebook"]] if "codebook" in weight.names else 0
    measured = Measured(
        choice.name,
        _said(choice),
        path.stat().st_size,
        content.header_bytes,
        content.payload_bytes,
        bits,
    )
    task = build_task(config, data, model)
    executor = Executor(model, x, threads=torch.get_num_threads())
    return _Case(measured, content, executor, task.scores()[task.score])


def _run_all(cases: list[_Case], data: Any) -> None:
    """The whole test set through every network, batch by batch."""
    largest = 0.0
    first, *others = cases

    def call(x: Tensor) -> Tensor:
        nonlocal largest
        expected: Tensor = first.native(x)
        largest = max(largest, float(expected.abs().max()))
        for case in others:
            got = case.native(x)
            case.difference = max(case.difference, float((got - expected).abs().max()))
            if expected.ndim == 2:
                case.has_classes = True
                case.others += int((got.argmax(1) != expected.argmax(1)).sum())
            outputs.append(got)
        return expected

    outputs: list[Tensor] = []
    for expected, y in scoring.outputs(call, data):
        for case, got in zip(cases, [expected, *outputs], strict=True):
            case.metric.update(got, y)
        outputs.clear()
    for case in others:
        case.difference /= max(largest, 1e-30)


def _run_numpy(case: _Case, config: RunConfig, data: Any, samples: int) -> None:
    """The first samples by numpy. Raises ArtifactError where the native outputs differ."""
    forward = NumpyForward(verify.structure(config, data), case.content)
    x = data.first("test", min(samples, data.size("test")))
    expected = case.native(x).numpy()
    got = forward(x.numpy())
    difference = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"{case.measured.name}: numpy's outputs differ from the native ones by "
            f"{difference:.1e} of the largest (allowed {TOLERANCE:.0e}); please report this network"
        )
    case.measured.numpy_samples = len(x)
    case.measured.numpy_difference = difference


def _finished(case: _Case) -> Measured:
    found = case.measured
    found.score = float(case.metric.compute())
    found.largest_difference = case.difference
    if case.has_classes:
        found.other_classes = case.others
    return found


def table(rows: Sequence[Measured]) -> str:
    """The measurements as text."""
    head = f"{'file':<16}{'bytes':>10}{'/ bits':>8}{'score':>9}{'difference':>12}{'classes':>9}"
    lines = [head]
    for row in rows:
        if row.refused:
            lines.append(f"{row.name:<16}refused: {row.refused}")
            continue
        ratio = f"{row.file_bytes / row.bits_bytes:.3f}" if row.bits_bytes else ""
        others = "" if row.other_classes is None else str(row.other_classes)
        lines.append(
            f"{row.name:<16}{row.file_bytes:>10,}{ratio:>8}{row.score:>9.4f}"
            f"{row.largest_difference:>12.1e}{others:>9}"
        )
    return "\n".join(lines)
