"""A packed network as native calls.

Consecutive layers that the native library (libtbn_bench) knows form a region, which is one native
call (`cpu/`); the rest stays in torch. In a region, a few images at a time go through all layers.
All values lie in one block of memory, the arena, and a value may take the place of one that is no
longer needed.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tbn_bench import native
from tbn_bench.compiler.cpu import plans
from tbn_bench.compiler.cpu.examples import call_node
from tbn_bench.compiler.cpu.lowering import Lowering
from tbn_bench.compiler.cpu.region import Region
from tbn_bench.compiler.export import by_export
from tbn_bench.compiler.names import node_name
from tbn_bench.compiler.trace import by_fx
from tbn_bench.compiler.watch import Watch
from tbn_bench.native import NativeUnavailable

_WAYS = {"torch.fx": by_fx, "torch.export": by_export}


@dataclass
class _Program:
    """What runs in order: native regions, and torch's nodes over the modules of `root`.

    done_with: for every step, the values that no later step reads. reasons: torch node -> why torch
    runs it.
    """

    root: nn.Module
    input: fx.Node
    output: Any
    steps: list[Region | fx.Node]
    done_with: list[list[fx.Node]]
    native_layers: int
    reasons: dict[fx.Node, str]
    watch: Watch

    @property
    def torch_nodes(self) -> list[fx.Node]:
        nodes = [step for step in self.steps if isinstance(step, fx.Node)]
        return [node for node in nodes if node.op != "get_attr"]


class Executor:
    """Runs `model` (packed or dense, in eval mode) with native kernels.

    It takes inputs shaped like `example`, with any batch size. If tensors or modules of the network
    have changed, the next call lowers it (turns it into native calls) again, which takes as long as
    making an Executor.
    Writes that torch does not count (through .data or a NumPy array) are not noticed: call
    `refresh` after one. Threads may call one Executor at the same time, unless keep_output is set.
    Copying or pickling an Executor keeps only its model and options; the model is lowered again
    where it is loaded.

    keep_output (an attribute, False at first): if True, results are written into one buffer, which
    the next call overwrites.

    With precision="a14", activations are rounded to 14 bits with one step size per image. So a
    single NaN makes all outputs of its image NaN, even where torch would drop it (for example, in a
    clamp). The outputs of other images do not change. The default, "f32", does not round.

    level: the instruction set, e.g. "avx2"; None: the best that works here. Raises
    NativeUnavailable if the native library or the level is missing. Raises ValueError for a model
    that neither torch.fx nor torch.export can trace, or in which no layer can run natively.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        level: str | None = None,
        threads: int = 1,
        precision: str = "f32",
    ):
        fault = _not_a_batch(example)
        if fault:
            raise ValueError(f"expected an example of shape (B, ...), got {fault}")
        self.level = native.level(level)
        self.threads = threads
        self.precision = precision
        self.keep_output = False
        self._asked_level = level
        self._network = model.eval()
        self._image = example[:1].detach().float().cpu()
        self._in_shape = tuple(self._image.shape[1:])
        self._outs: dict[tuple[int, bool], list[Tensor]] = {}
        self._lowering = threading.Lock()
        self._program = self._lower()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        made_by = (self._network, self._image, self._asked_level, self.threads, self.precision)
        return Executor, made_by, {"keep_output": self.keep_output}

    def _lower(self) -> _Program:
        watch = Watch(self._network)
        watch.check_mode()
        root, graph, lowered = _trace_and_lower(self._network, self._image, self.level)
        regions = [step for step in lowered.steps if isinstance(step, Region)]
        if not regions:
            raise ValueError(
                f"no layer of {type(self._network).__name__} can run natively: "
                f"{_by_reason(_named(lowered.reasons))}"
            )
        for region in regions:
            plans.finish(region, self.level, self.precision)
        steps = [step for step in lowered.steps if _is_read(step)]
        return _Program(
            root,
            next(node for node in graph.nodes if node.op == "placeholder"),
            lowered.output,
            steps,
            _last_uses(steps, _kept(graph)),
            lowered.native_layers,
            lowered.reasons,
            watch,
        )

    def refresh(self) -> None:
        """Lowers the network again, as it is now."""
        with self._lowering:
            self._program = self._lower()
            self._outs = {}

    def _current(self) -> _Program:
        """The program of the network as it is now. Raises ValueError in training mode."""
        program = self._program
        if not program.watch.holds():
            with self._lowering:
                # unless another thread was faster
                if not self._program.watch.holds():
                    self._program = self._lower()
                    self._outs = {}
            program = self._program
        program.watch.check_mode()
        return program

    @property
    def native_layers(self) -> int:
        """Layers that run natively."""
        return self._program.native_layers

    @property
    def torch_nodes(self) -> list[str]:
        """Names of what torch runs."""
        return [node.name for node in self._program.torch_nodes]

    @property
    def reasons(self) -> dict[str, str]:
        """Name of a node that torch runs -> why. Modules keep their names, e.g. blocks.3.act.

        cpu/lowering.py collects them.
        """
        known = self._program.reasons
        return _named({node: known[node] for node in self._program.torch_nodes})

    @property
    def _steps(self) -> list[Region | fx.Node]:
        return self._program.steps

    @property
    def _regions(self) -> list[Region]:
        return [step for step in self._steps if isinstance(step, Region)]

    def weight_bytes(self) -> int:
        """Bytes of weights, scales and shifts the native part reads."""
        return sum(region.plan.weight_bytes() for region in self._regions)

    def __call__(self, x: Tensor) -> Any:
        """x: (B, ...) float32 on the CPU. Raises ValueError for anything else."""
        fault = self._not_an_input(x)
        if fault:
            raise ValueError(fault)
        program = self._current()
        env: dict[fx.Node, Any] = {program.input: x}
        kept = self._outs if self.keep_output else None
        with torch.no_grad():
            for step, done_with in zip(program.steps, program.done_with, strict=True):
                if isinstance(step, Region):
                    plans.run(
                        step,
                        env,
                        x.shape[0],
                        self.threads,
                        kept,
                    )
                else:
                    args, kwargs = fx.node.map_arg((step.args, step.kwargs), env.__getitem__)
                    env[step] = call_node(
                        step,
                        program.root,
                        args,
                        kwargs,
                    )
                for node in done_with:
                    env.pop(node, None)
            return fx.node.map_arg(program.output, env.__getitem__)

    def _not_an_input(self, x: Any) -> str:
        """Why x cannot be run, or ''."""
        fault = _not_a_batch(x)
        if fault:
            return f"expected a float32 tensor of shape {self._expected()}, got {fault}"
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return f"expected a float32 tensor on the CPU, got {x.dtype} on {x.device}"
        shape = tuple(x.shape)
        if shape[1:] != self._in_shape:
            return (
                f"expected inputs of shape {self._expected()}, got {shape}; "
                "make another Executor for it"
            )
        return ""

    def _expected(self) -> str:
        """The shape of an input, in words. Only for errors: every call checks its input."""
        sizes = ", ".join(map(str, self._in_shape))
        return f"(B, {sizes})"

    def describe(self) -> str:
        """One line: what runs where, and why torch runs the rest.

        For example: native level avx512: 21 layers, arena 96 KiB per image; in torch: blocks.3.act
        (no rule for SiLU).
        """
        arena_bytes = max(region.plan.floats * 4 for region in self._regions)
        native_part = (
            f"native level {self.level}: {self.native_layers} layers, "
            f"arena {math.ceil(arena_bytes / 1024)} KiB per image"
        )
        reasons = self.reasons
        if not reasons:
            return native_part
        return f"{native_part}; in torch: {_by_reason(reasons)}"


