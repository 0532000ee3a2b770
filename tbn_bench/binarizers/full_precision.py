"""No binarization: the 32-bit reference of every table."""

from tbn_bench.binarizers._base import Binarizer, Decision, Target


class FullPrecision(Binarizer):
    """Leaves every weight as it is; 32 stored bits per weight."""

    def layer(self, target: Target) -> Decision:
        return Decision(None, "full precision")
