"""The wheel in fresh environments: no compiler, no checkout, and the declared packages alone.

tests/test_journeys.py has what is done with it.
"""

from pathlib import Path

import pytest
from installed import asked_by, built, installed, last_line, with_theirs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

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
    return built(tmp_path_factory.mktemp("wheel"))


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
