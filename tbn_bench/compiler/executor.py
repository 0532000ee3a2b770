"""A packed network as native calls: each region of layers that libtbn_bench knows (lowering.py) is one call, the rest stays in torch.

A region runs depth first, a few images at a time, in an arena whose values share memory as their lives end.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, fx, nn

from tbn_bench import native
from tbn_bench.compiler import trace as tracing
from tbn_bench.compiler.graph import Region
from tbn_bench.compiler.lowering import Lowering, call_node
from tbn_bench.derived import Snapshot
from tbn_bench.native import NativeUnavailable

POINT_GROUP = 64  # images that go together through a network without spatial extent: weights are read once for all of them

_IN_PLACE = (native.ADD, native.RELU, native.AFFINE, native.COPY, native.CLAMP, native.GELU)


def _shared(region: Region, dies: dict[int, int], kept: set[int]) -> dict[int, int]:
    """Values that are written over one they replace, element by element: value -> the one whose memory it takes."""
    taken: dict[int, int] = {}
    for step, op in enumerate(region.ops, 1):
        over = op.residual if op.residual >= 0 else op.input if op.kind in _IN_PLACE else -1
        size = native.padded_size(region.values[op.output].shape)
        same = over >= 0 and native.padded_size(region.values[over].shape) == size
        elsewhere = (
            op.kind == native.CONV and over == op.input
        )  # a convolution reads its input around each output
        if same and dies.get(over) == step and not {over, op.output} & kept and not elsewhere:
            taken[op.output] = taken.get(over, over)
    return taken


def _place(region: Region, kept: set[int]) -> list[int]:
    """Offsets of a region's values: memory is shared by values that do not live at the same time (first fit)."""
    born, dies = {v: 0 for v in region.inputs.values()}, {}
    for step, op in enumerate(region.ops, 1):
        born[op.output] = step
        for index in (op.input, op.residual):
            if index >= 0:
                dies[index] = step
    end, taken = len(region.ops) + 1, _shared(region, dies, kept)
    lives = {v: (born[v], end if v in kept else dies.get(v, born[v])) for v in born}
    for v, root in taken.items():
        lives[root] = (lives[root][0], max(lives[root][1], lives[v][1]))
    offsets, placed = [0] * len(region.values), []
    for v in sorted(
        lives.keys() - taken.keys(),
        key=lambda v: (-native.padded_size(region.values[v].shape), lives[v]),
    ):
        size, (a, b) = native.padded_size(region.values[v].shape), lives[v]
        at = 0
        for start, stop, low, high in sorted(placed):
            if not (b < low or high < a) and at < stop and start < at + size:
                at = stop
        offsets[v] = at
        placed.append((at, at + size, a, b))
    for v, root in taken.items():
        offsets[v] = offsets[root]
    return offsets


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _empty(shape: tuple[int, ...], channels_last: bool) -> Tensor:
    return torch.empty(
        shape,
        memory_format=torch.channels_last
        if channels_last and len(shape) == 4
        else torch.contiguous_format,
    )


def _lowered(model: nn.Module, image: Tensor, level: str) -> tuple[nn.Module, fx.Graph, Lowering]:
    """By the first way of tracing that goes through to the end."""
    reasons = []
    for trace in tracing.WAYS:
        try:
            root, graph = trace(model, image)
            return root, graph, Lowering(graph, root, image, level)
        except NativeUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - anybody's forward may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons.append(f"{(trace.__doc__ or '').split(':')[0]}: {lines[0]}")
    raise ValueError(
        f"{type(model).__name__} cannot be traced; run it in torch. {'. '.join(reasons)}"
    )


def _not_a_batch(x: Any) -> str:
    """What x is, where it is no dense tensor with a batch axis, or ''."""
    if not isinstance(x, Tensor):
        return f"{type(x).__module__}.{type(x).__qualname__}; convert it with torch.as_tensor"
    if x.layout != torch.strided or x.is_nested:
        return f"a tensor of layout {x.layout}; convert it with to_dense() or to_padded_tensor()"
    return "" if x.dim() else "a tensor without axes"


def _last_uses(steps: list[Region | fx.Node], kept: set[fx.Node]) -> list[list[fx.Node]]:
    """What no step behind this one reads, for every step."""
    last: dict[fx.Node, int] = {}
    for i, step in enumerate(steps):
        for node in (
            [n for n, _ in step.inputs] if isinstance(step, Region) else step.all_input_nodes
        ):
            last[node] = i
    return [[n for n, at in last.items() if at == i and n not in kept] for i in range(len(steps))]


