"""The classes that a network predicted for the test set, beside its record: predictions.npz.

labels and predicted: (samples,) uint16, in the order of the data set.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tbn_bench.records.files import RecordError, read_file, replace

NAME = "predictions.npz"
_ARRAYS = ("labels", "predicted")
_MOST_BYTES = 64_000_000  # unpacked


@dataclass(frozen=True, eq=False)
class Predictions:
    """labels, predicted: (samples,) integers."""

    labels: np.ndarray
    predicted: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(samples,) booleans."""
        found: np.ndarray = self.labels == self.predicted
        return found

    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: a row per true class, a column per predicted class."""
        classes = int(max(self.labels.max(), self.predicted.max())) + 1
        counts = np.zeros((classes, classes), dtype=np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts


def write(folder: Path, found: Predictions) -> None:
    """Writes predictions.npz whole or not at all. Raises RecordError where it cannot be written."""
    out = io.BytesIO()
    labels = found.labels.astype(np.uint16)
    predicted = found.predicted.astype(np.uint16)
    np.savez_compressed(out, labels=labels, predicted=predicted)
    replace(folder / NAME, out.getvalue())


def read(folder: Path) -> Predictions | None:
    """None if the run has none. Raises RecordError for a file that is damaged."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        packed = io.BytesIO(read_file(path))
        _check_size(packed)
        with np.load(packed, allow_pickle=False) as arrays:
            labels, predicted = (arrays[name] for name in _ARRAYS)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"{path} is damaged ({error}); train the run again") from error
    if labels.ndim != 1 or labels.shape != predicted.shape or not len(labels):
        raise RecordError(
            f"{path}: expected two lists of equal length, got shapes {labels.shape} and "
            f"{predicted.shape}"
        )
    return Predictions(labels.astype(np.int64), predicted.astype(np.int64))


def _check_size(packed: io.BytesIO) -> None:
    """Raises ValueError for an archive that would take more memory than any test set."""
    size = sum(entry.file_size for entry in zipfile.ZipFile(packed).infolist())
    packed.seek(0)
    if size > _MOST_BYTES:
        raise ValueError(f"{size:,} bytes unpacked, at most {_MOST_BYTES:,} are allowed")
