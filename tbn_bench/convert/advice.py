"""Warnings about a converted network: traps of tiling, and weights that were not converted."""

from itertools import pairwise
from math import prod

from torch import nn

from tbn_bench.convert.plan import PlanRow

_MOST_LEFT_OUT = 0.01  # of all values: more than that is worth a warning
_MOST_NAMED = 3  # layers that a warning names


def warnings_for(model: nn.Module, rows: list[PlanRow]) -> list[str]:
    """Warnings about the network that `rows` describe, each in one line."""
    found = (
        nothing_below_one_bit(rows),
        tied_classes(rows[-1]),
        cancelled_scales(model, rows),
        left_out(model, rows),
    )
    return [warning for warning in found if warning is not None]


def nothing_below_one_bit(rows: list[PlanRow]) -> str | None:
    """Warns where a sub-bit method makes a binary network: every weight is below min_layer_size."""
    binarized = [row for row in rows if row.binarized]
    exempt = [row for row in binarized if "below min_layer_size" in row.reason]
    if not exempt or len(exempt) < len(binarized):
        return None
    largest = max(row.numel for row in exempt)
    return (
        "nothing is below one bit per weight: every weight is below min_layer_size (the largest "
        f"has {largest:,} values), so this is a binary network; lower min_layer_size"
    )


def tied_classes(last: PlanRow) -> str | None:
    """Warns where a last layer, tiled with one alpha, has identical weight rows for two classes."""
    one_alpha = last.alpha_bits == 32
    repeats = last.binarized and last.p > 1 and one_alpha and last.copies == "aligned"
    row_length = max(1, prod(last.shape[1:]))
    if not repeats or last.q % row_length:
        return None
    rows_per_tile = last.shape[0] // last.p
    return (
        f"{last.name} is tiled with one alpha: outputs c and c + {rows_per_tile} "
        "share one weight row and cannot be told apart; "
        "use alpha='tile', keep it, or raise min_layer_size"
    )


def cancelled_scales(model: nn.Module, rows: list[PlanRow]) -> str | None:
    """Warns where a normalisation of each channel follows aligned copies.

    It removes the alphas, and then the copies are the same features.
    """
    normalised = _normalised_layers(model)
    found = [row.name for row in rows if _has_row_copies(row) and _layers(row) <= normalised]
    if not found:
        return None
    named = ", ".join(found[:_MOST_NAMED])
    if len(found) > _MOST_NAMED:
        named += f" and {len(found) - _MOST_NAMED} more"
    return (
        f"{named}: a normalisation of each channel right behind p aligned copies cancels their "
        "alphas, so the layer computes what repeated_filters does, C_out / p features and their "
        "copies; copies='shifted', 'hadamard' or 'columns' make different features of the same bits"
    )


def left_out(model: nn.Module, rows: list[PlanRow]) -> str | None:
    """Warns where over 1 % of all values are matrices that are never converted.

    They belong to no Linear, Conv1d, Conv2d or attention.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    converted: set[int] = set()
    for row in rows:
        converted.update(id(parameters.get(name)) for name in row.names)
    others = {}
    for name, parameter in parameters.items():
        of_binarizer = ".parametrizations." in f".{name}"
        if id(parameter) not in converted and not of_binarizer and _is_matrix(parameter):
            others[id(parameter)] = parameter.numel()
    count = sum(others.values())
    total = count + sum(row.numel for row in rows)
    if not any(row.binarized for row in rows) or count <= _MOST_LEFT_OUT * total:
        return None
    return (
        f"{count:,} values in other parameters stay full precision: "
        "raw ones, embeddings, recurrent, transposed and 3-d convolution layers"
    )


def _is_matrix(parameter: nn.Parameter) -> bool:
    axes = parameter.shape
    long_axes = [length for length in axes if length > 1]
    return len(long_axes) > 1


def _has_row_copies(row: PlanRow) -> bool:
    """Whether whole output rows of a weight are copies of others."""
    if not row.binarized or row.copies != "aligned":
        return False
    rows = row.shape[0]
    return row.p > 1 and rows % row.p == 0


def _layers(row: PlanRow) -> set[str]:
    return {name.rpartition(".")[0] for name in row.names}


_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, *_NORMS)


def _normalised_layers(model: nn.Module) -> set[str]:
    """Names of layers that a batch or instance norm of their outputs follows.

    "Follows": it is the next module with parameters, in order of definition.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, _LAYERS)]
    found = set()
    for (name, layer), (_, after) in pairwise(layers):
        if isinstance(after, _NORMS) and after.num_features == _outputs(layer):
            found.add(name)
    return found


def _outputs(layer: nn.Module) -> int | None:
    """Output features or channels; None of a layer that has neither."""
    channels: int | None = getattr(layer, "out_channels", None)
    features: int | None = getattr(layer, "out_features", channels)
    return features
