"""The report's page as its reader has it: opened from disk in Chromium, read through its DOM, used
with mouse and keys.
"""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from generated_runs import provenance, rows, summary

from tbn_bench import cli
from tbn_bench.config import make
from tbn_bench.records import predictions, tiles
from tbn_bench.records.store import LatencyRecord, RunStore
from tbn_bench.reporting import build, style, watch
from tbn_bench.reporting.figures import accuracy_bits, training_curves
from tbn_bench.reporting.load import load
from tbn_bench.reporting.page import details, packing, render
from tbn_bench.reporting.tables.comparison import comparison
from tbn_bench.reporting.tables.latency import latency
from tbn_bench.reporting.tables.not_finished import not_finished

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: the page is not tested in a browser"
)
BITS = {"full_precision": 32.0, "bwn": 1.0, "tbn(p=4)": 0.25, "tbn(p=8)": 0.125}


def _store(root):
    """Four methods on two models, two seeds of each.

    One run failed, and one method of the second model has one seed more.
    """
    store = RunStore(root)
    for model in ("mlp", "mlp(hidden=[8])"):
        for k, (spec, bits) in enumerate(BITS.items()):
            for seed in (0, 1, 2) if (model, spec) == ("mlp", "bwn") else (0, 1):
                config = make({"binarizer": spec, "model": model, "seed": seed, "epochs": 3})
                run = store.claim(
                    "s", config.run_id, config.model_dump(mode="json"), provenance(config)
                )
                for row in rows(config):
                    run.log(row)
                if (model, spec, seed) == ("mlp", "tbn(p=8)", 1):
                    run.fail("diverged", "loss became nan")
                    continue
                found = summary(config) | {
                    "bits_per_weight": bits,
                    "stored_bytes": int(1000 * bits),
                    "test/top1": 0.9 - 0.02 * k + 0.001 * seed,
                }
                labels = np.array([0, 0, 1, 2])
                classes = [2, 0, 0, 2] if spec == "tbn(p=4)" else [0, 2, 1, 2]
                answers = predictions.Predictions(labels, np.array(classes))
                predictions.write(run.path, answers)
                for epoch in range(2):
                    tiles.append(run.path, epoch, {"a": 0.1, "b": 0.2}, {"a": 0.0})
                run.finish(found | {"track": "W32A32" if spec == "full_precision" else "W1A32"})
    first = make({"binarizer": "tbn(p=4)", "epochs": 3}).run_id
    timed = [
        {
            "binarizer": "tbn(p=4)",
            "implementation": f"kernel{i:02d}",
            "run_id": first,
            "weight_bytes": 10 * i,
            "unavailable": None,
            "relative_error": 1e-7,
            "time_ms_p20": 1.0,
            "time_ms_p50": 1.0 + (7 * i) % 80,
            "time_ms_p80": 3.0,
            "n": 31,
            "ratio": 1.5,
        }
        for i in range(80)
    ]
    info = {
        "data": "digits",
        "model": "mlp",
        "sweep": "s",
        "batch": 1,
        "threads": 1,
        "clock": "wall",
        "baseline": "dense",
    }
    store.write_latency(
        LatencyRecord(
            "mlp-digits-b1-t1",
            "cpu",
            timed,
            info,
            {"command": "tbn-bench latency", "commit": "c0ffee"},
        )
    )
    return root


