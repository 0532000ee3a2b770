"""What a given network or data set is, as short hashes: the identity of a run of objects."""

import hashlib
import inspect
import random
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import Subset, TensorDataset

from tbn_bench import fingerprint
from tbn_bench.data._given import Data, Source, length
from tbn_bench.experiment.random_state import random_state, restore_random_state

READ = 64  # samples of a data set that are read, evenly spaced
DIGITS = 12
# Of these the version in the record's provenance is enough.
_LIBRARIES = ("torch", "torchvision", "timm", "pytorch_lightning", "numpy", "PIL")
_PLAIN = (bool, int, float, str, type(None))


def type_name(value: Any) -> str:
    """package.module.Class of an object, or package.module.function."""
    has_name = inspect.isroutine(value) or inspect.isclass(value)
    named = value if has_name else type(value)
    module = named.__module__
    name = named.__qualname__
    return f"{module}.{name}"


def of_model(model: nn.Module) -> dict[str, str]:
    """type, architecture and weights of a network.

    architecture: of the module tree with its options, shapes and the source of its own classes.
    weights: of every parameter and buffer.
    """
    return {
        "type": type_name(model),
        "architecture": of_architecture(model),
        "weights": _of_weights(model),
    }


def _of_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    state = model.state_dict()
    for name, value in state.items():
        label = name.encode()
        content = _bytes_of(value)
        digest.update(label)
        digest.update(content)
    return digest.hexdigest()[:DIGITS]


def of_architecture(model: nn.Module) -> str:
    """A hash of everything about a network but the values of its tensors."""
    lines = []
    classes: set[type] = set()
    for name, module in model.named_modules():
        line = _module_line(name, module)
        lines.append(line)
        classes.update(type(module).__mro__)
    state = model.state_dict()
    for name, value in state.items():
        shape = tuple(value.shape)
        lines.append(f"{name} {shape} {value.dtype}")
    lines += _sources(classes)
    text = "\n".join(lines)
    return _hash(text)


def of_source(made: Callable[..., Any]) -> str:
    """A hash of the source of a function or class."""
    source = _source(made)
    return _hash(source)


def _module_line(name: str, module: nn.Module) -> str:
    words = [name, type_name(module), module.extra_repr()]
    attributes = sorted(vars(module).items())
    for key, value in attributes:
        is_option = not key.startswith("_") and key != "training"
        if is_option and _is_plain(value):
            words.append(f"{key}={value!r}")
    return " ".join(words)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return isinstance(value, _PLAIN)


def _sources(classes: set[type]) -> list[str]:
    """The sources of the classes that belong to no library, in order of their names."""
    own = []
    for kind in classes:
        library, _, _ = kind.__module__.partition(".")
        is_own = library not in _LIBRARIES and library not in sys.stdlib_module_names
        if is_own or library == "__main__":
            source = _source(kind)
            own.append(f"{type_name(kind)}: {source}")
    return sorted(own)


def _source(made: Callable[..., Any]) -> str:
    """Of a class or function: its syntax tree, else the names and code of its functions."""
    try:
        written = inspect.getsource(made)
        text = textwrap.dedent(written)
        return fingerprint.of_text(text)
    except (OSError, TypeError, SyntaxError):
        return _codes(made)


def _codes(made: Callable[..., Any]) -> str:
    """Where no file has the source: it was typed at a prompt, or is a part of an expression."""
    functions = [made]
    if inspect.isclass(made):
        functions += vars(made).values()
    codes = map(_code, functions)
    return " ".join(codes)


def _code(function: Any) -> str:
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    constants = [value for value in code.co_consts if _is_plain(value)]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {constants}"


def of_data(source: Source, classes: int | None) -> dict[str, Any]:
    """type, sizes and a hash of given data.

    The hash is of the source of the data sets' classes and of READ samples of each; of data in
    tensors, of every sample. Random transforms draw from fixed seeds. Where reading twice gives two
    results all the same, the samples are left out, and `samples` says so.
    """
    lines = [f"classes {classes}"]
    lines += _sources(_classes(source))
    first = _content(source)
    second = _content(source)
    found: dict[str, Any] = {"type": type_name(source.module or source.train)}
    if first == second:
        lines.append(first)
    else:
        found["samples"] = "differ when read twice"
    for name, samples in source.parts.items():
        found[name] = length(samples)
    text = "\n".join(lines)
    found["hash"] = _hash(text)
    return found


def _classes(source: Source) -> set[type]:
    found: set[type] = set()
    for samples in source.parts.values():
        found.update(_kinds(samples))
    return found


def _kinds(samples: Data) -> Iterator[type]:
    """The classes of a data set and of the one that it is a part of."""
    yield from type(samples).__mro__
    if isinstance(samples, Subset):
        yield from _kinds(samples.dataset)


def _content(source: Source) -> str:
    digest = hashlib.sha256()
    kept = random_state()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    try:
        for samples in source.parts.values():
            for value in _values(samples):
                content = _bytes_of(value)
                digest.update(content)
    finally:
        restore_random_state(kept)
    return digest.hexdigest()


def _values(samples: Data) -> Iterator[Any]:
    if isinstance(samples, TensorDataset):
        yield from samples.tensors
        return
    size = length(samples)
    positions = spaced(size, READ)
    for position in positions:
        sample = samples[position]
        yield from tree_leaves(sample)


def spaced(size: int, most: int) -> list[int]:
    """At most `most` positions of a set, evenly spaced, with the first and the last one."""
    if size <= most:
        return list(range(size))
    last = size - 1
    gaps = most - 1
    return [i * last // gaps for i in range(most)]


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, Tensor):
        whole = value.detach().cpu().contiguous()
        shape = f"{whole.dtype} {tuple(whole.shape)}"
        flat = whole.flatten().view(torch.uint8)
        return shape.encode() + flat.numpy().tobytes()
    if isinstance(value, np.ndarray):
        shape = f"{value.dtype} {value.shape}"
        return shape.encode() + value.tobytes()
    text = repr(value)
    return text.encode()


def _hash(text: str) -> str:
    data = text.encode()
    digest = hashlib.sha256(data)
    return digest.hexdigest()[:DIGITS]
