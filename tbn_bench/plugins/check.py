"""tbn-bench check: every contract of the shelf of every entry of a plugin, with advice."""

import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tbn_bench import catalog
from tbn_bench.catalog import plugged
from tbn_bench.plugins.contracts.rule import Rule
from tbn_bench.plugins.load import load
from tbn_bench.records.text import tell

_SEED = 0


def run(paths: Iterable[Path], calls: Iterable[str] = ()) -> dict[str, Any]:
    """Prints a line per entry and contract. `failed` counts the broken ones.

    calls: entries with options, e.g. "my_method(p=4)", in place of their defaults.
    Raises ValueError for a plugin that cannot be loaded, and for a call of another entry.
    """
    plugins = load(paths)
    given = {catalog.parse(call)[0]: call for call in calls}
    entries = []
    for plugin in plugins:
        entries += plugged.of(plugin)
    unknown = sorted(set(given) - {name for _, name in entries})
    if unknown:
        known = [name for _, name in entries]
        raise ValueError(f"--call {unknown[0]}{catalog.did_you_mean(unknown[0], known)}")
    failed = 0
    checked = 0
    for shelf, name in entries:
        for rule in rules(shelf):
            said = broken(rule, given.get(name, name))
            checked += 1
            failed += bool(said)
            tell(f"{'FAIL' if said else 'ok'}  {name} ({shelf}): {rule.claim}")
            if said:
                tell(f"      {said}")
    return {"entries": [name for _, name in entries], "checked": checked, "failed": failed}


def rules(shelf: str) -> tuple[Rule, ...]:
    """The contracts of a shelf."""
    module = import_module(f"tbn_bench.plugins.contracts.{shelf}")
    found: tuple[Rule, ...] = module.RULES
    return found


def broken(rule: Rule, call: str) -> str:
    """What an entry does against a rule, or ''. An error in its own code counts."""
    torch.manual_seed(_SEED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rule.check(call)
    except AssertionError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
        said = " ".join(str(error).split())
        return f"its own code failed with {type(error).__name__}: {said}"
    return ""
