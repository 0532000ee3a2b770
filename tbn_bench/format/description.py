"""The description of the tensors in a packed file of format version 3: a short text.

The same network has the same text. It is JSON: a list of [modules, content]. `modules` are the
names of all modules of the same content. `content` is an object with one key for each tensor or
binary weight of such a module:

    "bias": [64]                          a float32 tensor and its shape
    "steps": {"int64": [3]}               a tensor of another type
    "running_mean": {"zeros": [64]}       a float32 tensor of zeros (or "ones"), of version 4 alone
    "weight": [[64, 64, 3, 3], 4, 4]      a binary weight: shape, p, number of scales; its tensors
                                          are those of its stored form (form.py)
    "weight": [[40, 36], 1, 1, {...}]     the same with all that differs from signs, float32 scales
                                          and aligned copies: code, index_bits, rank, exponents,
                                          offsets, copies, shifts; stem (below)

The tensors of a weight `layer.weight` are called layer.tile_bits, layer.alphas, layer.offsets,
layer.codebook; those of another attribute have its name before that
(attention.in_proj_weight_tile_bits). "stem" states any other name. A tensor that shares another's
values is no tensor of the file: aliases, {name: name of the other}.

The tensors follow one another in the order of the text: groups, modules of a group, keys, tensors
of a form. numpy alone.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbn_bench.format import strict_json
from tbn_bench.format.form import MOST_AXES, Form
from tbn_bench.format.layouts import Copies

# The names that a form's tensors have in a module.
BUFFERS = {"tile": "tile_bits", "alphas": "alphas", "offsets": "offsets", "codebook": "codebook"}

# numpy's name of each type that a packed file can hold -> that of safetensors, widest first.
TYPES = {
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
    "float32": "F32",
    "int32": "I32",
    "uint32": "U32",
    "float16": "F16",
    "int16": "I16",
    "uint16": "U16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
# Words for float32 tensors of one value, which take no bytes in a small file (small.py).
CONSTANTS = {"zeros": 0.0, "ones": 1.0}
_OPTIONS = {
    "code": str,
    "index_bits": int,
    "rank": int,
    "exponents": bool,
    "offsets": bool,
    "copies": str,
    "shifts": list,
    "stem": str,
}
_LARGEST = 2**40  # elements of one tensor
_MOST = 2**13  # tensors of a file


class Damaged(ValueError):
    """Something in a packed file that no writer makes."""


@dataclass(frozen=True)
class Weight:
    """A binary weight of the file: its form, and the name in the file of each of its tensors."""

    form: Form
    names: dict[str, str]

    @property
    def tile(self) -> str:
        return self.names["tile"]

    @property
    def alphas(self) -> str:
        return self.names["alphas"]


class Stored(NamedTuple):
    """A tensor of the file. dtype: numpy's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * np.dtype(self.dtype).itemsize


def _joined(module: str, key: str) -> str:
    return f"{module}.{key}" if module else key


def _split(name: str) -> tuple[str, str]:
    """a.b.weight -> (a.b, weight)."""
    module, _, key = name.rpartition(".")
    return module, key


def _usual_stem(key: str) -> str:
    return "" if key == "weight" else f"{key}_"


def _own_names(form: Form, module: str, stem: str) -> dict[str, str]:
    names = {}
    for part in form.sizes:
        key = stem + BUFFERS[part]
        names[part] = _joined(module, key)
    return names


# Writing.


def describe(
    tensors: Mapping[str, NDArray[Any]],
    weights: Mapping[str, Weight],
    aliases: Mapping[str, str],
    constants: Mapping[str, str] | None = None,
) -> tuple[str, list[Stored]]:
    """(the text, the tensors in its order).

    constants: name -> word of CONSTANTS, of the tensors that it names so.
    Raises ValueError for a content that the text has no words for.
    """
    modules = _specs(tensors, weights, aliases, constants or {})
    alike: dict[str, list[str]] = {}
    for module, content in modules.items():
        key = json.dumps(content)
        alike.setdefault(key, []).append(module)
    groups = []
    said = []
    for names in alike.values():
        content = modules[names[0]]
        groups.append([names, content])
        said.append(_ModulesAlike(names, _content(names, content)))
    text = json.dumps(groups, separators=(",", ":"))
    return text, list(_stored(said, aliases))


