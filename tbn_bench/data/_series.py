"""Multivariate time series from CSV files, split in time order.

Windows are views of one scaled tensor.
"""

import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tbn_bench.data._base import Split, TensorDataModule
from tbn_bench.data._root import data_root, find

FEATURES = ("M", "S", "MS")


def text_of(path: Path) -> str:
    """The file, unpacked where its name ends in .xz or .gz.

    It is read as latin-1, because the units in Weather's header are not UTF-8. Numbers are the same
    in both.
    """
    try:
        raw = path.read_bytes()
        packing = path.suffix
        if packing == ".xz":
            raw = lzma.decompress(raw)
        elif packing == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"{path} is unreadable or truncated ({error}); fetch it again") from error
    return raw.decode("latin-1")


DATE_NAMES = ("date", "time", "timestamp", "datetime")


def header(text: str, path: Path) -> list[str]:
    """Names of the value columns: all but a first one named date, time, timestamp or datetime.

    The other columns may have any name where there is such a column: the published electricity and
    exchange-rate files call theirs 0, 1, ..., OT.
    Raises ValueError where the first line names no columns, because it is a row of numbers or
    begins with a date.
    """
    line = text.partition("\n")[0]
    names = _cells(line, path)
    dated = bool(names) and names[0].lower() in DATE_NAMES
    values = names[1:] if dated else names
    is_row = not dated and (all(map(_number, names)) or _is_date(names[0]))
    if not values or is_row:
        raise ValueError(
            f"{path}: the first line must name the columns, got {line[:80]!r}; add such a line, "
            "its first name being date where that column holds dates"
        )
    return values


def _cells(line: str, path: Path) -> list[str]:
    """The cells of the first line, without the mark that some programs put in front of UTF-8."""
    bare = line.removeprefix("ï»¿")
    try:
        cells = next(csv.reader([bare]), [])
    except csv.Error as error:
        raise ValueError(
            f"{path}: the first line is no line of a CSV file ({error}); fetch it again"
        ) from error
    return [cell.strip() for cell in cells]


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_date(text: str) -> bool:
    """2016-07-01 02:00:00, 1990/1/1, 01.01.2009 00:10:00: digits and what separates them."""
    return bool(re.fullmatch(r"\d+([-/.:T ]+\d+)+Z?", text))


def read_csv(path: Path) -> tuple[list[str], np.ndarray]:
    """(names, values (rows, columns) float64) of a CSV file with a header.

    Raises ValueError naming the line that is not a row of numbers.
    """
    text = text_of(path)
    names = header(text, path)
    first_line = text.partition("\n")[0]
    cells = len(_cells(first_line, path))
    columns = range(cells - len(names), cells)
    try:
        values = np.loadtxt(
            io.StringIO(text),
            delimiter=",",
            skiprows=1,
            usecols=columns,
            ndmin=2,
            comments=None,
            quotechar='"',
        )
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{path}: every line must have {len(names)} numbers after the header ({error}); "
            "mend or fill it"
        ) from error
    faults = np.argwhere(~np.isfinite(values))
    if len(faults):
        row, column = faults[0]
        raise ValueError(
            f"{path}: line {row + 2}, column {names[column]!r} is not finite; fill or drop it"
        )
    return names, values


