"""Results of Python display in notebooks, escaped, and the commands are functions too."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import tbn_bench as tb
from tbn_bench.convert.cost import cost
from tbn_bench.latency import peers, sampling
from tbn_bench.records import notebook
from tbn_bench.records.store import RunStore

TINY = {
    "name": "tiny",
    "method": "grid",
    "parameters": {
        "data": {"value": "synthetic"},
        "model": {"value": "mlp(hidden=[8])"},
        "binarizer": {"values": ["bwn", "sign"]},
        "epochs": {"value": 1},
    },
}


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def test_text_is_escaped():
    assert notebook.text("<b>&") == "<pre>&lt;b&gt;&amp;</pre>"
    shown = notebook.table(("<a>",), [("<script>",)], "<i>")
    assert "<script>" not in shown
    assert "<td>&lt;script&gt;</td>" in shown


def test_a_plan_and_a_cost_display(model):
    plan = tb.binarize_(model, "tbn(p=4, min_layer_size=0)")
    assert "<td>2.weight</td>" in plan._repr_html_()
    total = cost(model, plan, (64,))
    assert f"<td>{total.stored_bits:,}</td>" in total._repr_html_()
    assert f"{total.stored_bits:,}" in str(total)


def test_a_sweep_given_as_a_dictionary_runs_and_its_runs_compare(tmp_path):
    """The names of packages that are functions too stay packages."""
    done = tb.sweep(TINY, results=tmp_path)
    assert (done["failed"], "<table>" in done._repr_html_()) == (0, True)
    bwn, sign = sorted(RunStore(tmp_path).runs(), key=lambda run: run.config["binarizer"])
    found = tb.compare(bwn, sign.run_id, results=tmp_path)
    assert ("binarizer", "bwn", "sign") in found["config"]
    assert "binarizer" in str(found)
    assert "<td>bwn</td>" in found._repr_html_()
    assert f"tiny/{bwn.run_id}: finished" in str(bwn)
    assert "<td>bwn</td>" in bwn._repr_html_()
    page = tb.report(results=tmp_path, out=tmp_path / "reports")
    assert (tmp_path / "reports" / "index.html").exists()
    assert "index.html" in str(page)


def test_a_sweep_given_as_a_dictionary_needs_a_name(tmp_path):
    with pytest.raises(ValueError, match="needs a name"):
        tb.sweep({"method": "grid"}, results=tmp_path)


def test_a_given_network_is_timed(model, tmp_path, monkeypatch):
    """Beside its full-precision form, so that every ratio is there or its reason is."""
    monkeypatch.setattr(peers, "FEW", ("dense",))
    monkeypatch.setattr(sampling, "ROUNDS", 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    timing = tb.latency(
        model, torch.randn(2, 64), binarizer="tbn(p=4, min_layer_size=0)", results=tmp_path
    )
    rows = {row["binarizer"] for row in timing.record.rows}
    assert rows == {"full_precision", "tbn(min_layer_size=0, p=4)"}
    assert "x eager" in str(timing)
    assert timing._repr_html_().startswith("<pre>")
    assert [record.case for record in RunStore(tmp_path).latencies()] == [timing.record.case]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_binarized_network_is_timed(model, monkeypatch):
    """With the weights that it has, beside their values in full precision."""
    monkeypatch.setattr(peers, "FEW", ("dense",))
    monkeypatch.setattr(sampling, "ROUNDS", 3)
    method = "tbn(p=4, min_layer_size=0)"
    tb.binarize_(model, method)
    timing = tb.latency(model, torch.randn(2, 64), binarizer=method)
    rows = {row["binarizer"] for row in timing.record.rows}
    assert rows == {"full_precision", "tbn(min_layer_size=0, p=4)"}
    assert "x eager" in str(timing)


@pytest.mark.parametrize(
    ("binarizer", "said"),
    [
        ("full_precision", "name the method by which it was"),
        ("bwn", "not made by 'bwn', which differs in 0.weight, 2.weight"),
        ("tbn(p=8, min_layer_size=0)", "differs in 0.weight, 2.weight"),
        ("tbn(p=4, min_layer_size=1000)", "differs in 2.weight"),
    ],
)
def test_a_binarized_network_is_described_by_its_method(model, binarizer, said):
    tb.binarize_(model, "tbn(p=4, min_layer_size=0)")
    with pytest.raises(ValueError, match=said):
        tb.latency(model, torch.randn(2, 64), binarizer=binarizer)


def test_a_network_with_binary_inputs_is_refused(model):
    """Its full-precision form is unknown."""
    tb.binarize_(model, "xnor")
    with pytest.raises(ValueError, match="give the float network"):
        tb.latency(model, torch.randn(2, 64), binarizer="xnor")


def test_packages_that_are_functions_stay_packages():
    code = (
        "import tbn_bench as tb, tbn_bench.sweep.spec, tbn_bench.latency.gate; "
        "assert callable(tb.sweep) and callable(tb.latency) and tb.sweep.spec.load"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
