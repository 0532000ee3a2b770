"""Corrupted images, in the style of CIFAR-10-C: four kinds, five severities.

The idea, the kinds and the constants for 32 x 32 images are those of D. Hendrycks and T.
Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations (ICLR
2019). The code is ours and so are the random numbers: results are comparable with one another, and
not exactly with CIFAR-10-C.

Pixels are in 0 to 1 while they are corrupted, and are then rounded to 8 bits.

    gaussian_noise  x + sigma * n, n standard normal for each pixel and channel
    gaussian_blur   with standard deviation sigma in pixels, cut off at 4 sigma, edges repeated
    contrast        (x - m) * c + m, m the mean of each channel of the image
    jpeg            compressed with this quality, and decompressed
"""

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.data._order import seeded

SEVERITIES = (1, 2, 3, 4, 5)
NOISE_SIGMA = (0.04, 0.06, 0.08, 0.09, 0.10)
BLUR_SIGMA = (0.4, 0.6, 0.7, 0.8, 1.0)
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
JPEG_QUALITY = (80, 65, 58, 50, 40)
_CUT = 4  # of the blur, in standard deviations


def corrupted(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """images: (B, C, H, W) uint8, C = 1 or 3 -> the same shape and type.

    severity: 1 to 5. seed: of the noise. Raises ValueError for other images, kinds and severities.
    """
    fault = not_images(images)
    if fault:
        raise ValueError(fault)
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"a corruption is one of {known}, got {kind!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"a severity is 1 to {SEVERITIES[-1]}, got {severity!r}")
    if kind == "jpeg":
        return _jpeg(images, JPEG_QUALITY[severity - 1])
    pixels = images.float() / 255
    if kind == "gaussian_noise":
        changed = _noisy(pixels, NOISE_SIGMA[severity - 1], seed)
    else:
        constants, change = _SMOOTH[kind]
        changed = change(pixels, constants[severity - 1])
    levels = (changed.clamp(0, 1) * 255).round()
    return levels.to(torch.uint8)


def not_images(x: Tensor) -> str:
    """Why these samples are not images of 8 bits, or ''."""
    if x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] in (1, 3):
        return ""
    shape = tuple(x.shape)
    return f"corruptions need images (B, 1 or 3, H, W) of uint8, got {x.dtype} {shape}"


def _noisy(pixels: Tensor, sigma: float, seed: int) -> Tensor:
    noise = torch.randn(pixels.shape, generator=seeded(seed))
    return pixels + sigma * noise


def _blurred(pixels: Tensor, sigma: float) -> Tensor:
    radius = int(_CUT * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    bell = torch.exp(-0.5 * (offsets / sigma) ** 2)
    bell = bell / bell.sum()
    b, c, h, w = pixels.shape
    flat = pixels.reshape(b * c, 1, h, w)
    around = (radius,) * 4
    padded = F.pad(flat, around, mode="replicate")
    rows = F.conv2d(padded, bell.reshape(1, 1, -1, 1))
    both = F.conv2d(rows, bell.reshape(1, 1, 1, -1))
    return both.reshape(b, c, h, w)


def _with_contrast(pixels: Tensor, factor: float) -> Tensor:
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def _jpeg(images: Tensor, quality: int) -> Tensor:
    """By Pillow; another version of its JPEG library may differ in single grey levels."""
    found = [_one_jpeg(image.numpy(), quality) for image in images]
    return torch.from_numpy(np.stack(found))


def _one_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """image: (C, H, W) uint8."""
    from PIL import Image

    channels_last = np.moveaxis(image, 0, -1)
    is_grey = len(image) == 1
    picture = Image.fromarray(channels_last[..., 0] if is_grey else channels_last)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    read = np.asarray(Image.open(file))
    if is_grey:
        return read[None]
    return np.ascontiguousarray(np.moveaxis(read, -1, 0))


_SMOOTH: dict[str, tuple[tuple[float, ...], Callable[[Tensor, float], Tensor]]] = {
    "gaussian_blur": (BLUR_SIGMA, _blurred),
    "contrast": (CONTRAST, _with_contrast),
}
KINDS = ("gaussian_noise", *_SMOOTH, "jpeg")
