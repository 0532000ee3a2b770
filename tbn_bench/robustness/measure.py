"""The accuracy of stored networks under faults and corruptions, natively, as records.

Each draw of a fault is tested on a block of the test set, the next draw on the next block. The
drop of a draw is the accuracy on its block without the fault less that with it, so that the
choice of samples cancels. Its mean has Student's 95 % interval over the draws; that of a
corruption has it over the test samples.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from tbn_bench import convert
from tbn_bench.compiler.executor import Executor
from tbn_bench.config import make
from tbn_bench.convert import saved
from tbn_bench.experiment import build, claims, verify, weights
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import Artifact
from tbn_bench.records import robustness
from tbn_bench.records.provenance import provenance
from tbn_bench.records.robustness import RobustnessRecord
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.robustness import corruptions, faults
from tbn_bench.robustness.faults import Faulty, Stored
from tbn_bench.robustness.hamming import Hamming
from tbn_bench.scores import FIRST

RATES = (1e-5, 1e-4, 1e-3, 1e-2)
CORRUPTIONS = "corruptions"
KINDS = (*faults.KINDS, CORRUPTIONS)
CONFIDENCE = 0.95

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """samples: test samples per draw; None: so many that all draws see each sample once.

    images: the first test samples, which are corrupted; None: all. kinds: of KINDS. block: data
    bits of a Hamming code's block; None: no code. seed: of the draws and of noise. again: also
    runs that have a record.
    """

    draws: int = 200
    samples: int | None = None
    images: int | None = None
    rates: tuple[float, ...] = RATES
    kinds: tuple[str, ...] = KINDS
    block: int | None = None
    seed: int = 0
    threads: int = 1
    again: bool = False
    command: str = ""

    def check(self) -> None:
        """Raises ValueError for rates, kinds and numbers that mean nothing."""
        wrong = [rate for rate in self.rates if not 0 < rate < 1]
        if wrong or not self.rates:
            raise ValueError(f"--rates are probabilities between 0 and 1, got {wrong or 'none'}")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            known = ", ".join(KINDS)
            raise ValueError(f"--faults are {known}, got {', '.join(unknown) or 'none'}")
        if self.block is not None and "bits" not in self.kinds:
            raise ValueError("--code protects stored bits; add bits to --faults")


def run(store: RunStore, names: Sequence[str], options: Options) -> dict[str, Any]:
    """Writes a record for each finished run that the names mean, and prints a line per condition.

    Names are as those of runs verify --scores. Raises ValueError where a run was named alone and
    cannot be measured.
    """
    options.check()
    written: list[str] = []
    kept: list[str] = []
    failed: list[str] = []
    for name in names:
        found = verify.chosen(store, [name])
        for record in found:
            label = f"{record.sweep}/{record.run_id}"
            path = robustness.path_of(store.root, record.sweep, record.run_id)
            if path.exists() and not options.again:
                kept.append(str(path))
                tell(f"{path}: kept; measure it again with --again")
                continue
            try:
                measured = measure(record, options)
            except ValueError as error:
                if len(found) == 1:
                    raise
                failed.append(label)
                tell(f"{label}: left out: {error}")
                continue
            robustness.write(store.root, measured)
            written.append(str(path))
    tell(f"{len(written)} records written, {len(kept)} kept, {len(failed)} runs left out")
    return {"written": written, "kept": kept, "failed": failed}


def measure(record: RunRecord, options: Options) -> RobustnessRecord:
    """One run under all conditions. Raises ValueError where it has no network or no classes."""
    source = provenance(options.command, threads=options.threads)
    bench = _Bench(record, options)
    label = f"{record.sweep}/{record.run_id}"
    tell(f"{label}: {bench.config.binarizer}, top-1 {100 * bench.clean.mean():.2f} %")
    rows = []
    for row in _rows(bench, options):
        rows.append(row)
        tell(f"{label}: {_said(row)}")
    return RobustnessRecord(record.sweep, record.run_id, rows, bench.info(), source)


def _said(row: Row) -> str:
    level = f"severity {row['severity']}" if row["rate"] is None else f"rate {row['rate']:g}"
    name = row["fault"] if row["code"] is None else f"{row['fault']} with {row['code']}"
    half = "" if row["low"] is None else f" +- {50 * (row['high'] - row['low']):.2f}"
    return f"{name}, {level}: top-1 {100 * row['top1']:.2f}{half} %"


class _Bench:
    """A run's stored network, its test set, and which samples it gets right without faults."""

    def __init__(self, record: RunRecord, options: Options):
        self.record = record
        self.options = options
        self.config = make(record.config)
        self.stored = _stored(record)
        self.code = None if options.block is None else Hamming(options.block)
        self.data = build.data_of(self.config)
        self.data.setup()
        self.structure = verify.structure(self.config, self.data)
        self.x, self.y = _test_set(self.data)
        self.clean = self.right(self.stored.content, self.x, self.y)
        plan = (record.summary or {}).get("plan") or []
        self.sizes = claims.sizes_of(self.stored.content, plan)

    def right(self, content: Artifact, x: Tensor, y: Tensor) -> NDArray[np.bool_]:
        """(B,) whether each sample gets its class. An output that is not finite is wrong."""
        model = convert.load(self.structure, content)
        with np.errstate(over="ignore", invalid="ignore"):  # a flipped scale may be huge
            call = Executor(model, self.data.first("test", 1), threads=self.options.threads)
        found = []
        size = self.data.eval_batch_size
        for start in range(0, len(y), size):
            batch = slice(start, start + size)
            outputs = call(self.data.prepare(x[batch]))
            is_finite = outputs.isfinite().all(dim=1)
            found.append((outputs.argmax(dim=1) == y[batch]) & is_finite)
        return torch.cat(found).numpy()

    def samples(self) -> int:
        """Per draw."""
        most = len(self.y)
        asked = self.options.samples
        if asked is None:
            return -(-most // self.options.draws)
        return min(asked, most)

    def info(self) -> dict[str, Any]:
        code = self.code
        return {
            "data": self.config.data,
            "model": self.config.model,
            "binarizer": self.config.binarizer,
            "seed": self.config.seed,
            "top1": float(self.clean.mean()),
            "test_samples": len(self.y),
            "draw_seed": self.options.seed,
            "weights": self.sizes.weights,
            "bits_per_weight": self.sizes.bits_per_weight,
            "fault_bits": sum(self.stored.sizes("bits").values()),
            "scale_bits": sum(self.stored.sizes("scales").values()),
            "check_bits": None if code is None else self.stored.check_bits(code),
            "code": None if code is None else "hamming",
            "block": self.options.block,
            "confidence": CONFIDENCE,
        }


def _stored(record: RunRecord) -> Stored:
    """By the packed file, or by the checkpoint of a network in full precision.

    Raises ValueError where the run has neither.
    """
    path = record.path / NETWORK
    if path.exists():
        return Stored(packed_file.read(path))
    if record.config.get("binarizer") != "full_precision":
        raise ValueError(f"{path} is missing; train it again with --restart")
    model = weights.trained(record).model
    plan = (record.summary or {}).get("plan") or []
    floats = [row["name"] for row in plan if row["reason"] != "kept"]
    return Stored(saved.to_artifact(model), tuple(floats))


def _test_set(data: Any) -> tuple[Tensor, Tensor]:
    """(x, y) of all test samples. Raises ValueError unless each has one class."""
    xs = []
    ys = []
    for x, y in data.test_dataloader():
        xs.append(x)
        ys.append(y)
    labels = torch.cat(ys)
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            "robustness counts samples that get the right class; "
            f"the labels of this data set have shape {tuple(labels.shape[1:])} per sample"
        )
    return torch.cat(xs), labels


