"""The file is the registration: a file in an open folder is an entry, its name is the entry's name.

An entry is written as a call everywhere (command line, sweep file, record, table row): ``tbn(p=4)``, ``sign``,
``resnet_cifar(depth=18)``. Calls are parsed with ``ast``: keyword arguments, literal values only. The module's entry is the
callable whose name equals the file's name, letter case and underscores aside (``fashion_mnist.py`` -> ``FashionMNIST``).
"""

import ast
import difflib
import importlib
import inspect
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

PACKAGES = ("binarizers", "models", "data", "tasks", "optimizers", "kernels")


def _likeness(word: str, known: str) -> tuple[float, int]:
    """Of equal ratios the one that shares more letters in any order: letters are often swapped."""
    return difflib.SequenceMatcher(None, word, known).ratio(), sum((Counter(word) & Counter(known)).values())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean ...?' where a known word is near, and the list of all known ones."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    best = max(near, key=lambda k: _likeness(word, k), default=None)
    hint = f", did you mean {best!r}?" if best else ""
    return f"{hint} Known: {', '.join(known)}" if hint else f"; known: {', '.join(known)}"


def names(package: str) -> list[str]:
    """Sorted names of all entries of an open folder, e.g. names("binarizers")."""
    if package not in PACKAGES:
        raise ValueError(f"unknown package {package!r}{did_you_mean(package, PACKAGES)}")
    module = importlib.import_module(f"tbn_bench.{package}")
    return sorted(m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_"))


def load(package: str, name: str) -> Callable[..., Any]:
    """The callable of entry `name`. Raises ValueError, listing what exists, for an unknown name."""
    known = names(package)
    if name not in known:
        raise ValueError(f"unknown name {name!r} in {package}{did_you_mean(name, known)}")
    module = importlib.import_module(f"tbn_bench.{package}.{name}")
    wanted = name.replace("_", "")
    for attribute, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if own and callable(value) and attribute.replace("_", "").lower() == wanted:
            found: Callable[..., Any] = value
            return found
    raise TypeError(f"tbn_bench/{package}/{name}.py defines no callable of the file's name")


def parse(call: str) -> tuple[str, dict[str, Any]]:
    """'tbn(p=4)' -> ("tbn", {"p": 4}). Raises ValueError for anything but a name with literal keyword arguments."""
    expected = f"expected a call such as tbn(p=4) or a bare name, got {call!r}"
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(expected) from error
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(expected)
    if node.args or any(k.arg is None for k in node.keywords):
        raise ValueError(f"{expected}; write every argument as name=value")
    if len({k.arg for k in node.keywords}) < len(node.keywords):
        raise ValueError(f"{expected}; give every argument once")
    try:
        return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except ValueError as error:
        raise ValueError(f"{expected}; values must be literals (numbers, strings, lists, None, True, False)") from error


def canonical(call: str) -> str:
    """One spelling per entry: arguments sorted by name, no empty parentheses. 'tbn( p=4 )' -> 'tbn(p=4)'."""
    name, kwargs = parse(call)
    return f"{name}({', '.join(f'{k}={kwargs[k]!r}' for k in sorted(kwargs))})" if kwargs else name


def build(package: str, call: str, **extra: Any) -> Any:
    """Calls the entry: build("models", "mlp(hidden=[64])", num_classes=10). Arguments of the call win over `extra`.

    Raises ValueError for an unknown entry or argument (with a suggestion) and for whatever the entry itself refuses.
    """
    name, kwargs = parse(call)
    entry = load(package, name)
    parameters = inspect.signature(entry).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    options = [n for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for key in kwargs:
        if key not in options and not open_ended:
            raise ValueError(f"{name} has no option {key!r}{did_you_mean(key, options)}")
    known_extra = {k: v for k, v in extra.items() if k in options}
    merged = {**known_extra, **kwargs}
    missing = [n for n in options if parameters[n].default is inspect.Parameter.empty and n not in merged]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}: write {name}({missing[0]}=...)")
    return entry(**merged)
