"""PointNet in its three tasks: classification, parts of shapes, meaning of points in rooms."""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables._paper import Scope, of

SCOPE = Scope(
    "PointNet, published and ours",
    frozenset({"pointnet_cls", "pointnet_part_seg", "pointnet_sem_seg"}),
    frozenset({"modelnet40", "shapenet_part", "s3dis"}),
    ("top1", "instance_miou", "miou", "class_miou", "class_accuracy", "accuracy"),
    note=(
        "No source gives a number for a binary or tiled PointNet. Runs on other data are under "
        "Segmentation."
    ),
)


def pointnet(records: Records) -> Table | None:
    return of(records, SCOPE)
