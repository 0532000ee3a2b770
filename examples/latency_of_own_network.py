"""Time a packed network of your own against the full-precision one.

No time is taken before the outputs of each variant match its float64 reference.

usage: python examples/latency_of_own_network.py [--width N] [--batch N]
"""

import argparse
import copy

import torch
from torch import nn

import tbn_bench as tb
from tbn_bench.convert import dense
from tbn_bench.latency.gate import Variant
from tbn_bench.latency.show import show
from tbn_bench.latency.timing import prepare, time_case

BINARIZER = "tbn(p=4, min_layer_size=0)"


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(256, width), nn.ReLU(), nn.Linear(width, 10)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    prepare("cpu", threads=1)
    x = torch.randn(args.batch, 256)

    full = network(args.width)
    tiled = copy.deepcopy(full)
    tb.binarize_(tiled, BINARIZER)
    expanded = dense(tiled)  # the same outputs from ordinary float weights: the reference
    tb.pack_(tiled)

    full_bytes = 4 * sum(parameter.numel() for parameter in full.parameters())
    variants = [
        # The name "dense" of full precision is the baseline of all ratios.
        Variant("full_precision", "dense", full, copy.deepcopy(full), full_bytes),
    ]
    # Executor runs by the native kernels, or in torch where there is no C++ compiler.
    run = tb.Executor(tiled, x)
    packed_bytes = run.weight_bytes()
    variants.append(Variant(BINARIZER, "packed", run, expanded, packed_bytes))

    case = f"own-network-b{args.batch}"
    info = {"data": None, "model": "own network", "sweep": None}
    record = time_case(
        case, variants, x, 1, "cpu", info, "python examples/latency_of_own_network.py"
    )
    show(record)


if __name__ == "__main__":
    main()
