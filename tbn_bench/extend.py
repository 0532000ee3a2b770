"""The only module that code outside this package should import from. Its names are stable.

    from tbn_bench.extend import Binarizer, Decision, Target, WeightBinarizer, clip_ste

Binarizers   Binarizer, WeightBinarizer, ActivationBinarizer, Target, Decision, Form, Copies,
             Scheduled, EDESchedule, sign, clip_ste, approx_sign, ede, channels
Data         TensorDataModule, ImageDataModule, PointDataModule, SegmentationDataModule,
             SeriesDataModule, data_root
Tasks        Task, ImageClassification
Optimizers   Parameters, check_range, decayed
All          RunConfig

A name is loaded when it is first used, so a file that only has a binarizer loads nothing heavier
than torch. docs/guides/plugins.md has an example and links to the guide for each kind of entry.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbn_bench.binarizers._base import (
        ActivationBinarizer,
        Binarizer,
        Decision,
        EDESchedule,
        Scheduled,
        Target,
        WeightBinarizer,
        approx_sign,
        channels,
        clip_ste,
        ede,
        sign,
    )
    from tbn_bench.config import RunConfig
    from tbn_bench.data._base import TensorDataModule
    from tbn_bench.data._images import ImageDataModule
    from tbn_bench.data._points import PointDataModule
    from tbn_bench.data._root import data_root
    from tbn_bench.data._segmentation import SegmentationDataModule
    from tbn_bench.data._series import SeriesDataModule
    from tbn_bench.format.form import Form
    from tbn_bench.format.layouts import Copies
    from tbn_bench.optimizers._base import Parameters, check_range, decayed
    from tbn_bench.tasks._base import Task
    from tbn_bench.tasks.image_classification import ImageClassification

__all__ = [
    "ActivationBinarizer",
    "Binarizer",
    "Copies",
    "Decision",
    "EDESchedule",
    "Form",
    "ImageClassification",
    "ImageDataModule",
    "Parameters",
    "PointDataModule",
    "RunConfig",
    "Scheduled",
    "SegmentationDataModule",
    "SeriesDataModule",
    "Target",
    "Task",
    "TensorDataModule",
    "WeightBinarizer",
    "approx_sign",
    "channels",
    "check_range",
    "clip_ste",
    "data_root",
    "decayed",
    "ede",
    "sign",
]

_HOME = {
    "Copies": "format.layouts",
    "Form": "format.form",
    "ImageClassification": "tasks.image_classification",
    "ImageDataModule": "data._images",
    "Parameters": "optimizers._base",
    "PointDataModule": "data._points",
    "RunConfig": "config",
    "SegmentationDataModule": "data._segmentation",
    "SeriesDataModule": "data._series",
    "Task": "tasks._base",
    "TensorDataModule": "data._base",
    "check_range": "optimizers._base",
    "data_root": "data._root",
    "decayed": "optimizers._base",
}


def __getattr__(name: str) -> Any:
    """Loads a name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'tbn_bench.extend' has no attribute {name!r}")
    home = _HOME.get(name, "binarizers._base")
    return getattr(import_module(f"tbn_bench.{home}"), name)


def __dir__() -> list[str]:
    return list(__all__)
