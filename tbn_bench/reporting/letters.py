"""Fonts in PDF files, cut down once for all figures of a process.

matplotlib reads the whole font again for each file, which takes half of the time of a figure.
"""

import contextlib
import functools
import io
import string
from collections.abc import Iterator
from typing import Any

from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib.backends import _backend_pdf_ps
from matplotlib.font_manager import get_font

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
    before = _backend_pdf_ps.get_glyphs_subset
    _backend_pdf_ps.get_glyphs_subset = _with_common
    try:
        yield
    finally:
        _backend_pdf_ps.get_glyphs_subset = before


def _with_common(font: Any, glyphs: Any) -> Any:
    """As matplotlib's get_glyphs_subset: the font with these glyphs, and their new places."""
    wanted = _common(font).union(glyphs)
    data, places = _cut(font, wanted)
    opened = TTFont(io.BytesIO(data), recalcTimestamp=False, recalcBBoxes=False)
    found = _backend_pdf_ps.SubsetResults(opened, places)
    return found._as_cm()


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
