"""Guards the published tables: what stands beside what, with which source and mark."""

import csv
import re
from pathlib import Path

import pytest

from tbn_bench.config import make
from tbn_bench.records.store import LatencyRecord, RunStore
from tbn_bench.reporting import load, published, write
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.markup import markup
from tbn_bench.reporting.tables.ablations import ablations
from tbn_bench.reporting.tables.bits import bits
from tbn_bench.reporting.tables.cnn import cnn
from tbn_bench.reporting.tables.gpu_memory import gpu_memory
from tbn_bench.reporting.tables.kernels import kernels
from tbn_bench.reporting.tables.microcontroller import microcontroller
from tbn_bench.reporting.tables.pointnet import pointnet
from tbn_bench.reporting.tables.time_series import time_series
from tbn_bench.reporting.tables.transformers_mlps import transformers_mlps

ROOT = Path(__file__).parents[2]
OURS = (cnn, transformers_mlps, pointnet, time_series, ablations)
RESNET = "resnet_cifar(depth=18)"
SUMMARY = {
    "bits_per_weight": 0.25,
    "stored_bytes": 300,
    "stored_bits": 2400,
    "stored_bits_weights": 2000,
    "tile_bits": 1900,
    "weights": 8000,
    "best_epoch": 1,
    "test_samples": 10,
}


def _run(
    root,
    binarizer="tbn(p=4)",
    top1=0.93,
    seed=0,
    sweep="s",
    data="cifar10",
    model=RESNET,
    track="W1A32",
    **summary,
):
    """One finished run; returns its id."""
    config = make({"binarizer": binarizer, "data": data, "model": model, "seed": seed, "epochs": 3})
    run = RunStore(root).claim(
        sweep, config.run_id, config.model_dump(mode="json"), {"commit": "c0ffee", "dirty": False}
    )
    run.log({"epoch": 0, "val/top1": 0.5})
    run.finish(SUMMARY | {"test/top1": top1, "track": track} | summary)
    return config.run_id


