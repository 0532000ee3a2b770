"""A language model read token by token: by the packed network and by other engines, in turn.

Every way keeps the keys and values of earlier tokens. A call reads a whole context from an empty
cache, one token at a time, and gives the logits at every place. So the gate compares it with the
forward pass on the whole context, in float64. All ways are timed in one process, interleaved.
"""

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tbn_bench import convert
from tbn_bench.experiment import skeleton
from tbn_bench.latency import peers, timing
from tbn_bench.latency.gate import Variant, first_line
from tbn_bench.layers.packed import PackedLinear
from tbn_bench.models.gpt import Cache
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import LatencyRecord
from tbn_bench.records.text import tell

FULL = "full_precision"

Call = Callable[[Tensor], Tensor]
Next = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]


class Step(nn.Module):
    """One token through a gpt, with a cache of fixed size, as compilers and ONNX want it.

    forward: token (1, 1) and its place (1,), both int64; keys and values of all blocks (blocks,
    1, heads, context, depth) -> logits (1, 1, num_classes), and keys and values with those of the
    token.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model
        places = torch.arange(model.context)
        self.register_buffer("places", places)

    def empty(self) -> Tensor:
        """Keys or values of no token."""
        blocks = self.model.blocks
        heads = blocks[0].attn.heads
        _, context, dim = self.model.positions.shape
        return torch.zeros(len(blocks), 1, heads, context, dim // heads)

    def forward(
        self,
        token: Tensor,
        place: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        embedded = model.tokens(token)
        state = embedded + model.positions.index_select(1, place)
        is_here = (self.places == place).view(1, 1, -1, 1)
        is_seen = (self.places <= place).view(1, 1, 1, -1)
        new_keys = []
        new_values = []
        for i, block in enumerate(model.blocks):
            attention = block.attn
            qkv = attention.qkv(block.norm1(state))
            split = qkv.unflatten(-1, (3, attention.heads, -1))
            query, key, value = split.permute(2, 0, 3, 1, 4)
            all_keys = torch.where(is_here, key, keys[i])
            all_values = torch.where(is_here, value, values[i])
            new_keys.append(all_keys)
            new_values.append(all_values)
            mixed = F.scaled_dot_product_attention(query, all_keys, all_values, attn_mask=is_seen)
            flat = mixed.transpose(1, 2).flatten(2)
            state = state + attention.proj(flat)
            state = state + block.mlp(block.norm2(state))
        logits = model.head(model.norm(state))
        return logits, torch.stack(new_keys), torch.stack(new_values)


def by_cache(model: Any) -> Call:
    """The model's own cache, in torch. The call: tokens (1, context) -> logits."""

    def run(x: Tensor) -> Tensor:
        cache = Cache()
        parts = [model.further(token, cache) for token in x.long().split(1, dim=1)]
        return torch.cat(parts, 1)

    return run


def by_forward(model: nn.Module) -> Call:
    """No cache: a forward pass on the whole context for each token."""

    def run(x: Tensor) -> Tensor:
        parts = []
        for place in range(x.shape[1]):
            logits = model(x)
            parts.append(logits[:, place : place + 1])
        return torch.cat(parts, 1)

    return run


def _by_step(step: Step, following: Next) -> Call:
    empty = step.empty()
    places = torch.arange(step.model.context).split(1)

    def run(x: Tensor) -> Tensor:
        keys = empty
        values = empty
        parts = []
        for token, place in zip(x.long().split(1, dim=1), places, strict=True):
            logits, keys, values = following(token, place, keys, values)
            parts.append(logits.clone())
        return torch.cat(parts, 1)

    return run


def _compiled(model: nn.Module) -> Call:
    import torch._inductor.config as inductor

    step = Step(model).eval()
    call = torch.compile(step, dynamic=False)
    run = _by_step(step, call)
    with torch.no_grad(), inductor.patch(freezing=True):
        run(torch.zeros(1, step.model.context))
    return run


