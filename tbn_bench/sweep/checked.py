"""Whether every config of a sweep can be built, asked of the models once per version of the code.

Building imports torch and Lightning, which takes four seconds. A config that this very code has
accepted is in a file of the user's cache ($TBN_BENCH_CACHE, else ~/.cache/tbn_bench), so that the
next launch of the sweep starts at once.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tbn_bench
from tbn_bench import catalog
from tbn_bench.atomic import replace_file
from tbn_bench.catalog import plugged
from tbn_bench.config import SHELF_OF, RunConfig

# fields of a config that decide whether it can be built
_BUILT = (
    "data",
    "model",
    "binarizer",
    "task",
    "keep",
    "optimizer",
    "momentum",
    "mixup",
    "cutmix",
    "tta",
    "select",
)
_LIBRARIES = ("torch", "pytorch-lightning", "timm", "torchmetrics", "numpy")
_MOST = 20_000  # accepted configs in the file


def check(configs: list[RunConfig]) -> None:
    """Builds every distinct network, with optimizer and task, and runs every distinct model once.

    What this code has accepted before is not built again. Raises ValueError listing every config
    that cannot be built.
    """
    distinct = {_built(config): config for config in reversed(configs)}
    accepted = Accepted.read()
    new = [config for config in reversed(distinct.values()) if config not in accepted]
    if not new:
        return
    errors = _errors(new, accepted)
    accepted.write()
    if errors:
        raise ValueError("\n".join(errors))


def _built(config: RunConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in _BUILT)


def _errors(configs: list[RunConfig], accepted: "Accepted") -> Iterable[str]:
    """What is wrong with these configs; those without a fault are noted as accepted."""
    from tbn_bench.experiment import build  # torch, which a launch without new configs does without

    errors: dict[str, None] = {}
    ran: set[tuple[str, str]] = set()
    for config in configs:
        network = (config.data, config.model)
        try:
            build.check(config, forward=network not in ran)
        except ValueError as error:
            for line in str(error).splitlines():
                errors[f"{config.model} with {config.binarizer}: {line}"] = None
        else:
            ran.add(network)
            accepted.add(config)
    return errors


class Accepted:
    """Configs without a fault, by hash, in a file that one version of the code writes.

    Another version of this package, of Python or of a library begins the file anew. A config with a
    plugin, or with an option that names a file, is never in it: their content can change.
    """

    def __init__(self, path: Path, known: Iterable[str] = ()) -> None:
        self.path = path
        self.known = dict.fromkeys(known)
        self.has_new = False

    @classmethod
    def read(cls) -> "Accepted":
        """The file of the user's cache; empty if it is not there or is of other code."""
        path = _folder() / "accepted.json"
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["code"] == _code():
                return cls(path, content["configs"])
        return cls(path)

    def __contains__(self, config: RunConfig) -> bool:
        return _hash(config) in self.known and _is_of_package(config)

    def add(self, config: RunConfig) -> None:
        if _is_of_package(config):
            self.known[_hash(config)] = None
            self.has_new = True

    def write(self) -> None:
        """Writes what was added. A cache that cannot be written is done without."""
        if not self.has_new:
            return
        latest = list(self.known)[-_MOST:]
        content = json.dumps({"code": _code(), "configs": latest})
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, content.encode())


def _folder() -> Path:
    own = os.environ.get("TBN_BENCH_CACHE")
    if own:
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "tbn_bench"


def _code() -> str:
    """A hash of all that can change a verdict: this package's files, Python and the libraries."""
    root = Path(tbn_bench.__file__).parent
    said = [sys.version]
    for library in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            said.append(f"{library} {version(library)}")
    for path in sorted(root.rglob("*.py")):
        state = path.stat()
        said.append(f"{path} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(said).encode()).hexdigest()


def _hash(config: RunConfig) -> str:
    return hashlib.sha256(repr(_built(config)).encode()).hexdigest()[:32]


def _is_of_package(config: RunConfig) -> bool:
    """Whether the verdict depends on nothing outside this package and its libraries."""
    for field, shelf in SHELF_OF.items():
        call = getattr(config, field)
        name, options = catalog.parse(call)
        if catalog.is_given(call) or plugged.find(shelf, name) is not None:
            return False
        if any(_names_file(text) for text in _texts(options)):
            return False
    return True


def _texts(value: Any) -> Iterator[str]:
    """Every string in an option's value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _names_file(text: str) -> bool:
    return any(mark in text for mark in (os.sep, "/")) or Path(text).exists()
