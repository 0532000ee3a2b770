"""Point clouds in text files.

Errors name the file at fault, and the parsed arrays are kept beside the files.
"""

import contextlib
import hashlib
import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def unit_sphere(points: np.ndarray) -> np.ndarray:
    """Centred on the mean and scaled until the farthest point is on the unit sphere.

    points: (P, 3) -> (P, 3) float32.
    """
    centred = points - points.mean(0)
    distances = np.linalg.norm(centred, axis=1)
    radius = max(distances.max(), 1e-12)
    scaled = centred / radius
    return scaled.astype(np.float32)


def table(path: Path, columns: str, again: str, source: Any = None, **options: Any) -> np.ndarray:
    """The lines of a text file as numbers: (N, number of columns) float32, finite.

    columns: their names, separated by spaces. source: the lines, where they are not read from the
    file as they are.
    Raises ValueError naming the fault, and the remedy `again`.
    """
    width = len(columns.split())
    expected = f"{path} must have lines of {width} finite numbers, {columns}"
    lines = path if source is None else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy warns about an empty file
            rows = np.loadtxt(lines, dtype=np.float32, ndmin=2, **options)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, though its set lists it; {again}") from error
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{expected} ({why}); {again}") from error
    shaped = len(rows) > 0 and rows.shape[1] == width
    if not shaped or not np.isfinite(rows).all():
        raise ValueError(f"{expected}, got an array of shape {rows.shape}; {again}")
    return rows


def fingerprint(files: Sequence[Path], again: str, *what: object) -> str:
    """A text that changes with the names, sizes and times of the files, and with `what`.

    what: values that describe the result made from the files.
    Raises ValueError for a file that is missing.
    """
    described = repr(what)
    digest = hashlib.sha256(described.encode())
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise ValueError(f"{path} is missing, though its set lists it; {again}") from error
        line = f"{path.name} {state.st_size} {state.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def kept(path: Path, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """make()'s arrays, kept in `path` until `key` changes.

    A damaged file is made again (each array has a checksum). Where the file cannot be written, the
    arrays are not kept.
    """
    with (
        contextlib.suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile),
        np.load(path) as file,
    ):
        stored_key = str(file["key"])
        if stored_key == key:
            names = [name for name in file.files if name != "key"]
            return {name: file[name] for name in names}
    arrays = make()
    with contextlib.suppress(OSError):
        _keep(path, key, arrays)
    return arrays


def _keep(path: Path, key: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes a file beside `path` and renames it, so that no reader sees half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.savez(file, key=np.array(key), **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
