"""Electricity (ECL): hourly consumption of 321 clients, 26,304 rows.

It is the file of Autoformer (arXiv 2106.13008).
"""

from tbn_bench.data._series import SharedSeries


class Electricity(SharedSeries):
    file = "electricity.csv"
    folder = "electricity"
    rows = 26_304
    columns = 321
