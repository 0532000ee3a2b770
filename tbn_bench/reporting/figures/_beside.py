"""Where a chart on the page names its marks: beside them, on no other mark and no other name."""

import math
from dataclasses import dataclass

import pandas as pd

_WIDTH = 330  # of the smallest chart, in pixels; on a wider one everything is further apart
_HEIGHT = 190
_INSET = 18  # between the outermost marks and the frame
_LETTER = 6.2  # width of a letter
_LINE = 11  # height of a name
_MARK = 9  # width and height of a mark
_LONG = 40  # letters; a longer label gives way to the method's name
# (distance to the right, distance down) of a name from its mark, the best place first
_PLACES = [(7, -6), (7, 10), (-7, -6), (-7, 10), (7, -18), (7, 21), (-7, -18), (-7, 21)]

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    length: float

    def place(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        inner = self.length - 2 * _INSET
        return _INSET + (value - self.low) / span * inner


def named(rows: pd.DataFrame, is_log: bool) -> pd.DataFrame:
    """The rows with name, dx and dy: the name beside a mark and its distance from it, in pixels.

    Marks of the front, a column of truth values, come first. A name that is said already, or has no
    free place, is empty.
    """
    xs = [math.log2(x) if is_log else x for x in rows["x"]]
    across = _Scale(min(xs), max(xs), _WIDTH)
    down = _Scale(-rows["high"].max(), -rows["low"].min(), _HEIGHT)
    points = []
    for x, y in zip(xs, rows["y"], strict=True):
        points.append((across.place(x), down.place(-y)))
    taken = [_around(point) for point in points]

    texts = [""] * len(rows)
    shifts = [(0, 0)] * len(rows)
    said = set()
    is_front = list(rows["front"])
    order = sorted(range(len(rows)), key=lambda k: (not is_front[k], points[k][1]))
    for k in order:
        row = rows.iloc[k]
        text = row["label"] if len(row["label"]) <= _LONG else row["method"]
        if text in said:
            continue
        for shift in _PLACES:
            box = _box(points[k], shift, text)
            if _is_free(box, taken):
                said.add(text)
                taken.append(box)
                texts[k] = text
                shifts[k] = shift
                break
    return rows.assign(
        name=texts,
        dx=[dx for dx, _ in shifts],
        dy=[dy for _, dy in shifts],
    )


def _around(point: tuple[float, float]) -> Box:
    x, y = point
    half = _MARK / 2
    return x - half, y - half, x + half, y + half


def _box(point: tuple[float, float], shift: tuple[int, int], text: str) -> Box:
    """Of a name. Its baseline is at the shift; to the left of a mark it ends there."""
    x, y = point
    dx, dy = shift
    width = _LETTER * len(text)
    left = x + dx if dx > 0 else x + dx - width
    return left, y + dy - _LINE, left + width, y + dy


def _is_free(box: Box, taken: list[Box]) -> bool:
    left, top, right, bottom = box
    if left < 0 or right > _WIDTH + _INSET or top < 0 or bottom > _HEIGHT:
        return False
    for other in taken:
        is_beside = right <= other[0] or other[2] <= left
        is_above_or_below = bottom <= other[1] or other[3] <= top
        if not is_beside and not is_above_or_below:
            return False
    return True
