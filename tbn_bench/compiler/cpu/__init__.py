"""The CPU back end: operations become steps of native programs; what has no step stays in torch."""
