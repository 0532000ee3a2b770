"""Text as gzip in base85.

Rows and details that few readers open take a tenth of their size. The browser unpacks them on
demand.
"""

import base64
import gzip
import json
import math
from typing import Any

import numpy as np

# base85 as of RFC 1924, but three of its letters have a meaning in HTML: others replace them.
# Base64 takes 7 % more.
_SAFE = bytes.maketrans(b"<>&", b",./")
DIGITS = 6  # of a float: it is drawn and not computed with


def packed(text: str) -> str:
    """The same text gives the same bytes: no time stamp."""
    squeezed = gzip.compress(text.encode(), 9, mtime=0)
    letters = base64.b85encode(squeezed).translate(_SAFE)
    return letters.decode("ascii")


def unpacked(letters: str) -> str:
    """The text of packed letters, as the page's script reads them."""
    plain = bytes.maketrans(b",./", b"<>&")
    squeezed = base64.b85decode(letters.encode("ascii").translate(plain))
    return gzip.decompress(squeezed).decode()


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Key -> the value of each row, None where it has none: equal values next to each other pack
    into less.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def compact(value: Any) -> str:
    """JSON without spaces, of shortened values."""
    return json.dumps(shortened(value), separators=(",", ":"), allow_nan=False)


def shortened(value: Any, digits: int = DIGITS) -> Any:
    """The same value for JSON: floats have so many significant digits, or are None if not finite.

    Arrays: (n,) floats.
    """
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): shortened(inner, digits) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [shortened(inner, digits) for inner in value]
    if isinstance(value, np.ndarray):
        return _digits(value, digits)
    return value


def _digits(values: np.ndarray, digits: int) -> list[float | None]:
    """The same as shortened of each value, but by array: there are millions of them.

    Values below 1e-300 lose digits or become 0: a power of ten for them does not exist.
    """
    plain = np.isfinite(values) & (values != 0)
    safe = np.where(plain, values, 1.0)
    magnitude = np.floor(np.log10(np.abs(safe)))
    scale = 10.0 ** np.minimum(digits - 1 - magnitude, 300)
    short = np.round(safe * scale) / scale
    rounded = np.where(plain, short, values).tolist()
    return [value if math.isfinite(value) else None for value in rounded]


def inert(text: str) -> str:
    """Text that cannot end the <script> around it."""
    return text.replace("</", "<\\/")
