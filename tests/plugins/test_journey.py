"""From an empty folder: a method of one's own is listed, compared with bwn, and in the report."""

import json
import subprocess
import sys

import yaml

from tbn_bench.catalog import plugged

SWEEP = {
    "name": "compare",
    "method": "grid",
    "plugins": ["my_methods.py"],
    "parameters": {
        "data": {"value": "digits"},
        "model": {"value": "mlp(hidden=[16])"},
        "epochs": {"value": 1},
        "binarizer": {"values": ["bwn", "half_scaled"]},
    },
}


def tbn_bench(folder, *arguments):
    """The last line of a command that is run in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "tbn_bench.cli", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_method_outside_the_repository_is_compared_and_reported(write, tmp_path, monkeypatch):
    """The sweep's runs name the plugin and its hash; table and figure have the method."""
    path = write()
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(SWEEP))
    assert "half_scaled" in tbn_bench(tmp_path, "list", "--plugin=my_methods.py")["binarizers"]
    assert tbn_bench(tmp_path, "sweep", "compare.yaml")["finished"] == 2
    records = [json.loads(p.read_text()) for p in tmp_path.glob("results/runs/*/*/run.json")]
    named = {r["config"]["binarizer"]: r["provenance"]["plugins"] for r in records}
    assert named["bwn"] == []
    assert [plugin["name"] for plugin in named["half_scaled"]] == ["my_methods.py"]
    assert tbn_bench(tmp_path, "runs", "verify")["failed"] == 0
    tbn_bench(tmp_path, "report")
    for file in ("tables/comparison.md", "figures/accuracy_bits.json"):
        assert "half_scaled" in (tmp_path / "reports" / file).read_text()
    path.write_text(path.read_text().replace("mean()", "median()"))
    assert len(tbn_bench(tmp_path, "sweep", "compare.yaml")["stale"]) == 1


def test_a_preset_and_the_environment_name_plugins(write, tmp_path, monkeypatch):
    """`plugins:` of a preset is relative to its file."""
    path = write(name="methods/my_methods.py")
    preset = path.parent / "preset.yaml"
    preset.write_text("plugins: [my_methods.py]\nbinarizer: half_scaled\n")
    assert tbn_bench(tmp_path, "plan", "--config=methods/preset.yaml")["weights"] > 0
    monkeypatch.setenv(plugged.VARIABLE, str(path))
    assert tbn_bench(tmp_path, "plan", "--binarizer=half_scaled")["weights"] > 0
