"""From a config, or the record of a finished run, to the data, the network, its plan and its cost."""

from typing import Any

import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.convert import Plan, binarize_
from tbn_bench.cost import Cost, cost
from tbn_bench.records import RunRecord


def build(config: RunConfig) -> tuple[Any, nn.Module, Plan, Cost]:
    """(data module, binarized model, plan, cost), from the seed on. Raises ValueError for whatever the parts refuse."""
    data = catalog.build("data", config.data, batch_size=config.batch_size, seed=config.seed)
    catalog.load("tasks", catalog.parse(config.task)[0])
    torch.manual_seed(config.seed)
    model = catalog.build("models", config.model, num_classes=data.num_classes, in_shape=data.in_shape)
    plan = binarize_(model, config.binarizer, config.keep)
    try:
        return data, model, plan, cost(model, plan, data.in_shape)
    except RuntimeError as error:
        raise ValueError(f"{config.model} cannot take {config.data} images of shape {data.in_shape}: {error}") from error


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
