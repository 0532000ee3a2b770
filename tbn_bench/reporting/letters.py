"""Letters of print files, made once for all figures of a process.

matplotlib reads the whole font again for each PDF, which takes half of the time of a figure, and
lays out every text of an SVG again, though most texts are in many figures.
"""

import contextlib
import functools
import io
import string
from collections.abc import Iterator
from typing import Any

from fontTools import subset
from matplotlib.backends import _backend_pdf_ps
from matplotlib.font_manager import get_font
from matplotlib.textpath import TextToPath

# What most figures need, so that most have the same font.
_COMMON = string.ascii_letters + string.digits + string.punctuation + " −—×·…≤≥"
_IS_KNOWN = hasattr(_backend_pdf_ps, "SubsetResults")  # from matplotlib 3.11 on


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """PDFs written inside embed fonts with the common letters, made once.

    Without the tables that set text: the letters have their places already.
    """
    if not _IS_KNOWN:
        yield
        return
    before = _backend_pdf_ps.get_glyphs_subset, _backend_pdf_ps.font_as_file
    _backend_pdf_ps.get_glyphs_subset = _with_common
    _backend_pdf_ps.font_as_file = io.BytesIO
    try:
        yield
    finally:
        _backend_pdf_ps.get_glyphs_subset, _backend_pdf_ps.font_as_file = before


class Outlines(TextToPath):
    """Texts as outlines, for SVG: the layout of a text is kept."""

    def get_glyphs_with_font(
        self,
        font: Any,
        s: str,
        glyph_map: dict[str, Any] | None = None,
        return_new_glyphs_only: bool = False,
        **options: Any,
    ) -> tuple[list[Any], dict[str, Any], list[Any]]:
        """As matplotlib's: the places of glyphs, and the outlines of those not in glyph_map."""
        if any(options.values()):
            found: tuple[list[Any], dict[str, Any], list[Any]] = super().get_glyphs_with_font(
                font, s, glyph_map, return_new_glyphs_only, **options
            )
            return found
        places, outlines = _outlined(font, s)
        known = {} if glyph_map is None else glyph_map
        new = {name: outline for name, outline in outlines.items() if name not in known}
        if return_new_glyphs_only:
            return places, new, []
        known.update(new)
        return places, known, []


@functools.lru_cache(maxsize=4096)
def _outlined(font: Any, text: str) -> tuple[list[Any], dict[str, Any]]:
    places, outlines, _ = TextToPath().get_glyphs_with_font(font, text)
    return places, outlines


@contextlib.contextmanager
def _with_common(font: Any, glyphs: Any) -> Iterator[Any]:
    """As matplotlib's get_glyphs_subset, but with the font's file instead of an opened font."""
    wanted = _common(font).union(glyphs)
    data, places = _cut(font, wanted)
    yield _backend_pdf_ps.SubsetResults(data, places)


@functools.cache
def _common(font: Any) -> frozenset[int]:
    opened = get_font(font)
    glyphs = {opened.get_char_index(ord(letter)) for letter in _COMMON}
    return frozenset(glyphs - {0})


@functools.lru_cache(maxsize=64)
def _cut(font: Any, glyphs: frozenset[int]) -> tuple[bytes, dict[int, int]]:
    """The file of a font with these glyphs only, and glyph -> its new place."""
    options = subset.Options(glyph_names=True, recommended_glyphs=True)
    options.drop_tables += ["GDEF", "GPOS", "GSUB", "FFTM", "PfEd"]
    options.font_number = getattr(font, "face_index", 0)
    cutter = subset.Subsetter(options=options)
    cutter.populate(gids=glyphs)
    file = io.BytesIO()
    with subset.load_font(font, options) as opened:
        cutter.subset(opened)
        opened.save(file, reorderTables=False)
    return file.getvalue(), cutter.glyph_index_map
