"""What record files may hold: one model for each, by which every reader checks a file once.

Known fields have a type and a range; fields of other versions and plugins may be there too. Numbers
are finite, fractions are in [0, 1], and counts are at least 0. A metrics row alone may say "NaN",
"Infinity" or "-Infinity", which is how a run that diverged writes what JSON has no number for.
"""

import functools
import itertools
import math
import re
import reprlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import ErrorDetails, from_json

from tbn_bench import catalog
from tbn_bench.records.summary import COSTS, COUNTS, EFFORT, row_fields
from tbn_bench.scores import AUGMENTED, SCORES, TRACKS

VERSION = 1  # schema_version of every record
STATUSES = ("running", "finished", "failed", "diverged", "interrupted", "stopped")
MAX_BYTES = (
    1 << 28
)  # of one file; a record of a thousand layers or epochs has less than a thousandth
_MAX_INTEGER = 2**63 - 1
_MAX_NUMBER = 3.5e38  # just above float32, in which networks compute: squares and sums stay finite
_SLACK = 1e-6  # a mean of fractions in float32 may be this much above 1
_VERSION = re.compile(r"\d[\w.!+-]*")
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@functools.lru_cache(4096)
def _is_call(value: str) -> str:
    catalog.parse(value)
    return value


def _is_strict(info: ValidationInfo) -> bool:
    """Whether a record is verified, not only read: then fields that no reader uses are checked."""
    return bool(info.context)


def _is_time(value: str, info: ValidationInfo) -> str:
    if _is_strict(info):
        datetime.fromisoformat(value)
    return value


def _is_version(value: str | None, info: ValidationInfo) -> str | None:
    if _is_strict(info) and value is not None and not _VERSION.fullmatch(value):
        raise ValueError("a version begins with a digit and has letters, digits and .!+-_ alone")
    return value


def _is_track(value: str, info: ValidationInfo) -> str:
    if _is_strict(info) and value not in TRACKS:
        raise ValueError(f"track must be one of {', '.join(TRACKS)}")
    return value


def _is_bounded(value: Any) -> Any:
    """Of numbers alone, however deep: a reader may add, compare and print them."""
    if isinstance(value, list):
        list(map(_is_bounded, value))
    elif isinstance(value, dict):
        list(map(_is_bounded, value.values()))
    elif isinstance(value, int) and not abs(value) <= _MAX_INTEGER:
        raise ValueError("integers have at most 64 bits")
    elif isinstance(value, float) and not abs(value) <= _MAX_NUMBER:
        raise ValueError(f"numbers are finite and at most {_MAX_NUMBER:g}")
    return value


def _is_loss(value: Any) -> Any:
    """A network may have diverged on the test set alone; its scores are numbers all the same."""
    if isinstance(value, str) and value in _SPECIAL:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number, NaN, Infinity, -Infinity or null")
    return _is_bounded(value)


def _are_settings(config: dict[str, Any]) -> dict[str, Any]:
    for name, value in config.items():
        if isinstance(value, str):
            continue
        parts = value if isinstance(value, list) else [value]
        if any(isinstance(part, list | dict) for part in parts):
            raise ValueError(
                f"{name} must be text, a number, true, false, null, or a list of these"
            )
        _is_bounded(parts)
    return config


