"""Packed networks as files (format/packed_file.py): save writes one, load reads it into a model."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbn_bench.convert.fold_norms import fold_norms
from tbn_bench.convert.pack import call_layers_, packed_kind
from tbn_bench.format import packed_file
from tbn_bench.format.description import BUFFERS, Damaged, Weight
from tbn_bench.format.form import Form
from tbn_bench.format.packed_file import Artifact, ArtifactError
from tbn_bench.format.small import Small
from tbn_bench.layers.bits_inside import keep_bits_
from tbn_bench.layers.mixed_copies import enlarge_
from tbn_bench.layers.packed import Packed, how_computed

MOST_GROWTH = 100  # of the weight of shifted copies, where a layer multiplies by it enlarged

State = dict[str, Tensor]


def save(
    model: nn.Module,
    path: str | Path,
    config: dict[str, Any] | None = None,
    commit: str | None = None,
    *,
    fold_norm: bool = False,
    side: str = "float32",
    kept: str = "float32",
    short_header: bool = False,
) -> int:
    """Writes a packed model as a packed file and returns its bytes. Raises ArtifactError.

    config, commit: as in to_artifact. The options make a small file; the model stays as it is.
    fold_norm: batch norm as two numbers per channel. side: float16 or bfloat16 for scales, biases
    and norms. kept: int8 for weights in full precision. short_header: compressed metadata.

    Raises ValueError for a type that does not exist.
    """
    content = to_artifact(model, config, commit)
    options = Small(side, kept, short_header)
    if fold_norm or options != Small():
        content = small_artifact(model, content, options, fold_norm)
    return packed_file.write(Path(path), content)


def small_artifact(
    model: nn.Module, content: Artifact, options: Small, fold_norm: bool = False
) -> Artifact:
    """The content of a small file, with the values that its reader gets. Raises ArtifactError.

    content: of the model's packed file. The model is read for its batch norms alone.
    """
    if fold_norm:
        tensors = fold_norms(model, content.tensors, content.aliases)
        content = dataclasses.replace(content, tensors=tensors)
    return packed_file.rounded(content, options)


def load(model: nn.Module, path: str | Path | Artifact) -> nn.Module:
    """As load_, but the given model stays as it is and a packed copy is returned."""
    return load_(copy.deepcopy(model), path)


def load_(model: nn.Module, path: str | Path | Artifact) -> nn.Module:
    """Turns a full-precision model of the same architecture, in place, into the network of a file.

    The network is in eval mode. The model may be on the meta device: dense weights are then never
    made. Raises ArtifactError where file and model do not fit.
    """
    content = path if isinstance(path, Artifact) else packed_file.read(Path(path))
    _check_inputs(model, content)
    state = {name: torch.from_numpy(np.array(value)) for name, value in content.tensors.items()}
    state |= {name: state[target] for name, target in content.aliases.items()}
    try:
        for name, weight in content.weights.items():
            _install(model, name, weight, state)
    except AttributeError as error:
        raise _foreign(model, error) from error
    call_layers_(model)
    _load_state(model, state)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def to_artifact(
    model: nn.Module, config: dict[str, Any] | None = None, commit: str | None = None
) -> Artifact:
    """The content of the packed file of a model, packed or full-precision.

    It is the model's state without training counters, and shared tensors once. config: of the run,
    as far as it differs from the defaults (RunConfig.non_defaults).

    Raises ArtifactError for a type that numpy lacks (bfloat16), and for scales that are not finite.
    """
    tensors: dict[str, NDArray[Any]] = {}
    aliases: dict[str, str] = {}
    seen: dict[Any, str] = {}
    unneeded = _training_only(model)
    for name, value in model.state_dict().items():
        if name in unneeded:
            continue
        where = _place(value) if value.numel() else name
        if where in seen:
            aliases[name] = seen[where]
        else:
            seen[where] = name
            tensors[name] = _array(name, value)
    weights = {}
    for name, weight in _packed_weights(model):
        names = {part: aliases.get(tensor, tensor) for part, tensor in weight.names.items()}
        weights[name] = Weight(weight.form, names)
    content = Artifact(tensors, weights, aliases, config, commit, _inputs(model))
    try:
        content.check()
    except Damaged as error:
        raise ArtifactError(f"{type(model).__name__} cannot be a packed file: {error}") from error
    return content


def _packed_weights(model: nn.Module) -> Iterator[tuple[str, Weight]]:
    """Every packed weight of a model, by the name of its full-precision weight."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Packed):
            yield f"{prefix}weight", _weight(module.form, prefix)
        inside: dict[str, Form] = getattr(module, "packed_weights", {})
        for attribute, form in inside.items():
            own = f"{prefix}{attribute}"
            yield own, _weight(form, f"{own}_")


def _weight(form: Form, stem: str) -> Weight:
    """A weight whose tensors have names that begin with `stem`."""
    names = {}
    for part in form.sizes:
        names[part] = f"{stem}{BUFFERS[part]}"
    return Weight(form, names)


