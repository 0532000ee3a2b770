"""ETTh1: 17,420 hourly rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTh1(ETT):
    file, rows, per_day = "ETTh1.csv", 17_420, 24
