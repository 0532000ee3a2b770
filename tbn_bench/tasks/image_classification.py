"""Classification of images: cross-entropy, top-1 and top-5."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from tbn_bench.config import RunConfig
from tbn_bench.tasks._base import Task


def augmented_logits(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Half the logits of x, half the mean over two diagonal shifts by a pixel, each averaged with its mirror image.

    x: (B, C, H, W) -> (B, num_classes). The rule of KellerJordan/cifar10-airbench (its tta_level=2).
    """

    def mirrored(images: Tensor) -> Tensor:
        return 0.5 * network(images) + 0.5 * network(images.flip(3))

    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    shifts = [padded[:, :, d : d + height, d : d + width] for d in (0, 2)]
    shifted = 0.5 * mirrored(shifts[0]) + 0.5 * mirrored(shifts[1])
    return 0.5 * mirrored(x) + 0.5 * shifted


class ImageClassification(Task):
    """model: (B, C, H, W) -> (B, num_classes). Logs {val,test}/{loss,top1,top5} and what every task does."""

    score = "top1"
    images = True  # mixup, cutmix and test-time augmentation are for it

    def __init__(self, model: nn.Module, config: RunConfig, num_classes: int):
        super().__init__(model, config)
        self.num_classes = num_classes
        self.teachers: list[
            nn.Module
        ] = []  # in a list: not a part of this module, nor of its checkpoints
        self.configure_metrics()

    def learn_from(self, teacher: nn.Module | None) -> None:
        """Distillation (ReActNet, arXiv 2003.03488, section 4.4): the loss becomes the cross-entropy with the teacher's output."""
        self.teachers = [] if teacher is None else [teacher.eval().requires_grad_(False)]

    def scores(self) -> dict[str, Metric]:
        """A set of fewer than five classes has its top 5 among all of them."""
        n = self.num_classes
        return {f"top{k}": MulticlassAccuracy(n, top_k=min(k, n), average="micro") for k in (1, 5)}

    def configure_metrics(self) -> None:
        """With config.tta also test/top1_tta."""
        super().configure_metrics()
        self.augmented = (
            MulticlassAccuracy(self.num_classes, average="micro") if self.config.tta else None
        )

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (B, *in_shape), y: (B,) -> ()."""
        if not self.mixing:
            return self.label_loss(self(x), x, y)
        x, labels = self.mixed(x, y)
        return self.label_loss(self(x), x, labels)

    @property
    def mixing(self) -> bool:
        return self.config.mixup > 0 or self.config.cutmix > 0

    def mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) by timm, which chooses one of them for each batch at random.

        x: (B, C, H, W), y: (B,) -> the same, and labels (B, num_classes). timm mixes pairs: of an odd batch the last stays.
        """
        from timm.data import Mixup

        c = self.config
        mix = Mixup(
            c.mixup, c.cutmix, label_smoothing=c.label_smoothing, num_classes=self.num_classes
        )
        even = len(y) // 2 * 2
        smooth = c.label_smoothing
        labels = (
            F.one_hot(y, self.num_classes).to(x.dtype) * (1 - smooth) + smooth / self.num_classes
        )
        if even:
            mixed, soft = mix(x[:even].clone(), y[:even])
            x = torch.cat([mixed, x[even:]])
            labels = torch.cat([soft.to(labels), labels[even:]])
        return x, labels

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        super().test_step(batch, index)
        if self.augmented is None:
            return
        x, y = batch
        with torch.autocast(self.device.type, enabled=False):
            self.augmented.update(augmented_logits(self, x), y)
        self.log("test/top1_tta", self.augmented, on_step=False, on_epoch=True)

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y)

    def label_loss(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of logits: (B, num_classes). With a teacher its probabilities on x are the labels and y is not looked at."""
        if not self.teachers:
            smoothing = (
                0.0 if self.mixing else self.config.label_smoothing
            )  # mixed labels are smooth already
            return F.cross_entropy(logits, y, label_smoothing=smoothing)
        with torch.no_grad():
            labels = self.teachers[0].to(x.device)(x).softmax(1)
        return F.cross_entropy(logits, labels)
