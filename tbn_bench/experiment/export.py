"""tbn-bench export: a trained run as one file, checked against the trained model.

safetensors   the packed file (format/packed_file.py); nothing but tensors
pt2           torch.export's archive; the graph unpacks the bits itself
onnx          the same graph for ONNX Runtime; weights stay packed in the file, as bits or as codes
              of 2 or 4 bits (nbits.py)

The check runs the file, not the model that it was made from: first its outputs on test samples,
then its score on the whole test set.
"""

import copy
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.config import make
from tbn_bench.experiment import nbits, preprocessing, scoring
from tbn_bench.experiment.build import Experiment
from tbn_bench.experiment.graphs import Call, ExportError, write_onnx, write_pt2
from tbn_bench.experiment.skeleton import load
from tbn_bench.experiment.weights import trained
from tbn_bench.format.packed_file import Artifact
from tbn_bench.records.run import RunRecord
from tbn_bench.records.text import tell
from tbn_bench.scores import SCORES, score_of, shown

__all__ = ["FORMATS", "TOLERANCE", "ExportError", "export", "load"]

GRAPHS: dict[str, Callable[..., Call]] = {"pt2": write_pt2, "onnx": write_onnx}
FORMATS = ("safetensors", *GRAPHS)
TOLERANCE = 1e-5  # max |y - trained| / max |trained| on the outputs of the first test batch
ALONE_TOLERANCE = 1e-3  # of one sample alone, against the same sample in its batch
CHECK_BATCH = 64
ROUNDED_SHARE = 0.01  # how far the score may be off where the runtime rounds activations


@dataclass(frozen=True)
class _Request:
    """What to write. folds: the graph normalises its input. weights: one of nbits.WEIGHTS."""

    form: str
    folds: bool
    weights: str

    @property
    def rounds(self) -> bool:
        """True where ONNX Runtime rounds the inputs of linear layers to 8 bits."""
        return self.weights == "2bit"

    def check(self) -> None:
        if self.form not in FORMATS:
            raise ValueError(
                f"--format must be one of {', '.join(FORMATS)}, c, wasm; got {self.form!r}"
            )
        if self.folds and self.form not in GRAPHS:
            raise ValueError(
                f"--fold-normalisation is for {' and '.join(GRAPHS)}, which hold a graph, "
                f"got {self.form}; leave it out, or choose one of them"
            )
        if self.weights not in nbits.WEIGHTS:
            raise ValueError(
                f"--weights must be one of {', '.join(nbits.WEIGHTS)}; got {self.weights!r}"
            )

        if self.weights != "bits" and self.form != "onnx":
            raise ValueError(f"--weights {self.weights} is for --format onnx, got {self.form}")


def export(
    record: RunRecord,
    form: str,
    path: Path | None,
    fold_normalisation: bool = False,
    weights: str = "bits",
) -> dict[str, Any]:
    """Writes one trained run as a file and checks the file. Returns its sizes and its score.

    fold_normalisation: the graph takes pixels from 0 to 1 and normalises them itself. weights: of
    linear layers in an onnx graph, "bits", "4bit" or "2bit" (nbits.py).
    Raises ValueError for an unknown format or a run without checkpoint, ExportError if the outputs
    of the file or its test score differ from the trained model's.
    """
    request = _Request(form, fold_normalisation, weights)
    request.check()
    out = path or Path(f"{record.run_id}.{form}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out names the file to write")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        unchecked = Path(folder) / f"network.{form}"
        result, content = _write_checked(record, request, unchecked)
        unchecked.replace(out)
    result["path"] = str(out)
    _show(result, content)
    return result


def _write_checked(
    record: RunRecord, request: _Request, path: Path
) -> tuple[dict[str, Any], Artifact]:
    """(sizes and score of the written file, its packed content). Raises ExportError."""
    experiment = trained(record)
    data = experiment.data
    if request.folds and not preprocessing.is_normalised(data):
        raise ValueError(
            f"--fold-normalisation is for images with a mean and std, got {record.config['data']}; "
            "leave it out"
        )
    data.setup()
    x = data.first("test", min(CHECK_BATCH, data.size("test")))
    network = _packed_copy(experiment.model)
    content = convert.to_artifact(network)
    if request.form in GRAPHS:
        call = _write_graph(network, request, x, path, record, data)
    else:
        call = _write_packed(network, path, record)
    allowed = nbits.TOLERANCE if request.rounds else TOLERANCE
    error = _check_outputs(call, convert.dense(experiment.model).eval(), x, allowed)
    name, score = _check_score(call, experiment, record, request.rounds)
    size = path.stat().st_size
    dense_bytes = _checkpoint_bytes(experiment.model)
    predicted_bytes = int((record.summary or {})["stored_bytes"])
    if content.payload_bytes != predicted_bytes:
        raise ExportError(
            f"the tensors weigh {content.payload_bytes} bytes, "
            f"the accounting of run {record.run_id} predicts {predicted_bytes}; "
            "run it again with this version"
        )
    result = {
        "run_id": record.run_id,
        "format": request.form,
        "path": "",
        "file_bytes": size,
        "payload_bytes": content.payload_bytes,
        "predicted_bytes": predicted_bytes,
        "dense_bytes": dense_bytes,
        "ratio": dense_bytes / size,
        "relative_error": error,
        "score": name,
        f"test/{name}": score,
    }
    return result, content


