"""Our kernels on the whole test set: the same score as recorded, and nearly the same classes."""

import contextlib
import copy
from collections.abc import Callable

import torch
from torch import Tensor

from tbn_bench import convert
from tbn_bench.compiler import executor
from tbn_bench.experiment import scoring
from tbn_bench.latency.gate import ParityError
from tbn_bench.latency.trained import Trained
from tbn_bench.latency.variants import PRECISIONS, native_name
from tbn_bench.records.run import RunRecord
from tbn_bench.scores import SCORES, score_of

# Share of the test set that a kernel with rounded activations must class as the exact one does. The
# bar of its error is in variants.PRECISIONS.
AGREEMENT = 0.998


def check_scores(loaded: list[Trained], device: str) -> dict[tuple[str, str], dict[str, float]]:
    """Checks each of our kernels on the whole test set before it is timed.

    (run id, implementation) -> {score: recomputed, "agreement": share of samples (or points)
    classed as by torch}.

    The packed network must do as well as the record says. Where activations are rounded, it must
    class nearly all samples as torch does (AGREEMENT). Raises ParityError otherwise.
    """
    found = {}
    for trained in loaded:
        if not trained.has_weights:
            continue

        run = trained.run
        name = score_of(run.summary)
        expected = None
        for implementation, call in _kernels(trained, device).items():
            batches = list(scoring.outputs(call, trained.data, device))
            score = scoring.score_on_test(run, trained.data, trained.model, batches)
            own = {name: score.found}
            is_right = score.agrees
            if SCORES[name].goal == "max":
                classes = torch.cat([out.argmax(1) for out, _ in batches])
                expected = classes if expected is None else expected
                own["agreement"] = float((classes == expected).float().mean())
                if isinstance(call, executor.Executor) and call.precision != "f32":
                    is_right = agrees(own["agreement"], len(expected))
            if not is_right:
                raise ParityError(_difference(run, implementation, own, score.recorded))

            found[run.run_id, implementation] = own
    return found


def _kernels(trained: Trained, device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Implementation -> the packed network by it; torch comes first."""
    network = copy.deepcopy(trained.model)
    with contextlib.suppress(ValueError):  # full precision has nothing to pack
        convert.pack_(network)
    network = network.eval().to(device)
    by_torch = "dense" if trained.is_full_precision else "tile reuse"
    calls: dict[str, Callable[[Tensor], Tensor]] = {by_torch: network}
    if device == "cuda" and not trained.is_full_precision:
        kernel = copy.deepcopy(network)
        convert.implement_(kernel)
        calls["triton"] = kernel
    if device == "cpu":
        first = trained.data.first("test", 1)
        for precision in PRECISIONS:
            native, _ = executor.executor(network, first, precision=precision)
            if native is not None:
                calls[native_name(native)] = native
    return calls


def _difference(
    run: RunRecord, implementation: str, found: dict[str, float], recorded: float
) -> str:
    """found: the score and, of classes, the agreement."""
    name = score_of(run.summary)
    score = SCORES[name]
    classed = ""
    if "agreement" in found:
        classed = f" and {found['agreement']:.2%} of it classed as by torch"
    return (
        f"run {run.run_id}, {implementation}: "
        f"{score.label} {score.text(found[name], False)} on the test set, "
        f"its record says {score.text(recorded, False)}{classed}{scoring.precision_hint(run)}; "
        "nothing timed"
    )


def agrees(agreement: float, samples: int) -> bool:
    """Whether rounded activations change few enough classes.

    That is one in 500, or one where there are fewer samples.
    """
    one_changed = 1 - 1.5 / samples
    return agreement >= min(AGREEMENT, one_changed)
