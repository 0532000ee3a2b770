"""Point clouds in text files: parsed with errors that name the file, and kept as arrays beside them."""

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
    """Centred on the mean and scaled until the farthest point lies on the unit sphere. points: (P, 3) -> (P, 3) float32."""
    points = points - points.mean(0)
    return (points / max(np.linalg.norm(points, axis=1).max(), 1e-12)).astype(np.float32)


def table(path: Path, columns: str, again: str, source: Any = None, **options: Any) -> np.ndarray:
    """The lines of a text file as numbers: (N, len(columns)) float32, finite. columns: their names, with spaces between; source: the lines,
    where they are not to be read from the file as they are. Raises ValueError naming what is wrong with it, and what to do: `again`."""
    expected = f"{path} must have lines of {len(columns.split())} finite numbers, {columns}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # numpy's word on an empty file
            rows = np.loadtxt(
                path if source is None else source, dtype=np.float32, ndmin=2, **options
            )
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, though its set lists it; {again}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{expected} ({' '.join(str(error).split())}); {again}") from error
    if not len(rows) or rows.shape[1] != len(columns.split()) or not np.isfinite(rows).all():
        raise ValueError(f"{expected}, got an array of shape {rows.shape}; {again}")
    return rows


def fingerprint(files: Sequence[Path], again: str, *what: object) -> str:
    """Changes with the names, sizes and times of the files, and with `what` is made of them. Raises ValueError for one that is missing."""
    digest = hashlib.sha256(repr(what).encode())
    for path in files:
        try:
            state = path.stat()
        except OSError as error:
            raise ValueError(f"{path} is missing, though its set lists it; {again}") from error
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def kept(path: Path, key: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """make()'s arrays, kept in `path` until `key` changes. A damaged file (each array has a checksum) is made again; one that cannot be
    written is done without."""
    with (
        contextlib.suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile),
        np.load(path) as file,
    ):
        if str(file["key"]) == key:
            return {name: file[name] for name in file.files if name != "key"}
    arrays = make()
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            with part.open("wb") as file:
                np.savez(file, key=np.array(key), **arrays)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return arrays
