"""The nodes of a Ray cluster before the first run: room for a run, and a shared results folder."""

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench.sweep.execution import MANY, ExecutionOptions
from tbn_bench.sweep.worker import look

_ANSWER = 120  # seconds that a node has to look at the results path

Node = dict[str, Any]  # an entry of ray.nodes()


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for each run.

    gpus: may be a fraction, 0.5 for two runs on a GPU; None: 1 / --per-gpu with --device cuda.
    """

    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise ValueError(f"--cpus-per-run must be at least 1, got {self.cpus}")
        if self.cpus > MANY:
            raise ValueError(f"--cpus-per-run must be at most {MANY:,}, got {self.cpus:,}")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus % 1)):
            raise ValueError(
                f"--gpus-per-run must be a fraction of one GPU or a whole number, got {self.gpus:g}"
            )

    def for_ray(self, options: ExecutionOptions) -> dict[str, float]:
        """By Ray's names. Raises ValueError for a GPU that the runs would not use."""
        found: dict[str, float] = {"CPU": self.cpus}
        if options.device == "cuda":
            gpus = self.gpus
            if gpus is None:
                gpus = 1 / options.per_gpu
            if gpus:
                found["GPU"] = gpus
        elif self.gpus:
            raise ValueError("--gpus-per-run needs --device cuda")
        if options.memory_limit_gb:
            found["memory"] = options.memory_limit_gb * 1e9
        return found


def check_room(nodes: list[Node], wanted: dict[str, float]) -> None:
    """Raises ValueError if no node can hold one run: Ray would wait for such a node."""
    if any(_has_room(node, wanted) for node in nodes):
        return
    lines = []
    for node in nodes:
        held = {name: node["Resources"].get(name, 0) for name in wanted}
        lines.append(f"{_name(node)}: {_amounts(held)}")
    raise ValueError(
        f"no node has room for a run of {_amounts(wanted)}; there are {'; '.join(lines)}"
    )


def _has_room(node: Node, wanted: dict[str, float]) -> bool:
    held = node["Resources"]
    missing = [name for name, amount in wanted.items() if held.get(name, 0) < amount]
    return not missing


def _name(node: Node) -> str:
    host = node["NodeManagerHostname"]
    address = node["NodeManagerAddress"]
    node_id = node["NodeID"]
    return f"{host} ({address}, {node_id[:8]})"


def _amounts(resources: dict[str, float]) -> str:
    words = []
    for name, amount in resources.items():
        if name == "memory":
            words.append(f"{amount / 1e9:.1f} GB memory")
        else:
            words.append(f"{amount:g} {name}")
    return ", ".join(words)


def check_shared(nodes: list[Node], folder: Path) -> str:
    """Every node reads the launcher's token under the results path and writes its own beside it.

    Returns the token. Raises ValueError naming the nodes that do not share the path, or do not
    answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    (folder / "driver").write_text(token)
    task = ray.remote(num_cpus=0)(look)
    asked = []
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = task.options(scheduling_strategy=here).remote(str(folder), token, node["NodeID"])
        asked.append((node, answer))
    faults = []
    for node, answer in asked:
        why = _answer(node, answer, folder, token)
        if why:
            faults.append(f"node {_name(node)}: {why}")
    if faults:
        results = folder.parents[2]
        need = f"--results must be one folder that every node shares, at the same path: {results}"
        faults.insert(0, need)
        raise ValueError("\n".join(faults))
    return token


def _answer(node: Node, answer: Any, folder: Path, token: str) -> str | None:
    import ray

    try:
        fault: str | None = ray.get(answer, timeout=_ANSWER)
    except ray.exceptions.RayError as error:
        return f"did not look ({str(error).strip().splitlines()[-1]})"
    own = folder / node["NodeID"]
    if fault is None and (not own.exists() or own.read_text() != token):
        return f"what it wrote to {own} did not arrive here"
    return fault
