"""The packed file: a safetensors file whose binary weights are bits. numpy only; tensors of a network are what packed.py makes of it.

Every tensor is an ordinary safetensors tensor. A binary weight `layer.weight` is those of its stored form (storage.py: tile, alphas,
and for some methods codebook and offsets), named in the metadata.
Metadata (strings, as the format asks): format = "pt"; tbn_format_version = "2"; tbn_layers = JSON {weight name: {tile, alphas, shape, p,
q, bit_order, sha256 of the tile's bytes; where they differ from signs, float32 scales and aligned copies also code, index_bits, codebook,
exponents, offsets, copies, shifts, rank}}; tbn_aliases = JSON {name: name of the tensor it shares}; tbn_inputs = JSON {layer: kind of
its input binarizer}; tbn_config = JSON of the run's config or
null; producer, commit. Version 1 had none of the optional fields and is read too.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tbn_bench import __version__
from tbn_bench.copies import Copies
from tbn_bench.storage import Form

VERSION = 2
READABLE = ("1", "2")
BIT_ORDER = "lsb first, set = +1"
_FIELDS = {"tile": str, "alphas": str, "shape": list, "p": int, "q": int, "bit_order": str, "sha256": str}
_OPTIONAL = {
    "code": str, "index_bits": int, "codebook": str, "exponents": bool, "offsets": str, "copies": str, "shifts": list,
    "rank": int,
}  # fmt: skip


class ArtifactError(ValueError):
    """A packed file that must not be used: damaged, of another version, or not a packed file at all."""


@dataclass(frozen=True)
class Weight:
    """Where a binary weight lies in the file: its form, and the name in the file of each of the form's tensors."""

    form: Form
    names: dict[str, str]

    @property
    def tile(self) -> str:
        return self.names["tile"]

    @property
    def alphas(self) -> str:
        return self.names["alphas"]


@dataclass
class Artifact:
    """A packed file in memory. `tensors` holds each tensor once; `aliases` names those that share one."""

    tensors: dict[str, NDArray[Any]]
    weights: dict[str, Weight]
    aliases: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    commit: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)  # layer -> the kind of binarizer that its input passes

    @property
    def payload_bytes(self) -> int:
        """Bytes of all tensors: what cost.stored_bytes predicts. The rest of the file is its header."""
        return sum(t.nbytes for t in self.tensors.values())

    def dense(self) -> dict[str, NDArray[np.float32]]:
        """Every binary weight as the float32 array it stands for, by name."""
        return {n: w.form.dense({k: self.tensors[v] for k, v in w.names.items()}) for n, w in self.weights.items()}


def _entry(weight: Weight, tile: NDArray[Any]) -> dict[str, Any]:
    """A weight's description in the metadata."""
    form, names = weight.form, weight.names
    entry = {
        "tile": weight.tile, "alphas": weight.alphas, "shape": list(form.shape), "p": form.p, "q": form.q, "bit_order": BIT_ORDER,
        "sha256": hashlib.sha256(tile.tobytes()).hexdigest(),
    }  # fmt: skip
    entry |= {"exponents": True} if form.exponents else {}
    entry |= {"offsets": names["offsets"]} if form.offsets else {}
    entry |= {"code": form.code} if form.code != "sign" else {}
    entry |= {"codebook": names["codebook"], "index_bits": form.index_bits} if form.code == "codebook" else {}
    entry |= {"rank": form.rank} if form.code == "low_rank" else {}
    if form.copies is not None:
        entry |= {"copies": form.copies.kind, "shifts": [list(s) for s in form.copies.shifts]}
    return entry


def write(path: Path, artifact: Artifact) -> int:
    """Writes the file, whole or not at all, and returns its size in bytes. Raises ArtifactError where that fails."""
    layers = {name: _entry(w, artifact.tensors[w.tile]) for name, w in artifact.weights.items()}
    metadata = {
        "format": "pt", "tbn_format_version": str(VERSION), "tbn_layers": json.dumps(layers),
        "tbn_aliases": json.dumps(artifact.aliases), "tbn_config": json.dumps(artifact.config), "tbn_inputs": json.dumps(artifact.inputs),
        "producer": f"tbn_bench {__version__}", "commit": artifact.commit or "",
    }  # fmt: skip
    data = save({k: np.ascontiguousarray(v) for k, v in artifact.tensors.items()}, metadata)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(f"cannot write {path}: {error.strerror}; free space or choose another --out") from error
    return len(data)


