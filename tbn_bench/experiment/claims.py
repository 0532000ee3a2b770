"""What a certificate states, computed from the files: by certify, and again by verify."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tbn_bench.format.bits import packed_bytes
from tbn_bench.format.packed_file import Artifact
from tbn_bench.records import certificate
from tbn_bench.records.certificate import SAMPLE_BYTES, Claims, Data
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.scores import score_of


@dataclass(frozen=True)
class Sizes:
    """Of a packed file: weights, and the bits that they and all other tensors take.

    bits_per_weight: bits of weights / weights, the first and last layers included.
    """

    weights: int
    stored_bits: int
    stored_bytes: int
    bits_per_weight: float


def claims(record: RunRecord, content: Artifact) -> Claims:
    """What the record says, and the sizes that the packed file has."""
    summary = record.summary or {}
    score = score_of(summary)
    source = record.provenance
    sizes = sizes_of(content, summary.get("plan") or [])
    return Claims(
        config=record.config,
        command=source.get("command"),
        commit=source.get("commit"),
        dirty=source.get("dirty"),
        started=source.get("started"),
        track=summary.get("track") or source.get("track"),
        score=score,
        recorded=float(summary[f"test/{score}"]),
        weights=sizes.weights,
        stored_bits=sizes.stored_bits,
        stored_bytes=sizes.stored_bytes,
        file_bytes=(record.path / NETWORK).stat().st_size,
        bits_per_weight=sizes.bits_per_weight,
    )


def sizes_of(content: Artifact, plan: list[dict[str, Any]]) -> Sizes:
    """By the file's tensors alone. plan: names the tensors that are weights in full precision."""
    weights = 0
    bits = 0
    padding = 0
    stored = content.stored_bytes()
    for weight in content.weights.values():
        weights += weight.form.numel
        for part, size in weight.form.sizes.items():
            unused = 8 * packed_bytes(size) - size
            bits += 8 * stored[weight.names[part]] - unused
            padding += unused
    kept = {row["name"] for row in plan if not row["binarized"]}
    for name in kept & content.tensors.keys():
        weights += content.tensors[name].size
        bits += 8 * stored[name]
    payload = content.payload_bytes
    return Sizes(weights, 8 * payload - padding, payload, bits / max(1, weights))


def record_faults(record: RunRecord, found: Claims, content: Artifact) -> list[str]:
    """Where the record's own sizes are not those of its packed file.

    Of a small file the record says only how many weights it has.
    """
    summary = record.summary or {}
    names = ["weights"]
    if content.small is None:
        names += ["stored_bits", "stored_bytes", "bits_per_weight", "file_bytes"]
    faults = []
    for name in names:
        said = summary.get(name)
        got = getattr(found, name)
        if said is not None and not is_same(said, got):
            faults.append(f"{name}: the record says {said:,}, the packed file has {got:,}")
    return faults


def is_same(a: Any, b: Any) -> bool:
    """Equal; floats up to their last digits."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-12 * max(abs(a), abs(b))
    return bool(a == b)


def split_of(call: str, data: Any) -> tuple[Data, bytes]:
    """(the hashes of the test split, as it was read; samples.bin).

    call: of the data set. A hash is of the type, the shape of a sample, and all values.
    """
    inputs = hashlib.sha256()
    labels = hashlib.sha256()
    samples = bytearray()
    count = 0
    for x, y in data.test_dataloader():
        if not count:
            inputs.update(_kind(x))
            labels.update(_kind(y))
        for of_input, of_label in zip(_rows(x), _rows(y), strict=True):
            inputs.update(of_input)
            labels.update(of_label)
            samples += hashlib.sha256(of_input + of_label).digest()[:SAMPLE_BYTES]
            count += 1
    found = Data(
        call=call,
        samples=count,
        inputs_sha256=inputs.hexdigest(),
        labels_sha256=labels.hexdigest(),
    )
    return found, bytes(samples)


def _kind(values: Tensor) -> bytes:
    array = values.numpy()
    return f"{array.dtype.name} {array.shape[1:]}".encode()


def _rows(values: Tensor) -> list[bytes]:
    """The bytes of each sample, little-endian."""
    array = values.contiguous().numpy()
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return [row.tobytes() for row in little]


def same_samples(ours: bytes, theirs: bytes) -> np.ndarray:
    """(samples,) whether a sample of the data at hand is the certified one.

    Both: samples.bin. Samples that one side lacks are not the same.
    """
    count = max(len(ours), len(theirs)) // SAMPLE_BYTES
    same = np.zeros(count, dtype=bool)
    both = min(len(ours), len(theirs)) // SAMPLE_BYTES
    for i in range(both):
        where = slice(i * SAMPLE_BYTES, (i + 1) * SAMPLE_BYTES)
        same[i] = ours[where] == theirs[where]
    return same


def samples_path(content: bytes) -> str:
    """Of samples.bin below a folder of records: certificates of one test split share it."""
    name = certificate.digest(content)[:12]
    return f"{certificate.FOLDER}/data/{name}.bin"
