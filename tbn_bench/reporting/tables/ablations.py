"""The effect of the parts of the method.

One alpha or many, from W or A; the smallest tiled layer; global tiling; tile length; the layout of
copies.
"""

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.table import Table
from tbn_bench.reporting.tables._paper import Scope, of

SCOPE = Scope(
    "Ablations, published and ours",
    frozenset(),
    frozenset(),
    ablation=True,
    note=(
        "min_layer_size=0 tiles every layer (global tiling). alpha='layer' is one alpha per layer, "
        "'tile' one per tile. alpha is the mean magnitude of alpha_source. Reported values are the "
        "author's raw curves and logs; the script that draws the figure smooths them and shifts "
        "one."
    ),
)


def ablations(records: Records) -> Table | None:
    return of(records, SCOPE)
