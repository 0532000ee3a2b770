"""From a config, or the record of a finished run, to the data, the network, its plan and its cost."""

from typing import Any

import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.convert import Plan, binarize_
from tbn_bench.cost import Cost, cost
from tbn_bench.inputs import constant_signs
from tbn_bench.records import RunRecord


def build(config: RunConfig) -> tuple[Any, nn.Module, Plan, Cost]:
    """(data module, binarized model, plan, cost), from the seed on. Raises ValueError for whatever the parts refuse."""
    data = catalog.build("data", config.data, batch_size=config.batch_size, seed=config.seed)
    catalog.load("tasks", catalog.parse(config.task)[0])
    torch.manual_seed(config.seed)
    model = catalog.build("models", config.model, num_classes=data.num_classes, in_shape=data.in_shape)
    plan = binarize_(model, config.binarizer, config.keep)
    try:
        total = cost(model, plan, data.in_shape)
        constant = constant_signs(model, data.in_shape)
    except RuntimeError as error:
        raise ValueError(f"{config.model} cannot take {config.data} samples of shape {data.in_shape}: {error}") from error
    if constant:
        plan.warnings.append(
            f"{', '.join(constant)}: the input never changes its sign, so its binary form says nothing; a ReLU before it? "
            "Use e.g. resnet_cifar(activation='hardtanh', shortcuts='conv')"
        )
    return data, model, plan, total


def start_from(model: nn.Module, source: nn.Module) -> None:
    """Copies source's weights, latent ones for latent ones, and its state into model where both have them, whatever binarizes either.

    Raises ValueError where a latent weight of model has no counterpart of its shape.
    """

    def plain(name: str) -> str:  # a.parametrizations.weight.original -> a.weight
        path, inside, rest = name.partition("parametrizations.")
        return path + rest.removesuffix(".original") if inside and rest.endswith(".original") else name

    theirs = {plain(k): v for k, v in source.state_dict().items()}
    state = model.state_dict()
    found = {k: theirs[plain(k)] for k, v in state.items() if plain(k) in theirs and theirs[plain(k)].shape == v.shape}
    missing = [n for n, _ in model.named_parameters() if plain(n).endswith("weight") and n not in found]
    if missing:
        raise ValueError(
            f"--init: the run to start from has no weight of the same shape for {', '.join(missing)}; use the same --model"
        )
    model.load_state_dict(found, strict=False)


def trained(record: RunRecord) -> tuple[Any, nn.Module, Plan]:
    """(data, model in eval mode, plan) of a finished run, from its best checkpoint. Raises ValueError where that is gone."""
    path = record.path / "checkpoints" / "best.ckpt"
    if not path.exists():
        raise ValueError(f"{path} is missing (checkpoints are not committed); run again: {make(record.config).command}")
    data, model, plan, _ = build(make(record.config))
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:
        raise ValueError(
            f"{path} is unreadable ({type(error).__name__}); delete {record.path} and run again: {make(record.config).command}"
        ) from error
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    return data, model.eval(), plan
