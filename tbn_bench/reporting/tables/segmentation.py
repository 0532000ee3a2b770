"""Segmentation of point clouds, into the parts of shapes and by meaning; see comparison.py."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables.comparison import of_scores


def segmentation(records: Records) -> Table | None:
    return of_scores(
        records,
        ("instance_miou", "miou"),
        ("class_miou", "class_accuracy", "accuracy"),
        "Segmentation",
    )
