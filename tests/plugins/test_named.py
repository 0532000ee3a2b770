"""Plugins that a preset or the environment names. tests/test_journeys.py compares one with bwn."""

import json
import subprocess
import sys

from tbn_bench.catalog import plugged


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


def test_a_preset_and_the_environment_name_plugins(write, tmp_path, monkeypatch):
    """`plugins:` of a preset is relative to its file."""
    path = write(name="methods/my_methods.py")
    preset = path.parent / "preset.yaml"
    preset.write_text("plugins: [my_methods.py]\nbinarizer: half_scaled\n")
    assert tbn_bench(tmp_path, "plan", "--config=methods/preset.yaml")["weights"] > 0
    monkeypatch.setenv(plugged.VARIABLE, str(path))
    assert tbn_bench(tmp_path, "plan", "--binarizer=half_scaled")["weights"] > 0
