"""tbn-bench robustness: the accuracy of a stored network under faults and corrupted images."""
