"""This version of the packed executor compared with an older one, in one run.

Both versions are built alike, by their own CMakeLists.txt, and run in processes of their own. The
older one packs each network, and both load that packed file. Outputs are compared first. Then a
block of calls is timed in one process after the other, in random order per round. A ratio is the
median over rounds of (old time / new time): above 1, this version is faster.

A sitting makes both executors again. Their memory then lies elsewhere, so that its place, which
alone may cost a few percent, is averaged too.
"""

import math
import random
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbn_bench.config import RunConfig
from tbn_bench.experiment import build
from tbn_bench.latency import ops, versions
from tbn_bench.latency.gate import ParityError, relative_error
from tbn_bench.latency.sampling import MAX_WAIT, RETRIES, clock_for, repeats_of
from tbn_bench.latency.timing import device_name, prepare, slug
from tbn_bench.latency.variants import PRECISIONS
from tbn_bench.latency.versions import Worker
from tbn_bench.records.provenance import provenance
from tbn_bench.records.store import RunStore, VersionsRecord
from tbn_bench.records.text import tell

SITTINGS = 5
ROUNDS = 5  # of a sitting
LONG_MS = 50.0
LONG_ROUNDS = 3  # of a sitting where a call takes longer than LONG_MS
CONFIDENCE = 0.99  # of an interval: a suite has dozens of rows
FULL_PRECISION = "full_precision"


@dataclass(frozen=True)
class Network:
    """A network that both versions can build. request: as version_worker.py takes it.

    in_shape: of one input.
    """

    model: str
    binarizer: str
    in_shape: tuple[int, ...]
    request: dict[str, Any]

    @property
    def precisions(self) -> list[str]:
        """A full-precision network has no signs, so it runs in float32 only."""
        return ["f32"] if self.binarizer == FULL_PRECISION else list(PRECISIONS)


@dataclass(frozen=True)
class Row:
    """One network at one batch size and precision. Times are medians, in milliseconds.

    ratio: old time / new time, with its interval. n: rounds. unavailable: why it was not timed.
    """

    model: str
    binarizer: str
    precision: str
    batch: int
    old_ms: float | None = None
    new_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    n: int = 0
    verdict: str | None = None
    relative_error: float | None = None
    old_level: str | None = None
    new_level: str | None = None
    unavailable: str | None = None


def of_suite(name: str, folder: Path) -> list[Network]:
    """The single layers of an op-level suite. Their weights are written into `folder`."""
    found = []
    for case, (layer, in_shape) in ops.CASES[name].items():
        torch.manual_seed(0)
        path = folder / f"{case}.pt"
        torch.save(torch.nn.Sequential(layer()), path)
        for spec in ops.SPECS:
            request = _request(spec, (), 0) | {"layer": str(path)}
            found.append(Network(case, spec, in_shape, request))
    return found


def of_configs(configs: Iterable[RunConfig]) -> list[Network]:
    """The networks of configs, each once, with the weights of its lowest seed. No file is read."""
    found: dict[tuple[Any, ...], Network] = {}
    for config in sorted(configs, key=_seed):
        key = (config.data, config.model, config.binarizer, config.keep)
        if key not in found:
            found[key] = _of_config(config)
    return list(found.values())


def _seed(config: RunConfig) -> int:
    return config.seed


def _of_config(config: RunConfig) -> Network:
    plain = config.model_copy(update={"binarizer": FULL_PRECISION})
    data = build.data_of(plain)
    given = {}
    for name, value in build.offered(data).items():
        if isinstance(value, int | str) or _is_numbers(value):
            given[name] = value
    request = _request(config.binarizer, config.keep, config.seed)
    request |= {"model": config.model, "given": given, "in_shape": list(data.in_shape)}
    rows = build.sketch(config).plan.rows
    request["binarizes_inputs"] = any(row.activation_bits == 1 for row in rows)
    return Network(config.model, config.binarizer, tuple(data.in_shape), request)


def _is_numbers(value: Any) -> bool:
    is_list = isinstance(value, list | tuple)
    return is_list and all(isinstance(number, int) for number in value)


def _request(binarizer: str, keep: Iterable[str], seed: int) -> dict[str, Any]:
    return {
        "binarizer": binarizer,
        "keep": list(keep),
        "seed": seed,
        "binarizes_inputs": False,
    }


def median_interval(values: list[float]) -> tuple[float, float] | None:
    """An interval that holds the median of the values' distribution with CONFIDENCE.

    It assumes no shape of the distribution: the number of values below the median is binomial, so
    the interval ends at the r-th smallest and the r-th largest value. None for too few values.
    """
    n = len(values)
    rank = 0
    below = 0.5**n  # P(at most `rank` values are below the median)
    while below <= (1 - CONFIDENCE) / 2:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[n - rank]


