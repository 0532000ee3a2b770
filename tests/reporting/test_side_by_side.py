"""What the page makes of scores: intervals in cells, two methods side by side, notes once."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from generated_runs import provenance, summary

from tbn_bench.config import make
from tbn_bench.records import predictions
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import findings, markup, stats
from tbn_bench.reporting.figures import _beside, _chart, accuracy_bits, sweep_parallel
from tbn_bench.reporting.load import load
from tbn_bench.reporting.page import charts, packing, pairs, predicted, render, short
from tbn_bench.reporting.summary import table as summary_table
from tbn_bench.reporting.table import Column, Table
from tbn_bench.reporting.tables.comparison import comparison


def finished_run(store, top1=0.9, held_out=0.5, sweep="s", sizes=None, **values):
    """A finished run of one epoch on digits. sizes: fields of its summary."""
    config = make({"data": "digits", "binarizer": "tbn(p=4)", "epochs": 1, **values})
    run = store.claim(sweep, config.run_id, config.model_dump(mode="json"), provenance(config))
    run.log({"epoch": 0, "val/top1": held_out})
    track = "W32A32" if config.binarizer == "full_precision" else "W1A32"
    scores = {"best_epoch": 0, "test/top1": top1, "track": track}
    run.finish(summary(config) | scores | (sizes or {}))


SCORE = Column("top1", "top-1 %", lambda row: f"{100 * row['top1']:.1f}", half="half")


def _ranges(rows):
    text = markup.markup(Table("t", [SCORE], rows))
    return [tuple(map(float, found)) for found in re.findall(r"M([\d.]+) 5H([\d.]+)", text)]


def test_a_cell_draws_its_interval_and_keeps_its_text():
    """The column's least and greatest ends are the ends of the drawing."""
    rows = [{"top1": 0.8, "half": 0.1}, {"top1": 0.9, "half": None}]
    assert _ranges(rows) == [(3.0, 85.0)], "a single seed has a mark alone"
    assert markup.markup(Table("t", [SCORE], rows)).count("<circle") == 2
    text = markup.markup(Table("t", [SCORE], rows))
    assert '<td data-value="0.8">80.0<svg class="interval"' in text
    assert text.count('aria-hidden="true"') == 2


def test_a_failed_control_does_not_set_the_axis_of_a_column():
    rows = [{"top1": 0.8, "half": 0.1}, {"top1": 0.1, "half": 0.0, "binarizer": "frozen_tile(p=8)"}]
    assert _ranges(rows) == [(3.0, 85.0)]
    assert markup.markup(Table("t", [SCORE], rows)).count("<circle") == 1


def test_a_sentence_of_the_notes_is_said_once():
    def block(title, note):
        return {"name": title, "title": title, "notes": [note], "parts": []}

    blocks = [block("One", "Same here. Own."), block("Two", "Same here. Other.")]
    render.say_once(blocks)
    assert blocks[0]["notes"] == ["Same here. Own."]
    assert blocks[1]["notes"] == ["Other.", "The notes under One hold here too."]


@pytest.fixture
def compared(tmp_path):
    """Three seeds of two methods; one seed of a third."""
    store = RunStore(tmp_path)
    for seed, (tiled, binary) in enumerate([(0.80, 0.82), (0.83, 0.84), (0.81, 0.86)]):
        finished_run(store, binarizer="tbn(p=4)", seed=seed, top1=tiled)
        finished_run(store, binarizer="bwn", seed=seed, top1=binary)
    finished_run(store, binarizer="twn", top1=0.9)
    return load(tmp_path)


def test_the_page_has_the_scores_of_each_method_by_seed(compared):
    found = pairs.pairs(compared)
    (task,) = found["tasks"]
    assert task["scores"]["TBN-4"] == {0: 80.0, 1: 83.0, 2: 81.0}
    assert set(task["scores"]) == {"TBN-4", "BWN", "TWN"}
    differences = [-2.0, -1.0, -5.0]
    half = stats.paired_interval(differences).half
    deviation = 13 / 3
    assert found["quantiles"][1] * (deviation / 3) ** 0.5 == pytest.approx(half, rel=1e-5)


