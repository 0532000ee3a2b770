"""What each shelf expects of an entry from outside, found without training.

Each fault says what was expected, what was got, and what to do.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from tbn_bench import catalog
from tbn_bench.catalog import did_you_mean, is_named
from tbn_bench.catalog.plugged import SHELVES
from tbn_bench.plugins.probe import binarizer_fault

Made = Callable[..., Any]
Found = tuple[str, str, Made]  # shelf, name, callable

_SHELF_OF_BASE = {  # a base class, by module and name -> shelf
    ("tbn_bench.binarizers._base", "Binarizer"): "binarizers",
    ("tbn_bench.tasks._base", "Task"): "tasks",
    ("tbn_bench.data._base", "TensorDataModule"): "data",
    ("pytorch_lightning.core.datamodule", "LightningDataModule"): "data",
    ("tbn_bench.reporting.figures._plugin", "ReportFigure"): "figures",
}
_PARTS = {  # classes of these are parts of an entry, not entries
    ("tbn_bench.binarizers._base", "WeightBinarizer"),
    ("tbn_bench.binarizers._base", "ActivationBinarizer"),
}
_WANTED = (
    "a class of Binarizer, Task, TensorDataModule or ReportFigure, a network (a class or function "
    "with num_classes or in_shape), an optimizer (a function of `parameters`), or a table (a "
    "function of `records`)"
)


def entries(module: ModuleType, file: Path, shelf: str | None) -> list[Found]:
    """The entries of a plugin's file. shelf: where the file lies in a folder of that name.

    Raises ValueError where there is none, or ENTRIES names what is not there.
    """
    if shelf is not None:
        return [_entry_of_file(module, file, shelf)]
    named = getattr(module, "ENTRIES", None)
    found = list(_named(module, file, named) if named is not None else _by_kind(module))
    if found:
        return found
    raise ValueError(f"plugin {file}: it has no entry, expected {_WANTED}; {_got(module)}")


def _entry_of_file(module: ModuleType, file: Path, shelf: str) -> Found:
    """The entry with the file's name. Raises ValueError where the file has none."""
    for name, made in _public(module):
        if is_named(name, file.stem):
            return shelf, file.stem, made
    written = "".join(part.capitalize() for part in file.stem.split("_"))
    raise ValueError(
        f"plugin {file}: expected a class or function of the file's name, e.g. {written}; "
        f"{_got(module)}"
    )


def _named(module: ModuleType, file: Path, named: Any) -> Iterator[Found]:
    """The entries that the file names itself."""
    if not isinstance(named, dict) or not set(named) <= set(SHELVES):
        raise ValueError(
            f"plugin {file}: ENTRIES maps a shelf ({', '.join(SHELVES)}) to names, got {named!r}"
        )
    public = dict(_public(module))
    for shelf, names in named.items():
        for name in names:
            if name not in public:
                hint = did_you_mean(str(name), public)
                raise ValueError(f"plugin {file}: ENTRIES names {name!r}, which it lacks{hint}")
            yield shelf, snake_case(name), public[name]


def _by_kind(module: ModuleType) -> Iterator[Found]:
    for name, made in _public(module):
        shelf = shelf_of(made)
        if shelf is not None:
            yield shelf, snake_case(name), made


def _public(module: ModuleType) -> Iterator[tuple[str, Made]]:
    """The classes and functions that a module defines itself, without those with a _ in front."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if own and callable(value) and not name.startswith("_"):
            yield name, value


def snake_case(name: str) -> str:
    """MyMethod -> my_method, HalfBWN -> half_bwn: an entry's name from that of its class."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower()


def shelf_of(made: Made) -> str | None:
    """The shelf of a class or function by its kind, None for other things."""
    bases = _bases(made)
    for base, shelf in _SHELF_OF_BASE.items():
        if base in bases:
            return shelf
    if bases & _PARTS:
        return None
    options = _options(made)
    if "parameters" in options:
        return "optimizers"
    if "records" in options:
        return "tables"
    is_network = ("torch.nn.modules.module", "Module") in bases or not inspect.isclass(made)
    return "models" if is_network and {"num_classes", "in_shape"} & set(options) else None


def _bases(made: Made) -> set[tuple[str, str]]:
    """(module, name) of a class and of those that it derives from; no module is imported."""
    if not inspect.isclass(made):
        return set()
    return {(base.__module__, base.__name__) for base in made.__mro__}


def _options(made: Made) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(made).parameters)
    except (TypeError, ValueError):  # of a class without a readable signature
        return {}


