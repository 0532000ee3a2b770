"""Display names of methods, networks and data sets, the same in every table and figure.

A call such as `tbn(copies='hadamard', min_layer_size=1000, p=8)` reads "TBN-8 hadamard". Options
that do not decide a name appear only where two calls would have the same name.
"""

import functools
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

from tbn_bench import catalog

_METHODS = {
    "adabin": "AdaBin",
    "binary_connect": "BinaryConnect",
    "bireal": "Bi-Real",
    "bitnet158": "BitNet b1.58",
    "bwn": "BWN",
    "dorefa": "DoReFa",
    "frozen_tile": "Frozen tile",
    "full_precision": "FP32",
    "irnet": "IR-Net",
    "low_rank": "Low rank",
    "reactnet": "ReActNet",
    "recu": "ReCU",
    "repeated_filters": "Repeated filters",
    "sign": "Sign",
    "snn": "SNN",
    "sparks": "Sparks",
    "tbn": "TBN",
    "tbn_budget": "TBN budget",
    "twn": "TWN",
    "xnor": "XNOR",
    "xnorpp": "XNOR++",
}
# Networks that show what a method needs: they are no methods of their own.
CONTROLS = ("frozen_tile", "repeated_filters")
_DATA = {
    "char_text": "Character text",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "csv_forecast": "CSV file",
    "digits": "Digits",
    "electricity": "Electricity",
    "etth1": "ETTh1",
    "etth2": "ETTh2",
    "ettm1": "ETTm1",
    "ettm2": "ETTm2",
    "fashion_mnist": "Fashion-MNIST",
    "imagenet": "ImageNet",
    "mnist": "MNIST",
    "modelnet40": "ModelNet40",
    "primitives": "Primitives",
    "s3dis": "S3DIS",
    "shapenet_part": "ShapeNet part",
    "tiny_imagenet": "Tiny ImageNet",
    "weather": "Weather",
}
_MODELS = {
    "airbench": "airbench",
    "conv_mixer": "ConvMixer",
    "from_timm": "timm",
    "gpt": "GPT",
    "micro_cnn": "Micro-CNN",
    "mlp": "MLP",
    "mlp_mixer": "MLP-Mixer",
    "pointnet_cls": "PointNet",
    "pointnet_part_seg": "PointNet parts",
    "pointnet_sem_seg": "PointNet rooms",
    "resnet": "ResNet",
    "resnet_cifar": "ResNet",
    "swin": "Swin",
    "ts_transformer": "Transformer",
    "vgg_small": "VGG-small",
    "vit": "ViT",
}
# Options that belong to a method's name, in the order in which it shows them.
_METHOD_OPTIONS = ("p", "per_layer", "tau", "tile_length", "bits", "copies", "activations")
_MODEL_OPTIONS = ("name", "depth", "widths", "hidden", "channels", "width", "dim")
_DATA_OPTIONS = ("size", "test_area")

_DEVICE_NOISE = ("r", "tm", "processor", "cpu")
_DEVICE_WORDS = {"intel": "Intel", "xeon": "Xeon", "core": "Core", "zen": "Zen"}
_DEVICE_WORDS |= {"family": "family", "model": "model"}  # of a CPU whose name has no number
_WORDS = {"alpha": "alpha per", "alpha_source": "alpha from"}  # options in words

Base = Callable[[str], str]  # a call -> its name


@functools.cache
def method(spec: str) -> str:
    """The display name of a binarizer: FP32, BWN, TBN-4, TBN-8 hadamard, Low rank 1/4."""
    return _name(spec, _METHODS, _METHOD_OPTIONS)


def methods(specs: Iterable[str]) -> dict[str, str]:
    """spec -> display name, with the options that differ among specs of the same name.

    No two specs get the same text.
    """
    return distinct(specs, method)


@functools.cache
def network(model: str) -> str:
    """The display name of a model: ResNet-18, airbench 64/256/256, Net (given)."""
    return catalog.given_name(model) or _name(model, _MODELS, _MODEL_OPTIONS)


@functools.cache
def data_set(data: str) -> str:
    """The display name of a data set: CIFAR-10, TensorDataset (given)."""
    return catalog.given_name(data) or _name(data, _DATA, _DATA_OPTIONS)


def is_control(spec: str) -> bool:
    """Whether a binarizer is a control: it shows what a part of the method is worth."""
    name, _ = catalog.parse(spec)
    return name in CONTROLS


