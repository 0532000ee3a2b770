"""Training behind tiled layers: batch norm, residual sum and ReLU in one pass over memory."""
