"""Weights of a float network from a safetensors file. What does not fit it is named.

A name may end in '#' and the first 12 hexadecimal digits of the file's sha256; another file of that
name is then refused.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

ENDING = ".safetensors"
_DIGITS = 12
_SHOWN = 5


def read(name: str) -> dict[str, Tensor]:
    """Tensor name -> tensor. Raises ValueError for a file that is missing, damaged or another."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    written, _, wanted = name.partition("#")
    path = Path(written)
    if path.suffix != ENDING:
        raise ValueError(
            f"{path}: expected a {ENDING} file of a network's state dict "
            "(safetensors.torch.save_file(model.state_dict(), FILE)); a pickle may run code"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    found = digest(content)
    if wanted and found != wanted:
        raise ValueError(
            f"{path} has changed: its sha256 begins with {found}, the run was made with {wanted}"
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error

    if _is_packed(content):
        raise ValueError(
            f"{path} is a file of tb.save; expected a network's state dict: "
            "safetensors.torch.save_file(model.state_dict(), FILE)"
        )
    return tensors


def _is_packed(content: bytes) -> bool:
    """Whether the file was written by this suite, which describes its tensors in the header."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__") or {}
    return "tbn_format_version" in metadata


def digest(content: bytes) -> str:
    whole = hashlib.sha256(content)
    return whole.hexdigest()[:_DIGITS]


def check(name: str, theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless the file has exactly the tensors of a network, in their shapes.

    Counters of batch normalisation may be missing.
    """
    found = {
        "missing": _missing(theirs, own),
        "unexpected": [key for key in theirs if key not in own],
        "misshaped": _misshaped(theirs, own),
    }
    faults = []
    for word, names in found.items():
        if names:
            some = _some(names)
            faults.append(f"{word}: {some}")
    if faults:
        said = "; ".join(faults)
        raise ValueError(f"{name} is not of this network; {said}")


def _missing(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    found = []
    for key in own:
        is_counter = key.endswith("num_batches_tracked")
        if key not in theirs and not is_counter:
            found.append(key)
    return found


def _misshaped(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    found = []
    for key, value in theirs.items():
        if key not in own:
            continue
        there = tuple(value.shape)
        here = tuple(own[key].shape)
        if there != here:
            found.append(f"{key} {there} instead of {here}")
    return found


def _some(names: list[str]) -> str:
    text = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{text} and {more} more" if more > 0 else text
