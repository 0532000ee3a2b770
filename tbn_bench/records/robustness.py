"""Records of robustness: results/robustness/<sweep>/<run_id>.json, one for each run.

A row is one condition: a kind of fault at one rate, or a corruption at one severity.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from tbn_bench.records import schema
from tbn_bench.records.files import (
    SCHEMA_VERSION,
    RecordError,
    is_json,
    names_in,
    note,
    read_record,
    subfolders,
    write_atomic,
)
from tbn_bench.records.names import checked_name

FOLDER = "robustness"  # of a folder of records


class Row(schema._Object):
    """One condition.

    top1: recorded accuracy on all test samples less the mean drop. drop: of the same samples,
    without and with the fault. low, high: ends of top1's 95 % interval; None for one draw. flips:
    mean number per draw. wrong_signs: mean share of weights with the wrong sign. unchanged: draws
    after which every value was the right one. bits_per_weight: with the bits of the code.
    """

    fault: Literal[
        "bits", "weights", "scales", "gaussian_noise", "gaussian_blur", "contrast", "jpeg"
    ]
    rate: schema.Fraction | None = None
    severity: schema.Some | None = None
    code: str | None = None
    draws: schema.Some | None = None
    samples: schema.Some
    top1: schema.Number
    drop: schema.Number
    low: schema.Number | None = None
    high: schema.Number | None = None
    flips: schema.Positive | None = None
    wrong_signs: schema.Fraction | None = None
    unchanged: schema.Count | None = None
    bits_per_weight: schema.Positive | None = None


class Info(schema._Object):
    """What all rows share. top1: without faults, on test_samples."""

    data: str
    model: str
    binarizer: schema.Call
    seed: schema.Count
    top1: schema.Fraction
    test_samples: schema.Some
    draw_seed: schema.Count
    weights: schema.Count
    bits_per_weight: schema.Positive
    fault_bits: schema.Count
    scale_bits: schema.Count
    check_bits: schema.Count | None = None
    code: str | None = None
    block: schema.Some | None = None
    confidence: schema.Fraction = 0.95


class _Model(schema._Object):
    model_config = ConfigDict(extra="forbid")
    schema_version: int
    sweep: str
    run_id: str
    rows: list[Row] = Field(min_length=1)
    info: Info
    provenance: schema.Provenance = schema.Provenance()


@dataclass(frozen=True)
class RobustnessRecord:
    """The accuracy of one run's stored network under faults and corruptions."""

    sweep: str
    run_id: str
    rows: list[dict[str, Any]]
    info: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)


def path_of(root: Path, sweep: str, run_id: str) -> Path:
    return root / FOLDER / checked_name(sweep) / f"{checked_name(run_id)}.json"


def write(root: Path, record: RobustnessRecord) -> Path:
    """Raises RecordError where the folder cannot be written."""
    path = path_of(root, record.sweep, record.run_id)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(
            f"cannot write to {path.parent}: {error.strerror}; choose another folder with --results"
        ) from error
    write_atomic(path, {"schema_version": SCHEMA_VERSION, **asdict(record)})
    return path


def records(
    root: Path, problems: list[str] | None = None, strict: bool = False
) -> list[RobustnessRecord]:
    """Every readable record, sorted by path; errors of others go to `problems`, or are raised."""
    top = root / FOLDER
    found = []
    for sweep in subfolders(top, problems):
        for name in names_in(top / sweep, is_json, problems):
            try:
                value = read_record(top / sweep / name, _Model, strict)
            except RecordError as error:
                note(error, problems)
                continue
            value.pop("schema_version")
            found.append(RobustnessRecord(**value))
    return found
