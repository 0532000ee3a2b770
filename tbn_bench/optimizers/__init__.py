"""One file per optimizer: a function (parameters, config, options) -> torch.optim.Optimizer."""
