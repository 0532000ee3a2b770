"""W&B's distributions of a swept parameter.

Each is given by its quantile function, which random draws and searches both use. The distributions
and their fields are those of sweeps/config/schema.json (PyPI sweeps 0.3.0); the quantile functions
are those of its params.py.
"""

import bisect
import itertools
import math
from statistics import NormalDist
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from tbn_bench.catalog import short
from tbn_bench.sweep.values import (
    Filled,
    NotNegative,
    Number,
    Positive,
    Whole,
    not_negative,
    number,
)

_EDGE = 1e-12  # quantiles 0 and 1 of a normal distribution are infinite


class Distribution(BaseModel):
    """How one parameter varies.

    quantile(u): its value at u in [0, 1]. cdf(value): the way back, the middle of a value's share.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def quantile(self, u: float) -> Any:
        raise NotImplementedError  # abstract

    def cdf(self, value: Any) -> float:
        raise NotImplementedError  # abstract

    @property
    def grid_size(self) -> int | None:
        """Number of values in a grid; None for a distribution that no grid takes."""
        return None

    def nth(self, place: int) -> Any:
        """The value at this place of a grid, from 0, in W&B's order.

        Values are never listed: a range may have 10^10.
        """
        raise NotImplementedError  # abstract

    def _check_ends(self) -> Self:
        """Raises ValueError if a value overflows. Quantiles rise: the first or last shows it."""
        try:
            ends = [self.quantile(0.0), self.quantile(1.0)]
        except ArithmeticError:
            ends = [math.inf]
        if not all(math.isfinite(end) for end in ends):
            raise ValueError(
                "has values beyond 64-bit floating-point numbers; "
                "use smaller numbers, or a larger q"
            )
        return self


class Constant(Distribution):
    value: Any

    def quantile(self, u: float) -> Any:
        return self.value

    def cdf(self, value: Any) -> float:
        return 0.0

    @property
    def grid_size(self) -> int | None:
        return 1

    def nth(self, place: int) -> Any:
        return self.value


class Categorical(Distribution):
    values: Filled

    def quantile(self, u: float) -> Any:
        last = len(self.values) - 1
        place = int(u * len(self.values))
        return self.values[min(place, last)]

    def cdf(self, value: Any) -> float:
        place: int = self.values.index(value)
        count = len(self.values)
        return (place + 0.5) / count

    @property
    def grid_size(self) -> int | None:
        return len(self.values)

    def nth(self, place: int) -> Any:
        return self.values[place]


class Weighted(Categorical):
    """values with probabilities; no grid takes it (W&B's grid_search.py)."""

    probabilities: Filled

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        chances = [not_negative(number(p)) for p in self.probabilities]
        sums_to_one = math.isclose(sum(chances), 1, rel_tol=1e-5)
        if len(chances) != len(self.values) or not sums_to_one:
            raise ValueError(
                f"probabilities must match values one by one and sum to 1, got {short(chances)}"
            )
        return self

    def quantile(self, u: float) -> Any:
        limits = list(itertools.accumulate(self.probabilities))
        place = bisect.bisect(limits, u * limits[-1])
        return self.values[min(place, len(limits) - 1)]

    def cdf(self, value: Any) -> float:
        place: int = self.values.index(value)
        below: float = sum(self.probabilities[:place])
        own: float = self.probabilities[place]
        return below + own / 2

    @property
    def grid_size(self) -> int | None:
        return None


class Uniform(Distribution):
    min: Number
    max: Number

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min >= self.max:
            raise ValueError(
                f"min and max must be numbers with min < max, got {self.min!r} and {self.max!r}"
            )
        return self._check_ends()

    def quantile(self, u: float) -> Any:
        return self.min + (self.max - self.min) * u

    def cdf(self, value: Any) -> float:
        share: float = (value - self.min) / (self.max - self.min)
        return share


class IntUniform(Uniform):
    min: Whole
    max: Whole

    def quantile(self, u: float) -> Any:
        count = self.max - self.min + 1
        value = self.min + int(count * u)
        return min(value, self.max)

    def cdf(self, value: Any) -> float:
        share: float = (value - self.min + 0.5) / (self.max - self.min + 1)
        return share

    @property
    def grid_size(self) -> int | None:
        return int(self.max - self.min + 1)

    def nth(self, place: int) -> Any:
        return int(self.min + place)


class LogUniform(Uniform):
    """log X is uniform between log min and log max.

    inv_log_uniform_values, with log(1/X) uniform, is the same distribution.
    """

    min: Positive

    def quantile(self, u: float) -> Any:
        low = math.log(self.min)
        high = math.log(self.max)
        value = math.exp(low + (high - low) * u)
        return min(max(value, self.min), self.max)

    def cdf(self, value: Any) -> float:
        if value <= 0:
            return -math.inf
        low = math.log(self.min)
        high = math.log(self.max)
        return (math.log(value) - low) / (high - low)


class Normal(Distribution):
    mu: Number = 0.0
    sigma: NotNegative = 1.0

    @model_validator(mode="after")
    def _finite(self) -> Self:
        return self._check_ends()

    def quantile(self, u: float) -> Any:
        if not self.sigma:
            return self.mu
        inside = min(max(u, _EDGE), 1 - _EDGE)
        return NormalDist(self.mu, self.sigma).inv_cdf(inside)

    def cdf(self, value: Any) -> float:
        if not self.sigma:
            return 0.5
        return NormalDist(self.mu, self.sigma).cdf(value)


class LogNormal(Normal):
    def quantile(self, u: float) -> Any:
        return math.exp(super().quantile(u))

    def cdf(self, value: Any) -> float:
        return super().cdf(math.log(value)) if value > 0 else 0.0


class Beta(Distribution):
    """a and b must be positive: W&B's schema allows 0, for which there is no distribution."""

    a: Positive = 1
    b: Positive = 1

    @model_validator(mode="after")
    def _finite(self) -> Self:
        return self._check_ends()

    def quantile(self, u: float) -> Any:
        from scipy.special import betaincinv

        return float(betaincinv(self.a, self.b, u))

    def cdf(self, value: Any) -> float:
        from scipy.special import betainc

        inside = min(max(value, 0.0), 1.0)
        return float(betainc(self.a, self.b, inside))


class Quantised(Distribution):
    """round(X / q) * q, an integer for an integer q.

    As W&B's, it may leave [min, max] by less than q / 2.
    """

    q: Positive = 1

    def quantile(self, u: float) -> Any:
        return round(super().quantile(u) / self.q) * self.q

    def cdf(self, value: Any) -> float:
        return min(max(super().cdf(value), 0.0), 1.0)


class QUniform(Quantised, Uniform):
    """In a grid without max, as numpy.arange in W&B's grid_search.py."""

    @property
    def grid_size(self) -> int | None:
        steps: int = math.ceil((self.max - self.min) / self.q)
        return steps

    def nth(self, place: int) -> Any:
        return self.min + place * self.q


class QLogUniform(Quantised, LogUniform):
    pass


class QNormal(Quantised, Normal):
    pass


class QLogNormal(Quantised, LogNormal):
    pass


class QBeta(Quantised, Beta):
    pass


KINDS: dict[str, type[Distribution]] = {
    "constant": Constant,
    "categorical": Categorical,
    "categorical_w_probabilities": Weighted,
    "int_uniform": IntUniform,
    "uniform": Uniform,
    "q_uniform": QUniform,
    "log_uniform_values": LogUniform,
    "q_log_uniform_values": QLogUniform,
    "inv_log_uniform_values": LogUniform,
    "normal": Normal,
    "q_normal": QNormal,
    "log_normal": LogNormal,
    "q_log_normal": QLogNormal,
    "beta": Beta,
    "q_beta": QBeta,
}
