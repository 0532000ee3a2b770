"""What a sweep varied and what came of it: the table behind parallel coordinates, importance and contour."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from tbn_bench.config import RunConfig
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES, Score

LEAST_RUNS = 8  # fewer say nothing about a space
_NOT_VARIED = ("seed", "keep", "init", "teacher")


def sweeps(records: Records) -> Iterator[tuple[str, Score, pd.DataFrame, list[str]]]:
    """(title, score, a row per finished run with its config and "score" as shown, parameters with at least two values).

    Of sweeps with two such parameters and LEAST_RUNS runs, per data set; runs of one data set are judged by one score.
    """
    done = records.finished[
        ["sweep", "run_id", "data", "binarizer", "score", *(f"test/{name}" for name in SCORES)]
    ]
    for (sweep, data, name), part in done.groupby(["sweep", "data", "score"], sort=True):
        score = SCORES[str(name)]
        table = part[["sweep", "run_id"]].assign(
            score=score.factor * part[f"test/{name}"].astype(float)
        )
        table = table.merge(records.configs, on=["sweep", "run_id"]).dropna(subset=["score"])
        varied = [
            field
            for field in RunConfig.model_fields
            if field not in _NOT_VARIED and table[field].astype(str).nunique() > 1
        ]
        if len(varied) > 1 and len(table) >= LEAST_RUNS:
            yield f"{sweep}, {data}", score, table, varied


def place(values: pd.Series) -> tuple[np.ndarray, list[str] | None]:
    """(n,) positions in [0, 1], and the labels of equally spaced values where they are no numbers. Numbers over two decades by their log."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        x = values.to_numpy(float)
        x = np.log(x) if (x > 0).all() and x.max() / x.min() > 100 else x
        return (x - x.min()) / (np.ptp(x) or 1.0), None
    labels = sorted(set(values.astype(str)))
    return values.astype(str).map(labels.index).to_numpy(float) / max(1, len(labels) - 1), labels


def explained(groups: pd.Series, values: pd.Series) -> float:
    """epsilon^2 (Kelley 1935): 1 - (1 - eta^2) (n - 1) / (n - k), not below 0, where eta^2 is the share of the variance of values (n,) that the
    means of their k groups (n,) explain. What one parameter explains by itself; a name of many values has no advantage by chance.

    Numbers are cut into at most four groups of equal size first. 0 where values do not vary, or every group has one.
    """
    keys = (
        pd.qcut(groups, 4, duplicates="drop")
        if pd.api.types.is_numeric_dtype(groups) and groups.nunique() > 4
        else groups.astype(str)
    )
    n, k, total = len(values), keys.nunique(), float(((values - values.mean()) ** 2).sum())
    if n == k or not total:
        return 0.0
    means = values.groupby(keys, observed=True).transform("mean")
    eta2 = float(((means - values.mean()) ** 2).sum()) / total
    return max(0.0, 1 - (1 - eta2) * (n - 1) / (n - k))