def distinct(calls: Iterable[str], base: Base) -> dict[str, str]:
    """call -> base(call), followed by the options that differ among calls of the same base."""
    same: dict[str, list[str]] = {}
    for call in dict.fromkeys(calls):
        same.setdefault(base(call), []).append(call)
    found = {}
    taken: set[str] = set()
    for name, members in same.items():
        for call, others in zip(members, _differing(members), strict=True):
            text = f"{name} ({others})" if others else name
            if text in taken:  # the options differ beyond their shortened text
                text = f"{text} #{len(taken)}"
            taken.add(text)
            found[call] = text
    return found


def _differing(calls: list[str]) -> list[str]:
    """The options of each call that others of them do not have, as text."""
    if len(calls) == 1:
        return [""]
    parsed = []
    for call in calls:
        name, options = catalog.parse(call)
        parsed.append({"": name, **options})
    texts = []
    for own in parsed:
        parts = []
        for key, value in sorted(own.items()):
            if any(other.get(key, ...) != value for other in parsed):
                parts.append(_said(key, value))
        texts.append(", ".join(parts))
    return texts


def _said(key: str, value: Any) -> str:
    """An option in parentheses: alpha per layer, all layers, shifts ±1."""
    if not key:
        return str(value)
    if key == "min_layer_size" and isinstance(value, int):
        return f"layers ≥ {value:,}" if value else "all layers"
    if key == "shifts":
        return f"shifts {_steps(value)}"
    word = _WORDS.get(key)
    if word is not None and isinstance(value, str):
        return f"{word} {value}"
    return f"{key}={_short(value)}"


def _steps(shifts: Any) -> str:
    """The least and greatest step of a list of [dy, dx]: ±1, 0 to 1."""
    try:
        steps = [step for shift in shifts for step in shift]
        low = min(steps)
        high = max(steps)
    except (TypeError, ValueError):
        return _short(shifts)
    return f"±{high}" if low == -high else f"{low} to {high}"


def _name(call: str, known: dict[str, str], named: tuple[str, ...]) -> str:
    """The known name of a call's entry with the options that belong to it; else the call."""
    try:
        name, options = catalog.parse(call)
    except ValueError:
        return call
    text = known.get(name, name)
    for option in named:
        if option in options:
            text += _suffix(option, options[option])
    return text


def _suffix(option: str, value: Any) -> str:
    """An option in a name, with the hyphen or space before it."""
    if option in ("p", "tau", "depth"):
        return f"-{value}"
    if option == "per_layer":
        return f"-{_each(value)}"
    if option == "tile_length":
        return f" q={value}"
    if option == "bits":
        return f" {_share(value)}"
    if option == "activations":
        return " W1A1" if value else " W1A32"
    if option == "copies" and value == "aligned":  # the paper's layout has no word
        return ""
    if option in ("width", "dim", "size"):
        return f" {option} {value}"
    if option == "test_area":
        return f" area {value}"
    return f" {_each(value)}"


def _each(value: Any) -> str:
    """The parts of a list with slashes between them; of equal ones in a long list, one.

    A list of p per layer is shown by the p in it, smallest first.
    """
    if not isinstance(value, list | tuple):
        return str(value)

    parts = list(value)
    if len(parts) > 4:
        parts = sorted(set(parts), key=_order)
    return "/".join(map(str, parts))


def _order(value: Any) -> tuple[float, str]:
    """Numbers by size, then everything else by its text."""
    is_number = isinstance(value, int | float)
    return (float(value) if is_number else float("inf")), str(value)


def _share(value: Any) -> str:
    """1/4 for 0.25; other shares as they are."""
    if not isinstance(value, int | float) or not 0 < value <= 1:
        return str(value)
    share = Fraction(value).limit_denominator(64)
    is_exact = abs(float(share) - value) < 1e-9
    return str(share) if is_exact and share.numerator == 1 else f"{value:g}"


def _short(value: Any) -> str:
    """A value as it is written in a call; a long one by its beginning."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def device(slug: str) -> str:
    """AMD EPYC for amd_epyc, Intel Xeon for intel_r_xeon_r_processor."""
    words = []
    for word in slug.split("_"):
        if word not in _DEVICE_NOISE:
            words.append(_DEVICE_WORDS.get(word, word.upper()))

    return " ".join(words)
