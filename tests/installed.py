"""The wheel in an environment of its own: no compiler, no checkout, and the packages that are asked for.

Packages come from this environment, as links: those that the wheel's metadata asks for, and those
that they ask for in turn. Nothing but the build backend is fetched.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OF_WHEEL = (
    "pyproject.toml",
    "CMakeLists.txt",
    "README.md",
    "LICENSE",
    "tbn_bench",
    "sweeps",
    "recipes",
    "results/published",
)
UNCOMPILED = "wheel.cmake=false"


def built(folder: Path, *settings: str) -> Path:
    """A wheel of this checkout, in `folder`. settings: of the build backend."""
    given = [f"--config-settings={setting}" for setting in settings]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *given, "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    (file,) = folder.glob("*.whl")
    return file


def kept(folder: Path) -> Path:
    """A wheel without the compiled library, which takes a minute; built when a source has changed."""
    place = folder / sources_hash()
    if not place.exists():
        shutil.rmtree(folder)
        fresh = folder / "fresh"
        built(fresh, UNCOMPILED)
        fresh.rename(place)
    (file,) = place.glob("*.whl")
    return file


def sources_hash() -> str:
    """Of all that a wheel is built from."""
    whole = hashlib.sha256()
    for name in OF_WHEEL:
        top = ROOT / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                whole.update(f"{file.relative_to(ROOT)}\n".encode())
                whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


def asked_by(wheel: Path, extras: Iterable[str]) -> list[Requirement]:
    """What the wheel's metadata asks for with these extras; "" is the core."""
    (info,) = [part for part in ZipPath(wheel).iterdir() if part.name.endswith(".dist-info")]
    metadata = PathDistribution(info)
    found = []
    for line in metadata.requires or []:
        wanted = Requirement(line)
        if any(_applies(wanted, extra) for extra in extras):
            found.append(wanted)
    return found


def _applies(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def with_theirs(wheel: Path, wanted: Iterable[Requirement]) -> set[str]:
    """Names of distributions: the wanted ones and those that these need in turn."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = list(wanted)
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        key = (name, frozenset(one.extras))
        if key in found:
            continue
        found.add(key)
        extras = ["", *one.extras]
        if name == "tbn-bench":
            waiting += asked_by(wheel, extras)
            continue
        needs = map(Requirement, distribution(name).requires or [])
        waiting += [need for need in needs if any(_applies(need, extra) for extra in extras)]
    return {name for name, _ in found} - {"tbn-bench"}


@dataclass
class Installed:
    """A fresh environment, and an empty folder to work in."""

    environment: Path
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment: it finds no compiler and no checkout."""
        program = str(self.environment / "bin" / command[0])
        variables = {"PATH": str(self.environment / "bin"), "HOME": str(self.folder)}
        variables["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )


def installed(wheel: Path, folder: Path, names: Iterable[str]) -> Installed:
    """The wheel and links to these distributions in an environment of their own."""
    environment = folder / "environment"
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "-q", "--no-deps", str(wheel)], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    for name in names:
        link(name, packages)
    empty = folder / "empty"
    empty.mkdir()
    return Installed(environment, empty)


def link(name: str, packages: Path) -> None:
    """Links what a distribution has at the top of site-packages."""
    found = distribution(name)
    tops = {file.parts[0] for file in found.files or []}
    for top in tops - {"..", "__pycache__"}:
        place = packages / top
        if not place.exists():
            place.symlink_to(Path(str(found.locate_file(top))))


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def lines(done: subprocess.CompletedProcess[str]) -> list[dict]:
    """The JSON that each command of a process has ended with."""
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