def _packed_copy(model: nn.Module) -> nn.Module:
    network = copy.deepcopy(model)
    binarized = [m for m in network.modules() if hasattr(m, "parametrizations")]
    if binarized:
        convert.pack_(network)
    return network.eval()


def _write_graph(
    network: nn.Module,
    request: _Request,
    x: Tensor,
    path: Path,
    record: RunRecord,
    data: Any,
) -> Call:
    """The written file as a function of a normalised batch, whatever the graph takes."""
    write = GRAPHS[request.form]
    if request.form == "onnx":
        write = functools.partial(write, weights=request.weights)
    metadata = preprocessing.metadata(record, data, request.folds)
    if not request.folds:
        return write(network, x, path, metadata)
    whole = preprocessing.Normalised(network, data).eval()
    call = write(whole, preprocessing.pixels(data, x), path, metadata)
    return lambda batch: call(preprocessing.pixels(data, batch))


def _write_packed(network: nn.Module, path: Path, record: RunRecord) -> Call:
    config = make(record.config).non_defaults
    convert.save(network, path, config, record.provenance.get("commit"))
    return load(path)


def _check_outputs(call: Call, reference: nn.Module, x: Tensor, allowed: float) -> float:
    """The largest difference, relative to the largest output. Raises ExportError beyond `allowed`.

    The first sample alone must give the outputs that it has in its batch.
    """
    with torch.no_grad():
        expected = reference(x)
        got = call(x)
        alone = call(x[:1])
    largest = expected.abs().max()
    error = float((got - expected).abs().max() / largest)
    same_alone = torch.allclose(
        alone, got[:1], rtol=ALONE_TOLERANCE, atol=ALONE_TOLERANCE * float(largest)
    )
    if not (error <= allowed and same_alone):
        raise ExportError(
            f"outputs differ from the trained model's by {error:.1e} of the largest "
            f"(allowed {allowed:.0e})"
        )

    return error


def _check_score(
    call: Call, experiment: Experiment, record: RunRecord, rounds: bool
) -> tuple[str, float]:
    """(name of the score, its value on the test set).

    Raises ExportError if it is not the recorded one; with `rounds`, if it is off by 1 %.
    """
    data = experiment.data
    name = score_of(record.summary or {})
    batches = scoring.outputs(call, data)
    score = scoring.score_on_test(record, data, experiment.model, batches)
    is_near = abs(score.found - score.recorded) <= ROUNDED_SHARE * score.recorded
    if not (score.agrees or (rounds and is_near)):
        kind = SCORES[name]
        raise ExportError(
            f"the file reaches {kind.label} {kind.text(score.found, False)} "
            f"on {data.size('test')} test samples, "
            f"the record says {kind.text(score.recorded, False)}{scoring.precision_hint(record)}"
        )
    return name, score.found


def _checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of the trained model's dense float32 state: weights, biases, normalisation."""
    total = 0
    state = convert.dense(model).state_dict()
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            total += value.nbytes
    return total


def _show(result: dict[str, Any], content: Artifact) -> None:
    """Prints the file's size, part by part."""
    weights = content.weights.values()
    signs = _tensor_bytes(content, {weight.tile for weight in weights})
    scales = _tensor_bytes(content, {weight.alphas for weight in weights})
    payload = result["payload_bytes"]
    size = result["file_bytes"]
    rows = {
        "signs": signs,
        "scales": scales,
        "kept weights, biases, normalisation": payload - signs - scales,
        f"{result['format']} header or graph": size - payload,
        "file": size,
    }
    tell(f"{result['path']}  (run {result['run_id']})")
    for name, size in rows.items():
        tell(f"  {name:<38}{size:>12,} bytes")

    tell(
        f"  {'dense float32 state':<38}{result['dense_bytes']:>12,} bytes   "
        f"{result['ratio']:.1f} times the file"
    )
    tell(
        f"  outputs within {result['relative_error']:.1e} of the trained model; "
        f"test {shown(result)}"
    )


def _tensor_bytes(content: Artifact, names: set[str]) -> int:
    tensors = [content.tensors[name] for name in names]
    return sum(tensor.nbytes for tensor in tensors)