Number = Annotated[float, Field(ge=-_MAX_NUMBER, le=_MAX_NUMBER)]
Positive = Annotated[float, Field(ge=0, le=_MAX_NUMBER)]
Above = Annotated[float, Field(gt=0, le=_MAX_NUMBER)]  # more than 0
Fraction = Annotated[float, Field(ge=0, le=1 + _SLACK)]
Integer = Annotated[int, Field(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]
Some = Annotated[int, Field(ge=1, le=_MAX_INTEGER)]
Loss = Annotated[Any, AfterValidator(_is_loss)]
Count = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
Call = Annotated[str, AfterValidator(_is_call)]
Time = Annotated[str, AfterValidator(_is_time)]
Version = Annotated[str | None, AfterValidator(_is_version)]  # None: not installed
Track = Annotated[str, AfterValidator(_is_track)]
Config = Annotated[dict[str, Any], AfterValidator(_are_settings)]
Free = Annotated[Any, AfterValidator(_is_bounded)]  # of a field that this version does not know


class _Object(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")
    __pydantic_extra__: dict[str, Free] = Field(init=False)


class Hardware(_Object):
    cpu: str | None = None
    cores: Some | None = None
    machine: str | None = None
    device: str | None = None
    threads: Some | None = None


class Provenance(_Object):
    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, Version] = {}
    hardware: Hardware = Hardware()
    command: str | None = None
    started: Time | None = None
    track: Track | None = None
    trial: Count | None = None
    devices: Count | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    plugins: list[dict[str, str]] | None = None  # name and hash of each file behind an entry
    packages: list[dict[str, str]] | None = None  # name and version of each package behind one
    fingerprint: dict[str, str] | None = None  # part -> hash of its code (fingerprint.py)


class Header(_Object):
    """run.json."""

    run_id: str
    sweep: str
    status: Literal[STATUSES]  # type: ignore[valid-type]
    error: str | None
    config: Config
    provenance: Provenance
    ended: Time | None = None


class PlanRow(_Object):
    """One weight of a network."""

    name: str | None = None
    shape: list[Count] | None = None
    numel: Count
    weight_bits: Count | None = None
    alpha_bits: Count | None = None
    stored_bits: Count
    binarized: bool
    codebook_bits: Count = 0
    activation_bits: Count | None = None
    p: Number | None = None
    q: Number | None = None
    rank: Count | None = None
    code: str | None = None
    copies: str | None = None
    reason: str | None = None


def _score_type(name: str) -> Any:
    return Fraction if SCORES[name.removesuffix("_tta")].factor == 100 else Positive


def _score_fields() -> dict[str, Any]:
    """The scores of either split in a summary."""
    tested = [*SCORES, *itertools.chain(*AUGMENTED.values())]
    names = {f"test/{name}": name for name in tested}
    names |= {f"val/{name}_last": name for name in SCORES}
    return {name: _score_type(score) for name, score in names.items()}


def _optional(fields: dict[str, Any]) -> dict[str, Any]:
    """Names that are no Python names become aliases."""
    return {
        name.replace("/", "_"): (kind | None, Field(None, alias=name))
        for name, kind in fields.items()
    }


class _Summary(_Object):
    """summary.json. Costs may be halves of bits, so they are numbers."""

    run_id: str | None = None
    score: str | None = None
    track: Track | None = None
    plan: list[PlanRow] | None = None


Summary = create_model(
    "Summary",
    __base__=_Summary,
    **_optional(
        {"test/loss": Loss}
        | _score_fields()
        | dict.fromkeys((*COSTS, *EFFORT), Positive)
        | dict.fromkeys(COUNTS, Count)
    ),
)


class LatencyRow(_Object):
    """One timed implementation, or what all of a case share: any field may be in either."""

    data: str | None = None
    model: str | None = None
    sweep: str | None = None
    batch: Some | None = None
    threads: Some | None = None
    clock: str | None = None
    binarizer: Call | None = None
    implementation: str | None = None
    run_id: str | None = None
    time_ms_p20: Above | None = None
    time_ms_p50: Above | None = None
    time_ms_p80: Above | None = None
    n: Some | None = None
    ratio: Above | None = None
    ratio_p20: Above | None = None
    ratio_p80: Above | None = None
    ratio_compiled: Above | None = None
    ratio_ort_int8: Above | None = None
    relative_error: Positive | None = None
    tolerance: Positive | None = None
    top1: Fraction | None = None
    tile_macs: bool | Count | None = None
    tile_gmacs: Positive | None = None
    weight_bytes: Count | None = None
    memory_peak: Integer | None = None
    gpu_resting_bytes: Count | None = None
    gpu_peak_bytes: Count | None = None
    ceilings: "Ceilings | None" = None
    cache: str | None = None
    unavailable: str | None = None
    baseline: str | None = None


class TimedRow(LatencyRow):
    """What a row of a record must have itself."""

    binarizer: Call
    implementation: str


class Ceilings(_Object):
    """What the machine can do at best."""

    level: str | None = None
    levels: list[str] | None = None
    fma_gmacs: Above | None = None
    lookup_gmacs: Above | None = None
    matrix_gmacs: Above | None = None
    read_gb_s: dict[Annotated[str, Field(pattern=r"^\d+(\.\d+)? MB$")], Above | None] | None = None


class Latency(_Object):
    """latency/<device>/<case>.json."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    case: str
    device: str
    rows: list[TimedRow]
    case_info: LatencyRow = LatencyRow()
    provenance: Provenance = Provenance()


class VersionRow(_Object):
    """One network, timed by the packed executors of two versions."""

    model: str
    binarizer: Call
    precision: str
    batch: Some
    old_ms: Above | None = None
    new_ms: Above | None = None
    ratio: Above | None = None
    ratio_low: Above | None = None
    ratio_high: Above | None = None
    n: Count = 0
    verdict: str | None = None
    relative_error: Positive | None = None
    old_level: str | None = None
    new_level: str | None = None
    unavailable: str | None = None


class VersionsInfo(_Object):
    """What all rows of a comparison of versions share."""

    suite: str
    old_commit: str
    batch: Some | None = None  # None: the rows have several
    threads: Some
    clock: str | None = None
    tolerance: dict[str, Positive] = {}
    confidence: Fraction | None = None
    sittings: Some | None = None


class Versions(_Object):
    """latency/<device>/versions/<case>.json."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    case: str
    device: str
    rows: list[VersionRow]
    case_info: VersionsInfo
    provenance: Provenance = Provenance()


class McuInfo(_Object):
    data: str
    model: str
    binarizer: Call
    activations: str
    target: str
    core: str
    sim: str
    top1_c: Fraction | None = None
    top1_torch: Fraction | None = None
    agreement: Fraction | None = None
    test_samples: Count | None = None
    table_bytes: Positive | None = None
    code_bytes: Positive | None = None
    constant_bytes: Positive | None = None
    flash_bytes: Positive | None = None
    flash_with_selftest_bytes: Positive | None = None
    arena_bytes: Positive | None = None
    stack_bytes: Positive | None = None
    ram_bytes: Positive | None = None
    vectors: Positive | None = None
    count: Positive | None = None
    clock_hz: Positive | None = None
    frames_per_s_estimate: Positive | None = None
    run_id: str | None = None
    sweep: str | None = None
    compiler: str | None = None
    optimize: str | None = None
    simulator: str | None = None
    computed_by: str | None = None
    unit: str | None = None
    fused_multiply_add: bool | None = None
    model_sha256: str | None = None


class Mcu(_Object):
    """mcu/<device>/<case>.json."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int
    case: str
    device: str
    info: McuInfo
    provenance: Provenance = Provenance()


def parse(content: bytes) -> Any:
    """JSON, NaN and Infinity included.

    Raises ValueError, also for deep nesting and lone surrogates.
    """
    return from_json(content, cache_strings="keys")


_NO_NUMBER = ("float_type", "int_type")


def faults(model: type[BaseModel], value: Any, strict: bool = False) -> list[str]:
    """What is wrong with a record, a sentence each: "info lacks model, core".

    strict: also check timestamps, versions and tracks, with which no reader computes.
    """
    try:
        model.model_validate(value, context={"strict": True} if strict else None)
    except ValidationError as error:
        return _sentences(error.errors(include_url=False, include_context=False))
    return []


def _sentences(errors: Sequence[ErrorDetails]) -> list[str]:
    """Fields that one object lacks, or that are no numbers, are one sentence."""
    found: dict[str, list[str]] = {}
    for error in errors:
        *above, name = map(str, error["loc"] or ("it",))
        subject = ".".join(above) or "it"
        given = error["input"]
        if error["type"] == "missing" or (given is None and not name.isdecimal()):
            found.setdefault(f"{subject} lacks ", []).append(name)
        elif error["type"] in _NO_NUMBER and isinstance(given, str):
            found.setdefault(f"{subject} must have numbers for ", []).append(name)
        else:
            place = ".".join([*above, name])
            what = error["msg"].removeprefix("Value error, ")
            found[f"{place}: {what}, got {reprlib.repr(given)}"] = []
    return [start + ", ".join(dict.fromkeys(names)) for start, names in found.items()]


def check(model: type[BaseModel], value: Any, strict: bool = False) -> None:
    """Raises ValueError, one line that names the first wrong fields."""
    for what in faults(model, value, strict):
        raise ValueError(what)


# Metrics rows. A report reads a million of them, so the usual file is looked at by columns alone.

Row = dict[str, Any]
_ORDINALS = ("epoch", "step")
_FRACTIONS = tuple(f"val/{name}" for name in SCORES if _score_type(name) is Fraction)
_POSITIVES = tuple(f"val/{name}" for name in SCORES if _score_type(name) is Positive)
_NUMBERS = tuple(
    name for name in row_fields("") if name not in (*_ORDINALS, *_FRACTIONS, *_POSITIVES)
)
_ROW = create_model(
    "_ROW",
    __base__=_Object,
    **_optional(
        dict.fromkeys(_ORDINALS, Count)
        | dict.fromkeys(_FRACTIONS, Fraction)
        | dict.fromkeys(_POSITIVES, Positive)
        | dict.fromkeys(_NUMBERS, Number)
    ),
)
_LIMITS = (
    dict.fromkeys(_ORDINALS, (0.0, _MAX_INTEGER))
    | dict.fromkeys(_FRACTIONS, (0.0, 1 + _SLACK))
    | dict.fromkeys(_POSITIVES, (0.0, _MAX_NUMBER))
)


def rows(values: list[Any]) -> list[Row]:
    """The rows, with floats for "NaN" and the like. Raises ValueError that names the wrong line."""
    if set(map(type, values)) <= {dict} and _are_usual(values):
        return values
    return [_row(value, line) for line, value in enumerate(values, 1)]


def row_of(content: bytes, line: int) -> Row:
    """As rows(), of one line."""
    try:
        value = parse(content)
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
    return _row(value, line)


def _are_usual(values: list[Row]) -> bool:
    """Whether every value is a finite number in its range; what is not usual may still be valid."""
    for name in set[str]().union(*values):
        column = [value[name] for value in values if name in value]
        kinds = {int} if name in _ORDINALS else {int, float}
        if not set(map(type, column)) <= kinds:
            return False
        low, high = _LIMITS.get(name, (-_MAX_NUMBER, _MAX_NUMBER))
        if not (low <= min(column) and max(column) <= high and math.isfinite(sum(column))):
            return False
    return True


def _row(value: Any, line: int) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"line {line}: expected an object, got {reprlib.repr(value)}")
    special = {
        name: _SPECIAL[word]
        for name, word in value.items()
        if isinstance(word, str) and word in _SPECIAL and name not in _ORDINALS
    }
    for what in faults(_ROW, {k: v for k, v in value.items() if k not in special}):
        raise ValueError(f"line {line}: {what}")
    return value | special