def read(path: Path) -> Artifact:
    """Reads and checks a packed file. Nothing in it is executed. Raises ArtifactError, saying what is wrong with which file."""
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            _check_version(path, metadata)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}; export it again") from error
    try:
        layers, aliases, config = (json.loads(metadata[k]) for k in ("tbn_layers", "tbn_aliases", "tbn_config"))
        inputs = json.loads(metadata.get("tbn_inputs", "{}"))
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} has damaged metadata: {error}; export it again") from error
    if not all(isinstance(v, dict) for v in (layers, aliases, inputs)):
        raise ArtifactError(f"{path} has damaged metadata: layers, aliases and inputs must be JSON objects; export it again")
    weights = {name: _weight(path, name, entry, tensors) for name, entry in layers.items()}
    for name, target in aliases.items():
        if target not in tensors:
            raise ArtifactError(f"{path}: {name} shares the tensor {target!r}, which is missing; export it again")
    return Artifact(tensors, weights, aliases, config, metadata.get("commit") or None, inputs)


def _check_version(path: Path, metadata: dict[str, str]) -> None:
    found = metadata.get("tbn_format_version")
    if found is None:
        raise ArtifactError(f"{path} is a safetensors file but not a packed network (no tbn_format_version)")
    if found not in READABLE:
        raise ArtifactError(
            f"{path} has format version {found!r}, this tbn_bench reads {' and '.join(READABLE)}; use the version that wrote it"
        )


def _weight(path: Path, name: str, entry: Any, tensors: dict[str, NDArray[Any]]) -> Weight:
    def refuse(why: str) -> ArtifactError:
        return ArtifactError(f"{path}: weight {name}: {why}; export it again")

    if not isinstance(entry, dict) or any(not isinstance(entry.get(k), kind) for k, kind in _FIELDS.items()):
        raise refuse(f"its description must have {', '.join(_FIELDS)}")
    shape = entry["shape"]
    if not shape or not all(isinstance(n, int) and 0 < n < 2**31 for n in shape) or entry["p"] < 1:
        raise refuse(f"impossible shape {shape} or p = {entry['p']}")
    numel = int(np.prod(shape, dtype=object))
    if numel % entry["p"] or entry["q"] != numel // entry["p"]:
        raise refuse(f"p = {entry['p']} and q = {entry['q']} do not make {numel} weights")
    if wrong := [k for k, kind in _OPTIONAL.items() if not isinstance(entry.get(k, kind()), kind)]:
        raise refuse(f"its {', '.join(wrong)} cannot be read")
    names = {k: entry[k] for k in ("tile", "alphas", "codebook", "offsets") if k in entry}
    if not all(name in tensors for name in names.values()):
        raise refuse("its tensors are missing")
    if entry["bit_order"] != BIT_ORDER:
        raise refuse(f"unknown bit order {entry['bit_order']!r}")
    try:
        form = _form(entry, len(tensors[names["alphas"]]) if tensors[names["alphas"]].ndim == 1 else -1)
    except (ValueError, TypeError) as error:
        raise refuse(str(error)) from error
    if fault := form.check({k: tensors[name] for k, name in names.items()}):
        raise refuse(fault)
    if hashlib.sha256(tensors[names["tile"]].tobytes()).hexdigest() != entry["sha256"]:
        raise refuse("the hash of its tile is wrong: the file is damaged")
    return Weight(form, names)


def _form(entry: dict[str, Any], scales: int) -> Form:
    """The stored form that a description names. Raises ValueError where it does not make sense."""
    if scales < 0:
        raise ValueError("its alphas must have one dimension")
    shape, copies = tuple(entry["shape"]), None
    if "copies" in entry:
        copies = Copies(shape, entry["p"], entry["copies"], tuple(tuple(int(v) for v in s) for s in entry.get("shifts", [])))
    return Form(
        shape, entry["p"], scales, entry.get("code", "sign"), entry.get("exponents", False), "offsets" in entry,
        entry.get("index_bits", 0), copies, entry.get("rank", 0),
    )  # fmt: skip
