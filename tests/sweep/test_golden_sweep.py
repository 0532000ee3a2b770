"""A sweep file and a preset as an earlier version of this package read them."""

import json
from pathlib import Path

import yaml

from tbn_bench.config import make
from tbn_bench.sweep import spec

FOLDER = Path(__file__).parent / "golden"
EXPECTED = json.loads((FOLDER / "run_ids.json").read_text())


def test_an_older_sweep_file_has_the_same_runs():
    """In the same order, with the same ids."""
    configs = spec.load(FOLDER / "copies_digits.yaml").configs
    found = [[config.run_id, config.seed, config.binarizer] for config in configs]
    assert found == EXPECTED["copies_digits.yaml"]


def test_an_older_preset_is_the_same_run():
    config = make(yaml.safe_load((FOLDER / "preset.yaml").read_text()))
    assert config.run_id == EXPECTED["preset.yaml"]
