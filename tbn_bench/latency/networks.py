"""Model-level cases: the trained runs of a sweep, or one untrained network, with every peer."""

import itertools
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tbn_bench.config import RunConfig, make
from tbn_bench.experiment import build
from tbn_bench.latency.agreement import check_scores
from tbn_bench.latency.footprint import Sizes, footprints, show_footprint
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.peers import Setting
from tbn_bench.latency.show import show
from tbn_bench.latency.timing import device_name, prepare, slug, time_case
from tbn_bench.latency.trained import Network, Trained, load, packed_runs, pick, usable_runs
from tbn_bench.latency.variants import variants_of
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore

CALIBRATION = 64  # training images that lossy peers are calibrated on


@dataclass(frozen=True)
class _Case:
    """A record's name, the batch, and whether caches are flushed before each call."""

    name: str
    batch: int
    cold: bool


def _cases(network: str, batches: Iterable[int], threads: int) -> list[_Case]:
    """Hot ones; batch 1 also with cold caches."""
    found = []
    for batch in batches:
        name = f"{network}-b{batch}-t{threads}"
        hot = _Case(name, batch, cold=False)
        found.append(hot)
        if batch == 1:
            cold = _Case(f"{name}-cold", batch, cold=True)
            found.append(cold)
    return found


@dataclass(frozen=True)
class _Known:
    """What is known of the trained networks before the first case.

    calibration: (N, ...). scores: by run id and implementation. sizes: by run id.
    """

    calibration: Tensor
    scores: dict[tuple[str, str], dict[str, float]]
    sizes: dict[str, Sizes]

    def about(self, run_id: str, implementation: str) -> dict[str, Any]:
        """Recomputed score, agreement and bytes, for a row of the record."""
        scores = self.scores.get((run_id, implementation), {})
        sizes = self.sizes.get(run_id, {}).get(implementation, {})
        return scores | sizes


@dataclass(frozen=True)
class _Suite:
    """What all cases of a suite share.

    few: without memory and the peers that take long to build. command: makes the record again.
    packed: reads packed files in place of checkpoints.
    """

    sweep: str
    device: str
    threads: int
    few: bool
    store: RunStore
    command: str
    packed: bool = False

    def time(self, network: Network, runs: list[RunRecord], cases: list[_Case]) -> None:
        """Checks the trained networks on the whole test set, then times each case."""
        loaded = load(runs, self.packed)
        data = loaded[0].data
        known = _Known(
            calibration=data.first("train", CALIBRATION),
            scores=check_scores(loaded, self.device),
            sizes={} if self.few else footprints(loaded, self.device),
        )
        # hot and cold cases of a batch share their variants, which take long to build
        for batch, same_batch in itertools.groupby(cases, key=_batch_of):
            x = data.first("test", batch).to(self.device)
            variants = self._variants(loaded, x, known)
            for case in same_batch:
                self._time_case(case, network, variants, x)
        show_footprint(loaded, known.sizes)

    def _variants(self, loaded: list[Trained], x: Tensor, known: _Known) -> list[Variant]:
        found = []
        for trained in loaded:
            run = trained.run
            macs = run.summary or {}
            config = make(run.config)
            setting = Setting(
                config,
                x,
                self.threads,
                known.calibration,
                macs,
                run.run_id,
                self.few,
            )
            for variant in variants_of(trained.model, setting, trained.plain):
                variant.extra |= known.about(run.run_id, variant.implementation)
                found.append(variant)
        return found

    def _time_case(self, case: _Case, network: Network, variants: list[Variant], x: Tensor) -> None:
        info = {
            "data": network.data,
            "model": network.model,
            "sweep": self.sweep,
            "tile_macs": True,
        }
        if self.packed:
            info["packed"] = True
        command = f"{self.command} --batch {case.batch}"
        record = time_case(
            case.name,
            variants,
            x,
            self.threads,
            self.device,
            info,
            command,
            case.cold,
        )
        self.store.write_latency(record)
        show(record)


