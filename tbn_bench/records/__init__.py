"""Run directories: the record of every run, latency measurement and microcontroller. Standard library alone."""
