"""Names of binarizers, models, data sets and other entries: list them, check a call, build it.

The file is the registration: a file in an open folder is an entry, and its name is the entry's
name. An entry is written as a call everywhere (command line, sweep file, record, table row):
``tbn(p=4)``, ``sign``, ``resnet_cifar(depth=18)``. Arguments have names and literal values. The
module's entry is the callable with the file's name; letter case and underscores do not count
(``fashion_mnist.py`` -> ``FashionMNIST``).
"""

import ast
import copy
import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError

from tbn_bench.catalog import given, plugged

PACKAGES = (
    "binarizers",
    "models",
    "data",
    "tasks",
    "optimizers",
    "tables",
    "figures",
    "kernels",
)
# of a data set: what models and tasks may ask for, by the name of a parameter
OFFERS = (
    "num_classes",
    "in_shape",
    "parts",
    "class_weights",
    "horizon",
    "targets",
    "token_bytes",
)
_FOLDERS = {"tables": "reporting.tables", "figures": "reporting.figures"}
_SYNONYMS = {  # words of other tools -> fields of RunConfig
    "learning_rate": "lr",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "dataset": "data",
    "arch": "model",
    "network": "model",
    "method": "binarizer",
    "quantizer": "binarizer",
    "optim": "optimizer",
    "opt": "optimizer",
    "scheduler": "schedule",
    "lr_schedule": "schedule",
    "random_seed": "seed",
}
LIMIT_LETTERS = 20_000  # of a call
_MAX_VALUE = 200  # letters of a value in a message
_MAX_ERROR = 1000  # letters of an entry's own error


class EntryFailed(ValueError):
    """An entry failed on its options, with an error that does not say what is wrong with them."""


def _likeness(word: str, known: str) -> tuple[float, int]:
    """How near two words are.

    Of equal ratios, more shared letters in any order win, because letters are often swapped.
    """
    ratio = difflib.SequenceMatcher(None, word, known).ratio()
    shared = Counter(word) & Counter(known)
    return ratio, shared.total()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean ...?' where a known word is near, and the list of all known ones."""
    known = sorted(known)
    listed = ", ".join(known)
    named = {name.lstrip("-"): name for name in known}  # that flags have dashes is no likeness
    alike = difflib.get_close_matches(word.lstrip("-"), named, n=3, cutoff=0.5)
    near = [named[name] for name in alike]
    best = _synonym(word, known) or max(near, key=lambda k: _likeness(word, k), default=None)
    if best:
        return f", did you mean {best!r}? Known: {listed}"
    return f"; known: {listed}"


def _synonym(word: str, known: Iterable[str]) -> str | None:
    """The known word for another one of the field; also of flags: --learning-rate -> --lr."""
    bare = word.lstrip("-")
    dashes = word[: len(word) - len(bare)]
    meant = _SYNONYMS.get(bare.replace("-", "_").lower(), "")
    found = f"{dashes}{meant}"
    return found if meant and found in known else None


def names(package: str) -> list[str]:
    """Sorted names of all entries of an open folder and of plugins, e.g. names("binarizers")."""
    if package not in PACKAGES:
        raise ValueError(f"unknown package {package!r}{did_you_mean(package, PACKAGES)}")
    return sorted({*own_names(package), *plugged.names(package)})


def _module(package: str) -> str:
    """Of the open folder of a shelf."""
    folder = _FOLDERS.get(package, package)
    return f"tbn_bench.{folder}"


def own_names(package: str) -> list[str]:
    """Names of the entries of this package alone, without plugins."""
    folder = importlib.import_module(_module(package))
    found = []
    for module in pkgutil.iter_modules(folder.__path__):
        is_shared = package == "kernels" and not module.ispkg  # its entries are folders
        if not is_shared and not module.name.startswith("_"):
            found.append(module.name)
    return found


def load(package: str, name: str) -> Callable[..., Any]:
    """The callable of entry `name`. For an unknown name, raises ValueError that lists all names."""
    if name == given.NAME and package in given.SHELVES:
        return given.entry(package)

    _check_known(package, name)
    outside = plugged.load(package, name)
    if outside is not None:
        return outside

    module = importlib.import_module(f"{_module(package)}.{name}")
    for attribute, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if own and is_named(attribute, name) and callable(value):
            found: Callable[..., Any] = value
            return found
    raise TypeError(f"tbn_bench/{package}/{name}.py defines no callable of the file's name")


