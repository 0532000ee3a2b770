"""Tables and figures of a plugin: in the report, and held to their contracts."""

import json

import pytest
from generated_runs import finished_run
from plugin_files import REPORT

from tbn_bench import catalog, cli
from tbn_bench.plugins.load import load
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import build


@pytest.fixture
def results(tmp_path):
    """Two runs of one method."""
    store = RunStore(tmp_path / "results")
    finished_run(store, 0.8, 0.9)
    finished_run(store, 0.8, 0.7, seed=1)
    return tmp_path / "results"


def test_the_report_has_both(write, results, tmp_path, capsys):
    """As files, on the page, and by the figure's name alone."""
    path = write(REPORT, "my_report.py")
    out = tmp_path / "reports"
    flags = [f"--results={results}", f"--plugin={path}"]
    assert cli.main(["report", *flags, f"--out={out}"]) == 0
    assert "| tbn(p=4) | 1.5 |" in (out / "tables" / "fastest.md").read_text()
    made = json.loads((out / "figures" / "accuracy_seconds.json").read_text())
    assert len(made["run_ids"]) == 2
    assert list((out / "figures" / "accuracy_seconds").glob("*.svg"))
    page = (out / "index.html").read_text()
    assert "Fastest runs" in page
    assert "Accuracy against training time" in page
    alone = ["--figure=accuracy_seconds", f"--out={tmp_path / 'alone'}"]
    assert cli.main(["report", *flags, *alone]) == 0
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["files"]) == 4


def test_both_are_on_their_shelves(write):
    """Behind the ones of this package, whose names they may not have."""
    load([write(REPORT, "my_report.py")])
    assert "fastest" in catalog.names("tables")
    assert list(build.tables_of())[-1] == "fastest"
    assert list(build.figures_of())[-1] == "accuracy_seconds"
    with pytest.raises(ValueError, match="latency in tables is an entry of tbn_bench already"):
        load([write(REPORT.replace("fastest", "latency"), "other.py")])


def test_both_pass_their_contracts(write, capsys):
    assert cli.main(["check", str(write(REPORT, "my_report.py"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("ok  ")]) == 6


BROKEN = {
    "other type": (("        return None\n", "        return []\n"), "expected a Table, or None"),
    "foreign runs": (('list(runs["run_id"])', '["0"]'), "expected ids of records.runs"),
    "no chart": (
        ("    def x_of", "    def chart(self, records):\n        return {1j}\n\n    def x_of"),
        "its own code failed",
    ),
    "unknown column": (('["seconds"].mean()', '["second"].mean()'), "failed with KeyError"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_contract_is_a_finding(write, capsys, fault):
    (old, new), said = BROKEN[fault]
    assert old in REPORT
    assert cli.main(["check", str(write(REPORT.replace(old, new), "my_report.py"))]) == 1
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def x_of", "def x", "expected x_of(group, records) or frame(records), got neither"),
        ("    TITLE =", "    HEAD =", "expected TITLE"),
        ("fastest(records:", "fastest(most, records:", "got most without a default"),
    ],
)
def test_a_mistake_is_said_at_load(write, old, new, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        load([write(REPORT.replace(old, new), "my_report.py")])
