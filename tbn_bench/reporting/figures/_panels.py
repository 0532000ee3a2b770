"""Tidy frames of figures that have points or lines: what is drawn, a row per mark.

A frame has a row per mark: panel (title), method (display name: it has one colour and one marker
in every figure), label (the method's name among those of the panel), binarizer (its spec), x, y,
low, high, axis (y's title), seeds, runs (ids or, for a published number, its source), published
(hollow), and line (its rows are joined). _print.py and _chart.py draw it.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tbn_bench.reporting import names, style
from tbn_bench.reporting.groups import Group, groups, panels
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.settings import settings
from tbn_bench.reporting.stats import half_widths
from tbn_bench.scores import SCORES

COLUMNS = (
    "panel",
    "method",
    "label",
    "binarizer",
    "x",
    "y",
    "low",
    "high",
    "axis",
    "seeds",
    "runs",
    "published",
    "line",
)
MOST = 40  # groups in a panel: nobody reads more marks

_WHOLE = 100.0  # percent
_FAR = 5  # ranges of the middle half of a panel's values
_ENOUGH = 6  # values, before one of them can be far from the others
# (rows of a panel, without failed controls) -> limits of y
Limits = Callable[[pd.DataFrame], tuple[float, float]]


@dataclass(frozen=True)
class Layout:
    """How a panel is drawn.

    x: the title of its axis. log: base of a logarithmic x axis. joined: rows of one line are
    joined. front: draws the Pareto front, on which no other mark has a smaller x and a better y.
    variants: no two methods share a colour, because all are of one family. limits: of the y axis.
    thin: lines are curves over epochs; the page draws some of their points.
    """

    x: str
    log: float | None = None
    joined: bool = False
    front: bool = False
    variants: bool = False
    limits: Limits | None = None
    thin: bool = False

    def colours(self, panel: pd.DataFrame) -> dict[str, str]:
        """method -> colour."""
        specs = panel.drop_duplicates("method").set_index("method")["binarizer"]
        if not self.variants:
            return {str(method): style.colour(spec) for method, spec in specs.items()}
        in_order = sorted(specs.items(), key=lambda named: (len(named[0]), named[0]))
        found: dict[str, str] = {}
        for method, spec in in_order:
            found[str(method)] = _free_colour(spec, set(found.values()))
        return found


def _free_colour(spec: str, taken: set[str]) -> str:
    """A method's colour; where a simpler one has it, another one that the spec alone decides.

    Where that is taken, too, the next free one.
    """
    own = style.colour(spec)
    place = zlib.crc32(spec.encode())
    for step in range(MOST):
        if own not in taken:
            break
        own = style.nth_colour(place + step)
    return own


@dataclass(frozen=True)
class Epoch:
    """One epoch of a curve: mean over n runs and half of its 95 % interval."""

    epoch: int
    mean: float
    half: float
    n: int

    def shown(self, factor: float) -> dict[str, Any]:
        """x, y, low, high and seeds of a frame's row; epochs count from 1."""
        return {
            "x": self.epoch + 1,
            "y": factor * self.mean,
            "low": factor * (self.mean - self.half),
            "high": factor * (self.mean + self.half),
            "seeds": self.n,
        }


Curves = dict[tuple[str, str], list[Epoch]]


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with every column; low and high are y where there is no interval."""
    columns = dict.fromkeys(COLUMNS)
    for row in rows:
        columns.update(dict.fromkeys(row))
    data = pd.DataFrame(rows, columns=list(columns))
    defaults = {
        "low": data["y"],
        "high": data["y"],
        "published": False,
        "seeds": 0,
        "control": False,
        "line": data["binarizer"],
        "label": data["method"],
    }
    for name in data.columns.intersection(list(defaults)):
        value = defaults[name]
        data[name] = data[name].where(data[name].notna(), value)
    return data.infer_objects()


def telling(data: pd.DataFrame, says_nothing: Callable[[pd.DataFrame], str]) -> pd.DataFrame:
    """The panels that tell a reader something. attrs["left_out"]: title -> what it needs.

    says_nothing: rows of a panel -> what it needs, or "".
    """
    left_out = {}
    by_title = data.groupby("panel", sort=False)
    for title, panel in by_title:
        needs = says_nothing(panel)
        if not needs:
            continue
        left_out[str(title)] = needs
    is_left_out = data["panel"].isin(list(left_out))
    kept = data[~is_left_out]
    kept = kept.reset_index(drop=True)
    kept.attrs["left_out"] = left_out
    return kept


def is_published_pair(panel: pd.DataFrame) -> str:
    """Two published marks are two cells of the table."""
    is_published = panel["published"].astype(bool)
    if is_published.all() and len(panel) < 3:
        return "a run of ours, or three published values"
    return ""


def is_short_curve(panel: pd.DataFrame) -> str:
    """One method's two epochs are no curve."""
    lines = panel["line"].nunique()
    epochs = panel["x"].nunique()
    if lines == 1 and epochs < 3:
        return "two methods, or three epochs"
    return ""


@functools.lru_cache(maxsize=2)  # every figure asks
def drawn(records: Records, unfinished: bool = False) -> list[tuple[str, list[Group]]]:
    """(title, groups) of every panel; groups without a result only where `unfinished`.

    A panel of more than MOST groups keeps the best and full precision, and its title says so. The
    lists are cached: do not change them.
    """
    shown = [g for g in groups(records) if unfinished or g.result is not None]
    out = []
    for title, members in panels(shown):
        gs = _told_apart(records, members)
        if len(gs) <= MOST:
            out.append((title, gs))
            continue
        best = sorted(gs, key=_rank)[:MOST]
        kept = {id(g) for g in best}
        in_order = [g for g in gs if id(g) in kept]
        out.append((f"{title}, best {MOST} of {len(gs)}", in_order))
    return out


