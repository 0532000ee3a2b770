"""README and docs: links lead somewhere, the Python runs, commands and sweeps that are named exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tbn_bench.cli.parser import make_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
SWEEP = re.compile(r"sweeps/(\w+)\.yaml")
COMMAND = re.compile(r"tbn-bench (\w+)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sweeps_that_are_named_exist(page):
    sweeps = SWEEP.findall(page.read_text(encoding="utf-8"))
    assert [
        sweep
        for sweep in sweeps
        if sweep != "FILE" and not (ROOT / f"sweeps/{sweep}.yaml").exists()
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_named_exist(page):
    known = make_parser()._subparsers._group_actions[0].choices
    assert set(COMMAND.findall(page.read_text(encoding="utf-8"))) <= set(known)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(block[1], {})
    assert (tmp_path / "net.safetensors").stat().st_size < 60_000
    assert "tile" in capsys.readouterr().out


def test_the_readme_is_short():
    """A page and a half: a stranger reads it to the end."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) < 900


def test_the_picture_is_drawn_from_a_real_layer(tmp_path):
    drawn = tmp_path / "tile.svg"
    script = ROOT / "docs" / "draw_tile.py"
    subprocess.run([sys.executable, str(script), str(drawn)], check=True)
    assert drawn.read_bytes() == (ROOT / "docs" / "tile.svg").read_bytes()
