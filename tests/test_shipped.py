"""Sweeps, presets and published numbers by name, in a folder without a checkout."""

from pathlib import Path

import pytest

from tbn_bench.cli import sweep as sweep_command
from tbn_bench.cli.parser import make_parser
from tbn_bench.install import shipped
from tbn_bench.reporting import commands, published

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_name_is_a_sweep_of_the_package():
    file = shipped.find("sweeps", Path("quickstart"))
    assert file.read_text() == (ROOT / "sweeps" / "quickstart.yaml").read_text()
    assert shipped.find("recipes", Path("tbn_resnet18_cifar10_p4")).is_file()


def test_the_command_takes_a_name():
    """tbn-bench sweep quickstart, in an empty folder."""
    args = make_parser().parse_args(["sweep", "quickstart"])
    sweep = sweep_command.spec_of(args)
    assert sweep.name == "quickstart"
    assert len(sweep.configs) == 24


@pytest.mark.parametrize("own", ["quickstart", "quickstart.yaml", "sweeps/quickstart.yaml"])
def test_a_file_of_the_current_folder_wins(own):
    file = Path(own)
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    assert shipped.find("sweeps", Path("quickstart")) == file


def test_a_folder_of_that_name_is_no_sweep():
    """results/quickstart is where its records may be."""
    Path("quickstart").mkdir()
    assert shipped.find("sweeps", Path("quickstart")).is_file()


def test_an_unknown_name_lists_the_known_with_a_guess():
    with pytest.raises(ValueError, match="did you mean 'quickstart'") as caught:
        shipped.find("sweeps", Path("quikstart"))
    assert "cifar10_fast, " in str(caught.value)


@pytest.mark.parametrize("path", ["gone.yaml", "sweeps/gone.yaml", "sweeps/gone"])
def test_a_path_is_left_to_its_reader(path):
    assert shipped.find("sweeps", Path(path)) == Path(path)


def test_published_numbers_come_with_the_package(tmp_path):
    """Those of the results folder, where it has some, win."""
    problems: list[str] = []
    home = published.home(tmp_path)
    assert len(published.read(home, problems)) > 100
    assert problems == []
    (tmp_path / "published").mkdir()
    assert published.home(tmp_path) == tmp_path


def test_commands_of_published_cells_name_the_packages_sweeps(tmp_path):
    """In a checkout by their path, elsewhere by their name."""
    named = {setting.command for setting in commands.settings_of(tmp_path)}
    assert "tbn-bench sweep quickstart" in named
    assert "tbn-bench train --config tbn_resnet18_cifar10_p4" in named
    here = {setting.command for setting in commands.settings_of(ROOT)}
    assert "tbn-bench sweep sweeps/quickstart.yaml" in here


def test_a_wheel_has_its_folder_of_shares(tmp_path, monkeypatch):
    """Installed, the folders are in tbn_bench/share."""
    package = tmp_path / "tbn_bench"
    (package / "share" / "sweeps").mkdir(parents=True)
    (package / "share" / "sweeps" / "a.yaml").write_text("")
    monkeypatch.setattr(shipped, "_PACKAGE", package)
    assert shipped.names("sweeps") == ["a"]
