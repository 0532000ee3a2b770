"""From a config to an Experiment: its data, network, plan and cost.

build makes a network to train. sketch makes one without weights, for plans. check makes as little
as can tell whether a run of the config would be refused.
"""

import contextlib
import inspect
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import RunConfig
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import Cost, cost
from tbn_bench.convert.plan import Plan
from tbn_bench.layers.binary_input import constant_signs
from tbn_bench.optimizers._base import optimizer_of

TRAINING_IMAGES = 5_000  # for a model that starts from the data

# what a model can raise
_FAULTS = (
    RuntimeError,
    AssertionError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
)
# what a model raises on the meta device if it reads a tensor's values, or if it fails anywhere
_NOT_ON_META = (RuntimeError, TypeError, catalog.EntryFailed)


@dataclass
class Experiment:
    """One run before it starts.

    data: an entry of data/. model: the binarized network. plan: how each weight is binarized.
    cost: stored bits and multiply-adds.
    """

    config: RunConfig
    data: Any
    model: nn.Module
    plan: Plan
    cost: Cost


def build(config: RunConfig, from_data: bool = False) -> Experiment:
    """The experiment of a config, its weights drawn from the config's seed.

    from_data: read the data. A model that asks for training images then starts from them
    (airbench's whitening filters). Otherwise no file is read, as for plans and loaded weights.
    Raises ValueError for a config that its parts refuse.
    """
    data = data_of(config)
    with _refused(config, data.in_shape):
        given = offered(data)
        if from_data:
            given |= _sample(config, data)
        return _experiment(config, data, given)


def sketch(config: RunConfig) -> Experiment:
    """The experiment of a config on torch's meta device: no weight is allocated, whatever its size.

    If no data set is named, a model that knows its input size and classes (from_timm) takes these,
    and the plan says so. A model that cannot be on the meta device, and one with binarized inputs
    (whose signs are inspected), is built as by `build`. A task without options is checked by
    its name alone: its losses and metrics need Lightning, which a plan does without.
    """
    data = _described(config)
    _, task_options = catalog.parse(config.task)
    if task_options:
        _check_task(config)
    _check_labels(config, data)
    own = _own_form(config)
    given = offered(data) | own
    with _refused(config, given["in_shape"]):
        found = _without_weights(config, data, given)
        if found is None:
            found = _experiment(config, data, given)
    if own:
        size = " x ".join(map(str, own["in_shape"]))
        classes = own["num_classes"]
        found.plan.warnings.append(
            f"no --data: planned in the model's own form, {size} "
            f"with num_classes={classes}, not for {config.data}"
        )
    return found


def check(config: RunConfig, forward: bool = True) -> None:
    """Raises ValueError for a config that a run would refuse before its first step.

    No file is read. The model is on the meta device, unless it cannot be there. forward: also run
    the model on one sample.
    """
    data = data_of(config)
    given = offered(data)
    try:
        with torch.device("meta"):
            model = _checked(config, data, given, forward)
    except _NOT_ON_META:
        with _refused(config, data.in_shape):
            model = _checked(config, data, given, forward)
    build_task(config, data, model)


def _checked(config: RunConfig, data: Any, given: dict[str, Any], forward: bool) -> nn.Module:
    if forward:
        return _experiment(config, data, given).model
    return _network(config, given)[0]


@contextlib.contextmanager
def _refused(config: RunConfig, in_shape: Iterable[int]) -> Iterator[None]:
    """Turns an error of a model, built or run here, into a ValueError of one line."""
    try:
        yield
    except _FAULTS as error:
        said = " ".join(str(error).split())
        if not isinstance(error, RuntimeError | AssertionError):
            said = f"{type(error).__name__}: {said}"
        raise ValueError(
            f"{config.model} cannot be built and run on {config.data} samples "
            f"of shape {tuple(in_shape)}: {said}"
        ) from error


def data_of(config: RunConfig) -> Any:
    """The data module of a config; no file is read.

    Raises ValueError if its labels are for another task.
    """
    data = _described(config)
    _check_task(config)
    task, _ = catalog.parse(config.task)
    entry = catalog.load("tasks", task)
    takes_images = getattr(entry, "images", False) and len(data.in_shape) == 3
    asked = [name for name in ("mixup", "cutmix", "tta") if getattr(config, name)]
    if asked and not takes_images:
        raise ValueError(
            f"{', '.join(asked)}: for the classification of images alone, "
            f"got {config.task} on samples of shape {tuple(data.in_shape)} of {config.data}; "
            "leave it out"
        )
    _check_labels(config, data)
    return data


