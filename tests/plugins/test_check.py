"""tbn-bench check: every contract of the shelf, for entries of this package and of a plugin."""

import json

import pytest

from tbn_bench import catalog, cli
from tbn_bench.plugins.check import broken, rules

SMALL = {
    "models": ["mlp(hidden=[16])", "resnet_cifar(depth=8, width=4)"],
    "data": ["digits", "synthetic"],
    "tasks": ["image_classification"],
    "optimizers": sorted(set(catalog.own_names("optimizers")) - {"from_timm"}),
}
CASES = [(shelf, call, rule) for shelf in SMALL for call in SMALL[shelf] for rule in rules(shelf)]


@pytest.mark.parametrize(
    ("shelf", "call", "rule"), CASES, ids=[f"{call}-{rule.claim}" for _, call, rule in CASES]
)
def test_entries_of_this_package_keep_their_contracts(shelf, call, rule):
    rule.check(call)


def checked(capsys, *arguments):
    status = cli.main(["check", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out.splitlines(), said.err


def test_a_good_file_passes(write, capsys):
    status, lines, _ = checked(capsys, write())
    assert status == 0
    assert len([line for line in lines if line.startswith("ok  half_scaled (binarizers)")]) == 5
    assert json.loads(lines[-1]) == {"entries": ["half_scaled"], "checked": 5, "failed": 0}


def test_state_outside_of_buffers_is_found(write, good, capsys):
    """Such a method trains and packs, and loses its state at every checkpoint."""
    source = good.replace(
        "    def forward",
        "    def __init__(self):\n        super().__init__()\n        self.drawn = None\n\n"
        "    def forward",
    ).replace("weight.abs().mean().reshape(1)", "weight.abs().mean().reshape(1) * self.factor()")
    source += (
        "\n\nimport itertools\n_COUNT = itertools.count(1)\n\n\n"
        "def factor(self):\n    self.drawn = self.drawn or next(_COUNT)\n    return self.drawn\n\n\n"
        "HalfScaledWeight.factor = factor\n"
    )
    status, lines, _ = checked(capsys, write(source))
    failed = [line for line in lines if line.startswith("FAIL")]
    assert status == 1
    assert any("a checkpoint holds all of its state" in line for line in failed)
    assert any("a parameter or a buffer" in line for line in lines)


def test_options_are_given_by_a_call(write, good, capsys):
    """A method that needs an option is checked with it; without one the error says so."""
    source = good.replace(
        "    def layer", "    def __init__(self, p: int):\n        self.p = p\n\n    def layer"
    )
    path = write(source)
    status, lines, _ = checked(capsys, path)
    assert (status, "half_scaled needs p" in "\n".join(lines)) == (1, True)
    assert checked(capsys, path, "--call", "half_scaled(p=2)")[0] == 0
    status, _, said = checked(capsys, path, "--call", "half_scale(p=2)")
    assert (status, "did you mean 'half_scaled'" in said) == (1, True)


def test_an_error_in_the_code_is_a_finding(write):
    """What an entry raises is said with its kind."""
    (rule, *_) = rules("models")
    assert "unknown name" in broken(rule, "no_such_model")
