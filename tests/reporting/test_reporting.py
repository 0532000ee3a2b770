import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generated_runs import finished_run
from scipy import stats as scipy_stats

from tbn_bench import catalog, fingerprint
from tbn_bench.config import make
from tbn_bench.records.store import LatencyRecord, RunStore
from tbn_bench.reporting import (
    build,
    load,
    protocol,
    published,
    stats,
    style,
    tables,
    tracks,
    write,
)
from tbn_bench.reporting.figures import accuracy_bits, training_curves
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.markup import markup
from tbn_bench.reporting.table import Column, Table, cells, column
from tbn_bench.reporting.tables.comparison import comparison
from tbn_bench.reporting.tables.comparison_w1a1 import comparison_w1a1
from tbn_bench.reporting.tables.forecasting import forecasting

SPECS = ("full_precision", "tbn(p=4)", "tbn(p=8)")


def _summary(top1: float, bits: float) -> dict:
    return {
        "test/top1": top1,
        "bits_per_weight": bits,
        "stored_bytes": int(1000 * bits),
        "stored_bits": int(8000 * bits),
        "weights": 8000,
        "best_epoch": 1,
        "test_samples": 10,
    }


@pytest.fixture
def results(tmp_path):
    """Three methods over two seeds; the second seed of tbn(p=8) diverged."""
    store = RunStore(tmp_path / "results")
    for spec, bits in zip(SPECS, (32.0, 0.25, 0.125), strict=True):
        for seed in (0, 1):
            config = make({"binarizer": spec, "seed": seed})
            run = store.claim(
                "s",
                config.run_id,
                config.model_dump(mode="json"),
                {"commit": "c0ffee", "dirty": False, "hardware": {}},
            )
            for epoch in range(3):
                run.log({"epoch": epoch, "val/top1": 0.5 + 0.1 * epoch + 0.01 * seed})
            if spec == "tbn(p=8)" and seed == 1:
                run.fail("diverged", "DivergedError: loss became nan")
            else:
                run.finish(_summary(0.9 + 0.02 * seed, bits))
    first = make({"binarizer": "tbn(p=4)"}).run_id
    row = {
        "binarizer": "tbn(p=4)",
        "implementation": "tile reuse",
        "run_id": first,
        "weight_bytes": 10,
        "unavailable": None,
        "relative_error": 1e-7,
        "time_ms_p20": 1.0,
        "time_ms_p50": 2.0,
        "time_ms_p80": 3.0,
        "n": 31,
        "ratio": 1.5,
        "ratio_p20": 1.4,
        "ratio_p80": 1.6,
    }
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
        LatencyRecord(
            "mlp-digits-b1-t1",
            "cpu",
            [row, gone],
            info,
            {"command": "tbn-bench latency", "commit": "c0ffee"},
        )
    )
    return tmp_path / "results"


def _run(root: Path, binarizer: str, track: str | None, sweep: str = "s", **config) -> None:
    """One finished run of one epoch.

    Unfinished where track is "failed", as an old record where it is None.
    """
    made = make(
        {"binarizer": binarizer, "data": "cifar10", "model": "resnet_cifar(depth=20)", **config}
    )
    run = RunStore(root).claim(
        sweep, made.run_id, made.model_dump(mode="json"), {"commit": "c0ffee", "dirty": False}
    )
    run.log({"epoch": 0, "val/top1": 0.5})
    if track == "failed":
        run.fail("failed", "out of memory")
    else:
        run.finish(_summary(0.9, 1.0) | ({"track": track} if track else {}))


def _ledger(root: Path, *lines: str) -> None:
    (root / "published").mkdir(parents=True, exist_ok=True)
    (root / "published" / "x.csv").write_text(
        "\n".join([",".join(published.COLUMNS), *lines]) + "\n"
    )


def test_products_of_activations_have_a_column_that_old_records_leave_open(tmp_path):
    """A record without the field is an em dash; the note says what the column counts."""
    store = RunStore(tmp_path)
    for spec, own in (("bwn", {}), ("tbn(p=4)", {"activation_macs": 70})):
        config = make({"binarizer": spec})
        run = store.claim("s", config.run_id, config.model_dump(mode="json"), {})
        run.finish(_summary(0.9, 1.0) | own)
    table = comparison(load.load(tmp_path))
    (counted,) = [c for c in table.parts[0].columns if c.key == "activation_macs"]
    assert {row["method"]: counted.show(row) for row in table.rows} == {"BWN": "—", "TBN-4": "70"}
    assert "activation MACs counts these" in table.note


