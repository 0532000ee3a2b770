import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tbn_bench.config import make
from tbn_bench.records import LatencyRecord, RunStore
from tbn_bench.reporting import build, load, stats, style, write
from tbn_bench.reporting.tables.comparison import comparison

SPECS = ("full_precision", "tbn(p=4)", "tbn(p=8)")


def _summary(top1: float, bits: float) -> dict:
    return {"test/top1": top1, "bits_per_weight": bits, "stored_bytes": int(1000 * bits), "stored_bits": int(8000 * bits), "weights": 8000,
            "best_epoch": 1, "test_samples": 10}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    """Three methods over two seeds; the second seed of tbn(p=8) diverged."""
    store = RunStore(tmp_path / "results")
    for spec, bits in zip(SPECS, (32.0, 0.25, 0.125), strict=True):
        for seed in (0, 1):
            config = make({"binarizer": spec, "seed": seed})
            run = store.claim(
                "s", config.run_id, config.model_dump(mode="json"), {"commit": "c0ffee", "dirty": False, "hardware": {}}
            )
            for epoch in range(3):
                run.log({"epoch": epoch, "val/top1": 0.5 + 0.1 * epoch + 0.01 * seed})
            if spec == "tbn(p=8)" and seed == 1:
                run.fail("diverged", "DivergedError: loss became nan")
            else:
                run.finish(_summary(0.9 + 0.02 * seed, bits))
    first = make({"binarizer": "tbn(p=4)"}).run_id
    row = {"binarizer": "tbn(p=4)", "implementation": "tile reuse", "run_id": first, "weight_bytes": 10, "unavailable": None,
           "relative_error": 1e-7, "time_ms_p20": 1.0, "time_ms_p50": 2.0, "time_ms_p80": 3.0, "n": 31, "ratio": 1.5,
           "ratio_p20": 1.4, "ratio_p80": 1.6}  # fmt: skip
    gone = {
        "binarizer": "tbn(p=4)",
        "implementation": "torch.compile",
        "run_id": first,
        "weight_bytes": 10,
        "unavailable": "no compiler",
    }
    info = {
        "data": "digits",
        "model": "mlp",
        "sweep": "s",
        "batch": 1,
        "threads": 1,
        "clock": "thread CPU time",
        "baseline": "dense",
    }
    store.write_latency(
        LatencyRecord("mlp-digits-b1-t1", "cpu", [row, gone], info, {"command": "tbn-bench latency", "commit": "c0ffee"})
    )
    return tmp_path / "results"


def test_t_interval_agrees_with_scipy():
    """The half width is Student's, and one value has none."""
    x = np.random.default_rng(0).normal(size=5)
    low, high = scipy_stats.t.interval(0.95, 4, loc=x.mean(), scale=scipy_stats.sem(x))
    got = stats.t_interval(x.tolist())
    assert got.half == pytest.approx((high - low) / 2)
    assert got.mean == pytest.approx((high + low) / 2)
    assert stats.t_interval([0.5]) == stats.Interval(0.5, None, 1)
    with pytest.raises(ValueError, match="finite"):
        stats.t_interval([1.0, float("nan")])


def test_comparison_holds_the_recorded_numbers(results):
    """Mean and n come from finished runs only; what was not measured is an em dash in every format."""
    table = comparison(load.load(results))
    by_method = {row["binarizer"]: row for row in table.rows}
    assert by_method["tbn(p=4)"]["top1"] == pytest.approx(0.91)
    assert (by_method["tbn(p=4)"]["n"], by_method["tbn(p=8)"]["n"]) == (2, 1)
    assert by_method["tbn(p=4)"]["time_ms_p50_b1"] == 2.0
    text = write.markdown(table)
    row = next(line for line in text.splitlines() if "tbn(p=8)" in line)
    assert "90.00 |" in row
    assert "±" not in row
    assert row.count("—") == 2
    raw = list(csv.DictReader(write.comma_separated(table).splitlines()))
    assert raw[2]["time_ms_p50_b1"] == "—"
    assert "---" in write.latex(table)


def test_the_page_is_whole_and_asks_for_nothing(results, tmp_path):
    """One file: no address is fetched, every run id and its command are on it, unfinished runs say why."""
    out = tmp_path / "out"
    done = build.report(results, out)
    page = (out / "index.html").read_text()
    assert done["finished"] == 5
    outside_scripts = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert "<script src" not in page
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", outside_scripts)
    for spec in SPECS:
        assert make({"binarizer": spec}).run_id in page
    assert "DivergedError: loss became nan" in page
    assert "no compiler" in page
    assert {p.suffix for p in (out / "figures").glob("accuracy_bits.*")} == {".svg", ".pdf", ".png", ".json"}
    side = json.loads((out / "tables" / "comparison.json").read_text())
    assert side["commits"] == ["c0ffee"]
    assert len(side["run_ids"]) == 5


def test_figures_are_byte_identical_twice(results, tmp_path):
    """The same records give the same files."""
    build.report(results, tmp_path / "a")
    build.report(results, tmp_path / "b")
    for a in sorted((tmp_path / "a" / "figures").iterdir()):
        assert a.read_bytes() == (tmp_path / "b" / "figures" / a.name).read_bytes(), a.name


def test_damaged_records_are_named_and_the_rest_is_shown(results, tmp_path, capsys):
    """A half-written record costs its own row only."""
    broken = next((results / "runs" / "s").iterdir())
    (broken / "run.json").write_text('{"schema_version": 1, "run_')
    done = build.report(results, tmp_path / "out")
    assert (done["unreadable"], done["runs"]) == (1, 5)
    assert str(broken) in capsys.readouterr().out


def test_no_records_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="tbn-bench sweep"):
        load.load(tmp_path)


def test_labels_drop_only_what_all_variants_share():
    """Two methods never get one label; p is always shown."""
    shared = style.labels(["tbn(min_layer_size=10, p=4)", "tbn(min_layer_size=10, p=8)", "bwn"])
    assert list(shared.values()) == ["bwn", "tbn(p=4)", "tbn(p=8)"]
    mixed = style.labels(["tbn(min_layer_size=10, p=4)", "tbn(p=4)"])
    assert len(set(mixed.values())) == 2


def test_reports_need_no_torch():
    """The wing imports records, config and catalogue only."""
    code = (
        "import sys, tbn_bench.reporting.build; print([m for m in ('torch', 'pytorch_lightning', 'wandb') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert out.stdout.strip() == "[]"


def test_latex_special_characters_are_escaped():
    table = write.Table("T", [write.column("a", "a_b %", numeric=False)], [{"a": "x_1 & 50% ± 2"}, {"a": None}])
    text = write.latex(table)
    assert r"x\_1 \& 50\% $\pm$ 2 \\" in text
    assert "---" in text
