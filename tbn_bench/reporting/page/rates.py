"""The learning rate that held-out data chose, per network and method.

A sweep whose learning rate alone varied answers; where there is none, a search of several settings
does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tbn_bench.reporting import names, style, tiling
from tbn_bench.reporting.groups import Group
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.settings import settings
from tbn_bench.reporting.tables.best_configurations import best_first, searches
from tbn_bench.scores import SCORES

_RATE = "lr"
_MOST = 6  # rates of a network that the headline names


@dataclass(frozen=True)
class Won:
    """A method's winner. edge: "largest" or "smallest" of the rates tried, or empty.

    spec: of the binarizer. others: further settings that the sweep varied. seeds: of the winner.
    is_stale: the code has changed since.
    """

    data: str
    network: str
    method: str
    spec: str
    rate: float
    test: str
    sweep: str
    edge: str
    others: tuple[str, ...]
    seeds: int
    is_stale: bool


def winners(records: Records) -> list[Won]:
    """One per data set, network and method, in the order of the methods."""
    found: dict[tuple[str, str, str], list[Won]] = {}
    for members in searches(records).values():
        for won in _of_sweep(records, members):
            found.setdefault((won.data, won.network, won.method), []).append(won)

    pure = {won.data for several in found.values() for won in several if not won.others}
    chosen = []
    for several in found.values():
        best = min(several, key=lambda won: len(won.others))
        if not best.others or best.data not in pure:
            chosen.append(best)
    order = style.methods(won.spec for won in chosen)
    return sorted(chosen, key=lambda won: (won.data, won.network, order.index(won.spec)))


def _of_sweep(records: Records, members: list[Group]) -> Iterator[Won]:
    """The winner of each method of one search."""
    varied = settings(records, members).varied
    values = varied.get(_RATE)
    if values is None:
        return
    others = tuple(name for name in varied if name != _RATE)
    by_method: dict[str, list[Group]] = {}
    for g in members:
        by_method.setdefault(names.method(g.binarizer), []).append(g)
    for method, tried in by_method.items():
        best = best_first(tried)[0]
        rate = values[best.group_id]
        if rate is None or best.result is None:
            continue
        yield Won(
            names.data_set(best.data),
            names.network(best.model),
            method,
            best.binarizer,
            rate,
            SCORES[best.score].text(best.result.mean),
            best.sweep,
            _edge(rate, [values[g.group_id] for g in tried]),
            others,
            best.result.n,
            _is_stale(records, best),
        )


def _edge(rate: float, tried: Sequence[float | None]) -> str:
    known = [value for value in tried if value is not None]
    if len(set(known)) < 2:
        return ""
    if rate == max(known):
        return "largest"
    return "smallest" if rate == min(known) else ""


def _is_stale(records: Records, g: Group) -> bool:
    runs = records.runs
    own = runs[(runs["sweep"] == g.sweep) & runs["run_id"].isin(g.run_ids)]
    return bool(own["stale"].notna().any())


def headline(found: Sequence[Won]) -> str:
    """On CIFAR-10, airbench 32/64/64: 0.12 for FP32 and BWN; 0.24, the largest tried, for TBN-4."""
    by_network: dict[str, dict[str, list[str]]] = {}
    for won in found:
        shown = f"{won.rate:.2g}"
        if won.edge:
            shown += f", the {won.edge} tried,"
        rates = by_network.setdefault(f"{won.data}, {won.network}", {})
        rates.setdefault(shown, []).append(won.method)

    said = []
    for network, rates in by_network.items():
        named = [f"{rate} for {tiling.listed(methods)}" for rate, methods in rates.items()]
        more = f"; {len(named) - _MOST} more below" if len(named) > _MOST else ""
        said.append(f"On {network}: {'; '.join(named[:_MOST])}{more}.")
    return " ".join(said)


def note(found: Sequence[Won]) -> str:
    """How the rates were chosen, and what else a reader must know about them."""
    if not found:
        return ""
    said = ["Chosen on held-out data, for each method by itself."]
    if any(won.edge for won in found):
        said.append("A rate beyond those tried may be better.")
    if min(won.seeds for won in found) < 2:
        said.append("One seed each.")
    others = sorted({name for won in found for name in won.others})
    if others:
        said.append(f"Other settings varied, too: {', '.join(others)}.")
    if any(won.is_stale for won in found):
        said.append("The code has changed since.")
    said.append("Other networks have rates of their own, in the headings of their tables.")
    return " ".join(said)
