"""tbn-bench runs verify --scores: each recorded test score, computed again from the packed network.

native   executor.Executor on the network that convert.load_ makes of the file
numpy    numpy_forward.NumpyForward on the file's tensors: no torch, no native library

Images, labels and the score's definition are those of the run's data set and task. A run is
verified where both ways give the recorded score, within the tolerance of scoring.score_on_test.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tbn_bench import catalog, convert
from tbn_bench.catalog import did_you_mean
from tbn_bench.compiler.executor import Executor
from tbn_bench.config import RunConfig, make
from tbn_bench.convert.binarize import binarize_inputs_
from tbn_bench.experiment import build, scoring
from tbn_bench.experiment.numpy_forward import NumpyForward
from tbn_bench.experiment.numpy_ops import Unsupported
from tbn_bench.format import packed_file
from tbn_bench.format.packed_file import Artifact, ArtifactError
from tbn_bench.native import NativeUnavailable
from tbn_bench.records.run import NETWORK, RunRecord
from tbn_bench.records.store import RunStore
from tbn_bench.runs import text
from tbn_bench.scores import SCORES, score_of

Call = Callable[[Tensor], Tensor]

VERIFIED = "verified"
DIFFERS = "DIFFERS"
UNCHECKED = "not checked"
NO_NETWORK = "no packed network"


@dataclass(frozen=True, eq=False)
class Way:
    """One way's score, or why there is none. agrees: None where nothing could be compared.

    samples: that it computed. classes: (samples,), the predicted ones; None if the task has none.
    """

    score: float | None = None
    agrees: bool | None = None
    why: str = ""
    samples: int = 0
    classes: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Check:
    """What became of one run. file_bytes: None without a file."""

    record: RunRecord
    verdict: str
    why: str = ""
    native: Way = Way()
    numpy: Way = Way()
    file_bytes: int | None = None

    @property
    def name(self) -> str:
        record = self.record
        return f"{record.sweep}/{record.run_id}"

    def __str__(self) -> str:
        if self.file_bytes is None:
            return f"{self.name}: {self.verdict}"
        verdict = f"{self.verdict}: {self.why}" if self.why else self.verdict
        return f"{self.name}: {self._scores()}; {self.file_bytes:,} bytes; {verdict}"

    def _scores(self) -> str:
        summary = self.record.summary or {}
        name = score_of(summary)
        label = SCORES[name].label.removesuffix(" %")
        recorded = text.score(name, summary.get(f"test/{name}"))
        native = text.score(name, self.native.score)
        numpy = text.score(name, self.numpy.score)
        return f"{label} recorded {recorded}, native {native}, numpy {numpy}"


def run(store: RunStore, names: Sequence[str]) -> dict[str, Any]:
    """One line per finished run. Exit status 1 if a file does not give the recorded score.

    Raises ValueError for a name that no run has.
    """
    found = []
    for record in chosen(store, names):
        found.append(check(record))
        text.say([str(found[-1])])
    count = Counter(one.verdict for one in found)
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(count.items()))
    text.say([f"{len(found)} runs: {told}"])
    return {
        "runs": len(found),
        "verified": count[VERIFIED],
        "not_checked": count[UNCHECKED],
        "no_network": count[NO_NETWORK],
        "failed": count[DIFFERS],
        "failed_runs": [one.name for one in found if one.verdict == DIFFERS],
    }


def chosen(store: RunStore, names: Iterable[str]) -> list[RunRecord]:
    """The finished runs that names mean: an id's beginning, SWEEP/id, SWEEP; none means all."""
    unreadable: list[str] = []  # `runs verify` names them
    finished = [record for record in store.runs(unreadable) if record.status == "finished"]
    if not finished:
        raise ValueError(f"no finished runs under {store.root}; choose another --results")
    chosen: dict[Any, RunRecord] = {}
    for name in names or [""]:
        hits = [record for record in finished if _is_named(record, name)]
        if not hits:
            hint = did_you_mean(name.partition("/")[0], {record.sweep for record in finished})
            raise ValueError(f"no finished run under {store.root} is called {name!r}{hint}")
        chosen |= {record.path: record for record in hits}
    return list(chosen.values())


def _is_named(record: RunRecord, name: str) -> bool:
    sweep, slash, run_id = name.rpartition("/")
    if slash:
        return record.sweep == sweep and record.run_id.startswith(run_id)
    return record.sweep == name or record.run_id.startswith(name)


