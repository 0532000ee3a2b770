"""One file per task: a LightningModule with its loss and metrics."""
