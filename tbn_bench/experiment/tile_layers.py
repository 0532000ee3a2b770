"""tile/flip_rate and tile/near_zero of each layer; the task logs their totals (tasks/_base.py)."""

from tbn_bench.records.tiles import Shares
from tbn_bench.tasks._base import NEAR_ZERO, Task, binary_weights


def shares(task: Task) -> tuple[Shares, Shares]:
    """(flips since the epoch began, column sums near zero), by the name of the layer."""
    flips = {}
    near_zero = {}
    for name, method, weight in binary_weights(task.model):
        latent = weight.detach()
        old = task.signs.get(name)
        if old is not None:
            changed = old != method.signs(latent)
            flips[name] = float(changed.float().mean())
        sums = method.column_sums(latent)
        if sums is not None:
            magnitudes = sums.abs()
            is_near = magnitudes < NEAR_ZERO * magnitudes.mean()
            near_zero[name] = float(is_near.float().mean())
    return flips, near_zero
