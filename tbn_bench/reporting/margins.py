"""Where the axes of a print figure are: so far from its edges that all their texts fit.

matplotlib's constrained layout does the same, but measures every text four times as often.
"""

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from tbn_bench.reporting.tape import Tape

_AIR = 2.5  # points between a text and the edge
_LEGEND_AIR = 5.0  # points between the axes and a legend


def fit(figure: Figure) -> None:
    """Moves and scales the axes together; the legends stay below them, titles begin at the left.

    The figure's dpi is tape.POINTS.
    """
    tape = Tape(figure)
    frames = [axes.get_window_extent().frozen() for axes in figure.axes]
    texts = [axes.get_tightbbox(tape, for_layout_only=True) for axes in figure.axes]
    frame = Bbox.union(frames)
    around = Bbox.union([*frames, *filter(None, texts)])

    width, height = tape.get_canvas_width_height()
    below = sum(_height(legend.get_window_extent(tape)) for legend in figure.legends)
    left = _AIR + frame.x0 - around.x0
    right = width - _AIR - (around.x1 - frame.x1)
    bottom = _AIR + below + frame.y0 - around.y0
    top = height - _AIR - (around.y1 - frame.y1)

    across = (right - left) / frame.width
    up = (top - bottom) / frame.height
    for axes, old in zip(figure.axes, frames, strict=True):
        x = left + across * (old.x0 - frame.x0)
        y = bottom + up * (old.y0 - frame.y0)
        place = (x / width, y / height, across * old.width / width, up * old.height / height)
        axes.set_position(place)
        if axes.get_title(loc="left"):
            start = (_AIR - x) / (across * old.width)
            axes.set_title(axes.get_title(loc="left"), loc="left", x=start)


def _height(legend: Bbox) -> float:
    return float(legend.height) + _LEGEND_AIR
