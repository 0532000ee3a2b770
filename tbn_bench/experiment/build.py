"""From a config, or the record of a finished run, to the data, the network, its plan and its cost."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import Cost, cost
from tbn_bench.convert.plan import Plan
from tbn_bench.layers.binary_input import constant_signs
from tbn_bench.optimizers._base import optimizer_of
from tbn_bench.records.store import RunRecord
from tbn_bench.scores import FIRST

TRAINING_IMAGES = 5_000  # for a model that starts from the data
_FAULTS = (
    RuntimeError,
    AssertionError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
)  # of a model
_NOT_ON_META = (
    RuntimeError,
    TypeError,
    catalog.EntryFailed,
)  # a tensor's values were asked for, or the model fails anywhere


def build(config: RunConfig, from_data: bool = False) -> tuple[Any, nn.Module, Plan, Cost]:
    """(data module, binarized model, plan, cost), from the seed on. Raises ValueError for whatever the parts refuse.

    from_data: the data are read, and a model that asks for training images starts from them (airbench's whitening filters). Without it
    no file is read: for plans, and for a model whose weights are loaded.
    """
    data = data_of(config)
    with _refused(config, data.in_shape):
        return data, *_network(config, offered(data) | (_sample(config, data) if from_data else {}))


@contextlib.contextmanager
def _refused(config: RunConfig, in_shape: Iterable[int]) -> Iterator[None]:
    """Whatever a model raises while it is built and run once is a ValueError, one line that says on which samples."""
    try:
        yield
    except _FAULTS as error:
        said = " ".join(str(error).split())
        kind = (
            "" if isinstance(error, RuntimeError | AssertionError) else f"{type(error).__name__}: "
        )
        raise ValueError(
            f"{config.model} cannot be built and run on {config.data} samples of shape {tuple(in_shape)}: {kind}{said}"
        ) from error


def check(config: RunConfig, forward: bool = True) -> None:
    """Raises ValueError for what a run of this config would refuse before its first step: data, model, binarizer, optimizer, task.

    No file is read. The model is on torch's meta device, unless it cannot live there. forward: it is run on one sample too.
    """
    data = data_of(config)
    given = offered(data)
    parts = _network if forward else _unused_network
    try:
        with torch.device("meta"):
            model = parts(config, given)[0]
    except _NOT_ON_META:
        with _refused(config, data.in_shape):
            model = parts(config, given)[0]
    build_task(config, data, model)


def sketch(config: RunConfig) -> tuple[Any, nn.Module, Plan, Cost]:
    """What build returns, with a model on torch's meta device: no weight is allocated, whatever its size.

    Where no data set is named, a model that knows its own form (from_timm: input size and classes) takes that, and the plan says so.
    A model that cannot live there, and one whose inputs are binarized (their signs are looked at), is built after all.
    """
    data, own = data_of(config), _own_form(config)
    given = offered(data) | own
    with _refused(config, given["in_shape"]):
        model, plan, total = _without_weights(config, given) or _network(config, given)
    if own:
        size = " x ".join(map(str, own["in_shape"]))
        plan.warnings.append(
            f"no --data: planned in the model's own form, {size} with num_classes={own['num_classes']}, not for {config.data}"
        )
    return data, model, plan, total


def _sample(config: RunConfig, data: Any) -> dict[str, Any]:
    """What the config's model asks of the training set: `training_images`, (N, *in_shape), normalised."""
    entry = catalog.load("models", catalog.parse(config.model)[0])
    if "training_images" not in inspect.signature(entry).parameters:
        return {}
    data.setup()
    return {"training_images": data.first("train", min(TRAINING_IMAGES, data.size("train")))}


def data_of(config: RunConfig) -> Any:
    """The data module of a config; no file is read. Raises ValueError where its labels are for another task."""
    data = catalog.build("data", config.data, batch_size=config.batch_size, seed=config.seed)
    catalog.check("tasks", config.task, ("model", "config", *OFFERS))
    task = catalog.parse(config.task)[0]
    entry = catalog.load("tasks", task)
    asked = [name for name in ("mixup", "cutmix", "tta") if getattr(config, name)]
    if asked and not (getattr(entry, "images", False) and len(data.in_shape) == 3):
        raise ValueError(
            f"{', '.join(asked)}: for the classification of images alone, got {config.task} on samples of shape "
            f"{tuple(data.in_shape)} of {config.data}; leave it out"
        )
    if task not in data.tasks:
        raise ValueError(
            f"{config.data} is for {' or '.join(data.tasks)}, got task {task}; use --task {data.tasks[0]}"
        )
    return data


def _own_form(config: RunConfig) -> dict[str, Any]:
    name, options = catalog.parse(config.model)
    own = getattr(catalog.load("models", name), "own_form", None)
    return {} if own is None or "data" in config.model_fields_set else own(**options)


def _without_weights(
    config: RunConfig, given: dict[str, Any]
) -> tuple[nn.Module, Plan, Cost] | None:
    """None where the model cannot live on the meta device, or has binarized inputs."""
    try:
        with torch.device("meta"):
            found = _network(config, given)
    except _NOT_ON_META:
        return None
    return None if any(r.activation_bits == 1 for r in found[1].rows) else found


def _unused_network(config: RunConfig, given: dict[str, Any]) -> tuple[nn.Module, Plan]:
    """(binarized model, plan), with an optimizer made for it once, and before any sample."""
    torch.manual_seed(config.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Initializing zero-element tensors"
        )  # refused in the next lines
        model = catalog.build("models", config.model, **given)
    empty = [name for name, parameter in model.named_parameters() if not parameter.numel()]
    if empty:
        raise ValueError(
            f"{config.model}: {empty[0]} has no elements; every width must be at least 1"
        )
    plan = binarize_(model, config.binarizer, config.keep)
    optimizer_of(model, config)  # refuses what it cannot train, before anything is recorded
    return model, plan


def _network(config: RunConfig, given: dict[str, Any]) -> tuple[nn.Module, Plan, Cost]:
    """(binarized model, plan, cost) for what a data module offers. Raises RuntimeError where the model cannot take the samples."""
    model, plan = _unused_network(config, given)
    total = cost(model, plan, given["in_shape"])
    constant = constant_signs(model, given["in_shape"])
    if constant:
        plan.warnings.append(
            f"{', '.join(constant)}: the input never changes its sign, so its binary form says nothing; a ReLU before it? "
            "Use e.g. resnet_cifar(activation='hardtanh', shortcuts='conv')"
        )
    unseen = [layer.row.name for layer in total.layers if not layer.macs]
    if unseen:
        named = ", ".join(unseen[:3]) + (f" and {len(unseen) - 3} more" if len(unseen) > 3 else "")
        plan.warnings.append(
            f"{named}: never called; the model does not use it or reads its weight by itself, so its multiply-adds are not counted and "
            "its input is not binarized"
        )
    return model, plan, total


def build_task(config: RunConfig, data: Any, model: nn.Module) -> Any:
    """The task of a config, with what the data module (set up) has to say to it: the number of classes, their weights, ..."""
    return catalog.build("tasks", config.task, model=model, config=config, **offered(data))


OFFERS = ("num_classes", "in_shape", "parts", "class_weights", "horizon", "targets")


def offered(data: Any) -> dict[str, Any]:
    """What models and tasks may ask of a data module, by name."""
    return {name: getattr(data, name) for name in OFFERS if hasattr(data, name)}


def outputs(
    call: Callable[[Tensor], Tensor], data: Any, device: str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """(outputs of call, y) of every test batch, on the CPU."""
    with torch.no_grad():
        for x, y in data.test_dataloader():
            yield call(data.prepare(x.to(device))).cpu(), y


def score_on_test(
    record: RunRecord, data: Any, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float, float]:
    """(score of these (outputs, y) by the task's own metric, the record's, how far they may be apart).

    That is one sample or 0.05 points of accuracy, and a thousandth of other scores: a network's file sums in another order.
    """
    task = build_task(make(record.config), data, model)
    metric = task.scores()[task.score]
    for found, y in batches:
        metric.update(found, y)
    recorded = float(record.summary[f"test/{task.score}"])
    return (
        float(metric.compute()),
        recorded,
        max(1.5 / data.size("test"), 0.0005) if task.score == FIRST else 1e-3 * recorded,
    )


def precision_hint(record: RunRecord) -> str:
    """Why a file may miss the score of this record; empty for a run that was trained in float32."""
    precision = record.config.get("precision", "32")
    if precision == "32":
        return ""
    return (
        f" (trained in {precision}; early versions tested such runs in {precision} too, while a file computes in float32: "
        "train it again with this version)"
    )


def start_from(model: nn.Module, source: nn.Module) -> None:
    """Copies source's weights, latent ones for latent ones, and its state into model where both have them, whatever binarizes either.

    A source whose latent weight did not learn (low_rank) gives the weight that it computes with. A method of model that derives state
    from its latent weight does so again, unless source had the same state. Raises ValueError where a latent weight of model has no
    counterpart of its shape.
    """

    def plain(name: str) -> str:  # a.parametrizations.weight.original -> a.weight
        path, inside, rest = name.partition("parametrizations.")
        return (
            path + rest.removesuffix(".original") if inside and rest.endswith(".original") else name
        )

    theirs = {plain(k): v for k, v in source.state_dict().items()}
    theirs |= dict(_computed(source))
    state = model.state_dict()
    found = {
        k: theirs[plain(k)]
        for k, v in state.items()
        if plain(k) in theirs and theirs[plain(k)].shape == v.shape
    }
    missing = [
        n for n, _ in model.named_parameters() if plain(n).endswith("weight") and n not in found
    ]
    if missing:
        raise ValueError(
            f"--init: the run to start from has no weight of the same shape for {', '.join(missing)}; use the same --model"
        )
    model.load_state_dict(found, strict=False)
    for name, chain in _chains(model):
        own = {f"{name}.{key}" for key in chain.state_dict() if key != "original"}
        if not own <= set(found):
            chain[0].restart(chain.original.detach())


def _chains(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, parametrization list) of every binarized weight."""
    for name, module in model.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            yield name, module


def _computed(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(a.weight, the dense weight) where the latent weight does not learn."""
    for name, chain in _chains(model):
        if not chain[0].learns_latent:
            yield name.replace("parametrizations.", ""), chain().detach()


def trained(record: RunRecord) -> tuple[Any, nn.Module, Plan]:
    """(data, model in eval mode, plan) of a finished run, from its best checkpoint. Raises ValueError where that is gone."""
    path = record.path / "checkpoints" / "best.ckpt"
    if not path.exists():
        raise ValueError(
            f"{path} is missing (checkpoints are not committed); run again: {make(record.config).command}"
        )
    data, model, plan, _ = build(make(record.config))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model.load_state_dict(own)
    except Exception as error:
        raise ValueError(
            f"{path} is unreadable ({type(error).__name__}); delete {record.path} and run again: {make(record.config).command}"
        ) from error
    return data, model.eval(), plan
