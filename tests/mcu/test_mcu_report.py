"""Guards what the report says of simulated microcontrollers: numbers and ratios, what is unknown, what is damaged, theirs apart from ours."""

import csv
import json
from pathlib import Path

import pytest

from tbn_bench.config import make
from tbn_bench.records.store import McuRecord, RunStore
from tbn_bench.reporting import build, protocol, published, watch, write
from tbn_bench.reporting.figures import accuracy_flash
from tbn_bench.reporting.load import load
from tbn_bench.reporting.tables.mcu import mcu
from tbn_bench.reporting.tables.microcontroller import microcontroller

ROOT = Path(__file__).parents[2]
MLP = "mlp(bias=False, hidden=[128])"
INFO = {
    "run_id": "0" * 12, "sweep": "mnist_mcu", "data": "mnist(normalise=False)", "model": MLP, "binarizer": "tbn(p=4)", "activations": "u8",
    "target": "m4", "core": "m4", "compiler": "gcc 12", "optimize": "-O2", "simulator": "QEMU 7", "sim": "qemu", "table_bytes": 3380,
    "flash_bytes": 6188, "arena_bytes": 1040, "stack_bytes": 168, "ram_bytes": 1208, "unit": "instructions", "count": 25_000.0, "clock_hz": 64e6,
    "frames_per_s_estimate": 2560.0, "vectors": 4, "test_samples": 10_000, "computed_by": "C on this machine", "top1_c": 0.9525,
    "top1_torch": 0.9526, "agreement": 0.9996, "fused_multiply_add": False,
}  # fmt: skip
SOURCE = {"command": "tbn-bench mcu run", "commit": "c0ffee", "dirty": False}
LEDGER = ",".join(published.COLUMNS) + "\n" + "".join(
    f"lib,,{data},{model},4,{bits},{metric},{value},false,README of lib,\n"
    for data, model, bits, metric, value in (
        ("mnist(size=16)", "FC small", 8, "top1", 0.99), ("mnist(size=16)", "FC small", 8, "stored_kB", 12.5), ("mnist(size=16)", "FC small", 8, "time_ms", 11),
        ("mnist(size=16)", "CNN", 8, "top1", 0.98), ("cifar10", "CNN", 8, "top1", 0.9), ("cifar10", "CNN", 8, "stored_kB", 3),
        ("mnist", "CNN", 32, "top1", 0.9), ("mnist", "CNN", 32, "stored_kB", 3),
    )
)  # fmt: skip


def add(root, case="", device="m4-gcc-O2", **info):
    """One record; a case of its own for every method, activations and core."""
    found = INFO | info
    case = case or f"{found['run_id']}-{found['binarizer']}-{found['activations']}"
    RunStore(root).write_mcu(McuRecord(case, device, found, SOURCE))


def ledger(root):
    (root / "published").mkdir(exist_ok=True)
    (root / "published" / "lib.csv").write_text(LEDGER)


def cells(table, *keys):
    columns = {c.key: c for c in table.columns}
    return [tuple(columns[key].show(row) for key in keys) for row in table.rows]


def test_a_row_has_the_record_s_numbers_and_where_they_are_from(tmp_path):
    """Bytes, shares in percent, count and estimate; the CSV has command, commit and versions of each."""
    add(tmp_path)
    table = mcu(load(tmp_path))
    keys = (
        "top1_c",
        "top1_torch",
        "agreement",
        "table_bytes",
        "flash_bytes",
        "arena_bytes",
        "stack_bytes",
        "count",
        "frames_per_s_estimate",
    )
    assert cells(table, *keys) == [
        ("95.25", "95.26", "99.96", "3,380", "6,188", "1,040", "168", "25,000", "2,560.0")
    ]
    assert cells(table, "device") == [("m4-gcc-O2, qemu",)]
    assert "frames/s, estimate" in [c.header for c in table.columns]
    for said in (
        "Nothing ran on a board",
        "QEMU 7",
        "4 test samples",
        "10,000 test samples (C on this machine)",
        "is an estimate: counted instructions at 64 MHz",
    ):
        assert said in table.note
    (row,) = csv.DictReader(write.comma_separated(table).splitlines())
    assert (row["command"], row["commit"], row["dirty"], row["compiler"], row["run_id"]) == (
        "tbn-bench mcu run",
        "c0ffee",
        "False",
        "gcc 12",
        "0" * 12,
    )
    assert (table.run_ids, table.commands) == (["0" * 12], ["tbn-bench mcu run"])