def _told_apart(records: Records, found: list[Group]) -> list[Group]:
    """The groups of one panel; those of one method name the settings that vary."""
    labels = [g.label for g in found]
    if len(set(labels)) == len(labels):
        return found
    shared = settings(records, found)
    out = []
    for g in found:
        is_unique = labels.count(g.label) == 1
        label = g.label if is_unique else f"{g.label}, {shared.of(g)}"
        out.append(dataclasses.replace(g, label=label))
    return out


def _rank(g: Group) -> tuple[bool, float]:
    """Full precision first, then by result; groups without a result last."""
    lowered = g.binarizer != "full_precision"
    if g.result is None:
        return lowered, math.inf
    return lowered, -SCORES[g.score].signed(g.result.mean)


def by_epoch(records: Records, key: str, chosen: list[Group]) -> Curves:
    """(sweep, group id) -> its epochs in order, of a column of the curves.

    An epoch counts the runs that reached it.
    """
    curves = _of_groups(records.curves.dropna(subset=[key]), chosen)
    numbers = pd.to_numeric(curves[key], errors="coerce")
    values = curves.assign(value=numbers).dropna(subset=["value"])
    grouped = values.groupby(["sweep", "group_id", "epoch"], sort=True, observed=True)
    by = grouped["value"].agg(["mean", "std", "count"])
    halves = half_widths(by["std"].to_numpy(), by["count"].to_numpy())
    columns = zip(by.index, by["mean"], halves, by["count"], strict=True)
    out: Curves = {}
    for (sweep, group_id, epoch), mean, half, n in columns:
        found = Epoch(int(epoch), float(mean), float(half), int(n))
        curve = out.setdefault((sweep, group_id), [])
        curve.append(found)
    return out


def _of_groups(curves: pd.DataFrame, chosen: list[Group]) -> pd.DataFrame:
    in_sweep = curves["sweep"].isin([g.sweep for g in chosen])
    in_group = curves["group_id"].isin([g.group_id for g in chosen])
    return curves[in_sweep & in_group]


def named(g: Group) -> dict[str, Any]:
    """method, label and binarizer of a group's marks."""
    return {
        "method": names.method(g.shown_as),
        "label": g.label,
        "binarizer": g.shown_as,
    }


def scored(g: Group) -> dict[str, Any]:
    """Names, y, low, high, axis, seeds and runs of a group that has a result."""
    score = SCORES[g.score]
    assert g.result is not None
    mean = score.factor * g.result.mean
    half = score.factor * (g.result.half or 0.0)
    return named(g) | {
        "y": mean,
        "low": mean - half,
        "high": mean + half,
        "axis": score.axis,
        "seeds": g.result.n,
        "runs": ", ".join(g.run_ids),
    }


def is_better_higher(panel: pd.DataFrame) -> bool:
    """Whether a larger y is better, as the axis says."""
    return "lower is better" not in str(panel["axis"].iloc[0])


def floor(panel: pd.DataFrame) -> float | None:
    """The bottom of the y axis where intervals go below all that a percentage can be; else None."""
    axis = str(panel["axis"].iloc[0])
    if "%" not in axis:
        return None
    lowest = panel["low"].min()
    return 0.0 if lowest < 0 else None


def possible(panel: pd.DataFrame, low: float, high: float) -> tuple[float, float]:
    """The limits of y, within 0 and 100 where it is a percentage."""
    axis = str(panel["axis"].iloc[0])
    if "%" not in axis:
        return low, high
    bottom = max(0.0, low)
    top = min(_WHOLE, high)
    return bottom, top


def ceiling(panel: pd.DataFrame) -> float | None:
    """The top of the y axis where intervals go beyond all that a percentage can be; else None."""
    is_share = "%" in str(panel["axis"].iloc[0])
    is_beyond = is_share and panel["high"].max() > _WHOLE
    return _WHOLE if is_beyond else None


def front(panel: pd.DataFrame) -> pd.DataFrame:
    """The rows of ours that no other row of ours beats: smaller or equal x and better y.

    By growing x; published rows are left out.
    """
    own = panel[~panel["published"].astype(bool)]
    sign = 1 if is_better_higher(panel) else -1
    in_order = own.assign(good=sign * own["y"]).sort_values(["x", "good"], ascending=[True, False])
    best = in_order["good"].cummax()
    is_new = best > best.shift(fill_value=-math.inf)
    return in_order[is_new].drop(columns="good")


def near(panel: pd.DataFrame) -> pd.Series:
    """Whether a row may set the limits of y: no control that is far below all methods.

    A published value far below the others is none of them either.
    """
    is_control = panel["binarizer"].map(_is_control)
    if "control" in panel:
        is_control |= panel["control"].eq(True)
    is_control |= _is_outlier(panel)
    methods = panel[~is_control]
    if methods.empty:
        return pd.Series(True, index=panel.index)
    span = (methods["high"].max() - methods["low"].min()) or 1.0
    low = methods["low"].min() - span / 2
    high = methods["high"].max() + span / 2
    inside = panel["y"].between(low, high)
    return ~is_control | inside


def _is_outlier(panel: pd.DataFrame) -> pd.Series:
    """Published values that are more than _FAR ranges of the middle half worse than the median."""
    sign = 1 if is_better_higher(panel) else -1
    good = sign * panel["y"].astype(float)
    middle = good.quantile(0.75) - good.quantile(0.25)
    is_far = good.median() - good > _FAR * middle
    return is_far & panel["published"].astype(bool) & (len(panel) >= _ENOUGH)


def _is_control(spec: Any) -> bool:
    try:
        return names.is_control(str(spec))
    except ValueError:
        return False