def _specs(
    tensors: Mapping[str, NDArray[Any]],
    weights: Mapping[str, Weight],
    aliases: Mapping[str, str],
    constants: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Module -> key -> spec, of all weights and of all tensors that belong to none."""
    modules: dict[str, dict[str, Any]] = {}
    owned: set[str] = set()
    for name, weight in weights.items():
        module, key = _split(name)
        stem = _stem(name, weight, aliases)
        content = modules.setdefault(module, {})
        content[key] = _weight_spec(weight.form, key, stem)
        own = _own_names(weight.form, module, stem)
        owned.update(own.values())
    for name, tensor in tensors.items():
        if name in owned:
            continue
        module, key = _split(name)
        content = modules.setdefault(module, {})
        if name in constants:
            word = constants[name]
            content[key] = {word: list(tensor.shape)}
        else:
            content[key] = _tensor_spec(name, tensor)
    return modules


def _stem(name: str, weight: Weight, aliases: Mapping[str, str]) -> str:
    """What the names of a weight's tensors begin with in its module."""
    module, key = _split(name)
    usual_stem = _usual_stem(key)
    for stem in (usual_stem, f"{key}_"):
        own = _own_names(weight.form, module, stem)
        if _resolved(own, aliases) == weight.names:
            return stem
    usual = _own_names(weight.form, module, usual_stem)
    raise ValueError(f"the tensors of {name} must be named as {usual}")


def _resolved(names: Mapping[str, str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Each name of a tensor that shares another's values as the name of the other."""
    return {part: aliases.get(name, name) for part, name in names.items()}


def _weight_spec(form: Form, key: str, stem: str) -> list[Any]:
    shifts = [] if form.copies is None else [list(shift) for shift in form.copies.shifts]
    options = {
        "code": form.code,
        "index_bits": form.index_bits,
        "rank": form.rank,
        "exponents": form.exponents,
        "offsets": form.offsets,
        "copies": form.kind,
        "shifts": shifts,
        "stem": stem,
    }
    usual = {
        "code": "sign",
        "index_bits": 0,
        "rank": 0,
        "exponents": False,
        "offsets": False,
        "copies": "aligned",
        "shifts": [],
        "stem": _usual_stem(key),
    }
    said = {option: value for option, value in options.items() if value != usual[option]}
    spec: list[Any] = [list(form.shape), form.p, form.scales]
    return [*spec, said] if said else spec


def _tensor_spec(name: str, tensor: NDArray[Any]) -> list[int] | dict[str, list[int]]:
    dtype = tensor.dtype.name
    shape = list(tensor.shape)
    if dtype not in TYPES:
        known = ", ".join(TYPES)
        raise ValueError(f"{name} is {dtype}; a packed file holds {known}")
    if dtype == "float32":
        return shape
    return {dtype: shape}


# Reading.


@dataclass(frozen=True)
class _Tensor:
    """What is said about a tensor. dtype: numpy's name."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Binary:
    """What is said about a binary weight. stem: what the names of its tensors begin with."""

    form: Form
    stem: str


@dataclass(frozen=True)
class _ModulesAlike:
    """Modules of the same content. They share one form object, however long its shifts are."""

    modules: list[str]
    content: dict[str, _Tensor | _Binary]


def parse(text: str, aliases: Mapping[str, str]) -> tuple[list[Stored], dict[str, Weight]]:
    """The tensors in their order, and the weights. Raises Damaged."""
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise Damaged(f"its description cannot be read ({error})") from error
    entries = _list(found, "its description")
    groups = [_group(entry) for entry in entries]
    stored = list(_stored(groups, aliases))
    weights = {}
    for module, key, said in _entries(groups):
        if isinstance(said, _Binary):
            own = _own_names(said.form, module, said.stem)
            name = _joined(module, key)
            weights[name] = Weight(said.form, _resolved(own, aliases))
    for tensor in stored:
        if tensor.name in weights:
            raise Damaged(f"{tensor.name} is a tensor and a binary weight")
    return stored, weights


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Damaged(f"{what} must be a list, got {strict_json.brief(value)}")
    return value


def _group(entry: Any) -> _ModulesAlike:
    is_pair = isinstance(entry, list) and len(entry) == 2
    if not is_pair or not isinstance(entry[1], dict):
        got = strict_json.brief(entry)
        raise Damaged(f"a group must be [modules, content], got {got}")
    names, content = entry
    modules = _list(names, "the modules of a group")
    if not all(isinstance(module, str) for module in modules):
        got = strict_json.brief(modules)
        raise Damaged(f"the modules of a group must be names, got {got}")
    return _ModulesAlike(modules, _content(modules, content))


def _content(modules: list[str], content: dict[str, Any]) -> dict[str, _Tensor | _Binary]:
    """By key. Errors name the first of the modules."""
    first = modules[0] if modules else ""
    said = {}
    for key, spec in content.items():
        name = _joined(first, key)
        said[key] = _said(name, key, spec)

    return said


def _said(name: str, key: str, spec: Any) -> _Tensor | _Binary:
    """What a spec says about one key of a module's content."""
    holds_list = isinstance(spec, list) and spec and isinstance(spec[0], list)
    if holds_list:
        return _binary(name, key, spec)
    dtype = "float32"
    shape = spec
    if isinstance(spec, dict) and len(spec) == 1:
        ((dtype, shape),) = spec.items()
    if dtype not in TYPES and dtype not in CONSTANTS:
        got = strict_json.brief(dtype)
        raise Damaged(f"{name}: unknown type {got}")
    axes = _shape(name, shape, 0)
    return _Tensor(dtype, axes)


def _stored(groups: Iterable[_ModulesAlike], aliases: Mapping[str, str]) -> Iterator[Stored]:
    """Every tensor of the file, in order."""
    seen: set[str] = set()
    for module, key, said in _entries(groups):
        for stored in _of(module, key, said):
            name = stored.name
            if name in seen:
                raise Damaged(f"the tensor {name} is described twice")
            if len(seen) == _MOST:
                raise Damaged(f"it describes more than {_MOST} tensors")
            seen.add(name)
            if name not in aliases:
                yield stored


def _entries(groups: Iterable[_ModulesAlike]) -> Iterator[tuple[str, str, _Tensor | _Binary]]:
    """(module, key, what is said about the key) of every group."""
    for group in groups:
        for module in group.modules:
            for key, said in group.content.items():
                yield module, key, said


def _of(module: str, key: str, said: _Tensor | _Binary) -> Iterator[Stored]:
    """The tensors of one key of a module's content."""
    if isinstance(said, _Tensor):
        name = _joined(module, key)
        yield Stored(name, said.dtype, said.shape)
        return
    form = said.form
    types = form.types
    lengths = form.lengths
    names = _own_names(form, module, said.stem)
    for part, own in names.items():
        shape = (lengths[part],)
        yield Stored(own, types[part], shape)


def _shape(name: str, value: Any, least: int) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_AXES:
        got = strict_json.brief(value)
        raise Damaged(f"{name}: a shape must be a list of up to {MOST_AXES} axes, got {got}")
    if not all(_is_size(n, least) for n in value):
        got = strict_json.brief(value)
        raise Damaged(f"{name}: impossible shape {got}")
    numel = prod(value)
    if numel > _LARGEST:
        raise Damaged(f"{name}: a shape of {numel} elements")
    return tuple(value)


def _is_size(value: Any, least: int) -> bool:
    if type(value) is not int:
        return False
    return least <= value <= _LARGEST


def _binary(name: str, key: str, spec: list[Any]) -> _Binary:
    shape = _shape(name, spec[0], 1)
    numbers = spec[1:3]
    complete = 3 <= len(spec) <= 4
    if not complete or not shape or not all(_is_size(n, 0) for n in numbers):
        got = strict_json.brief(spec)
        raise Damaged(f"weight {name}: expected [shape, p, scales, options], got {got}")
    p, scales = numbers
    options = spec[3] if len(spec) == 4 else {}
    _check_options(name, options)
    try:
        form = Form(
            shape,
            p,
            scales,
            options.get("code", "sign"),
            options.get("exponents", False),
            options.get("offsets", False),
            options.get("index_bits", 0),
            copies_of(shape, p, options),
            options.get("rank", 0),
        )
    except ValueError as error:
        raise Damaged(f"weight {name}: {error}") from error
    return _Binary(form, options.get("stem", _usual_stem(key)))


def _check_options(name: str, options: Any) -> None:
    """Raises Damaged unless they are known options, each of its type."""
    if not isinstance(options, dict):
        raise Damaged(f"weight {name}: its options cannot be read")
    wrong = []
    for option, value in options.items():
        if type(value) is not _OPTIONS.get(option):
            wrong.append(option)
    if wrong:
        listed = ", ".join(wrong)
        raise Damaged(f"weight {name}: its {listed[:60]} cannot be read")


def copies_of(shape: tuple[int, ...], p: int, options: Mapping[str, Any]) -> Copies | None:
    """The layout that a weight's options name. Raises ValueError where it does not make sense."""
    if "copies" not in options:
        return None
    shifts = options.get("shifts", [])
    if not all(map(_is_shift, shifts)):
        got = strict_json.brief(shifts)
        raise ValueError(f"its shifts must be lists of whole numbers, got {got}")

    kind = options["copies"]
    moves = map(tuple, shifts)
    return Copies(shape, p, kind, tuple(moves))


def _is_shift(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(type(move) is int for move in value)


# Both.


def blobs(stored: list[Stored]) -> dict[str, int]:
    """numpy type -> elements of all tensors of it, widest type first, as the file holds them."""
    counts = dict.fromkeys(TYPES, 0)
    for tensor in stored:
        counts[tensor.dtype] += tensor.numel
    found = {}
    for dtype, count in counts.items():
        if count:
            found[dtype] = count
    return found


def cut(stored: list[Stored], data: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors, from the values of each type: (n,). Raises Damaged for a wrong number."""
    wanted = blobs(stored)
    held = {dtype: values.size for dtype, values in data.items()}
    if wanted != held:
        raise Damaged(f"its tensors have {held} elements, its description says {wanted}")
    tensors = {}
    start = dict.fromkeys(TYPES, 0)
    for tensor in stored:
        name, dtype, shape = tensor
        first = start[dtype]
        last = first + tensor.numel
        start[dtype] = last
        if last == first:
            tensors[name] = np.empty(shape, dtype)
            continue
        values = data[dtype][first:last]
        tensors[name] = values.reshape(shape)
    return tensors
