"""The command that trains a published network: by a sweep, a recipe, or default settings."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench import yaml_file
from tbn_bench.install import shipped
from tbn_bench.reporting import published
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.tables._paper import is_ablation, is_study


@dataclass(frozen=True)
class Setting:
    """A sweep or recipe. values: parameter -> the values that it takes."""

    command: str
    values: dict[str, list[Any]]

    @property
    def name(self) -> str:
        """Of the sweep or recipe."""
        *_, path = self.command.split()
        return Path(path).stem

    @property
    def is_study(self) -> bool:
        return is_study(self.name)

    @property
    def epochs(self) -> int:
        return max(self.values.get("epochs", [0]))

    def covers(self, line: Line) -> bool:
        """Whether some values are the line's data set, model and method."""
        for key, (theirs, sizes_count) in _wanted(line).items():
            if not self._fitting(key, theirs, sizes_count):
                return False
        return True

    def config(self, line: Line) -> dict[str, str]:
        """The flags of the run that trains the line's network: its data, model and binarizer.

        Also its task, where the setting names one.
        """
        found = {}
        for key, (theirs, sizes_count) in _wanted(line).items():
            fitting = self._fitting(key, theirs, sizes_count)
            found[key] = str(fitting[0])
        tasks = self.values.get("task", [])
        if tasks:
            found["task"] = str(tasks[0])
        return found

    def _fitting(self, key: str, theirs: str, sizes_count: bool) -> list[Any]:
        """The values of a parameter that are what a line names."""
        found = []
        for value in self.values.get(key, []):
            is_fitting = published.is_same(theirs, str(value), sizes_count)
            if key == "data":
                is_fitting = published.is_data(theirs, str(value))
            if is_fitting:
                found.append(value)
        return found


def _wanted(line: Line) -> dict[str, tuple[str, bool]]:
    """parameter -> (the line's call, whether its sizes count)."""
    return {
        "data": (line["dataset"], True),
        "model": (line["model"], True),
        "binarizer": (line["spec"], False),
    }


def settings_of(repository: Path) -> list[Setting]:
    """Every sweep, then every recipe: of the repository, or those that come with the package.

    Raises ValueError for a file that is not YAML.
    """
    found = []
    for path, called in _files(repository, "sweeps"):
        command = f"tbn-bench sweep {called}"
        found.append(Setting(command, _swept(path)))
    for path, called in _files(repository, "recipes"):
        command = f"tbn-bench train --config {called}"
        values = {key: [value] for key, value in _mapping(path).items()}
        found.append(Setting(command, values))
    return found


def _files(repository: Path, kind: str) -> list[tuple[Path, str]]:
    """(file, what a command calls it): by its path in the repository, else by its name."""
    own = sorted(repository.glob(f"{kind}/*.yaml"))
    if own:
        return [(path, str(path.relative_to(repository))) for path in own]
    folder = shipped.folder(kind)
    return [(folder / f"{name}.yaml", name) for name in shipped.names(kind)]


def _swept(path: Path) -> dict[str, list[Any]]:
    """The values of each parameter of a sweep."""
    values = {}
    parameters = _mapping(path).get("parameters") or {}
    for key, parameter in parameters.items():
        if isinstance(parameter, dict):
            one = parameter.get("value")
            found = parameter.get("values", one)
            values[key] = found if isinstance(found, list) else [found]
    return values


def _mapping(path: Path) -> dict[str, Any]:
    value = yaml_file.read(path)
    return value if isinstance(value, dict) else {}


def setting_of(line: Line, settings: list[Setting]) -> Setting | None:
    """The setting with the most epochs of those that train a line's network; None if there is none.

    Only a study of the parts of a method trains the lines of an ablation.
    """
    study = is_ablation(line["spec"])
    fitting = [s for s in settings if s.covers(line) and s.is_study == study]
    if not fitting:
        return None
    return max(fitting, key=lambda setting: setting.epochs)


def command_of(line: Line, settings: list[Setting]) -> str:
    """The command of the sweep or recipe of setting_of; without one, that of a run by default."""
    setting = setting_of(line, settings)
    if setting:
        return setting.command
    command = [
        "tbn-bench",
        "train",
        f"--data={line['dataset']}",
        f"--model={line['model']}",
        f"--binarizer={line['spec']}",
    ]
    return f"{shlex.join(command)}  # default settings: no sweep or recipe has it"
