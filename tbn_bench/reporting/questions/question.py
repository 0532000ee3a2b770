"""A question of the arena with its answer: two sentences, the tests, and the rows of its figure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tbn_bench.reporting.questions.contrast import NOT_RUN, Contrast

NOTHING = "Not run."
Mark = dict[str, Any]
"""A row of a figure: see picture.py."""


@dataclass(frozen=True)
class Question:
    """key: the name of its figure. answer, detail: the two sentences. contrasts: the tests.

    marks: the rows of its figure, empty where nothing was run. commands: what runs the rest, empty
    where nothing is missing. sweeps: the folders under results/runs, or another path.
    """

    key: str
    title: str
    answer: str
    detail: str
    contrasts: tuple[Contrast, ...]
    marks: tuple[Mark, ...]
    commands: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    note: str = ""

    @property
    def sentences(self) -> str:
        return f"{self.answer} {self.detail}".strip()

    @property
    def missing(self) -> int:
        """The number of tests that have fewer seeds than planned."""
        return sum(not contrast.is_complete for contrast in self.contrasts)


def commands_of(contrasts: Sequence[Contrast], commands: Sequence[str]) -> tuple[str, ...]:
    """The commands where a test is incomplete; none otherwise."""
    is_complete = all(contrast.is_complete for contrast in contrasts)
    return () if is_complete else tuple(commands)


def forest(contrasts: Sequence[Contrast], axis: str) -> tuple[Mark, ...]:
    """The marks of a figure with a row per contrast; none where nothing was run."""
    if all(contrast.verdict == NOT_RUN for contrast in contrasts):
        return ()
    marks = []
    for contrast in contrasts:
        half = contrast.half or 0.0
        known = contrast.difference is not None
        difference = contrast.difference if contrast.difference is not None else 0.0
        mark = {
            "kind": "forest",
            "row": contrast.label,
            "binarizer": contrast.series,
            "label": contrast.first,
            "x": difference if known else None,
            "low": difference - half,
            "high": difference + half,
            "seeds": contrast.n,
            "said": "" if known else contrast.verdict,
            "axis": axis,
        }
        marks.append(mark)
    return tuple(marks)