def _described(config: RunConfig) -> Any:
    """The data module of a config; nothing else is checked."""
    return catalog.build("data", config.data, batch_size=config.batch_size, seed=config.seed)


def _check_task(config: RunConfig) -> None:
    """Raises ValueError for an option that the task does not have."""
    catalog.check("tasks", config.task, ("model", "config", *catalog.OFFERS))


def _check_labels(config: RunConfig, data: Any) -> None:
    """Raises ValueError if the labels of the data are for another task."""
    task, _ = catalog.parse(config.task)
    if task not in data.tasks:
        raise ValueError(
            f"{config.data} is for {' or '.join(data.tasks)}, got task {task}; "
            f"use --task {data.tasks[0]}"
        )


def offered(data: Any) -> dict[str, Any]:
    """What models and tasks may ask of a data module, by name."""
    return {name: getattr(data, name) for name in catalog.OFFERS if hasattr(data, name)}


def build_task(config: RunConfig, data: Any, model: nn.Module) -> Any:
    """The task of a config. It takes what it needs from the data module, which is set up."""
    return catalog.build("tasks", config.task, model=model, config=config, **offered(data))


def _sample(config: RunConfig, data: Any) -> dict[str, Any]:
    """What the config's model asks of the training set.

    That is nothing, or `training_images`: (N, *in_shape), normalised.
    """
    name, _ = catalog.parse(config.model)
    entry = catalog.load("models", name)
    options = inspect.signature(entry).parameters
    if "training_images" not in options:
        return {}
    data.setup()
    count = min(TRAINING_IMAGES, data.size("train"))
    return {"training_images": data.first("train", count)}


def _own_form(config: RunConfig) -> dict[str, Any]:
    """in_shape and num_classes of a model that knows them, if the config names no data set."""
    name, options = catalog.parse(config.model)
    own = getattr(catalog.load("models", name), "own_form", None)
    if own is None or "data" in config.model_fields_set:
        return {}
    form: dict[str, Any] = own(**options)
    return form


def _without_weights(config: RunConfig, data: Any, given: dict[str, Any]) -> Experiment | None:
    """On the meta device. None if the model cannot be there, or has binarized inputs."""
    try:
        with torch.device("meta"):
            found = _experiment(config, data, given)
    except _NOT_ON_META:
        return None
    if any(row.activation_bits == 1 for row in found.plan.rows):
        return None
    return found


def _network(config: RunConfig, given: dict[str, Any]) -> tuple[nn.Module, Plan]:
    """(binarized model, plan), before any sample.

    Raises ValueError for an empty parameter, and for a model that the config's optimizer refuses.
    """
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        # an empty parameter is refused below
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        model = catalog.build("models", config.model, **given)
    for name, parameter in model.named_parameters():
        if not parameter.numel():
            raise ValueError(
                f"{config.model}: {name} has no elements; every width must be at least 1"
            )
    plan = binarize_(model, config.binarizer, config.keep)
    optimizer_of(model, config)  # refuses before anything is recorded
    return model, plan


def _experiment(config: RunConfig, data: Any, given: dict[str, Any]) -> Experiment:
    """given: what the model may ask for. Raises RuntimeError if it cannot take the samples."""
    model, plan = _network(config, given)
    total = cost(model, plan, given["in_shape"])
    constant = constant_signs(model, given["in_shape"])
    if constant:
        plan.warnings.append(
            f"{', '.join(constant)}: the input never changes its sign, "
            "so its binary form says nothing; a ReLU before it? "
            "Use e.g. resnet_cifar(activation='hardtanh', shortcuts='conv')"
        )
    unseen = [layer.row.name for layer in total.layers if not layer.macs]
    if unseen:
        plan.warnings.append(
            f"{_some(unseen)}: never called; "
            "the model does not use it or reads its weight by itself, "
            "so its multiply-adds are not counted and its input is not binarized"
        )
    return Experiment(config, data, model, plan, total)


def _some(names: list[str], most: int = 3) -> str:
    text = ", ".join(names[:most])
    rest = len(names) - most
    if rest > 0:
        text += f" and {rest} more"
    return text