def _training_only(model: nn.Module) -> set[str]:
    """Names of state that inference does not need.

    They are counters of batch normalisation and schedules of activations.
    """
    found = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        schedules = getattr(module, "training_only", ())
        unneeded = {"num_batches_tracked", *schedules}
        for key in module._buffers:
            if key in unneeded:
                name = f"{prefix}.{key}"
                found.add(name.lstrip("."))
    return found


def _array(name: str, value: Tensor) -> NDArray[Any]:
    try:
        array: NDArray[Any] = value.detach().cpu().contiguous().numpy()
    except TypeError as error:
        raise ArtifactError(
            f"{name} is {value.dtype}, which a packed file cannot hold; call model.float() first"
        ) from error
    return array


def _place(value: Tensor) -> tuple[Any, ...]:
    """Memory, type and layout: two tensors that agree in them are one.

    A transpose starts at the same address and may have the same shape; its strides differ. The
    stride of an axis of length 1 means nothing.
    """
    strides = []
    for step, length in zip(value.stride(), value.shape, strict=True):
        if length > 1:
            strides.append(step)
    return value.data_ptr(), value.dtype, value.shape, tuple(strides)


def _inputs(model: nn.Module) -> dict[str, str]:
    """Layer -> kind of the binarizer that its input passes.

    The binarizer may have no tensors, and a network without it computes something else.
    """
    found = {}
    for name, module in model.named_modules():
        binarizer = getattr(module, "input_binarizer", None)
        if binarizer is not None:
            found[name] = type(binarizer).__name__
    return found


def _check_inputs(model: nn.Module, content: Artifact) -> None:
    own = _inputs(model)
    if own == content.inputs:
        return
    theirs = packed_file.one_line(str(content.inputs or "no layer"))
    raise ArtifactError(
        f"the file's network binarizes the inputs of {theirs}, "
        f"this {type(model).__name__} of {own or 'no layer'}; "
        "call convert.binarize_inputs_(model, spec, keep) first"
    )


def _load_state(model: nn.Module, state: State) -> None:
    """Loads the tensors of a file. Training counters, which it lacks, become zeros."""
    own: State = model.state_dict()
    for name in _training_only(model):
        if name in own:
            counter = own[name]
            state[name] = torch.zeros(counter.shape, dtype=counter.dtype)
    for name, tensor in state.items():
        mine = own.get(name)
        if mine is None or tensor.is_floating_point() == mine.is_floating_point():
            continue
        why = f"{name} is {tensor.dtype} in the file and {mine.dtype} in it"
        raise _foreign(model, why)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _foreign(model, error) from error


def _foreign(model: nn.Module, why: object) -> ArtifactError:
    kind = type(model).__name__
    text = str(why)
    said = packed_file.one_line(text)
    return ArtifactError(f"the file does not belong to this {kind}: {said}")


def _install(model: nn.Module, name: str, weight: Weight, state: State) -> None:
    """Puts one packed weight into its module; replaces the module where it has a packed form."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, Packed) and attribute == "weight":
        return  # a second name of a layer that is used twice
    _check_place(model, name, module, attribute, weight.form)
    tensors = {part: state[tensor] for part, tensor in weight.names.items()}
    kind = packed_kind(module)
    if kind is None:
        keep_bits_(module, attribute, weight.form, tensors)
        if weight.form.reach:
            enlarge_(module, weight.form.reach)
        return
    layer = kind(module, weight.form, tensors)
    modules = list(model.named_modules(remove_duplicate=False))
    for other, candidate in modules:
        if candidate is module:
            model.set_submodule(other, layer)


def _check_place(
    model: nn.Module, name: str, module: nn.Module, attribute: str, form: Form
) -> None:
    """Raises ArtifactError where a weight of this form cannot be that parameter of the module."""
    own = module._parameters.get(attribute)
    if own is None:
        raise _foreign(model, f"{name} is a weight in the file and no parameter of the model")
    if tuple(own.shape) != form.shape:
        shapes = f"{form.shape} in the file and {tuple(own.shape)} in the model"
        raise _foreign(model, f"{name} is {shapes}")
    kind = packed_kind(module)
    if module is model and kind is not None:
        raise ArtifactError(
            f"a bare {type(model).__name__} cannot be replaced in place; "
            "wrap it: nn.Sequential(layer)"
        )
    if kind is not None and attribute != "weight":
        of = type(module).__name__
        raise _foreign(model, f"{name} has bits in the file; of a {of} the weight alone can")

    if form.kind == "shifted":
        lacking = _lacks_for_shifts(module, form)
        if lacking:
            why = f"the copies of {name} are shifted in the file; that needs {lacking}"
            raise _foreign(model, why)


def _lacks_for_shifts(module: nn.Module, form: Form) -> str:
    """The property that a layer lacks to move the copies of a tile, or ""."""
    is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d)
    if not is_convolution or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return "a convolution that pads with zeros by a number"
    groups = int(getattr(module, "groups", 1))
    if packed_kind(module) is not None and how_computed(form, groups) == "tile reuse":
        return ""
    # the layer multiplies by the enlarged weight
    own_bytes = 4 * form.numel
    if form.dense_bytes <= max(packed_file.DENSE_BYTES, MOST_GROWTH * own_bytes):
        return ""
    growth = form.dense_bytes // own_bytes
    return f"a kernel {growth} times as large, {MOST_GROWTH} is the most"
