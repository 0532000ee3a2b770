"""Guards the figures: every mark comes from a run or a cited source, twice drawn is the same file,
and what is computed is right by hand.
"""

import dataclasses
import importlib
import io
import pkgutil

import altair
import numpy as np
import pandas as pd
import pytest

from tbn_bench.config import make
from tbn_bench.records.robustness import RobustnessRecord
from tbn_bench.records.robustness import write as write_faults
from tbn_bench.records.store import LatencyRecord, McuRecord, RunStore
from tbn_bench.reporting import build, ceilings, figures, protocol, style
from tbn_bench.reporting.figures import (
    _published,
    _searched,
    accuracy_bits,
    accuracy_p,
    latency_p,
    memory,
    parameter_share,
    sweep_contour,
    sweep_importance,
)
from tbn_bench.reporting.groups import groups
from tbn_bench.reporting.load import load
from tbn_bench.reporting.tables import limits

LEDGER = (
    "method,spec,dataset,model,weight_bits,activation_bits,metric,value,second_hand,source,note\n"
    + "".join(
        f"tbn,{spec},digits,resnet_cifar(depth=8),{bits},32,top1,{value},false,log of the authors,\n"
        for spec, bits, value in (
            ("tbn(p=4)", 0.25, 0.9),
            ("tbn(p=8)", 0.125, 0.8),
            ("\"tbn(p=8, alpha='layer')\"", 0.125, 0.7),
        )
    )
)
PLAN = [
    {
        "name": "conv.weight",
        "shape": [8, 8, 3, 3],
        "numel": 576,
        "binarized": True,
        "stored_bits": 144,
    },
    {
        "name": "point.weight",
        "shape": [8, 8, 1, 1],
        "numel": 64,
        "binarized": False,
        "stored_bits": 2048,
    },
    {"name": "fc.weight", "shape": [10, 8], "numel": 80, "binarized": True, "stored_bits": 20},
]
CEILINGS = {"lookup_gmacs": 100.0, "read_gb_s": {"0.25 MB": 100.0, "8 MB": 50.0}}


