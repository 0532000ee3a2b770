"""questions.md: every question with its figure, its sentences, its tests and what is missing."""

from pathlib import Path

from tbn_bench.reporting import panels, style, write
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.questions import picture
from tbn_bench.reporting.questions.answers import questions
from tbn_bench.reporting.questions.costs import costs
from tbn_bench.reporting.questions.proof import part
from tbn_bench.reporting.questions.question import Question

FILE = "questions.md"
SHORT = "In short"
FIGURES = "figures/questions"
INTRODUCTION = (
    "A difference is paired by seed; ± is Student's 95 % interval over n seeds, and p is of the "
    "exact sign-flip test, from six seeds on. Intervals are of one comparison each: of many "
    "comparisons, some are off by chance. Fewer than three seeds decide nothing."
)


def write_questions(records: Records, out: Path) -> None:
    """Writes out/questions.md and the figures; removes old ones where no question can be asked."""
    folder = out / FIGURES
    panels.write(picture, picture.frame(records), folder, {"": style.PAGE_INCHES})
    found = questions(records)
    if not found:
        (out / FILE).unlink(missing_ok=True)
        return
    parts = [f"# Questions\n\n{INTRODUCTION}", *_in_short(records), *map(markdown, found)]
    (out / FILE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _in_short(records: Records) -> list[str]:
    lines = [f"- {line}" for line in costs(records)]
    return ["\n".join([f"## {SHORT}", "", *lines])] if lines else []


def pictures(out: Path) -> dict[str, str]:
    """Key -> SVG of the figures that write_questions wrote."""
    found = {}
    for path in sorted((out / FIGURES).glob("*.svg")):
        found[path.stem] = path.read_text(encoding="utf-8")
    return found


def markdown(question: Question) -> str:
    """One question, with its figure by a path from the folder of the report."""
    lines = [f"## {question.title}", "", question.sentences, ""]
    if question.marks:
        lines += [f"![{question.title}]({FIGURES}/{question.key}.svg)", ""]
    lines += ["<details><summary>The tests</summary>", "", *write.grid(part(question)), ""]
    lines += ["</details>", ""]
    if question.note:
        lines += [question.note, ""]
    lines.append(f"Records: {', '.join(f'`{path}`' for path in question.records)}.")
    if question.commands:
        commands = ", ".join(f"`{command}`" for command in question.commands)
        lines.append(
            f"{question.missing} of {len(question.contrasts)} tests lack seeds: {commands}."
        )
    return "\n".join(lines)
