"""Text as gzip in base64: rows and details that few readers open take a tenth of their size; the browser unpacks them on demand."""

import base64
import gzip
import json
import math
from typing import Any

import numpy as np


def packed(text: str) -> str:
    """The same text gives the same bytes: no time stamp."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def compact(value: Any) -> str:
    """JSON without spaces; floats to six digits, since they are drawn, not computed with; None for what is not finite. Arrays: (n,) floats."""
    return json.dumps(_short(value), separators=(",", ":"), allow_nan=False)


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _short(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_short(v) for v in value]
    return _digits(value) if isinstance(value, np.ndarray) else value


def _digits(values: np.ndarray) -> list[float | None]:
    """What _short makes of each: millions of them, so by array."""
    plain = np.isfinite(values) & (values != 0)
    safe = np.where(plain, values, 1.0)
    scale = 10.0 ** (5 - np.floor(np.log10(np.abs(safe))))
    rounded = np.where(plain, np.round(safe * scale) / scale, values)
    return [v if v - v == 0 else None for v in rounded.tolist()]


def inert(text: str) -> str:
    """Text that cannot end the <script> it stands in."""
    return text.replace("</", "<\\/")
