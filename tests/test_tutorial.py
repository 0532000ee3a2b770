"""docs/tutorial.md: its commands run in its order, in an empty folder, and print what it shows.

Run ids are compared as they are. Other numbers differ between processors and are left out.
"""

import re
import shlex
from pathlib import Path

from tbn_bench import cli

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"```(\w+)\n(.+?)```", re.DOTALL)
NUMBER = re.compile(r"\b(?![0-9a-f]{12}\b)\d[\d,.]*")


def form(line: str) -> str:
    """The line without its numbers and the width of its columns."""
    return " ".join(NUMBER.sub("#", line).split())


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = set()
    checked = 0
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "yaml":
            Path("first.yaml").write_text(text, encoding="utf-8")
        elif language == "sh":
            capsys.readouterr()
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "tbn-bench"
                assert cli.main(arguments) in (0, None)
            captured = capsys.readouterr()
            printed = {form(line) for line in (captured.out + captured.err).splitlines()}
        else:
            shown = [form(line) for line in text.splitlines()]
            assert [line for line in shown if line not in printed] == []
            checked += len(shown)
    assert checked > 15
