"""Classification of images: cross-entropy, top-1 and top-5."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from tbn_bench.config import RunConfig
from tbn_bench.records.predictions import Predictions
from tbn_bench.tasks._base import Task


def augmented_logits(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Half the logits of x, half the mean over two diagonal shifts by a pixel.

    Each is averaged with its mirror image.
    x: (B, C, H, W) -> (B, num_classes). The rule of KellerJordan/cifar10-airbench (its
    tta_level=2).
    """

    def mirrored(images: Tensor) -> Tensor:
        straight = network(images)
        flipped = network(images.flip(3))
        return 0.5 * straight + 0.5 * flipped

    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    down_right = padded[:, :, :height, :width]
    up_left = padded[:, :, 2 : 2 + height, 2 : 2 + width]
    shifted = 0.5 * mirrored(down_right) + 0.5 * mirrored(up_left)
    return 0.5 * mirrored(x) + 0.5 * shifted


class ImageClassification(Task):
    """model: (B, C, H, W) -> (B, num_classes).

    Logs {val,test}/{loss,top1,top5} and the values of every task.
    """

    score = "top1"
    images = True  # mixup, cutmix and test-time augmentation are for it

    def __init__(self, model: nn.Module, config: RunConfig, num_classes: int):
        super().__init__(model, config)
        self.num_classes = num_classes
        # in a list, so that it is neither a part of this module nor of its checkpoints
        self.teachers: list[nn.Module] = []
        self.configure_metrics()

    def learn_from(self, teacher: nn.Module | None) -> None:
        """Distillation: the loss becomes the cross-entropy with the teacher's output.

        ReActNet, arXiv 2003.03488, section 4.4.
        """
        self.teachers = []
        if teacher is not None:
            teacher.eval()
            teacher.requires_grad_(False)
            self.teachers.append(teacher)

    def scores(self) -> dict[str, Metric]:
        """Where there are fewer than five classes, the top 5 are all of them."""
        n = self.num_classes
        return {
            "top1": MulticlassAccuracy(n, top_k=1, average="micro"),
            "top5": MulticlassAccuracy(n, top_k=min(5, n), average="micro"),
        }

    def configure_metrics(self) -> None:
        """With config.tta also test/top1_tta."""
        super().configure_metrics()
        self.augmented = None
        if self.config.tta:
            self.augmented = MulticlassAccuracy(self.num_classes, average="micro")

    def training_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (B, *in_shape), y: (B,) -> ()."""
        if not self.mixing:
            return self.label_loss(self(x), x, y)
        x, labels = self.mixed(x, y)
        logits = self(x)
        return self.label_loss(logits, x, labels)

    @property
    def mixing(self) -> bool:
        return self.config.mixup > 0 or self.config.cutmix > 0

    def mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) by timm.

        timm chooses one of them for each batch at random. It mixes pairs, so the last image of an
        odd batch stays as it is.
        x: (B, C, H, W), y: (B,) -> the same, and labels (B, num_classes).
        """
        from timm.data import Mixup

        smooth = self.config.label_smoothing
        mix = Mixup(
            self.config.mixup,
            self.config.cutmix,
            label_smoothing=smooth,
            num_classes=self.num_classes,
        )
        one_hot = F.one_hot(y, self.num_classes).to(x.dtype)
        labels = one_hot * (1 - smooth) + smooth / self.num_classes
        even = len(y) // 2 * 2
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
            logits = augmented_logits(self, x)
            self.augmented.update(logits, y)
        self.log(
            "test/top1_tta",
            self.augmented,
            on_step=False,
            on_epoch=True,
        )

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.tested: list[tuple[Tensor, Tensor]] = []

    def observe(self, split: str, outputs: Tensor, y: Tensor) -> None:
        if split == "test":
            self.tested.append((y.cpu(), outputs.argmax(1).cpu()))

    def predictions(self) -> Predictions | None:
        labels, predicted = zip(*self.tested, strict=True)
        return Predictions(torch.cat(labels).numpy(), torch.cat(predicted).numpy())

    def evaluation_loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y)

    def label_loss(self, logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of logits: (B, num_classes).

        With a teacher its probabilities on x are the labels, and y has no influence.
        """
        if not self.teachers:
            # mixed labels are smooth already
            smoothing = 0.0 if self.mixing else self.config.label_smoothing
            return F.cross_entropy(logits, y, label_smoothing=smoothing)
        teacher = self.teachers[0].to(x.device)
        with torch.no_grad():
            labels = teacher(x).softmax(1)
        return F.cross_entropy(logits, labels)
