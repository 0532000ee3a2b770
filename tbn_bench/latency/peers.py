"""The competitors: every other way to run the same network here. One function each; what cannot run is a row that says why."""

import copy
import itertools
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench.latency.timing import Variant

_numbers = itertools.count()
BF16_TOLERANCE = 5e-2  # 8 bits of significand through a whole network
EXACT = {"cpu": 1e-5, "cuda": 1e-4}  # of float32; cuDNN may choose Winograd's or Fourier's sums
INT8_TOLERANCE = (
    3e-1  # 8-bit activations and weights: judged by their recorded error, refused only when absurd
)


def weights_read(model: nn.Module) -> int:
    """Bytes of weights one forward of a dense network reads (biases and normalisation not counted)."""
    total = 0
    for module in model.modules():
        if hasattr(module, "weight_bytes"):
            total += module.weight_bytes()
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            total += module.weight.numel() * module.weight.element_size()
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            total += module.in_proj_weight.numel() * module.in_proj_weight.element_size()
    return total


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def compiled(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """torch.compile with frozen weights, already compiled for x. Raises whatever the compiler raises.

    What is compiled is kept by code object: each network gets one of its own, so that none is dropped, and compiled again without freezing,
    when the next one comes, nor looked for among the others in every call.
    """
    import torch._inductor.config as inductor

    def run(batch: Tensor) -> Tensor:
        return model(batch)

    own = run.__code__.replace(co_name=f"run_{next(_numbers)}")
    call = torch.compile(
        types.FunctionType(own, globals(), "run", None, run.__closure__), dynamic=False
    )
    with torch.no_grad(), inductor.patch(freezing=True):
        call(x)
    return call


def graphed(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """call captured in a CUDA graph: one launch for all kernels, which is what batch 1 on a large GPU is about.

    A graph holds addresses, not tensors: replay keeps call, and so its weights, alive.
    """
    static = x.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(3):
            call(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        out = call(static)

    def replay(batch: Tensor) -> Tensor:
        static.copy_(batch)
        graph.replay()
        return out

    replay.call = call  # type: ignore[attr-defined]
    return replay


def bf16(model: nn.Module, x: Tensor, compile_it: bool) -> Callable[[Tensor], Tensor]:
    """float32 in and out, everything between in bfloat16."""
    half = copy.deepcopy(model).bfloat16()
    call = compiled(half, x.bfloat16()) if compile_it else half
    return lambda batch: call(batch.bfloat16()).float()


def _channels_last(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layout that oneDNN and cuDNN like best for most convolutions; the input is converted in every call."""
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return lambda batch: network(batch.to(memory_format=torch.channels_last))


def _onnx_file(model: nn.Module, x: Tensor, folder: Path) -> Path:
    path = folder / "f32.onnx"
    with torch.no_grad():
        torch.onnx.export(
            model,
            (x,),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["x"],
            output_names=["y"],
        )
    return path


def _session(path: Path, threads: int) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = (
        threads,
        1,
        3,
    )
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"x": batch.numpy()})[0])


def _ort(
    model: nn.Module, x: Tensor, calibration: Tensor, threads: int, int8: bool
) -> Callable[[Tensor], Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        path = _onnx_file(model, x, Path(folder))
        return _session(_quantized(path, x, calibration) if int8 else path, threads)


def _quantized(path: Path, x: Tensor, calibration: Tensor) -> Path:
    """QDQ, weights per channel, activations calibrated: what ONNX Runtime recommends for CPUs with VNNI."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            batches = [
                calibration[i : i + len(x)] for i in range(0, len(calibration) - len(x) + 1, len(x))
            ] or [x]
            self.left = [{"x": b.numpy().astype(np.float32)} for b in batches[:16]]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    prepared, out = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
    quant_pre_process(
        str(path), str(prepared), skip_symbolic_shape=True
    )  # shapes are static; it fails on PointNet's transforms
    quantize_static(str(prepared), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    return out


def _torchao(model: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    if not any(isinstance(m, nn.Linear) and m.weight.numel() > 10_000 for m in model.modules()):
        raise RuntimeError("torchao quantizes linear layers only; this network has none of weight")
    small = copy.deepcopy(model)
    quantize_(small, Int8DynamicActivationInt8WeightConfig())
    return compiled(small, x)


FEW = (
    "dense",
    "dense, torch.compile",
    "ONNX Runtime f32",
    "ONNX Runtime int8",
)  # for a first page: the others take minutes to build


def dense_peers(
    model: nn.Module,
    reference: nn.Module,
    x: Tensor,
    calibration: Tensor,
    threads: int,
    run_id: str | None,
    few: bool = False,
) -> list[Variant]:
    """Every engine that runs the full-precision network `model` (eval mode) on inputs like x; or FEW of them."""
    size, exact = weights_read(model), EXACT[x.device.type]
    makers: list[tuple[str, Callable[[], Callable[[Tensor], Tensor]], float, int]] = [
        ("dense", lambda: model, exact, size),
        ("dense, torch.compile", lambda: compiled(model, x), exact, size),
        ("dense bf16", lambda: bf16(model, x, False), BF16_TOLERANCE, size // 2),
        ("dense bf16, torch.compile", lambda: bf16(model, x, True), BF16_TOLERANCE, size // 2),
    ]
    if x.dim() == 4:
        makers.insert(1, ("dense, channels last", lambda: _channels_last(model), exact, size))
    if x.device.type == "cpu":
        makers += [
            ("ONNX Runtime f32", lambda: _ort(model, x, calibration, threads, False), 1e-5, size),
            (
                "ONNX Runtime int8",
                lambda: _ort(model, x, calibration, threads, True),
                INT8_TOLERANCE,
                size // 4,
            ),
        ]
    else:
        makers += [
            ("dense, CUDA graph", lambda: graphed(model, x), exact, size),
            (
                "dense bf16, CUDA graph",
                lambda: graphed(bf16(model, x, False), x),
                BF16_TOLERANCE,
                size // 2,
            ),
        ]
    makers.append(
        ("torchao int8, torch.compile", lambda: _torchao(model, x), INT8_TOLERANCE, size // 4)
    )
    wanted = [m for m in makers if m[0] in FEW] if few else makers
    return [
        peer("full_precision", name, make, reference, read, run_id, tolerance, name != "dense")
        for name, make, tolerance, read in wanted
    ]


def peer(
    binarizer: str,
    name: str,
    make: Callable[[], Callable[[Tensor], Tensor]],
    reference: nn.Module,
    read: int,
    run_id: str | None,
    tolerance: float = 1e-5,
    foreign: bool = False,
) -> Variant:
    """The variant that `make` builds, or the row that says why it cannot be had. foreign: somebody else's engine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call, why = make(), None
        except Exception as error:  # noqa: BLE001 (no compiler, package missing, unsupported network, ...: the row says which)
            call, why = reference, _why(error)
    return Variant(binarizer, name, call, reference, read, run_id, why, tolerance, foreign=foreign)
