"""Guards report --paper: targets, verdicts, sizes by plan, the page and its files."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import load, paper, published
from tbn_bench.reporting.commands import settings_of
from tbn_bench.reporting.reproduction import recipe, sizes, tables, teaser
from tbn_bench.reporting.reproduction.verdict import judged
from tbn_bench.reporting.stats import Interval

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
RESNET = "resnet_cifar(depth=18)"
AUTHORS = "https://github.com/mattgorb/tiled_bit_networks/blob/a/log.csv"
LINE = {
    "method": "tbn",
    "spec": "tbn(p=4)",
    "dataset": "cifar10",
    "model": RESNET,
    "weight_bits": "",
    "activation_bits": "32",
    "metric": "top1",
    "value": "0.93",
    "second_hand": "false",
    "source": "https://a.example (README)",
    "note": "",
}


def _ledger(root, *changes):
    """results/published/tbn.csv, each line LINE with changes."""
    (root / "published").mkdir(parents=True, exist_ok=True)
    with (root / "published" / "tbn.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, LINE)
        writer.writeheader()
        writer.writerows(LINE | change for change in changes)


@pytest.fixture
def root(tmp_path):
    """Three seeds of tbn(p=4) with top-1 of 92, 93 and 94 %, and no other run."""
    for seed, top1 in enumerate((0.92, 0.93, 0.94)):
        given = {"binarizer": "tbn(p=4)", "data": "cifar10", "model": RESNET, "epochs": 3}
        config = make(given | {"seed": seed})
        values = config.model_dump(mode="json")
        run = RunStore(tmp_path).claim("s", config.run_id, values, {"commit": "c0ffee"})
        run.finish({"test/top1": top1, "track": "W1A32", "bits_per_weight": 0.25, "weights": 8000})
    return tmp_path


def _cells(root):
    records = load.load(root)
    found = paper.cells_of(records, ROOT)
    built = tables.tables(found, {}, {}, recipe.recipes(records))
    return [row for table in built.tables for row in table.rows]


FAST = {
    "binarizer": "tbn(p=4, gradient='tile', min_layer_size=0)",
    "data": "cifar10(crop_border='reflect', crop_padding=2, flip='alternating')",
    "model": RESNET,
    "epochs": 18,
    "optimizer": "muon",
}


def test_another_recipe_is_shown_with_its_differences(tmp_path):
    """Augmentation is no other data set; ours has more options, and fewer epochs than published."""
    config = make(FAST)
    run = RunStore(tmp_path).claim("fast", config.run_id, config.model_dump(mode="json"), {})
    run.finish({"test/top1": 0.894, "track": "W1A32", "cpu_seconds": 1800, "train_pflop": 0.7})
    _ledger(tmp_path, {"value": "0.9324", "source": AUTHORS})
    (row,) = _cells(tmp_path)
    assert (row["seeds"], row["difference_points"], row["cpu_hours"]) == (1, -3.84, 0.5)
    for said in ("18 epochs (300)", "muon (sgd)", "min_layer_size=0", "crop_padding=2", "conv1x1"):
        assert said in row["recipe"]


def test_scores_with_test_time_augmentation_have_cells(tmp_path):
    config = make(FAST | {"binarizer": "full_precision", "model": "airbench"})
    run = RunStore(tmp_path).claim("fast", config.run_id, config.model_dump(mode="json"), {})
    run.finish({"test/top1": 0.93, "test/top1_tta": 0.941, "track": "W32A32"})
    line = {"method": "full_precision", "spec": "full_precision", "metric": "top1_tta"}
    _ledger(tmp_path, line | {"model": "airbench", "value": "0.9401"})
    (row,) = _cells(tmp_path)
    assert row["table"] == "The arena"
    assert row["difference_points"] == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("ours", "same"),
    [
        ("cifar10(crop_padding=2, val_size=0)", True),
        ("cifar100", False),
        ("cifar10(size=64)", False),  # another resolution is other data
    ],
)
def test_how_a_data_set_is_augmented_and_split_does_not_count(ours, same):
    assert published.is_data("cifar10", ours) == same


@pytest.fixture(scope="module")
def committed():
    return load.load(RESULTS)


# Targets and verdicts


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"second_hand": False, "source": "https://b"}, {"second_hand": True, "source": AUTHORS}),
        ({"source": AUTHORS, "value": 0.9}, {"source": "https://b", "value": 0.95}),
        ({"value": 0.95}, {"value": 0.9}),
        ({"value": 0.2, "metric": "mse"}, {"value": 0.3, "metric": "mse"}),
    ],
    ids=["read before quoted", "authors first", "best of several", "best error is the least"],
)
def test_one_value_is_the_target(first, second):
    """As published.RULE says, in whatever order the ledger has them."""
    line = {"second_hand": False, "source": "https://b", "value": 0.9, "metric": "top1"}
    one, other = line | first, line | second
    assert published.by_authority([other, one])[0] == one
    assert published.by_authority([one, other])[0] == one


@pytest.mark.parametrize(
    ("score", "value", "result", "kind", "text"),
    [
        ("top1", 0.93, (0.928, 0.003, 3), "reproduced", "reproduced within ± 0.30, 300 epochs"),
        ("top1", 0.93, (0.92, 0.003, 3), "differs", "differs by -1.00 points, 300 epochs"),
        ("top1", 0.93, (0.94, 0.003, 3), "better", "better by +1.00 points, 300 epochs"),
        ("top1", 0.93, (0.66, None, 1), "one seed", "one seed, differs by -27.00 points"),
        ("mse", 0.2, (0.25, 0.01, 2), "differs", "differs by +0.0500, 300 epochs"),
        ("mse", 0.2, (0.15, 0.01, 2), "better", "better by -0.0500, 300 epochs"),
    ],
)
def test_a_verdict_states_interval_difference_and_epochs(score, value, result, kind, text):
    """Better is the direction of the score: a larger accuracy, a smaller error."""
    verdict = judged(score, value, Interval(*result), 300)
    assert verdict.kind == kind
    assert verdict.text.startswith(text)


def test_no_published_score_is_lost(committed):
    """A line that has a spec, network, data set and score of ours is in one cell."""
    found = paper.cells_of(committed, ROOT)
    shown = [id(line) for cell in found.cells for line in cell.lines]
    assert len(shown) == len(set(shown))
    assert len(shown) + found.left.total() == len(committed.published)
    assert found.cells[0].section == "The arena"


def test_a_cell_is_judged_or_says_how_to_run_it(root):
    """A published cell without a run names the sweep that has its very setting."""
    ablation = "tbn(alpha='layer', alpha_source='W', p=8)"
    _ledger(
        root, {"value": "0.931"}, {"spec": "tbn(p=8)"}, {"spec": ablation}, {"spec": "tbn(p=64)"}
    )
    found = paper.cells_of(load.load(root), ROOT)
    by_spec = {cell.spec: cell for cell in found.cells}
    ran = by_spec["tbn(p=4)"]
    assert ran.verdict(ran.best).text == "reproduced within ± 2.48, 3 epochs"
    assert by_spec["tbn(p=8)"].verdict(None).kind == "not run"
    assert by_spec["tbn(p=8)"].command == "tbn-bench sweep sweeps/cifar10_resnet18.yaml"
    assert by_spec[ablation].command == "tbn-bench sweep sweeps/ablation_alpha.yaml"
    assert by_spec["tbn(p=64)"].command.startswith("tbn-bench train --data=cifar10")
    assert not found.left


def test_commands_name_files_that_exist(committed):
    found = paper.cells_of(committed, ROOT)
    commands = {cell.command for cell in found.cells}
    files = [command.split()[-1] for command in commands if command.endswith(".yaml")]
    assert len(files) > 10
    assert all((ROOT / file).is_file() for file in files)


def test_a_broken_sweep_file_is_named(root, tmp_path):
    """The commands are read from it, so it is not passed over."""
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "bad.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        paper.cells_of(load.load(root), tmp_path)


# Sizes


def _size(**changes):
    """A network of 1,000 weights with 256 sign bits and two scales."""
    counts = dict.fromkeys((f.name for f in dataclasses.fields(sizes.Size)), 0)
    named = {"dataset": "cifar10", "model": RESNET, "spec": "tbn(p=4)"}
    planned = {"weights": 1000, "sign_bits": 256, "stored_bits": 320}
    return sizes.Size(**(counts | named | planned | changes))


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (0.256, "size verified: published 0.256, plan 0.256 bits per weight"),
        (0.26, "size verified: published 0.26, plan 0.26 bits per weight"),
        (0.25, "size differs: published 0.25, plan 0.26 bits per weight"),
        (0.3, "size verified: published 0.3, plan 0.3 bits per weight"),
    ],
)
def test_a_size_is_verified_to_the_digits_that_are_printed(width, text):
    line = {"dataset": "cifar10", "model": RESNET, "spec": "tbn(p=4)", "metric": "top1"}
    size = _size()
    (check,) = sizes.checks([line | {"weight_bits": width}], {size.key: size})[size.key]
    assert check.text == text


def test_a_width_of_whole_bits_is_no_size():
    """32, 2 or 1 bit is the definition of a method."""
    size = _size()
    line = {"dataset": "cifar10", "model": RESNET, "spec": "tbn(p=4)", "metric": "top1"}
    assert sizes.checks([line | {"weight_bits": 1.0}], {size.key: size}) == {}


def _planned(tmp_path, keep):
    """The sizes that `tbn-bench plan --published` writes for a ledger with the lines of `keep`."""
    ledger = published.read(RESULTS, []).to_dict("records")
    files: dict[str, list] = {}
    for line in ledger:
        if keep(line):
            files.setdefault(line["method"], []).append(line)
    (tmp_path / "published").mkdir()
    for method, lines in files.items():
        with (tmp_path / "published" / f"{method}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, published.COLUMNS)
            writer.writeheader()
            for line in lines:
                writer.writerow(line | {"second_hand": str(line["second_hand"]).lower()})
    assert cli.main(["plan", "--published", str(tmp_path)]) == 0
    return sizes.read(tmp_path)


def test_committed_sizes_are_those_of_the_plans(tmp_path, monkeypatch):
    """Of each network on CIFAR-10 whose size is published; the slow test plans all."""
    monkeypatch.chdir(ROOT)
    found = _planned(tmp_path, lambda line: line["metric"] == "binary_parameters_million")
    committed = sizes.read(RESULTS)
    assert len(found) == 8
    assert found == {key: committed[key] for key in found}


@pytest.mark.slow
def test_all_committed_sizes_are_those_of_the_plans(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    _planned(tmp_path, lambda line: True)
    name = "published/sizes.json"
    assert (tmp_path / name).read_text() == (RESULTS / name).read_text()


def test_every_network_of_the_ledger_has_its_plan():
    """Somebody who adds a line is told to plan again."""
    ledger = published.read(RESULTS, []).to_dict("records")
    named = {(line["dataset"], line["model"], line["spec"]) for line in sizes.named(ledger)}
    assert named == set(sizes.read(RESULTS)), "run: tbn-bench plan --published results"


def test_plans_use_the_p_per_layer_of_the_sweep():
    """tbn(p=4) of the ledger is the list of the sweep, which keeps some layers at p = 1."""
    line = LINE | {"spec": "tbn(p=4)"}
    flags, file = sizes.flags(line, settings_of(ROOT))
    assert file == "sweeps/cifar10_resnet18.yaml"
    assert flags["binarizer"].startswith("tbn(per_layer=[1,1,1,1, 4,")


def test_broken_sizes_are_named(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "sizes.json").write_text('[{"dataset": "cifar10"}]')
    with pytest.raises(ValueError, match=r"sizes\.json.*plan --published"):
        sizes.read(tmp_path)


# Files


@pytest.fixture
def written(root, tmp_path, monkeypatch):
    """The folder of a report on two cells, one run, made where no sweeps are."""
    name = "https://<b>.example"
    _ledger(root, {"value": "0.931"}, {"spec": "tbn(p=8)", "source": name}, {"spec": ""})
    sizes.write([_size(), _size(spec="tbn(p=8)")], root)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert cli.main(["report", "--paper", "--results", str(root), "--out", str(out)]) == 0
    return out


def test_the_command_says_what_it_found(written, root, capsys):
    cli.main(["report", "--paper", "--results", str(root), "--out", str(written)])
    said = capsys.readouterr().out
    assert "2 published cells: 1 not run, 1 reproduced; 1 of a method" in said
    assert json.loads(said.splitlines()[-1])["reproduced"] == 1


def test_the_csv_has_numbers_with_units_and_sources_apart(written):
    rows = list(csv.DictReader((written / "paper.csv").read_text().splitlines()))
    ran, other = rows
    assert (ran["target_percent"], ran["ours_percent"], ran["seeds"]) == ("93.1", "93.0", "3")
    assert (ran["kind"], ran["source"]) == ("reproduced", "https://a.example (README)")
    assert ran["plan_bits_per_weight"] == "0.32"
    assert len(ran["group_id"]) == 12
    assert (other["kind"], other["ours_percent"], other["group_id"]) == ("not run", "—", "—")


def test_the_page_has_target_verdict_and_link(written):
    """Of each cell; a source's markup is text."""
    text = (written / "paper.html").read_text()
    assert "✓ reproduced" in text
    assert 'target <b>93.10</b> <a href="#source-1">[1]</a>' in text
    assert "ours <b>93.00 ± 2.48, 3 seeds, 3 epochs</b>" in text
    assert '<a href="https://a.example">https://a.example</a> (README)' in text
    assert "<b>.example" not in text


