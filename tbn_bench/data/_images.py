"""In-memory sets of images: normalised, and augmented on the device."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tbn_bench.data._base import TensorDataModule
from tbn_bench.data._order import seeded


class ImageDataModule(TensorDataModule):
    """Images, x: (N, C, H, W): normalised by mean and std (of pixels in 0 to 1).

    Training images are also shifted and mirrored.
    """

    in_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]
    crop_padding = 0
    # the pixels around an image: the mean colour (0 after normalisation), "black", or "reflect"
    crop_border = "mean"
    # True: a random half in every epoch; "alternating": the other half in every other epoch
    flip: bool | str = False

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """x: (B, C, H, W) raw -> float32, normalised, augmented when training."""
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        pixels = x.float() / scale
        mean = _per_channel(self.mean, x.device)
        std = _per_channel(self.std, x.device)
        normalised = (pixels - mean) / std
        if training and self.augment:
            return self._augment(normalised)
        return normalised

    def _augment(self, x: Tensor) -> Tensor:
        """Random crop after zero padding and horizontal flip, drawn for each image on x's device.

        x: (B, C, H, W).
        """
        b = len(x)
        if self.crop_padding:
            shape = (2, b, 1, 1)
            corners = torch.randint(0, self._places, shape, device=x.device)
            x = self._crop(x, corners)
        if self.flip:
            draws = torch.rand(b, device=x.device)
            flips = draws < 0.5
            x = _mirrored(x, flips)
        return x

    @property
    def _places(self) -> int:
        """First rows (or columns) that a crop may have in the padded image."""
        return 2 * self.crop_padding + 1

    def _crop(self, x: Tensor, corners: Tensor) -> Tensor:
        """x: (B, C, H, W) -> (B, C, H, W).

        corners: (2, B, 1, 1), the first row and column of each crop in the padded image.
        """
        b, _, h, w = x.shape
        device = x.device
        top, left = corners
        down = torch.arange(h, device=device).reshape(1, h, 1)
        across = torch.arange(w, device=device).reshape(1, 1, w)
        rows = top + down
        cols = left + across
        images = torch.arange(b, device=device).reshape(b, 1, 1)
        padded = self._padded(x)
        cropped = padded[images, :, rows, cols]
        return cropped.permute(0, 3, 1, 2)

    def _padded(self, x: Tensor) -> Tensor:
        """x: (B, C, H, W), normalised, with crop_padding pixels around it."""
        around = (self.crop_padding,) * 4
        if self.crop_border == "reflect":
            return F.pad(x, around, mode="reflect")
        if self.crop_border == "mean":
            return F.pad(x, around)
        mean = _per_channel(self.mean, x.device)
        std = _per_channel(self.std, x.device)
        black = -mean / std
        above_black = x - black
        padded = F.pad(above_black, around)
        return padded + black

    @property
    def by_position(self) -> bool:  # type: ignore[override]
        """The newer options draw by position; the older ones keep their random stream."""
        if not self.augment:
            return False
        newer_flip = self.flip == "alternating"
        newer_border = self.crop_border != "mean"
        return newer_flip or newer_border

    def prepare_at(self, x: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """x: (B, C, H, W) raw -> normalised, cropped, mirrored.

        positions: (B,), the images' places in the training set. All draws are for the whole set at
        once: corners by (seed, epoch), mirror images by seed (alternating) or by (seed, epoch).
        """
        x = self.prepare(x)
        size = self.size("train")
        positions = positions.cpu()
        draws = seeded(self.seed * 100_003 + epoch)
        if self.crop_padding:
            corners = torch.randint(0, self._places, (2, size), generator=draws)
            chosen = corners[:, positions].reshape(2, -1, 1, 1)
            x = self._crop(x, chosen.to(x.device))

        if not self.flip:
            return x
        if self.flip == "alternating":
            fixed = seeded(self.seed)
            first_half = torch.rand(size, generator=fixed) < 0.5
            is_odd = bool(epoch % 2)
            flips = first_half ^ is_odd
        else:
            flips = torch.rand(size, generator=draws) < 0.5
        chosen = flips[positions]
        return _mirrored(x, chosen.to(x.device))


def _per_channel(values: Sequence[float], device: torch.device) -> Tensor:
    """(1, C, 1, 1), to be used with images (B, C, H, W)."""
    vector = torch.tensor(values, device=device)
    return vector.reshape(1, -1, 1, 1)


def _mirrored(x: Tensor, flips: Tensor) -> Tensor:
    """x: (B, C, H, W), flips: (B,), True for the images that are mirrored."""
    mirror = x.flip(3)
    chosen = flips.reshape(-1, 1, 1, 1)
    return torch.where(chosen, mirror, x)
