"""The packed file: a safetensors file whose binary weights are bits. numpy only; tensors of a network are what packed.py makes of it.

Every tensor is an ordinary safetensors tensor. A binary weight `layer.weight` is two of them, named in the metadata:
    tile    uint8 (ceil(q / 8),)   its q = N / p signs, in bits.py's order
    alphas  float32 (k,)           scales, each covering N / k consecutive weights (row-major); k = 0 for a method without scale
Metadata (strings, as the format asks): format = "pt"; tbn_format_version = "1"; tbn_layers = JSON {weight name: {tile, alphas, shape, p,
q, bit_order, sha256 of the tile's bytes}}; tbn_aliases = JSON {name: name of the tensor it shares}; tbn_config = JSON of the run's
config or null; producer, commit.
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

from tbn_bench import __version__, bits

VERSION = 1
BIT_ORDER = "lsb first, set = +1"
_FIELDS = {"tile": str, "alphas": str, "shape": list, "p": int, "q": int, "bit_order": str, "sha256": str}


class ArtifactError(ValueError):
    """A packed file that must not be used: damaged, of another version, or not a packed file at all."""


@dataclass(frozen=True)
class Weight:
    """Where a binary weight lies in the file: names of its tensors, the shape it stands for, p."""

    tile: str
    alphas: str
    shape: tuple[int, ...]
    p: int

    @property
    def q(self) -> int:
        return int(np.prod(self.shape)) // self.p


@dataclass
class Artifact:
    """A packed file in memory. `tensors` holds each tensor once; `aliases` names those that share one."""

    tensors: dict[str, NDArray[Any]]
    weights: dict[str, Weight]
    aliases: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    commit: str | None = None

    @property
    def payload_bytes(self) -> int:
        """Bytes of all tensors: what cost.stored_bytes predicts. The rest of the file is its header."""
        return sum(t.nbytes for t in self.tensors.values())

    def dense(self) -> dict[str, NDArray[np.float32]]:
        """Every binary weight as the float32 array it stands for, by name."""
        return {
            name: dense_weight(self.tensors[w.tile], self.tensors[w.alphas], w.shape, w.p) for name, w in self.weights.items()
        }


def dense_weight(tile: NDArray[np.uint8], alphas: NDArray[np.float32], shape: tuple[int, ...], p: int) -> NDArray[np.float32]:
    """The float32 weight that a tile's bits and its alphas stand for."""
    signs = bits.unpack(tile, int(np.prod(shape)) // p).astype(np.float32)
    copies = np.tile(signs, p).reshape(max(1, len(alphas)), -1)
    return (copies * alphas[:, None] if len(alphas) else copies).reshape(shape)


def write(path: Path, artifact: Artifact) -> int:
    """Writes the file, whole or not at all, and returns its size in bytes. Raises ArtifactError where that fails."""
    layers = {
        name: {"tile": w.tile, "alphas": w.alphas, "shape": list(w.shape), "p": w.p, "q": w.q, "bit_order": BIT_ORDER,
               "sha256": hashlib.sha256(artifact.tensors[w.tile].tobytes()).hexdigest()}
        for name, w in artifact.weights.items()
    }  # fmt: skip
    metadata = {
        "format": "pt", "tbn_format_version": str(VERSION), "tbn_layers": json.dumps(layers),
        "tbn_aliases": json.dumps(artifact.aliases), "tbn_config": json.dumps(artifact.config),
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
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"{path} has damaged metadata: {error}; export it again") from error
    if not isinstance(layers, dict) or not isinstance(aliases, dict):
        raise ArtifactError(f"{path} has damaged metadata: layers and aliases must be JSON objects; export it again")
    weights = {name: _weight(path, name, entry, tensors) for name, entry in layers.items()}
    for name, target in aliases.items():
        if target not in tensors:
            raise ArtifactError(f"{path}: {name} shares the tensor {target!r}, which is missing; export it again")
    return Artifact(tensors, weights, aliases, config, metadata.get("commit") or None)


def _check_version(path: Path, metadata: dict[str, str]) -> None:
    found = metadata.get("tbn_format_version")
    if found is None:
        raise ArtifactError(f"{path} is a safetensors file but not a packed network (no tbn_format_version)")
    if found != str(VERSION):
        raise ArtifactError(f"{path} has format version {found!r}, this tbn_bench reads {VERSION}; use the version that wrote it")


def _weight(path: Path, name: str, entry: Any, tensors: dict[str, NDArray[Any]]) -> Weight:
    def refuse(why: str) -> ArtifactError:
        return ArtifactError(f"{path}: weight {name}: {why}; export it again")

    if not isinstance(entry, dict) or any(not isinstance(entry.get(k), kind) for k, kind in _FIELDS.items()):
        raise refuse(f"its description must have {', '.join(_FIELDS)}")
    shape = entry["shape"]
    if not shape or not all(isinstance(n, int) and 0 < n < 2**31 for n in shape) or entry["p"] < 1:
        raise refuse(f"impossible shape {shape} or p = {entry['p']}")
    numel = int(np.prod(shape, dtype=object))
    tile, alphas = tensors.get(entry["tile"]), tensors.get(entry["alphas"])
    if tile is None or alphas is None:
        raise refuse("its tensors are missing")
    if numel % entry["p"] or entry["q"] != numel // entry["p"]:
        raise refuse(f"p = {entry['p']} and q = {entry['q']} do not make {numel} weights")
    if tile.dtype != np.uint8 or tile.shape != (bits.packed_bytes(entry["q"]),):
        raise refuse(f"its tile is {tile.dtype} {tile.shape}, expected uint8 ({bits.packed_bytes(entry['q'])},)")
    if alphas.dtype != np.float32 or alphas.ndim != 1 or (len(alphas) and numel % len(alphas)):
        raise refuse(f"its alphas are {alphas.dtype} {alphas.shape}, expected float32 (k,) with k dividing {numel}")
    if entry["bit_order"] != BIT_ORDER:
        raise refuse(f"unknown bit order {entry['bit_order']!r}")
    if hashlib.sha256(tile.tobytes()).hexdigest() != entry["sha256"]:
        raise refuse("the hash of its tile is wrong: the file is damaged")
    return Weight(entry["tile"], entry["alphas"], tuple(shape), entry["p"])
