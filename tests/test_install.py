"""The wheel in fresh environments: no compiler, no checkout, and the declared packages alone.

Packages come from this environment, as links: those that the wheel's metadata asks for, and those
that they ask for in turn. Nothing but the build backend is fetched.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PathDistribution, distribution
from pathlib import Path
from zipfile import Path as ZipPath

import pytest
from generated_runs import finished_run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tbn_bench.records.store import RunStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parent.parent

NETWORK = """
import torch
import tbn_bench as tb
from tbn_bench.native import library

def network():
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))

model = network()
tb.binarize_(model, "tbn(p=4, min_layer_size=0)")
x = torch.randn(3, 64)
expected = model(x)
tb.pack_(model)
tb.save(model, "net.safetensors")
assert torch.allclose(tb.load(network(), "net.safetensors")(x), expected, atol=1e-5)
run = tb.Executor(model, x)
assert torch.allclose(run(x), expected, atol=1e-5)
assert library.load()
print(library.library_path())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (file,) = folder.glob("*.whl")
    return file


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


def test_the_core_plans_and_runs_networks(wheel, tmp_path):
    """Without an extra: plan, the verbs and the compiled library. A sweep names its extra."""
    names = with_theirs(wheel, asked_by(wheel, [""]))
    assert not names & {"pytorch-lightning", "pandas", "matplotlib", "scipy", "wandb", "timm"}
    here = installed(wheel, tmp_path, names)
    assert '"weights": 166400' in last_line(here.run("tbn-bench", "plan", "--binarizer=tbn(p=4)"))
    assert str(here.environment) in last_line(here.run("python", "-c", NETWORK))
    refused = here.run("tbn-bench", "sweep", "quickstart", "--dry-run")
    assert refused.returncode == 1
    assert refused.stderr.endswith(': pip install "tbn-bench[sweep]"\n')


def test_a_sweep_of_the_package_starts_anywhere(wheel, tmp_path):
    """With the extra `sweep`, by its name, in an empty folder."""
    names = with_theirs(wheel, asked_by(wheel, ["sweep"]))
    here = installed(wheel, tmp_path, names)
    line = last_line(here.run("tbn-bench", "sweep", "quickstart", "--dry-run"))
    assert '"runs": 24, "finished": 0' in line


def test_reports_are_made_without_torch(wheel, tmp_path):
    """With the extra `report`, and torch left out: records to a page, and a list of runs."""
    wanted = [one for one in asked_by(wheel, ["report"]) if one.name != "torch"]
    here = installed(wheel, tmp_path, with_theirs(wheel, wanted))
    assert here.run("python", "-c", "import torch").returncode == 1
    run_id = finished_run(RunStore(here.folder / "results"), 0.8, 0.9)
    last_line(here.run("tbn-bench", "report"))
    assert (here.folder / "reports" / "index.html").is_file()
    assert '"cells": ' in last_line(here.run("tbn-bench", "report", "--paper"))
    assert run_id in here.run("tbn-bench", "runs", "list").stdout
    refused = here.run("tbn-bench", "plan")
    assert refused.stderr == "tbn-bench plan needs torch: pip install tbn-bench\n"
