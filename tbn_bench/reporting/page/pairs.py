"""What the page needs to compare two methods that the reader chooses, paired by seed."""

from typing import Any

from scipy.special import stdtrit

from tbn_bench.reporting import names
from tbn_bench.reporting.groups import Group, groups, panel_titles
from tbn_bench.reporting.load import Records
from tbn_bench.reporting.stats import MAX_PAIRS
from tbn_bench.scores import SCORES

LEAST_METHODS = 2


def pairs(records: Records) -> dict[str, Any] | None:
    """The scores of each task by method and seed; None if no task has two methods.

    tasks: title, unit, digits, and scores: method -> seed -> score as shown, negative for errors,
    so that more is better. A method with several configurations in a task is left out there,
    because nothing says which one is meant. quantiles: Student's 97.5 % quantile for 1, 2, ...
    degrees of freedom.
    """
    panels: dict[tuple[Any, ...], list[Group]] = {}
    for g in groups(records):
        if g.by_seed:
            panels.setdefault((g.panel, g.score), []).append(g)
    titles = panel_titles(panel for panel, _ in panels)
    tasks = []
    for (panel, score), members in panels.items():
        scores = _scores(members)
        if len(scores) >= LEAST_METHODS:
            tasks.append(_task(titles[panel], score, scores))
    if not tasks:
        return None
    freedom = range(1, MAX_PAIRS)
    quantiles = [round(float(stdtrit(n, 0.975)), 6) for n in freedom]
    return {"tasks": tasks, "quantiles": quantiles, "most": MAX_PAIRS}


def _task(title: str, name: str, scores: dict[str, dict[int, float]]) -> dict[str, Any]:
    score = SCORES[name]
    unit = "points" if score.factor == 100 else score.label
    return {"title": title, "unit": unit, "digits": score.digits, "scores": scores}


def _scores(members: list[Group]) -> dict[str, dict[int, float]]:
    """Display name -> seed -> score; of names that one group has."""
    by_name: dict[str, list[Group]] = {}
    for g in members:
        by_name.setdefault(names.method(g.binarizer), []).append(g)
    found = {}
    for name, same in by_name.items():
        if len(same) > 1:
            continue
        score = SCORES[same[0].score]
        sign = score.factor if score.goal == "max" else -score.factor
        found[name] = {seed: sign * value for seed, value in same[0].by_seed.items()}
    return found
