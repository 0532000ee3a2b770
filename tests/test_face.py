"""import tbn_bench: two hands full of names, loaded when they are used."""

import doctest
import importlib
import subprocess
import sys

import pytest

import tbn_bench


def test_every_name_of_the_face_is_there():
    assert sorted(tbn_bench.__all__) == [n for n in dir(tbn_bench) if n != "__version__"]
    assert all(
        callable(getattr(tbn_bench, name)) for name in tbn_bench.__all__ if name != "catalog"
    )
    assert "tbn" in tbn_bench.catalog.names("binarizers")


def test_the_face_loads_nothing_before_it_is_used():
    code = "import sys, tbn_bench; assert 'torch' not in sys.modules; tbn_bench.binarize_; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_that_moved_says_where_it_is():
    with pytest.raises(AttributeError, match=r"tbn_bench.packed is now tbn_bench.convert"):
        tbn_bench.packed  # noqa: B018
    with pytest.raises(ImportError):
        from tbn_bench import storage  # noqa: F401


@pytest.mark.parametrize("moved", sorted(tbn_bench._MOVED.values()))
def test_where_a_module_moved_there_is_one(moved):
    importlib.import_module(moved)


def test_promised_paths_stay():
    from tbn_bench.convert import binarize_

    assert binarize_ is tbn_bench.binarize_


@pytest.mark.parametrize("module", ["tbn_bench", "tbn_bench.convert"])
def test_examples_of_the_face_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0
