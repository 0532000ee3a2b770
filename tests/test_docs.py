"""README and docs: links lead somewhere, the Python runs, commands and sweeps that are named exist."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tbn_bench.binarizers import _contract
from tbn_bench.cli.parser import make_parser

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
SWEEP = re.compile(r"sweeps/(\w+)\.yaml")
PLACE = re.compile(r"`([\w/]+\.py):([\w.]+)`")
COMMAND = re.compile(r"tbn-bench (\w+)")
GUIDES = sorted((ROOT / "docs" / "guides").glob("[!R]*.md"))
ACTIVATION = ROOT / "docs" / "guides" / "activation.md"  # adds rows, where the others add a file
BLOCK = re.compile(r"```(?:python|yaml)\n(.+?)```", re.DOTALL)
FILE = re.compile(r"# (\S+)/(\w+\.(?:py|yaml))\n")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = LINK.findall(page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_sweeps_that_are_named_exist(page):
    """The guide for sweeps writes one of its own."""
    text = page.read_text(encoding="utf-8")
    own = re.findall(r"^# sweeps/(\w+)\.yaml$", text, re.MULTILINE)
    named = set(SWEEP.findall(text)) - {"FILE", *own}
    assert [sweep for sweep in named if not (ROOT / f"sweeps/{sweep}.yaml").exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_that_are_named_exist(page):
    known = make_parser()._subparsers._group_actions[0].choices
    assert set(COMMAND.findall(page.read_text(encoding="utf-8"))) <= set(known)


def test_the_places_that_contributing_names_exist():
    """`convert/pack.py:pack_` is a function or class of that file."""
    places = PLACE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(places) > 10
    for file, names in places:
        source = (ROOT / "tbn_bench" / file).read_text(encoding="utf-8")
        for part in names.split("."):
            assert re.search(rf"(def|class) {part}\b", source), f"{file} has no {part}"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(block[1], {})
    assert (tmp_path / "net.safetensors").stat().st_size < 60_000
    assert "tile" in capsys.readouterr().out


def test_the_python_page_runs(tmp_path, monkeypatch):
    """With the outputs that it shows."""
    monkeypatch.chdir(tmp_path)
    page = str(ROOT / "docs" / "python.md")
    found = doctest.testfile(page, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 15
    assert found.failed == 0


def test_the_readme_is_short():
    """A page and a half: a stranger reads it to the end. The table of results has a row per method."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition("<!-- summary: begin -->")
    _, _, after = rest.partition("<!-- summary: end -->")
    assert len((before + after).split()) < 850


def test_the_picture_is_drawn_from_a_real_layer(tmp_path):
    drawn = tmp_path / "tile.svg"
    script = ROOT / "docs" / "draw_tile.py"
    subprocess.run([sys.executable, str(script), str(drawn)], check=True)
    assert drawn.read_bytes() == (ROOT / "docs" / "tile.svg").read_bytes()


@pytest.fixture
def folder_of(tmp_path, monkeypatch):
    """A function: folder of the repository -> a new folder whose files count as its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(ROOT / "results")
    before = set(sys.modules)

    def make(folder):
        made = tmp_path / folder
        made.mkdir(parents=True)
        if folder.startswith("tbn_bench"):
            package = importlib.import_module(folder.replace("/", "."))
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(made)])
        return made

    yield make
    for module in set(sys.modules) - before:
        if os.fspath(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


@pytest.mark.parametrize("page", [page for page in GUIDES if page != ACTIVATION], ids=name)
def test_the_example_of_a_guide_works(page, folder_of):
    """The first block is a file in its folder; the next one uses it."""
    source, check = BLOCK.findall(page.read_text(encoding="utf-8"))
    folder, file = FILE.match(source).groups()
    (folder_of(folder) / file).write_text(source, encoding="utf-8")
    exec(check, {})


def test_the_scales_per_row_of_the_guide_for_binarizers_work():
    """The methods of the second example, in a subclass of the first, keep every promise."""
    text = (ROOT / "docs" / "guides" / "binarizer.md").read_text(encoding="utf-8")
    source, _ = BLOCK.findall(text)
    (second,) = re.findall(r"^```py\n(.*?)^```", text, re.M | re.S)
    made: dict = {}
    exec(source + second, made)
    method = made["RowScaledWeight"]()
    assert _contract.fault(method, torch.randn(6, 2, 3, 3)) == ""
    assert method.scales(torch.randn(6, 2, 3, 3)).shape == (6,)


def test_the_row_of_the_guide_for_activations_works():
    """The first block is the row; the next one compares its formula with torch."""
    row, check = BLOCK.findall(ACTIVATION.read_text(encoding="utf-8"))
    scope = {}
    exec(row, scope)
    exec(check, scope)
    assert scope["ROW"].name == "silu"


def test_every_page_is_in_the_navigation_of_the_site():
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    folder = ROOT / "docs"
    pages = {page.relative_to(folder).as_posix() for page in folder.glob("**/*.md")}
    assert pages - {"README.md"} <= listed


def test_every_page_is_in_an_index():
    """docs/README.md and docs/guides/README.md have one line for each page."""
    for index in (ROOT / "docs" / "README.md", ROOT / "docs" / "guides" / "README.md"):
        linked = set(LINK.findall(index.read_text(encoding="utf-8")))
        pages = {page.name for page in index.parent.glob("*.md")} - {"README.md"}
        assert pages <= linked


def test_make_docs_counts_broken_links():
    """mkdocs counts the warnings that it logs, and --quiet logs none: a broken link would pass."""
    (line,) = [one for one in (ROOT / "Makefile").read_text().splitlines() if "mkdocs build" in one]
    assert "quiet" not in line
