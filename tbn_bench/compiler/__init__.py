"""One front end for networks, two back ends.

trace, export    the graph of a network, by torch.fx or torch.export; patterns joins idioms
names, rules     what each node does: one operation of graph.py, or the reason why there is none
fold, geometry, layer, arena    what both back ends need
cpu, executor    regions of native programs for the CPU; the rest stays in torch
tbn_bench.mcu    C programs for microcontrollers
"""