def _onnx(model: nn.Module, threads: int) -> Call:
    import onnxruntime

    step = Step(model).eval()
    names = ["token", "place", "keys", "values"]
    example = (torch.zeros(1, 1).long(), torch.zeros(1).long(), step.empty(), step.empty())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "step.onnx"
        torch.onnx.export(
            step,
            example,
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=names,
            output_names=["logits", "new_keys", "new_values"],
        )
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)

    def following(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, given))

    return _by_step(step, following)


def dense(model: nn.Module) -> nn.Module:
    """A copy of a packed network with plain linear layers of the same float32 weights."""
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if not isinstance(layer, PackedLinear):
            continue

        weight = layer.expanded()
        rows, columns = weight.shape
        linear = nn.Linear(columns, rows, bias=layer.bias is not None)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            linear.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        parent, _, own = name.rpartition(".")
        setattr(plain.get_submodule(parent), own, linear)
    return plain.eval()


def variants(model: nn.Module, binarizer: str, threads: int, run_id: str) -> list[Variant]:
    """Every way to read with a packed network, and with the same weights in float32."""
    plain = dense(model)
    kernels = copy.deepcopy(model)
    convert.implement_(kernels)
    reference = copy.deepcopy(plain)
    made: dict[tuple[str, str], Callable[[], Call]] = {
        (FULL, "dense"): functools.partial(by_cache, plain),
        (FULL, "dense, no cache"): functools.partial(by_forward, plain),
        (FULL, "dense, torch.compile"): functools.partial(_compiled, plain),
        (FULL, "ONNX Runtime f32"): functools.partial(_onnx, plain, threads),
        (binarizer, "packed, torch"): functools.partial(by_cache, model),
        (binarizer, "packed, native kernels"): functools.partial(by_cache, kernels),
    }
    found = []
    for (method, name), build in made.items():
        why = None
        call: Call = torch.nn.Identity()
        try:
            call = build()
        except Exception as error:  # a peer may raise anything
            if method != FULL or name == "dense":
                raise

            why = first_line(error)
        variant = Variant(
            method,
            name,
            call,
            reference,
            weight_bytes=peers.weights_read(plain if method == FULL else kernels),
            run_id=run_id,
            unavailable=why,
            foreign=name.startswith("ONNX"),
        )
        found.append(variant)
    return found


def timed(record: RunRecord, threads: int, command: str) -> LatencyRecord:
    """All ways to read a context with a run's packed network, interleaved.

    Each row has the tokens per second of its median time. Raises ValueError for a run without
    packed network or of no gpt, ParityError where a way gives other logits than the forward pass.
    """
    path = record.path / NETWORK
    if not path.exists():
        raise ValueError(f"{path} is missing; --peers times packed networks")

    model = skeleton.load(path).eval()
    if not hasattr(model, "further"):
        raise ValueError(
            f"run {record.run_id} is of {record.config['model']}; --peers needs --model gpt"
        )
    timing.prepare("cpu", threads)
    context = model.context
    generator = torch.Generator().manual_seed(0)
    classes = model.tokens.num_embeddings
    x = torch.randint(classes, (1, context), generator=generator)
    ways = variants(model, record.config["binarizer"], threads, record.run_id)
    info = {
        "model": record.config["model"],
        "data": record.config["data"],
        "context": context,
    }
    case = f"{record.run_id}-t{threads}"
    measured = timing.time_case(case, ways, x, threads, "cpu", info, command)
    for row in measured.rows:
        time_ms = row.get("time_ms_p50")
        row["tokens_per_second"] = 1e3 * context / time_ms if time_ms else None
    return measured


def show(record: LatencyRecord) -> None:
    """Prints a line per way, the fastest first."""
    rows = sorted(record.rows, key=_by_speed)
    for row in rows:
        name = f"{row['binarizer']} [{row['implementation']}]"
        if row.get("unavailable"):
            tell(f"{name}: {row['unavailable']}")
            continue

        tell(
            f"{name}: {row['tokens_per_second']:,.0f} tokens/s "
            f"({row['ratio']:.2f} times dense torch; n = {row['n']})"
        )


def _by_speed(row: dict[str, Any]) -> float:
    return -(row["tokens_per_second"] or 0.0)
