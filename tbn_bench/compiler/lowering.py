"""From the graph of a network to ops of native plans: regions of layers that libtbn_bench knows, and the torch nodes between them.

Layers are fused where they are read once: convolution or linear layer, batch normalisation, residual sum and ReLU are one op, alpha being
part of its scale. A node that is not known closes the region and stays in torch.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tbn_bench import native
from tbn_bench.compiler import patterns
from tbn_bench.compiler.functions import NAMES, Functions
from tbn_bench.compiler.graph import Region, Unsupported
from tbn_bench.format import bits
from tbn_bench.kernels import _cpu
from tbn_bench.layers import packed
from tbn_bench.native import Op

BATCHES = (
    13,
    17,
)  # of the shapes that are propagated: what is k times as long as both is k images to one, and grows with nothing else


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[-1]))


class Lowering(Functions):
    """Walks the graph once, turning nodes into ops of the open region; a node it does not know closes the region.

    graph: of trace.py, over the modules of `model`. image: (1, ...), one input.
    """

    def __init__(self, graph: fx.Graph, model: nn.Module, image: Tensor, level: str):
        self.modules, self.level = dict(model.named_modules()), level
        self.fakes: dict[int, dict[fx.Node, Any]] = {batch: {} for batch in BATCHES}
        self.fake = self.fakes[BATCHES[0]]
        self.steps: list[Region | fx.Node] = []
        self.region: Region | None = None
        self.native_layers = 0
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        for node in graph.nodes:
            if node.op == "placeholder":
                self._fake(node, lambda batch: torch.empty(batch, *image.shape[1:]))
            elif node.op != "output":
                self._node(node, model)
            else:
                self.output = node.args[0]
        self._close()

    def _node(self, node: fx.Node, model: nn.Module) -> None:
        if self._lowered(node):
            return
        if self.region is not None:
            self._close()
            if self._lowered(node):  # it did not fit the region before, by its layout, say
                return
        self.steps.append(node)
        module = self.modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, packed.Packed):
            module.materialize_()  # in real tensors: what it derives from its bits outlives this
        self._fake(node, lambda batch: call_node(node, model, *self._arguments(node, batch)))

    def _arguments(self, node: fx.Node, batch: int) -> Any:
        return fx.node.map_arg((node.args, node.kwargs), lambda n: self.fakes[batch][n])

    def _fake(self, node: fx.Node, make: Callable[[int], Any]) -> None:
        """make(batch) without memory, for every batch."""
        with self.mode, torch.no_grad():
            for batch, known in self.fakes.items():
                known[node] = make(batch)

    def _lowered(self, node: fx.Node) -> bool:
        """Whether the node became part of the open region, or of a new one."""
        region = self.region or Region()
        marks = len(region.values), dict(region.inputs), list(region.ops), region.factor
        try:
            value = self._lower(region, node)
        except Unsupported:
            del region.values[marks[0] :]
            region.inputs, region.ops[:], region.factor = marks[1], marks[2], marks[3]
            return False
        self.region = region
        region.of_node[node] = value
        region.nodes.append(node)
        self._fake(
            node, lambda batch: torch.empty(region.values[value].torch_shape(batch * region.factor))
        )
        return True

    def _close(self) -> None:
        region, self.region = self.region, None
        if region is None:
            return
        if any(op.kind == native.CONV for op in region.ops):
            self.steps.append(region)
        else:
            self.steps += region.nodes

    # -- operands

    def _value(self, region: Region, node: Any, last: bool | None = None) -> int:
        """The region's value for a node, brought in from outside where need be. last: the layout wanted (None: either)."""
        if not isinstance(node, fx.Node):
            raise Unsupported
        if node in region.of_node:
            index = region.of_node[node]
            if (
                last is not None
                and region.values[index].last != last
                and region.values[index].rank != 2
            ):
                return self._turned(region, index)
            return index
        fake = self.fake[node]
        if not isinstance(fake, Tensor) or fake.dtype != torch.float32 or not 2 <= fake.dim() <= 4:
            raise Unsupported
        factor = fake.shape[0] // BATCHES[0]
        images = all(
            known[node].shape == (batch * factor, *fake.shape[1:])
            for batch, known in self.fakes.items()
        )
        if not factor or not images or region.factor not in (0, factor):
            raise Unsupported
        region.factor = factor
        if last is None:
            last = fake.dim() == 3
        if (node, last) not in region.inputs:
            sizes = list(fake.shape[1:])
            channels = sizes.pop(-1 if last else 0)
            h, w = {0: (1, 1), 1: (1, *sizes), 2: tuple(sizes)}[len(sizes)]
            region.inputs[node, last] = region.new((h, w, channels), fake.dim(), last)
        return region.inputs[node, last]

    def _turned(self, region: Region, index: int) -> int:
        """The same tensor with its last two axes the other way round in memory."""
        source = region.values[index]
        if source.rank != 3:
            raise Unsupported
        out = region.new((1, source.shape[2], source.shape[1]), 3, not source.last)
        region.ops.append(Op(native.CHW, index, out))
        return out

    def _alone(self, region: Region, index: int) -> bool:
        """Whether one node reads this value, by whatever names it has: identities and views of a row share theirs."""
        return all(len(n.users) == 1 for n, value in region.of_node.items() if value == index)

    def _producer(self, region: Region, node: Any, kinds: tuple[int, ...]) -> Op | None:
        """The op whose result `node` is, if that is read here only and can still be changed."""
        if (
            not isinstance(node, fx.Node)
            or node not in region.of_node
            or not self._alone(region, region.of_node[node])
        ):
            return None
        index = region.of_node[node]
        op = next((op for op in region.ops if op.output == index), None)
        return op if op is not None and op.kind in kinds and not op.relu else None

    # -- nodes

    def _lower(self, region: Region, node: fx.Node) -> int:
        if node.op == "call_module":
            module = self.modules[node.target]
            hooked = module._forward_hooks or module._forward_pre_hooks
            if module.training or hooked or len(node.args) != 1 or node.kwargs:
                raise Unsupported
            return self._module(region, node, module)
        if node.op not in ("call_function", "call_method"):
            raise Unsupported
        if isinstance(node.target, patterns.Pattern):
            return getattr(self, f"_do_{type(node.target).__name__}")(region, node)
        name = node.target if isinstance(node.target, str) else NAMES.get(node.target)
        rule = getattr(self, f"_do_{name}", None)
        if rule is None:
            raise Unsupported
        return rule(region, node)

    def _module(self, region: Region, node: fx.Node, module: nn.Module) -> int:
        x = node.args[0]
        if getattr(module, "input_binarizer", None) is not None:
            raise Unsupported
        if isinstance(module, packed.PackedLinear | nn.Linear):
            return self._layer(region, self._value(region, x, last=True), module)
        if isinstance(module, packed.PackedConv1d | packed.PackedConv2d | nn.Conv1d | nn.Conv2d):
            if (
                getattr(module, "padding_mode", "zeros") != "zeros"
                or packed.padding_of(module) is None
            ):
                raise Unsupported
            if isinstance(self.fake[x], Tensor) and self.fake[x].dim() != len(module.stride) + 2:
                raise Unsupported
            return self._layer(region, self._value(region, x, last=False), module)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._batch_norm(region, node, module)
        if isinstance(module, nn.LayerNorm):
            return self._layer_norm(region, x, module)
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            return self._value(region, x)
        if isinstance(module, nn.ReLU):
            return self._relu(region, x)
        if isinstance(module, nn.ZeroPad2d) and not any(module.padding[::2]):
            return self._pad(region, x, below=module.padding[3], right=module.padding[1])
        if isinstance(module, nn.GELU) and module.approximate == "none":
            return self._unary(region, native.GELU, x)
        if isinstance(module, nn.Hardtanh):  # ReLU6 is one
            return self._clamp(region, x, module.min_val, module.max_val)
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            return self._flatten(region, x)
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            return self._mean(region, x, keepdim=True)
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            return self._pool(region, x, module)
        raise Unsupported

    def _layer(self, region: Region, x: int, module: Any) -> int:
        """A convolution or linear layer, packed or dense, as a CONV op."""
        if isinstance(module, packed.Packed) and module.form.kind == "shifted":
            raise Unsupported  # torch runs it with the tile alone; the enlarged kernel would cost more than it saves
        if isinstance(module, packed.Packed) and module.summed > 1:
            x = self._group_sums(region, x, module.summed)
        source = region.values[x]
        weight_shape = tuple(
            module.product.shape if isinstance(module, packed.Packed) else module.weight.shape
        )
        kh, kw = {2: (1, 1), 3: (1, *weight_shape[2:]), 4: weight_shape[2:]}[len(weight_shape)]
        groups = getattr(module, "groups", 1)
        if source.shape[2] != weight_shape[1] * groups:
            raise Unsupported
        two = len(weight_shape) == 4
        stride, padding, dilation = (1, 1), (0, 0), (1, 1)
        if len(weight_shape) > 2:
            stride, padding, dilation = (
                tuple(v) if two else (d, v[0])
                for v, d in (
                    (module.stride, 1),
                    (packed.padding_of(module), 0),
                    (module.dilation, 1),
                )
            )
        h, w, _ = source.shape
        ho = (h + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        wo = (w + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        if getattr(module, "segment", 0):
            return self._segments(region, x, module)
        if getattr(module, "two_steps", False):
            window = {
                "kernel": (kh, kw),
                "stride": stride,
                "padding": padding,
                "dilation": dilation,
            }
            return self._two_factors(region, x, module, (ho, wo), window)
        weights, p, scale = self._weights(module, weight_shape, groups)
        shift = (
            np.zeros(weight_shape[0])
            if module.bias is None
            else module.bias.detach().double().cpu().numpy()
        )
        out = region.new((ho, wo, weight_shape[0]), source.rank, source.last)
        region.ops.append(Op(
            native.CONV, x, out, kernel=(kh, kw), stride=stride, padding=padding, dilation=dilation, p=p,
            rows=weights[0].rows, weights=weights, scale=scale, shift=shift,
        ))  # fmt: skip
        self.native_layers += 1
        return out

    def _group_sums(self, region: Region, x: int, p: int) -> int:
        """Sums of every p neighbouring channels: what the tile of columns copies meets.

        Layers that read one value share its sums.
        """
        source = region.values[x]
        h, w, channels = source.shape
        if channels % p:
            raise Unsupported
        for op in region.ops:
            if (op.kind, op.input, op.p) == (native.GROUP_SUM, x, p):
                return op.output
        out = region.new((h, w, channels // p), source.rank, source.last)
        region.ops.append(Op(native.GROUP_SUM, x, out, p=p))
        return out

    def _segments(self, region: Region, x: int, module: packed.PackedLinear) -> int:
        """A linear layer whose tiles end inside rows: products of pieces, and their sums."""
        (h, w, columns), rank, last = (
            region.values[x].shape,
            region.values[x].rank,
            region.values[x].last,
        )
        bits, alphas = module.tile_bits.cpu(), module.alphas.cpu()
        weights, coefficients = _cpu.segments(
            bits, alphas, module.shape, module.p, module.segment, self.level
        )
        pieces = columns // module.segment
        cut = region.new((h, w * pieces, module.segment), rank, last)
        products = region.new((h, w * pieces, weights.rows), rank, last)
        out = region.new((h, w, module.shape[0]), rank, last)
        shift = (
            np.zeros(module.shape[0])
            if module.bias is None
            else module.bias.detach().double().cpu().numpy()
        )
        region.ops.append(Op(native.COPY, x, cut))
        region.ops.append(Op(native.CONV, cut, products, rows=weights.rows, weights=[weights]))
        region.ops.append(
            Op(
                native.GATHER,
                products,
                out,
                coefficients=coefficients,
                scale=np.ones(module.shape[0]),
                shift=shift,
            )
        )
        self.native_layers += 1
        return out

    def _two_factors(
        self, region: Region, x: int, module: Any, size: tuple[int, int], window: dict[str, Any]
    ) -> int:
        """A scale per input channel, a layer of rank rows, and a 1 x 1 layer: both have weights of signs."""
        source, (rows, rank) = region.values[x], (module.shape[0], module.form.rank)
        u, m, v = (scales.double().cpu().numpy() for scales in module.factor_scales())
        left, right = (bits.pack(signs.cpu().numpy()) for signs in module.factor_signs())
        first = native.SignWeights(right, rank, source.shape[2], *window["kernel"], self.level)
        second = native.SignWeights(left, rows, rank, name=self.level)
        shift = (
            np.zeros(rows) if module.bias is None else module.bias.detach().double().cpu().numpy()
        )

        scaled = region.new(source.shape, source.rank, source.last)
        middle = region.new((*size, rank), source.rank, source.last)
        out = region.new((*size, rows), source.rank, source.last)
        region.ops += [
            Op(native.AFFINE, x, scaled, scale=v),
            Op(native.CONV, scaled, middle, rows=rank, weights=[first], scale=m, **window),
            Op(native.CONV, middle, out, rows=rows, weights=[second], scale=u, shift=shift),
        ]
        self.native_layers += 1
        return out

    def _weights(
        self, module: Any, shape: tuple[int, ...], groups: int
    ) -> tuple[list[Any], int, np.ndarray]:
        """(one weight per group, or one for all of a depthwise layer; p; scale per output channel)."""
        signs = module.sign_form() if isinstance(module, packed.Packed) else None
        if signs is not None:
            tile_bits, alphas, p = signs
            return _cpu.weights(tile_bits.cpu(), alphas.cpu(), shape, p, groups, self.level)
        dense = module.expanded() if isinstance(module, packed.Packed) else module.weight.detach()
        return (
            _cpu.float_weights(dense.float().cpu().numpy().reshape(shape), groups, self.level),
            1,
            np.ones(shape[0]),
        )

    def _batch_norm(self, region: Region, node: fx.Node, module: nn.Module) -> int:
        if module.running_mean is None:
            raise Unsupported
        scale = 1.0 / np.sqrt(module.running_var.double().cpu().numpy() + module.eps)
        scale = scale * (
            1.0 if module.weight is None else module.weight.detach().double().cpu().numpy()
        )
        shift = -module.running_mean.double().cpu().numpy() * scale
        shift = shift + (
            0.0 if module.bias is None else module.bias.detach().double().cpu().numpy()
        )
        before = self._producer(region, node.args[0], (native.CONV, native.AFFINE, native.GATHER))
        value = region.values[before.output] if before is not None else None
        if before is not None and before.residual < 0 and (value.rank == 2 or not value.last):
            before.scale, before.shift = before.scale * scale, before.shift * scale + shift
            return before.output
        x = self._value(region, node.args[0], last=False)
        source = region.values[x]
        out = region.new(source.shape, source.rank, source.last)
        region.ops.append(Op(native.AFFINE, x, out, scale=scale, shift=shift))
        return out

    def _layer_norm(self, region: Region, x: Any, module: nn.LayerNorm) -> int:
        index = self._value(region, x, last=True)
        source = region.values[index]
        if tuple(module.normalized_shape) != (source.shape[2],):
            raise Unsupported
        out = region.new(source.shape, source.rank, source.last)
        parts = [
            None if v is None else v.detach().float().cpu().numpy()
            for v in (module.weight, module.bias)
        ]
        region.ops.append(
            Op(native.LAYER_NORM, index, out, scale=parts[0], shift=parts[1], eps=module.eps)
        )
        return out

    def _relu(self, region: Region, x: Any) -> int:
        before = self._producer(region, x, (native.CONV, native.ADD, native.AFFINE, native.GATHER))
        if before is None:
            return self._unary(region, native.RELU, x)
        before.relu = True
        return before.output

    def _unary(self, region: Region, kind: int, x: Any, **options: float) -> int:
        index = self._value(region, x)
        source = region.values[index]
        out = region.new(source.shape, source.rank, source.last)
        region.ops.append(Op(kind, index, out, **options))
        return out

    def _clamp(self, region: Region, x: Any, low: float, high: float) -> int:
        return self._unary(region, native.CLAMP, x, eps=float(low), high=float(high))

    def _add(self, region: Region, a: Any, b: Any) -> int:
        if not isinstance(a, fx.Node) or not isinstance(b, fx.Node):
            raise Unsupported
        first, second = (a, b) if a in region.of_node else (b, a)
        left = self._value(region, first)
        right = self._value(
            region, second, last=region.values[left].last if region.values[left].rank != 2 else None
        )
        source, other = region.values[left], region.values[right]
        if (source.shape, source.rank, source.last) != (
            other.shape,
            other.rank,
            other.last,
        ) and not (source.rank == other.rank == 2 and source.shape == other.shape):
            raise Unsupported
        for node, own, value in ((first, left, right), (second, right, left)):
            as_made = first is not second and region.of_node.get(node) == own
            conv = self._producer(region, node, (native.CONV,)) if as_made else None
            if (
                conv is not None and conv.residual < 0
            ):  # nobody else reads it: it may run last, when the other summand is there
                region.ops.remove(conv)
                region.ops.append(conv)
                conv.residual = value
                return conv.output
        out = region.new(source.shape, source.rank, source.last)
        region.ops.append(Op(native.ADD, left, out, residual=right))
        return out

    def _flatten(self, region: Region, x: Any) -> int:
        index = self._value(region, x)
        source = region.values[index]
        h, w, c = source.shape
        if source.rank == 2:
            return index
        out = region.new((1, 1, h * w * c), 2, False)
        kind = native.CHW if not source.last and h * w > 1 and c > 1 else native.COPY
        region.ops.append(Op(kind, index, out))
        return out

    def _mean(self, region: Region, x: Any, keepdim: bool) -> int:
        index = self._value(region, x, last=False)
        source = region.values[index]
        if source.rank != 4:
            raise Unsupported
        out = region.new((1, 1, source.shape[2]), 4 if keepdim else 2, False)
        region.ops.append(Op(native.MEAN, index, out))
        return out

    def _pool(self, region: Region, x: Any, module: Any) -> int:
        kernel, stride, padding = (
            _pair(module.kernel_size),
            _pair(module.stride or module.kernel_size),
            _pair(module.padding),
        )
        maximum = isinstance(module, nn.MaxPool2d)
        if module.ceil_mode or (_pair(module.dilation) != (1, 1) or module.return_indices if maximum else
                                (not module.count_include_pad and padding != (0, 0)) or module.divisor_override):  # fmt: skip
            raise Unsupported
        index = self._value(region, x, last=False)
        source = region.values[index]
        if source.rank != 4:
            raise Unsupported
        size = [(source.shape[i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
        out = region.new((size[0], size[1], source.shape[2]), 4, False)
        kind = native.MAX_POOL if maximum else native.AVG_POOL
        region.ops.append(Op(kind, index, out, kernel=kernel, stride=stride, padding=padding))
        return out


def call_node(node: fx.Node, model: nn.Module, args: Any, kwargs: Any) -> Any:
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(model)
    if node.op == "call_module":
        return model.get_submodule(node.target)(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)
