"""One parameter of a sweep file: W&B's distributions, each by its quantile function, which random draws and search both go through.

The forms and their fields are those of sweeps/config/schema.json (PyPI sweeps 0.3.0), the quantile functions those of its params.py.
"""

import bisect
import itertools
import math
from statistics import NormalDist
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from tbn_bench.catalog import short

_INTEGERS = 2**63
_EDGE = 1e-12  # quantiles 0 and 1 of a normal distribution are infinite


def is_number(value: Any) -> bool:
    """A finite number, which True is not; an integer of 64 bits."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < _INTEGERS
    return isinstance(value, float) and math.isfinite(value)


def _number(value: Any) -> Any:
    if not is_number(value):
        raise ValueError(f"must be a number, got {short(value)}{_text_hint(value)}")
    return value


def _text_hint(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "; an integer has 64 bits at most"
    try:
        return (
            "; leave its quotes out"
            if isinstance(value, str) and math.isfinite(float(value))
            else ""
        )
    except ValueError:
        return ""


def _positive(value: Any) -> Any:
    if value <= 0:
        raise ValueError(f"must be positive, got {value!r}")
    return value


def _not_negative(value: Any) -> Any:
    if value < 0:
        raise ValueError(f"must not be negative, got {value!r}")
    return value


def _whole(value: Any) -> Any:
    if not isinstance(value, int):
        raise ValueError(f"must be an integer, got {value!r}")
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a non-empty list, got {short(value)}")
    return value


Number = Annotated[Any, AfterValidator(_number)]
Positive = Annotated[Number, AfterValidator(_positive)]
NotNegative = Annotated[Number, AfterValidator(_not_negative)]
Whole = Annotated[Number, AfterValidator(_whole)]
Count = Annotated[Whole, AfterValidator(_positive)]
Filled = Annotated[Any, AfterValidator(_list)]


class Form(BaseModel):
    """How one parameter varies. at(u) is its value at quantile u in [0, 1], position(value) the way back."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def at(self, u: float) -> Any:
        raise NotImplementedError  # abstract

    def position(self, value: Any) -> float:
        raise NotImplementedError  # abstract

    @property
    def size(self) -> int | None:
        """Number of values in a grid; None for a form that no grid takes."""
        return None

    def nth(self, place: int) -> Any:
        """The value at this place of a grid, from 0, in W&B's order. Values are never listed: a range may have 10^10."""
        raise NotImplementedError  # abstract


def _reaching(form: Any) -> Any:
    """The form. Raises ValueError where a value overflows: quantiles rise, so the first and the last one show it."""
    try:
        ends = [form.at(0.0), form.at(1.0)]
    except ArithmeticError:
        ends = [math.inf]
    if not all(math.isfinite(end) for end in ends):
        raise ValueError(
            "has values beyond 64-bit floating-point numbers; use smaller numbers, or a larger q"
        )
    return form


class Constant(Form):
    value: Any

    def at(self, u: float) -> Any:
        return self.value

    def position(self, value: Any) -> float:
        return 0.0

    @property
    def size(self) -> int:
        return 1

    def nth(self, place: int) -> Any:
        return self.value


class Categorical(Form):
    values: Filled

    def at(self, u: float) -> Any:
        return self.values[min(int(u * len(self.values)), len(self.values) - 1)]

    def position(self, value: Any) -> float:
        return (self.values.index(value) + 0.5) / len(self.values)

    @property
    def size(self) -> int | None:
        return len(self.values)

    def nth(self, place: int) -> Any:
        return self.values[place]


class Weighted(Categorical):
    """values with probabilities; a grid takes none (W&B's grid_search.py)."""

    probabilities: Filled

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        chances = [_not_negative(_number(p)) for p in self.probabilities]
        if len(chances) != len(self.values) or not math.isclose(sum(chances), 1, rel_tol=1e-5):
            raise ValueError(
                f"probabilities must match values one by one and sum to 1, got {short(chances)}"
            )
        return self

    def at(self, u: float) -> Any:
        limits = list(itertools.accumulate(self.probabilities))
        return self.values[min(bisect.bisect(limits, u * limits[-1]), len(limits) - 1)]

    def position(self, value: Any) -> float:
        i = self.values.index(value)
        return sum(self.probabilities[:i]) + self.probabilities[i] / 2

    @property
    def size(self) -> None:
        return None


