"""One file per figure: print_figure(records) -> matplotlib Figure, chart(records) -> Altair chart, TITLE; None where there is nothing."""