def executor(
    model: nn.Module, example: Tensor, **options: Any
) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    """(Executor, its description), or (None, the reason why there is none)."""
    try:
        made = Executor(model, example, **options)
    except (NativeUnavailable, ValueError) as error:
        return None, str(error)
    return made, made.describe()


def _trace_and_lower(
    model: nn.Module, image: Tensor, level: str
) -> tuple[nn.Module, fx.Graph, Lowering]:
    """The model, traced and lowered by the first tracer that can. Raises ValueError if none can."""
    reasons = []
    for name, trace in _WAYS.items():
        try:
            root, graph = trace(model, image)
            return root, graph, Lowering(root, graph, image, level)
        except NativeUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - anybody's forward may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons.append(f"{name}: {lines[0]}")
    raise ValueError(
        f"{type(model).__name__} cannot be traced; run it in torch. {'. '.join(reasons)}"
    )


def _named(reasons: dict[fx.Node, str]) -> dict[str, str]:
    return {node_name(node): reason for node, reason in reasons.items()}


def _by_reason(reasons: dict[str, str]) -> str:
    """For example: blocks.3.act, blocks.4.act (no rule for SiLU), pool (no rule for LPPool2d)."""
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names_of.setdefault(reason, []).append(name)
    groups = [f"{', '.join(names)} ({reason})" for reason, names in names_of.items()]
    return ", ".join(groups)


def _not_a_batch(x: Any) -> str:
    """Why x is not a dense tensor with a batch axis; '' if it is one."""
    if not isinstance(x, Tensor):
        kind = f"{type(x).__module__}.{type(x).__qualname__}"
        return f"{kind}; convert it with torch.as_tensor"
    if x.layout != torch.strided or x.is_nested:
        return f"a tensor of layout {x.layout}; convert it with to_dense() or to_padded_tensor()"
    return "" if x.dim() else "a tensor without axes"


def _is_read(step: Region | fx.Node) -> bool:
    """False for a region whose values nobody reads."""
    if not isinstance(step, Region):
        return True
    return bool(step.outputs)


def _kept(graph: fx.Graph) -> set[fx.Node]:
    """Inputs and outputs of the network."""
    inputs = {node for node in graph.nodes if node.op == "placeholder"}
    output = next(node for node in graph.nodes if node.op == "output")
    return inputs | set(output.all_input_nodes)


def _last_uses(steps: list[Region | fx.Node], kept: set[fx.Node]) -> list[list[fx.Node]]:
    """For every step, the nodes that no later step reads."""
    last: dict[fx.Node, int] = {}
    for i, step in enumerate(steps):
        for node in _read(step):
            last[node] = i
    done: list[list[fx.Node]] = [[] for _ in steps]
    for node, i in last.items():
        if node not in kept:
            done[i].append(node)
    return done


def _read(step: Region | fx.Node) -> list[fx.Node]:
    if isinstance(step, Region):
        return [node for node, _ in step.inputs]
    return step.all_input_nodes
