"""What is installed: the tested versions, by their hashes, and a pinned build backend."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tbn_bench.install import extras

ROOT = Path(__file__).parent.parent


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Name -> (requirement, hashes) of requirements.lock."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    lines = [
        line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")
    ]
    found = {}
    for line in lines:
        requirement = Requirement(line.partition("--hash")[0].strip())
        found[canonicalize_name(requirement.name)] = (
            requirement,
            re.findall(r"--hash=sha256:([0-9a-f]{64})", line),
        )
    return found


def asked_by(extra: str) -> list[Requirement]:
    """The requirements of an extra and of the extras that it includes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for line in project["optional-dependencies"][extra]:
        wanted = Requirement(line)
        if wanted.name != project["name"]:
            found.append(wanted)
        for inner in sorted(wanted.extras) if wanted.name == project["name"] else ():
            found += asked_by(inner)
    return found


def test_every_locked_package_has_one_version_and_hashes():
    for name, (requirement, hashes) in locked().items():
        assert [spec.operator for spec in requirement.specifier] == ["=="], name
        assert hashes, name


def test_the_lock_holds_the_tested_versions():
    """constraints.txt and requirements.lock name the same versions; `make lock` after a change."""
    lock = locked()
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    for line in lines[1:]:
        requirement = Requirement(line)
        assert lock[canonicalize_name(requirement.name)][0].specifier == requirement.specifier, line


def test_the_lock_meets_what_the_package_asks_for():
    """Every dependency of the package and of its extra `dev` is locked in a version that it allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = locked()
    for wanted in [*map(Requirement, project["dependencies"]), *asked_by("dev")]:
        (version,) = lock[canonicalize_name(wanted.name)][0].specifier
        assert wanted.specifier.contains(version.version), wanted


# module -> distribution, where the names differ
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "vl_convert": "vl-convert-python",
    "mlflow": "mlflow-skinny",
}


def distributions(modules: Iterable[str]) -> set[str]:
    return {canonicalize_name(DISTRIBUTIONS.get(module, module)) for module in modules}


def test_the_table_of_extras_is_that_of_the_package():
    """extras.py, which says what to install, names the packages of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert distributions(extras.CORE) == core
    for extra, modules in extras.EXTRAS.items():
        asked = {canonicalize_name(wanted.name) for wanted in asked_by(extra)}
        assert distributions(modules) == asked, extra


def test_earlier_extras_still_have_a_name():
    """Install commands of version 0.2 go on working."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    earlier = {"peers", "search", "dev", "mcu", "ray", "trackers"}
    assert earlier <= set(project["optional-dependencies"])


def test_the_build_backend_is_pinned():
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert [
        [spec.operator for spec in Requirement(line).specifier] for line in system["requires"]
    ] == [["=="]]