def _got(module: ModuleType) -> str:
    """What a file has instead of an entry, with the nearest remedy."""
    lines = []
    for name, made in _public(module):
        has = [method for method in ("layer", "decide") if hasattr(made, method)]
        if ("tbn_bench.binarizers._base", "WeightBinarizer") in _bases(made):
            lines.append(f"{name} is a WeightBinarizer, and no Binarizer decides for it: add one")
        elif has:
            lines.append(f"{name} has {has[0]}(), but is no Binarizer: write {name}(Binarizer)")
        else:
            lines.append(f"{name} is none of these")
    return f"got {'; '.join(lines) or 'no public class or function'}"


def faults(shelf: str, made: Made) -> list[str]:
    """What an entry lacks of its shelf, one line each."""
    return [f"{made.__name__}: {fault}" for fault in _FAULTS[shelf](made)]


def _of_binarizer(made: Made) -> Iterator[str]:
    if ("tbn_bench.binarizers._base", "Binarizer") not in _bases(made):
        yield f"expected a class of Binarizer, got {_kind(made)}; write {made.__name__}(Binarizer)"
        return
    if _inherits(made, "layer") and _inherits(made, "decide"):
        yield "expected layer(target) -> Decision, or decide(targets); got neither; write layer"
    elif not _needed(made):
        fault = binarizer_fault(made)
        if fault:
            yield fault


def _of_task(made: Made) -> Iterator[str]:
    if ("tbn_bench.tasks._base", "Task") not in _bases(made):
        yield f"expected a class of Task, got {_kind(made)}; write {made.__name__}(Task)"
        return
    for method in ("training_loss", "evaluation_loss", "scores"):
        if _inherits(made, method):
            yield f"expected the method {method}, got none; see docs/guides/task.md"
    if not isinstance(getattr(made, "score", None), str):
        yield 'expected score = "top1" or another name of scores.SCORES, got none'


def _of_data(made: Made) -> Iterator[str]:
    if ("tbn_bench.data._base", "TensorDataModule") in _bases(made):
        for method in ("read", "prepare"):
            if _inherits(made, method):
                yield f"expected the method {method}, got none; see docs/guides/data.md"
    for attribute in ("in_shape", "tasks"):
        value = getattr(made, attribute, None)
        if inspect.isclass(made) and "__init__" not in vars(made) and value is None:
            yield f"expected the class attribute {attribute}, got none; see docs/guides/data.md"


def _of_model(made: Made) -> Iterator[str]:
    for name in _needed(made):
        if name not in catalog.OFFERS:
            yield (
                f"expected options with a default, or one of {', '.join(catalog.OFFERS)}; "
                f"got {name} without a default; write {name}=..."
            )


def _of_optimizer(made: Made) -> Iterator[str]:
    for name in _needed(made):
        if name not in ("parameters", "config"):
            yield (
                f"expected (parameters, config, option=default, ...), got {name} without a "
                f"default; write {name}=..."
            )


def _of_table(made: Made) -> Iterator[str]:
    for name in _needed(made):
        if name != "records":
            yield f"expected a function of records alone, got {name} without a default"


def _of_figure(made: Made) -> Iterator[str]:
    if ("tbn_bench.reporting.figures._plugin", "ReportFigure") not in _bases(made):
        yield f"expected a class of ReportFigure, got {_kind(made)}"
        return
    if _inherited_figure(made, "x_of") and _inherited_figure(made, "frame"):
        yield "expected x_of(group, records) or frame(records), got neither; write x_of"
    if not getattr(made, "TITLE", ""):
        yield 'expected TITLE = "...", got none; the page shows it above the figure'


def _inherited_figure(made: Made, method: str) -> bool:
    function = getattr(made, method)
    home: str = function.__module__
    return home == "tbn_bench.reporting.figures._plugin"


def _inherits(made: Made, method: str) -> bool:
    """Whether a method is the abstract one of this package."""
    function = getattr(made, method, None)
    home = getattr(function, "__module__", "")
    return function is None or (home.startswith("tbn_bench.") and home.endswith("._base"))


def _needed(made: Made) -> list[str]:
    """Options without a default."""
    found = []
    for name, option in _options(made).items():
        is_variable = option.kind in (option.VAR_KEYWORD, option.VAR_POSITIONAL)
        if option.default is option.empty and not is_variable:
            found.append(name)
    return found


def _kind(made: Made) -> str:
    return "a class" if inspect.isclass(made) else "a function"


_FAULTS: dict[str, Callable[[Made], Iterator[str]]] = {
    "binarizers": _of_binarizer,
    "tasks": _of_task,
    "data": _of_data,
    "models": _of_model,
    "optimizers": _of_optimizer,
    "tables": _of_table,
    "figures": _of_figure,
}
