"""Published numbers as marks beside ours: hollow, with their source under the pointer."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from tbn_bench import catalog
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.published import is_same
from tbn_bench.scores import SCORES

METRIC = "top1"  # what a source reports; its reruns and last epochs stand in the table


def lines(records: Records) -> pd.DataFrame:
    """The ledger's accuracies that a spec of ours names, at full-precision activations."""
    ledger = records.published
    return ledger[(ledger["metric"] == METRIC) & ledger["spec"].notna() & (ledger["activation_bits"] == 32)]


def of_panel(records: Records, data: str, model: str) -> list[dict[str, Any]]:
    """Lines that are about this data set and model."""
    found = lines(records).to_dict("records")
    return [r for r in found if is_same(r["dataset"], data, True) and is_same(r["model"], model, True)]


def others(records: Records, taken: list[tuple[str, str]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(data set, model, lines) of what is published about tiles and about no panel of ours, given as (data, model) in `taken`."""
    for (data, model), part in lines(records).groupby(["dataset", "model"], sort=True):
        rows: list[dict[str, Any]] = part.to_dict("records")
        mine = any(is_same(data, d, True) and is_same(model, m, True) for d, m in taken)
        if not mine and (part["method"] == "tbn").any() and len(set(part["spec"])) > 1 and not _is_free(model):
            yield str(data), str(model), rows


def _is_free(model: Any) -> bool:
    """A paper's own name for a model, which no call of ours makes."""
    try:
        catalog.parse(str(model))
    except ValueError:
        return True
    return False


def mark(row: dict[str, Any]) -> dict[str, Any]:
    """What a frame of _panels needs of a line, without panel, method and x."""
    score, hand = SCORES[METRIC], ", second-hand" if row["second_hand"] else ""
    return {"binarizer": row["spec"], "y": score.factor * row["value"], "axis": score.axis,
            "published": True, "runs": f"{row['source']}{hand}"}  # fmt: skip