def _ledger(root, *lines):
    """Lines are TBN's on CIFAR-10 with `changes`: spec, value, second_hand, source, note, dataset,
    model, activation_bits, metric.
    """
    keys = (
        "method",
        "spec",
        "dataset",
        "model",
        "weight_bits",
        "activation_bits",
        "metric",
        "value",
        "second_hand",
        "source",
        "note",
    )
    first = dict(
        zip(
            keys,
            ("tbn", "tbn(p=4)", "cifar10", RESNET, "", "32", "top1", "0.93", "false", "README", ""),
            strict=True,
        )
    )
    (root / "published").mkdir(parents=True, exist_ok=True)
    with (root / "published" / "tbn.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(first | line for line in lines)


@pytest.fixture
def root(tmp_path):
    """Three seeds of tbn(p=4) and no other run."""
    for seed, top1 in enumerate((0.92, 0.93, 0.94)):
        _run(tmp_path, top1=top1, seed=seed)
    return tmp_path


@pytest.fixture(scope="module")
def committed():
    return load.load(ROOT / "results")


def _cells(table, *keys):
    """The shown cells of some columns, row by row."""
    columns = {c.key: c for c in table.columns}
    return [tuple(columns[key].show(row) for key in keys) for row in table.rows]


def test_theirs_and_ours_stand_in_one_row_with_n_and_source(root):
    """Mean, interval and n of ours, the reported value with the number of its footnote.

    What was not run is an em dash.
    """
    _ledger(
        root,
        {"value": "0.931", "source": "paper A"},
        {"spec": "tbn(p=8)", "value": "0.924", "source": "log B"},
    )
    table = cnn(load.load(root))
    first, second = _cells(table, "binarizer", "reported", "value", "n", "epochs")
    assert first == ("TBN-4", "93.1 [1]", "93.00 ± 2.48", "3", "3")
    assert second == ("TBN-8", "92.4 [2]", "—", "—", "—")
    assert table.sources == ["paper A", "log B"]
    assert len(table.run_ids) == 3


def test_sources_are_listed_once_and_in_every_format(root):
    """Two values of one source share its footnote; a value of two sources names both."""
    _ledger(
        root, {"source": "A"}, {"spec": "tbn(p=8)", "value": "0.9", "source": "A"}, {"source": "B"}
    )
    table = cnn(load.load(root))
    assert [cell for (cell,) in _cells(table, "reported")] == ["93 [1][2]", "90 [1]"]
    assert table.sources == ["A", "B"]
    assert (
        write.markdown(table).count("\n[1] A\n")
        == markup(table).count('<p class="note">[1] A</p>')
        == 1
    )
    assert r"{[}1] A\par" in latex(table)


def test_what_all_lines_of_a_source_note_stands_in_its_footnote(root):
    """What only one of them notes is not said of the others."""
    _ledger(
        root,
        {"note": "author's log; 250 epochs"},
        {"spec": "tbn(p=8)", "note": "author's log; best of 3"},
    )
    assert cnn(load.load(root)).sources == ["README (author's log)"]


@pytest.mark.parametrize(
    ("change", "cell", "legend"),
    [
        ({"second_hand": "true"}, "93† [1]", "† Second-hand"),
        ({"note": "p inferred"}, "93‡ [1]", "‡ A part of the setting was inferred"),
        ({}, "93 [1]", None),
    ],
)
def test_uncertain_values_carry_their_mark_and_it_is_explained(root, change, cell, legend):
    _ledger(root, change)
    table = cnn(load.load(root))
    assert _cells(table, "reported")[0] == (cell,)
    assert (legend in table.note) if legend else not {"†", "‡"} & set(table.note)
    assert published.reported(
        load.load(root).published, "tbn(p=4)", "cifar10", RESNET, 32
    ) == cell.removesuffix(" [1]")


@pytest.mark.parametrize(
    "change",
    [
        {"activation_bits": "1"},
        {"dataset": "cifar10(val_size=10)"},
        {"model": "resnet_cifar(depth=20)"},
        {"spec": "tbn(p=8)"},
        {"metric": "top5"},
        {"spec": "tbn(alpha='layer', p=4)"},
    ],
)
def test_other_protocols_never_share_a_row(root, change):
    """Other activations, data, network, method, score, or a variant that an ablation is about."""
    _ledger(root, change)
    assert all(row["value"] is None or row["reported"] is None for row in cnn(load.load(root)).rows)


def test_ablations_stand_in_their_own_table(root):
    """By their sweep, or by the options that a published line names."""
    line = "tbn(alpha='layer', alpha_source='W', p=4)"
    _run(root, line, sweep="ablation_alpha")
    _ledger(root, {"spec": line, "value": "0.9297"})
    records = load.load(root)
    assert _cells(ablations(records), "reported", "value") == [("92.97 [1]", "93.00")]
    assert [row["binarizer"] for row in cnn(records).rows] == ["tbn(p=4)"]


def test_the_csv_has_units_and_the_source_apart(root):
    """timm's columns come first, with their units in their names; then ours."""
    _ledger(root, {"source": "A", "second_hand": "true"})
    text = write.comma_separated(cnn(load.load(root)))
    assert text.startswith(
        "model,img_size_pixels,top1_percent,top1_err_percent,param_count_million,"
    )
    (row,) = csv.DictReader(text.splitlines())
    first = ("img_size_pixels", "top1_percent", "top1_err_percent", "param_count_million")
    assert tuple(row[key] for key in first) == (
        "32",
        "93.0",
        "7.0",
        "0.01",
    )
    assert (row["reported_percent"], row["reported_source"]) == ("93.0", "A")
    assert (float(row["value_percent"]), row["n"]) == (pytest.approx(93), "3")
    assert len(row["group_id"]) == 12


def test_timings_have_timms_names_and_units(committed):
    """Samples per second, milliseconds per step and the batch agree with each other."""
    rows = list(csv.DictReader(write.comma_separated(kernels(committed)).splitlines()))
    assert list(rows[0])[:4] == [
        "model",
        "infer_samples_per_sec",
        "infer_step_time_ms",
        "infer_batch_size",
    ]
    for row in rows:
        rate = 1000 * int(row["infer_batch_size"]) / float(row["infer_step_time_ms"])
        assert float(row["infer_samples_per_sec"]) == pytest.approx(rate, abs=0.01)


def test_each_score_of_a_task_has_its_own_row_and_source(tmp_path):
    """An overlap never stands beside an accuracy."""
    _run(
        tmp_path,
        data="shapenet_part",
        model="pointnet_part_seg",
        score="instance_miou",
        **{"test/instance_miou": 0.8, "test/class_miou": 0.7},
    )
    place = {"dataset": "shapenet_part", "model": "pointnet_part_seg"}
    _ledger(
        tmp_path,
        place | {"metric": "instance_miou", "value": "0.83"},
        place | {"metric": "class_miou", "value": "0.75"},
    )
    rows = _cells(pointnet(load.load(tmp_path)), "score", "reported", "value")
    assert rows == [
        ("top-1 %", "—", "93.00"),
        ("instance mIoU %", "83 [1]", "80.00"),
        ("class mIoU %", "75 [1]", "70.00"),
    ]


def test_forecasts_of_other_data_stand_apart(tmp_path):
    """The published errors are in rows without ours, whatever the data is called."""
    _run(tmp_path, data="electricity", model="ts_transformer", score="mse", **{"test/mse": 0.2})
    _ledger(
        tmp_path,
        {
            "dataset": "electricity",
            "model": "ts_transformer",
            "metric": "mse_standardised",
            "value": "0.235",
        },
    )
    assert _cells(time_series(load.load(tmp_path)), "reported", "value") == [
        ("0.235 [1]", "—"),
        ("—", "0.2000"),
    ]


def test_the_microcontroller_table_says_what_is_unknown(tmp_path):
    """Both published rows are there, without a number that nobody could read."""
    _run(tmp_path, "bwn", data="mnist", model="mlp(bias=False, hidden=[128])", top1=0.95)
    table = microcontroller(load.load(tmp_path))
    assert _cells(table, "binarizer", "reported", "value", "stored_bytes", "frames_per_s") == [
        ("BWN", "—", "95.00", "300", "—"),
        ("TBN-4", "—", "—", "—", "—"),
    ]


def test_kernels_show_the_fastest_exact_implementation(root):
    """A lossy, a cold and an unavailable one are never the fastest.

    The process's memory is in MiB.
    """
    blank = {
        "binarizer": "tbn(p=4)",
        "run_id": None,
        "weight_bytes": 10,
        "unavailable": None,
        "n": 31,
        "ratio": 2.0,
        "tolerance": 1e-5,
        "time_ms_p20": 1.0,
        "time_ms_p80": 3.0,
        "memory_peak": 2**21,
    }
    rows = [
        blank | {"implementation": "exact", "time_ms_p50": 2.0},
        blank | {"implementation": "slow", "time_ms_p50": 2.5},
        blank | {"implementation": "int8", "time_ms_p50": 1.0, "tolerance": 0.05},
        blank | {"implementation": "gone", "time_ms_p50": None, "unavailable": "no"},
    ]
    info = {
        "data": None,
        "model": "linear",
        "sweep": None,
        "batch": 1,
        "threads": 1,
        "cache": "hot",
        "baseline": "dense",
    }
    RunStore(root).write_latency(
        LatencyRecord("op-linear-b1-t1", "cpu", rows, info, {"command": "c", "commit": "c0ffee"})
    )
    assert _cells(
        kernels(load.load(root)), "implementation", "time_ms_p50", "process_peak_mib"
    ) == [("exact", "2.000 (1.000 to 3.000)", "2.00")]


def test_gpu_memory_of_ours_is_that_of_the_smallest_implementation(root):
    """In MiB, beside what is published; nothing measured is an em dash and the note says so."""
    table = gpu_memory(load.load(root))
    assert table is None or "Ours was not run" in table.note
    blank = {
        "binarizer": "tbn(p=4)",
        "run_id": None,
        "weight_bytes": 10,
        "unavailable": None,
        "time_ms_p50": 1.0,
    }
    rows = [
        blank
        | {"implementation": "tile reuse", "gpu_resting_bytes": 2**23, "gpu_peak_bytes": 2**24},
        blank
        | {
            "implementation": "triton, CUDA graph",
            "gpu_resting_bytes": 2**20,
            "gpu_peak_bytes": 3 * 2**20,
        },
        blank | {"implementation": "untold"},
    ]
    info = {"data": "digits", "model": "vit", "sweep": None, "batch": 1}
    RunStore(root).write_latency(
        LatencyRecord("vit-b1", "h200", rows, info, {"command": "c", "commit": "c0ffee"})
    )
    table = gpu_memory(load.load(root))
    assert "not run" not in table.note
    assert ("TBN-4", "3.00", "1.00", "triton") in _cells(
        table, "binarizer", "ours", "ours_resting", "implementation"
    )


def test_the_parts_of_stored_bits_add_up(committed):
    """Signs, scales, codebooks, float weights, the rest and the padding are 8 times the bytes of
    the file.
    """
    rows = bits(committed).rows
    assert len(rows) > 50
    keys = ("tile_bits", "alpha_bits", "codebook_bits", "float_bits", "side_bits", "padding_bits")
    assert all(sum(row[key] for key in keys) == 8 * row["stored_bytes"] for row in rows)


@pytest.mark.parametrize(
    "table", [*OURS, microcontroller, gpu_memory, kernels, bits], ids=lambda table: table.__name__
)
def test_no_number_without_a_run_or_a_source(committed, table):
    """Every value of ours comes from runs that are recorded, every reported one from a numbered
    source that is listed and used.
    """
    built = table(committed)
    runs = set(committed.runs["run_id"])
    assert set(built.run_ids) <= runs
    for row in built.rows:
        assert row.get("value") is None or set(row["run_ids"]) & runs
    keys = (
        "reported",
        "also_reported",
        "reported_bits_per_weight",
        "gpu_peak_MiB",
        "gpu_resting_MiB",
    )
    cells = [
        row[key] for row in built.rows for key in keys if row.get(key) not in (None, "1", "2", "32")
    ]  # whole bit widths are definitions
    assert all(re.fullmatch(r"([\d.]+[†‡]* (\[\d+\])+(, )?)+", cell) for cell in cells)
    assert {int(n) for cell in cells for n in re.findall(r"\[(\d+)\]", cell)} == set(
        range(1, len(built.sources) + 1)
    )


def test_nothing_remembered_is_in_the_ledger(committed):
    """Numbers that were not read in a source are left out, not marked."""
    lines = committed.published.to_dict("records")
    assert not [
        line
        for line in lines
        if re.search("remember|from memory", f"{line['source']} {line['note']}", re.I)
    ]
