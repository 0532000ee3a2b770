"""tbn-bench export: a trained run as a file for elsewhere, checked against the trained model before it is called done.

safetensors   the packed file (packed_file.py); nothing but tensors
pt2           torch.export's archive; the graph unpacks the bits itself
onnx          the same graph for ONNX Runtime; weights stay packed in the file

Every format keeps tiles as bits. The check runs the file, not the model it was made from: outputs on test samples, then the score on
the whole test set.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import catalog, convert
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_inputs_
from tbn_bench.experiment import build as assembly
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import ArtifactError
from tbn_bench.layers import packed
from tbn_bench.records.store import RunRecord, tell
from tbn_bench.scores import SCORES, score_of, shown

FORMATS = ("safetensors", "pt2", "onnx")
TOLERANCE = 1e-5  # max |y - trained| / max |trained| on the outputs of the first test batch
CHECK_BATCH = 64


class ExportError(RuntimeError):
    """The exported file does not do what the trained model does; nothing was left at --out."""


def skeleton(config: dict[str, Any]) -> nn.Module:
    """The full-precision network of a run's config, without weights: what a packed file holds is on the meta device.

    Tensors that no file holds (positions, masks, indices of a window) are real. Raises ValueError for a config that cannot be built.
    """
    run = make(config)
    given = assembly.offered(catalog.build("data", run.data))

    def build() -> nn.Module:
        model = catalog.build("models", run.model, **given)
        binarize_inputs_(model, run.binarizer, run.keep)
        return model

    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, TypeError):  # the constructor looks at the values of a tensor
        return _built(build)
    if any(True for _ in _unsaved(model)):
        _copy_unsaved_(model, _built(build))
    return model


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    """A real network; the caller's random numbers go on as if there had been none."""
    with torch.random.fork_rng(devices=[]):
        return build()


