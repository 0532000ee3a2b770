"""Objects that a caller gives in Python: a network or data that no catalog names.

The config of their run names them by a call too, `given(hash='...', type='mine.Net')`, so that
records, ids and tables have one form. A record cannot make the object again: it is here only
within `held`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NAME = "given"
SHELVES = ("models", "data")
_WORDS = {"models": "model", "data": "data"}

Make = Callable[..., Any]
_Key = tuple[str, tuple[tuple[str, Any], ...]]
_HELD: dict[_Key, Make] = {}


@contextmanager
def held(shelf: str, identity: dict[str, Any], make: Make) -> Iterator[None]:
    """Within the block, the call with the options `identity` makes the object.

    make: takes num_classes, in_shape, batch_size and seed by name.
    """
    key = _key(shelf, identity)
    before = _HELD.get(key)
    _HELD[key] = make
    try:
        yield
    finally:
        del _HELD[key]
        if before is not None:
            _HELD[key] = before


def words(identity: dict[str, Any]) -> str:
    """A given object by its type, for tables: "TensorDataset (given)"."""
    kind = str(identity.get("type", "object"))
    return f"{kind.rpartition('.')[2]} ({NAME})"


def entry(shelf: str) -> Make:
    """What builds a given object of a shelf, from the options of its call."""

    def build(
        num_classes: int | None = None,
        in_shape: Any = None,
        batch_size: int = 128,
        seed: int = 0,
        **identity: Any,
    ) -> Any:
        make = _HELD.get(_key(shelf, identity))
        if make is None:
            raise ValueError(_not_here(shelf, identity))
        return make(
            num_classes=num_classes,
            in_shape=in_shape,
            batch_size=batch_size,
            seed=seed,
        )

    return build


def _key(shelf: str, identity: dict[str, Any]) -> _Key:
    return shelf, tuple(sorted(identity.items()))


def _not_here(shelf: str, identity: dict[str, Any]) -> str:
    word = _WORDS[shelf]
    return (
        f"the {word} {identity.get('type', 'of this run')} was given in Python as an object, "
        f"and its record cannot make it again; give it again in Python: tb.train({word}=...), "
        "tb.latency(model, example), tb.load(model, FILE); "
        "or make it a plugin (docs/guides/plugins.md), which every command can use"
    )
