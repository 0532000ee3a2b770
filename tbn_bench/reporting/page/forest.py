"""Where the parts of a forest plot's rows go: a point, its interval, zero and the margin's band."""

from collections.abc import Iterable
from typing import Any

from tbn_bench.reporting.findings import Finding

WIDTH = 240  # of a plot, in its own units
_INSET = 8  # units left free at both ends
_MOST_MARGINS = 6  # shown on either side; an interval beyond ends in an arrow

Interval = tuple[float, float]  # low and high, in the unit of the margin


class Scale:
    """The shared axis of several rows: from the lowest to the highest interval, around zero."""

    def __init__(self, intervals: Iterable[Interval], margin: float):
        lows = [-margin]
        highs = [margin]
        for low, high in intervals:
            lows.append(low)
            highs.append(high)
        most = _MOST_MARGINS * margin
        self.low = max(min(lows), -most)
        self.high = min(max(highs), most)
        self.margin = margin

    def place(self, value: float) -> float:
        """In the plot's units, at an end for values beyond it."""
        share = (value - self.low) / (self.high - self.low)
        inside = min(max(share, 0.0), 1.0)
        return round(_INSET + inside * (WIDTH - 2 * _INSET), 1)

    def plot(self, interval: Interval, colour: str) -> dict[str, Any]:
        """One row. A point beyond an end is not drawn; an arrow is."""
        low, high = interval
        middle = (low + high) / 2
        is_inside = self.low <= middle <= self.high
        return {
            "width": WIDTH,
            "zero": self.place(0.0),
            "band": (self.place(-self.margin), self.place(self.margin)),
            "low": self.place(low),
            "high": self.place(high),
            "at": self.place(middle) if is_inside else None,
            "beyond_low": low < self.low,
            "beyond_high": high > self.high,
            "colour": colour,
        }


def interval(finding: Finding, unit: float = 1.0) -> Interval:
    """Of a finding's difference, divided by `unit`; a single seed has no width."""
    half = finding.half or 0.0
    return (finding.difference - half) / unit, (finding.difference + half) / unit
