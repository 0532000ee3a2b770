"""Which methods may be aggregated together: those that ran on the same tasks, as scores relative to full precision."""

from dataclasses import dataclass

import numpy as np

from tbn_bench.reporting import style, tracks
from tbn_bench.reporting.groups import Group, groups
from tbn_bench.reporting.load import Records
from tbn_bench.scores import SCORES

Task = tuple[str, str, str]  # sweep, data, model: Group.panel


@dataclass(frozen=True)
class TaskSet:
    """At least two tasks and every method of a track that ran on all of them, in reading order; full precision is among them.

    scores: method -> one (runs,) array per task, 1 being the mean of full precision there. run_ids: all that these come from.
    """

    track: str
    tasks: tuple[Task, ...]
    scores: dict[str, list[np.ndarray]]
    run_ids: list[str]

    @property
    def names(self) -> str:
        return "; ".join(f"{data}, {model}, sweep {sweep}" for sweep, data, model in self.tasks)


def task_sets(records: Records) -> list[TaskSet]:
    """One set for each different choice of tasks that some method of a track ran on, by track, most tasks first.

    A method is its whole spec. What a panel has in several configurations of one spec is left out of that panel: which one is meant is
    not known. So are scores that are errors (MSE), whose ratio is neither a share nor better when higher.
    """
    runs: dict[tuple[str, str], dict[Task, Group]] = {}
    for (spec, task), found in _by_method(records).items():
        if len(found) == 1 and found[0].result is not None and SCORES[found[0].score].factor == 100:
            runs.setdefault((found[0].track, spec), {})[task] = found[0]
    full = {
        t: g
        for t, g in runs.get((tracks.REFERENCE, "full_precision"), {}).items()
        if g.result.mean > 0
    }
    wide = {
        key: {t: g for t, g in own.items() if t in full}
        for key, own in runs.items()
        if key[0] != tracks.REFERENCE
    }
    choices = {(track, tuple(sorted(own))) for (track, _), own in wide.items() if len(own) > 1}
    order = list(tracks.TRACKS)
    return [
        _task_set(
            track,
            tasks,
            {"full_precision": full} | {s: own for (of, s), own in wide.items() if of == track},
        )
        for track, tasks in sorted(choices, key=lambda c: (order.index(c[0]), -len(c[1]), c[1]))
    ]


def _by_method(records: Records) -> dict[tuple[str, Task], list[Group]]:
    out: dict[tuple[str, Task], list[Group]] = {}
    for g in groups(records):
        out.setdefault((g.binarizer, g.panel), []).append(g)
    return out


def _task_set(
    track: str, tasks: tuple[Task, ...], methods: dict[str, dict[Task, Group]]
) -> TaskSet:
    shared = {
        spec: methods[spec] for spec in style.methods(methods) if set(tasks) <= methods[spec].keys()
    }
    full = [methods["full_precision"][task].result.mean for task in tasks]
    scores = {
        spec: [
            np.array(list(own[task].by_seed.values())) / mean
            for task, mean in zip(tasks, full, strict=True)
        ]
        for spec, own in shared.items()
    }
    return TaskSet(
        track,
        tasks,
        scores,
        sorted(
            {run_id for own in shared.values() for task in tasks for run_id in own[task].run_ids}
        ),
    )
