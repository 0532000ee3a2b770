"""The parts of report --paper: every published number that we can run, beside our runs.

cells.py chooses the one value of each cell that ours is compared with, verdict.py compares them,
sizes.py checks the sizes that a plan knows without a run, matrix.py and teaser.py are the page's
head, tables.py its tables, page.py the HTML.
"""