class Uniform(Form):
    min: Number
    max: Number

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min >= self.max:
            raise ValueError(
                f"min and max must be numbers with min < max, got {self.min!r} and {self.max!r}"
            )
        return _reaching(self)

    def at(self, u: float) -> Any:
        return self.min + (self.max - self.min) * u

    def position(self, value: Any) -> float:
        return (value - self.min) / (self.max - self.min)


class IntUniform(Uniform):
    min: Whole
    max: Whole

    def at(self, u: float) -> int:
        return min(self.min + int((self.max - self.min + 1) * u), self.max)

    def position(self, value: Any) -> float:
        return (value - self.min + 0.5) / (self.max - self.min + 1)

    @property
    def size(self) -> int:
        return int(self.max - self.min + 1)

    def nth(self, place: int) -> int:
        return int(self.min + place)


class LogUniform(Uniform):
    """log X uniform between log min and log max. inv_log_uniform_values, log(1/X) uniform, is the same distribution."""

    min: Positive

    def at(self, u: float) -> Any:
        low, high = math.log(self.min), math.log(self.max)
        return min(max(math.exp(low + (high - low) * u), self.min), self.max)

    def position(self, value: Any) -> float:
        if value <= 0:
            return -math.inf
        low, high = math.log(self.min), math.log(self.max)
        return (math.log(value) - low) / (high - low)


class Normal(Form):
    mu: Number = 0.0
    sigma: NotNegative = 1.0

    @model_validator(mode="after")
    def _finite(self) -> Self:
        return _reaching(self)

    def at(self, u: float) -> Any:
        return (
            NormalDist(self.mu, self.sigma).inv_cdf(min(max(u, _EDGE), 1 - _EDGE))
            if self.sigma
            else self.mu
        )

    def position(self, value: Any) -> float:
        return NormalDist(self.mu, self.sigma).cdf(value) if self.sigma else 0.5


class LogNormal(Normal):
    def at(self, u: float) -> Any:
        return math.exp(super().at(u))

    def position(self, value: Any) -> float:
        return super().position(math.log(value)) if value > 0 else 0.0


class Beta(Form):
    """a and b must be positive: W&B's schema allows 0, where there is no such distribution."""

    a: Positive = 1
    b: Positive = 1

    @model_validator(mode="after")
    def _finite(self) -> Self:
        return _reaching(self)

    def at(self, u: float) -> Any:
        from scipy.special import betaincinv

        return float(betaincinv(self.a, self.b, u))

    def position(self, value: Any) -> float:
        from scipy.special import betainc

        return float(betainc(self.a, self.b, min(max(value, 0.0), 1.0)))


class Quantised(Form):
    """round(X / q) * q, integers for an integer q; may leave [min, max] by less than q / 2, as W&B's does."""

    q: Positive = 1

    def at(self, u: float) -> Any:
        return round(super().at(u) / self.q) * self.q

    def position(self, value: Any) -> float:
        return min(max(super().position(value), 0.0), 1.0)


class QUniform(Quantised, Uniform):
    """In a grid without max, as numpy.arange in W&B's grid_search.py."""

    @property
    def size(self) -> int:
        return math.ceil((self.max - self.min) / self.q)

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


KINDS: dict[str, type[Form]] = {
    "constant": Constant, "categorical": Categorical, "categorical_w_probabilities": Weighted, "int_uniform": IntUniform,
    "uniform": Uniform, "q_uniform": QUniform, "log_uniform_values": LogUniform, "q_log_uniform_values": QLogUniform,
    "inv_log_uniform_values": LogUniform, "normal": Normal, "q_normal": QNormal, "log_normal": LogNormal,
    "q_log_normal": QLogNormal, "beta": Beta, "q_beta": QBeta,
}  # fmt: skip
