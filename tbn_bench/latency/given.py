"""latency(model, example): a network given in Python, timed like those of the command line."""

import copy
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tbn_bench.config import RunConfig, make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.cost import cost
from tbn_bench.experiment import identity
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.peers import Setting
from tbn_bench.latency.show import lines
from tbn_bench.latency.timing import prepare, slug, time_case
from tbn_bench.latency.variants import variants_of
from tbn_bench.records import notebook
from tbn_bench.records.store import LatencyRecord, RunStore

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
    """Times a full-precision network on `example`, alone and as `binarizer` makes it.

    model: not binarized and not packed; it stays as it is. example: (B, *in_shape). few: without
    the peers that take minutes to build. results: also write the record there.

    Each implementation must first give the outputs of its own float64 reference. Raises ParityError
    where one of this package does not, and ValueError for a model that binarize_ refuses.
    """
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
    plan = binarize_(network, config.binarizer, config.keep)
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
