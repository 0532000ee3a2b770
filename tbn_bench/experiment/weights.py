"""Where a network's weights come from, if not from its seed: a checkpoint, or another network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench.config import make
from tbn_bench.experiment.build import Experiment, build, data_of
from tbn_bench.experiment.skeleton import load
from tbn_bench.models import _float_weights
from tbn_bench.records.files import RecordError
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore

_PREFIX = "model."  # of the network's state in a task's checkpoint


def trained(record: RunRecord) -> Experiment:
    """A finished run with the weights of its best checkpoint, the model in eval mode.

    Raises ValueError if the checkpoint is missing or unreadable.
    """
    config = make(record.config)
    path = _checkpoint(record)
    if not path.exists():
        why = "checkpoints are not committed"
        if record.status != "finished":
            why = f"the run is {record.status}"
        raise ValueError(f"{path} is missing ({why}); run again: {config.command}")

    found = build(config)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        own = {}
        for name, value in state.items():
            if name.startswith(_PREFIX):
                own[name.removeprefix(_PREFIX)] = value
        found.model.load_state_dict(own)
    except Exception as error:
        raise ValueError(
            f"{path} is unreadable ({type(error).__name__}); "
            f"delete {record.path} and run again: {config.command}"
        ) from error
    found.model.eval()
    return found


def _checkpoint(record: RunRecord) -> Path:
    return record.path / "checkpoints" / "best.ckpt"


def has_weights(record: RunRecord) -> bool:
    """Whether a run has its checkpoint or its packed network here."""
    return _checkpoint(record).exists() or (record.path / NETWORK).exists()


def trained_or_packed(record: RunRecord) -> tuple[Any, nn.Module]:
    """A run's data and its network in eval mode: of its checkpoint, else of its packed file.

    Checkpoints are not committed, packed networks are. Raises ValueError where there is neither,
    or the one that is there cannot be read.
    """
    packed = record.path / NETWORK
    if _checkpoint(record).exists() or not packed.exists():
        run = trained(record)
        return run.data, run.model
    return data_of(make(record.config)), load(packed).eval()


def trained_model(store: RunStore, name: str, flag: str) -> nn.Module:
    """The trained model of the run SWEEP/RUN_ID, which `flag` names.

    Raises ValueError if there is no such finished run.
    """
    sweep, _, run_id = name.rpartition("/")
    try:
        record = store.read(sweep, run_id)
        if record.status != "finished":
            raise ValueError(f"its status is {record.status}")
        return trained(record).model
    except (RecordError, ValueError) as error:
        raise ValueError(
            f"{flag}={name}: {error}; it must be a finished run under --results"
        ) from error


def start_from(model: nn.Module, source: nn.Module, classes: int | None = None) -> list[str]:
    """Copies source's weights and state into model, where both have them in one shape.

    Each may be binarized in its own way; latent weights become latent weights. If the latent weight
    of source does not learn (low_rank), the weight that it computes with is copied. A binarizer of
    model that derives state from its latent weight derives it again, unless source has that state.
    classes: of the data. If source has another number of classes, its classifier is left out.
    Returns the names of the tensors of model that keep their random values for that reason.
    Raises ValueError if another weight of model has no counterpart of its shape.
    """
    theirs = {plain_name(name): value for name, value in source.state_dict().items()}
    theirs |= dict(_computed(source))
    found = {}
    own = {}
    for name, value in model.state_dict().items():
        plain = plain_name(name)
        own[plain] = value
        other = theirs.get(plain)
        if other is not None and other.shape == value.shape:
            found[name] = other
    fresh = _of_other_classes(theirs, own, classes)
    has = {plain_name(name) for name in found}
    weights = [plain_name(name) for name, _ in model.named_parameters()]
    missing = [name for name in weights if name.endswith("weight") and name not in {*has, *fresh}]
    if missing:
        raise ValueError(
            "--init: the run to start from has no weight of the same shape "
            f"for {', '.join(missing)}; use the same --model"
        )
    _install(model, found)
    return fresh


def _of_other_classes(
    theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: int | None
) -> list[str]:
    """Names of the tensors that differ in the number of classes alone: those of a classifier.

    [] if a tensor differs in another way too: then it is another network.
    """
    found = []
    for name, value in own.items():
        other = theirs.get(name)
        is_of_binarizer = "parametrizations." in name  # derived again from the weight
        if other is None or other.shape == value.shape or is_of_binarizer:
            continue

        is_per_class = bool(value.ndim) and value.shape[0] == classes
        if not is_per_class or other.shape[1:] != value.shape[1:]:
            return []

        found.append(name)
    return found


def _install(model: nn.Module, found: dict[str, Tensor]) -> None:
    """Loads these tensors. State that a binarizer derives from its weight is derived again."""
    model.load_state_dict(found, strict=False)
    for name, chain in _chains(model):
        own = {f"{name}.{key}" for key in chain.state_dict() if key != "original"}
        if not own <= set(found):
            chain[0].restart(chain.original.detach())


def start_from_file(model: nn.Module, file: str, classes: int | None = None) -> list[str]:
    """Copies the tensors of a float network's state dict into a model, binarized or not.

    file: a safetensors file, perhaps with its hash (models/_float_weights.py). classes: of the
    data. If the file has another number of classes, its classifier is left out.
    Returns the names of the tensors of model that keep their random values for that reason.
    Raises ValueError that names what is missing, unexpected or misshaped.
    """
    theirs = _float_weights.read(file)
    names = {}
    own = {}
    for name, value in model.state_dict().items():
        plain = plain_name(name)
        if "parametrizations." not in plain and "input_binarizer." not in plain:
            names[plain] = name
            own[plain] = value
    fresh = _of_other_classes(theirs, own, classes)
    fitting = theirs | {plain: own[plain] for plain in fresh}
    _float_weights.check(f"--init: {file}", fitting, own)
    found = {names[plain]: theirs[plain] for plain in theirs if plain not in fresh}
    _install(model, found)
    return fresh


def plain_name(name: str) -> str:
    """a.parametrizations.weight.original -> a.weight; other names stay."""
    path, inside, rest = name.partition("parametrizations.")
    attribute = rest.removesuffix(".original")
    if inside and attribute != rest:
        return path + attribute
    return name


def _chains(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, parametrization list) of every binarized weight."""
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            yield name, module


def _computed(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(a.weight, the dense weight) for every latent weight that does not learn."""
    for name, chain in _chains(model):
        method = chain[0]
        if not method.learns_latent:
            weight = chain().detach()
            yield name.replace("parametrizations.", ""), weight