class _Watch:
    """The tensors and modules of a network as they were when it was lowered."""

    def __init__(self, model: nn.Module):
        self._modules = list(model.modules())
        self._parts = [m._modules for m in self._modules if m._modules]
        self._stores = [s for m in self._modules for s in (m._parameters, m._buffers) if s]
        self._children = self._found(self._parts)
        self._snapshot = Snapshot(self._tensors())

    @staticmethod
    def _found(stores: list[dict[str, Any]]) -> list[Any]:
        return list(chain.from_iterable([store.values() for store in stores]))

    def _tensors(self) -> list[Any]:
        return [tensor for tensor in self._found(self._stores) if tensor is not None]

    def holds(self) -> bool:
        """Whether no tensor was written to or replaced, and no module either."""
        children = self._found(self._parts)
        same = len(children) == len(self._children) and all(map(is_, children, self._children))
        return same and self._snapshot.holds(self._tensors())

    def check_mode(self) -> None:
        """Raises ValueError where a module is in training mode."""
        if True in [module.training for module in self._modules]:
            raise ValueError(
                "the network is in training mode and native layers are not; call model.eval() first"
            )


@dataclass
class _Program:
    """What runs in order: native regions, and torch's nodes over the modules of `root`."""

    root: nn.Module
    input: fx.Node
    output: Any
    steps: list[Region | fx.Node]
    done_with: list[list[fx.Node]]  # what no later step reads, for every step
    native_layers: int
    watch: _Watch


