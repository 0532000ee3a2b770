"""ETTm2: 69,680 15-minute rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTm2(ETT):
    file = "ETTm2.csv"
    rows = 69_680
    per_day = 96