def verdict(low: float, high: float) -> str:
    """What an interval of (old time / new time) says of this version."""
    if high < 1:
        return "slower"
    if low > 1:
        return "faster"
    return "no difference shown"


@dataclass
class _Pair:
    """The two workers, a folder for their files, and the random order of rounds."""

    old: Worker
    new: Worker
    folder: Path
    threads: int
    random: random.Random

    def load(self, network: Network, x: NDArray[np.float32]) -> None:
        """The old version packs the network, and both load the packed file and the input."""
        path = str(self.folder / "network.safetensors")
        inputs = self.folder / "x.npy"
        np.save(inputs, x)
        self.old.ask("save", network=network.request, path=path)
        for worker in (self.old, self.new):
            worker.ask("load", network=network.request, path=path, x=str(inputs))

    def open(self, precision: str) -> dict[str, Any]:
        """Makes both executors and compares their outputs.

        Returns levels and error, or {"unavailable": why}. Raises ParityError if they differ.
        """
        outputs = []
        levels = []
        for worker in (self.old, self.new):
            out = self.folder / "out.npy"
            opened = worker.ask("open", precision=precision, out=str(out))
            if "unavailable" in opened:
                return {"unavailable": f"{worker.version.name}: {opened['unavailable']}"}
            outputs.append(torch.from_numpy(np.load(out)))
            levels.append(opened["level"])
        old, new = outputs
        error = relative_error(new, old)
        if error > PRECISIONS[precision]:
            raise ParityError(
                f"{self.new.version.name} and {self.old.version.name} differ by {error:.2e} "
                f"(allowed {PRECISIONS[precision]:.0e})"
            )
        return {"relative_error": error, "old_level": levels[0], "new_level": levels[1]}

    def sitting(self) -> list[tuple[float, float]]:
        """(old, new) milliseconds of each round that nothing disturbed."""
        once = [worker.ask("time", calls=1)["time_ms"] for worker in (self.old, self.new)]
        calls = repeats_of(min(once))
        rounds = LONG_ROUNDS if max(once) > LONG_MS else ROUNDS
        found = []
        for _ in range(rounds):
            order = [self.old, self.new]
            self.random.shuffle(order)
            times = {worker: self._quiet(worker, calls) for worker in order}
            old, new = times[self.old], times[self.new]
            if old is not None and new is not None:
                found.append((old, new))
        return found

    def _quiet(self, worker: Worker, calls: int) -> float | None:
        """Milliseconds per call; None where all samples were disturbed.

        One thread has its own CPU clock, which other processes do not disturb.
        """
        for _ in range(1 + RETRIES):
            sample = worker.ask("time", calls=calls)
            time_ms: float = sample["time_ms"]
            allowed_s = MAX_WAIT * time_ms * calls / 1e3
            if self.threads == 1 or sample["waited_s"] <= allowed_s:
                return time_ms
        return None


def _timed(pair: _Pair, network: Network, batch: int, precision: str) -> Row:
    """Gates and times one row. The pair has loaded the network."""
    row = Row(network.model, network.binarizer, precision, batch)
    rounds: list[tuple[float, float]] = []
    for _ in range(SITTINGS):
        opened = pair.open(precision)
        if "unavailable" in opened:
            return _with(row, opened)
        rounds += pair.sitting()
    ratios = [old / new for old, new in rounds]
    interval = median_interval(ratios)
    if interval is None:
        why = "too few rounds without other load; time again on a quieter machine"
        return _with(row, {"unavailable": why})
    low, high = interval
    return _with(
        row,
        opened
        | {
            "old_ms": statistics.median(old for old, _ in rounds),
            "new_ms": statistics.median(new for _, new in rounds),
            "ratio": statistics.median(ratios),
            "ratio_low": low,
            "ratio_high": high,
            "n": len(rounds),
            "verdict": verdict(low, high),
        },
    )


def _with(row: Row, values: dict[str, Any]) -> Row:
    return Row(**(asdict(row) | values))


_HEAD = (
    f"{'network':<72}{'batch':>6}{'old ms':>10}{'new ms':>10}{'new/old':>9}"
    f"{'99 % interval':>17}{'n':>4}  verdict"
)


