"""What the page needs to compare two methods that the reader chooses, paired by seed."""

from dataclasses import dataclass
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
    tasks = [_task(found) for found in compared(records)]
    if not tasks:
        return None
    freedom = range(1, MAX_PAIRS)
    quantiles = [round(float(stdtrit(n, 0.975)), 6) for n in freedom]
    return {"tasks": tasks, "quantiles": quantiles, "most": MAX_PAIRS}


@dataclass(frozen=True)
class Task:
    """A data set and network with the methods that can be compared there.

    score: the name of the score that judges it. methods: display name -> its only group.
    """

    title: str
    score: str
    methods: dict[str, Group]


def compared(records: Records) -> list[Task]:
    """The tasks of at least LEAST_METHODS methods, in the order of the groups."""
    panels: dict[tuple[Any, ...], list[Group]] = {}
    for g in groups(records):
        if g.by_seed:
            panels.setdefault((g.panel, g.score), []).append(g)
    titles = panel_titles(panel for panel, _ in panels)
    tasks = []
    for (panel, score), members in panels.items():
        methods = _alone(members)
        if len(methods) >= LEAST_METHODS:
            tasks.append(Task(titles[panel], score, methods))
    return tasks


def _alone(members: list[Group]) -> dict[str, Group]:
    """Display name -> group, of names that one group has."""
    by_name: dict[str, list[Group]] = {}
    for g in members:
        by_name.setdefault(names.method(g.binarizer), []).append(g)
    return {name: same[0] for name, same in by_name.items() if len(same) == 1}


def _task(task: Task) -> dict[str, Any]:
    score = SCORES[task.score]
    unit = "points" if score.factor == 100 else score.label
    sign = score.factor if score.goal == "max" else -score.factor
    scores = {}
    for name, g in task.methods.items():
        scores[name] = {seed: sign * value for seed, value in g.by_seed.items()}
    return {"title": task.title, "unit": unit, "digits": score.digits, "scores": scores}