def test_the_page_asks_for_nothing(written):
    """One file: no script, style sheet, font or image from elsewhere."""
    text = (written / "paper.html").read_text()
    loaded = re.findall(r'(?:src=|<link[^>]+href=|url\()"?([^"]*)', text)
    assert loaded == ["data:,"]
    assert "<script" not in text


def test_the_markdown_has_the_same_cells(written):
    text = (written / "paper.md").read_text()
    assert "| 93.1 [1] | — | 93.00 ± 2.48 | 3 | 3 | reproduced within ± 2.48, 3 epochs |" in text
    assert "1. https://a.example (README)" in text


def test_a_report_is_the_same_each_time(written, root):
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    assert cli.main(["report", "--paper", "--results", str(root), "--out", str(written)]) == 0
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before


def test_the_teaser_has_published_and_own_points(root):
    """Published ones at the bits of their plan, ours at the bits of the run."""
    _ledger(root, {"value": "0.931"}, {"value": "0.92", "second_hand": "true"})
    records = load.load(root)
    size = _size()
    found = teaser.points(
        paper.cells_of(records, ROOT), paper.groups.groups(records), {size.key: size}
    )
    shown = [(point.bits, round(point.top1, 1), point.is_ours) for point in found]
    assert shown == [(0.32, 93.1, False), (0.32, 92.0, False), (0.25, 93.0, True)]
    assert [point.is_target for point in found] == [True, False, True]
    wide, narrow = teaser.figures(found)
    assert wide[1].count("<circle") == narrow[1].count("<circle") == 3
    assert teaser.figures([]) == []