def _write(results, out, watch_s=None):
    """The page with the tables and figures that it was made for, without print versions."""
    records = load(results)
    tables = {m.__name__: m(records) for m in (comparison, latency, not_finished)}
    drawn = {
        m.__name__.rpartition(".")[2]: (m.TITLE, build.specification(m, records))
        for m in (accuracy_bits, training_curves)
    }
    book = details.book(results, records.curves)
    out.mkdir(exist_ok=True)
    return render.write(
        out,
        render.page(
            records, tables, drawn, [], book, results, "tbn-bench report", "comparison", watch_s
        ),
        book,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return _store(tmp_path_factory.mktemp("store") / "results")


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    return _write(results, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def _run_id(spec, seed=0, model="mlp"):
    return make({"binarizer": spec, "seed": seed, "epochs": 3, "model": model}).run_id


_CELLS = "[...document.querySelectorAll('[data-name={0}] tbody tr')].map(row => row.cells[{1}].textContent)"
_POINTS = "[...document.querySelectorAll('#chart-accuracy_bits svg .mark-symbol path')]"


def _middle_of(method):
    """Script: brings the point of a method into the middle of the window and says where it is."""
    return (
        f"(() => {{ const p = {_POINTS}.find(p => p.getAttribute('aria-label').includes('{method}')); p.scrollIntoView({{block: 'center', behavior: 'instant'}});"
        "const b = p.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )


def _column(browser, table, index):
    return browser.run(_CELLS.format(table, index))


def _sort(browser, table, head):
    """Clicks the head of that text; returns its index and aria-sort."""
    return browser.run(
        f"(async () => {{ const t = tables.find(t => t.name === '{table}'), heads = [...t.table.tHead.rows[0].cells];"
        f"const i = heads.findIndex(h => h.textContent === '{head}'); heads[i].querySelector('button').click();"
        "await new Promise(r => setTimeout(r, 150)); return [i, heads[i].getAttribute('aria-sort')]; })()"
    )


def _opacities(browser, figure):
    """method (by the mark's own description) -> opacity, of the marks of a figure."""
    script = f"Object.fromEntries([...document.querySelectorAll('#chart-{figure} svg .mark-symbol path')].map(p => [(p.getAttribute('aria-label').match(/method: ([^;]*)/) ?? [])[1], Number(p.getAttribute('opacity') ?? 1)]))"
    return browser.run(script)


def _line_opacities(browser):
    return browser.run(
        "[...document.querySelectorAll('#chart-training_curves svg .mark-line path')].map(p => Number(p.getAttribute('opacity') ?? 1))"
    )


@needs_chromium
def test_the_page_opens_from_disk_without_a_request_or_an_error(browser, page):
    """One file, whatever the name servers say.

    Every chart is drawn, in the headings' order, with a text alternative.
    """
    browser.open(page)
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.errors == []
    assert browser.run("document.querySelectorAll('.chart svg').length") == 2
    levels = browser.run(
        "[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert browser.run(
        "(ids => ids.length === new Set(ids).size)([...document.querySelectorAll('main [id]')].map(e => e.id))"
    )
    assert browser.run(
        "[...document.querySelectorAll('table')].every(t => t.caption && [...t.tHead.rows[0].cells].every(c => c.scope === 'col'))"
    )
    assert browser.run(
        "[...document.querySelectorAll('.chart svg')].every(s => s.getAttribute('aria-label') || s.querySelector('[aria-label]'))"
    )
    assert browser.run(
        "[...document.querySelectorAll('.chart svg [role=graphics-symbol]')].every(e => e.getAttribute('aria-label'))"
    )
    assert browser.run(
        "['header','nav','main','footer'].every(tag => document.querySelectorAll('body > ' + tag + ', header > ' + tag).length === 1)"
    )


@needs_chromium
def test_tables_sort_by_number_also_rows_that_wait(browser, page):
    """All 80 rows take part, not only those that are shown; aria-sort says the direction."""
    browser.open(page)
    assert len(_column(browser, "latency", 0)) == render.SHOWN_ROWS
    index, sort = _sort(browser, "latency", "ms p50")
    shown = [float(v) for v in _column(browser, "latency", index)]
    assert sort == "ascending"
    assert shown == [1.0 + i for i in range(render.SHOWN_ROWS)]
    assert _sort(browser, "latency", "ms p50")[1] == "descending"
    assert float(_column(browser, "latency", index)[0]) == 80.0
    assert browser.run("document.querySelectorAll('[data-name=latency] [aria-sort]').length") == 1


@needs_chromium
def test_a_filter_counts_what_it_leaves_and_works_by_keys(browser, page):
    """Words that must all be there; the count is announced.

    The buttons of heads are reached by Tab.
    """
    browser.open(page)
    browser.run("document.getElementById('filter-latency').focus()")
    browser.call("Input.insertText", text="mlp KERNEL0")
    browser.until("document.querySelectorAll('[data-name=latency] tbody tr').length === 10")
    assert (
        browser.run("document.querySelector('[data-name=latency] output').textContent")
        == "10 of 80 rows"
    )
    assert (
        browser.run(
            "document.querySelector('[data-name=latency] output').getAttribute('aria-live')"
        )
        == "polite"
    )
    for _ in range(3):  # past the menu and the box that scrolls, to its first head
        browser.key("Tab", 9)
    assert browser.run("document.activeElement.closest('th')?.textContent") == "device"
    browser.key("Enter", 13, "\r")
    browser.until("document.activeElement.closest('th').getAttribute('aria-sort') === 'ascending'")
    browser.run("document.querySelector('[data-name=latency] .more').click()")
    assert browser.errors == []


@needs_chromium
def test_a_table_is_taken_away_in_three_formats(browser, page):
    """Each has the heads and the rows that the filter leaves, those that wait included."""
    browser.open(page)
    browser.run("tables.find(t => t.name === 'latency').words.value = 'kernel1'")
    script = (
        "(async () => { const rows = await textOf(tables.find(t => t.name === 'latency'));"
        " return Object.fromEntries(Object.entries(FORMATS).map(([k, f]) => [k, f(rows)])); })()"
    )
    taken = browser.run(script)
    assert len(taken["csv"].splitlines()) == 11
    assert taken["csv"].startswith("device,")
    assert taken["markdown"].splitlines()[1].startswith("| --- |")
    assert taken["latex"].count(r"\\") == 11


@needs_chromium
def test_the_address_keeps_what_the_reader_chose(browser, page):
    browser.open(page)
    browser.run("plots.pick('BWN')")
    browser.until("location.search.includes('methods=BWN')")
    browser.run("document.getElementById('by-bwn').click()")
    address = browser.run("location.href")
    assert "reference=bwn" in address
    browser.open(page, address.removeprefix(page.resolve().as_uri()))
    browser.until("typeof plots === 'object' && plots.picked?.has('BWN')")
    assert browser.run("document.getElementById('by-bwn').checked")


@needs_chromium
def test_hover_names_the_runs(browser, page):
    """Over a point: the ids of its runs."""
    browser.open(page)
    x, y = browser.run(_middle_of("BWN"))
    browser.mouse("mouseMoved", x - 3, y)
    browser.mouse("mouseMoved", x, y)
    browser.until("document.getElementById('vg-tooltip-element')?.classList.contains('visible')")
    text = browser.run("document.getElementById('vg-tooltip-element').textContent")
    assert all(_run_id("bwn", seed) in text for seed in (0, 1, 2))


@needs_chromium
def test_the_legend_singles_a_method_out_in_every_chart(browser, page):
    """One click, all charts; another choice of panel keeps it; again is back."""
    browser.open(page)
    assert set(_opacities(browser, "accuracy_bits").values()) == {1}
    browser.run("document.querySelector('#legend [data-method=BWN]').click()")
    browser.until(
        "document.querySelector('#legend [data-method=BWN]').getAttribute('aria-pressed') === 'true'"
    )
    seen = _opacities(browser, "accuracy_bits")
    assert seen["BWN"] == 1
    assert max(v for k, v in seen.items() if k != "BWN") < 0.2
    assert sorted(v == 1 for v in _line_opacities(browser)) == [False] * 3 + [True]
    browser.run(
        "(() => { const s = document.getElementById('panel'); s.selectedIndex = 1; s.dispatchEvent(new Event('change')); })()"
    )
    browser.until("plots.views.size === 2 && plots.panel.includes('8')")
    assert _opacities(browser, "accuracy_bits")["BWN"] == 1
    browser.run("document.querySelector('#selection button').click()")
    browser.until("!plots.picked.size")
    assert set(_opacities(browser, "accuracy_bits").values()) == {1}


@needs_chromium
def test_a_brush_marks_the_same_runs_in_the_other_charts(browser, page):
    """Dragged over the 1-bit point: its runs alone stay in colour, and are named with links."""
    browser.open(page)
    x, y = browser.run(_middle_of("BWN"))
    browser.mouse("mouseMoved", x - 14, y - 14)
    browser.mouse("mousePressed", x - 14, y - 14, True)
    browser.mouse("mouseMoved", x, y, True)
    browser.mouse("mouseMoved", x + 14, y + 14, True)
    browser.mouse("mouseReleased", x + 14, y + 14)
    browser.until("plots.marked.size === 3")
    assert sorted(v == 1 for v in _line_opacities(browser)) == [False] * 3 + [True]
    links = browser.run("[...document.querySelectorAll('#selection a')].map(a => a.hash)")
    assert set(links) == {f"#run-{_run_id('bwn', seed)}" for seed in (0, 1, 2)}
    assert browser.errors == []


@needs_chromium
def test_a_finger_scrolls_over_charts_and_marks_by_touching_a_point(browser, page):
    """Dragging is scrolling on a phone, so no brush stands in its way."""
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        browser.open(page, width=390)
        x, y = browser.run(_middle_of("BWN"))
        browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        browser.until("plots.marked.size === 3")
        before = browser.run("scrollY")
        browser.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        for step in range(1, 9):
            browser.call(
                "Input.dispatchTouchEvent",
                type="touchMove",
                touchPoints=[{"x": x, "y": y + 20 * step}],
            )
        browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        browser.until(f"scrollY < {before} - 50")
        assert browser.run("plots.marked.size") == 3
    finally:
        browser.call("Emulation.setTouchEmulationEnabled", enabled=False)


@needs_chromium
def test_a_run_has_a_page_of_its_own(browser, page):
    """By address or link: config, plan, curves, environment and command; Escape leads back."""
    browser.open(page, f"#run-{_run_id('tbn(p=8)')}")
    browser.until(
        "document.getElementById('run').dataset.run && document.querySelectorAll('#run svg').length >= 2"
    )
    text = browser.run("document.getElementById('run').innerText")
    for part in (
        "--binarizer=tbn(p=8)",
        "Configuration",
        "a.weight",
        "Environment",
        "versions.torch",
        "top1",
    ):
        assert part in text.replace("'", ""), part
    browser.key("Escape", 27)
    browser.until("!document.getElementById('run').open && location.hash === ''")
    browser.run(
        f"document.querySelector('#not_finished ~ .table a[href=\"#run-{_run_id('tbn(p=8)', 1)}\"]').click()"
    )
    browser.until("document.getElementById('run').innerText.includes('loss became nan')")
    assert browser.errors == []
    assert len(browser.requests) <= 2  # the page, and itself with another hash


@needs_chromium
def test_a_run_shows_which_classes_it_confuses(browser, page):
    """Rows are true classes: one sample of class 0 was taken for class 2."""
    browser.open(page, f"#run-{_run_id('tbn(p=8)')}", width=390)
    browser.until("document.querySelectorAll('#run .confusion tbody tr').length === 3")
    cells = "[...document.querySelectorAll('#run .confusion td')].map(cell => cell.textContent)"
    assert browser.run(cells) == ["1", "0", "1", "0", "1", "0", "0", "0", "1"]
    shades = "[...document.querySelectorAll('#run .confusion td')].map(c => getComputedStyle(c).backgroundColor)"
    found = browser.run(shades)
    assert len({found[0], found[1], found[2]}) == 3, "right, none and wrong differ"
    is_inside = "svg => svg.getBoundingClientRect().right <= innerWidth"
    browser.until("document.querySelectorAll('#run svg').length >= 2")
    assert browser.run(f"[...document.querySelectorAll('#run svg')].every({is_inside})")
    browser.key("Escape", 27)


@needs_chromium
def test_two_methods_have_the_samples_on_which_they_differ(browser, page):
    """TBN-4 is right on 1 and 3, BWN on 0, 2 and 3; the list opens, the last counts are there."""
    browser.open(page, "?first=TBN-4&second=BWN")
    browser.until("document.querySelector('.differ tbody tr')")
    counts = "[...document.querySelector('.differ tbody tr').querySelectorAll('td')].map(c => c.textContent)"
    assert browser.run(counts) == ["1", "1", "2", "0"]
    browser.run("document.querySelector('.differ details').open = true")
    browser.until("document.querySelector('.differ details tbody')")
    cells = "[...document.querySelector('.differ details tbody').rows].map(r => r.innerText.split('\\t').join(' '))"
    assert browser.run(cells) == ["0 0 2 0", "1 0 0 2", "2 1 0 1"]
    assert browser.errors == []


@needs_chromium
def test_a_run_has_a_small_chart_for_each_layer(browser, page):
    browser.open(page, f"#run-{_run_id('bwn')}")
    browser.until("document.querySelector('#run .tiles svg')")
    heads = "[...document.querySelectorAll('#run .tiles .column_header text, #run .tiles .row-title text, #run .tiles text')].map(t => t.textContent)"
    assert {"a", "b", "signs flipped, %", "sums near zero, %"} <= set(browser.run(heads))
    assert browser.errors == []


@needs_chromium
def test_paper_has_every_row(browser, page):
    """Rows that wait are there while the page is printed, and the screen is as before after it."""
    browser.open(page)
    browser.until("tables.every(table => !table.others && table.rows.length === table.count)")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert len(_column(browser, "latency", 0)) == 80
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert len(_column(browser, "latency", 0)) == render.SHOWN_ROWS


@needs_chromium
def test_a_chart_has_its_data_as_a_table_for_keyboards(browser, page):
    browser.open(page)
    browser.run("document.querySelector('#figure-accuracy_bits .data summary').focus()")
    browser.key("Enter", 13, "\r")
    browser.until("document.querySelectorAll('#figure-accuracy_bits .data tbody tr').length === 4")
    table = "document.querySelector('#figure-accuracy_bits .data table')"
    heads = browser.run(f"[...{table}.tHead.rows[0].cells].map(cell => cell.textContent)")
    assert {"method", "x", "y"} <= set(heads)
    assert browser.run(f"{table}.caption.textContent").startswith("Accuracy")


@needs_chromium
def test_the_script_unpacks_what_python_packs(browser, page):
    """Texts of any length; no letter means anything in HTML or ends a string of a script."""
    browser.open(page)
    for text in ("", "a", "ab", "abc", "abcd", "é — < & " * 999):
        letters = packing.packed(text)
        assert not set(letters) & set('<>&"\\ \n')
        assert packing.unpacked(letters) == text
        assert browser.run(f"unpack({json.dumps(letters)})") == text


def test_a_curve_keeps_its_epochs_whole(results):
    """Losses have three digits, scores four, epochs all."""
    record = next(iter(RunStore(results).runs([])))
    last = np.array([123456.0])
    curves = {"epoch": last, "val/score": np.array([0.912345]), "train/loss": last}
    found = details.detail(record, curves)["curves"]
    assert found == {"epoch": [123457.0], "val/top1": [0.9123], "train/loss": [123000.0]}


def test_rows_packed_by_column_keep_their_keys():
    assert packing.columns([{"a": 1, "b": 2}, {"a": 3}]) == {"a": [1, 3], "b": [2, None]}
    assert packing.shortened(np.array([0.123456, np.nan]), 4) == [0.1235, None]
    assert packing.shortened({"a": (0.123456,)}, 4) == {"a": [0.1235]}


def test_a_damaged_file_of_predictions_is_left_out(results, tmp_path, capsys):
    runs = RunStore(results).runs([])
    record = next(run for run in runs if run.config["binarizer"] == "bwn")
    assert details._confusion(record) == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    broken = dataclasses.replace(record, path=tmp_path)
    assert details._confusion(broken) is None
    (tmp_path / predictions.NAME).write_bytes(b"no archive")
    assert details._confusion(broken) is None
    assert "damaged" in "".join(capsys.readouterr())


@needs_chromium
def test_boxes_that_scroll_have_a_name_and_can_be_reached_by_keys(browser, page):
    """On a phone: tables of the answers, all other tables, and charts."""
    browser.open(page, width=390)
    browser.until("document.querySelectorAll('.chart svg').length >= 2")
    box = "[...document.querySelectorAll('.scroll, .chart')].filter(b => b.scrollWidth > b.clientWidth)"
    assert browser.run(f"{box}.length") > 2
    assert (
        browser.run(f"{box}.filter(b => b.tabIndex !== 0 || !b.getAttribute('aria-label')).length")
        == 0
    )


@needs_chromium
def test_a_phone_scrolls_tables_not_the_page(browser, page):
    browser.open(page, width=390)
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.run(
        "[...document.querySelectorAll('.chart svg')].every(s => s.getBoundingClientRect().width <= 390)"
    )
    assert browser.run(
        "(() => { const s = document.querySelector('#latency .scroll'); return s.scrollWidth > s.clientWidth; })()"
    )
    assert (
        browser.run("getComputedStyle(document.querySelector('#latency th')).position") == "sticky"
    )


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_have_enough_contrast_also_in_charts(browser, page, dark):
    """4.5 to 1 for text, links and axis labels; charts follow a change while the page is open."""
    browser.open(page, dark=not dark)
    before = browser.run(
        "document.querySelector('#chart-accuracy_bits svg .role-axis-label text').getAttribute('fill')"
    )
    browser.dark(dark)
    browser.until(
        f"document.querySelector('#chart-accuracy_bits svg .role-axis-label text')?.getAttribute('fill') !== '{before}'"
    )
    ratio = """(() => {
      const probe = document.createElement('i'); document.body.append(probe);
      const lum = c => { probe.style.color = c; const v = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; }); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
      const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort(); return (y + .05) / (x + .05); };
      const label = document.querySelector('#chart-accuracy_bits svg .role-axis-label text').getAttribute('fill');
      return Math.min(...['--page', '--tint'].flatMap(ground => ['--ink', '--soft', '--accent'].map(name => css(name)).concat(label).map(c => ratio(c, css(ground)))));
    })()"""
    assert browser.run(ratio) >= 4.5


@needs_chromium
def test_what_is_missing_is_on_the_page_with_its_command(browser, page, results):
    browser.open(page)
    text = browser.run("document.getElementById('missing').innerText")
    assert f"tbn-bench sweep --fill s --results {results}" in text
    assert f"tbn-bench latency --suite s --skip-done --results {results}" in text
    assert "loss became nan" in text
    rows = browser.run(
        "[...document.querySelectorAll('[data-name=missing_seeds] tbody tr')].map(r => [...r.cells].map(c => c.textContent).slice(1, 6))"
    )
    assert ["Digits", "MLP", "TBN-8", "1", "1, 2"] in rows


@needs_chromium
def test_many_runs_lie_beside_the_page_and_load_from_disk(browser, results, tmp_path, monkeypatch):
    """Past the limit details are scripts beside the page, fetched when a run is opened.

    Without them the page says so.
    """
    monkeypatch.setattr(details, "EMBEDDED", 0)
    monkeypatch.setattr(details, "BLOCK", 4)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs-007-deadbeef.js").write_text("old")
    page = _write(results, tmp_path)
    files = sorted(p.name for p in (tmp_path / "data").iterdir())
    assert len(files) == 5
    assert "runs-007-deadbeef.js" not in files
    browser.open(page, f"#run-{_run_id('bwn', 2)}")
    browser.until("document.getElementById('run').dataset.run")
    assert "seed" in browser.run("document.getElementById('run').innerText")
    assert len([r for r in browser.requests if "/data/runs-" in r]) == 1
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    browser.open(page, f"#run-{_run_id('bwn', 2)}")
    browser.until("document.getElementById('run').dataset.run")
    assert "tbn-bench runs show" in browser.run("document.getElementById('run').innerText")


@needs_chromium
def test_waiting_survives_a_page_that_leaves(browser, tmp_path):
    """A condition is asked of whatever page is there; other failures of the page still raise."""
    page = tmp_path / "leaves.html"
    page.write_text("""<script>const loads = Number(location.hash.slice(1));
        if (loads < 8) setTimeout(() => { location.hash = loads + 1; location.reload(); }, 20);</script>""")
    browser.call("Page.navigate", url=page.as_uri())
    slow = "new Promise(done => setTimeout(() => done(true), 60))"
    browser.until(f"await {slow} && location.hash === '#8'")
    with pytest.raises(RuntimeError, match="nothing is not defined"):
        browser.until("nothing")


@needs_chromium
def test_a_watched_page_follows_and_stays_where_the_reader_was(browser, results, tmp_path):
    """It loads itself again only when it was written again, and keeps filter, method and place."""
    page = _write(results, tmp_path, watch_s=0.2)
    (tmp_path / "data").mkdir()
    stamp = tmp_path / "data" / "stamp.js"
    stamp.write_text('reportStamp("1");\n')
    browser.open(page)
    browser.run(
        "(async () => { tables.find(t => t.name === 'latency').words.value = 'kernel1'; await tables.find(t => t.name === 'latency').show(); plots.pick('BWN'); scrollTo({top: 700, behavior: 'instant'}); window.old = true; })()"
    )
    time.sleep(0.6)
    assert browser.run("window.old")
    stamp.write_text('reportStamp("2");\n')
    browser.until(
        "window.old === undefined && typeof plots === 'object' && plots.picked?.has('BWN') && Math.abs(scrollY - 700) < 5"
    )
    assert (
        browser.run("document.querySelector('[data-name=latency] output').textContent")
        == "10 of 80 rows"
    )


def test_the_page_is_small_and_rows_are_there_once(results, page):
    """Code under 2 MB, and what is embedded is embedded once."""
    text = page.read_text()
    assert len(text.encode()) < 700_000
    assert text.count("kernel00") == 1
    assert "kernel79" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "<script src" not in text
    spec = build.specification(training_curves, load(results))
    assert "DATASETS" not in json.dumps(spec)


def test_the_top_of_the_page_has_a_sentence_and_a_row_per_method(page):
    """Per data set and reference; the plots are in the markup, without a script."""
    text = page.read_text()
    assert "compared with full precision" in text
    assert "compared with BWN" in text
    assert text.count('<table class="forest">') == 5
    assert "<circle" in text


def test_every_shape_of_a_method_has_an_outline(results):
    """The legend draws each marker as the charts do: no name of Vega's is left."""
    from tbn_bench.reporting.page import charts

    specs = [f"{name}(p={p})" for name in ("tbn", "xnor", "new") for p in range(1, 9)]
    assert all(m["path"].startswith("M") for m in charts.methods(specs))
    assert len(charts.methods(specs)) == len(style.methods(specs))


def test_watch_builds_again_when_a_record_changed_and_ends_with_0(results, tmp_path):
    """A half-written record does not stop it; what stays behind is an ordinary page."""
    import shutil

    shutil.copytree(results, tmp_path / "results")
    code = "import contextlib, sys; from tbn_bench.reporting import build; build._drawing = lambda *a: contextlib.nullcontext(lambda: build.Figures({}, [])); build._write_tables = lambda *a: {}; from tbn_bench.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "report",
        "--watch",
        "--every",
        "0.2",
        "--results",
        str(tmp_path / "results"),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stamp, page = tmp_path / "out" / "data" / "stamp.js", tmp_path / "out" / "index.html"
    try:
        _until(stamp.exists)
        first = stamp.read_text()
        assert '<meta name="watch" content="0.2">' in page.read_text()
        broken = next((tmp_path / "results" / "runs" / "s").iterdir()) / "run.json"
        broken.write_text('{"schema_version": 1, "run_')
        _until(lambda: stamp.read_text() != first)
        assert "could not be read" in page.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=250)
    assert process.returncode == 0
    assert json.loads(said.splitlines()[-1])["builds"] == 2
    assert 'name="watch"' not in page.read_text()
    assert not stamp.exists()


def test_every_needs_watch(capsys, tmp_path):
    """A flag without effect is an error, and so is an interval of nothing."""
    assert cli.main(["report", "--every", "5", "--results", str(tmp_path)]) == 1
    assert "--every needs --watch" in capsys.readouterr().err
    assert cli.main(["report", "--watch", "--every", "0", "--results", str(tmp_path)]) == 1
    assert "more than 0 seconds" in capsys.readouterr().err


def test_a_watch_waits_for_the_first_record(tmp_path, monkeypatch, capsys):
    """An empty folder gives a page that says what to do."""
    looks = iter([None, None])

    def sleep(_):
        if next(looks, "end") == "end":
            raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", sleep)
    assert watch.watch(tmp_path, tmp_path / "out", 1)["builds"] == 1
    assert capsys.readouterr().out.count(f"no runs under {tmp_path}; make the first records") == 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert "There are no runs yet; make the first records with: tbn-bench sweep" in page
    assert 'id="runs"' not in page


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no folder .*none; make the first records with"):
        load(tmp_path / "none")


def _until(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.1)


def test_curves_keep_six_digits_whatever_their_size():
    """5e-324 is the smallest float: the scale of its digits would overflow."""
    curve = np.array([5e-324, 1.23456789e-7, 1.5, -2.5e30, 1e308, np.nan, np.inf])
    assert packing.compact(curve) == "[0.0,1.23457e-07,1.5,-2.5e+30,1e+308,null,null]"
