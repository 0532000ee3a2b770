"""ETTh1: 17,420 hourly rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTh1(ETT):
    file = "ETTh1.csv"
    rows = 17_420
    per_day = 24
