"""Sweeps, presets and published numbers that come with the package.

A wheel has them in tbn_bench/share. In a checkout they are the folders at its root.
"""

from pathlib import Path

from tbn_bench.catalog import did_you_mean

_PACKAGE = Path(__file__).parents[1]
_CHECKOUT = {"sweeps": "sweeps", "recipes": "recipes", "published": "results/published"}


def folder(kind: str) -> Path:
    """The folder of the package's own sweeps, recipes or published numbers."""
    installed = _PACKAGE / "share" / kind
    if installed.is_dir():
        return installed
    return _PACKAGE.parent / _CHECKOUT[kind]


def names(kind: str) -> list[str]:
    """Sorted names of the sweeps or recipes that come with the package."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(kind: str, given: Path) -> Path:
    """The YAML file that a path or a name means. kind: sweeps or recipes.

    A file of the user's wins: the path itself, NAME.yaml, then sweeps/NAME.yaml (or recipes/).
    After these a name is one of the package's own files. Raises ValueError for an unknown name; a
    path without a file is returned as it is, for its reader to refuse.
    """
    name = str(given)
    is_name = given.name == name and not given.suffix
    if given.is_file() or not is_name:
        return given
    for own in (Path(f"{name}.yaml"), Path(kind) / f"{name}.yaml"):
        if own.is_file():
            return own
    known = names(kind)
    if name not in known:
        raise ValueError(
            f"no file {name}, and none of the {kind} that come with the package has this name"
            f"{did_you_mean(name, known)}"
        )
    return folder(kind) / f"{name}.yaml"
