"""The top of the page: one sentence and one forest plot per data set (findings.py).

The plots are inline SVG in table rows, so they need no script and print as they are.
"""

import re
from typing import Any

from tbn_bench.reporting import findings, style
from tbn_bench.reporting.findings import Compared, Finding
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.page import forest
from tbn_bench.scores import SCORES

_CLASSES = {
    findings.WITHIN: "within",
    findings.OUTSIDE: "outside",
    findings.NOT_SHOWN: "open",
    findings.ONE_SEED: "open",
    findings.TWO_SEEDS: "open",
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
    intervals = [forest.interval(finding) for finding in panel.findings]
    scale = forest.Scale(intervals, panel.margin)
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


def _row(finding: Finding, scale: forest.Scale) -> dict[str, Any]:
    colour = style.ink(finding.group.binarizer)
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
        "plot": scale.plot(forest.interval(finding), colour),
    }