@pytest.fixture
def two_tracks(tmp_path):
    root = tmp_path / "results"
    for binarizer, track in (
        ("full_precision", "W32A32"),
        ("irnet", "W1A32"),
        ("irnet(activations=True)", "W1A1"),
        ("xnor", "W1A1"),
    ):
        _run(root, binarizer, track)
    return root


def _methods(table: Table) -> list[str]:
    return [row["binarizer"] for row in table.rows]


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
    """Mean and n come from finished runs only.

    What was not measured is an em dash in every format.
    """
    table = comparison(load.load(results))
    by_method = {row["binarizer"]: row for row in table.rows}
    assert by_method["tbn(p=4)"]["top1"] == pytest.approx(0.91)
    assert (by_method["tbn(p=4)"]["n"], by_method["tbn(p=8)"]["n"]) == (2, 1)
    assert by_method["tbn(p=4)"]["time_ms_p50_b1"] == 2.0
    text = write.markdown(table)
    row = next(line for line in text.splitlines() if "TBN-8" in line)
    assert "90.00 (1 seed) |" in row
    assert "±" not in row
    assert (
        row.count("—") == 4
    )  # two times, and the binary bits and multiply-adds, which these records do not have
    raw = list(csv.DictReader(write.comma_separated(table).splitlines()))
    assert raw[2]["time_ms_p50_b1"] == "—"
    assert "---" in latex(table)


def test_the_page_is_whole_and_asks_for_nothing(results, tmp_path):
    """One file: no address is fetched, every run id and its command are on it, unfinished runs say
    why.
    """
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
    drawn = {path.name for path in (out / "figures" / "accuracy_bits").iterdir()}
    assert drawn == {"digits-mlp.svg", "digits-mlp.pdf", "drawn_from.json"}
    assert (out / "figures" / "accuracy_bits.json").exists()
    side = json.loads((out / "tables" / "comparison.json").read_text())
    assert side["commits"] == ["c0ffee"]
    assert len(side["run_ids"]) == 5


def test_a_report_writes_nothing_outside_its_folder(results, tmp_path):
    before = sorted(results.rglob("*"))
    build.report(results, tmp_path / "out")
    assert sorted(results.rglob("*")) == before


def test_runs_of_code_that_has_changed_are_marked(tmp_path):
    """Not those of the same code, nor those that do not say what their code was."""
    store = RunStore(tmp_path)
    now = fingerprint.of(make({"binarizer": "bwn"}))
    for seed, recorded in enumerate((None, now, now | {"binarizer": "0" * 12})):
        config = make({"binarizer": "bwn", "seed": seed})
        source = {"commit": "c0ffee", "dirty": False, "track": "W1A32", "fingerprint": recorded}
        run = store.claim("s", config.run_id, config.model_dump(mode="json"), source)
        run.log({"epoch": 0, "val/top1": 0.5})
        run.finish(_summary(0.9, 1.0))
    records = load.load(tmp_path)
    stale = records.runs.set_index("seed")["stale"]
    assert stale[2] == "binarizer"
    assert stale[[0, 1]].isna().all()
    (said,) = protocol.flags(records)
    assert said.startswith("sweep s: the code of binarizer has changed since (runs: 1)")


def test_runs_of_a_plugin_that_is_not_loaded_are_named(tmp_path):
    """Nobody can say whether their code has changed; --plugin is the way to know."""
    store = RunStore(tmp_path)
    given = "given(hash='1', type='Net')"
    finished_run(store, 0.8, 0.9, binarizer="of_a_plugin(p=2)", model=given)
    (said,) = protocol.flags(load.load(tmp_path))
    assert said.startswith("of_a_plugin: not known here, so whether the code has changed since is")


def test_figures_are_byte_identical_twice(results, tmp_path):
    """The same records give the same files."""
    build.report(results, tmp_path / "a")
    build.report(results, tmp_path / "b")
    written = sorted((tmp_path / "a" / "figures").rglob("*.*"))
    assert len(written) > 5
    for path in written:
        other = tmp_path / "b" / path.relative_to(tmp_path / "a")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_damaged_records_are_named_and_the_rest_is_shown(results, tmp_path, capsys):
    """A half-written record costs its own row only."""
    broken = next((results / "runs" / "s").iterdir())
    (broken / "run.json").write_text('{"schema_version": 1, "run_')
    done = build.report(results, tmp_path / "out")
    assert (done["unreadable"], done["runs"]) == (1, 5)
    assert str(broken) in capsys.readouterr().out


