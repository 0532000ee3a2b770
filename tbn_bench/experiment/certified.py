"""tbn-bench verify: is all that a certificate states so?

parts    every file has its certified hash
record   config, command, commit and score are those of the record
sizes    weights, bits and bytes, from the packed file
data     the test split has the certified samples
native   score and predicted classes, from the packed file by the native executor
numpy    the same, by numpy

Rounding differs between processors, so near ties may change sides. Of the predicted classes, one in
a thousand (at least one) may differ from the certified ones; a score may differ as in runs verify
--scores. Every other difference is an error.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import build, claims, scoring, verify
from tbn_bench.experiment.certify import allowed
from tbn_bench.experiment.verify import Way
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import Artifact
from tbn_bench.records import certificate
from tbn_bench.records.certificate import Certificate, Opened
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import printable, shown, tell
from tbn_bench.runs import text
from tbn_bench.scores import SCORES

VERIFIED = "verified"
DIFFERS = "DIFFERS"
UNCHECKED = "not checked by inference"
INVALID = "NO VALID CERTIFICATE"
_SHOWN = 20  # letters of a value in a line about a difference


@dataclass(frozen=True)
class Options:
    """results: the folder with the parts; None looks above each file. numpy: samples that numpy
    computes, from the first on; None: all. other_samples: test samples that may be others than the
    certified ones. need_data: whether a missing data set is a failure."""

    results: Path | None = None
    numpy: int | None = None
    other_samples: int = 0
    need_data: bool = False


@dataclass(frozen=True)
class Line:
    """What became of one part of a certificate.

    agrees: None where it could not be checked. is_inference: whether all samples were computed.
    """

    part: str
    agrees: bool | None
    said: str
    is_inference: bool = False


@dataclass
class Verdict:
    """lines: a line per part, in order. seconds: of wall time."""

    path: Path
    lines: list[Line] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        if certificate.NAME in self.wrong:
            return INVALID
        if self.wrong:
            return DIFFERS
        if any(line.agrees and line.is_inference for line in self.lines):
            return VERIFIED
        return UNCHECKED

    @property
    def wrong(self) -> list[str]:
        return [line.part for line in self.lines if line.agrees is False]

    @property
    def in_short(self) -> str:
        """One line; its scores are those of the way that computed all samples."""
        inferred = [line.said for line in self.lines if line.is_inference]
        said = inferred[0] if inferred else ""
        return f"{shown(self.path)}: {self.verdict}, {said} ({self.seconds:.1f} s)"

    def __str__(self) -> str:
        shown_lines = [f"{shown(self.path)}: {self.verdict} ({self.seconds:.1f} s)"]
        for line in self.lines:
            mark = "DIFFERS: " if line.agrees is False else ""
            shown_lines.append(f"  {line.part:<20}  {mark}{line.said}")
        return "\n".join(shown_lines)


def run(paths: Sequence[Path], options: Options) -> dict[str, Any]:
    """Prints a verdict for each certificate; of a folder, for all below it.

    Of several, those that are verified take one line each. Raises ValueError for a path that does
    not exist, and for a folder without certificates.
    """
    found = []
    files = list(_files(paths))
    for path in files:
        one = check(path, options)
        found.append(one)
        is_short = len(files) > 1 and one.verdict == VERIFIED
        text.say([one.in_short if is_short else str(one)])
    count = Counter(one.verdict for one in found)
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items()))
    seconds = sum(one.seconds for one in found)
    tell(f"{len(found)} certificates: {told}; {seconds:.0f} s")
    wrong = {str(one.path): one.wrong for one in found if one.wrong}
    unchecked = count[UNCHECKED]
    if unchecked and options.need_data:
        tell(f"{unchecked} were not checked by inference, which --need-data counts as failed")
    return {
        "certificates": len(found),
        "verified": count[VERIFIED],
        "not_checked": unchecked,
        "failed": len(wrong) + (unchecked if options.need_data else 0),
        "wrong": wrong,
        "seconds": round(seconds, 1),
    }


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise ValueError(f"there is no {path}; write a certificate: tbn-bench certify RUN")
        if not path.is_dir():
            yield path
            continue
        files = certificate.found_in(path)
        if not files:
            raise ValueError(f"no certificates below {path}; write one: tbn-bench certify RUN")
        yield from files


def check(path: Path, options: Options) -> Verdict:
    """The verdict on one file. A file that is no certificate, or was changed, is a difference."""
    started = time.perf_counter()
    found = Verdict(path)
    try:
        with certificate.opened(path, options.results) as held:
            found.lines += _lines(held, options)
    except ValueError as error:  # of the certificate, the record or the packed file
        found.lines.append(Line(certificate.NAME, False, printable(str(error))))
    found.seconds = time.perf_counter() - started
    return found


def _lines(held: Opened, options: Options) -> Iterator[Line]:
    """Ends where a part is not the certified one: nothing can be computed from it."""
    stated = held.certificate
    faults = held.faults()
    for name, fault in faults.items():
        yield Line(name, False, fault)
    if faults:
        return
    yield Line("parts", True, f"all {len(stated.parts)} have their certified hash")

    record = RunStore(held.results).read(stated.sweep, stated.run_id)
    content = packed_file.read(record.path / NETWORK)
    config = make(record.config)
    yield from _stated(stated, record, content, config)
    try:
        data = build.data_of(config)
        data.setup()
    except ValueError as error:
        yield Line("data", None, f"not on this machine, nothing is inferred: {error}")
        return
    yield from _inferred(_Case(held, record, config, content, data, options))


def _stated(
    stated: Certificate, record: RunRecord, content: Artifact, config: RunConfig
) -> Iterator[Line]:
    """What needs no data: the record, and the sizes of the packed file."""
    computed = claims.claims(record, content)
    faults = []
    for name, certified in stated.claims:
        got = getattr(computed, name)
        if not claims.is_same(certified, got):
            faults.append(f"{name}: certified {_short(certified)}, got {_short(got)}")
    why = verify.wrong_file(content, config, record)
    if why:
        faults.append(why)
    faults += claims.record_faults(record, computed, content)
    if config.run_id != stated.run_id:
        faults.append(f"run id: certified {stated.run_id}, the config's is {config.run_id}")
    if faults:
        yield Line("record and sizes", False, "; ".join(faults))
        return
    yield Line("record", True, "config, command, commit and score are as certified")
    said = (
        f"{computed.weights:,} weights, {computed.stored_bits:,} stored bits, "
        f"{computed.bits_per_weight:.3f} bits per weight, {computed.file_bytes:,} bytes of file"
    )
    yield Line("sizes", True, said)


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 3 * _SHOWN else f"{said[: 3 * _SHOWN]}..."


@dataclass(frozen=True)
class _Case:
    """A certificate, and all from which its scores are computed again."""

    held: Opened
    record: RunRecord
    config: RunConfig
    content: Artifact
    data: Any
    options: Options

    @property
    def stated(self) -> Certificate:
        return self.held.certificate


def _inferred(case: _Case) -> Iterator[Line]:
    """The data, then each way of computing."""
    stated = case.stated
    split, samples = claims.split_of(case.config.data, case.data)
    same = claims.same_samples(samples, case.held.part(certificate.SAMPLES) or b"")
    others = int(np.count_nonzero(~same))
    yield _data_line(case, split, others)
    if split.samples != stated.data.samples:
        return
    ways = {
        "native": verify.by_native(case.record, case.config, case.data, case.content),
        "numpy": verify.by_numpy(
            case.record, case.config, case.data, case.content, case.options.numpy
        ),
    }
    for name, way in ways.items():
        yield _way_line(case, name, way, same)


def _data_line(case: _Case, split: certificate.Data, others: int) -> Line:
    certified = case.stated.data
    if split == certified:
        return Line("data", True, f"the {split.samples:,} certified test samples")
    if split.samples != certified.samples:
        said = f"certified {certified.samples:,} test samples, got {split.samples:,}"
        return Line("data", False, said)
    what = [f"{others:,} of {split.samples:,} test samples are others than the certified ones"]
    for kind in ("inputs", "labels"):
        wanted = getattr(certified, f"{kind}_sha256")
        got = getattr(split, f"{kind}_sha256")
        if wanted != got:
            what.append(f"{kind}: certified sha256 {wanted}, got {got}")
    may_differ = 0 < others <= case.options.other_samples
    if may_differ:
        what.append(f"{case.options.other_samples:,} are allowed")
    return Line("data", may_differ, "; ".join(what))


def _way_line(case: _Case, name: str, way: Way, same: np.ndarray) -> Line:
    """One way against the certificate. same: which samples of the data are the certified ones."""
    if way.agrees is None or way.score is None:
        return Line(name, None, f"cannot compute: {way.why}")
    stated = case.stated
    others = int(np.count_nonzero(~same))
    agrees = True
    said = []
    label = SCORES[stated.claims.score].label.removesuffix(" %")
    is_whole = way.samples == stated.data.samples
    if is_whole:
        recorded = stated.claims.recorded
        slack = scoring.tolerance(stated.claims.score, recorded, way.samples)
        slack += others / way.samples
        agrees = abs(way.score - recorded) <= slack
        score = text.score(stated.claims.score, way.score)
        certified = text.score(stated.claims.score, recorded)
        said.append(f"{label} {score}, certified {certified}")
    else:
        said.append(f"the first {way.samples:,} samples")
    if stated.predictions is not None and way.classes is not None:
        compared = same[: way.samples]
        certified_classes = stated.predictions.classes()[: way.samples]
        is_other = (way.classes != certified_classes) & compared
        differing = int(np.count_nonzero(is_other))
        shared = int(np.count_nonzero(compared))
        most = allowed(shared)
        agrees = agrees and differing <= most
        said.append(f"{differing} of {shared:,} classes differ ({most} may)")
    return Line(name, agrees, ", ".join(said), is_whole)
