"""Small networks of every stored form, and the packed files of versions 1 to 4 that hold them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.convert.binarize import binarize_
from tbn_bench.convert.saved import small_artifact
from tbn_bench.format import packed_file
from tbn_bench.format.small import Small

from . import made_packed_files

TBN = "tbn(p=4, min_layer_size=0, copies={!r})"
SPECS = {
    "aligned": "tbn(p=4, min_layer_size=0)",
    "one scale": "tbn(p=2, min_layer_size=0, alpha='layer')",
    "rotated": TBN.format("rotated"),
    "permuted": TBN.format("permuted"),
    "hadamard": TBN.format("hadamard"),
    "shifted": TBN.format("shifted"),
    "columns": TBN.format("columns"),
    "low_rank": "low_rank(rank=2, min_layer_size=0)",
    "ternary": "twn",
    "codebook": "snn(tau=3)",
    "exponents": "irnet",
    "offsets": "adabin",
    "floats": "full_precision",
}


class Tied(nn.Module):
    """Attention, which reads its weights itself, two layers of one weight, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encode, self.decode = nn.Linear(8, 8), nn.Linear(8, 8)
        self.decode.weight = self.encode.weight
        self.register_buffer("steps", torch.tensor([1, 2, 3]))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attention(x, x, x, need_weights=False)[0]
        return self.decode(self.encode(mixed))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


@dataclass(frozen=True)
class Case:
    """A packed file and the network that it belongs to."""

    name: str
    content: bytes
    network: nn.Module  # of full precision, on the meta device
    in_shape: tuple[int, ...]


def all_cases(folder: Path) -> list[Case]:
    """Every form in every version; the files are made in `folder`."""
    networks = {name: (convolutional, spec, (4, 6, 6)) for name, spec in SPECS.items()}
    networks["tied"] = (Tied, SPECS["aligned"], (3, 8))
    found = []
    for name, (build, spec, in_shape) in networks.items():
        torch.manual_seed(0)
        model = build()
        if spec != "full_precision":
            binarize_(model, spec)
            convert.pack_(model)
        content = convert.to_artifact(model.eval(), {"binarizer": spec, "seed": 1}, "c0ffee")
        files = _files(folder / "made.safetensors", content)
        small = small_artifact(model, content, Small("float16", "int8"), fold_norm=True)
        packed_file.write(folder / "small.safetensors", small)
        files += ((folder / "small.safetensors").read_bytes(),)
        with torch.device("meta"):
            network = build().eval()
        versions = enumerate(files, start=1)
        found += [Case(f"{name}, version {n}", data, network, in_shape) for n, data in versions]
    return found


def _files(path: Path, content: packed_file.Artifact) -> tuple[bytes, ...]:
    """The content as a file of version 1, 2 and 3."""
    made_packed_files.write_2(path, content)
    second = path.read_bytes()
    header, data = made_packed_files.opened(second)
    header["__metadata__"]["tbn_format_version"] = "1"
    text = json.dumps(header)
    first = len(text).to_bytes(8, "little") + text.encode() + data
    packed_file.write(path, content)
    return first, second, path.read_bytes()
