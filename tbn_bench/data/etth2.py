"""ETTh2: 17,420 hourly rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTh2(ETT):
    file = "ETTh2.csv"
    rows = 17_420
    per_day = 24
