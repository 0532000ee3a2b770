"""Mutated packed files: each is read, or refused by an ArtifactError of one line, in little memory.

    .venv/bin/python -m tests.fuzz.packed_files --count 200000 --seed 0

Each file is read and its weights are made dense; every fourth that can be read is also loaded into
its network, which numpy and torch then call. The last line is JSON: what happened how often, the
slowest file and the largest memory. A failure prints its file in base64 and makes the exit status 1.
"""

import argparse
import base64
import copy
import gc
import json
import random
import resource
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tbn_bench import convert
from tbn_bench.experiment.numpy_forward import NumpyForward
from tbn_bench.experiment.numpy_ops import Unsupported
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import Artifact, ArtifactError

from .packed_cases import Case, all_cases
from .packed_mutations import mutated

MOST_BYTES = 100_000_000  # for one file
SPARE_BYTES = 2 << 30  # of address space: a file that asks for more fails here and not the machine
MOST_LETTERS = 1000  # of a message
PRINTED_FAILURES = 10
CALLED_EVERY = 4  # files whose network is called: it takes ten times as long as all the rest
MEMORY_FOLDER = Path("/dev/shm")


@dataclass
class Report:
    """What happened to the files."""

    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    worst_ms: float = 0.0
    worst: str = ""
    peak_bytes: int = 0

    def summary(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "files": sum(self.outcomes.values()),
            "outcomes": dict(sorted(self.outcomes.items())),
            "failures": self.failures,
            "worst_cpu_ms": round(self.worst_ms, 1),
            "worst": self.worst,
            "peak_bytes": self.peak_bytes,
            "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def _numpy_forward(case: Case, content: Artifact) -> None:
    try:
        forward = NumpyForward(case.network, content)
    except Unsupported as error:
        if "does not hold" in str(error):
            raise
        return  # an operation without a rule is no fault of the file
    forward(np.zeros((1, *case.in_shape), np.float32))


def _torch_forward(case: Case, content: Artifact) -> None:
    model = convert.load_(copy.deepcopy(case.network), content)
    with torch.no_grad():
        model(torch.zeros(1, *case.in_shape))


CALLS: dict[str, Callable[[Case, Artifact], object]] = {
    "numpy": _numpy_forward,
    "torch": _torch_forward,
}
USES = {"dense": lambda case, content: content.dense(), **CALLS}


def outcome(path: Path, case: Case, is_called: bool) -> str:
    """ "fine", or who refused the file. Raises AssertionError for a message that is not one short line."""
    refused = []
    try:
        content = packed_file.read(path)
    except ArtifactError as error:
        _check_message(error)
        return "refused by read"
    for name, use in USES.items():
        if name in CALLS and not is_called:
            continue
        try:
            use(case, content)
        except ArtifactError as error:
            _check_message(error)
            refused.append(name)
    return f"refused by {', '.join(refused)}" if refused else "fine"


def _check_message(error: ArtifactError) -> None:
    text = str(error)
    assert text.isprintable(), f"not one line that a terminal shows: {text[:200]!r}"
    assert len(text) <= MOST_LETTERS, f"a message of {len(text)} letters: {text[:200]!r}"


def _try(path: Path, case: Case, number: int, kind: str, report: Report) -> None:
    """One file, at `path`."""
    what = f"file {number}: {case.name}, {kind}"
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.process_time()  # others may be at work on this machine
    fault = ""
    try:
        found = outcome(path, case, is_called=number % CALLED_EVERY == 0)
    except Exception as error:  # noqa: BLE001 - any other error is what is looked for
        found = f"FAILED {type(error).__name__}"
        fault = traceback.format_exc(limit=-3)
    took_ms = 1000 * (time.process_time() - start)
    peak = tracemalloc.get_traced_memory()[1] - before
    if peak > MOST_BYTES:
        found = "FAILED memory"
        fault = f"{peak:,} bytes"
    report.outcomes[found] += 1
    report.peak_bytes = max(report.peak_bytes, peak)
    if took_ms > report.worst_ms:
        report.worst_ms = took_ms
        report.worst = f"{what}: {found}"
    if fault:
        report.failures += 1
        if report.failures <= PRINTED_FAILURES:
            print(what, fault, base64.b64encode(path.read_bytes()).decode(), sep="\n", flush=True)


def fuzz(count: int, seed: int, progress: bool = False) -> Report:
    """Tries `count` files; the same seed gives the same files. progress: a line on stderr now and then."""
    random_ = random.Random(seed)
    report = Report(seed)
    folder = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "mutated.safetensors"
        cases = all_cases(Path(name))
        tracemalloc.start()
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for number in range(count):
                    case, other = random_.choice(cases), random_.choice(cases)
                    kind, content = mutated(case.content, other.content, random_)
                    path.write_bytes(content)
                    _try(path, case, number, kind, report)
                    if progress and number % 5000 == 4999:
                        print(json.dumps(report.summary()), file=sys.stderr, flush=True)
        finally:
            tracemalloc.stop()
    return report


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="files (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    _limit_memory()
    gc.freeze()  # torch's objects need no looking at
    report = fuzz(args.count, args.seed, progress=True)
    gc.unfreeze()
    print(json.dumps(report.summary()))
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
