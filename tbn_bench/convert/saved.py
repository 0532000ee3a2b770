"""Packed networks as files (format/packed_file.py): save writes one, load reads it into a model of the same architecture."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench.convert.pack import call_layers_, packed_kind
from tbn_bench.format import packed_file
from tbn_bench.format.description import BUFFERS, Damaged
from tbn_bench.format.form import Form
from tbn_bench.format.packed_file import Artifact, ArtifactError, Weight
from tbn_bench.layers import mixed_copies
from tbn_bench.layers.bits_inside import keep_bits_
from tbn_bench.layers.packed import Packed, how_computed

MOST_GROWTH = 100  # of the weight of shifted copies, where a layer needs it enlarged


def _weights(model: nn.Module) -> dict[str, Weight]:
    """Every packed weight of a model, by the name its full-precision weight has."""
    found = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, Packed):
            found[f"{prefix}weight"] = Weight(
                module.form, {k: f"{prefix}{BUFFERS[k]}" for k in module.form.sizes}
            )
        for attribute, form in getattr(module, "packed_weights", {}).items():
            stem = f"{prefix}{attribute}"
            found[stem] = Weight(form, {k: f"{stem}_{BUFFERS[k]}" for k in form.sizes})
    return found


def _training_only(model: nn.Module) -> set[str]:
    """Names of state that inference does not need: counters of batch normalisation, schedules of activations."""
    return {
        f"{prefix}.{key}".lstrip(".")
        for prefix, module in model.named_modules(remove_duplicate=False)
        for key in module._buffers
        if key == "num_batches_tracked" or key in getattr(module, "training_only", ())
    }


def to_artifact(
    model: nn.Module, config: dict[str, Any] | None = None, commit: str | None = None
) -> Artifact:
    """The content of the packed file of a packed (or full-precision) model: its state without training counters, shared tensors once.

    config: of the run, as far as it differs from the defaults (RunConfig.non_defaults). Raises ArtifactError for a type that
    numpy lacks (bfloat16), and for scales that are not finite.
    """
    tensors: dict[str, np.ndarray] = {}
    aliases, seen, unneeded = {}, {}, _training_only(model)
    for name, value in model.state_dict().items():
        if name in unneeded:
            continue
        where = _place(value) if value.numel() else name
        if where in seen:
            aliases[name] = seen[where]
            continue
        seen[where] = name
        tensors[name] = _array(name, value)
    weights = {
        name: Weight(w.form, {k: aliases.get(n, n) for k, n in w.names.items()})
        for name, w in _weights(model).items()
    }
    content = Artifact(tensors, weights, aliases, config, commit, _inputs(model))
    try:
        content.check()
    except Damaged as error:
        raise ArtifactError(f"{type(model).__name__} cannot be a packed file: {error}") from error
    return content


def _array(name: str, value: Tensor) -> np.ndarray:
    try:
        return value.detach().cpu().contiguous().numpy()
    except TypeError as error:
        raise ArtifactError(
            f"{name} is {value.dtype}, which a packed file cannot hold; call model.float() first"
        ) from error


def _place(value: Tensor) -> tuple[Any, ...]:
    """What two tensors must have in common to be one: memory, type and layout.

    A transpose starts at the same address and may have the same shape; its strides differ. The stride of an axis of
    length 1 means nothing.
    """
    strides = [step for step, length in zip(value.stride(), value.shape, strict=True) if length > 1]
    return value.data_ptr(), value.dtype, value.shape, tuple(strides)


def _inputs(model: nn.Module) -> dict[str, str]:
    """Layer -> kind of the binarizer that its input passes: it may have no tensors, and a network without it computes something else."""
    found = {
        name: getattr(module, "input_binarizer", None) for name, module in model.named_modules()
    }
    return {
        name: type(binarizer).__name__ for name, binarizer in found.items() if binarizer is not None
    }


def save(
    model: nn.Module,
    path: str | Path,
    config: dict[str, Any] | None = None,
    commit: str | None = None,
) -> int:
    """Writes a packed model as a packed file (packed_file.py) and returns its bytes. Raises ArtifactError."""
    return packed_file.write(Path(path), to_artifact(model, config, commit))


def load_(model: nn.Module, path: str | Path | Artifact) -> nn.Module:
    """Turns a full-precision model of the same architecture, in place, into the packed network of a file; in eval mode.

    The model may be on the meta device: dense weights are then never made. Raises ArtifactError where file and model do not fit.
    """
    content = path if isinstance(path, Artifact) else packed_file.read(Path(path))
    state = {k: torch.from_numpy(np.array(v)) for k, v in content.tensors.items()}
    if (own := _inputs(model)) != content.inputs:
        theirs = packed_file.one_line(str(content.inputs or "no layer"))
        raise ArtifactError(
            f"the file's network binarizes the inputs of {theirs}, this {type(model).__name__} of {own or 'no layer'}; "
            "call convert.binarize_inputs_(model, spec, keep) first"
        )
    state |= {name: state[target] for name, target in content.aliases.items()}
    try:
        for name, weight in content.weights.items():
            _install(model, name, weight, state)
    except AttributeError as error:
        raise _foreign(model, error) from error
    call_layers_(model)
    own = model.state_dict()
    state |= {
        k: torch.zeros(own[k].shape, dtype=own[k].dtype) for k in _training_only(model) if k in own
    }
    for name, tensor in state.items():
        if name in own and tensor.is_floating_point() != own[name].is_floating_point():
            raise _foreign(
                model, f"{name} is {tensor.dtype} in the file and {own[name].dtype} in it"
            )
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _foreign(model, error) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def load(model: nn.Module, path: str | Path | Artifact) -> nn.Module:
    """As load_, but the given model stays as it is and a packed copy is returned."""
    return load_(copy.deepcopy(model), path)


def _foreign(model: nn.Module, why: object) -> ArtifactError:
    said = packed_file.one_line(str(why))
    return ArtifactError(f"the file does not belong to this {type(model).__name__}: {said}")


def _install(model: nn.Module, name: str, weight: Weight, state: dict[str, Tensor]) -> None:
    """Puts one packed weight into its module, replacing the module by its packed form where there is one."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    if (
        isinstance(module, Packed) and attribute == "weight"
    ):  # a second name of a layer that is used twice
        return
    _check_place(model, name, module, attribute, weight.form)
    tensors = {k: state[n] for k, n in weight.names.items()}
    kind = packed_kind(module)
    if kind is None:
        keep_bits_(module, attribute, weight.form, tensors)
        if weight.form.weight_shape != weight.form.shape:
            mixed_copies.enlarge_(module, weight.form.copies.reach)
        return
    layer = kind(module, weight.form, tensors)
    for other, candidate in list(model.named_modules(remove_duplicate=False)):
        if candidate is module:
            model.set_submodule(other, layer)


