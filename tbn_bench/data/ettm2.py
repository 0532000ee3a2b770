"""ETTm2: 69,680 15-minute rows of 7 columns."""

from tbn_bench.data._series import ETT


class ETTm2(ETT):
    file, rows, per_day = "ETTm2.csv", 69_680, 96