def test_the_page_has_the_test_samples_that_each_method_gets_wrong(tmp_path):
    """By seed; a run of other samples and a method without predictions are left out."""
    store = RunStore(tmp_path)
    for spec in ("bwn", "tbn(p=4)", "twn"):
        for seed in (0, 1):
            finished_run(store, binarizer=spec, seed=seed)
    answers = {("bwn", 0): [0, 1, 1], ("tbn(p=4)", 0): [1, 1, 2], ("tbn(p=4)", 1): [1]}
    for (spec, seed), predicted_classes in answers.items():
        config = make({"data": "digits", "binarizer": spec, "epochs": 1, "seed": seed})
        labels = np.array([0, 1, 2][: len(predicted_classes)])
        found = predictions.Predictions(labels, np.array(predicted_classes))
        predictions.write(store.path("s", config.run_id), found)
    packed = predicted.predicted(load(tmp_path), tmp_path)
    (task,) = json.loads(packing.unpacked(packed))
    assert task["labels"] == "012"
    assert task["wrong"] == {"BWN": {"0": [[2], "1"]}, "TBN-4": {"0": [[0], "1"]}}


def test_the_first_lines_answer_three_questions(tmp_path):
    """Tiling, the learning rate that held-out data chose, and the paper's cells."""
    store = RunStore(tmp_path)
    for seed, tiled in enumerate((0.895, 0.899, 0.897)):
        finished_run(store, binarizer="bwn", seed=seed, top1=0.9)
        finished_run(store, binarizer="tbn(p=4)", seed=seed, top1=tiled, sizes={"stored_bytes": 99})
    for lr, held_out, top1 in ((0.1, 0.6, 0.7), (0.2, 0.5, 0.8)):
        finished_run(store, top1, held_out, sweep="rates", lr=lr)
    tiling, rate = short.in_short(load(tmp_path), tmp_path)[:2]
    assert tiling.verdict == "Keeps up with BWN on Digits, where no narrower BWN was run."
    (line,) = tiling.lines
    assert line.cells[:2] == ("Digits", "keeps up with BWN")
    assert line.plot["low"] < line.plot["at"] < line.plot["zero"]
    start, _, network = rate.verdict.partition(": 0.1, the smallest tried, for TBN-4.")
    assert (start, network) == ("On Digits, MLP", "")
    assert rate.lines == (short.Line(("Digits", "MLP", "TBN-4", "0.1", "70.00 %", "rates")),)


def test_the_command_of_a_run_names_the_files_of_its_plugins(tmp_path):
    store = RunStore(tmp_path)
    config = make({"data": "digits", "binarizer": "bwn", "epochs": 1})
    source = provenance(config) | {"plugins": [{"name": "my rows.py", "hash": "0"}]}
    run = store.claim("s", config.run_id, config.model_dump(mode="json"), source)
    run.finish(summary(config) | {"best_epoch": 0, "test/top1": 0.9, "track": "W1A32"})
    (command,) = load(tmp_path).runs["command"]
    assert command.endswith(" --sweep s --plugin='my rows.py'")


def test_names_and_numbers_of_a_sentence_do_not_break():
    said = render.prose("TBN-4 on CIFAR-10, one-bit: 93 % (2.07 ± 0.40 points)")
    assert said == "TBN\u20114 on CIFAR\u201110, one-bit: 93\u00a0% (2.07\u00a0±\u00a00.40 points)"


def test_a_method_of_several_configurations_cannot_be_compared(tmp_path):
    store = RunStore(tmp_path)
    for lr in (0.1, 0.2):
        finished_run(store, binarizer="tbn(p=4)", lr=lr)
    finished_run(store, binarizer="bwn")
    assert pairs.pairs(load(tmp_path)) is None


def test_a_narrower_binary_network_is_a_control_in_the_plot_of_the_whole_one(tmp_path):
    """Its bits are divided by the weights of the whole network; one of another sweep is none."""
    store = RunStore(tmp_path)
    for spec in ("full_precision", "bwn", "tbn(p=4)"):
        finished_run(store, binarizer=spec, model="mlp(hidden=[64])", sizes={"weights": 1000})
    sizes = {"weights": 250, "stored_bits_weights": 260}
    for sweep in ("s", "other"):
        finished_run(store, sweep=sweep, binarizer="bwn", model="mlp(hidden=[8])", sizes=sizes)
    data = accuracy_bits.frame(load(tmp_path))
    (mark,) = data[data["control"]].to_dict("records")
    assert mark["x"] == 0.26
    assert mark["label"] == "BWN, narrower"
    (panel,) = accuracy_bits.chart(load(tmp_path))["concat"]
    assert panel["title"]["subtitle"].startswith("controls: BWN, narrower 90 (")
    assert panel["layer"][-2]["encoding"]["color"]["field"] == "method"
    assert set(data["panel"]) == {mark["panel"]}
    whole = findings.compared(load(tmp_path))[0]
    row = summary_table(whole).rows[-1]
    assert row["method"] == "BWN MLP 8, narrower"
    assert row["verdict"] == "one seed, control"
    shown = comparison(load(tmp_path)).parts
    assert [part.rows[-1]["method"] for part in shown] == ["BWN", "BWN MLP 8, narrower"]


