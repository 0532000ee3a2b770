"""The answer in short: one figure, one table and a sentence per data set, for a README.

They are about the data set with the largest test set among those that have a fair comparison with
full precision.
"""

from pathlib import Path
from typing import Any

from tbn_bench.reporting import findings, narrower, panels, style, tiling, write
from tbn_bench.reporting.figures import accuracy_bits
from tbn_bench.reporting.findings import Compared, Finding
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import answers
from tbn_bench.reporting.table import Column, Row, Table, column, text_column
from tbn_bench.scores import SCORES

FILES = ("summary.md", "summary.svg")


def write_summary(records: Records, out: Path) -> None:
    """Writes out/summary.md and out/summary.svg; removes old ones if there is no comparison."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    by_data = findings.by_data(findings.compared(records))
    if not by_data:
        return
    first = next(iter(by_data.values()))[0]
    parts = [_sentences(records, by_data), _asked(records)]
    text = "\n".join(filter(None, parts)) + "\n" + write.markdown(table(first))
    (out / "summary.md").write_text(text, encoding="utf-8")
    frame = accuracy_bits.frame(records)
    panel = frame[frame["panel"] == first.title]
    if not panel.empty:
        path = out / "summary.svg"
        panels.save(accuracy_bits.print_panel, panel, style.PAGE_INCHES, [path])


def _sentences(records: Records, by_data: dict[str, list[Compared]]) -> str:
    lines = []
    answers = tiling.answers(records)
    if answers:
        lines += [f"**Does tiling pay?** {tiling.headline(answers)} {tiling.rule()}", ""]
        lines += [*write.grid(tiling.table(answers)), ""]
    lines += [f"- **{data}**: {findings.sentence(found)}" for data, found in by_data.items()]
    return "\n".join(lines) + "\n"


def _asked(records: Records) -> str:
    """The questions of the arena with their answers, a line each; empty without the arena."""
    found = answers.questions(records)
    lines = [f"- **{question.title}** {question.sentences}" for question in found]
    return "\n".join(["Questions:", "", *lines]) + "\n" if lines else ""


def table(found: Compared) -> Table:
    """The reference, then each method from the most to the fewest bytes."""
    base = found.reference
    assert base.result is not None
    rows = [_row(base) | {"difference": style.DASH, "verdict": "reference"}]
    for finding in sorted(found.findings + found.narrower, key=lambda f: -f.bytes_share):
        is_narrower = finding in found.narrower
        is_control = finding.is_control or is_narrower
        verdict = _verdict(finding)
        if is_control:
            verdict += ", control"
        row = _row(finding.group) | {"difference": finding.text, "verdict": verdict}
        if is_narrower:
            row["method"] = narrower.label(finding.group)
        rows.append(row)
    score = SCORES[base.score]
    columns = [
        text_column("method", "method"),
        Column("score", score.label, _score),
        column("difference", f"difference, {found.unit}"),
        column("n", "seeds", "d"),
        column("bits_per_weight", "bits per weight", ".3f"),
        column("stored_bytes", "stored bytes", ",d"),
        column("distinct_macs", "distinct MACs, M", ".1f"),
        column("train_pflop", "training PFLOP", ".3f"),
        text_column("verdict", "verdict"),
    ]
    note = (
        f"Sorted by stored bytes. Difference from full precision, paired by seed, with its 95 % "
        f"interval. Narrower: BWN with fewer filters; the plot divides its bits by the weights of "
        f"the whole network. Within the "
        f"margin: the whole interval is above −{found.margin:g} {found.unit}."
    )
    return Table(found.title, columns, rows, note)


def _verdict(finding: Finding) -> str:
    """The tag; one seed of several is said to be the only one in common with the reference."""
    if finding.tag == findings.ONE_SEED and len(finding.group.by_seed) > 1:
        return "one common seed"
    return finding.tag


def _row(g: Any) -> Row:
    first = g.first
    macs = first["distinct_macs"]
    return {
        "method": g.label,
        "name": g.score,
        "score": g.result.mean,
        "half": g.result.half,
        "n": g.result.n,
        "bits_per_weight": first["bits_per_weight"],
        "stored_bytes": style.whole(first["stored_bytes"]),
        "distinct_macs": None if macs is None else macs / 1e6,
        "train_pflop": first["train_pflop"],
    }


def _score(row: Row) -> str:
    score = SCORES[row["name"]]
    if row["half"] is None:
        return score.text(row["score"], False)
    return f"{score.text(row['score'], False)} ± {score.text(row['half'], False)}"
