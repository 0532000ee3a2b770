"""One folder per operation: the contract in __init__, one file per implementation."""