def _unsaved(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """(module, attribute, tensor) of every tensor that state_dict() leaves out: non-persistent buffers and plain attributes."""
    for module in model.modules():
        for name in module._non_persistent_buffers_set:
            if module._buffers[name] is not None:
                yield module, name, module._buffers[name]
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield module, name, value


def _copy_unsaved_(model: nn.Module, source: nn.Module) -> None:
    """Puts the unsaved tensors of source into model, a network of the same build."""
    for (module, name, _), (_, _, real) in zip(_unsaved(model), _unsaved(source), strict=True):
        setattr(module, name, real)


def materialised(model: nn.Module) -> nn.Module:
    """The same network with memory, its content arbitrary, for what is on the meta device."""
    return model._apply(lambda t: torch.empty_like(t, device="cpu") if t.is_meta else t)


def load(path: Path) -> nn.Module:
    """The packed network of a packed file that names its config. Raises ArtifactError."""
    content = packed_file.read(path)
    if content.config is None:
        raise ArtifactError(
            f"{path} does not say which network it holds; use convert.load_(model, path)"
        )
    try:
        model = skeleton(content.config)
    except ValueError as error:
        raise ArtifactError(f"{path} names a network that cannot be built here: {error}") from error
    return convert.load_(model, content)


def _packed_copy(model: nn.Module) -> nn.Module:
    small = copy.deepcopy(model)
    if any(hasattr(m, "parametrizations") for m in small.modules()):
        convert.pack_(small)
    return small.eval()


def _in_graph(model: nn.Module) -> nn.Module:
    """Packed layers that unpack their bits in forward, so that a traced graph holds them."""
    for module in model.modules():
        if isinstance(module, packed.Packed):
            module.unpack_in_forward_()
    return model


def _write_pt2(model: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with torch.no_grad():
        program = torch.export.export(_in_graph(model), (x,), dynamic_shapes=({0: batch},))
    torch.export.save(program, str(path))
    return torch.export.load(str(path)).module()


def _write_onnx(model: nn.Module, x: Tensor, path: Path) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise ValueError(
            f"ONNX export needs {error.name}; install it: pip install 'tbn-bench[peers]'"
        ) from error
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with torch.no_grad():  # optimize=False: constant folding would store the unpacked weights
        program = torch.onnx.export(_in_graph(model), (x,), dynamo=True, optimize=False, verbose=False,
                                    input_names=["x"], output_names=["y"], dynamic_shapes=({0: batch},))  # fmt: skip
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces of this machine, larger than the weights
    program.save(str(path), external_data=False)
    data = path.read_bytes()
    for name, module in model.named_modules():
        if (
            isinstance(module, packed.Packed)
            and bytes(module.tile_bits.numpy().tobytes()) not in data
        ):
            raise ExportError(f"{path} does not hold the packed bits of {name}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"x": batch.numpy()})[0])


def _checkpoint_bytes(model: nn.Module) -> int:
    """Bytes of the trained model's dense float32 state: weights, biases, normalisation."""
    plain = convert.dense(model)
    return sum(
        v.numel() * v.element_size()
        for k, v in plain.state_dict().items()
        if not k.endswith("num_batches_tracked")
    )


def export(record: RunRecord, form: str, path: Path | None) -> dict[str, Any]:
    """Writes one trained run as a file and checks the file.

    Raises ValueError for an unknown format or a run without checkpoint, ExportError where the file's outputs or its test score differ
    from the trained model's.
    """
    if form not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {form!r}")
    out = path or Path(f"{record.run_id}.{form}")
    if not out.parent.is_dir():
        raise ValueError(f"the folder {out.parent} does not exist; make it or choose another --out")
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out names the file to write")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
        unchecked = Path(folder) / f"network.{form}"
        result, content = _checked(record, form, unchecked)
        unchecked.replace(out)
    result["path"] = str(out)
    _show(result, content)
    return result


def _checked(record: RunRecord, form: str, path: Path) -> tuple[dict[str, Any], Any]:
    """Writes the file and compares it with the trained model: (what is known of it, its packed content). Raises ExportError."""
    data, model, _ = assembly.trained(record)
    data.setup()
    reference, small = convert.dense(model).eval(), _packed_copy(model)
    x = data.first("test", min(CHECK_BATCH, data.size("test")))
    content = convert.to_artifact(small)
    if form == "safetensors":
        convert.save(small, path, make(record.config).non_defaults, record.provenance.get("commit"))
        call: Callable[[Tensor], Tensor] = load(path)
    else:
        call = (_write_pt2 if form == "pt2" else _write_onnx)(small, x, path)
    error = _outputs_agree(call, reference, x)
    score, value = _score_agrees(call, data, model, record)
    size, dense_bytes = path.stat().st_size, _checkpoint_bytes(model)
    result = {
        "run_id": record.run_id, "format": form, "path": "", "file_bytes": size, "payload_bytes": content.payload_bytes,
        "predicted_bytes": int(record.summary["stored_bytes"]), "dense_bytes": dense_bytes, "ratio": dense_bytes / size,
        "relative_error": error, "score": score.removeprefix("test/"), score: value,
    }  # fmt: skip
    if content.payload_bytes != result["predicted_bytes"]:
        raise ExportError(
            f"the tensors weigh {content.payload_bytes} bytes, the accounting of run {record.run_id} predicts "
            f"{result['predicted_bytes']}; run it again with this version"
        )
    return result, content


def _outputs_agree(call: Callable[[Tensor], Tensor], reference: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected, got = reference(x), call(x)
        one = call(x[:1])
    error = float((got - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE or not torch.allclose(
        one, got[:1], rtol=1e-3, atol=1e-3 * float(expected.abs().max())
    ):
        raise ExportError(
            f"outputs differ from the trained model's by {error:.1e} of the largest (allowed {TOLERANCE:.0e})"
        )
    return error


def _score_agrees(
    call: Callable[[Tensor], Tensor], data: Any, model: nn.Module, record: RunRecord
) -> tuple[str, float]:
    name = score_of(record.summary)
    found, recorded, allowed = assembly.score_on_test(
        record, data, model, assembly.outputs(call, data)
    )
    if not abs(found - recorded) <= allowed:
        raise ExportError(
            f"the file reaches {SCORES[name].label} {SCORES[name].text(found, False)} on {data.size('test')} test samples, the record says "
            f"{SCORES[name].text(recorded, False)}{assembly.precision_hint(record)}"
        )
    return f"test/{name}", found


def _show(result: dict[str, Any], content: Any) -> None:
    rows = [
        (
            "signs",
            sum(content.tensors[t].nbytes for t in {w.tile for w in content.weights.values()}),
        ),
        (
            "scales",
            sum(content.tensors[a].nbytes for a in {w.alphas for w in content.weights.values()}),
        ),
    ]
    rows.append(
        ("kept weights, biases, normalisation", result["payload_bytes"] - rows[0][1] - rows[1][1])
    )
    rows.append(
        (f"{result['format']} header or graph", result["file_bytes"] - result["payload_bytes"])
    )
    tell(f"{result['path']}  (run {result['run_id']})")
    for name, size in rows:
        tell(f"  {name:<38}{size:>12,} bytes")
    tell(f"  {'file':<38}{result['file_bytes']:>12,} bytes")
    tell(
        f"  {'dense float32 state':<38}{result['dense_bytes']:>12,} bytes   {result['ratio']:.1f} times the file"
    )
    tell(
        f"  outputs within {result['relative_error']:.1e} of the trained model; test {shown(result)}"
    )
