"""tbn-bench runs: lists, compares, checks and exports recorded runs.

It reads records, and imports no torch, pandas, wandb or Lightning.
"""