def test_ratios_are_of_the_same_network_core_and_compiler(tmp_path):
    """100 of bwn and 150 of float32 over 25 thousand are 4 and 6; the binary network in f32, of -Os or on other data is none of them."""
    add(tmp_path)
    add(tmp_path, binarizer="bwn", count=100_000.0)
    add(tmp_path, binarizer="bwn", activations="f32", count=200_000.0)
    add(
        tmp_path,
        binarizer="full_precision",
        activations="f32",
        count=150_000.0,
        fused_multiply_add=True,
    )
    add(tmp_path, device="m4-gcc-Os", binarizer="bwn", count=1.0)
    add(tmp_path, data="mnist", binarizer="bwn", count=1.0, run_id="1" * 12)
    table = mcu(load(tmp_path))
    found = dict(
        zip(
            cells(table, "data", "device", "binarizer", "activations"),
            cells(table, "times_binary", "times_full"),
            strict=True,
        )
    )
    here = ("mnist(normalise=False)", "m4-gcc-O2, qemu")
    assert found[*here, "TBN-4", "u8"] == ("4.00", "6.00")
    assert found[*here, "BWN", "u8"] == ("1.00", "1.50")
    assert found[*here, "FP32", "f32"] == ("1.33", "1.00")
    assert found["mnist", "m4-gcc-O2, qemu", "BWN", "u8"] == ("1.00", "—")
    assert "fused multiply-adds" in table.note


def test_what_was_not_measured_is_an_em_dash(tmp_path):
    """No simulator: no count, stack, rate or ratio; nothing is made up in their place."""
    add(
        tmp_path,
        count=None,
        unit=None,
        stack_bytes=None,
        ram_bytes=None,
        frames_per_s_estimate=None,
        clock_hz=None,
        top1_c=None,
    )
    add(tmp_path, binarizer="bwn")
    keys = (
        "binarizer",
        "top1_c",
        "table_bytes",
        "stack_bytes",
        "count",
        "frames_per_s_estimate",
        "times_binary",
        "times_full",
    )
    table = mcu(load(tmp_path))
    assert cells(table, *keys)[1] == ("TBN-4", "—", "3,380", "—", "—", "—", "—", "—")
    assert "—" not in " ".join(cells(table, "count", "times_binary")[0])


def test_cycles_say_so(tmp_path):
    """Of an Uno, whose simulator counts cycles; its code is named where it is not of the core."""
    add(
        tmp_path,
        device="uno-gcc-Os",
        core="uno",
        target="avr",
        sim="simavr",
        unit="cycles",
        clock_hz=16e6,
    )
    add(tmp_path, device="m0-gcc-O2", core="m0", target="generic", clock_hz=16e6)
    table = mcu(load(tmp_path))
    assert cells(table, "device", "count") == [
        ("m0-gcc-O2, qemu, generic code", "25,000"),
        ("uno-gcc-Os, simavr", "25,000 cycles"),
    ]
    assert (
        "counted instructions at 16 MHz, one cycle each or simulated cycles at 16 MHz" in table.note
    )


def test_damaged_records_are_named_and_the_others_kept(tmp_path):
    """Half a file, one without names, one with text for a number, one whose method is none."""
    add(tmp_path)
    add(tmp_path, "nameless", model=None, core=None)
    add(tmp_path, "text", count="many")
    add(tmp_path, "call", binarizer="bwn(")
    RunStore(tmp_path).write_mcu(McuRecord("list", "m4-gcc-O2", [], SOURCE))
    (tmp_path / "mcu" / "m4-gcc-O2" / "half.json").write_text('{"case": ')
    records = load(tmp_path)
    assert len(mcu(records).rows) == 1
    said = {
        Path(problem.split(".json")[0]).name.removeprefix("cannot read "): problem
        for problem in records.problems
    }
    assert set(said) == {"nameless", "text", "call", "list", "half"}
    assert "info lacks model, core" in said["nameless"]
    assert "numbers for count" in said["text"]
    assert "got 'bwn('" in said["call"]


def test_nothing_recorded_is_no_row(tmp_path):
    """Neither a table nor a figure, also where others published."""
    config = make({"binarizer": "bwn", "data": "digits"})
    run = RunStore(tmp_path).claim(
        "s", config.run_id, config.model_dump(mode="json"), {"commit": "c0ffee", "dirty": False}
    )
    run.finish(
        {
            "test/top1": 0.9,
            "track": "W1A32",
            "bits_per_weight": 1.0,
            "stored_bytes": 10,
            "weights": 80,
        }
    )
    ledger(tmp_path)
    records = load(tmp_path)
    assert mcu(records) is None
    assert accuracy_flash.frame(records).empty
    assert accuracy_flash.chart(records) is None


def test_published_networks_stand_hollow_with_their_source(tmp_path):
    """Those with a size and an accuracy, of the same data at any resolution, whose activations are as wide; ours are filled."""
    ledger(tmp_path)
    add(tmp_path)
    add(tmp_path, device="m3-gcc-O2", core="m3")  # the same tables on another core: one mark
    add(tmp_path, activations="f32")
    records = load(tmp_path)
    data = accuracy_flash.frame(records)
    eight = data[data["panel"].str.endswith("u8 activations")]
    (hollow,) = eight[eight["published"]].to_dict("records")
    assert (hollow["x"], hollow["y"], hollow["label"]) == (
        12.5,
        pytest.approx(99),
        "lib FC, published",
    )
    assert hollow["runs"].startswith("README of lib: FC small")
    (own,) = eight[~eight["published"].astype(bool)].to_dict("records")
    assert (own["x"], own["y"]) == (pytest.approx(3380 / 1024), pytest.approx(95.25))
    assert "6,188 B of flash" in own["runs"]
    (wide,) = data[data["panel"].str.endswith("f32 activations") & data["published"]].to_dict(
        "records"
    )
    assert wide["runs"].startswith("README of lib: CNN")
    assert protocol.origins(data, records) == (["0" * 12], sorted({hollow["runs"], wide["runs"]}))
    figure = accuracy_flash.print_panel(eight, width=3.3)
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("_", "|")]
    assert "none" in {line.get_markerfacecolor() for line in lines}


