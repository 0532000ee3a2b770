"""The competitors: every other way to run the same network here.

Each has a function. A competitor that cannot run is a row that says why.
"""

import copy
import functools
import itertools
import tempfile
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench.config import RunConfig
from tbn_bench.experiment import graphs, nbits
from tbn_bench.latency.gate import Variant, first_line

BF16_TOLERANCE = 5e-2  # 8 bits of significand through a whole network
EXACT = {"cpu": 1e-5, "cuda": 1e-4}  # of float32; cuDNN may choose Winograd's or Fourier's sums
# 8-bit activations and weights: judged by their recorded error, refused only when absurd
INT8_TOLERANCE = 3e-1
FEW = (  # for a first page: the others take minutes to build
    "dense",
    "dense, torch.compile",
    "ONNX Runtime f32",
    "ONNX Runtime int8",
)
_numbers = itertools.count()

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """How a network is timed.

    x: (B, ...), on the device that computes. calibration: (N, ...), training samples for lossy
    peers. macs: the network's cost summary. run_id: of a trained one. few: FEW peers only.
    """

    config: RunConfig
    x: Tensor
    threads: int
    calibration: Tensor
    macs: dict[str, Any]
    run_id: str | None = None
    few: bool = False


@dataclass(frozen=True)
class Maker:
    """A way to build an implementation. read: bytes of weights that one forward pass reads.

    foreign: somebody else's engine.
    """

    implementation: str
    build: Callable[[], Call]
    read: int
    tolerance: float = 1e-5
    foreign: bool = False


def weights_read(model: nn.Module) -> int:
    """Bytes of weights that one forward pass of a dense network reads.

    Biases and normalisation are not counted.
    """
    total = 0
    for module in model.modules():
        if hasattr(module, "weight_bytes"):
            total += module.weight_bytes()
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            total += _bytes(module.weight)
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            total += _bytes(module.in_proj_weight)
    return total


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def compiled(model: nn.Module, x: Tensor) -> Call:
    """torch.compile with frozen weights, already compiled for x. Raises the compiler's errors.

    torch keeps compiled code by code object, so each network gets a code object of its own.
    Otherwise the next network would drop the code of this one, which torch would compile again
    without freezing, and every call would search all networks' code.
    """
    import torch._inductor.config as inductor

    def run(batch: Tensor) -> Tensor:
        return model(batch)

    own = run.__code__.replace(co_name=f"run_{next(_numbers)}")
    function = types.FunctionType(own, globals(), "run", None, run.__closure__)
    call = torch.compile(function, dynamic=False)
    with torch.no_grad(), inductor.patch(freezing=True):
        call(x)
    return call


def graphed(call: Call, x: Tensor) -> Call:
    """call captured in a CUDA graph: one launch for all kernels.

    Launches take most of the time of batch 1 on a large GPU. A graph holds addresses, not tensors:
    replay keeps call, and so its weights, alive.
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


def bf16(model: nn.Module, x: Tensor, compile_it: bool) -> Call:
    """float32 in and out, everything between in bfloat16."""
    half = copy.deepcopy(model).bfloat16()
    call = compiled(half, x.bfloat16()) if compile_it else half

    def run(batch: Tensor) -> Tensor:
        y = call(batch.bfloat16())
        return y.float()

    return run


def _channels_last(model: nn.Module) -> Call:
    """The fastest layout of oneDNN and cuDNN for most convolutions.

    The input is converted in every call.
    """
    network = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def run(batch: Tensor) -> Tensor:
        last = batch.to(memory_format=torch.channels_last)
        return network(last)

    return run


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


def _session(path: Path, threads: int) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        inputs = {"x": batch.numpy()}
        outputs = session.run(None, inputs)
        scores = outputs[0]
        return torch.from_numpy(scores)

    return run


def _ort(model: nn.Module, setting: Setting, int8: bool) -> Call:
    with tempfile.TemporaryDirectory() as folder:
        path = _onnx_file(model, setting.x, Path(folder))
        if int8:
            path = _quantized(path, setting.x, setting.calibration)
        return _session(path, setting.threads)


def _coded(network: nn.Module, setting: Setting, weights: str) -> Call:
    """A packed network whose linear layers are MatMulNBits. Raises ValueError where few are."""
    own = copy.deepcopy(network)
    nbits.check_mostly_linear(own)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coded.onnx"
        graphs.write_onnx(own, setting.x, path, weights=weights)
        return _session(path, setting.threads)


def coded_peers(network: nn.Module, reference: nn.Module, setting: Setting) -> list[Variant]:
    """ONNX Runtime on the signs of a packed network, as codes of 2 and 4 bits."""
    found = []
    for weights, tolerance in (("4bit", 1e-5), ("2bit", INT8_TOLERANCE)):
        maker = Maker(
            f"ONNX Runtime, signs in {weights[0]} bits",
            functools.partial(_coded, network, setting, weights),
            nbits.coded_bytes(network, weights),
            tolerance,
            foreign=True,
        )
        variant = peer(setting.config.binarizer, maker, reference, setting.run_id)
        found.append(variant)
    return found


def _quantized(path: Path, x: Tensor, calibration: Tensor) -> Path:
    """QDQ, weights per channel, activations calibrated.

    ONNX Runtime recommends this for CPUs with VNNI.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            parts = calibration.split(len(x))
            whole = [part for part in parts if len(part) == len(x)]
            self.left = []
            for batch in whole[:16] or [x]:
                array = batch.numpy().astype(np.float32)
                self.left.append({"x": array})

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    prepared = path.with_name("prepared.onnx")
    out = path.with_name("int8.onnx")
    # shapes are static, and symbolic shapes fail on PointNet's transforms
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return out


