"""Run directories: the record of every run, timing and microcontroller, checked when it is read."""
