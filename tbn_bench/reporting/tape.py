"""A drawing, recorded once and written as SVG and as PDF.

matplotlib would lay out and draw a figure again for each format.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.backends.backend_pdf import PdfFile, RendererPdf
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.textpath import TextToPath

from tbn_bench.reporting.letters import Outlines

POINTS = 72  # per inch: the unit of both formats
_Call = Callable[[RendererBase], None]


@functools.cache
def _size(text: str, font: FontProperties, is_math: Any) -> tuple[float, float, float]:
    """Width, height and descent in points; the same few numbers are at most axes."""
    found: tuple[float, float, float] = TextToPath().get_text_width_height_descent(
        text, font, is_math
    )
    return found


@functools.cache
def _heights(font: FontProperties) -> tuple[float, float, float]:
    """Ascent, descent and the gap between lines of a font, in points.

    From its table OS/2, where matplotlib looks for them at each text.
    """
    opened = get_font(fontManager.findfont(font))
    table = opened.get_sfnt_table("OS/2")
    scale = font.get_size_in_points() / opened.units_per_EM
    return (
        scale * table["sTypoAscender"],
        -scale * table["sTypoDescender"],
        scale * table["sTypoLineGap"],
    )


class Tape(RendererBase):
    """Records what a figure draws; `play` draws it with another renderer.

    Images are not recorded: NotImplementedError. The figure must not change before it is played.
    """

    def __init__(self, figure: Figure) -> None:
        super().__init__()
        self.inches = tuple(figure.get_size_inches())
        self._calls: list[_Call] = []

    @property
    def height(self) -> float:
        """In points."""
        return POINTS * self.inches[1]

    def play(self, renderer: RendererBase) -> None:
        for call in self._calls:
            call(renderer)

    def get_canvas_width_height(self) -> tuple[float, float]:
        width, height = self.inches
        return POINTS * width, POINTS * height

    def points_to_pixels(self, points: Any) -> Any:
        return points

    def get_text_width_height_descent(
        self, s: str, prop: FontProperties, ismath: Any
    ) -> tuple[float, float, float]:
        return _size(s, prop.copy(), ismath)

    def _get_font_height_metrics(self, prop: FontProperties) -> tuple[float, float, float]:
        return _heights(prop.copy())

    def open_group(self, s: str, gid: str | None = None) -> None:
        self._calls.append(lambda renderer: renderer.open_group(s, gid))

    def close_group(self, s: str) -> None:
        self._calls.append(lambda renderer: renderer.close_group(s))

    def draw_path(self, gc: GraphicsContextBase, *shape: Any, **options: Any) -> None:
        self._record("draw_path", gc, shape, options)

    def draw_markers(self, gc: GraphicsContextBase, *shape: Any, **options: Any) -> None:
        self._record("draw_markers", gc, shape, options)

    def draw_path_collection(self, gc: GraphicsContextBase, *shape: Any, **options: Any) -> None:
        self._record("draw_path_collection", gc, shape, options)

    def draw_text(
        self, gc: GraphicsContextBase, x: float, y: float, *shape: Any, **options: Any
    ) -> None:
        """y counts from the top, as in SVG; PDF counts from the bottom."""
        kept = _copied(gc)

        def call(renderer: RendererBase) -> None:
            at = y if renderer.flipy() else self.height - y
            renderer.draw_text(_given(renderer, kept), x, at, *shape, **options)

        self._calls.append(call)

    def _record(self, name: str, gc: GraphicsContextBase, shape: Any, options: Any) -> None:
        kept = _copied(gc)

        def call(renderer: RendererBase) -> None:
            draw = getattr(renderer, name)
            draw(_given(renderer, kept), *shape, **options)

        self._calls.append(call)


def _copied(gc: GraphicsContextBase) -> GraphicsContextBase:
    """The colours, lines and clipping of now: an artist changes its own later."""
    copy = GraphicsContextBase()
    copy.copy_properties(gc)
    return copy


def _given(renderer: RendererBase, gc: GraphicsContextBase) -> GraphicsContextBase:
    """The same, as the kind that a renderer understands."""
    own = renderer.new_gc()
    own.copy_properties(gc)
    return own


def recorded(figure: Figure) -> Tape:
    """The drawing of a figure whose dpi is POINTS."""
    tape = Tape(figure)
    figure.draw(tape)
    return tape


def write(tape: Tape, path: Path) -> None:
    """As SVG, or as PDF where the file's name ends so. No date is written."""
    if path.suffix == ".pdf":
        _write_pdf(tape, path)
        return

    width, height = tape.get_canvas_width_height()
    with path.open("w", encoding="utf-8") as file:
        renderer = RendererSVG(width, height, file, image_dpi=POINTS, metadata={"Date": None})
        renderer._text2path = Outlines()
        tape.play(renderer)
        renderer.finalize()


def _write_pdf(tape: Tape, path: Path) -> None:
    width, height = tape.inches
    file = PdfFile(path, metadata={"CreationDate": None})
    try:
        file.newPage(width, height)
        renderer = RendererPdf(file, POINTS, height, width)
        tape.play(renderer)
        renderer.finalize()
        file.finalize()
    finally:
        file.close()
