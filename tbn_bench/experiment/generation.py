"""Text from a trained language model, a token at a time, by a cache of keys and values."""

import time
from typing import Any

import torch
from torch import Tensor, nn

from tbn_bench import catalog, convert
from tbn_bench.config import make
from tbn_bench.experiment import skeleton
from tbn_bench.experiment.weights import trained
from tbn_bench.models.gpt import Cache
from tbn_bench.records.run import NETWORK, RunRecord


class Reader:
    """A language model that reads a growing text; each token is computed once.

    A full cache starts again with the later half of the context, because the places of all tokens
    change. So a token is predicted from half a context to a whole one.
    """

    def __init__(self, model: Any):
        self.model = model
        self.cache = Cache()
        self.text: list[int] = []

    def read(self, tokens: list[int]) -> Tensor:
        """The logits of the token behind the text and these tokens: (num_classes,)."""
        context = self.model.context
        self.text += tokens
        if self.cache.length + len(tokens) > context:
            self.cache = Cache()
            tokens = self.text[-max(1, context // 2) :]
        x = torch.tensor([tokens])
        with torch.no_grad():
            logits = self.model.further(x, self.cache)
        last: Tensor = logits[0, -1]
        return last


def continuation(
    model: nn.Module,
    prompt: Tensor,
    tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """The token numbers behind the prompt: (n,) int64 -> (tokens,) int64.

    They are drawn from softmax(logits / temperature); temperature 0 takes the likeliest.
    Raises ValueError for an empty prompt, a negative temperature, and a model without a cache.
    """
    if not hasattr(model, "further"):
        raise ValueError(
            f"a language model with further(x, cache) is needed, got {type(model).__name__}; "
            "use a run of --model gpt"
        )
    if not len(prompt):
        raise ValueError("the prompt is empty; give at least one token")
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature!r}")
    generator = torch.Generator().manual_seed(seed)
    reader = Reader(model.eval())
    new: list[int] = []
    unread = prompt.tolist()
    while len(new) < tokens:
        logits = reader.read(unread)
        token = _drawn(logits, temperature, generator)
        new.append(token)
        unread = [token]
    return torch.tensor(new, dtype=torch.int64)


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / temperature, 0)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def generate(
    record: RunRecord,
    prompt: str,
    tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    kernels: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """The text that a run's network writes behind a prompt, and how fast.

    The packed network beside the record is used; the checkpoint where there is none. kernels:
    packed layers multiply by the native kernels. threads: of torch. Raises ValueError for a run of
    no language model, and for characters of the prompt that its vocabulary lacks.
    """
    config = make(record.config)
    data = catalog.build("data", config.data)
    if not hasattr(data, "encoded"):
        raise ValueError(
            f"run {record.run_id} is of {config.data}; generate needs a language model, "
            "e.g. of --data char_text --model gpt"
        )
    start = data.encoded(prompt)
    model = _network(record)
    if kernels:
        convert.implement_(model)
    torch.set_num_threads(threads)
    started = time.perf_counter()
    new = continuation(model, start, tokens, temperature, seed)
    seconds = time.perf_counter() - started
    return {
        "run_id": record.run_id,
        "text": prompt + data.decoded(new),
        "tokens": tokens,
        "seconds": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def _network(record: RunRecord) -> nn.Module:
    path = record.path / NETWORK
    if path.exists():
        return skeleton.load(path)
    return trained(record).model
