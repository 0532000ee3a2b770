"""tbn-bench certify: a certificate of each run, written once its packed network gives its score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tbn_bench.config import make
from tbn_bench.experiment import build, claims, verify
from tbn_bench.experiment.verify import Way
from tbn_bench.format import packed_file
from tbn_bench.records import certificate
from tbn_bench.records.certificate import Certificate, Computed, Part
from tbn_bench.records.files import RecordError, read_file, replace
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell

FILES = ("run.json", "summary.json", "metrics.jsonl", NETWORK)


@dataclass(frozen=True)
class Options:
    """out: the folder to write; None: that of the records. numpy: samples that numpy computes, from
    the first on; None: all. bundle: write archives. again: also runs that have a certificate."""

    out: Path | None = None
    numpy: int | None = None
    bundle: bool = False
    again: bool = False


def run(store: RunStore, names: Sequence[str], options: Options) -> dict[str, Any]:
    """Writes a certificate for each finished run that the names mean; prints a line for each.

    Names are as those of runs verify --scores. Raises ValueError for an unfinished run, and for one
    without a packed network if it was named alone.
    """
    written: list[str] = []
    kept: list[str] = []
    failed: list[str] = []
    no_network: list[str] = []
    for name in names:
        records = _finished(store, name)
        for record in records:
            label = f"{record.sweep}/{record.run_id}"
            try:
                path, is_new = certify(store, record, options)
            except NoNetwork as error:
                if len(records) == 1:
                    raise
                no_network.append(label)
                tell(f"left out: {error}")
                continue
            except ValueError as error:
                failed.append(label)
                tell(f"not certified: {error}")
                continue
            if is_new:
                written.append(str(path))
            else:
                kept.append(str(path))
    tell(
        f"{len(written)} certificates written, {len(kept)} kept, {len(failed)} refused, "
        f"{len(no_network)} runs without a packed network"
    )
    return {"written": written, "kept": kept, "failed": failed, "no_network": no_network}


class NoNetwork(RecordError):
    """A run without network.safetensors."""


def _finished(store: RunStore, name: str) -> list[RunRecord]:
    """The finished runs of a name. Raises ValueError for a run that is not finished."""
    sweep, slash, run_id = name.rpartition("/")
    unfinished = []
    for record in store.runs([]):
        is_named = record.run_id.startswith(run_id) and (not slash or record.sweep == sweep)
        if is_named and record.status != "finished":
            unfinished.append(record)
    if unfinished and not any(record.status == "finished" for record in unfinished):
        record = unfinished[0]
        raise ValueError(
            f"run {record.sweep}/{record.run_id} is not finished (its status is {record.status}); "
            "a certificate needs a result"
        )
    return verify.chosen(store, [name])


def certify(store: RunStore, record: RunRecord, options: Options) -> tuple[Path, bool]:
    """(the file, whether it is new). Raises ValueError where a certificate would be wrong.

    That is: no packed network, data that is not on this machine, a file of other sizes or scores
    than the record's.
    """
    label = f"{record.sweep}/{record.run_id}"
    out = options.out or store.root / certificate.FOLDER
    ending = "zip" if options.bundle else "json"
    path = out / record.sweep / f"{record.run_id}.{ending}"
    if path.exists() and not options.again:
        tell(f"{path}: kept; certify it again with --again")
        return path, False
    if not (record.path / NETWORK).exists():
        raise NoNetwork(
            f"run {label} has no {NETWORK}: full precision has none, and neither have runs of "
            "early versions; train it again with --restart"
        )
    found, contents = _certificate(record, options.numpy)
    if options.bundle:
        written = certificate.write(out, found, contents)
    else:
        _keep_samples(store, found, contents)
        written = certificate.write(out, found)
    tell(f"{written}: {_said(found)}")
    return written, True


def _certificate(record: RunRecord, most: int | None) -> tuple[Certificate, dict[str, bytes]]:
    """(the certificate, the contents of its parts). Raises as certify."""
    label = f"{record.sweep}/{record.run_id}"
    config = make(record.config)
    content = packed_file.read(record.path / NETWORK)
    stated = claims.claims(record, content)
    faults = claims.record_faults(record, stated, content)
    why = verify.wrong_file(content, config, record)
    if why:
        faults.append(why)
    if faults:
        raise RecordError(f"{label}: {'; '.join(faults)}")
    data = build.data_of(config)
    data.setup()
    native = verify.by_native(record, config, data, content)
    numpy = verify.by_numpy(record, config, data, content, most)
    _check(label, native, numpy, data.size("test"))
    split, samples = claims.split_of(config.data, data)
    computed = {"native": _computed(native, native), "numpy": _computed(numpy, native)}
    predicted = None
    if native.classes is not None:
        predicted = certificate.predicted(native.classes)
    contents = {name: read_file(record.path / name) for name in FILES}
    contents[certificate.SAMPLES] = samples
    found = Certificate(
        sweep=record.sweep,
        run_id=record.run_id,
        claims=stated,
        data=split,
        predictions=predicted,
        computed=computed,
        parts=_parts(record, contents),
    )
    return found, contents


def _check(label: str, native: Way, numpy: Way, samples: int) -> None:
    """Raises RecordError unless the native executor gives the recorded score, and numpy too."""
    if native.agrees is None:
        raise RecordError(f"{label}: a certificate needs the native executor: {native.why}")
    is_whole = numpy.samples == samples
    if not native.agrees or (is_whole and not numpy.agrees):
        raise RecordError(
            f"{label}: the packed network does not give the recorded score: "
            f"native {native.score}, numpy {numpy.score}; "
            f"see: tbn-bench runs verify --scores {label}"
        )

    differing = _differing(numpy, native)
    if differing is not None and differing > allowed(numpy.samples):
        raise RecordError(
            f"{label}: numpy and the native executor predict other classes for {differing} of "
            f"{numpy.samples:,} samples, {allowed(numpy.samples)} are allowed"
        )


def allowed(samples: int) -> int:
    """Samples whose class may differ by rounding: one in a thousand, at least one."""
    return max(1, samples // 1000)


def _differing(way: Way, native: Way) -> int | None:
    if way.classes is None or native.classes is None:
        return None
    both = native.classes[: len(way.classes)]
    return int(np.count_nonzero(way.classes != both))


def _computed(way: Way, native: Way) -> Computed:
    return Computed(score=way.score, samples=way.samples, differing_classes=_differing(way, native))


def _parts(record: RunRecord, contents: dict[str, bytes]) -> dict[str, Part]:
    found = {}
    for name, content in contents.items():
        path = f"runs/{record.sweep}/{record.run_id}/{name}"
        if name == certificate.SAMPLES:
            path = claims.samples_path(content)
        found[name] = certificate.part_of(path, content)
    return found


def _keep_samples(store: RunStore, found: Certificate, contents: dict[str, bytes]) -> None:
    """Writes samples.bin, which certificates of one test split share, where it is missing."""
    place = store.root / found.parts[certificate.SAMPLES].path
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        replace(place, contents[certificate.SAMPLES])


def _said(found: Certificate) -> str:
    stated = found.claims
    numpy = found.computed["numpy"]
    return (
        f"{stated.score} {stated.recorded:.4f}, {stated.file_bytes:,} bytes, "
        f"{stated.bits_per_weight:.3f} bits per weight; numpy computed {numpy.samples:,} of "
        f"{found.data.samples:,} samples"
    )
