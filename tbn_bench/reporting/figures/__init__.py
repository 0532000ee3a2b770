"""One file per figure.

Each has TITLE, print_figure(records) -> matplotlib Figure and chart(records) -> Altair chart; both
return None where there is nothing to draw.
"""
