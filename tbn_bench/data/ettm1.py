"""ETTm1: 69,680 15-minute rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTm1(ETT):
    file = "ETTm1.csv"
    rows = 69_680
    per_day = 96
