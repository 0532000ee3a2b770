"""Guards the table and the figure of faults, from two records by hand."""

from types import SimpleNamespace

import pytest

from tbn_bench.records.robustness import RobustnessRecord, records, write
from tbn_bench.reporting import build, panels
from tbn_bench.reporting import write as written
from tbn_bench.reporting.figures import robustness as figure
from tbn_bench.reporting.tables.robustness import robustness


def row(fault, top1, half=0.01, **values):
    same = {"code": None, "rate": None, "severity": None, "samples": 50, "drop": 0.9 - top1}
    return same | {"fault": fault, "top1": top1, "low": top1 - half, "high": top1 + half} | values


def record(binarizer, seed=0):
    rows = [row("bits", 0.9 - rate, rate=rate, draws=20) for rate in (1e-3, 1e-2)]
    rows.append(row("bits", 0.9, rate=1e-2, draws=20, code="hamming", bits_per_weight=0.35))
    rows += [row("jpeg", 0.9 - severity / 10, severity=severity) for severity in (1, 3)]
    info = {
        "data": "cifar10",
        "model": "airbench",
        "binarizer": binarizer,
        "seed": seed,
        "top1": 0.9,
        "test_samples": 1000,
        "draw_seed": 0,
        "weights": 10,
        "bits_per_weight": 0.3,
        "fault_bits": 3,
        "scale_bits": 32,
    }
    run_id = f"{binarizer[:3]}{seed}"
    return RobustnessRecord("s", run_id, rows, info, {"command": "tbn-bench robustness s"})


class Records(SimpleNamespace):
    __hash__ = object.__hash__


@pytest.fixture
def two():
    return Records(robustness=[record("tbn(p=4)"), record("bwn")])


def test_cells_are_by_hand(two):
    """A fault has its rate's accuracy, a corruption the mean of its severities."""
    binary, tiled = robustness(two).rows
    assert (binary["method"], tiled["method"]) == ("BWN", "TBN-4")
    assert tiled["bits_0.01_percent"] == pytest.approx(89.0)
    assert tiled["bits_0.01_points"] == pytest.approx(1.0)
    assert tiled["bits_hamming_0.01_percent"] == pytest.approx(90.0)
    assert tiled["code_bits_per_weight"] == 0.35
    assert tiled["jpeg_percent"] == pytest.approx(70.0)
    assert tiled["scales_0.0001_percent"] is None


def test_the_table_shows_intervals_and_dashes(two):
    text = written.markdown(robustness(two))
    assert "#### CIFAR-10, airbench" in text
    line = "| TBN-4 | 0.300 | 0.350 | 90.00 | — | 89.90 ± 1.00 | 89.00 ± 1.00 | 90.00 ± 1.00 |"
    assert line in text


def test_seeds_are_named_where_there_are_several():
    several = Records(robustness=[record("bwn", 1), record("bwn", 0), record("tbn(p=4)")])
    shown = [row["method"] for row in robustness(several).rows]
    assert shown == ["BWN, seed 0", "BWN, seed 1", "TBN-4"]


def test_a_panel_per_kind_of_fault(two):
    """Print and page draw the same panels; rates are on a logarithmic axis, severities not."""
    data = figure.frame(two)
    titles = list(data["panel"].unique())
    assert [title.partition(": ")[2] for title in titles] == [
        "stored bits",
        "stored bits, Hamming code",
        "JPEG",
    ]
    drawn = build.specification(figure, two)
    kinds = [panel["layer"][0]["encoding"]["x"]["scale"].get("type") for panel in drawn["concat"]]
    assert kinds == ["log", "log", None]
    names = [panel["data"]["name"] for panel in drawn["concat"]]
    assert len(set(names)) == 3
    assert set(names) == set(drawn["datasets"])
    _, panel = list(panels.sheets(data))[-1]
    assert figure.print_panel(panel, width=3.3).axes[0].get_xscale() == "linear"


def test_nothing_without_records():
    empty = Records(robustness=[])
    assert robustness(empty) is None
    assert figure.frame(empty).empty
    assert figure.chart(empty) is None


def test_a_record_is_read_as_it_was_written(tmp_path):
    made = record("bwn")
    write(tmp_path, made)
    assert records(tmp_path) == [made]
