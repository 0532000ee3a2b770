"""tbn-bench runs: what to do with many recorded runs. Reads records; imports no torch, pandas, wandb or Lightning."""
