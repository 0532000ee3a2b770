"""The code and the files that decide a run's numbers, as one short hash per part.

A part is the source of an entry (binarizer, model, data, task, optimizer) with the files of the
shelves that it imports, or the equations that all runs share. The hash is that of the syntax tree:
comments, docstrings and layout do not count. No module is imported, so this needs no torch.

A file, folder or module that an entry's call names is a part, too: pretrained weights, a table,
images, a data set of one's own. Of a file, the content counts. Of a folder, the names and sizes of
all files count, and the content of SAMPLED files. If a folder has more, a single file that is
replaced by one of equal size may go unnoticed.
"""

import ast
import functools
import hashlib
import importlib.machinery
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.config import SHELF_OF, RunConfig

EQUATIONS = (
    "tiling.py",
    "format/layouts.py",
    "layers/reuse.py",
    "layers/mixed_copies.py",
    "layers/binary_input.py",
)
FUSED = "layers/fused"  # a folder: of runs with fuse
_ROOT = Path(__file__).parent
_DIGITS = 12
SAMPLED = 1_000
_END_BYTES = 65_536  # that are read at each end of a sampled file
_FILE = "file "  # how the part of a file, or of the listing of a folder, begins
_INSIDE = "inside "  # how the part of a folder's sampled contents begins
_MODULE = "module "
# options that may name a file or folder, by field of the config, and those that name a module
_PATHS = {"data": ("path", "name"), "model": ("path", "pretrained")}
_MODULES = ("train", "test")
_HAVE_DOCSTRINGS = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def of(config: RunConfig) -> dict[str, str]:
    """Part -> hash. Raises ValueError for an entry that does not exist."""
    found = {}
    for field, shelf in SHELF_OF.items():
        call = getattr(config, field)
        found[field] = _hash(_files(shelf, call))
        for named, path in _named_by(field, call):
            if path.is_file():
                found[f"{_FILE}{named}"] = _content_of_file(path, path.stat().st_mtime_ns)
                continue

            files = _files_in(path)
            found[f"{_FILE}{named}"] = _listed(path, files)
            found[f"{_INSIDE}{named}"] = _sampled(tuple(files), _written(files))
        for module, path in _modules_of(call):
            found[f"{_MODULE}{module}"] = of_file(path)
    equations = [_ROOT / name for name in EQUATIONS]
    if config.fuse:
        equations += sorted((_ROOT / FUSED).glob("*.py"))
    found["equations"] = _hash([path for path in equations if path.exists()])
    return found


def changed(recorded: dict[str, str] | None, config: RunConfig) -> list[str] | None:
    """The parts whose code differs from the recorded one; [] where none does.

    None is unknown: the record has no fingerprint, or an entry's source is not here.
    """
    if not recorded:
        return None

    try:
        now = of(config)
    except (ValueError, OSError, SyntaxError):
        return None

    differ = {part for part in now if part in recorded and recorded[part] != now[part]}
    for part in list(differ):
        if part.startswith(_FILE):  # other names or sizes: the contents say nothing more
            differ.discard(part.replace(_FILE, _INSIDE, 1))
    return sorted(differ)


def named(parts: list[str]) -> str:
    """Parts in words: the code of binarizer, model and the content of net.safetensors."""
    code = []
    files = []
    for part in parts:
        if part.startswith((_FILE, _INSIDE)):
            files.append(part.partition(" ")[2])
        else:
            code.append(part)
    words = []
    if code:
        words.append(f"the code of {', '.join(code)}")
    if files:
        words.append(f"the content of {', '.join(files)}")
    return " and ".join(words)


def of_file(path: Path) -> str:
    """The hash of one Python file. Raises SyntaxError and OSError."""
    return _hash([path])


def of_text(source: str) -> str:
    """The hash of Python source, of its syntax tree alone. Raises SyntaxError."""
    tree = ast.parse(source)
    return hashlib.sha256(_text(tree).encode()).hexdigest()[:_DIGITS]


def _files(shelf: str, call: str) -> list[Path]:
    """The sources behind a call, and behind entries that its options name: smoke(of='digits')."""
    name, options = catalog.parse(call)
    if catalog.is_given(call):
        return []  # its call has the hash of its source

    found: dict[Path, None] = {}
    for path in _with_imports(catalog.source(shelf, name)):
        found[path] = None
    for value in options.values():
        inner = _entry_named(shelf, value)
        if inner is not None:
            found |= dict.fromkeys(_files(shelf, inner))
    return sorted(found)


def _named_by(field: str, call: str) -> Iterator[tuple[str, Path]]:
    """(name, path) of the files and folders that a call names and that are here."""
    _, options = catalog.parse(call)
    for option in _PATHS.get(field, ()):
        value = options.get(option)
        if not isinstance(value, str):
            continue

        for path in (Path(value), Path(os.environ.get("TBN_BENCH_DATA", "data"), value)):
            if path.exists():
                yield value, path
                break


