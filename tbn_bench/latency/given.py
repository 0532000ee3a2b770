"""latency(model, example): a network given in Python, timed like those of the command line."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.config import RunConfig, make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.convert.plan import Plan
from tbn_bench.experiment import identity
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.peers import Setting
from tbn_bench.latency.show import lines
from tbn_bench.latency.timing import prepare, slug, time_case
from tbn_bench.latency.variants import variants_of
from tbn_bench.layers.binary_input import BinaryInput
from tbn_bench.records import notebook
from tbn_bench.records.store import LatencyRecord, RunStore
from tbn_bench.tasks._base import binary_weights

_FULL = "full_precision"


@dataclass(frozen=True)
class Timing:
    """A latency record that prints as a table."""

    record: LatencyRecord

    def __str__(self) -> str:
        found = lines(self.record)
        return "\n".join(found)

    def _repr_html_(self) -> str:
        return notebook.text(self)


def latency(
    model: nn.Module,
    example: Tensor,
    binarizer: str = _FULL,
    keep: tuple[str, ...] = (),
    device: str = "cpu",
    threads: int = 1,
    few: bool = True,
    results: str | Path | None = None,
) -> Timing:
    """Times a network on `example`: in full precision, and as `binarizer` makes it.

    model: a float network, or one that binarize_ has converted by `binarizer` and that is then
    timed with the weights that it has learned; not packed. It stays as it is. example: (B,
    *in_shape). few: without the peers that take minutes to build. results: also write the record
    there.

    Each implementation must first give the outputs of its own float64 reference. Raises ParityError
    where one of this package does not, and ValueError for a model that binarize_ refuses, and for a
    converted one that `binarizer` does not describe.
    """
    _check_description(model, binarizer, keep)
    prepare(device, threads)
    x = example.to(device)
    calls = dict.fromkeys((_FULL, binarizer))
    variants: list[Variant] = []
    for call in calls:
        config = make({"binarizer": call, "keep": keep})
        variants += _variants(model, config, x, threads, few)
    kind = identity.type_name(model)
    name = f"{slug(kind)}-{slug(binarizer)}-given-b{len(x)}-t{threads}"
    info = {
        "data": "given",
        "model": f"given(type={kind!r})",
        "sweep": None,
        "untrained": True,
        "tile_macs": True,
    }
    command = f"tb.latency(<{kind}>, <example>, {binarizer!r}, threads={threads})"
    record = time_case(name, variants, x, threads, device, info, command)
    if results is not None:
        RunStore(results).write_latency(record)
    return Timing(record)


def _variants(
    model: nn.Module, config: RunConfig, x: Tensor, threads: int, few: bool
) -> list[Variant]:
    """Every way to run the network as the config's binarizer makes it."""
    network = copy.deepcopy(model).cpu().eval()
    if not any(binary_weights(network)):
        plan = binarize_(network, config.binarizer, config.keep)
    elif config.binarizer == _FULL:
        network = convert.dense(network)
        plan = binarize_(network, _FULL)
    else:
        _, plan = _like(network, config.binarizer, config.keep)
    macs = cost(network, plan, tuple(x.shape[1:]))
    setting = Setting(
        config,
        x,
        threads,
        calibration=x.cpu(),
        macs=macs.summary(),
        few=few,
    )
    return variants_of(network.eval(), setting)


def _like(converted: nn.Module, binarizer: str, keep: Sequence[str]) -> tuple[nn.Module, Plan]:
    """A float network of the same shapes, converted, and the plan."""
    fresh = convert.dense(converted)
    plan = binarize_(fresh, binarizer, keep)
    return fresh, plan


def _check_description(model: nn.Module, binarizer: str, keep: Sequence[str]) -> None:
    """Raises ValueError where a converted network is not what `binarizer` makes."""
    made = _methods(model)
    if not made:
        return
    if binarizer == _FULL:
        raise ValueError(
            "the model is binarized; name the method by which it was, as in "
            'tb.latency(model, example, binarizer="tbn(p=4)")'
        )
    if any(isinstance(module, BinaryInput) for module in model.modules()):
        raise ValueError(
            "the model has binary inputs, so its full-precision form is unknown; give the float "
            f"network, and binarizer={binarizer!r}"
        )
    fresh, _ = _like(model, binarizer, keep)
    described = _methods(fresh)
    names = sorted({*made, *described})
    different = [name for name in names if made.get(name) != described.get(name)]
    if different:
        listed = ", ".join(different)
        raise ValueError(
            f"the model was not made by {binarizer!r}, which differs in {listed}; give the "
            "binarizer and keep that binarize_ was called with"
        )


def _methods(model: nn.Module) -> dict[str, tuple[str, dict[str, object]]]:
    """Name of each binarized weight -> class and options of its parametrization."""
    found = {}
    for name, method, _ in binary_weights(model):
        options = {}
        for option, value in vars(method).items():
            if option != "training" and isinstance(value, (int, float, str, tuple)):
                options[option] = value
        kind = type(method).__qualname__
        found[name] = (kind, options)
    return found
