"""Any image classifier of timm, by its name there, with random or pretrained weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tbn_bench.catalog import did_you_mean
from tbn_bench.models import _float_weights

# Arguments of timm.create_model that read or fetch a file. A model call may come from somebody
# else's sweep file or packed file, and an older timm unpickles the files that it loads.
READS_FILES = (
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
)


def from_timm(
    name: str = "resnet18",
    num_classes: int = 10,
    in_shape: Sequence[int] = (3, 224, 224),
    kwargs: dict[str, Any] | None = None,
    pretrained: bool | str = False,
) -> nn.Module:
    """x: (B, *in_shape) -> (B, num_classes).

    pretrained: True for timm's weights, which are fetched once and kept in its cache; or a
    safetensors file of the network's state dict. The weights of the classifier are left out where
    num_classes differs. `preprocessing` tells how its images are prepared.
    kwargs go to timm.create_model, e.g.
    from_timm(name='vit_tiny_patch16_224', kwargs={'img_size': 32}).

    Raises ValueError for a name that timm does not know (with a suggestion), for arguments that the
    model refuses, and for arguments that load a file.
    """
    import timm

    _check(name)
    _check_arguments(kwargs)
    # on torch's meta device there is nothing to load the weights into
    on_meta = torch.get_default_device().type == "meta"
    fetches = pretrained is True and not on_meta
    try:
        model: nn.Module = timm.create_model(
            name,
            pretrained=fetches,
            num_classes=num_classes,
            in_chans=in_shape[0],
            **(kwargs or {}),
        )
    except TypeError as error:
        raise ValueError(f"timm model {name!r} refuses {kwargs}: {error}") from error
    except Exception as error:
        if not fetches:
            raise
        raise ValueError(_not_fetched(name, error)) from error
    if isinstance(pretrained, str) and not on_meta:
        _load_file(model, pretrained)
    return model


def _not_fetched(name: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    return (
        f"the pretrained weights of {name} cannot be fetched ({type(error).__name__}: {said}); "
        "fetch them on a machine with a network (timm.create_model(name, pretrained=True), "
        "safetensors.torch.save_file(model.state_dict(), FILE)) and give "
        "pretrained='FILE.safetensors'"
    )


def _load_file(model: nn.Module, file: str) -> None:
    """Loads a state dict; of a classifier with another number of classes, all but its head."""
    theirs = _float_weights.read(file)
    own = model.state_dict()
    listed = getattr(model, "default_cfg", {})
    head = listed.get("classifier", "head")
    for key, value in own.items():
        there = theirs.get(key)
        if there is None or not key.startswith(f"{head}."):
            continue
        if there.shape != value.shape:
            theirs[key] = value
    _float_weights.check(file, theirs, own)
    model.load_state_dict(theirs, strict=False)


def preprocessing(name: str) -> dict[str, Any]:
    """How the images of a pretrained model are prepared, by timm's list.

    size: side in pixels. resize: of the shorter side before the crop in the middle. mean, std: of
    pixels in 0 to 1. interpolation: "bicubic" or "bilinear".
    """
    import timm

    _check(name)
    listed = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    size = listed.input_size[-1]
    return {
        "size": size,
        "resize": round(size / listed.crop_pct),
        "mean": tuple(listed.mean),
        "std": tuple(listed.std),
        "interpolation": listed.interpolation,
    }


def _check_arguments(kwargs: Any) -> None:
    if kwargs is not None and not isinstance(kwargs, dict):
        raise ValueError(f"kwargs must be a dict such as {{'img_size': 32}}, got {kwargs!r}")
    asked = [key for key in READS_FILES if key in (kwargs or {})]
    if asked:
        raise ValueError(
            f"kwargs must not name {', '.join(asked)}: a model call loads no files, "
            "and weights start at random; use --init SWEEP/RUN_ID or FILE, or the option pretrained"
        )


def _suggestion(name: str, known: list[str]) -> str:
    """The suggestion alone where the list of all known names would be long."""
    text = did_you_mean(name, known)
    if len(text) < 200:
        return text
    suggestion, question_mark, _ = text.partition("?")
    return suggestion + "?" if question_mark else ""


def _check(name: str) -> None:
    import timm

    is_known = isinstance(name, str) and timm.is_model(name)
    if not is_known:
        known = timm.list_models()
        suggestion = _suggestion(str(name), known)
        raise ValueError(f"timm has no model {name!r}{suggestion}")


def _own_form(
    name: str = "resnet18",
    num_classes: int | None = None,
    in_shape: Sequence[int] | None = None,
    kwargs: dict[str, Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """in_shape and num_classes of a model: those of the call, or else those that timm lists.

    The side of the image is kwargs' img_size where that is given.
    """
    import timm

    _check(name)
    _check_arguments(kwargs)
    listed = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    side = (kwargs or {}).get("img_size", listed.input_size[1:])
    sides = (side, side) if isinstance(side, int) else tuple(side)
    shape = in_shape or (listed.input_size[0], *sides)
    classes = listed.num_classes if num_classes is None else num_classes
    return {"in_shape": tuple(shape), "num_classes": classes}


from_timm.own_form = _own_form  # for a plan that names no data set (experiment.build.sketch)
