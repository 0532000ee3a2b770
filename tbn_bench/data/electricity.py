"""Electricity (ECL): hourly consumption of 321 clients, 26,304 rows, as Autoformer (arXiv 2106.13008) has it."""

from tbn_bench.data._series import SharedSeries


class Electricity(SharedSeries):
    file, folder, rows, columns = "electricity.csv", "electricity", 26_304, 321
