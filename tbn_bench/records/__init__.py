"""Run directories: the record of every run, latency measurement and microcontroller, checked when it is read."""
