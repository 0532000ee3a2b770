"""Shared by all tests: fixed seeds, one thread (two test machines must agree), and the order of files.

durations.json (measured) holds the CPU seconds of every test that takes half a second or more. From it,
files run in order of their length, the longest first, so that no long file is left for the end of a
parallel run. `--quick` leaves the tests in it out. After adding slow tests, measure again:

    .venv/bin/pytest -n 2 --dist loadfile --measure=tests/durations.json
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from kept_warm import KEPT

from tbn_bench.catalog import plugged

DURATIONS = Path(__file__).parent / "durations.json"
SLOW_SECONDS = 0.5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _kept_warm():
    """Launches of sweeps share their warm processes, each of which costs six seconds."""
    with pytest.MonkeyPatch.context() as patch:
        KEPT.install(patch)
        yield
    KEPT.close()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """What sweeps have accepted is remembered within this run of the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TBN_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch):
    """Plugins are loaded for one test alone."""
    monkeypatch.setenv(plugged.VARIABLE, "")
    yield
    for plugin in list(plugged.PLUGINS):
        plugged.remove(plugin)


def pytest_addoption(parser):
    group = parser.getgroup("tbn_bench")
    group.addoption("--quick", action="store_true", help="leave out what takes half a second")
    group.addoption("--measure", metavar="FILE", help="write the CPU seconds of slow tests to FILE")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    seconds = json.loads(DURATIONS.read_text(encoding="utf-8")) if DURATIONS.exists() else {}
    if config.getoption("--quick"):
        slow = [item for item in items if item.nodeid in seconds]
        items[:] = [item for item in items if item.nodeid not in seconds]
        config.hook.pytest_deselected(items=slow)
    of_file = Counter()
    for test, duration in seconds.items():
        of_file[test.partition("::")[0]] += duration
    items.sort(key=lambda item: -of_file[item.nodeid.partition("::")[0]])


def _cpu_seconds() -> float:
    """Of this process and of those it has waited for: other work on the machine does not count."""
    times = os.times()
    waited_for = times.children_user + times.children_system
    return times.user + times.system + waited_for + KEPT.cpu_seconds()


def pytest_configure(config):
    if config.getoption("--measure"):
        path = Path(config.getoption("--measure"))
        if not hasattr(config, "workerinput"):  # pytest-xdist's workers add to one file
            path.write_text("{}", encoding="utf-8")
        config.pluginmanager.register(_Measured(path))


class _Measured:
    """Notes what each test costs, and writes the slow ones when all have run."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        start = _cpu_seconds()
        result = yield
        self.seconds[item.nodeid] = round(_cpu_seconds() - start, 1)
        return result

    def pytest_sessionfinish(self):
        with FileLock(f"{self.path}.lock"):
            known = json.loads(self.path.read_text(encoding="utf-8"))
            known.update((test, s) for test, s in self.seconds.items() if s >= SLOW_SECONDS)
            text = json.dumps(known, indent=0, ensure_ascii=False, sort_keys=True)
            self.path.write_text(text + "\n", encoding="utf-8")
