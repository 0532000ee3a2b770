"""Calls such as tbn(p=4), mutated: each is taken, with one spelling that is read back, or refused in one line.

python -m tests.fuzz.call_strings --count 10000 --seed 0
"""

import inspect
import random
import sys
from pathlib import Path
from typing import Any

import yaml

from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.sweep import dotted

from . import bounded

ROOT = Path(__file__).parents[2]
WORDS = [
    *"()[]{},=.:'\"\\#*-+~ \n\t\0", "**", "...", "é", "\uff54bn", "\ud800", "\ufeff", "\u202e", "-" * 5000, "[" * 300, "(" * 90, "{1:" * 90, "]" * 90,
    "9" * 30, "9" * 5000, "0x" + "f" * 5000, "1e999", "-1e-400", "nan", "inf", "1j", "1_000", "0.1e1", "9**9**9", "True", "None", "[]", "{}",
    "()", "p=4", "p=", ", p=4", "x=1", "lambda: 0", "__import__('os')", "f'{p}'", "b'x'", "'x' 'y'", "{1: 2, True: 3}", "{'a': {'a': 1}}",
    "[[[1]]]", "1+1", "not 1", "x if y else z", "[0 for _ in x]", "'" + "x" * 20_000 + "'", "[" + "0," * 20_000 + "]", "1" + "+1" * 3000,
]  # fmt: skip


VALUES = [
    0, -1, 1, 2, 10**18, -(2**63) + 1, 2**63, 0.0, -0.0, 1e-320, 1e308, 1.5, "", "x", "tile", "é\ud800", True, None, [], [0], [[1]], (), (1,),
    {}, {"a": [1]}, {1: 2}, [None] * 100, "n" * 5000,
]  # fmt: skip


def calls() -> list[str]:
    """Every entry by its name and with its defaults, and every call in sweeps and presets."""
    found = {}
    for package in dotted.SHELF_OF.values():
        for name in catalog.names(package):
            parameters = inspect.signature(catalog.load(package, name)).parameters
            options = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
            found |= {
                name: None,
                f"{name}({', '.join(f'{n}={value!r}' for n, value in options.items())})": None,
            }
    for path in sorted((*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("recipes/*.yaml"))):
        found |= dict.fromkeys(_calls_in(yaml.safe_load(path.read_text())))
    return list(found)


def _calls_in(value: Any) -> list[str]:
    """The texts in a tree that are calls."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [call for part in parts for call in _calls_in(part)]
    try:
        return [catalog.canonical(value)] if isinstance(value, str) else []
    except ValueError:
        return []


def _another_value(call: str, rng: random.Random) -> str:
    """The call with one of its options, or p, set to a value that an entry may not expect."""
    name, options = catalog.parse(call)
    option = rng.choice([*options, "p"])
    changed = options | {option: rng.choice(VALUES)}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in changed.items())})"


def check(text: str) -> str:
    """What became of a call: refused, parsed, or taken by an entry. Raises whatever breaks a promise."""
    dotted.from_flags({"binarizer": text, "model.x": text})
    try:
        name, options = catalog.parse(text)
    except ValueError as error:
        bounded.check_message(error, 1)
        return "refused"
    written = catalog.canonical(text)
    assert catalog.canonical(written) == written
    assert catalog.parse(written) == (name, options)
    taken = [
        field
        for field, package in dotted.SHELF_OF.items()
        if _is_taken(field, package, written, options)
    ]
    return "taken" if taken else "parsed"


def _is_taken(field: str, package: str, call: str, options: dict[str, Any]) -> bool:
    try:
        config = make({field: call})
        apart = dotted.fold(
            {
                field: catalog.parse(call)[0],
                **{f"{field}.{key}": value for key, value in options.items()},
            }
        )
        assert make(apart) == make(config.model_dump(mode="json")) == config
        assert config.run_id in f"{config.run_id} {config.command}"
        catalog.check(package, call, ("model", "config", "num_classes", "in_shape"))
        if package == "binarizers":
            catalog.build(package, call)
    except ValueError as error:
        bounded.check_message(error, 1)
        return False
    return True


def run(count: int, seed: int) -> dict[str, Any]:
    known = calls()

    def mutated(rng: random.Random) -> str:
        if rng.random() < 0.4:
            return _another_value(rng.choice(known), rng)
        return bounded.mutated(rng.choice(known), known, WORDS, rng)

    return bounded.fuzz(mutated, check, count, seed)


if __name__ == "__main__":
    sys.exit(bounded.main(run, 2000, __doc__.splitlines()[0]))