def _line(row: Row) -> str:
    name = f"{row.model}, {row.binarizer} [{row.precision}]"
    if row.unavailable is not None:
        return f"{name:<72}{row.batch:>6}  {row.unavailable}"
    interval = f"{row.ratio_low:.3f} to {row.ratio_high:.3f}"
    return (
        f"{name:<72}{row.batch:>6}{row.old_ms:>10.3f}{row.new_ms:>10.3f}{row.ratio:>9.3f}"
        f"{interval:>17}{row.n:>4}  {row.verdict}"
    )


def compare(pair: _Pair, network: Network, batch: int) -> list[Row]:
    """Times one network at one batch size in each precision. Prints each row when it is known."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch, *network.in_shape), dtype=np.float32)
    pair.load(network, x)
    rows = []
    for precision in network.precisions:
        row = _timed(pair, network, batch, precision)
        rows.append(row)
        tell(_line(row))
    return rows


@dataclass(frozen=True)
class _Comparison:
    """What the records of a comparison share, and where they are written.

    command: makes the records again, once the batch is added.
    """

    suite: str
    commit: str
    threads: int
    command: str
    out: Path

    def write(self, rows: list[Row], batch: int) -> Path:
        """The record of one batch size. It replaces one with fewer rows."""
        clock, _ = clock_for("cpu", self.threads)
        info = {
            "suite": self.suite,
            "old_commit": self.commit,
            "batch": batch,
            "threads": self.threads,
            "clock": clock,
            "tolerance": PRECISIONS,
            "confidence": CONFIDENCE,
            "sittings": SITTINGS,
        }
        device = device_name("cpu")
        short = self.commit[:7]
        case = f"{slug(self.suite)}-against-{short}-b{batch}-t{self.threads}"
        command = f"{self.command} --batch {batch} --against {short}"
        source = provenance(command, device, self.threads)
        written = [asdict(row) for row in rows]
        record = VersionsRecord(case, slug(device), written, info, source)
        return RunStore(self.out).write_versions(record)


def against(
    revision: str,
    suite: str,
    configs: list[RunConfig] | None,
    threads: int,
    batches: list[int],
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Compares this version with a revision of the repository; one record for each batch size.

    A record is written after each network, so that an interruption keeps what is known. configs:
    the networks of a suite; None for an op-level suite. command: without its batch and revision.

    Raises VersionError (a ValueError) for a revision that cannot be had, built or driven,
    ValueError for a batch below 1, and ParityError where the outputs of the versions differ.
    """
    wrong = [batch for batch in batches if batch < 1]
    if wrong:
        raise ValueError(f"--batch must be at least 1, got {wrong[0]}")
    commit = versions.commit_of(revision)
    prepare("cpu", threads)
    comparison = _Comparison(suite, commit, threads, command, out)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        old = versions.check_out(commit, _made(folder / "old"))
        new = versions.copy_own(_made(folder / "new"))
        files = _made(folder / "files")
        networks = of_suite(suite, files) if configs is None else of_configs(configs)
        for version in (old, new):
            tell(f"building the native library of {version.name}")
            versions.build(version)
        with Worker(old, threads) as old_worker, Worker(new, threads) as new_worker:
            pair = _Pair(old_worker, new_worker, files, threads, random.Random(0))
            return _all_compared(pair, networks, batches, comparison)


def _all_compared(
    pair: _Pair, networks: list[Network], batches: list[int], comparison: _Comparison
) -> dict[str, Any]:
    tell(_HEAD)
    every: list[Row] = []
    records = []
    for batch in batches:
        rows: list[Row] = []
        for network in networks:
            rows += compare(pair, network, batch)
            path = comparison.write(rows, batch)
        records.append(str(path))
        every += rows
    return _summary(every) | {
        "suite": comparison.suite,
        "against": comparison.commit,
        "records": records,
    }


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _summary(rows: list[Row]) -> dict[str, Any]:
    """Prints how many rows have each verdict, and the mean ratio. Returns the same."""
    timed = [row for row in rows if row.ratio is not None]
    verdicts = [row.verdict for row in timed]
    counts = {word: verdicts.count(word) for word in ("slower", "faster", "no difference shown")}
    mean = None
    said = "nothing was timed"
    if timed:
        mean = statistics.geometric_mean(row.ratio for row in timed if row.ratio is not None)
        said = ", ".join(f"{count} {word}" for word, count in counts.items())
        said += f"; this version runs at {mean:.3f} of the old speed (geometric mean)"
    tell(f"{len(timed)} of {len(rows)} rows timed: {said}")
    named = {word.replace(" ", "_"): count for word, count in counts.items()}
    return {"rows": len(timed), "ratio": mean} | named
