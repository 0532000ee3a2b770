"""One file per data set: a TensorDataModule."""
