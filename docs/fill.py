"""Fills the blocks of README.md and docs/ that show what the committed reports say.

    make reports                               # .venv/bin/python docs/fill.py

A block is the text between <!-- NAME: begin --> and <!-- NAME: end -->. Whoever changes records has
to run it; a test compares.
"""

import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
FILES = ("README.md", "docs/results.md")
_BLOCK = re.compile(r"(<!-- ([a-z]+): begin -->\n)(.*?)(<!-- \2: end -->)", re.S)
_TESTS = re.compile(r"<details>.*?</details>\n\n", re.S)


def summary() -> str:
    """The rows of the summary's table."""
    _, _, text = _read("summary.md").partition("### ")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return "\n".join(rows) + "\n"


def costs() -> str:
    """What TBN-4 costs and buys, in short."""
    _, _, text = _read("questions.md").partition("## In short\n\n")
    lines, _, _ = text.partition("\n\n")
    return f"{lines}\n" if lines else ""


def questions() -> str:
    """Every question with its figure and sentences; its tests stay in the report."""
    text = _read("questions.md")
    introduction, *parts = re.split(r"^## ", text.partition("\n\n")[2], flags=re.M)
    kept = [part for part in parts if not part.startswith("In short")]
    asked = [introduction.strip() + "\n"]
    for part in kept:
        own = _TESTS.sub("", part).replace("](figures/", "](../reports/figures/")
        asked.append(f"### {own.strip()}\n")
    return "\n".join(asked)


def _read(name: str) -> str:
    return (REPORTS / name).read_text(encoding="utf-8")


BLOCKS: dict[str, Callable[[], str]] = {
    "costs": costs,
    "questions": questions,
    "summary": summary,
}


def filled(text: str) -> str:
    """The text with its blocks as the reports have them."""

    def block(found: re.Match[str]) -> str:
        begin, name, _, end = found.groups()
        return begin + BLOCKS[name]() + end

    return _BLOCK.sub(block, text)


def main() -> None:
    for name in FILES:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        path.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
