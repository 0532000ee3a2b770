"""Any CSV file as a forecasting set: a header, an optional first column of dates, and numbers.

csv_forecast(path='x.csv', target='load').
"""

from collections.abc import Sequence
from pathlib import Path

from tbn_bench.data._root import data_root, find
from tbn_bench.data._series import SeriesDataModule, header, shares, text_of


class CSVForecast(SeriesDataModule):
    """path: relative to the working folder, or to the data folder.

    split: shares of training, validation and test rows, in time order.
    target: the column that features="S" and "MS" forecast; the last one by default.
    Raises ValueError for a missing file, an unknown target or shares that do not add up to 1.
    """

    def __init__(
        self,
        path: str,
        target: str | None = None,
        split: Sequence[float] = (0.7, 0.1, 0.2),
        lookback: int = 199,
        horizon: int = 1,
        features: str = "M",
        batch_size: int = 128,
        seed: int = 0,
    ):
        super().__init__(lookback, horizon, features, batch_size, seed)
        whole = len(split) == 3 and abs(sum(split) - 1) <= 1e-9
        if not whole or not all(0 < share < 1 for share in split):
            raise ValueError(
                f"split must be three shares between 0 and 1 that add up to 1, got {split!r}"
            )
        self.split = tuple(split)
        self.file = self._found(path)
        names = header(text_of(self.file), self.file)
        self.columns = len(names)
        self.target = names[-1] if target is None else target
        if self.target not in names:
            raise ValueError(f"{path} has no column {target!r}; it has {', '.join(names)[:300]}")

    @staticmethod
    def _found(path: str) -> Path:
        root = data_root()
        places = [Path(path), root / path]
        found = find(places)
        if found is None:
            raise ValueError(f"csv_forecast: {path} found neither here nor under {root}")
        return found

    def path(self) -> Path:
        return self.file

    def borders(self, rows: int) -> list[int]:
        return shares(rows, self.split)
