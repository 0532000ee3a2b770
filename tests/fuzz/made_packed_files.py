"""Packed files that the suite reads and does not write: of version 2, and of version 3 with any content under a right hash."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from tbn_bench.format.description import Weight
from tbn_bench.format.description_v2 import BIT_ORDER
from tbn_bench.format.packed_file import Artifact


def entry(weight: Weight, tile: np.ndarray) -> dict[str, Any]:
    """A weight's description in the metadata."""
    form, names = weight.form, weight.names
    found = {
        "tile": names["tile"],
        "alphas": names["alphas"],
        "shape": list(form.shape),
        "p": form.p,
        "q": form.q,
        "bit_order": BIT_ORDER,
        "sha256": hashlib.sha256(tile.tobytes()).hexdigest(),
    }
    if form.exponents:
        found["exponents"] = True
    if form.offsets:
        found["offsets"] = names["offsets"]
    if form.code != "sign":
        found["code"] = form.code
    if form.code == "codebook":
        found |= {"codebook": names["codebook"], "index_bits": form.index_bits}
    if form.code == "low_rank":
        found["rank"] = form.rank
    if form.copies is not None:
        found |= {"copies": form.copies.kind, "shifts": [list(s) for s in form.copies.shifts]}
    return found


def metadata_2(content: Artifact) -> dict[str, str]:
    layers = {name: entry(w, content.tensors[w.tile]) for name, w in content.weights.items()}
    return {
        "format": "pt",
        "tbn_format_version": "2",
        "tbn_layers": json.dumps(layers),
        "tbn_aliases": json.dumps(content.aliases),
        "tbn_config": json.dumps(content.config),
        "tbn_inputs": json.dumps(content.inputs),
        "producer": "tbn_bench 0.1.0",
        "commit": content.commit or "",
    }


def write_2(path: Path, content: Artifact) -> None:
    """As the suite wrote it before version 3."""
    tensors = {name: np.ascontiguousarray(value) for name, value in content.tensors.items()}
    path.write_bytes(save(tensors, metadata_2(content)))


def opened(content: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, tensors) of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def sealed(header: dict[str, Any], data: bytes) -> bytes:
    """A file of version 3 of any header and tensors, with the hash that belongs to them."""
    header["__metadata__"]["sha256"] = "0" * 64
    return sealed_text(json.dumps(header, separators=(",", ":")), data)


def sealed_text(text: str, data: bytes) -> bytes:
    """The same of a header's text, with 64 zeros where its hash belongs."""
    text += " " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text.encode()
    digest = hashlib.sha256(start + data).hexdigest()
    return start.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest.encode()) + data
