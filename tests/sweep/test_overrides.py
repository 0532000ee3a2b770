"""tbn-bench sweep --set: another value of a parameter, for one call."""

import pytest
import yaml

from tbn_bench.sweep import spec
from tbn_bench.sweep.overrides import overridden

FILE = {
    "name": "s",
    "method": "grid",
    "parameters": {
        "epochs": {"value": 50},
        "seed": {"values": [0, 1, 2]},
        "binarizer": {"value": "tbn"},
        "binarizer.p": {"values": [2, 4]},
    },
}


@pytest.fixture
def configs(tmp_path):
    """configs(*sets) -> those of FILE with these --set."""
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(FILE))

    def configs(*sets):
        return spec.load_all([path], sets).configs

    return configs


def test_one_value_and_several(configs):
    """A value replaces a list, a list a value; the others stay."""
    found = configs("epochs=1", "seed.values=[0,1]", "binarizer.p=8")
    assert [(c.epochs, c.seed, c.binarizer) for c in found] == [
        (1, 0, "tbn(p=8)"),
        (1, 1, "tbn(p=8)"),
    ]


def test_a_parameter_that_the_file_does_not_have(configs):
    assert {c.lr for c in configs("lr.values=[1e-3, 0.1]")} == {1e-3, 0.1}


def test_nested_parameters_are_found():
    file = {"parameters": {"binarizer": {"parameters": {"p": {"value": 2}}}}}
    assert overridden(file, ["binarizer.p=4"])["parameters"] == {"binarizer.p": {"value": 4}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs", "--set takes NAME=VALUE"),
        ("=1", "--set takes NAME=VALUE"),
        ("seed.values=[0,", "the value is no YAML"),
        ("learning_rate=0.1", "did you mean 'lr'"),
        ("epochs=0", "epochs: "),
    ],
)
def test_mistakes(configs, text, said):
    with pytest.raises(ValueError, match=said):
        configs(text)
