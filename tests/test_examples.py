"""Every script of examples/ runs on small data; own_training_loop.py in tests/test_journeys.py."""

import json
import runpy
import sys
from pathlib import Path

import notebook_cells

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(monkeypatch, script, *arguments):
    """As `python examples/SCRIPT ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_sweep_then_report(tmp_path, monkeypatch, capsys):
    """A sweep, the same sweep again without a run, and the report of its records."""
    results = tmp_path / "results"
    run(monkeypatch, "sweep.py", "--epochs", 1, "--results", results)
    assert len(list(results.glob("runs/digits_example/*"))) == 6
    run(monkeypatch, "report.py", "--results", results, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "index.html").exists()
    assert "mlp(hidden=[128])" in capsys.readouterr().out


def test_latency_of_own_network(monkeypatch, capsys):
    run(monkeypatch, "latency_of_own_network.py", "--width", 64)
    assert "full_precision [dense]" in capsys.readouterr().out


def test_weights_of_a_trained_network(tmp_path, monkeypatch, capsys):
    """Conversion and fine-tuning of each method, from one float network."""
    run(monkeypatch, "from_trained_weights.py", "--epochs", 2, "--results", tmp_path)
    shown = capsys.readouterr().out
    assert shown.count("batch norm re-estimated") == shown.count("fine-tuned") == 2
    assert len(list(tmp_path.glob("runs/*/*/summary.json"))) == 2


def test_the_notebook_gives_its_stored_outputs(tmp_path, monkeypatch):
    """Plan and cost to the letter. Numbers of a training depend on the processor."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    stored = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = notebook_cells.run(notebook)
    assert found[:2] == stored[:2]
    assert list(map(kinds, found)) == list(map(kinds, stored))
    shown = ["".join(outputs[-1]["data"]["text/html"]) for outputs in found]
    assert all(text.startswith("<table>") for text in shown)


def kinds(outputs):
    """Whether a cell prints, and in which forms its value displays."""
    return [(output["output_type"], sorted(output.get("data", ()))) for output in outputs]


def test_every_example_is_in_the_index():
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]
    assert [file.name for file in files if file.name not in index] == []