def _check_place(
    model: nn.Module, name: str, module: nn.Module, attribute: str, form: Form
) -> None:
    """Raises ArtifactError where a binary weight of this form cannot be that parameter of a model's layer."""
    own = module._parameters.get(attribute)
    if own is None:
        raise _foreign(model, f"{name} is a weight in the file and no parameter of the model")
    if tuple(own.shape) != form.shape:
        raise _foreign(
            model, f"{name} is {form.shape} in the file and {tuple(own.shape)} in the model"
        )
    kind = packed_kind(module)
    if module is model and kind is not None:
        raise ArtifactError(
            f"a bare {type(model).__name__} cannot be replaced in place; wrap it: nn.Sequential(layer)"
        )
    if kind is not None and attribute != "weight":
        raise _foreign(
            model, f"{name} has bits in the file; of a {type(module).__name__} the weight alone can"
        )
    if form.kind == "shifted" and (why := _why_unmoved(module, form)):
        raise _foreign(model, f"the copies of {name} are shifted in the file; that needs {why}")


def _why_unmoved(module: nn.Module, form: Form) -> str:
    """What a layer lacks to move the copies of a tile, or ''."""
    is_convolution = isinstance(module, nn.Conv1d | nn.Conv2d)
    if not is_convolution or isinstance(module.padding, str) or module.padding_mode != "zeros":
        return "a convolution that pads with zeros by a number"
    if packed_kind(module) is not None and how_computed(form, False, module.groups) == "tile reuse":
        return ""
    most = max(
        packed_file.DENSE_BYTES, MOST_GROWTH * 4 * form.numel
    )  # the layer multiplies by the enlarged weight
    return (
        ""
        if form.dense_bytes <= most
        else f"a kernel {form.dense_bytes // (4 * form.numel)} times as large, {MOST_GROWTH} is the most"
    )
