"""Start from a trained float network: convert it without training, then fine-tune it.

Conversion alone takes no training and loses accuracy, most of it with tiles. Some epochs from the
same weights win it back.

usage: python examples/from_trained_weights.py [--epochs N] [--results DIR]
"""

import argparse
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import tbn_bench as tb

METHODS = ("bwn", "tbn(p=4, min_layer_size=0)")
KEEP = ("7",)  # the classifier stays in floating point
TEST = 397  # images


def digits() -> tuple[TensorDataset, TensorDataset]:
    """(training images, test images), each (N, 1, 8, 8) in 0 to 1, in a fixed random order."""
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(raw.images).float().unsqueeze(1)[order] / 16
    labels = torch.from_numpy(raw.target).long()[order]
    return TensorDataset(images[TEST:], labels[TEST:]), TensorDataset(images[:TEST], labels[:TEST])


def network() -> nn.Module:
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


def train_float(model: nn.Module, images: TensorDataset, epochs: int) -> None:
    """Any training of yours; here a plain loop."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for x, y in DataLoader(images, batch_size=64, shuffle=True):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8, help="of each training (default: 8)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records")
    args = parser.parse_args()
    data = digits()

    torch.manual_seed(0)
    trained = network()
    train_float(trained, data[0], args.epochs)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "float.safetensors"
        save_file(trained.state_dict(), weights)
        for method in METHODS:
            converted = tb.binarize_trained(trained, data, method, keep=KEEP, batches=4)
            tuned = tb.train(
                model=network,
                data=data,
                binarizer=method,
                keep=KEEP,
                init=str(weights),
                epochs=args.epochs,
                optimizer="adam",
                lr=0.003,
                results=args.results,
                wandb="off",
            )
            print(method)
            print(converted)
            print(f"{'fine-tuned':<34}{tuned.summary['test/top1']:>8.2%}")


if __name__ == "__main__":
    main()
