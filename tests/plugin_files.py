"""Plugin files for the tests."""

import re
from pathlib import Path

METHOD = '''
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

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "plugins.md"
REPORT = re.search(r"```py\n(.+?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
