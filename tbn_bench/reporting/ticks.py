"""Ticks of print figures, made and placed once.

matplotlib copies each new tick from the first one, and places all ticks again whenever it measures
an axis: together a fifth of the time of a figure.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from matplotlib.axis import Axis

_KEPT = "_tbn_bench_ticks"  # an axis's attribute: (key, ticks)


@contextlib.contextmanager
def placed_once() -> Iterator[None]:
    """Inside, ticks have the settings of their axis alone, and stay while the axis stays.

    For figures that change no single tick.
    """
    place = Axis._update_ticks
    copy = Axis._copy_tick_props

    def update(axis: Any) -> list[Any]:
        key = _key(axis)
        known, ticks = getattr(axis, _KEPT, (None, []))
        if known != key:
            ticks = place(axis)
            setattr(axis, _KEPT, (key, ticks))
        return list(ticks)

    Axis._update_ticks = update
    Axis._copy_tick_props = _copy_nothing
    try:
        yield
    finally:
        Axis._update_ticks = place
        Axis._copy_tick_props = copy


def _copy_nothing(axis: Any, source: Any, target: Any) -> None:
    """A new tick has the settings of its axis already."""


def _key(axis: Any) -> tuple[Any, ...]:
    """All that the places and the texts of an axis's ticks depend on."""
    low, high = axis.get_view_interval()
    parts = (axis.major.locator, axis.major.formatter, axis.minor.locator, axis.minor.formatter)
    return low, high, axis.axes.bbox.bounds, *parts
