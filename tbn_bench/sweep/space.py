"""The space of a sweep: parameter -> distribution. Its points, in a grid or drawn at random.

A point has a value for every parameter, also for a dotted one that its run has no option for. Any
value there means the same run; the middle of the distribution is written, so that a run has one
point.
"""

import math
import random
from collections.abc import Iterator
from typing import Any

from tbn_bench.config import RunConfig
from tbn_bench.sweep import dotted
from tbn_bench.sweep.distributions import Categorical, Constant, Distribution

Space = dict[str, Distribution]
Point = dict[str, Any]


def grid_size(space: Space) -> int:
    """Number of points of a grid."""
    sizes = [given.grid_size or 0 for given in space.values()]
    return math.prod(sizes)


def grid(space: Space) -> Iterator[Point]:
    """The points of a grid in W&B's order, of those that mean the same run only the first.

    Names are sorted, and the last one varies fastest.
    """
    names = sorted(space)
    sizes = [space[name].grid_size or 0 for name in names]
    count = grid_size(space)
    number = 0
    while number < count:
        places = _places(number, sizes)
        point = {name: space[name].nth(place) for name, place in zip(names, places, strict=True)}
        _, left_out = dotted.fitting(point)
        repeats = [i for i, name in enumerate(names) if name in left_out and places[i] > 0]
        if repeats:
            # each point was there already, until that option has its first value again
            below = math.prod(sizes[repeats[0] :])
            number += below - number % below
        else:
            yield point
            number += 1


def _places(number: int, sizes: list[int]) -> list[int]:
    """Point `number` of a grid as one place per parameter; the last varies fastest."""
    places = []
    for size in reversed(sizes):
        number, place = divmod(number, size)
        places.append(place)
    places.reverse()
    return places


def draw(space: Space, seed: str) -> Point:
    """One random point; the same for the same seed."""
    rng = random.Random(seed)
    point = {}
    for name in sorted(space):
        point[name] = space[name].quantile(rng.random())
    _, left_out = dotted.fitting(point)
    return _filled(space, point, left_out)


def point_of(space: Space, config: RunConfig) -> Point:
    """The values that a config has for the parameters of a space, as the file writes them.

    Raises ValueError for a value that the space does not have.
    """
    calls = {field: getattr(config, field) for field in dotted.CALLS}
    unknown: Point = dict.fromkeys(space)
    _, left_out = dotted.fitting({**unknown, **calls})
    held = [name for name in space if name not in left_out]
    values = dotted.unfold(config, held)
    values = _filled(space, values, left_out)
    point = {}
    for name, given in space.items():
        point[name] = _written(name, given, values[name])
    return point


def _filled(space: Space, point: Point, left_out: list[str]) -> Point:
    middles = {name: space[name].quantile(0.5) for name in left_out}
    return point | middles


def _written(name: str, distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Constant):
        return distribution.value
    if not isinstance(distribution, Categorical):
        return value
    for choice in distribution.values:
        if dotted.same(name, choice, value):
            return choice
    raise ValueError(f"parameter {name}: {value!r} is none of its values")


def choices(space: Space, field: str) -> list[Any]:
    """What a sweep can write for a field, as far as it is known beforehand."""
    distribution = space.get(field)
    if distribution is None:
        return [RunConfig.model_fields[field].default]
    if isinstance(distribution, Categorical):
        return list(distribution.values)
    constant = getattr(distribution, "value", None)
    return [constant]
