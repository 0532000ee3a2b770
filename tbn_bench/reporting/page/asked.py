"""The page's section of questions: sentences, a figure that the script shows, and the tests."""

from pathlib import Path
from typing import Any

from tbn_bench.reporting.load import Records
from tbn_bench.reporting.page.packing import compact, packed
from tbn_bench.reporting.questions import answers
from tbn_bench.reporting.questions.write import FIGURES, pictures

TABLE = "questions"  # the name of the table with the tests


def asked(records: Records, blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A dictionary per question, with the block of its tests. blocks: of all tables."""
    found = answers.questions(records)
    tests = [block for block in blocks if block["name"] == TABLE]
    if not tests:
        return []
    out = []
    for question, part in zip(found, tests[0]["parts"], strict=True):
        own = {
            "key": question.key,
            "title": question.title,
            "sentences": question.sentences,
            "note": question.note,
            "missing": question.missing,
            "count": len(question.contrasts),
            "commands": question.commands,
            "records": ", ".join(question.records),
            "picture": f"{FIGURES}/{question.key}.svg" if question.marks else "",
            "tests": part,
        }
        out.append(own)
    return out


def packed_pictures(out: Path) -> str:
    """The figures of the report's folder as packed JSON, key -> SVG; empty without any."""
    found = pictures(out)
    return packed(compact(found)) if found else ""
