"""Regions as native programs, and their calls."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from tbn_bench import native
from tbn_bench.compiler.cpu.layout import offsets
from tbn_bench.compiler.cpu.region import Region, Value

# images that go together through a network without spatial extent: weights are read once for all
POINT_GROUP = 64


def finish(region: Region, level: str, precision: str) -> None:
    """Makes the native programs of a region. A region whose results no node reads gets none.

    Raises NativeUnavailable.
    """
    inside = set(region.nodes)
    region.outputs = [node for node in region.nodes if not inside.issuperset(node.users)]
    if not region.outputs:
        return
    outputs = list(dict.fromkeys(region.of_node[node] for node in region.outputs))
    inputs = list(region.inputs.values())
    region.sources = [region.values[index] for index in inputs]
    region.images = [i for i, value in enumerate(region.sources) if _is_image(value)]
    positions = offsets(region, {*outputs, *inputs})

    def plan(channels_last: bool) -> native.Program:
        return native.Program(
            region.ops,
            [value.shape for value in region.values],
            inputs,
            outputs,
            nhwc=_nhwc(region.values, channels_last),
            offsets=positions,
            level=level,
            group=POINT_GROUP if _is_without_extent(region) else 1,
            precision=precision,
        )

    region.plan = plan(False)
    region.plan_nhwc = plan(True)


def _nhwc(values: Sequence[Value], channels_last: bool) -> list[int]:
    """Values that are (n, H, W, C) outside; channels_last: images too."""
    found = []
    for i, value in enumerate(values):
        is_image = value.rank == 4
        if value.last or (channels_last and is_image):
            found.append(i)
    return found


def _is_without_extent(region: Region) -> bool:
    """True where all layers work on vectors."""
    for op in region.ops:
        if op.kind != native.CONV:
            continue
        value = region.values[op.output]
        is_pixel = value.shape[:2] == (1, 1)
        if value.rank != 2 and not is_pixel:
            return False
    return True


def run(
    region: Region,
    env: dict[fx.Node, Any],
    batch: int,
    threads: int,
    kept: dict[tuple[int, bool], list[Tensor]] | None,
) -> None:
    """Runs a region: reads its inputs from `env` and writes its outputs there.

    batch: images of the network. kept: buffers of earlier calls, which this call may overwrite.
    Raises RuntimeError where torch gives a tensor of another shape than the region was made for.
    """
    n = batch * region.factor
    arrays = [env[node].detach() for node, _ in region.inputs]
    _check(arrays, region.sources, n)
    # the memory format of images is kept, as torch keeps it
    images = [arrays[i] for i in region.images]
    nhwc = bool(images) and all(map(_is_channels_last, images))
    plan = region.plan_nhwc if nhwc else region.plan
    kept_as_they_are = region.images if nhwc else ()
    for i, array in enumerate(arrays):
        if i not in kept_as_they_are:
            arrays[i] = array.contiguous()
    outs = _buffers(region, n, nhwc, kept)
    inputs = [array.data_ptr() for array in arrays]
    plan.run(inputs, [out.data_ptr() for out in outs], n, threads)
    by_value = dict(zip(plan.outputs, outs, strict=True))
    for node in region.outputs:
        env[node] = by_value[region.of_node[node]]


def _check(arrays: list[Tensor], sources: list[Value], n: int) -> None:
    found = [tuple(array.shape) for array in arrays]
    expected = [value.torch_shape(n) for value in sources]
    if found != expected:
        raise RuntimeError(f"expected {expected} in a native region, got {found}")


def _is_image(value: Value) -> bool:
    is_map = value.rank == 4
    return is_map and not value.last


def _is_channels_last(x: Tensor) -> bool:
    if x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last)


def _buffers(
    region: Region, n: int, nhwc: bool, kept: dict[tuple[int, bool], list[Tensor]] | None
) -> list[Tensor]:
    """A tensor for each output of the region."""
    key = id(region), nhwc
    if kept is not None and key in kept and kept[key][0].shape[0] == n:
        return kept[key]
    plan = region.plan_nhwc if nhwc else region.plan
    values = [region.values[index] for index in plan.outputs]
    outs = [_empty(value.torch_shape(n), nhwc and not value.last) for value in values]
    if kept is not None:
        kept[key] = outs
    return outs


def _empty(shape: tuple[int, ...], channels_last: bool) -> Tensor:
    is_map = len(shape) == 4
    if channels_last and is_map:
        return torch.empty(shape, memory_format=torch.channels_last)
    return torch.empty(shape)
