"""A certificate: what a run claims, and the hashes of the files that show it.

    results/certificates/<sweep>/<run_id>.json    names its parts, which are files under results/
                                 <run_id>.zip     the same text, and the parts themselves

The parts are the record (run.json, summary.json, metrics.jsonl), the packed network, and
samples.bin: for each test sample the first SAMPLE_BYTES bytes of the sha256 of its input and label.
The text holds its own hash, so that every changed byte is noticed; the archive is one that only
these contents make. The standard library and numpy read both.
"""

import base64
import contextlib
import hashlib
import io
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tbn_bench.records import schema
from tbn_bench.records.files import RecordError, read_file, replace, to_json
from tbn_bench.records.text import shown

FOLDER = "certificates"  # of a folder of records
NAME = "certificate.json"  # in an archive
SAMPLES = "samples.bin"
SAMPLE_BYTES = 4
_NO_HASH = "0" * 64
_HASH_LINE = re.compile(rb'"sha256": "([0-9a-f]{64})"')  # the first is that of the whole text
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that an archive can say
_ARCHIVE = b"PK"  # the first bytes of a zip file
_LOCAL_HEADER = 30  # bytes before the name of an entry
_MOST_SAMPLES = 50_000_000

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=schema.MAX_BYTES)]
# below a folder of records, never outside: no name begins with a dot
Inside = Annotated[str, Field(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)+$")]
Label = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]


class CertificateError(RecordError):
    """A file that is no certificate, or one that was changed after it was written."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Part(_Strict):
    """A file that belongs to a certificate. path: below the folder of records."""

    path: Inside
    size_bytes: Size
    sha256: Hash

    def fault(self, content: bytes | None) -> str:
        """How the content differs from the certified one, or ''."""
        if content is None:
            return f"missing: expected {self.path}, {self.size_bytes:,} bytes"
        found = digest(content)
        if found == self.sha256:
            return ""
        return (
            f"changed: expected {self.size_bytes:,} bytes with sha256 {self.sha256}, "
            f"got {len(content):,} bytes with {found}"
        )


class Claims(_Strict):
    """What the record says, and what the packed file weighs.

    recorded: test/<score> of the summary. bits_per_weight: stored bits of weights / weights.
    """

    config: schema.Config
    command: str | None
    commit: str | None
    dirty: bool | None
    started: str | None
    track: str | None
    score: str
    recorded: float
    weights: int
    stored_bits: int
    stored_bytes: int
    file_bytes: int
    bits_per_weight: float


class Data(_Strict):
    """The test split: hashes of the types, shapes and values of its tensors, as they were read."""

    call: str
    samples: Annotated[int, Field(ge=1, le=_MOST_SAMPLES)]
    inputs_sha256: Hash
    labels_sha256: Hash


class Predicted(_Strict):
    """The class that the native executor predicted for each test sample.

    sha256: of the classes as little-endian uint16. packed: the same bytes, by zlib, in base64.
    """

    samples: Annotated[int, Field(ge=1, le=_MOST_SAMPLES)]
    sha256: Hash
    packed: str

    def classes(self) -> np.ndarray:
        """(samples,) integers. Raises CertificateError where they are not those of the hash."""
        try:
            packed = base64.b64decode(self.packed, validate=True)
            most = 2 * self.samples
            content = zlib.decompressobj().decompress(packed, most + 1)
        except (ValueError, zlib.error) as error:
            raise CertificateError(f"its predicted classes are damaged: {error}") from error
        found = digest(content)
        if found != self.sha256 or len(content) != most:
            raise CertificateError(
                f"its predicted classes are damaged: expected sha256 {self.sha256}, got {found}"
            )
        return np.frombuffer(content, "<u2").astype(np.int64)


class Computed(_Strict):
    """What one way of computing gave. samples: those that it computed, from the first on."""

    score: float | None
    samples: int
    differing_classes: int | None


class Certificate(_Strict):
    """The content of certificate.json. computed: by way (native, numpy); parts: by file name."""

    kind: Literal["tbn_bench certificate"] = "tbn_bench certificate"
    sha256: Hash = _NO_HASH
    schema_version: Literal[1] = 1
    sweep: Label
    run_id: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    claims: Claims
    data: Data
    predictions: Predicted | None
    computed: dict[str, Computed]
    parts: dict[str, Part]

    @property
    def name(self) -> str:
        return f"{self.sweep}/{self.run_id}"

    def text(self) -> bytes:
        """The content of the file, with its hash."""
        value = self.model_dump(mode="json") | {"sha256": _NO_HASH}
        plain = (to_json(value, indent=1) + "\n").encode()
        return plain.replace(_NO_HASH.encode(), digest(plain).encode(), 1)


@dataclass(frozen=True)
class Opened:
    """A certificate and where its parts are. results: the folder of records that has them.

    damage: why the archive itself, apart from the parts, is not the one that was written, or ''.
    """

    certificate: Certificate
    results: Path
    damage: str = ""

    def part(self, name: str) -> bytes | None:
        """The content of a part; None where there is none."""
        path = self.results / self.certificate.parts[name].path
        return read_file(path) if path.exists() else None

    def faults(self) -> dict[str, str]:
        """Part -> what is wrong with it, of those that are not as certified."""
        found = {}
        for name, part in self.certificate.parts.items():
            fault = part.fault(self.part(name))
            if fault:
                found[name] = fault
        if self.damage and not found:
            found["archive"] = self.damage
        return found


def digest(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()


def part_of(path: str, content: bytes) -> Part:
    return Part(path=path, size_bytes=len(content), sha256=digest(content))


def predicted(classes: np.ndarray) -> Predicted:
    """classes: (samples,) integers below 65,536."""
    content = classes.astype("<u2").tobytes()
    packed = base64.b64encode(zlib.compress(content, 9)).decode()
    return Predicted(samples=len(classes), sha256=digest(content), packed=packed)


def parse(content: bytes, where: str) -> Certificate:
    """The certificate that the bytes hold. where: names them in an error.

    Raises CertificateError for another file, and where any byte was changed.
    """
    held = _HASH_LINE.search(content)
    if held is None or b"tbn_bench certificate" not in content[: held.start()]:
        raise CertificateError(
            f"{where} is not a certificate: expected the JSON or zip file that "
            "tbn-bench certify RUN writes"
        )
    said = held[1]
    plain = content.replace(said, _NO_HASH.encode(), 1)
    found = digest(plain)
    if found != said.decode():
        raise CertificateError(
            f"{where} was changed: {NAME} has sha256 {found}, it says {said.decode()}; "
            "restore it, or certify the run again"
        )
    try:
        value = schema.parse(content)
        return Certificate.model_validate(value)
    except (ValidationError, ValueError) as error:
        why = " ".join(str(error).split())
        raise CertificateError(f"{where} cannot be read: {why}") from error


def write(out: Path, certificate: Certificate, parts: dict[str, bytes] | None = None) -> Path:
    """Writes out/<sweep>/<run_id>.json, or .zip with the contents of parts. Raises RecordError."""
    folder = out / certificate.sweep
    content = certificate.text()
    path = folder / f"{certificate.run_id}.json"
    if parts is not None:
        content = _archive({NAME: content} | parts)
        path = path.with_suffix(".zip")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with --out"
        ) from error
    replace(path, content)
    return path


def _archive(contents: dict[str, bytes]) -> bytes:
    """A zip file that depends on nothing but names and contents."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # the same on Windows
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return out.getvalue()


