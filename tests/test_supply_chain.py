"""What is installed: the tested versions, by their hashes, and a pinned build backend."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    extras = project["optional-dependencies"]
    asked = project["dependencies"] + extras["peers"] + extras["search"] + extras["mcu"]
    asked += [line for line in extras["dev"] if not line.startswith("tbn-bench")]
    lock = locked()
    for line in asked:
        wanted = Requirement(line)
        (version,) = lock[canonicalize_name(wanted.name)][0].specifier
        assert wanted.specifier.contains(version.version), line


def test_the_build_backend_is_pinned():
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    assert [
        [spec.operator for spec in Requirement(line).specifier] for line in system["requires"]
    ] == [["=="]]
