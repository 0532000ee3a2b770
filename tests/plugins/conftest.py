"""A plugin file for the tests."""

import pytest

GOOD = '''
from tbn_bench.extend import Binarizer, Decision, WeightBinarizer, clip_ste


class HalfScaledWeight(WeightBinarizer):
    def forward(self, weight):
        return self.scales(weight) * clip_ste(weight)

    def signs(self, weight):
        return clip_ste(weight).reshape(-1)

    def scales(self, weight):
        return weight.abs().mean().reshape(1)

    def num_scales(self, weight):
        return 1


class HalfScaled(Binarizer):
    """One scale per layer."""

    def layer(self, target):
        return Decision(HalfScaledWeight(), "binary, one scale")
'''


@pytest.fixture
def write(tmp_path):
    """write(source, name) -> the path of a plugin file."""

    def write(source=GOOD, name="my_methods.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    return write


@pytest.fixture
def good():
    return GOOD
