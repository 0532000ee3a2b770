"""Guards names: different sweeps have their own folders and W&B ids, no name leads elsewhere."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.records.names import FOLDER_BYTES, folder
from tbn_bench.records.store import RunStore
from tbn_bench.sweep.spec import load, load_all
from tbn_bench.tracking import transfer
from tbn_bench.tracking.account import wandb_id

RUN = "0123456789ab"
LONG = "x" * 51
ALIKE = [
    ("v1.0", "v1-0"),
    ("lr study", "lr-study"),
    ("lr study", "lr  study"),
    ("a/b", "a-b"),
    ("größe", "gr-ße"),
    (f"{LONG}1", f"{LONG}2"),
    ("x" * 300, "x" * 301),
    (".", ".."),
    ("..", "..."),
    ("/", "//"),
]


def sweep_file(folder, name, stem="s"):
    parameters = {"data": {"value": "synthetic"}, "seed": {"values": [0, 1]}}
    path = folder / f"{stem}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "method": "grid", "parameters": parameters}))
    return path


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_stay_apart(one, other):
    """In W&B, whose ids have 64 letters, and as folders of results/runs."""
    assert folder(one) != folder(other)
    assert wandb_id(RUN, one) != wandb_id(RUN, other)
    assert wandb_id(RUN, folder(one)) != wandb_id(RUN, folder(other))


@pytest.mark.parametrize("name", ["lr-study", "v1.0", "größe", ".hidden", "x" * 200, "s-20240101"])
def test_a_name_that_can_be_a_folder_is_one(name):
    """Folders of sweeps that are recorded already keep their names."""
    assert folder(name) == name


@pytest.mark.parametrize("name", ["cifar10_resnet18", "lr-study", LONG])
def test_ids_that_were_whole_are_what_they_were(name):
    """A run that W&B has under such an id goes on under it."""
    assert wandb_id(RUN, name) == f"{RUN}-{name}"
    assert wandb_id(RUN, "single") == RUN


@given(st.text(min_size=1, max_size=300), st.text(min_size=1, max_size=300))
def test_every_name_gives_a_folder_and_an_id(one, other):
    """Allowed letters, short enough, no path; equal only for equal names."""
    for name in (one, other):
        assert re.fullmatch(r"[\w.-]*[\w-][\w.-]*", folder(name))
        assert len(folder(name).encode()) <= FOLDER_BYTES
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", wandb_id(RUN, name))
    assert (folder(one) == folder(other)) == (one == other)
    assert (wandb_id(RUN, one) == wandb_id(RUN, other)) == (one == other)


def test_sweeps_of_like_names_do_not_skip_each_others_runs(tmp_path):
    """A sweep "lr study" after one "lr-study": its two runs are still to be made, and the dry run names its folder."""
    plain = load(sweep_file(tmp_path, "lr-study"))
    spaced = load(sweep_file(tmp_path, "lr study", "t"))
    store = RunStore(tmp_path)
    for config in plain.configs:
        run = store.claim(plain.name, config.run_id, config.model_dump(mode="json"), {})
        run.finish({})
    assert [store.finished(plain.name, c.run_id) for c in spaced.configs] == [True, True]
    assert [store.finished(spaced.name, c.run_id) for c in spaced.configs] == [False, False]
    (warning,) = spaced.warnings
    assert "name 'lr study' cannot be a folder" in warning
    assert warning.endswith(f"the records are those of sweep {spaced.name}")
    with pytest.raises(ValueError, match="must have the same `name`"):
        load_all([tmp_path / "s.yaml", tmp_path / "t.yaml"])


@pytest.mark.parametrize("name", ["..", ".", "../../outside", "/tmp/outside"])
def test_a_sweep_is_never_a_path(name, tmp_path):
    """Its records are in a folder of results/runs."""
    spec = load(sweep_file(tmp_path, name))
    inside = (tmp_path / "results" / "runs").resolve()
    assert RunStore(tmp_path / "results").path(spec.name, RUN).resolve().parent.parent == inside


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/tmp/x", "a\\b", "x" * 256])
def test_the_flag_of_a_sweep_takes_no_path(name, tmp_path, capsys):
    """One line, before anything is written."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", f"--sweep={name}", "--results", str(tmp_path / "results")])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert "--sweep: expected a name such as lr_study" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["init", "teacher"])
def test_the_run_to_start_from_is_no_path(field):
    assert make({field: f".a/{RUN}"}).model_dump()[field] == f".a/{RUN}"
    with pytest.raises(ValueError, match=f"^{field}: "):
        make({field: f"../{RUN}"})


def test_a_mirror_of_an_earlier_version_is_still_pushed(tmp_path, monkeypatch):
    """Its folder has the id of that version, and stands in the run's own folder."""
    monkeypatch.delenv("WANDB_DIR", raising=False)
    config = make({})
    store = RunStore(tmp_path)
    store.claim("v1.0", config.run_id, config.model_dump(mode="json"), {}).finish({})
    record = store.read("v1.0", config.run_id)
    mirror = record.path / "wandb" / f"offline-run-20250101_000000-{config.run_id}-v1-0"
    mirror.mkdir(parents=True)
    assert transfer.folders(record) == [mirror.resolve()]
