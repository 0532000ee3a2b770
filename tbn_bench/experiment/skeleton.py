"""The network of a packed file that names its config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import catalog, convert
from tbn_bench.config import RunConfig, make
from tbn_bench.convert.binarize import binarize_inputs_
from tbn_bench.experiment.build import offered
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import ArtifactError


def load(path: Path) -> nn.Module:
    """The packed network of a packed file. Raises ArtifactError if it names no config."""
    content = packed_file.read(path)
    if content.config is None:
        raise ArtifactError(
            f"{path} does not say which network it holds; use convert.load_(model, path)"
        )
    try:
        model = skeleton(content.config)
    except ValueError as error:
        raise ArtifactError(f"{path} names a network that cannot be built here: {error}") from error
    return convert.load_(model, content)


def skeleton(config: dict[str, Any]) -> nn.Module:
    """The full-precision network of a run's config. What a packed file holds is on the meta device.

    Tensors that no file holds (positions, masks, indices of a window) are real. Raises ValueError
    for a config that cannot be built.
    """
    run = make(config)
    given = offered(catalog.build("data", run.data))
    try:
        with torch.device("meta"):
            model = _built(run, given)
    except (RuntimeError, TypeError):  # the constructor reads the values of a tensor
        return _real(run, given)
    has_unsaved = next(_unsaved(model), None) is not None
    if has_unsaved:
        _copy_unsaved_(model, _real(run, given))
    return model


def _built(run: RunConfig, given: dict[str, Any]) -> nn.Module:
    model: nn.Module = catalog.build("models", run.model, **given)
    binarize_inputs_(model, run.binarizer, run.keep)
    return model


def _real(run: RunConfig, given: dict[str, Any]) -> nn.Module:
    """A network with memory. The caller's random numbers continue as if it had not been built."""
    with torch.random.fork_rng(devices=[]):
        return _built(run, given)


def _unsaved(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, attribute, tensor) of every tensor that state_dict() leaves out.

    These are non-persistent buffers and plain attributes.
    """
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            buffer = module._buffers[name]
            if buffer is not None:
                yield module, name, buffer
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield module, name, value


def _copy_unsaved_(model: nn.Module, source: nn.Module) -> None:
    """Puts the unsaved tensors of source into model. Both are built from one config."""
    pairs = zip(_unsaved(model), _unsaved(source), strict=True)
    for (module, name, _), (_, _, value) in pairs:
        setattr(module, name, value)


def materialised(model: nn.Module) -> nn.Module:
    """The same network with memory, of arbitrary content, for what is on the meta device."""

    def with_memory(tensor: Tensor) -> Tensor:
        if not tensor.is_meta:
            return tensor
        return torch.empty_like(tensor, device="cpu")

    return model._apply(with_memory)  # type: ignore[no-untyped-call,no-any-return]