def _files_in(folder: Path) -> list[Path]:
    """All files below a folder, in order of their names."""
    found = []
    for place, _, names in os.walk(folder):
        paths = [Path(place, name) for name in names]
        found += [path for path in paths if path.is_file()]
    return sorted(found)


def _listed(folder: Path, files: list[Path]) -> str:
    """The hash of names and sizes."""
    lines = []
    for file in files:
        lines.append(f"{file.relative_to(folder)}:{file.stat().st_size}")
    text = "\n".join(sorted(lines))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _written(files: list[Path]) -> int:
    """Changes if one of the files is written again."""
    return hash(tuple(file.stat().st_mtime_ns for file in files))


@functools.lru_cache(8)
def _sampled(files: tuple[Path, ...], _written: int) -> str:
    """The hash of both ends of at most SAMPLED files, evenly apart. _written: for the cache."""
    step = -(-len(files) // SAMPLED) or 1
    whole = hashlib.sha256()
    for path in files[::step]:
        whole.update(_ends(path))
    return whole.hexdigest()[:_DIGITS]


def _ends(path: Path) -> bytes:
    """The first bytes of a file, and the last ones of a longer file."""
    with path.open("rb") as file:
        first = file.read(_END_BYTES)
        size = path.stat().st_size
        if size <= _END_BYTES:
            return first

        file.seek(max(_END_BYTES, size - _END_BYTES))
        return first + file.read()


def _modules_of(call: str) -> Iterator[tuple[str, Path]]:
    """(module, source) of the options of a call that say 'package.module:attribute'."""
    _, options = catalog.parse(call)
    for option in _MODULES:
        value = options.get(option)
        if not isinstance(value, str):
            continue

        module, colon, _ = value.partition(":")
        path = _source_of(module) if colon else None
        if path is not None:
            yield module, path


def _source_of(module: str) -> Path | None:
    """The file of a module, which is not imported; None where there is no such file."""
    top, *inner = module.split(".")
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is None:
        return None

    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not inner:
        places = [Path(spec.origin or "")]
    for place in places:
        path = place.joinpath(*inner)
        for file in (path, path.with_suffix(".py"), path / "__init__.py"):
            if file.suffix == ".py" and file.is_file():
                return file
    return None


@functools.lru_cache(64)
def _content_of_file(path: Path, _written: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def _entry_named(shelf: str, value: Any) -> str | None:
    """The value, where it is a call of an entry of the shelf."""
    if not isinstance(value, str):
        return None

    try:
        name, _ = catalog.parse(value)
    except ValueError:
        return None
    return value if name in catalog.names(shelf) else None


def _with_imports(path: Path) -> list[Path]:
    """A source, and the files of the shelves that it imports, directly or not."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue

        found[path] = None
        waiting += _imports(path, path.stat().st_mtime_ns)
    return list(found)


@functools.lru_cache(1024)
def _imports(path: Path, _written: int) -> tuple[Path, ...]:
    """Files of the shelves that a file names in its imports. _written: for the cache alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        for module in _modules(node, path):
            file = _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")
            if file.is_file():
                found.append(file)
    return tuple(found)


def _modules(node: ast.AST, path: Path) -> Iterator[str]:
    """Dotted names that may be modules of the shelves."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        stem = _stem(node, path)
        names = [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
    for name in names:
        if name.startswith(tuple(f"tbn_bench.{shelf}." for shelf in SHELF_OF.values())):
            yield name


def _stem(node: ast.ImportFrom, path: Path) -> str:
    """What an import is from, with relative ones made absolute."""
    if not node.level:
        return node.module or ""

    folder = path.parents[node.level - 1]
    if not folder.is_relative_to(_ROOT):
        return ""

    parts = ["tbn_bench", *folder.relative_to(_ROOT).parts]
    return ".".join([*parts, node.module] if node.module else parts)


def _hash(paths: list[Path]) -> str:
    """Of the names and the syntax trees of files, in order of their names."""
    whole = hashlib.sha256()
    for path in sorted(paths, key=lambda p: (p.name, str(p))):
        whole.update(f"{path.name}:{_tree(path, path.stat().st_mtime_ns)};".encode())
    return whole.hexdigest()[:_DIGITS]


@functools.lru_cache(1024)
def _tree(path: Path, _written: int) -> str:
    tree = ast.parse(path.read_bytes())
    return hashlib.sha256(_text(tree).encode()).hexdigest()


def _text(node: Any) -> str:
    """A syntax tree as text.

    Fields without a value are left out, so that a newer Python gives the same text.
    """
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"

    if not isinstance(node, ast.AST):
        return repr(node)

    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _HAVE_DOCSTRINGS):
            value = _without_docstring(node)
        if value is not None and value != [] and name not in ("kind", "type_comment"):
            fields.append(f"{name}={_text(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _without_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> list[ast.stmt]:
    body = node.body
    if ast.get_docstring(node, clean=False) is None:
        return body
    return body[1:]
