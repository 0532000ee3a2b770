"""Any image classifier of timm, by its name there, with random weights."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tbn_bench.catalog import did_you_mean


def from_timm(
    name: str = "resnet18", num_classes: int = 10, in_shape: Sequence[int] = (3, 224, 224), kwargs: dict[str, Any] | None = None
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes). kwargs go to timm.create_model, e.g. from_timm(name='vit_tiny_patch16_224', kwargs={'img_size': 32}).

    Raises ValueError, with a suggestion, for a name timm does not know or arguments the model refuses.
    """
    import timm

    if not timm.is_model(name):
        near = did_you_mean(name, timm.list_models())
        raise ValueError(
            f"timm has no model {name!r}{near if len(near) < 200 else near.split('?')[0] + '?' if '?' in near else ''}"
        )
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_shape[0], **(kwargs or {}))
    except TypeError as error:
        raise ValueError(f"timm model {name!r} refuses {kwargs}: {error}") from error
