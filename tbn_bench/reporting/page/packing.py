"""Text as gzip in base64.

Rows and details that few readers open take a tenth of their size. The browser unpacks them on
demand.
"""

import base64
import gzip
import json
import math
from typing import Any

import numpy as np


def packed(text: str) -> str:
    """The same text gives the same bytes: no time stamp."""
    squeezed = gzip.compress(text.encode(), 9, mtime=0)
    return base64.b64encode(squeezed).decode("ascii")


def compact(value: Any) -> str:
    """JSON without spaces.

    Floats have six digits, since they are drawn and not computed with. Values that are not finite
    become None. Arrays: (n,) floats.
    """
    return json.dumps(_short(value), separators=(",", ":"), allow_nan=False)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _short(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_short(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _digits(value)
    return value


def _digits(values: np.ndarray) -> list[float | None]:
    """The same as _short of each value, but by array: there are millions of them.

    Values below 1e-300 lose digits or become 0: a power of ten for them does not exist.
    """
    plain = np.isfinite(values) & (values != 0)
    safe = np.where(plain, values, 1.0)
    magnitude = np.floor(np.log10(np.abs(safe)))
    scale = 10.0 ** np.minimum(5 - magnitude, 300)
    short = np.round(safe * scale) / scale
    rounded = np.where(plain, short, values).tolist()
    return [value if math.isfinite(value) else None for value in rounded]


def inert(text: str) -> str:
    """Text that cannot end the <script> around it."""
    return text.replace("</", "<\\/")
