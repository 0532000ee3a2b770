"""Sets of methods that ran on the same tasks and may therefore be aggregated.

Their scores are relative to full precision.
"""

from dataclasses import dataclass

import numpy as np

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES

Task = tuple[str, str, str]  # sweep, data, model: Group.panel


@dataclass(frozen=True)
class TaskSet:
    """At least two tasks, and every method of a track that ran on all of them, in reading order.

    Full precision is one of the methods. scores: method -> one (runs,) array per task, in which 1
    is the mean of full precision. run_ids: the runs of all these scores.
    """

    track: str
    tasks: tuple[Task, ...]
    scores: dict[str, list[np.ndarray]]
    run_ids: list[str]

    @property
    def names(self) -> str:
        names = []
        for sweep, data, model in self.tasks:
            names.append(f"{data}, {model}, sweep {sweep}")
        return "; ".join(names)


def task_sets(records: Records) -> list[TaskSet]:
    """One set per distinct choice of tasks that some method of a track ran on.

    By track, then most tasks first. A method is its whole spec. A spec with several configurations
    in one panel is left out of that panel, because nothing says which one is meant. Scores that are
    errors (MSE) are left out too: their ratio is neither a share nor better when higher.
    """
    by_track = _by_track(records)
    references = by_track.pop(tracks.REFERENCE, {})
    full = _positive(references.get("full_precision", {}))
    found = []
    for track in tracks.TRACKS:
        methods = {"full_precision": full}
        choices = set()
        for spec, by_task in by_track.get(track, {}).items():
            known = {task: g for task, g in by_task.items() if task in full}
            methods[spec] = known
            if len(known) > 1:
                choices.add(tuple(sorted(known)))

        for tasks in sorted(choices, key=_most_tasks_first):
            found.append(_task_set(track, tasks, methods))
    return found


def _most_tasks_first(tasks: tuple[Task, ...]) -> tuple[int, tuple[Task, ...]]:
    return -len(tasks), tasks


def _positive(by_task: dict[Task, Group]) -> dict[Task, Group]:
    """The tasks in which full precision has a score that others can be divided by."""
    return {task: g for task, g in by_task.items() if g.result.mean > 0}


def _by_track(records: Records) -> dict[str, dict[str, dict[Task, Group]]]:
    """track -> method -> task -> its only group there, if it has a share as its score."""
    candidates: dict[tuple[str, Task], list[Group]] = {}
    for g in groups(records):
        key = (g.binarizer, g.panel)
        candidates.setdefault(key, []).append(g)

    found: dict[str, dict[str, dict[Task, Group]]] = {}
    for (spec, task), same in candidates.items():
        if len(same) > 1:
            continue
        g = same[0]
        if g.result is None or SCORES[g.score].factor != 100:
            continue
        by_method = found.setdefault(g.track, {})
        by_task = by_method.setdefault(spec, {})
        by_task[task] = g
    return found


def _task_set(
    track: str, tasks: tuple[Task, ...], methods: dict[str, dict[Task, Group]]
) -> TaskSet:
    full = methods["full_precision"]
    scores = {}
    run_ids: set[str] = set()
    for spec in style.methods(methods):
        by_task = methods[spec]
        if not by_task.keys() >= set(tasks):
            continue

        relative = []
        for task in tasks:
            g = by_task[task]
            values = list(g.by_seed.values())
            relative.append(np.array(values) / full[task].result.mean)
            run_ids.update(g.run_ids)
        scores[spec] = relative
    return TaskSet(track, tasks, scores, sorted(run_ids))
