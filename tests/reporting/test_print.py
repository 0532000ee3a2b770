"""Guards the print files: nothing is cut off, and SVG and PDF show one drawing."""

import contextlib

import pandas as pd
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.textpath import TextToPath

from tbn_bench.reporting import letters, margins, style, tape, ticks
from tbn_bench.reporting.figures import _panels, _print, sweep_parallel


class _Texts(tape.Tape):
    """Notes the boxes of horizontal texts instead of drawing."""

    def __init__(self, figure):
        super().__init__(figure)
        self.ends = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        if not angle:
            width, _, _ = self.get_text_width_height_descent(s, prop, ismath)
            self.ends.append((x, x + width, y))


def _bars(width: float) -> Figure:
    """Bars with long names, a title, a label and a legend."""
    figure = Figure(figsize=(width, 1.5))
    axes = figure.add_subplot()
    names = ["a network with a long name, batch 64", "another one"]
    axes.barh(names, [1, 100], label="a label that is too long for one line of a legend, by far")
    style.set_log(axes.xaxis)
    axes.set_title(style.title_text("A title of as many words as fit", width), loc="left")
    axes.set_xlabel("MB, lower is better")
    style.legend(figure, ["a label that is too long for one line of a legend, by far"])
    return figure


@pytest.mark.parametrize("width", [style.COLUMN_INCHES, style.PAGE_INCHES])
def test_no_text_is_cut_off(width):
    with style.printing():
        figure = _bars(width)
        margins.fit(figure)
        found = _Texts(figure)
        figure.draw(found)
    right, bottom = found.get_canvas_width_height()
    assert len(found.ends) >= 6
    for start, end, y in found.ends:
        assert start > 0
        assert end < right
        assert 0 < y < bottom


def test_the_title_begins_at_the_left_edge():
    with style.printing():
        figure = _bars(style.COLUMN_INCHES)
        margins.fit(figure)
        margins.fit(figure)
        found = _Texts(figure)
        figure.draw(found)
    assert min(start for start, _, _ in found.ends) == pytest.approx(2.5, abs=0.5)


def test_texts_of_a_pdf_are_as_high_as_those_of_an_svg(tmp_path):
    """A PDF counts from below: a text at y is written at height - y."""
    figure = Figure(figsize=(1, 2), dpi=tape.POINTS)
    figure.text(0.5, 0.75, "x")
    drawing = tape.recorded(figure)
    seen = []

    class Below(tape.Tape):
        def flipy(self):
            return False

        def draw_text(self, gc, x, y, *shape, **options):
            seen.append(y)

    drawing.play(Below(figure))
    assert seen == pytest.approx([1.5 * 72])


def test_a_pdf_has_its_letters(tmp_path):
    """A common letter and a rare one; the same bytes again from the kept font."""
    pytest.importorskip("fontTools")

    def drawn(name):
        with style.printing(), letters.shared():
            figure = Figure(figsize=(1, 1))
            figure.text(0.1, 0.5, "aЖ")
            path = tmp_path / name
            tape.write(tape.recorded(figure), path)
        return path.read_bytes()

    first = drawn("a.pdf")
    assert b"/FontFile2" in first
    assert first == drawn("b.pdf")


def test_a_narrower_network_has_a_marker_of_its_own():
    assert style.marker("bwn") != style.marker("bwn", is_control=True)
    assert style.shape("bwn") != style.shape("bwn", is_control=True)
    others = {style.marker(spec) for spec in ("tbn(p=4)", "sign", "xnor", "full_precision")}
    assert style.marker("bwn", is_control=True) not in others


def test_an_axis_of_few_decades_has_ticks_between_them():
    with style.printing():
        figure = Figure(figsize=(3.3, 2))
        axes = figure.add_subplot()
        axes.plot(pd.Series([30.0, 80.0]), [0, 1])
        style.set_log(axes.xaxis)
        shown = [label.get_text() for label in axes.get_xticklabels()]
    assert "50" in shown


def test_kept_ticks_and_outlines_draw_the_same_file(tmp_path, monkeypatch):
    """Byte by byte what matplotlib draws by itself, with a fraction of the placing of ticks."""
    placed = []
    place = Axis._update_ticks
    monkeypatch.setattr(Axis, "_update_ticks", lambda axis: placed.append(0) or place(axis))

    def drawn(name, quicker):
        placed.clear()
        with style.printing(), quicker():
            figure = _bars(style.COLUMN_INCHES)
            margins.fit(figure)
            tape.write(tape.recorded(figure), tmp_path / name)
        return (tmp_path / name).read_bytes(), len(placed)

    slow, often = drawn("a.svg", contextlib.nullcontext)
    monkeypatch.setattr(tape, "Outlines", TextToPath)
    quick, seldom = drawn("b.svg", ticks.placed_once)
    assert quick == slow
    assert seldom < often / 2


def _panel(*marks, published=False):
    """A panel of marks: (method, x, y)."""
    rows = []
    for method, x, y in marks:
        own = {"method": method, "binarizer": "tbn(p=4)", "x": x, "y": y, "line": f"{x}"}
        rows.append(own | {"panel": "a", "axis": "%", "published": published})
    return _panels.frame(rows)


def test_points_of_one_name_have_it_once():
    """Published points of one method are no curve; the best one is named."""
    panel = _panel(("TBN", 4, 0.9), ("TBN", 8, 0.8), ("TBN", 16, 0.7), published=True)
    layout = _panels.Layout("p", log=2, joined=True)
    with style.printing():
        figure = _print.panel_figure(panel, style.COLUMN_INCHES, layout)
    (name,) = figure.axes[0].texts
    assert (name.get_text(), name.xy) == ("TBN", (4, 0.9))


