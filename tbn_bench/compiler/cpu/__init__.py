"""The CPU back end: operations become steps of native plans; what has no step stays in torch."""
