"""ETTh2: 17,420 hourly rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTh2(ETT):
    file, rows, per_day = "ETTh2.csv", 17_420, 24
