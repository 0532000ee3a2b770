"""train(model=net, data=(train, test)): a run of objects, recorded like any other."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import given_data, given_model
from tbn_bench.experiment.given_data import Held, Samples, Split
from tbn_bench.experiment.options import RunOptions
from tbn_bench.experiment.train import Announce, run
from tbn_bench.records.run import RunRecord

_OPTIONS = tuple(field.name for field in fields(RunOptions))


def train(
    config: RunConfig | None = None,
    options: RunOptions | None = None,
    resume: bool = True,
    announce: Announce | None = None,
    *,
    model: nn.Module | Callable[..., nn.Module] | str | None = None,
    data: Any = None,
    num_classes: int | None = None,
    val_size: int | None = None,
    split_seed: int = 0,
    **settings: Any,
) -> RunRecord:
    """Trains one network, selects its epoch on held-out samples, tests once, writes the record.

    config: as `tbn-bench train` makes it; with it, options, resume and announce alone are used.
    model: a network; a function or class that makes one; or a call such as "mlp(hidden=[64])".
    data: (train, test) of two data sets or two DataLoaders; a LightningDataModule; or a call.
    Samples are (x, y). settings: fields of Config (binarizer, epochs, lr, ...) and of RunOptions
    (results, sweep, device, threads, ...).

    A network is copied: training starts from its weights, and the given one stays as it is. A
    function is called after the seed is set, so runs of several seeds are one row of a table.
    val_size training samples (default: a tenth) are held out by split_seed. num_classes: where
    neither the network's output nor the labels tell.
    resume: go on from the last checkpoint, and return a finished run as it is.

    Raises ValueError before anything is recorded for input that does not fit. Other errors are
    those of `tbn_bench.experiment.train.run`.

    >>> import torch
    >>> import tbn_bench as tb
    >>> from torch.utils.data import TensorDataset
    >>> x, y = torch.randn(120, 8), torch.arange(120) % 2
    >>> data = (TensorDataset(x[:100], y[:100]), TensorDataset(x[100:], y[100:]))
    >>> run = tb.train(model=torch.nn.Sequential(torch.nn.Linear(8, 2)), data=data,
    ...                binarizer="bwn", epochs=1, wandb="off")  # doctest: +ELLIPSIS
    epoch 1/1 ...
    >>> run.summary["train_samples"], run.summary["test_samples"]
    (90, 20)
    """
    if config is not None:
        if model is not None or data is not None or settings:
            raise ValueError("give a Config, or model=, data= and settings, not both")
        return run(config, options, resume, announce)
    _check_names(settings)
    with ExitStack() as stack:
        split = Split(num_classes, val_size, split_seed)
        made = _config(model, data, split, settings, stack)
        execution = _execution(options, settings, made)
        return run(made, execution, resume, announce)


def holding(
    model: Any = None,
    data: Any = None,
    num_classes: int | None = None,
    val_size: int | None = None,
    split_seed: int = 0,
    **settings: Any,
) -> ExitStack:
    """Within the block, every function can make the objects of such a run again.

    The arguments are those of `train`. Use it for what goes by a record, such as an export.
    Raises ValueError as train does.
    """
    _check_names(settings)
    stack = ExitStack()
    _config(model, data, Split(num_classes, val_size, split_seed), settings, stack)
    return stack


def _check_names(settings: dict[str, Any]) -> None:
    known = {*RunConfig.model_fields, *_OPTIONS}
    for name in settings:
        if name not in known:
            hint = catalog.did_you_mean(name, known)
            raise ValueError(f"unknown setting {catalog.short(name)}{hint}")


def _config(
    model: Any, data: Any, split: Split, settings: dict[str, Any], stack: ExitStack
) -> RunConfig:
    """The config of the run. The objects are held until `stack` is closed."""
    own = {name: value for name, value in settings.items() if name in RunConfig.model_fields}
    samples = None
    if data is None or isinstance(data, str):
        own |= {"data": data} if data else {}
    else:
        samples = given_data.read(data)
        own.setdefault("batch_size", samples.batch_size)
    if model is None or isinstance(model, str):
        own |= {"model": model} if model else {}
    base = make(own)
    if samples is not None:
        classes = _classes(model, samples, split, base)
        held = samples.held(split, classes)
        stack.enter_context(held.open())
        own["data"] = held.call
    if model is not None and not isinstance(model, str):
        held = _held_model(model, make(own))
        stack.enter_context(held.open())
        own["model"] = held.call
    return make(own)


def _classes(model: Any, samples: Samples, split: Split, config: RunConfig) -> int | None:
    """The number of classes, after the labels are checked. None for a task without classes."""
    if "classification" not in config.task:
        return split.num_classes
    classes = split.num_classes
    if isinstance(model, nn.Module):
        outputs = given_model.classes_of(model, samples.x)
        if classes not in (None, outputs):
            raise ValueError(
                f"num_classes={classes}, and the model has {outputs} outputs for each sample; "
                "they must be equal"
            )
        classes = outputs
    return samples.checked_classes(classes)


def _held_model(model: Any, config: RunConfig) -> Held:
    """Tries the model on the data of the config, if it is a network, and holds it."""
    data = catalog.build("data", config.data, batch_size=config.batch_size, seed=config.seed)
    if isinstance(model, nn.Module):
        held = given_model.of_network(model)
        network = model
    elif callable(model):
        held = given_model.of_function(model, data, config.seed)
        network = held.make(num_classes=getattr(data, "num_classes", None), in_shape=data.in_shape)
    else:
        raise ValueError(
            "model: expected a torch.nn.Module, a function that makes one, or a call such as "
            f"'mlp(hidden=[64])', got {type(model).__name__}"
        )
    x = torch.zeros(2, *data.in_shape)
    if "classification" in config.task:
        classes = given_model.classes_of(network, x)
        if classes != data.num_classes:
            raise ValueError(
                f"model: {type(network).__name__} has {classes} outputs for each sample, "
                f"and the data have {data.num_classes} classes; they must be equal"
            )
    return held


def _execution(
    options: RunOptions | None, settings: dict[str, Any], config: RunConfig
) -> RunOptions:
    """How the run is carried out. Raises ValueError for several processes."""
    asked = {name: value for name, value in settings.items() if name in _OPTIONS}
    if options is not None and asked:
        raise ValueError(f"give options=, or {', '.join(asked)}, not both")
    if "results" in asked:
        asked["results"] = Path(asked["results"])
    chosen = options or RunOptions(**asked)
    if chosen.devices > 1 and config.given:
        raise ValueError(
            f"devices={chosen.devices}: objects given in Python train in one process; "
            "make the model and the data a plugin (docs/guides/plugins.md) to use several"
        )
    return chosen
