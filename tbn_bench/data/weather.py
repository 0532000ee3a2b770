"""Weather: 52,696 rows (2020, every 10 minutes) of 21 measurements at the Max Planck Institute in Jena, as Autoformer (arXiv 2106.13008) has it.

The file has a few -9999 in its wind columns; the literature leaves them, and so do we. Not the "WTH" of the Informer (12 columns, hourly).
"""

from tbn_bench.data._series import SharedSeries


class Weather(SharedSeries):
    file, folder, rows, columns = "weather.csv", "weather", 52_696, 21
