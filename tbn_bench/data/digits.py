"""scikit-learn's handwritten digits, without a download.

They are 1,797 real 8 x 8 images (UCI Optical Recognition of Handwritten Digits). A fixed seed
splits them, stratified by class, into 397 test images, val_size (200) that are held out, and the
rest for training. size=32 enlarges them bilinearly to the shape of CIFAR's images, to measure speed
at that shape.
"""

import torch
import torch.nn.functional as F

from tbn_bench.data._base import Split
from tbn_bench.data._images import ImageDataModule


class Digits(ImageDataModule):
    num_classes = 10
    class_names = tuple("0123456789")
    in_shape = (1, 8, 8)
    # of the whole set divided by 16, as for the larger sets
    mean = (0.3053,)
    std = (0.3760,)
    val_size = 200

    def __init__(
        self,
        size: int = 8,
        batch_size: int = 128,
        seed: int = 0,
        split_seed: int = 0,
        augment: bool = True,
        val_size: int | None = None,
    ):
        super().__init__(batch_size, seed, split_seed, augment, val_size)
        if not isinstance(size, int) or size < 8:
            raise ValueError(f"size must be a whole number of at least 8 pixels, got {size!r}")
        self.in_shape = (1, size, size)

    def read(self) -> tuple[Split, Split]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        raw = load_digits()
        x = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
        if self.in_shape[1] > 8:
            x = F.interpolate(x, self.in_shape[1:], mode="bilinear", align_corners=False)
        y = torch.from_numpy(raw.target).long()
        train, test = train_test_split(
            range(len(y)),
            test_size=397,
            random_state=0,
            stratify=raw.target,
        )
        return (x[train], y[train]), (x[test], y[test])
