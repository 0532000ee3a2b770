"""Pooling layers."""

from torch import nn

from tbn_bench.compiler.geometry import pair
from tbn_bench.compiler.graph import Mean, NoRule, Operation, Pool, Unsupported
from tbn_bench.compiler.names import Call, lowers


@lowers(nn.MaxPool1d, nn.MaxPool2d)
def max_pool(call: Call) -> Operation:
    module = call.module
    if module.return_indices:
        raise NoRule("max pooling that returns indices")
    axes = 1 if isinstance(module, nn.MaxPool1d) else 2
    return Pool(
        call.x,
        axes,
        average=False,
        kernel=pair(module.kernel_size, axes),
        stride=pair(module.stride or module.kernel_size, axes),
        padding=pair(module.padding, axes, missing=0),
        dilation=pair(module.dilation, axes),
        ceil=module.ceil_mode,
    )


@lowers(nn.AvgPool2d)
def average_pool(call: Call) -> Operation:
    module = call.module
    padding = pair(module.padding, 2)
    leaves_padding_out = padding != (0, 0) and not module.count_include_pad
    if module.ceil_mode or leaves_padding_out or module.divisor_override:
        raise Unsupported(
            "average pooling with ceil_mode, divisor_override or padding that does not count "
            "is not known"
        )
    return Pool(
        call.x,
        axes=2,
        average=True,
        kernel=pair(module.kernel_size, 2),
        stride=pair(module.stride or module.kernel_size, 2),
        padding=padding,
    )


@lowers(nn.AdaptiveAvgPool2d)
def global_average_pool(call: Call) -> Operation:
    size = call.module.output_size
    if size not in (1, (1, 1)):
        raise NoRule(f"AdaptiveAvgPool2d to {size}")
    return Mean(call.x, axes=(2, 3), keepdim=True)
