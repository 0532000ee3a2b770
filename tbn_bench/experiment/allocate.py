"""tbn-bench allocate: the p of each layer within a budget of bits, from a trained network."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbn_bench import catalog
from tbn_bench.binarizers import _budget
from tbn_bench.binarizers._budget import Layer
from tbn_bench.experiment import sensitivity, verify
from tbn_bench.experiment.sensitivity import Bench, Options
from tbn_bench.records.files import RecordError, read_json, replace, to_json
from tbn_bench.records.run import RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell

_SETTINGS = ("run", "copies", "alpha")  # of a file that may be used again


@dataclass(frozen=True)
class Choice:
    """The p of each layer for one budget, and what it costs.

    bits: asked for. bits_per_weight: stored, scales included, of the tiled layers. predicted: the
    loss without tiles and the sum of all damages. measured: of the network with all tiles at once.
    """

    bits: float
    layers: list[Layer]
    per_layer: list[int]
    bits_per_weight: float
    predicted: float
    measured: float

    def lines(self, alpha: str) -> list[str]:
        rows = [("layer", "weights", "p", "bits", "loss")]
        for layer, p in zip(self.layers, self.per_layer, strict=True):
            stored = layer.stored(p, alpha)
            damage = f"+{layer.damage[p]:.4f}"
            rows.append((layer.name, f"{layer.numel:,}", str(p), f"{stored:,}", damage))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        first, *others = widths
        lines = []
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
            lines.append("  ".join([name.ljust(first), *padded]))
        total = (
            f"within {self.bits:g} bits: {self.bits_per_weight:.4f} bits per weight, "
            f"loss {self.predicted:.4f} predicted, {self.measured:.4f} measured with all tiles"
        )
        return [*lines, total]


@dataclass(frozen=True)
class Job:
    """bits: the budgets. out: folder of the files. again: measure although there is a file.

    gradient: of the tbn that is written.
    """

    bits: tuple[float, ...]
    out: Path
    options: Options
    gradient: str = "elementwise"
    again: bool = False


def run(store: RunStore, name: str, job: Job) -> dict[str, Any]:
    """Measures, chooses, prints and writes. Returns what was written.

    Raises ValueError for a name of several runs, a run without a checkpoint, and a budget that
    cannot be met.
    """
    _check(job)
    found = verify.chosen(store, [name])
    if len(found) != 1:
        raise ValueError(f"{name!r} names {len(found)} runs; give one as SWEEP/RUN")
    (record,) = found
    path = job.out / f"{record.run_id}.json"
    bench, content = _measured(record, job, path)
    sensitivity.check_order(bench)
    layers = sensitivity.layers_of(content, str(path))
    tell(
        f"{content['run']}: {content['binarizer']}, loss {content['loss']:.4f} on "
        f"{content['samples']:,} held-out samples; losses of each layer and p: {path}"
    )
    written = []
    for bits in job.bits:
        choice = _choice(bench, layers, content["loss"], bits)
        call = _call(choice, job)
        file = job.out / f"{record.run_id}-{bits:g}.yaml"
        _write(file, _preset(bench, choice, call).encode())
        tell("\n".join(["", *choice.lines(job.options.alpha)]))
        tell(_uniform(bench, layers, bits))
        tell(f"{call}\npreset: {file}")
        written.append(
            {
                "bits": bits,
                "bits_per_weight": choice.bits_per_weight,
                "per_layer": choice.per_layer,
                "binarizer": call,
                "predicted_loss": choice.predicted,
                "measured_loss": choice.measured,
                "preset": str(file),
            }
        )
    return {"losses": str(path), "loss": content["loss"], "allocations": written}


def _check(job: Job) -> None:
    wrong = [bits for bits in job.bits if not bits > 0]
    if wrong:
        raise ValueError(f"--bits must be above 0, got {wrong[0]:g}")


def _measured(record: RunRecord, job: Job, path: Path) -> tuple[Bench, dict[str, Any]]:
    """The network, and its losses: those of the file if it has the same settings."""
    settings = {
        "run": f"{record.sweep}/{record.run_id}",
        "copies": job.options.copies,
        "alpha": job.options.alpha,
    }
    if path.exists() and not job.again:
        content = read_json(path)
        if all(content.get(key) == settings[key] for key in _SETTINGS):
            return Bench(record, job.options), content
        raise RecordError(
            f"{path} was measured with other settings; use --again to replace it, or another --out"
        )
    bench, content = sensitivity.measure(record, job.options)
    _write(path, (to_json(content, indent=1) + "\n").encode())
    return bench, content


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(
            f"cannot write to {path.parent}: {error.strerror}; choose another folder with --out"
        ) from error
    replace(path, content)


def _choice(bench: Bench, layers: list[Layer], base: float, bits: float) -> Choice:
    alpha = bench.options.alpha
    per_layer = _budget.allocate(layers, bits, alpha)
    pairs = list(zip(layers, per_layer, strict=True))
    stored = sum(layer.stored(p, alpha) for layer, p in pairs)
    damage = sum(layer.damage[p] for layer, p in pairs)
    return Choice(
        bits=bits,
        layers=layers,
        per_layer=per_layer,
        bits_per_weight=stored / sum(layer.numel for layer in layers),
        predicted=base + damage,
        measured=bench.loss_with({layer.name: p for layer, p in pairs}),
    )


def _uniform(bench: Bench, layers: list[Layer], bits: float) -> str:
    """What the smallest p that all layers could share within the budget would cost."""
    alpha = bench.options.alpha
    weights = sum(layer.numel for layer in layers)
    shared = set.intersection(*(set(layer.damage) for layer in layers))
    for p in sorted(shared):
        stored = sum(layer.stored(p, alpha) for layer in layers) / weights
        if stored <= bits:
            loss = bench.loss_with({layer.name: p for layer in layers})
            return f"p = {p} in all layers: {stored:.4f} bits per weight, loss {loss:.4f} measured"
    return "no p that all layers could share is within the budget"


def _call(choice: Choice, job: Job) -> str:
    options: list[tuple[str, Sequence[int] | str]] = [("per_layer", choice.per_layer)]
    usual = {"alpha": "tile", "copies": "aligned", "gradient": "elementwise"}
    asked = {
        "alpha": job.options.alpha,
        "copies": job.options.copies,
        "gradient": job.gradient,
    }
    options += [(key, value) for key, value in asked.items() if value != usual[key]]
    said = ", ".join(f"{key}={value!r}" for key, value in options)
    return catalog.canonical(f"tbn({said})")


def _preset(bench: Bench, choice: Choice, call: str) -> str:
    """The run's config with the chosen binarizer: for --config."""
    values = bench.config.non_defaults | {"binarizer": call}
    head = (
        f"# tbn-bench allocate: at most {choice.bits:g} bits per weight of the tiled layers; "
        f"predicted loss {choice.predicted:.4f}\n"
    )
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in values.items()]
    return head + "".join(lines)