def check(record: RunRecord) -> Check:
    """The verdict on one finished run."""
    path = record.path / NETWORK
    if not path.exists():
        return Check(record, NO_NETWORK)
    size = path.stat().st_size
    try:
        config = make(record.config)
        content = packed_file.read(path)
    except ValueError as error:
        return Check(record, DIFFERS, str(error), file_bytes=size)
    if why := wrong_file(content, config, record):
        return Check(record, DIFFERS, why, file_bytes=size)
    try:
        data = build.data_of(config)
        data.setup()
        native = by_native(record, config, data, content)
        numpy = by_numpy(record, config, data, content)
    except ArtifactError as error:
        return Check(record, DIFFERS, str(error), file_bytes=size)
    except ValueError as error:  # for example, the data set is not on this machine
        return Check(record, UNCHECKED, str(error), file_bytes=size)
    verdict, why = _verdict(native, numpy)
    if verdict == DIFFERS:
        why += scoring.precision_hint(record)
    return Check(record, verdict, why, native, numpy, size)


def _verdict(native: Way, numpy: Way) -> tuple[str, str]:
    """(verdict, why)."""
    ways = {"native": native, "numpy": numpy}
    wrong = [name for name, way in ways.items() if way.agrees is False]
    unable = {name: way.why for name, way in ways.items() if way.agrees is None}
    silent = [f"cannot check by {name}: {why}" for name, why in unable.items()]
    if wrong:
        return DIFFERS, "; ".join([f"not the recorded score by {' and '.join(wrong)}", *silent])
    if silent:
        return UNCHECKED, "; ".join(silent)
    return VERIFIED, ""


def wrong_file(content: Artifact, config: RunConfig, record: RunRecord) -> str:
    """Why the file cannot be this run's, whatever it computes, or ''."""
    held = config if content.config is None else make(content.config)
    if held != config:
        return f"the file holds the network of run {held.run_id}"
    predicted = (record.summary or {}).get("stored_bytes")
    if predicted not in (None, content.plain_bytes):
        return f"the tensors weigh {content.plain_bytes} bytes, the record says {predicted}"
    return ""


def structure(config: RunConfig, data: Any) -> nn.Module:
    """The full-precision network of a config; its weights mean nothing."""
    model: nn.Module = catalog.build("models", config.model, **build.offered(data))
    binarize_inputs_(model, config.binarizer, config.keep)
    return model.eval()


def by_native(record: RunRecord, config: RunConfig, data: Any, content: Artifact) -> Way:
    """The score of the native executor. Raises ArtifactError for the file of another network."""
    model = convert.load_(structure(config, data), content)
    try:
        call = Executor(model, data.first("test", 1), threads=torch.get_num_threads())
    except (NativeUnavailable, ValueError) as error:
        return Way(why=str(error))
    return _scored(record, data, model, call)


def by_numpy(
    record: RunRecord,
    config: RunConfig,
    data: Any,
    content: Artifact,
    most: int | None = None,
) -> Way:
    """The score of numpy. most: only so many first samples, whose score is then of them alone."""
    model = structure(config, data)
    try:
        forward = NumpyForward(model, content)

        def call(x: Tensor) -> Tensor:
            y = forward(x.numpy())
            return torch.from_numpy(y)

        return _scored(record, data, model, call, most)
    except Unsupported as error:
        return Way(why=f"no rule for {error}")


def _scored(
    record: RunRecord, data: Any, model: nn.Module, call: Call, most: int | None = None
) -> Way:
    seen = _Seen()
    batches = seen.passing(scoring.outputs(call, data, most=most))
    score = scoring.score_on_test(record, data, model, batches)
    return Way(score.found, score.agrees, samples=seen.samples, classes=seen.classes())


class _Seen:
    """What passes to the score: how many samples, and which classes were predicted."""

    def __init__(self) -> None:
        self.samples = 0
        self._classes: list[np.ndarray] = []

    def passing(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for outputs, y in batches:
            self.samples += len(y)
            is_classes = outputs.ndim == 2 and y.ndim == 1 and not y.is_floating_point()
            if is_classes:
                self._classes.append(outputs.argmax(1).numpy())
            yield outputs, y

    def classes(self) -> np.ndarray | None:
        if not self._classes:
            return None
        return np.concatenate(self._classes)
