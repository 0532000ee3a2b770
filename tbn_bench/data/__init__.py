"""One file per data set: a LightningDataModule."""
