"""A packed network as a graph: torch.export's archive, and ONNX.

The graph unpacks the bits itself, so that the file holds bits. Each function writes one network and
returns the file as a function of a batch. x: (B, *in_shape), example inputs.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench.experiment import nbits
from tbn_bench.layers import packed

METADATA = "tbn_bench.json"  # of a pt2 archive: torch.export.load(..., extra_files={METADATA: ""})
MOST_SAMPLES = 1 << 20  # in a batch

Call = Callable[[Tensor], Tensor]


class ExportError(RuntimeError):
    """The exported file does not do what the trained model does; nothing was left at --out."""


def write_pt2(
    model: nn.Module, x: Tensor, path: Path, metadata: dict[str, str] | None = None
) -> Call:
    """metadata: kept in the archive as the extra file METADATA, a JSON object."""
    unpack_in_graph_(model)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: _batch()},))
    extra = {METADATA: json.dumps(metadata or {}, indent=1)}
    torch.export.save(program, str(path), extra_files=extra)
    return torch.export.load(str(path)).module()


def write_onnx(
    model: nn.Module,
    x: Tensor,
    path: Path,
    metadata: dict[str, str] | None = None,
    weights: str = "bits",
) -> Call:
    """metadata: kept as the model's metadata_props.

    weights: "bits", or "4bit" and "2bit" for linear layers as MatMulNBits (nbits.py).
    Raises ExportError if the file does not hold the bits.
    """
    import onnxruntime
    import onnxscript  # noqa: F401 (torch.onnx needs it)

    if weights != "bits":
        nbits.encode_(model, weights)
    program = _onnx_program(model, x)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces of this machine, larger than the weights
    program.model.metadata_props.update(metadata or {})
    program.save(str(path), external_data=False)
    _check_bits(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def call(batch: Tensor) -> Tensor:
        outputs = session.run(None, {"x": batch.numpy()})
        return torch.from_numpy(outputs[0])

    return call


def _onnx_program(model: nn.Module, x: Tensor) -> Any:
    unpack_in_graph_(model)
    with torch.no_grad():
        return torch.onnx.export(
            model,
            (x,),
            dynamo=True,
            optimize=False,  # constant folding would store the unpacked weights
            verbose=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: _batch()},),
        )


def _check_bits(model: nn.Module, path: Path) -> None:
    data = path.read_bytes()
    for name, module in model.named_modules():
        if isinstance(module, packed.Packed):
            bits = module.get_buffer("tile_bits")
            held = bits.numpy().tobytes()
            if held not in data:
                raise ExportError(f"{path} does not hold the packed bits of {name}")


def unpack_in_graph_(model: nn.Module) -> None:
    """Makes packed layers unpack their bits in forward, so that a traced graph holds them."""
    for module in model.modules():
        if isinstance(module, packed.Packed):
            module.unpack_in_forward_()


def _batch() -> Any:
    return torch.export.Dim("batch", min=1, max=MOST_SAMPLES)