def test_the_published_table_has_the_device_s_columns(tmp_path):
    """Of the Cortex-M4 by gcc with u8, the fewest instructions; beside the run of the same id, or alone without one. Theirs in rows of their own."""
    config = make({"binarizer": "bwn", "data": "mnist(normalise=False)", "model": MLP})
    run = RunStore(tmp_path).claim(
        "s", config.run_id, config.model_dump(mode="json"), {"commit": "c0ffee", "dirty": False}
    )
    run.finish(
        {
            "test/top1": 0.96,
            "track": "W1A32",
            "bits_per_weight": 1.0,
            "stored_bytes": 12_712,
            "weights": 101_632,
        }
    )
    ledger(tmp_path)
    add(
        tmp_path,
        run_id=config.run_id,
        binarizer="bwn",
        ram_bytes=1300,
        flash_bytes=15_400,
        frames_per_s_estimate=650.0,
    )
    add(tmp_path, device="m4-gcc-O3", count=20_000.0, ram_bytes=1250, frames_per_s_estimate=3200.0)
    add(tmp_path)
    for other in (
        {"device": "m3-gcc-O2", "core": "m3"},
        {"device": "m4-clang-O2"},
        {"activations": "f32"},
        {"model": "micro_cnn"},
    ):
        add(tmp_path, **other, count=1.0, frames_per_s_estimate=64e6, case=str(len(str(other))))
    table = microcontroller(load(tmp_path))
    keys = (
        "binarizer",
        "reported",
        "reported_kB",
        "reported_ms",
        "value",
        "top1_c",
        "flash_bytes",
        "peak_bytes",
        "frames_per_s",
    )
    assert cells(table, *keys) == [
        ("BWN", "—", "—", "—", "96.00", "95.25", "15,400", "1,300", "650.0"),
        ("TBN-4", "—", "—", "—", "—", "95.25", "6,188", "1,250", "3,200.0"),
        ("lib", "99 [1]", "12.5 [1]", "11 [1]", "—", "—", "—", "—", "—"),
        ("lib", "98 [1]", "—", "—", "—", "—", "—", "—", "—"),
        ("lib", "90 [1]", "3 [1]", "—", "—", "—", "—", "—", "—"),
    ]
    assert table.sources == ["README of lib"]
    assert "Nothing of ours ran on a board" in table.note
    assert "is an estimate" in table.note


def test_a_folder_of_such_records_alone_makes_a_report(tmp_path):
    """Table, figure, sidecars and page; measurements whose training is not here, or whose files were changed, are flagged."""
    results, out = tmp_path / "results", tmp_path / "out"
    add(results)
    RunStore(results).write_mcu(
        McuRecord("changed", "m4-gcc-O2", INFO | {"binarizer": "bwn"}, SOURCE | {"dirty": True})
    )
    build.report(results, out)
    for kind, name in (("tables", "mcu"), ("figures", "accuracy_flash")):
        sidecar = json.loads((out / kind / f"{name}.json").read_text())
        assert (sidecar["run_ids"], sidecar["commands"], sidecar["commits"]) == (
            ["0" * 12],
            ["tbn-bench mcu run"],
            ["c0ffee"],
        )
        assert sidecar["from_changed_files"] == ["0" * 12]
        assert len(sidecar["flags"]) == 2
    page = (out / "index.html").read_text()
    assert 'id="mcu"' in page
    assert 'id="figure-accuracy_flash"' in page
    assert any("mcu" in path for path in watch.stamp(results))


def test_the_committed_ledger_has_networks_of_microcontrollers():
    """With size, accuracy and an address, and none of them counts as MNIST at our resolution."""
    problems: list[str] = []
    lines = published.read(ROOT / "results", problems)
    found = published.networks(lines, "mnist(normalise=False)", 8)
    assert problems == []
    assert {(n["model"], n["top1"], n[published.FLASH]) for n in found} >= {
        ("FC 12k 4Bitsym", 0.9902, 12.3), ("FC 1k 2Bitsym", 0.9422, 1.1), ("CNN 16-wide, small fc", 0.9892, 3.2),
    }  # fmt: skip
    assert all(
        n["source"].startswith("https://") and n["dataset"] == "mnist(size=16)" for n in found
    )
    assert not published.is_same("mnist(size=16)", "mnist(normalise=False)", True)
