"""Published sizes, checked against plans: no run is needed to know what a network stores.

`tbn-bench plan --published results` plans every network of ours that the ledger names and writes
results/published/sizes.json. The report reads that file, because it may not load torch.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tbn_bench.records.files import read_file, replace
from tbn_bench.records.text import shown
from tbn_bench.reporting.commands import Setting, setting_of
from tbn_bench.reporting.published import Line
from tbn_bench.reporting.reproduction.cells import is_ours

RULE = (
    "A size is verified if the plan gives it to the last digit that the source prints. Bit-width: "
    "sign bits per weight. Parameters: all learned values. The authors' script does not define its "
    "binary parameters; we count sign bits, 32 bits per scale, and one per weight of a "
    "normalisation."
)
_FILE = "published/sizes.json"
Key = tuple[str, str, str]  # data set, model and binarizer, as the ledger writes them


@dataclass(frozen=True)
class Size:
    """What the plan of one published network says.

    dataset, model, spec: as the ledger writes them. data, network, binarizer: as they were planned,
    by the sweep or recipe `setting`, or by default. parameters: learned values of the network in
    full precision. norm_weights: weights of normalisations. linear_weights, conv_weights,
    conv1x1_weights: weights by kind, of a kernel larger than 1 or of 1. sign_bits: one or two per
    stored sign. stored_bits: signs and scales.
    """

    dataset: str
    model: str
    spec: str
    data: str
    network: str
    binarizer: str
    setting: str
    weights: int
    parameters: int
    norm_weights: int
    linear_weights: int
    conv_weights: int
    conv1x1_weights: int
    sign_bits: int
    stored_bits: int

    @property
    def key(self) -> Key:
        return self.dataset, self.model, self.spec

    @property
    def command(self) -> str:
        return (
            f"tbn-bench plan --data '{self.data}' --model '{self.network}' "
            f"--binarizer '{self.binarizer}'"
        )


@dataclass(frozen=True)
class Quantity:
    """A published measure of size. unit: as in "0.256 bits per weight"."""

    unit: str
    of: Callable[[Size], float]


QUANTITIES = {
    "weight_bits": Quantity("bits per weight", lambda size: size.sign_bits / size.weights),
    "parameters_million": Quantity("M parameters", lambda size: size.parameters / 1e6),
    "binary_parameters_million": Quantity(
        "M binary parameters", lambda size: (size.stored_bits + size.norm_weights) / 1e6
    ),
    "linear_weights": Quantity("weights in linear layers", lambda size: size.linear_weights),
    "conv_weights": Quantity("weights in convolutions", lambda size: size.conv_weights),
    "conv1x1_weights": Quantity("weights in 1x1 convolutions", lambda size: size.conv1x1_weights),
}


@dataclass(frozen=True)
class Check:
    """A published size beside that of the plan. line: the line of the ledger that has it."""

    line: Line
    quantity: Quantity
    published: float
    planned: float

    @property
    def is_verified(self) -> bool:
        tolerance = 0.5 * 10.0 ** -_decimals(self.published)
        return abs(self.planned - self.published) <= tolerance

    @property
    def text(self) -> str:
        """Both numbers, in one unit."""
        verdict = "size verified" if self.is_verified else "size differs"
        return f"{verdict}: {self.numbers}"

    @property
    def numbers(self) -> str:
        """Published and planned; one more digit where the plan would look the same."""
        digits = _decimals(self.published)
        published = f"{self.published:,.{digits}f}"
        planned = f"{self.planned:,.{digits}f}"
        if planned == published and not self.is_verified:
            planned = f"{self.planned:,.{digits + 1}f}"
        return f"published {published}, plan {planned} {self.quantity.unit}"


def _decimals(value: float) -> int:
    """The decimals that a source prints."""
    _, _, decimals = f"{value:.12g}".partition(".")
    return len(decimals)


def named(ledger: list[Line]) -> list[Line]:
    """A line for each network of ours that the ledger names; of several, the first."""
    found: dict[tuple[str, ...], Line] = {}
    for line in ledger:
        if is_ours(line):
            found.setdefault((line["dataset"], line["model"], line["spec"]), line)
    return list(found.values())


def flags(line: Line, settings: list[Setting]) -> tuple[dict[str, str], str]:
    """(the flags of the plan of a line's network, the file that has them; "" if none has).

    A setting gives the whole call, such as a p for each layer, where the line gives the name alone.
    """
    setting = setting_of(line, settings)
    if setting is None:
        own = {"data": line["dataset"], "model": line["model"], "binarizer": line["spec"]}
        return own, ""
    *_, file = setting.command.split()
    return setting.config(line), file


def write(sizes: list[Size], results: Path) -> Path:
    """Writes results/published/sizes.json, whole or not at all."""
    ordered = sorted(sizes, key=lambda size: size.key)
    content = json.dumps([asdict(size) for size in ordered], indent=1) + "\n"
    path = results / _FILE
    replace(path, content.encode())
    return path


def read(results: Path) -> dict[Key, Size]:
    """The planned sizes by network; empty if there is no such file. Raises ValueError if broken."""
    path = results / _FILE
    if not path.exists():
        return {}
    try:
        found = [Size(**entry) for entry in json.loads(read_file(path))]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{shown(path)}: expected the planned sizes, got {error}; write it again with "
            f"tbn-bench plan --published {results}"
        ) from error
    return {size.key: size for size in found}


def checks(ledger: list[Line], sizes: dict[Key, Size]) -> dict[Key, list[Check]]:
    """network -> its published sizes beside the planned ones.

    A width of whole bits is a definition and no size to check.
    """
    found: dict[Key, list[Check]] = {}
    for line in ledger:
        key = (line["dataset"], line["model"], line["spec"])
        if key not in sizes:
            continue
        for name, published in _published(line).items():
            quantity = QUANTITIES[name]
            check = Check(line, quantity, published, quantity.of(sizes[key]))
            found.setdefault(key, []).append(check)
    return found


def _published(line: Line) -> dict[str, float]:
    """The sizes that a line has, by the name of the quantity."""
    found = {}
    width = line["weight_bits"]
    if width is not None and width != int(width):
        found["weight_bits"] = width
    if line["metric"] in QUANTITIES:
        found[line["metric"]] = line["value"]
    return found
