"""Convert a network of your own, train it in your own loop, pack it, save it and load it again.

usage: python examples/own_training_loop.py [--epochs N] [--binarizer CALL] [--out FILE]
"""

import argparse
import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import tbn_bench as tb

TEST = 397  # images that are held out


def digits() -> tuple[Tensor, Tensor]:
    """(images (N, 1, 8, 8) in 0 to 1, labels (N,)), in a fixed random order."""
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(raw.target).long()
    return images[order], labels[order]


def network() -> nn.Module:
    """Any module with Linear, convolution or attention layers can be converted."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """A plain loop: the optimizer moves the latent weights, the forward pass uses the tiles."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for epoch in range(epochs):
        # Only methods with a schedule (irnet, adabin, snn, sparks) need these two calls.
        tb.advance_(model, epoch, epochs)
        for batch in torch.randperm(len(x)).split(64):
            tb.begin_step_(model)
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    found = model(x).argmax(1)
    return (found == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--binarizer", default="tbn(p=4, min_layer_size=1000, gradient='tile')")
    parser.add_argument("--out", type=Path, default=Path("digits.safetensors"))
    args = parser.parse_args()
    torch.manual_seed(0)
    x, y = digits()

    # 1. Convert in place. The plan has one line per weight: its p, its bits, and the reason.
    model = network()
    untrained = copy.deepcopy(model)
    print(tb.binarize_(model, args.binarizer))

    # 2. Train as usual.
    train(model, x[TEST:], y[TEST:], args.epochs)
    model.eval()
    before = accuracy(model, x[:TEST], y[:TEST])

    # 3. Keep bits and scales only. The outputs stay the same.
    tb.pack_(model)
    packed = accuracy(model, x[:TEST], y[:TEST])
    size = tb.save(model, args.out)

    # 4. Load the file into a fresh network.
    loaded = tb.load(untrained, args.out).eval()
    assert torch.equal(loaded(x[:TEST]), model(x[:TEST]))
    print(f"accuracy {before:.1%}, packed {packed:.1%}, {args.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