def is_named(attribute: str, name: str) -> bool:
    """Whether a class or function is that of entry `name`: case and underscores do not count."""
    return attribute.replace("_", "").lower() == name.replace("_", "").lower()


def source(package: str, name: str) -> Path:
    """The file of entry `name`; it is not imported. Raises ValueError for an unknown name."""
    _check_known(package, name)
    outside = plugged.source(package, name)
    if outside is not None:
        return outside

    spec = importlib.util.find_spec(f"{_module(package)}.{name}")
    if spec is None or spec.origin is None:
        raise ValueError(f"{name} in {package} has no source file")
    return Path(spec.origin)


def _check_known(package: str, name: str) -> None:
    known = names(package)
    if name not in known:
        raise ValueError(
            f"unknown name {short(name)} in {package}{did_you_mean(name, known)}; "
            "--plugin FILE adds entries of your own"
        )


def is_given(call: str) -> bool:
    """Whether a call stands for an object that was given in Python (given.py)."""
    return parse(call)[0] == given.NAME


def given_name(call: str) -> str:
    """A given object by its type, "Net (given)"; "" for any other call and for what is no call."""
    try:
        name, identity = parse(call)
    except ValueError:
        return ""
    return given.words(identity) if name == given.NAME else ""


def parse(call: str) -> tuple[str, dict[str, Any]]:
    """'tbn(p=4)' -> ("tbn", {"p": 4}).

    A value is a number (finite, integers of 64 bits), a string, True, False, None, or a list, tuple
    or dictionary of them. These are the same value when they are written and read back.
    Raises ValueError for anything but a name with literal keyword arguments.
    """
    if not isinstance(call, str) or len(call) > LIMIT_LETTERS:
        raise ValueError(f"{_expected(call)}; it must be text of at most {LIMIT_LETTERS:,} letters")

    name, kwargs = _parsed(call)
    return name, copy.deepcopy(kwargs)  # the caller's own, whose lists it may change


def _expected(call: Any) -> str:
    return f"expected a call such as tbn(p=4) or a bare name, got {short(call)}"


@functools.lru_cache(maxsize=4096)  # a report asks tens of thousands of times for the same calls
def _parsed(call: str) -> tuple[str, dict[str, Any]]:
    expected = _expected(call)
    try:
        node = ast.parse(call.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:  # the last two: nesting
        raise ValueError(expected) from error

    if isinstance(node, ast.Name):
        return node.id, {}

    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(expected)

    if node.args or any(k.arg is None for k in node.keywords):
        raise ValueError(f"{expected}; write every argument as name=value")

    keys = {k.arg for k in node.keywords}
    if len(keys) < len(node.keywords):
        raise ValueError(f"{expected}; give every argument once")

    kwargs = {str(k.arg): _literal(k.value, expected) for k in node.keywords}
    return node.func.id, kwargs


def _literal(node: ast.expr, expected: str) -> Any:
    """The value of an argument. Raises ValueError, beginning with `expected`."""
    try:
        value = ast.literal_eval(node)
        repeated = _repeated_key(node)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"{expected}; values must be literals (numbers, strings, lists, None, True, False)"
        ) from error
    if repeated is not None:
        raise ValueError(f"{expected}; give key {short(repeated[0])} once")

    if not _is_plain(value):
        raise ValueError(
            f"{expected}; values must be finite numbers of 64 bits, strings, True, False, None, "
            "lists, tuples or dictionaries"
        )
    return value


def _repeated_key(node: ast.expr) -> tuple[Any] | None:
    """(a key that some dictionary in a literal gives twice,), or None. It takes linear time."""
    for part in ast.walk(node):
        if not isinstance(part, ast.Dict):
            continue

        seen = set()
        for key in part.keys:
            value = None if key is None else ast.literal_eval(key)
            if value in seen:
                return (value,)

            seen.add(value)
    return None


def _is_plain(value: Any) -> bool:
    """Whether a value is the same when it is written and read again.

    A set is not, because it has no order. Infinity is not, because it has no literal.
    """
    if isinstance(value, dict):
        return _is_plain(list(value)) and _is_plain(list(value.values()))

    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)

    if isinstance(value, float):
        return math.isfinite(value)

    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None or isinstance(value, str)


