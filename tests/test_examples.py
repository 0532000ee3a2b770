"""Every script of examples/ runs on small data."""

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(monkeypatch, script, *arguments):
    """As `python examples/SCRIPT ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_own_training_loop(tmp_path, monkeypatch, capsys):
    file = tmp_path / "digits.safetensors"
    run(monkeypatch, "own_training_loop.py", "--epochs", 2, "--out", file)
    said = capsys.readouterr().out
    before, packed = re.findall(r"([\d.]+)%", said)[-2:]
    assert before == packed
    assert file.stat().st_size < 30_000


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


def test_every_script_is_in_the_index():
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [script.name for script in EXAMPLES.glob("*.py") if script.name not in index] == []