def read(path: Path) -> Certificate:
    """The certificate of a .json file, or in an archive. Raises CertificateError."""
    content = read_file(path)
    if content.startswith(_ARCHIVE):
        content = _entries(content, shown(path)).get(NAME, b"")
    return parse(content, shown(path))


def found_in(folder: Path) -> list[Path]:
    """The certificates below a folder, sorted; archives too."""
    files = [path for path in folder.rglob("*") if path.suffix in (".json", ".zip")]
    return sorted(files)


@contextlib.contextmanager
def opened(path: Path, results: Path | None = None) -> Iterator[Opened]:
    """A certificate with its parts; those of an archive are unpacked for as long as it is open.

    results: the folder of records with the parts; None looks above the file. Raises
    CertificateError where the file is no certificate or was changed.
    """
    content = read_file(path)
    if not content.startswith(_ARCHIVE):
        certificate = parse(content, shown(path))
        yield Opened(certificate, results or _results_above(path))
        return
    entries = _entries(content, shown(path))
    certificate = parse(entries.get(NAME, b""), f"{NAME} in {shown(path)}")
    damage = "" if _archive(entries) == content else "bytes outside its parts were changed"
    with tempfile.TemporaryDirectory(prefix="certificate-") as name:
        folder = Path(name)
        for part, held in certificate.parts.items():
            if part in entries:
                place = folder / held.path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(entries[part])
        yield Opened(certificate, folder, damage)


def _results_above(path: Path) -> Path:
    """The nearest folder above a certificate that has runs, or ./results."""
    for folder in path.resolve().parents:
        if (folder / "runs").is_dir():
            return folder
    return Path("results")


def _entries(content: bytes, where: str) -> dict[str, bytes]:
    """Name -> bytes of an archive's stored entries.

    They are cut out without zipfile's own check, so that our hashes name the part that was changed.
    """
    found = {}
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        for entry in archive.infolist():
            named = len(entry.filename.encode())
            start = entry.header_offset + _LOCAL_HEADER + named
            found[entry.filename] = content[start : start + entry.compress_size]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeError) as error:
        raise CertificateError(
            f"{where} is damaged, or not a certificate: {error}; ask for it again"
        ) from error
    return found


def certificates(results: Path, problems: list[str]) -> list[Certificate]:
    """Every certificate that a folder of records has; unreadable ones are named."""
    found = []
    for path in found_in(results / FOLDER):
        try:
            found.append(read(path))
        except RecordError as error:
            problems.append(str(error))
    return found