def test_the_front_crosses_no_name():
    """Two marks above each other, with the front to the upper right; each name is at its own mark."""
    panel = _panel(("TBN-4", 0.3, 87.5), ("TBN-4 hadamard", 0.31, 88.0), ("BWN", 1, 91.3))
    layout = _panels.Layout("bits", log=2, front=True)
    with style.printing():
        figure = _print.panel_figure(panel, style.PAGE_INCHES, layout)
        axes = figure.axes[0]
        boxes = {t.get_text(): t.get_window_extent(tape.Tape(figure)) for t in axes.texts}
        front = _print._boxes_of_front(axes, _panels.front(panel))
    assert set(boxes) == {"TBN-4", "TBN-4 hadamard", "BWN"}
    assert not any(box.count_overlaps(front) for box in boxes.values())


def test_a_layout_of_copies_has_one_colour_in_every_panel():
    """Whatever else a panel compares; plain tiles have TBN's colour, and no two are alike."""
    layout = _panels.Layout("p", variants=True)
    specs = ["tbn", "tbn(alpha='layer')", "tbn(alpha_source='A')", "tbn(copies='hadamard')"]
    whole = layout.colours(pd.DataFrame({"method": specs, "binarizer": specs}))
    part = layout.colours(pd.DataFrame({"method": specs[3:], "binarizer": specs[3:]}))
    assert whole[specs[3]] == part[specs[3]] == style.colour(specs[3])
    assert whole["tbn"] == style.colour("tbn")
    assert len(set(whole.values())) == len(specs)


def test_methods_alone_have_their_colours():
    reserved = {style.colour(spec) for spec in ("full_precision", "bwn", "tbn")}
    assert reserved.isdisjoint(style.nth_colour(place) for place in range(20))


def test_names_are_dark_enough_to_read():
    """Contrasts by hand: #E69F00 has 2.2 with white, #767676 4.54, the lightest that is enough."""
    assert style.readable("#767676") == "#767676"
    levels = [int(style.readable("#E69F00")[start : start + 2], 16) for start in (1, 3, 5)]
    assert style._contrast([230, 159, 0]) == pytest.approx(2.2, abs=0.1)
    assert style._contrast(levels) >= 4.5


def test_the_best_line_is_drawn_and_others_are_named():
    """The best of 12 lines comes last in reading order; FP32 stays, too."""
    specs = ["full_precision", *(f"tbn(p={p})" for p in range(2, 13))]
    rows = []
    for y, spec in enumerate(specs):
        own = {"method": spec, "label": spec, "binarizer": spec, "line": spec, "x": 1, "y": y}
        rows.append(own | {"panel": "a", "axis": "top-1 %, higher is better"})
    note, kept = _print._few(_panels.frame(rows))
    assert {specs[0], specs[-1]} <= set(kept["line"])
    assert note == "not drawn, in the table: tbn(p=2), tbn(p=3)"


@pytest.mark.parametrize(("values", "low", "high"), [((0.0, 2.0), 0, 3), ((97.0, 100.0), 96, 100)])
def test_a_percentage_is_from_0_to_100(values, low, high):
    panel = _panel(("TBN-4", 1, values[0]), ("TBN-4", 2, values[1])).assign(axis="flipped, %")
    with style.printing():
        figure = _print.panel_figure(panel, style.COLUMN_INCHES, _panels.Layout("p"))
    bottom, top = figure.axes[0].get_ylim()
    assert low <= bottom < values[0] + 0.1
    assert values[1] <= top <= high


def test_a_line_of_one_point_has_its_name_beside_it():
    """Without a line to the name, which would look like data."""
    panel = _panel(("TBN", 4, 90.0), ("TBN", 16, 80.0), ("TBN hadamard", 4, 82.0))
    panel["line"] = panel["method"]
    with style.printing():
        layout = _panels.Layout("p", log=2, joined=True)
        figure = _print.panel_figure(panel, style.COLUMN_INCHES, layout)
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    assert texts["TBN hadamard"].xy == (4, 82.0)
    assert not any(text.arrow_patch for text in texts.values())


def test_an_axis_within_one_octave_has_ticks():
    axes = Figure().add_subplot()
    axes.plot([1.36, 1.62], [1, 2])
    style.set_log(axes.xaxis, base=2)
    low, high = axes.get_xlim()
    ticks_inside = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(ticks_inside) >= 2


def test_a_panel_that_says_nothing_is_left_out_with_what_it_needs():
    """Two published marks are two cells of the table."""
    pair = _panel(("FP32", 1, 93.0), ("TBN-4", 4, 92.0), published=True)
    own = _panel(("FP32", 1, 93.0), ("TBN-4", 4, 92.0)).assign(panel="b")
    kept = _panels.telling(pd.concat([pair, own]), _panels.is_published_pair)
    assert set(kept["panel"]) == {"b"}
    assert list(kept.attrs["left_out"]) == ["a"]


def test_ends_of_a_row_of_a_sweep_differ_though_they_begin_alike():
    """The beginning that two long calls share is left out."""
    ends = sweep_parallel._ends("airbench (learn_scale=False)", "airbench (learn_scale=True)")
    assert ends == ("…learn_scale=False", "…learn_scale=True")
    assert sweep_parallel._ends("BWN", "TBN-8") == ("BWN", "TBN-8")