def test_configurations_of_a_search_have_colours_of_their_own(tmp_path):
    store = RunStore(tmp_path)
    for lr in (0.1, 0.2, 0.3):
        finished_run(store, lr=lr, binarizer="tbn(p=4)")
        finished_run(store, lr=lr, binarizer="bwn")
    (panel,) = accuracy_bits.chart(load(tmp_path))["concat"]
    colour = panel["layer"][-2]["encoding"]["color"]
    assert colour["field"] == "setting"
    assert colour["scale"]["domain"] == ["lr=0.1", "lr=0.2", "lr=0.3"]
    assert len(set(colour["scale"]["range"])) == 3


def test_a_random_search_has_no_legend_of_its_configurations(tmp_path):
    """Nor room for one; a mark that is named has the name of its method."""
    store = RunStore(tmp_path)
    for n in range(1, 10):
        for spec in ("bwn", "tbn(p=4)"):
            values = {"lr": 0.1 * n, "weight_decay": 0.001 * n, "label_smoothing": 0.01 * n}
            finished_run(store, binarizer=spec, **values)
    chart = accuracy_bits.chart(load(tmp_path))
    (panel,) = chart["concat"]
    assert panel["layer"][-2]["encoding"]["color"]["legend"] is None
    assert panel["height"] == _chart.SIZE["height"]
    (rows,) = chart["datasets"].values()
    assert {row["name"] for row in rows} <= {"", "BWN", "TBN-4"}


def test_names_in_a_chart_cover_neither_marks_nor_each_other():
    """The front first; a name without a free place is left out, and said once."""
    marks = []
    for k, label in enumerate(("TBN-4", "TBN-8 hadamard", "TBN-8 hadamard", "Low rank 1/4")):
        mark = {"x": 2.0, "y": 90.0, "low": 89.0, "high": 91.0, "label": label}
        marks.append(mark | {"method": label, "front": k == 1})
    found = _beside.named(pd.DataFrame(marks), is_log=False)
    assert list(found["name"]).count("TBN-8 hadamard") == 1
    assert found["name"].iloc[1] == "TBN-8 hadamard"
    places = set()
    for row in found[found["name"] != ""].to_dict("records"):
        places.add((row["dx"] > 0, row["dy"]))
    assert len(places) == (found["name"] != "").sum()


def test_the_page_keeps_a_panels_subtitle_and_the_figures_own_title():
    panel = {"title": {"text": ["A,", "b"], "subtitle": "outside the axes: c 0.1"}, "mark": "bar"}
    other = {"title": ["D"], "mark": "bar"}
    drawn = charts.figure("name", "Title", {"concat": [panel, other]})
    assert drawn["title"] == "Title"
    assert [each["title"] for each in drawn["panels"]] == ["A, b", "D"]
    assert drawn["panels"][0]["spec"]["title"]["text"] == "outside the axes: c 0.1"
    assert "title" not in drawn["panels"][1]["spec"]


def test_parallel_coordinates_name_values_and_the_winner(tmp_path):
    """The winner has the best score on held-out data, not on the test set."""
    store = RunStore(tmp_path)
    for n in range(10):
        held_out = 0.5 + 0.01 * n
        finished_run(
            store,
            lr=0.1 + 0.1 * n,
            weight_decay=0.01 * (n % 2),
            held_out=held_out,
            top1=1 - held_out,
        )
    data = sweep_parallel.frame(load(tmp_path))
    won = data[data["winner"] != ""]
    assert set(won["winner"]) == {"TBN-4 with lr=1, weight_decay=0.01"}
    named = data[data["named"] & (data["parameter"] == "weight_decay")]
    assert set(named["value"]) == {"0", "0.01"}


def test_a_tbn_that_tiles_no_layer_is_shown_as_bwn(tmp_path):
    """By its label in tables, and by name, colour and marker in figures."""
    store = RunStore(tmp_path)
    row = summary(make({}))["plan"][0] | {"p": 1}
    finished_run(store, binarizer="tbn(p=4)", sizes={"plan": [row]})
    finished_run(store, binarizer="tbn(p=8)", sizes={"plan": [row | {"p": 8}]})
    found = load(tmp_path)
    rows = comparison(found).rows
    assert [each["method"] for each in rows] == ["BWN (TBN-4 that tiles no layer)", "TBN-8"]
    marks = accuracy_bits.frame(found)
    assert list(marks["method"]) == ["BWN", "TBN-8"]
    assert list(marks["binarizer"]) == ["bwn", "tbn(p=8)"]
