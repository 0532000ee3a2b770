"""scikit-learn's handwritten digits: 1,797 real 8 x 8 images (UCI Optical Recognition of Handwritten Digits). No download.

Split by a fixed seed into 397 test images, val_size (200) held out, and the rest for training; stratified by class.
"""

import torch

from tbn_bench.data._base import ImageDataModule, Split


class Digits(ImageDataModule):
    num_classes = 10
    in_shape = (1, 8, 8)
    mean, std = (0.3053,), (0.3760,)  # of the whole set divided by 16, as for the larger sets
    val_size = 200

    def read(self) -> tuple[Split, Split]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        raw = load_digits()
        x = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
        y = torch.from_numpy(raw.target).long()
        train, test = train_test_split(range(len(y)), test_size=397, random_state=0, stratify=raw.target)
        return (x[train], y[train]), (x[test], y[test])
