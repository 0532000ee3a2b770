"""tbn_bench: train, compare, time and report binary and sub-bit neural networks."""

__version__ = "0.2.0"