def _rows(bench: _Bench, options: Options) -> Iterator[Row]:
    for kind in options.kinds:
        if kind == CORRUPTIONS:
            yield from _corruption_rows(bench)
            continue
        has_bits = kind == "weights" or bench.stored.sizes(kind)
        if not has_bits:
            tell(f"left out: the network has no {kind} that can be flipped")
            continue
        for rate in options.rates:
            yield _fault_row(bench, kind, rate, None)
        if kind == "bits" and bench.code is not None:
            for rate in options.rates:
                yield _fault_row(bench, kind, rate, bench.code)


def _fault_row(bench: _Bench, kind: str, rate: float, code: Hamming | None) -> Row:
    """All draws of one fault at one rate."""
    size = bench.samples()
    drops = []
    flips = []
    wrong = []
    unchanged = 0
    for draw in range(bench.options.draws):
        rng = _generator(bench.options.seed, kind, rate, code, draw)
        faulty = bench.stored.faulty(kind, rate, rng, code)
        flips.append(faulty.flips)
        if _is_same(faulty, bench.stored):
            unchanged += 1
            drops.append(0.0)
            if kind != "scales":
                wrong.append(0.0)
            continue
        block = (draw * size + np.arange(size)) % len(bench.y)
        found = bench.right(faulty.content, bench.x[block], bench.y[block])
        drops.append(float(bench.clean[block].mean() - found.mean()))
        if kind != "scales":
            wrong.append(_wrong_signs(bench.stored, faulty))
    added = 0 if code is None else bench.stored.check_bits(code)
    per_weight = bench.sizes.bits_per_weight + added / max(1, bench.sizes.weights)
    return _row(bench, kind, drops) | {
        "rate": rate,
        "code": None if code is None else "hamming",
        "draws": bench.options.draws,
        "samples": size,
        "flips": float(np.mean(flips)),
        "wrong_signs": float(np.mean(wrong)) if wrong else None,
        "unchanged": unchanged,
        "bits_per_weight": per_weight,
    }