def _batch_of(case: _Case) -> int:
    return case.batch


def suite(
    name: str,
    results: Path,
    device: str = "cpu",
    threads: int = 1,
    batches: Iterable[int] = (1, 64),
    out: Path | None = None,
    skip_done: bool = False,
    few: bool = False,
    packed: bool = False,
) -> dict[str, Any]:
    """Times the trained runs of sweep `name`, one case per data set, model and batch.

    out: the folder of the records (default: results). skip_done: a case that is recorded for these
    very runs is left as it is. few: without memory and the peers that take long to build. packed:
    times packed files, which are committed, in place of checkpoints; full precision without a
    checkpoint has the first weights of its seed. Raises ValueError where there are no runs to time.
    """
    prepare(device, threads)
    usable = packed_runs(name, results) if packed else usable_runs(name, results)
    store = RunStore(out or results)
    command = (
        f"tbn-bench latency --suite {name} --results {shlex.quote(str(results))} "
        f"--device {device} --threads {threads}"
    )
    if few:
        command += " --few-peers"
    if packed:
        command += " --packed"
    hardware = slug(device_name(device))
    timed = _Suite(name, device, threads, few, store, command, packed)
    cases: list[str] = []
    for network, runs in pick(usable).items():
        own_name = f"{slug(network.model)}-{slug(network.data)}"
        wanted = _cases(own_name, batches, threads)
        done: set[str] = set()
        if skip_done:
            run_ids = {run.run_id for run in runs}
            done = _recorded(store, run_ids, hardware)
        missing = [case for case in wanted if case.name not in done]
        if missing:
            timed.time(network, runs, missing)
        cases += [case.name for case in wanted if case.name in done]
        cases += [case.name for case in missing]
    return {"suite": name, "device": hardware, "cases": cases}


def _recorded(store: RunStore, run_ids: set[str], device: str) -> set[str]:
    """Cases recorded on this device for exactly these runs."""
    found = set()
    for record in store.latencies([]):
        timed = {row["run_id"] for row in record.rows if row["run_id"]}
        if record.device == device and timed == run_ids:
            found.add(record.case)
    return found


def case(
    config: RunConfig,
    results: Path,
    device: str,
    threads: int,
    batches: Iterable[int],
    few: bool = False,
) -> dict[str, Any]:
    """Times one untrained network on random images of config.data's shape.

    Full precision and `config.binarizer` are timed side by side. few: as in `suite`.
    Raises ValueError for a batch below 1.
    """
    prepare(device, threads)
    store = RunStore(results)
    full_precision = config.model_copy(update={"binarizer": "full_precision"})
    configs = [full_precision]
    if config.binarizer != "full_precision":
        configs.append(config)
    built = [build.build(own) for own in configs]
    in_shape = built[0].data.in_shape
    timed = config.command.replace("tbn-bench train", "tbn-bench latency")
    command = f"{timed} --device {device} --threads {threads}"
    if few:
        command += " --few-peers"
    info = {
        "data": config.data,
        "model": config.model,
        "sweep": None,
        "untrained": True,
        "tile_macs": True,
    }
    cases = []
    for batch in batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")

        generator = torch.Generator().manual_seed(0)
        on_cpu = torch.randn(batch, *in_shape, generator=generator)
        x = on_cpu.to(device)
        variants: list[Variant] = []
        for experiment in built:
            macs = experiment.cost.summary()
            setting = Setting(experiment.config, x, threads, x.cpu(), macs, few=few)
            variants += variants_of(experiment.model.eval(), setting)
        name = f"{slug(config.model)}-{slug(config.binarizer)}-untrained-b{batch}-t{threads}"
        again = f"{command} --batch {batch}"
        record = time_case(name, variants, x, threads, device, info, again)
        store.write_latency(record)
        show(record)
        cases.append(name)
    return {"cases": cases}