def test_reports_need_no_torch():
    """The wing imports records, config and catalogue only."""
    code = "import sys, tbn_bench.reporting.build; print([m for m in ('torch', 'pytorch_lightning', 'wandb') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert out.stdout.strip() == "[]"


def test_latex_special_characters_are_escaped():
    table = Table("T", [column("a", "a_b %", numeric=False)], [{"a": "x_1 & 50% ± 2"}, {"a": None}])
    text = latex(table)
    assert r"x\_1 \& 50\% $\pm$ 2 \\" in text
    assert "---" in text


INJECTED = (
    "\ue000a\ue001\ue002\ue003 \x1b[2J\x9b8m\r\n\x85|\\| <b onclick=x> [here](http://x) \0 $^{_"
)


@pytest.mark.parametrize("mark", ["best", "second", None])
def test_a_name_brings_no_markup_of_its_own(mark):
    """The four private characters, escapes, line ends, HTML and links in every text of a table:
    shown, not obeyed.
    """
    columns = [
        Column("a", f"h{INJECTED}", lambda row: row["a"], numeric=False, mark="kind"),
        column("b", "b", numeric=False),
    ]
    row = {"a": INJECTED, "b": "=1+1", "kind": mark}
    table = Table(f"t{INJECTED}", columns, [row], f"n{INJECTED}", sources=[INJECTED])
    tex = latex(table)
    comment, *rest = tex.splitlines()
    assert comment.startswith("% t")
    assert all(line.isascii() and line.isprintable() for line in tex.splitlines())
    bare = re.sub(r"\\[{}\\&%$#_]", "", "\n".join(rest))
    assert bare.count("{") == bare.count("}")
    assert tex.count(r"\textbf{") == (mark == "best")
    assert tex.count(r"\underline{") == (mark == "second")
    markdown = write.markdown(table)
    assert all(line.isprintable() for line in markdown.splitlines())
    assert len(markdown.splitlines()) == 9
    assert markdown.count("**") == (2 if mark == "best" else 0)
    assert not re.search(r"(?<!\\)(<b|\]\()", markdown)
    cell_ends = [
        len(re.findall(r"(?<!\\)(?:\\\\)*\|", line))
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    assert cell_ends == [3, 3, 3]
    page = markup(table)
    assert page.isprintable()
    assert ("<strong>" in page, "<u>" in page, "<b" in page) == (
        mark == "best",
        mark == "second",
        False,
    )
    _, (name, formula) = csv.reader(io.StringIO(write.comma_separated(table), newline=""))
    assert (name, formula) == (INJECTED.replace("\r\n", "\n"), "'=1+1")


def test_the_printed_report_has_no_escapes(two_tracks, tmp_path, capsys):
    """Comparisons and the lines on what could not be read."""
    damaged = two_tracks / "runs" / "x\x1b[2J\ue000" / "r"
    damaged.mkdir(parents=True)
    (damaged / "run.json").write_text("{")
    build.report(two_tracks, tmp_path / "out")
    out = capsys.readouterr().out
    assert r"x\x1b[2J\ue000" in out
    assert all(line.isprintable() for line in out.splitlines())


def test_each_track_has_its_table_and_full_precision_is_in_both(two_tracks, tmp_path):
    """Methods with binary activations never stand beside methods without, in tables or figures."""
    build.report(two_tracks, tmp_path / "out")
    records = load.load(two_tracks)
    assert _methods(comparison(records)) == ["full_precision", "irnet"]
    assert _methods(comparison_w1a1(records)) == [
        "full_precision",
        "irnet(activations=True)",
        "xnor",
    ]
    written = {p.name for p in (tmp_path / "out" / "tables").glob("comparison*.md")}
    assert written == {"comparison.md", "comparison_w1a1.md"}
    assert (
        "### Comparison, weights only (W1A32)"
        in (tmp_path / "out" / "tables" / "comparison.md").read_text()
    )
    for figure in (accuracy_bits, training_curves):
        drawn = {
            panel: set(part["binarizer"]) for panel, part in figure.frame(records).groupby("panel")
        }
        assert list(drawn.values()) == [
            {"full_precision", "irnet"},
            {"full_precision", "irnet(activations=True)", "xnor"},
        ]
        assert [panel.endswith(", W1A1") for panel in drawn] == [False, True]


def test_a_store_of_one_other_track_has_only_its_table(tmp_path):
    root = tmp_path / "results"
    _run(root, "full_precision", "W32A32")
    _run(root, "xnor", "W1A1")
    build.report(root, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out" / "tables").glob("comparison*.md")] == [
        "comparison_w1a1.md"
    ]


def test_full_precision_is_a_reference_in_its_own_panel_only(two_tracks):
    """Another sweep is another protocol: its full precision is no reference here."""
    _run(two_tracks, "full_precision", "W32A32", sweep="t", epochs=3)
    _run(two_tracks, "bwn", "W1A32", sweep="t", epochs=3)
    assert [
        (r["sweep"], r["binarizer"]) for r in comparison_w1a1(load.load(two_tracks)).rows
    ].count(("t", "full_precision")) == 0
    assert len(set(accuracy_bits.frame(load.load(two_tracks))["panel"])) == 3


def test_old_records_have_the_track_they_were_run_in(tmp_path):
    """Before tracks were recorded everything was weights only.

    Titles of their figures stay as they were.
    """
    for binarizer in ("full_precision", "bwn"):
        _run(tmp_path, binarizer, None)
    records = load.load(tmp_path)
    assert dict(zip(records.runs["binarizer"], records.runs["track"], strict=True)) == {
        "full_precision": "W32A32",
        "bwn": "W1A32",
    }
    assert _methods(comparison(records)) == ["full_precision", "bwn"]
    assert comparison_w1a1(records) is None
    assert set(accuracy_bits.frame(records)["panel"]) == {"CIFAR-10, ResNet-20"}


def test_an_unfinished_run_stands_in_the_track_of_its_method(two_tracks):
    """By a finished run of the same method, else by its spec."""
    _run(two_tracks, "xnor", "failed", seed=1)
    _run(two_tracks, "dorefa(activations=True)", "failed")
    records = load.load(two_tracks)
    assert _methods(comparison(records)) == ["full_precision", "irnet"]
    assert _methods(comparison_w1a1(records)) == [
        "full_precision",
        "dorefa(activations=True)",
        "irnet(activations=True)",
        "xnor",
    ]


def test_an_unknown_track_is_named(two_tracks):
    """Such a run would be in no table."""
    _run(two_tracks, "twn", "W2A7")
    (problem,) = load.load(two_tracks).problems
    assert "track must be one of W32A32" in problem
    assert "W2A7" in problem


def test_every_track_has_its_table():
    """A run of a known track is never in no comparison."""
    wanted = {
        "comparison" if t == tracks.WEIGHTS_ONLY else f"comparison_{t.lower()}"
        for t in tracks.TRACKS
        if t != tracks.REFERENCE
    }
    assert wanted == {name for name, _ in build.entries(tables) if name.startswith("comparison")}


def test_reported_numbers_stand_beside_ours(two_tracks, capsys, tmp_path):
    """Where published: the number, a dagger if second-hand and its note; elsewhere an em dash.

    Our mean does not move.
    """
    before = [row["top1"] for row in comparison(load.load(two_tracks)).rows]
    _ledger(two_tracks, "irnet,irnet,cifar10,resnet_cifar(depth=20),1,32,top1,0.908,true,README,")
    table = comparison(load.load(two_tracks))
    assert [row["top1"] for row in table.rows] == before
    full, irnet = write.markdown(table).splitlines()[6:8]
    assert "| 90.00 (1 seed) | — |" in full
    assert "| 90.00 (1 seed) | 90.8† |" in irnet
    assert "† Second-hand" in table.note
    assert r"90.8{\,$^\dagger$}" in latex(table)
    assert "reported" not in write.markdown(comparison_w1a1(load.load(two_tracks)))
    build.report(two_tracks, tmp_path / "out")
    assert "90.8† %" in (tmp_path / "out" / "tables" / "published.md").read_text()


def test_no_reported_number_no_column(two_tracks):
    _ledger(two_tracks, "irnet,irnet,imagenet,ResNet-18,1,32,top1,0.665,false,README,")
    table = comparison(load.load(two_tracks))
    assert "reported" not in write.markdown(table).lower()


def test_a_bad_line_of_the_ledger_is_named_in_the_report(two_tracks, capsys, tmp_path):
    _ledger(two_tracks, "irnet,irnet,cifar10,resnet_cifar(depth=20),1,32,top1,90.8,true,README,")
    assert build.report(two_tracks, tmp_path / "out")["unreadable"] == 1
    assert "x.csv, line 2: top1 must be a fraction in (0, 1], got 90.8" in capsys.readouterr().out


FAMILIES = (
    "full_precision",
    "sign",
    "bwn",
    "binary_connect",
    "dorefa",
    "irnet",
    "tbn",
    "repeated_filters",
    "frozen_tile",
    "xnor",
    "bireal",
    "reactnet",
    "adabin",
    "snn",
    "sparks",
    "twn",
    "bitnet158",
    "recu",
    "xnorpp",
    "new",
    "newer",
)


def test_no_two_families_look_alike(monkeypatch):
    """Colour and marker, and colour and line pattern, tell any variant of a family from any other
    family, also of new ones.
    """
    known = sorted({*FAMILIES, *catalog.names("binarizers")})
    monkeypatch.setattr(catalog, "names", lambda package: known)
    specs = [f"{name}(p={p})" for name in known for p in (1, 2, 4, 8, 16, 32, 64)]
    for mark in (style.marker, style.shape, style.dash):
        owners: dict[tuple[str, str], set[str]] = {}
        for spec in specs:
            owners.setdefault((style.colour(spec), str(mark(spec))), set()).add(
                catalog.parse(spec)[0]
            )
        assert all(len(families) == 1 for families in owners.values()), mark.__name__


def test_every_method_is_named_once_and_no_name_covers_another(tmp_path):
    """Sixteen methods in one panel: at their marks, or in a legend below the axes."""
    specs = [*FAMILIES[:14], "tbn(p=4)", "tbn(gradient='tile', min_layer_size=64000, p=16)"]
    for spec in specs:
        _run(tmp_path, spec, None)
    with style.printing():
        frame = accuracy_bits.frame(load.load(tmp_path))
        figure = accuracy_bits.print_panel(frame, style.COLUMN_INCHES)
        figure.draw_without_rendering()
    (axes,) = figure.axes
    beside = [text for text in axes.texts if text.get_text()]
    below = figure.legends[0].get_texts() if figure.legends else []
    named = [text.get_text() for text in (*beside, *below)]
    assert sorted(named) == sorted(set(frame["label"]))
    boxes = [text.get_window_extent() for text in (*beside, *below)]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_forecasts_have_a_table_and_figures_of_their_own(results, tmp_path):
    """MSE and MAE with intervals, not among accuracies.

    Axes and page say what is drawn and which way is better.
    """
    store = RunStore(results)
    for binarizer, seed, mse in (("bwn", 0, 0.2), ("bwn", 1, 0.4), ("full_precision", 0, 0.1)):
        config = make(
            {
                "data": "etth1",
                "model": "ts_transformer",
                "task": "forecasting",
                "binarizer": binarizer,
                "seed": seed,
            }
        )
        run = store.claim(
            "f",
            config.run_id,
            config.model_dump(mode="json"),
            {"commit": "c0ffee", "dirty": False, "track": "W1A32"},
        )
        run.log({"epoch": 0, "val/mse": 0.5})
        run.finish(
            {
                "score": "mse",
                "test/mse": mse,
                "test/mae": 0.1,
                "bits_per_weight": 1.0,
                "stored_bytes": 9,
                "weights": 8,
            }
        )
    records = load.load(results)
    assert {row["data"] for row in comparison(records).rows} == {"Digits"}
    table = forecasting(records)
    assert [c.header for c in table.columns[3:5]] == ["MSE (95 % interval)", "MAE (95 % interval)"]
    assert cells(table)[1][3:5] == [
        f"0.3000 ± {scipy_stats.t.ppf(0.975, 1) * 0.1:.4f}",
        "0.1000 ± 0.0000",
    ]
    assert {"MSE, lower is better", "top-1 %, higher is better"} == set(
        accuracy_bits.frame(records)["axis"]
    )
    build.report(results, tmp_path / "out")
    assert "MSE 0.2000" in (tmp_path / "out" / "index.html").read_text()


def test_records_judged_by_an_unknown_score_are_named(results):
    """A later version's record is left out and said, not shown as something else."""
    config = make({"seed": 9})
    RunStore(results).claim("s", config.run_id, config.model_dump(mode="json"), {}).finish(
        {"score": "elo", "test/elo": 1.0}
    )
    records = load.load(results)
    assert any("judged by 'elo'" in problem for problem in records.problems)