def finish(store, top1, sweep="s", **values):
    config = make({"data": "digits", "model": "resnet_cifar(depth=8)", "epochs": 3, **values})
    track = "W32A32" if config.binarizer == "full_precision" else "W1A32"
    run = store.claim(
        sweep,
        config.run_id,
        config.model_dump(mode="json"),
        {"commit": "c0ffee", "dirty": False, "track": track},
    )
    for epoch in range(3):
        run.log({"epoch": epoch, "val/top1": top1, "tile/flip_rate": 0.1, "tile/near_zero": 0.02})
    run.finish(
        {
            "test/top1": top1,
            "bits_per_weight": 0.3,
            "stored_bytes": 100,
            "weights": 720,
            "plan": PLAN,
        }
    )
    return config.run_id


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Two seeds of four methods, timed and simulated, of two of them in another sweep too.

    A random sweep of twelve; published values of the same network.
    """
    root = tmp_path_factory.mktemp("results")
    store, rng = RunStore(root), np.random.default_rng(0)
    ids = {
        m: min(finish(store, 0.9 + 0.01 * seed, binarizer=m, seed=seed) for seed in (0, 1))
        for m in ("full_precision", "bwn", "tbn(p=4)", "tbn(p=8)")
    }
    for binarizer, seed in ((b, s) for b in ("full_precision", "bwn") for s in (0, 1)):
        finish(store, 0.8 + 0.01 * seed, "again", binarizer=binarizer, seed=seed)
    for n in range(12):
        lr, decay = 10 ** rng.uniform(-4, 0), rng.uniform(0, 0.1)
        finish(
            store,
            0.5 + 0.1 * np.log10(lr) / 4,
            "search",
            lr=lr,
            weight_decay=decay,
            batch_size=int(rng.choice([16, 64])),
            seed=n,
        )
    rows = [
        {
            "binarizer": m,
            "implementation": "dense" if m == "full_precision" else "native avx512",
            "run_id": run_id,
            "time_ms_p20": 0.9,
            "time_ms_p50": ms,
            "time_ms_p80": 3.0,
            "n": 9,
            "tolerance": 1e-5,
            "weight_bytes": 4_000_000,
            "memory_peak": 5_000_000,
            "tile_macs": 100_000_000,
        }
        for (m, run_id), ms in zip(ids.items(), (2.8, 2.0, 1.5, 1.0), strict=True)
    ]
    info = {
        "data": "digits",
        "model": "resnet_cifar(depth=8)",
        "batch": 64,
        "threads": 1,
        "cache": "hot",
        "ceilings": CEILINGS,
    }
    store.write_latency(
        LatencyRecord(
            "resnet-b64", "cpu", rows, info, {"command": "tbn-bench latency", "commit": "c0ffee"}
        )
    )
    library = {
        "data": "digits",
        "model": "resnet_cifar(depth=8)",
        "activations": "u8",
        "target": "m4",
        "core": "m4",
        "sim": "qemu",
    }
    for m, run_id in ids.items():
        info = library | {"binarizer": m, "run_id": run_id, "table_bytes": 1000, "top1_c": 0.9}
        store.write_mcu(
            McuRecord(
                f"{run_id}-u8",
                "m4-gcc-O2",
                info,
                {"command": "tbn-bench mcu run", "commit": "c0ffee", "dirty": False},
            )
        )
    for m, run_id in ids.items():
        fault = {"fault": "bits", "code": None, "severity": None, "samples": 50, "draws": 20}
        rows = []
        for rate in (1e-3, 1e-2):
            scores = {"top1": 0.9 - rate, "low": 0.88, "high": 0.91, "drop": rate}
            rows.append(fault | scores | {"rate": rate})
        info = {"data": "digits", "model": "resnet_cifar(depth=8)", "binarizer": m, "seed": 0}
        sizes = {"weights": 10, "bits_per_weight": 0.3, "fault_bits": 3, "scale_bits": 32}
        tested = {"top1": 0.9, "test_samples": 397, "draw_seed": 0}
        command = {"command": "tbn-bench robustness s"}
        faults = RobustnessRecord("s", run_id, rows, info | sizes | tested, command)
        write_faults(root, faults)
    (root / "published").mkdir()
    (root / "published" / "tbn.csv").write_text(LEDGER)
    return load(root)


def modules():
    return [m.name for m in pkgutil.iter_modules(figures.__path__) if not m.name.startswith("_")]


def svg(module, records) -> bytes:
    out = io.BytesIO()
    with style.printing():
        for _, panel in module.frame(records).groupby("panel", sort=False):
            figure = module.print_panel(panel, style.COLUMN_INCHES)
            figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


@pytest.mark.parametrize("name", modules())
def test_a_figure_drawn_twice_is_the_same_file(records, name):
    """From the same records, byte by byte; on the page it is a valid Vega-Lite chart."""
    module = importlib.import_module(f"tbn_bench.reporting.figures.{name}")
    assert svg(module, records) == svg(module, records)
    spec = build.specification(module, records)
    assert altair.Chart.from_dict(spec).to_dict()["$schema"] == spec["$schema"]


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in modules()
        if n not in ("performance_profiles", "training_curves", "sweep_importance")
    ],
)
def test_every_mark_names_its_runs_or_its_source(records, name):
    """No drawn value without a run id, a case or a citation."""
    data = importlib.import_module(f"tbn_bench.reporting.figures.{name}").frame(records)
    known = {*records.runs["run_id"], *records.runs["group_id"]}
    named = data["runs"] if "runs" in data else data["run"]
    assert len(data) > 0
    assert all(
        "log of the authors" in said or any(run_id in said for run_id in known) for said in named
    )


def test_published_values_stand_hollow_beside_ours(records):
    """In the panel of the same data set and model, at their bits, with their source."""
    data = accuracy_bits.frame(records)
    hollow = data[data["published"]]
    assert sorted(set(hollow["y"])) == pytest.approx([70, 80, 90])
    assert set(hollow["panel"]) <= set(data[~data["published"]]["panel"])
    assert all(label.endswith(", published") for label in hollow["label"])


def test_p_of_a_method():
    """Binary weights are p = 1; full precision has none; a list counts as its largest."""
    assert [
        accuracy_p.p_of(s)
        for s in ("bwn", "tbn(p=8)", "full_precision", "tbn(per_layer=[1, 4, 16])")
    ] == [
        1.0,
        8.0,
        None,
        16.0,
    ]
    assert (
        accuracy_p.family("tbn(p=8, copies='shifted')")
        == accuracy_p.family("tbn(copies='shifted', p=4)")
        == "tbn(copies='shifted')"
    )


def test_accuracy_against_p_runs_from_binary_to_tiles(records):
    """bwn at 1, tiles at 4 and 8 on one line, full precision as a level from end to end.

    Variants of an ablation stay out.
    """
    data = accuracy_p.frame(records)
    ours = data[~data["published"]]
    assert sorted(ours[ours["method"] == "TBN"]["x"]) == [4, 8]
    assert sorted(ours[ours["method"] == "FP32"]["x"]) == [1, 8]
    assert list(ours[ours["method"] == "BWN"]["x"]) == [1]
    assert sorted(data[data["published"]]["y"]) == pytest.approx([80, 90])


def test_ceilings_by_hand(records):
    """1e8 multiply-adds x 64 samples / 100 G/s = 64 ms, by two threads half of it.

    4 MB at the rate of the 8 MB block, 50 GB/s, = 0.08 ms.
    """
    data = latency_p.frame(records)
    found = data[data["kind"] == "ceiling"].groupby("method")["y"].first().to_dict()
    assert found == pytest.approx(
        {"arithmetic at the measured peak": 64.0, "weights at memory bandwidth": 0.08}
    )
    assert set(data[data["kind"] == "level"]["y"]) == {2.8}
    assert set(data[data["kind"] == "measured"]["method"]) == {"native"}, (
        "one colour for the native kernels of every machine"
    )
    two = {
        "binarizer": "bwn",
        "tile_macs": 100_000_000,
        "batch": 64,
        "threads": 2,
        "ceilings": CEILINGS,
    }
    assert ceilings.arithmetic_ms(two) == pytest.approx(32)
    matrix = {**two, "ceilings": CEILINGS | {"matrix_gmacs": 400.0}}
    assert ceilings.arithmetic_ms(matrix) == pytest.approx(8)
    dense = {**two, "binarizer": "full_precision", "ceilings": CEILINGS | {"fma_gmacs": 50.0}}
    assert ceilings.arithmetic_ms(dense) == pytest.approx(64)


def test_limits_name_the_larger_bound_and_a_reason_under_half(records):
    """64 ms of multiply-adds against 0.08 ms of reading; BWN was timed at 100 ms, TBN-4 at 200."""
    latency = records.latency.copy()
    times = {"bwn": 100.0, "tbn(p=4)": 200.0}
    latency["time_ms_p50"] = latency["binarizer"].map(times).fillna(latency["time_ms_p50"])
    table = limits.limits(dataclasses.replace(records, latency=latency))
    found = {row["binarizer"]: row for row in table.rows}
    assert found["bwn"]["share"] == pytest.approx(64)
    assert found["bwn"]["bound"] == "multiply-adds"
    assert found["bwn"]["why"] == ""
    assert found["tbn(p=4)"]["share"] == pytest.approx(32)
    assert found["tbn(p=4)"]["why"] == "tables, copies, and dense first and last layers"


def test_memory_is_in_megabytes(records):
    data = memory.frame(records)
    assert set(zip(data["part"], data["mb"], strict=True)) == {
        ("weights", 4.0),
        ("process, peak", 5.0),
    }


def test_parameters_by_type_of_layer(records):
    """576, 64 and 80 of 720 weights.

    Of 2212 stored bits 2048 are those of the layer that was kept.
    """
    data = parameter_share.frame(records).set_index(["share", "type"])["percent"]
    weights, stored = parameter_share._SHARES
    assert [data[weights, kind] for kind in parameter_share.TYPES] == pytest.approx(
        [80, 100 * 64 / 720, 100 * 80 / 720]
    )
    assert data[stored, parameter_share.KEPT] == pytest.approx(100 * 2048 / 2212)
    assert data[stored, "1x1 convolution"] == 0


def test_explained_variance_by_hand():
    """Means 1 and 3 of two groups within 0, 2, 2, 4: eta^2 = 4 / 8, less what two groups explain by
    chance: 1 - 0.5 x 3 / 2. All of it where the
    groups decide; none where nothing varies, nor where every value is a group."""
    values = pd.Series([0.0, 2.0, 2.0, 4.0])
    assert _searched.explained(pd.Series(list("aabb")), values) == pytest.approx(0.25)
    assert _searched.explained(pd.Series(list("abbc")), values) == pytest.approx(1.0)
    assert _searched.explained(pd.Series(list("abcd")), values) == 0.0
    assert _searched.explained(pd.Series(list("aabb")), values * 0) == 0.0


def test_importance_finds_what_moved_the_score(records):
    """The planted score is a function of the learning rate alone.

    A sweep without two varied settings is not shown.
    """
    data = sweep_importance.frame(records)
    assert set(data["panel"]) == {"search, digits: top-1 %"}
    assert data["parameter"].iloc[0] == "lr"
    assert data["percent"].iloc[0] > 80
    contour = sweep_contour.frame(records)
    assert "lr" in {contour["x name"].iloc[0], contour["y name"].iloc[0]}
    assert contour[f"{'x' if contour['x name'].iloc[0] == 'lr' else 'y'} log"].all()


def test_mixed_protocols_and_lost_networks_are_flagged(records, tmp_path):
    """Runs of other test sets in one panel, a timing whose run is not there, and files that were
    changed: a sentence each; else none.
    """
    assert protocol.flags(records) == ()
    runs = records.runs.copy()
    first = runs.index[runs["sweep"] == "s"][0]
    runs["test_samples"] = 100.0
    runs.loc[first, "test_samples"] = 99.0
    runs.loc[first, "dirty"] = True
    said = protocol.flags(
        dataclasses.replace(
            records, runs=runs[runs["run_id"] != records.latency["run_id"].iloc[-1]]
        )
    )
    assert any("one panel has runs of 99, 100 test samples" in line for line in said)
    assert any(line.startswith("1 of ") and "differ from their commit" in line for line in said)
    assert any(line.startswith("resnet-b64: timed network") for line in said)
    assert any(
        line.startswith("networks on simulated microcontrollers without a record") for line in said
    )
    assert len(said) == 4


def test_a_sidecar_names_what_its_figure_draws(records):
    """Run ids of every group that a curve stands for, and the sources of hollow marks.

    Nothing else.
    """
    ids, cited = protocol.origins(accuracy_bits.frame(records), records)
    assert (ids, cited) == (sorted(set(records.runs["run_id"])), ["log of the authors"])
    ids, cited = protocol.origins(latency_p.frame(records), records)
    assert ids == sorted(set(records.latency["run_id"][records.latency["binarizer"] != "x"]))
    assert cited == []
    ids, _ = protocol.origins(sweep_contour.frame(records), records)
    assert set(ids) == set(records.runs[records.runs["sweep"] == "search"]["run_id"])


def test_scatter_figures_lose_no_point_on_the_page(tmp_path):
    """Twenty configurations of one spec in one panel: as many marks on the page as in the frame,
    and no line joins them.
    """
    for n in range(20):
        for binarizer in ("tbn(p=4)", "tbn(p=8)"):
            finish(RunStore(tmp_path), 0.5 + 0.01 * n, binarizer=binarizer, lr=0.001 * (n + 1))
    found = load(tmp_path)
    data = accuracy_bits.frame(found)
    chart = accuracy_bits.chart(found)
    assert len(data) == 40
    assert sum(len(rows) for rows in chart["datasets"].values()) == 40
    joined = accuracy_p.frame(found)
    assert joined.groupby("line").size().max() == 1


def test_published_points_stay_in_their_track(records):
    """A panel of binary activations shows what was published with binary activations, and full
    precision.
    """
    ledger = records.published.copy()
    one = ledger.iloc[0].to_dict()
    extra = [
        one | {"method": "xnor", "spec": "xnor", "activation_bits": 1, "value": 0.5},
        one
        | {
            "method": "full_precision",
            "spec": "full_precision",
            "activation_bits": 32,
            "value": 0.95,
        },
    ]
    ledger = pd.concat([ledger, pd.DataFrame(extra)], ignore_index=True)
    gs = [dataclasses.replace(g, track="W1A1") for g in groups(records) if g.binarizer == "bwn"]
    found = _published.of_panel(dataclasses.replace(records, published=ledger), gs)
    assert [r["method"] for r in found] == ["xnor", "full_precision"]