def short(value: Any) -> str:
    """repr of a value, cut in the middle where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a value of type {type(value).__name__} that is too long to show"
    return _cut(text, _MAX_VALUE)


def _cut(text: str, letters: int) -> str:
    """A text, cut in the middle where it has more than `letters`."""
    if len(text) <= letters:
        return text

    half = letters // 2
    return f"{text[:half]}...{text[-half:]}"


def canonical(call: str) -> str:
    """The one spelling of a call: 'tbn( p=4 )' -> 'tbn(p=4)'.

    Arguments are sorted by name, and there are no empty parentheses.
    """
    name, kwargs = parse(call)
    if not kwargs:
        return name

    arguments = ", ".join(f"{key}={kwargs[key]!r}" for key in sorted(kwargs))
    return f"{name}({arguments})"


def options(package: str, name: str) -> dict[str, Any] | None:
    """Option -> annotation, of the options that a call can give.

    None for an entry that takes any option.
    """
    parameters = inspect.signature(load(package, name)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    return {key: p.annotation for key, p in parameters.items() if _has_literals(p.annotation)}


def _has_literals(annotation: Any) -> bool:
    """False for a type that has no literals, e.g. a module."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return False

    try:
        TypeAdapter(annotation)
    except PydanticUserError:
        return False
    return True


def no_option(name: str, key: str, known: Iterable[str]) -> str:
    """The message about an option that an entry does not have."""
    known = list(known)
    hint = did_you_mean(key, known) if known else ": it takes none"
    return f"{name} has no option {short(key)}{hint}"


def check(package: str, call: str, supplied: Iterable[str] = ()) -> None:
    """Checks a call without calling the entry.

    supplied: names of options that the caller of the entry adds.
    Raises ValueError unless the entry exists and takes these options with values of these types.
    """
    name, kwargs = parse(call)
    known = options(package, name)
    if known is not None:
        for key, value in kwargs.items():
            _check_option(name, key, value, known)
    missing = [key for key in _needed(package, name) if key not in {*kwargs, *supplied}]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}: write {name}({missing[0]}=...)")


def _check_option(name: str, key: str, value: Any, known: dict[str, Any]) -> None:
    """known: option -> annotation."""
    if key not in known:
        raise ValueError(no_option(name, key, known))

    if not _fits(value, known[key]):
        wanted = inspect.formatannotation(known[key]).replace("collections.abc.", "")
        raise ValueError(f"{name}: option {key} must be {wanted}, got {short(value)}")


def _needed(package: str, name: str) -> list[str]:
    """The options of an entry without a default."""
    needed = []
    for key, parameter in inspect.signature(load(package, name)).parameters.items():
        has_default = parameter.default is not parameter.empty
        if not has_default and parameter.kind is not parameter.VAR_KEYWORD:
            needed.append(key)
    return needed


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a literal has the annotated type.

    Text is no number. A list may stand for a tuple, and 1 for True.
    """
    if annotation is inspect.Parameter.empty:
        return True  # an entry of someone's own, without annotations

    value = _lists(value)
    try:
        return bool(_lists(TypeAdapter(annotation).validate_python(value)) == value)
    except ValidationError:
        return False


def _lists(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, dict):
        return {key: _lists(part) for key, part in value.items()}

    if isinstance(value, list | tuple):
        return [_lists(part) for part in value]

    return value


def build(package: str, call: str, **extra: Any) -> Any:
    """Calls the entry: build("models", "mlp(hidden=[64])", num_classes=10).

    Of `extra`, the entry gets the arguments that it knows. Arguments of the call override them.
    Raises ValueError for an unknown entry or argument (with a suggestion), for a value of another
    type, and for options that the entry itself refuses. Raises EntryFailed, a ValueError, where the
    entry fails with another kind of error.
    """
    check(package, call, extra)
    name, kwargs = parse(call)
    entry = load(package, name)
    parameters = inspect.signature(entry).parameters
    known_extra = {key: value for key, value in extra.items() if key in parameters}
    try:
        return entry(**(known_extra | kwargs))
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        said = " ".join(str(error).split())
        shown = _cut(canonical(call), _MAX_ERROR)
        raise EntryFailed(
            f"{shown} cannot be built: {type(error).__name__}: {_cut(said, _MAX_ERROR)}; "
            "use other options"
        ) from error
    except ValueError as error:
        said = str(error)
        if len(said) <= _MAX_ERROR or type(error) is not ValueError:
            raise

        raise ValueError(_cut(said, _MAX_ERROR)) from error  # it repeats a long option in full