class SeriesDataModule(TensorDataModule):
    """x: (N, lookback, channels), y: (N, horizon, targets) float32.

    The samples are all windows of consecutive rows, one step apart.
    features, in the words of the Informer's code: "M" all columns forecast all, "S" the target
    forecasts itself, "MS" all forecast the target. Columns are scaled by mean and standard
    deviation of only the training rows. Losses and scores are on scaled data, as the literature
    reports them. Validation and test windows begin `lookback` rows early, so that their first
    forecast is their first row.

    Subclasses give `path()`, `columns` and `target`, and `borders(rows)`: the ends of the training,
    validation and test rows.
    """

    tasks = ("forecasting",)
    columns: int  # value columns of the file
    target = "OT"

    def __init__(
        self,
        lookback: int = 199,
        horizon: int = 1,
        features: str = "M",
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__(batch_size, seed, augment=False, val_size=0)
        for name, value in (("lookback", lookback), ("horizon", horizon)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if features not in FEATURES:
            known = ", ".join(map(repr, FEATURES))
            raise ValueError(f"features must be one of {known}, got {features!r}")
        self.lookback = lookback
        self.horizon = horizon
        self.features = features
        self.eval_batch_size = 256

    @property
    def in_shape(self) -> tuple[int, int]:
        if self.features == "S":
            return self.lookback, 1
        return self.lookback, self.columns

    @property
    def targets(self) -> int:
        return self.columns if self.features == "M" else 1

    @property
    def num_classes(self) -> int:
        """Outputs per sample, for models that know nothing of rows."""
        return self.horizon * self.targets

    def path(self) -> Path:
        """The file. Raises ValueError saying where to put it."""
        raise NotImplementedError  # abstract

    def borders(self, rows: int) -> Sequence[int]:
        """Ends of training, validation and test rows.

        Raises ValueError for a file of another length.
        """
        raise NotImplementedError  # abstract

    def _values(self) -> np.ndarray:
        """(rows, channels), the target last."""
        names, values = read_csv(self.path())
        if len(names) != self.columns or self.target not in names:
            listed = ", ".join(names)[:200]
            raise ValueError(
                f"{self.path()} must have {self.columns} value columns and {self.target!r} "
                f"among them, got {len(names)}: {listed}"
            )
        at = names.index(self.target)
        target = values[:, [at]]
        if self.features == "S":
            return target
        others = np.delete(values, at, 1)
        return np.concatenate([others, target], 1)

    def read(self) -> tuple[Split, Split, Split]:
        values = self._values()
        train_end, val_end, test_end = self.borders(len(values))
        training = values[:train_end]
        mean = training.mean(0)
        std = training.std(0)
        spread = np.where(std > 0, std, 1.0)
        scaled = torch.from_numpy((values - mean) / spread).float()

        val_start = max(0, train_end - self.lookback)
        test_start = max(0, val_end - self.lookback)
        return (
            self._windows(scaled[:train_end], "training"),
            self._windows(scaled[val_start:val_end], "validation"),
            self._windows(scaled[test_start:test_end], "test"),
        )

    def _windows(self, rows: Tensor, name: str) -> Split:
        """Views of rows: (T, channels), no copy."""
        length = self.lookback + self.horizon
        if len(rows) < length:
            raise ValueError(
                f"the {name} part has {len(rows)} rows, lookback + horizon = {length} are needed; "
                "choose smaller ones"
            )
        windows = rows.unfold(0, length, 1).transpose(1, 2)  # (N, length, channels)
        x = windows[:, : self.lookback]
        y = windows[:, self.lookback :]
        if self.features != "M":
            y = y[:, :, -1:]
        return x, y

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        return x


def file_of(name: str, folders: Sequence[str], source: str) -> Path:
    """name, plain or packed (.xz, .gz), in one of the folders under the data root.

    Raises ValueError saying where it was looked for.
    """
    roots = [data_root() / folder for folder in folders]
    candidates = []
    for root in (*roots, data_root()):
        candidates += [root / name, root / f"{name}.xz", root / f"{name}.gz"]
    path = find(candidates)
    if path is None:
        raise ValueError(
            f"{name} not found under {data_root()}. Fetch it ({source}) and put it in {roots[0]}, "
            "or set TBN_BENCH_DATA to the folder that has it"
        )
    return path


class ETT(SeriesDataModule):
    """Electricity transformer temperature (Zhou et al., arXiv 2012.07436).

    Two years of six loads and the oil temperature OT. 12 months of training, 4 of validation and 4
    of test, of 30 days each, as in the Informer's code. The rest of the file is unused.
    """

    columns = 7
    file: str
    rows: int
    per_day: int

    def path(self) -> Path:
        return file_of(
            self.file,
            ("ett", "ETT-small"),
            f"github.com/zhouhaoyi/ETDataset, ETT-small/{self.file}",
        )

    def borders(self, rows: int) -> list[int]:
        if rows != self.rows:
            raise ValueError(
                f"{self.path()} must have {self.rows:,} rows, got {rows:,}; fetch it again"
            )
        return [months * 30 * self.per_day for months in (12, 16, 20)]


class SharedSeries(SeriesDataModule):
    """70 % training, 10 % validation and 20 % test rows (Wu et al., arXiv 2106.13008)."""

    file: str
    folder: str
    rows: int

    def path(self) -> Path:
        return file_of(self.file, (self.folder,), "the data sets of github.com/thuml/Autoformer")

    def borders(self, rows: int) -> list[int]:
        if rows != self.rows:
            raise ValueError(
                f"{self.path()} must have {self.rows:,} rows, got {rows:,}; fetch it again"
            )
        return shares(rows, (0.7, 0.1, 0.2))


def shares(rows: int, split: Sequence[float]) -> list[int]:
    """Ends of the three parts; training and test are rounded down, validation gets the rest."""
    train = int(rows * split[0])
    test = int(rows * split[2])
    return [train, rows - test, rows]
