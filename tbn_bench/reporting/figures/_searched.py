"""The varied parameters of a sweep and the scores they led to.

This is the table behind parallel coordinates, importance and contour.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from tbn_bench.config import RunConfig
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES, Score

LEAST_RUNS = 8  # fewer say nothing about a space
_NOT_VARIED = ("seed", "keep", "init", "teacher")


def sweeps(records: Records) -> Iterator[tuple[str, Score, pd.DataFrame, list[str]]]:
    """(title, score, table, varied) per sweep and data set.

    table: a row per finished run with its config and "score" as shown. varied: the parameters with
    at least two values. Sweeps with fewer than two such parameters or LEAST_RUNS runs are left out.
    The runs of one data set are judged by one score.
    """
    tested = [f"test/{name}" for name in SCORES]
    done = records.finished[["sweep", "run_id", "data", "binarizer", "score", *tested]]
    for (sweep, data, name), part in done.groupby(["sweep", "data", "score"], sort=True):
        score = SCORES[str(name)]
        shown = score.factor * part[f"test/{name}"].astype(float)
        table = part[["sweep", "run_id"]].assign(score=shown)
        table = table.merge(records.configs, on=["sweep", "run_id"]).dropna(subset=["score"])
        varied = _varied(table)
        if len(varied) > 1 and len(table) >= LEAST_RUNS:
            yield f"{sweep}, {data}", score, table, varied


def _varied(table: pd.DataFrame) -> list[str]:
    """Fields of the config with at least two values."""
    found = []
    for field in RunConfig.model_fields:
        if field in _NOT_VARIED:
            continue
        values = table[field].astype(str)
        if values.nunique() > 1:
            found.append(field)
    return found


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def place(values: pd.Series) -> tuple[np.ndarray, list[str] | None]:
    """(n,) positions in [0, 1]; for values that are not numbers also their labels, equally spaced.

    Numbers over two decades are placed by their log.
    """
    if _is_number(values):
        x = values.to_numpy(float)
        if (x > 0).all() and x.max() / x.min() > 100:
            x = np.log(x)
        return (x - x.min()) / (np.ptp(x) or 1.0), None
    texts = values.astype(str)
    labels = sorted(set(texts))
    ranks = texts.map(labels.index).to_numpy(float)
    return ranks / max(1, len(labels) - 1), labels


def explained(groups: pd.Series, values: pd.Series) -> float:
    """epsilon^2 (Kelley 1935): 1 - (1 - eta^2) (n - 1) / (n - k), not below 0.

    eta^2 is the share of the variance of values (n,) that the means of their k groups (n,) explain.
    It measures how much one parameter explains by itself. A parameter of many values has no
    advantage by chance.

    Numbers are first cut into at most four groups of equal size. The result is 0 where values do
    not vary, or every group has one value.
    """
    keys = groups.astype(str)
    if pd.api.types.is_numeric_dtype(groups) and groups.nunique() > 4:
        keys = pd.qcut(groups, 4, duplicates="drop")
    n = len(values)
    k = keys.nunique()
    total = float(((values - values.mean()) ** 2).sum())
    if n == k or not total:
        return 0.0
    means = values.groupby(keys, observed=True).transform("mean")
    between = float(((means - values.mean()) ** 2).sum())
    eta2 = between / total
    return max(0.0, 1 - (1 - eta2) * (n - 1) / (n - k))
