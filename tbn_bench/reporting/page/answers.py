"""The top of the page: one sentence and one forest plot per data set (findings.py).

The plots are inline SVG in table rows, so they need no script and print as they are.
"""

import re
from typing import Any

from tbn_bench.reporting import findings, style
from tbn_bench.reporting.findings import Compared, Finding
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES

_WIDTH = 240  # of a plot, in its own units
_INSET = 8  # units left free at both ends
_MOST_MARGINS = 6  # shown on either side; an interval beyond ends in an arrow
_CLASSES = {
    findings.WITHIN: "within",
    findings.OUTSIDE: "outside",
    findings.NOT_SHOWN: "open",
    findings.ONE_SEED: "open",
    findings.NO_PAIR: "open",
}


def answers(records: Records) -> list[dict[str, Any]]:
    """Per reference: its name, and per data set the sentence and the panels."""
    out = []
    for reference, name in findings.REFERENCES.items():
        by_data = findings.by_data(findings.compared(records, reference))
        sets = []
        for data, panels in by_data.items():
            slug = re.sub(r"[^a-z0-9]+", "-", data.lower()).strip("-")
            answer = {
                "data": data,
                "id": f"answer-{reference}-{slug}",
                "ground": f"{reference[0]}{len(sets)}",
                "sentence": findings.sentence(panels, reference),
                "panels": [_panel(panel) for panel in panels],
            }
            sets.append(answer)
        if sets:
            out.append({"key": reference, "name": name, "sets": sets})
    return out


def _panel(panel: Compared) -> dict[str, Any]:
    scale = _Scale(panel)
    smallest_first = sorted(panel.findings, key=lambda f: f.bytes_share)
    base = panel.reference
    return {
        "title": panel.title,
        "reached": panel.reached,
        "bytes": f"{base.first['stored_bytes']:,.0f}",
        "epochs": base.first["epochs"],
        "short": panel.short,
        "unit": panel.unit,
        "margin": f"{panel.margin:.{SCORES[base.score].digits}g}",
        "rows": [_row(finding, scale) for finding in smallest_first],
    }


def _row(finding: Finding, scale: "_Scale") -> dict[str, Any]:
    return {
        "method": finding.group.label,
        "call": finding.group.binarizer,
        "is_control": finding.is_control,
        "text": finding.text,
        "seeds": finding.n,
        "size": finding.size,
        "bytes": f"{finding.group.first['stored_bytes']:,.0f}",
        "tag": finding.tag,
        "kind": _CLASSES[finding.tag],
        "plot": scale.plot(finding),
    }


class _Scale:
    """Places of differences in the plots of one panel, which share their axis."""

    def __init__(self, panel: Compared):
        lows = [-panel.margin]
        highs = [panel.margin]
        for finding in panel.findings:
            half = finding.half or 0.0
            lows.append(finding.difference - half)
            highs.append(finding.difference + half)
        most = _MOST_MARGINS * panel.margin
        self.low = max(min(lows), -most)
        self.high = min(max(highs), most)
        self.margin = panel.margin

    def place(self, value: float) -> float:
        """In the plot's units, at an end for values beyond it."""
        share = (value - self.low) / (self.high - self.low)
        inside = min(max(share, 0.0), 1.0)
        return round(_INSET + inside * (_WIDTH - 2 * _INSET), 1)

    def plot(self, finding: Finding) -> dict[str, Any]:
        half = finding.half or 0.0
        low = finding.difference - half
        high = finding.difference + half
        return {
            "width": _WIDTH,
            "zero": self.place(0.0),
            "band": (self.place(-self.margin), self.place(self.margin)),
            "low": self.place(low),
            "high": self.place(high),
            "at": None if self._is_beyond(finding.difference) else self.place(finding.difference),
            "beyond_low": low < self.low,
            "beyond_high": high > self.high,
            "colour": style.colour(finding.group.binarizer),
        }

    def _is_beyond(self, value: float) -> bool:
        return not self.low <= value <= self.high
