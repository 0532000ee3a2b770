"""The only module that code outside this package should import from. Its names are stable.

    from tbn_bench.extend import Binarizer, Decision, Target, WeightBinarizer, clip_ste

Binarizers   Binarizer, WeightBinarizer, ActivationBinarizer, Target, Decision, Form, Copies,
             Scheduled, EDESchedule, sign, clip_ste, approx_sign, ede, channels
Data         TensorDataModule, ImageDataModule, PointDataModule, SegmentationDataModule,
             SeriesDataModule, data_root
Tasks        Task, ImageClassification
Optimizers   Parameters, check_range, decayed
Tables       Table, Records, column, text_column
Figures      ReportFigure, Layout, Group, Records
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
    from tbn_bench.reporting.figures._panels import Layout
    from tbn_bench.reporting.figures._plugin import ReportFigure
    from tbn_bench.reporting.groups import Group
    from tbn_bench.reporting.load import Records
    from tbn_bench.reporting.table import Table, column, text_column
    from tbn_bench.tasks._base import Task
    from tbn_bench.tasks.image_classification import ImageClassification

__all__ = [
    "ActivationBinarizer",
    "Binarizer",
    "Copies",
    "Decision",
    "EDESchedule",
    "Form",
    "Group",
    "ImageClassification",
    "ImageDataModule",
    "Layout",
    "Parameters",
    "PointDataModule",
    "Records",
    "ReportFigure",
    "RunConfig",
    "Scheduled",
    "SegmentationDataModule",
    "SeriesDataModule",
    "Table",
    "Target",
    "Task",
    "TensorDataModule",
    "WeightBinarizer",
    "approx_sign",
    "channels",
    "check_range",
    "clip_ste",
    "column",
    "data_root",
    "decayed",
    "ede",
    "sign",
    "text_column",
]

_HOME = {
    "Copies": "format.layouts",
    "Form": "format.form",
    "ImageClassification": "tasks.image_classification",
    "ImageDataModule": "data._images",
    "Group": "reporting.groups",
    "Layout": "reporting.figures._panels",
    "Parameters": "optimizers._base",
    "PointDataModule": "data._points",
    "Records": "reporting.load",
    "ReportFigure": "reporting.figures._plugin",
    "RunConfig": "config",
    "SegmentationDataModule": "data._segmentation",
    "SeriesDataModule": "data._series",
    "Table": "reporting.table",
    "Task": "tasks._base",
    "TensorDataModule": "data._base",
    "check_range": "optimizers._base",
    "column": "reporting.table",
    "data_root": "data._root",
    "decayed": "optimizers._base",
    "text_column": "reporting.table",
}


def __getattr__(name: str) -> Any:
    """Loads a name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'tbn_bench.extend' has no attribute {name!r}")
    home = _HOME.get(name, "binarizers._base")
    return getattr(import_module(f"tbn_bench.{home}"), name)


def __dir__() -> list[str]:
    return list(__all__)