class Executor:
    """Runs `model` (packed or dense, in eval mode) on inputs shaped like `example`, any batch size, with native kernels.

    A network whose tensors or modules changed since is lowered again at the next call, which takes as long as making an Executor. Writes
    that torch does not count (through .data or a NumPy array) are not noticed: call `refresh` after one. Threads may call one Executor at
    the same time, but for keep_output. A copy or a pickle is made of the model and lowered where it is loaded.

    In precision a14 the activations of an image are rounded by one step, so that a single NaN makes all outputs of its image NaN, also
    where torch would drop it (a maximum or a clamp, say); those of the other images do not change.

    Raises NativeUnavailable where the library or the level is missing, ValueError for a model that neither torch.fx nor torch.export can
    trace, or in which no layer can run natively.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        level: str | None = None,
        threads: int = 1,
        precision: str = "f32",
    ):
        if fault := _not_a_batch(example):
            raise ValueError(f"expected an example of shape (B, ...), got {fault}")
        self.level, self.threads, self.precision = native.level(level), threads, precision
        self._asked_level = level
        self._network = model.eval()
        self._image = example[:1].detach().float().cpu()
        self._in_shape = tuple(self._image.shape[1:])
        self._lowering = threading.Lock()
        self._program = self._lower()
        self.keep_output = (
            False  # results are then written into one buffer, which the next call overwrites
        )
        self._outs: dict[tuple[int, bool], list[Tensor]] = {}

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        made_by = (self._network, self._image, self._asked_level, self.threads, self.precision)
        return Executor, made_by, {"keep_output": self.keep_output}

    def _lower(self) -> _Program:
        watch = _Watch(self._network)
        watch.check_mode()
        root, graph, lowered = _lowered(self._network, self._image, self.level)
        kept = {
            n
            for n in graph.nodes
            if n.op == "placeholder" or any(u.op == "output" for u in n.users)
        }
        regions = [s for s in lowered.steps if isinstance(s, Region)]
        if not regions:
            raise ValueError(f"no layer of {type(self._network).__name__} can run natively")
        for region in regions:
            self._finish(region)
        steps = [
            s for s in lowered.steps if not isinstance(s, Region) or s.outputs
        ]  # what nobody reads is not run
        entry = next(n for n in graph.nodes if n.op == "placeholder")
        return _Program(
            root,
            entry,
            lowered.output,
            steps,
            _last_uses(steps, kept),
            lowered.native_layers,
            watch,
        )

    def refresh(self) -> None:
        """Lowers the network again, as it is now."""
        with self._lowering:
            self._program = self._lower()
            self._outs = {}

    def _current(self) -> _Program:
        """The program of the network as it is now. Raises ValueError where that is in training mode."""
        program = self._program
        if not program.watch.holds():
            with self._lowering:
                if not self._program.watch.holds():  # no other thread was faster
                    self._program = self._lower()
                    self._outs = {}
            program = self._program
        program.watch.check_mode()
        return program

    @property
    def native_layers(self) -> int:
        return self._program.native_layers

    @property
    def torch_nodes(self) -> list[str]:
        """Names of what torch runs."""
        return [n.name for n in self._steps if isinstance(n, fx.Node) and n.op != "get_attr"]

    @property
    def _steps(self) -> list[Region | fx.Node]:
        return self._program.steps

    def _finish(self, region: Region) -> None:
        inside = set(region.nodes)
        region.outputs = [n for n in region.nodes if any(u not in inside for u in n.users)]
        if not region.outputs:
            return
        outputs = list(dict.fromkeys(region.of_node[n] for n in region.outputs))
        inputs = list(region.inputs.values())
        made = [region.values[op.output] for op in region.ops if op.kind == native.CONV]
        points = all(v.rank == 2 or v.shape[:2] == (1, 1) for v in made)
        region.plan, region.plan_nhwc = (
            native.Plan(
                region.ops, [v.shape for v in region.values], inputs, outputs,
                nhwc=[i for i, v in enumerate(region.values) if v.last or (channels_last and v.rank == 4)],
                offsets=_place(region, {*outputs, *inputs}), level=self.level, group=POINT_GROUP if points else 1,
                precision=self.precision,
            )
            for channels_last in (False, True)
        )  # fmt: skip

    def weight_bytes(self) -> int:
        """Bytes of weights, scales and shifts the native part reads."""
        return sum(s.plan.weight_bytes() for s in self._steps if isinstance(s, Region))

    def _run_region(self, region: Region, env: dict[fx.Node, Any], batch: int) -> None:
        n = batch * region.factor
        arrays, sources = (
            [env[node].detach() for node, _ in region.inputs],
            [region.values[i] for i in region.inputs.values()],
        )
        if any(tuple(a.shape) != v.torch_shape(n) for a, v in zip(arrays, sources, strict=True)):
            raise RuntimeError(
                f"expected {[v.torch_shape(n) for v in sources]} in a native region, got {[tuple(a.shape) for a in arrays]}"
            )
        images = [v.rank == 4 and not v.last for v in sources]
        nhwc = any(images) and all(
            _channels_last(a) for a, image in zip(arrays, images, strict=True) if image
        )  # kept as it comes, as torch does
        plan = region.plan_nhwc if nhwc else region.plan
        arrays = [
            a if nhwc and image else a.contiguous() for a, image in zip(arrays, images, strict=True)
        ]
        values = [region.values[i] for i in plan.outputs]
        outs = self._outs.get((id(region), nhwc)) if self.keep_output else None
        if outs is None or outs[0].shape[0] != n:
            outs = [_empty(v.torch_shape(n), nhwc and not v.last) for v in values]
            if self.keep_output:
                self._outs[id(region), nhwc] = outs
        plan.run([a.data_ptr() for a in arrays], [o.data_ptr() for o in outs], n, self.threads)
        by_value = dict(zip(region.plan.outputs, outs, strict=True))
        for node in region.outputs:
            env[node] = by_value[region.of_node[node]]

    def __call__(self, x: Tensor) -> Any:
        if fault := self._not_an_input(x):
            raise ValueError(fault)
        program = self._current()
        env: dict[fx.Node, Any] = {program.input: x}
        with torch.no_grad():
            for step, done_with in zip(program.steps, program.done_with, strict=True):
                if isinstance(step, Region):
                    self._run_region(step, env, x.shape[0])
                else:
                    args, kwargs = fx.node.map_arg((step.args, step.kwargs), env.__getitem__)
                    env[step] = call_node(step, program.root, args, kwargs)
                for node in done_with:
                    env.pop(node, None)
            return fx.node.map_arg(program.output, env.__getitem__)

    def _not_an_input(self, x: Any) -> str:
        """Why x cannot be run, or ''."""
        if fault := _not_a_batch(x):
            return f"expected a float32 tensor of shape {self._wanted()}, got {fault}"
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return f"expected a float32 tensor on the CPU, got {x.dtype} on {x.device}"
        if tuple(x.shape[1:]) != self._in_shape:
            return f"expected inputs of shape {self._wanted()}, got {tuple(x.shape)}; make another Executor for it"
        return ""

    def _wanted(self) -> str:
        return f"(B, {', '.join(map(str, self._in_shape))})"

    def describe(self) -> str:
        """One line: what runs where."""
        torch_part = f"; in torch: {', '.join(self.torch_nodes)}" if self.torch_nodes else ""
        arena = max(s.plan.floats * 4 for s in self._steps if isinstance(s, Region))
        return f"native level {self.level}: {self.native_layers} layers, arena {math.ceil(arena / 1024)} KiB per image{torch_part}"


def executor(
    model: nn.Module, example: Tensor, **options: Any
) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    """(Executor, its description), or (None, the reason why there is none)."""
    try:
        made = Executor(model, example, **options)
    except (NativeUnavailable, ValueError) as error:
        return None, str(error)
    return made, made.describe()
