"""One file per table: a function of the file's name, Records -> Table.

A new file appears in every report.
"""
