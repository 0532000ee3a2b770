"""Weather: 52,696 rows of 21 measurements at the Max Planck Institute in Jena.

They are of 2020, one every 10 minutes, in the file of Autoformer (arXiv 2106.13008). The file has a
few -9999 in its wind columns; the literature leaves them, and so do we. It is not the "WTH" of the
Informer (12 columns, hourly).
"""

from tbn_bench.data._series import SharedSeries


class Weather(SharedSeries):
    file = "weather.csv"
    folder = "weather"
    rows = 52_696
    columns = 21