def _generator(
    seed: int, kind: str, rate: float, code: Hamming | None, draw: int
) -> np.random.Generator:
    """Each draw has its own, so that it is the same whatever else is measured."""
    block = 0 if code is None else code.block
    condition = zlib.crc32(f"{kind} {rate!r} {block}".encode())
    return np.random.default_rng([seed, condition, draw])


def _is_same(faulty: Faulty, stored: Stored) -> bool:
    """Whether every value is read as it was written: nothing was flipped, or all was corrected."""
    if not faulty.flips:
        return True
    right = stored.content.tensors
    found = faulty.content.tensors
    if found.keys() != right.keys():
        return False
    return all(found[name].tobytes() == value.tobytes() for name, value in right.items())


def _wrong_signs(stored: Stored, faulty: Faulty) -> float:
    content = faulty.content
    found = {name: content.tensors[name] for name in stored.dense if name in content.tensors}
    return faults.share_of_wrong_signs(stored.dense, found | content.unmoved())


def _corruption_rows(bench: _Bench) -> Iterator[Row]:
    fault = corruptions.not_images(bench.x)
    if fault:
        tell(f"left out: {fault}")
        return
    first = slice(bench.options.images)
    clean = bench.clean[first].astype(float)
    for kind in corruptions.KINDS:
        for severity in corruptions.SEVERITIES:
            x = corruptions.corrupted(bench.x[first], kind, severity, bench.options.seed)
            drops = clean - bench.right(bench.stored.content, x, bench.y[first])
            yield _row(bench, kind, drops) | {
                "severity": severity,
                "samples": len(drops),
                "bits_per_weight": bench.sizes.bits_per_weight,
            }


def _row(bench: _Bench, fault: str, drops: Sequence[float] | NDArray[np.float64]) -> Row:
    """What every row has. drops: of each draw, or of each sample."""
    x = np.asarray(drops, dtype=float)
    drop = float(x.mean())
    top1 = float(bench.clean.mean()) - drop
    half = None
    if x.size > 1:  # as reporting.stats.t_interval, which may not be imported from here
        quantile = stdtrit(x.size - 1, (1 + CONFIDENCE) / 2)
        half = float(quantile * x.std(ddof=1) / np.sqrt(x.size))
    return {
        "fault": fault,
        "rate": None,
        "severity": None,
        "code": None,
        FIRST: top1,
        "drop": drop,
        "low": None if half is None else top1 - half,
        "high": None if half is None else top1 + half,
    }
