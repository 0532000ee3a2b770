"""Sweeps build a network once per version of the code, and remember no verdict that can change."""

import subprocess
import sys

import pytest

from tbn_bench.config import make
from tbn_bench.experiment import build
from tbn_bench.sweep import checked

GOOD = {"data": "synthetic", "model": "mlp(hidden=[8])", "binarizer": "bwn"}


@pytest.fixture
def built(monkeypatch, tmp_path):
    """The configs that were built, in order; the cache is empty at first."""
    monkeypatch.setenv("TBN_BENCH_CACHE", str(tmp_path / "cache"))
    found = []
    real = build.check

    def check(config, forward=True):
        found.append(config)
        real(config, forward)

    monkeypatch.setattr(build, "check", check)
    return found


def test_a_network_is_built_once(built):
    """Neither other seeds, nor the next launch, build an accepted network again."""
    checked.check([make(GOOD), make(GOOD | {"seed": 1, "lr": 0.2})])
    checked.check([make(GOOD | {"seed": 2})])
    assert built == [make(GOOD)]


def test_other_code_builds_again(built, monkeypatch):
    """A changed file of the package, or another library, makes all verdicts void."""
    checked.check([make(GOOD)])
    monkeypatch.setattr(checked, "_LIBRARIES", ("torch",))
    checked.check([make(GOOD)])
    assert len(built) == 2


def test_a_refused_config_is_refused_again(built):
    """The second call gives the same error, although its other config was accepted."""
    bad = make(GOOD | {"model": "mlp(hidden=[0])"})
    said = []
    for _ in range(2):
        with pytest.raises(ValueError, match="no elements") as caught:
            checked.check([make(GOOD), bad])
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert built == [make(GOOD), bad, bad]


@pytest.mark.parametrize("call", ["image_folder(path='photos')", "image_folder(path='a/b')"])
def test_an_option_that_names_a_file_is_not_remembered(call, tmp_path, monkeypatch):
    """The content of a file or folder can change, while the code stays the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    accepted = checked.Accepted(tmp_path / "accepted.json")
    config = make(GOOD | {"data": call})
    accepted.add(config)
    assert config not in accepted


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"code": 1}', b"\xff"])
def test_a_cache_that_cannot_be_read_or_written_is_done_without(built, tmp_path, content):
    """A folder in place of the file, a cut file or foreign content: the config is built."""
    file = tmp_path / "cache" / "accepted.json"
    file.parent.mkdir()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    checked.check([make(GOOD)])
    assert built == [make(GOOD)]


def test_a_second_dry_run_imports_no_torch(built, tmp_path):
    """Whatever the sweep accepted before, its next dry run starts without torch."""
    file = tmp_path / "s.yaml"
    file.write_text(
        "{method: grid, parameters: {data: {value: synthetic}, binarizer: {values: [bwn, sign]}}}"
    )
    checked.check([make({"data": "synthetic", "binarizer": method}) for method in ("bwn", "sign")])
    program = (
        "import sys; from tbn_bench import cli; "
        f"code = cli.main(['sweep', {str(file)!r}, '--dry-run', '--results={tmp_path}']); "
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