def _torchao(model: nn.Module, x: Tensor) -> Call:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not any(module.weight.numel() > 10_000 for module in linear):
        raise RuntimeError(
            "torchao quantizes linear layers only; none here has over 10,000 weights"
        )

    small = copy.deepcopy(model)
    quantize_(small, Int8DynamicActivationInt8WeightConfig())
    return compiled(small, x)


def dense_peers(model: nn.Module, reference: nn.Module, setting: Setting) -> list[Variant]:
    """Every engine that runs the full-precision network `model` (eval mode) on the setting's x."""
    x = setting.x
    on_cpu = x.device.type == "cpu"
    makers = _torch_makers(model, x)
    makers += _onnx_makers(model, setting) if on_cpu else _graph_makers(model, x)
    size = weights_read(model)
    makers.append(
        Maker(
            "torchao int8, torch.compile",
            functools.partial(_torchao, model, x),
            size // 4,
            INT8_TOLERANCE,
            foreign=True,
        )
    )
    wanted = [maker for maker in makers if maker.implementation in FEW or not setting.few]
    return [peer("full_precision", maker, reference, setting.run_id) for maker in wanted]


def _torch_makers(model: nn.Module, x: Tensor) -> list[Maker]:
    size = weights_read(model)
    exact = EXACT[x.device.type]
    makers = [Maker("dense", lambda: model, size, exact)]
    if x.dim() == 4:
        channels_last = functools.partial(_channels_last, model)
        makers.append(Maker("dense, channels last", channels_last, size, exact, foreign=True))
    fused = functools.partial(compiled, model, x)
    half = functools.partial(bf16, model, x, False)
    half_fused = functools.partial(bf16, model, x, True)
    return [
        *makers,
        Maker("dense, torch.compile", fused, size, exact, foreign=True),
        Maker("dense bf16", half, size // 2, BF16_TOLERANCE, foreign=True),
        Maker("dense bf16, torch.compile", half_fused, size // 2, BF16_TOLERANCE, foreign=True),
    ]


def _onnx_makers(model: nn.Module, setting: Setting) -> list[Maker]:
    size = weights_read(model)
    f32 = functools.partial(_ort, model, setting, False)
    int8 = functools.partial(_ort, model, setting, True)
    return [
        Maker("ONNX Runtime f32", f32, size, 1e-5, foreign=True),
        Maker("ONNX Runtime int8", int8, size // 4, INT8_TOLERANCE, foreign=True),
    ]


def _graph_makers(model: nn.Module, x: Tensor) -> list[Maker]:
    size = weights_read(model)

    def half() -> Call:
        return graphed(bf16(model, x, False), x)

    return [
        Maker(
            "dense, CUDA graph",
            functools.partial(graphed, model, x),
            size,
            EXACT[x.device.type],
            foreign=True,
        ),
        Maker("dense bf16, CUDA graph", half, size // 2, BF16_TOLERANCE, foreign=True),
    ]


def peer(binarizer: str, maker: Maker, reference: nn.Module, run_id: str | None = None) -> Variant:
    """The variant that the maker builds, or the row that says why it cannot be built."""
    why = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call = maker.build()
        except Exception as error:  # noqa: BLE001 (no compiler, package missing, ...: the row says)
            call = reference
            why = first_line(error)
    return Variant(
        binarizer,
        maker.implementation,
        call,
        reference,
        maker.read,
        run_id,
        why,
        maker.tolerance,
        foreign=maker.foreign,
    )
