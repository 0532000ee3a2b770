"""Guards the plan of a sweep: what is asked next, also after a rebuild.

Early stops, targets and fronts by hand; search finds the valley.
"""

import itertools
import math
import random
import subprocess
import sys

import pytest

from tbn_bench.install import extras
from tbn_bench.sweep import search
from tbn_bench.sweep.planner import Planner
from tbn_bench.sweep.spec import expand
from tbn_bench.sweep.trial import PastTrial

LOSS = {"name": "val/loss"}
GRID = {
    "method": "grid",
    "parameters": {"seed": {"values": [0, 1, 2]}, "lr": {"values": [0.1, 0.2, 0.3]}},
    "metric": LOSS,
}
RANDOM = {
    "method": "random",
    "run_cap": 9,
    "parameters": {"lr": {"min": 0.1, "max": 0.9}},
    "metric": LOSS,
}
BAYES = {**RANDOM, "method": "bayes", "run_cap": 24, "parameters": {
    "lr": {"min": 1e-4, "max": 1.0, "distribution": "log_uniform_values"}, "binarizer": {"values": ["tbn", "tbn(alpha='tile')"]},
    "binarizer.p": {"values": [2, 4, 8]}, "batch_size": {"min": 16, "max": 64}, "weight_decay": {"distribution": "q_beta", "q": 0.01},
    "epochs": {"value": 3}}}  # fmt: skip
SOME = {**BAYES, "parameters": {"binarizer": {"values": ["full_precision", "tbn", "sign"]}, "binarizer.p": {"values": [2, 4, 8]},
        "lr": {"min": 1e-4, "max": 1.0, "distribution": "log_uniform_values"}}}  # fmt: skip
FRONT = {**{k: v for k, v in BAYES.items() if k != "metric"}, "method": "custom",
         "metrics": [{"name": "val/top1", "goal": "maximize"}, {"name": "stored_bits"}]}  # fmt: skip


def planner(file, sampler="tpe", **changes):
    return Planner(expand({**file, **changes}, "s"), sampler)


def loss(config):
    """Least at lr = 0.01."""
    return (math.log10(config.lr) + 2) ** 2


def values_of(config, file):
    return [loss(config)] if "metric" in file else [-loss(config), 1e6 / config.batch_size]


def run(plan, file, trials, jobs=1, order=None):
    """Asks `trials` more, `jobs` at once, which end in shuffled order.

    Returns the configs in the order asked.
    """
    rng, live, asked = random.Random(order), [], []
    while len(asked) < trials or live:
        while len(asked) < trials and len(live) < jobs and (trial := plan.ask()):
            live.append(trial)
            asked.append(trial.config)
        if not live:
            break
        trial = live.pop(rng.randrange(len(live)) if order is not None else 0)
        plan.tell(trial.number, "finished", values_of(trial.config, file))
    return asked


def records(plan, file):
    """What the run folders of a planner hold, in any order."""
    names = [m.name for m in plan.spec.metrics]
    past = [
        PastTrial(
            t.config,
            t.state,
            [],
            dict(zip(names, t.values, strict=False)),
            t.number if plan.spec.is_search else None,
        )
        for t in plan.trials.values()
    ]
    random.Random(1).shuffle(past)
    return past


# Order and rebuilding


@pytest.mark.parametrize("file", [GRID, RANDOM])
def test_grid_and_random_do_not_depend_on_results(file):
    """The configs of the file in their order, whatever ends when; then None, and again None."""
    wanted = expand(file, "s").configs
    for jobs, order in ((1, None), (4, 7), (9, 3)):
        plan = planner(file)
        assert run(plan, file, 99, jobs, order) == wanted
        assert plan.ask() is None


@pytest.mark.parametrize("cut", [0, 1, 5, 8, 9])
@pytest.mark.parametrize("file", [GRID, RANDOM])
def test_a_rebuilt_grid_goes_on(file, cut):
    """After any number of runs the rest comes in its order, without trial numbers in the records."""
    plan, again = planner(file), planner(file)
    asked = run(plan, file, cut, 3, 5)
    again.replay(records(plan, file))
    assert asked + run(again, file, 99, 2, 4) == expand(file, "s").configs


@pytest.mark.parametrize("cut", [0, 1, 7, 13, 21])
@pytest.mark.parametrize("file", [BAYES, FRONT, SOME])
def test_a_rebuilt_search_goes_on_exactly(file, cut):
    """Cut after 0 to 21 trials, two at once that ended out of order: the next draws are those of
    the planner that lived on.
    """
    plan, again = planner(file), planner(file)
    run(plan, file, cut, 2, 5)
    again.replay(records(plan, file))
    assert run(plan, file, 4, 2, 6) == run(again, file, 4, 2, 6)


def test_a_rebuilt_gaussian_process_goes_on_exactly():
    """As above, past its first ten random draws."""
    plan, again = planner(BAYES, "gp"), planner(BAYES, "gp")
    run(plan, BAYES, 11, 2, 5)
    again.replay(records(plan, BAYES))
    assert run(plan, BAYES, 1) == run(again, BAYES, 1)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_a_search_is_told_of_every_run_also_without_an_option(sampler, monkeypatch):
    """Every trial counts.

    TPE hears of p from the runs that have one, a Gaussian process of whole points.
    """
    told = []
    made = search.library().trial.create_trial
    monkeypatch.setattr(
        "optuna.trial.create_trial", lambda **given: told.append(given["params"]) or made(**given)
    )
    plan = planner(SOME, sampler)
    run(plan, SOME, 6)
    told.clear()
    plan.ask()
    methods = [t.config.binarizer for t in plan.trials.values() if t.values]
    assert len(told) == len(methods) == 6
    assert 0 < sum("tbn" in method for method in methods) < 6
    assert ["binarizer.p" in params for params in told] == [
        sampler == "gp" or "tbn" in m for m in methods
    ]


def test_a_search_depends_on_what_was_told_and_not_on_the_order():
    """Four trials at once that end in different orders, then the same next one."""
    plans = [planner(BAYES), planner(BAYES)]
    for plan in plans:
        run(plan, BAYES, 12)
        live = [plan.ask() for _ in range(4)]
        for trial in live if plan is plans[0] else live[::-1]:
            plan.tell(trial.number, "finished", [loss(trial.config)])
    assert plans[0].ask() == plans[1].ask()


@pytest.mark.parametrize("file", [GRID, RANDOM, BAYES])
def test_unfinished_runs_are_asked_again_first(file):
    """Running or interrupted when the launcher died: same number, same config, before anything new."""
    plan, again = planner(file), planner(file)
    run(plan, file, 3)
    live = [plan.ask(), plan.ask()]
    live[1].state = "interrupted"
    again.replay(records(plan, file))
    live[1].state = "running"
    assert [(t.number, t.config) for t in (again.ask(), again.ask())] == [
        (t.number, t.config) for t in live
    ]
    assert again.ask().config == plan.ask().config


def test_a_lost_record_leaves_its_number_to_be_asked():
    """A trial whose folder was deleted is asked again."""
    plan, again = planner(GRID), planner(GRID)
    asked = run(plan, GRID, 4)
    again.replay([p for p in records(plan, GRID) if p.config != asked[2]])
    assert again.ask().config == asked[2]
    assert again.ask().number == 4


def test_records_of_other_configs_are_passed_over():
    """A grid whose file was changed goes by configs, not by numbers."""
    plan, less = (
        planner(GRID),
        planner(GRID, parameters={**GRID["parameters"], "seed": {"values": [1, 2]}}),
    )
    run(plan, GRID, 5)
    less.replay(records(plan, GRID))
    assert {t.config.seed for t in less.trials.values()} == {1, 2}
    assert len(less.trials) + len(run(less, GRID, 99)) == 6


def test_a_search_whose_ranges_were_changed_goes_on():
    """Trials outside the new ranges count as asked and say nothing to the sampler."""
    plan, narrow = (
        planner(RANDOM, method="bayes"),
        planner(RANDOM, method="bayes", parameters={"lr": {"min": 0.5, "max": 0.6}}, run_cap=14),
    )
    run(plan, RANDOM, 9)
    narrow.replay(records(plan, RANDOM))
    assert all(0.5 <= c.lr <= 0.6 for c in run(narrow, RANDOM, 99))
    assert len(narrow.trials) == 14


# Ends


@pytest.mark.parametrize("file", [BAYES, RANDOM])
def test_run_cap_is_the_number_of_trials(file):
    """Failed ones included."""
    plan = planner(file, run_cap=4)
    for n in range(4):
        plan.tell(plan.ask().number, "failed" if n % 2 else "diverged")
    assert plan.ask() is None


def test_a_small_space_is_asked_once_each():
    """A search over six configs ends after six, of which none is a repeat."""
    plan = planner(BAYES, parameters={"seed": {"values": [0, 1, 2]}, "lr": {"values": [0.1, 0.2]}})
    asked = run(plan, BAYES, 99)
    assert len(asked) == len({c.run_id for c in asked}) == 6


def test_a_target_ends_the_sweep():
    """Once a run has reached it, by a report or at its end."""
    plan = planner(GRID, metric={**LOSS, "target": 0.5})
    plan.tell(plan.ask().number, "finished", [0.6])
    trial = plan.ask()
    plan.report(trial.number, 0, 0.5)
    assert plan.ask() is None


def test_a_draw_that_no_config_takes_is_refused():
    """A normal distribution of learning rates below zero."""
    with pytest.raises(ValueError, match="lr: Input should be greater than 0"):
        planner(BAYES, parameters={"lr": {"distribution": "normal", "mu": -9}}).ask()


# Early stops


def stopped(rule, histories, **metric):
    """For each history, told epoch by epoch one run after the other, the epoch after which it was
    stopped, or None.
    """
    plan = planner(GRID, early_terminate={"type": "hyperband", **rule}, metric={**LOSS, **metric})
    ends = []
    for history in histories:
        number = plan.ask().number
        ends.append(
            next((epoch for epoch, v in enumerate(history) if plan.report(number, epoch, v)), None)
        )
    return ends


def test_brackets_by_hand():
    """max_iter 27, s 2, eta 3: after 3 and 9 epochs. min_iter 2, eta 1.5: after 2, 3, 4.5 cut to 4,
    ...
    """

    def brackets(**rule):
        return expand({**GRID, "early_terminate": {"type": "hyperband", **rule}}, "s").early_terminate.brackets  # fmt: skip

    assert brackets(max_iter=27, s=2) == [3, 9]
    assert brackets(max_iter=5, s=9, eta=2) == [1, 2]
    assert brackets(min_iter=2, eta=1.5)[:4] == [2, 3, 4, 6]
    assert brackets(min_iter=1)[:4] == [1, 3, 9, 27]


def test_hyperband_by_hand():
    """eta 2, bracket after 2 epochs: the first run passes.

    0.8 of {0.5, 0.8} is value int(2/2) = 1, kept; 0.9 of three is not.
    """
    histories = [[1, 0.5, 0.4], [1, 0.8, 0.1], [1, 0.9, 0.0], [1, 0.6, 0.6]]
    assert stopped({"max_iter": 4, "s": 1, "eta": 2}, histories) == [None, None, 1, None]
    ups = [[-v for v in h] for h in histories]
    assert stopped({"max_iter": 4, "s": 1, "eta": 2}, ups, goal="maximize") == [None, None, 1, None]


def test_a_run_can_fall_behind_after_its_bracket():
    """As in W&B, where it is compared at every step with all that have reached the bracket by then."""
    plan = planner(GRID, early_terminate={"type": "hyperband", "max_iter": 2, "s": 1, "eta": 2})
    first, others = plan.ask().number, [plan.ask().number for _ in range(3)]
    assert not plan.report(first, 0, 0.5)
    for number in others:
        plan.report(number, 0, 0.1)
    assert plan.report(first, 1, 0.0)


def test_not_strict_lets_a_late_bloomer_go_on():
    """Not the value at the bracket but the best so far is compared."""
    histories = [[0.5, 0.5], [0.4, 0.4], [0.3, 0.9]]
    assert stopped({"max_iter": 4, "s": 1, "eta": 2}, histories) == [None, None, 1]
    assert stopped({"max_iter": 4, "s": 1, "eta": 2, "strict": False}, histories) == [
        None,
        None,
        None,
    ]


def test_numbers_that_are_none_are_the_worst():
    """NaN loses against any number; a row without the metric says nothing."""
    assert stopped({"min_iter": 1, "eta": 2}, [[0.5], [0.5], [math.nan], [None]]) == [
        None,
        None,
        0,
        None,
    ]


def test_replayed_rows_count_at_the_brackets():
    """A rebuilt planner stops what the first one would have stopped."""
    rule = {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2}}
    plan = planner(GRID, **rule)
    configs = plan.spec.configs
    rows = [{"epoch": 0, "val/loss": 0.1}, {"epoch": 1, "seconds": 3}]
    plan.replay(
        [
            PastTrial(configs[0], "finished", rows),
            PastTrial(configs[1], "stopped", rows),
            PastTrial(configs[2], "running", rows),
        ]
    )
    assert [plan.ask().number for _ in range(2)] == [2, 3]
    assert plan.report(3, 0, 0.2)
    assert not plan.report(3, 0, 0.1)


# Results


def test_the_front_by_hand():
    """Accuracy up, bits down: (0.9, 30), (0.8, 10) are the front.

    (0.7, 10) and (0.8, 20) are beaten, equals stay together.
    """
    plan = planner(FRONT)
    for values in ([0.9, 30], [0.8, 20], [0.8, 10], [0.7, 10], [0.8, 10]):
        plan.tell(plan.ask().number, "finished", values)
    plan.tell(plan.ask().number, "stopped", [1.0, 1])
    assert plan.pareto() == [0, 2, 4]
    assert plan.best() == 0


def test_the_best_of_one_metric():
    """The first of equal ones; failed and unnumbered trials do not count; none is None."""
    plan = planner(GRID)
    assert plan.best() is None
    for state, value in (
        ("finished", 3),
        ("finished", 1),
        ("failed", 0),
        ("finished", 1),
        ("finished", None),
        ("finished", math.nan),
    ):
        plan.tell(plan.ask().number, state, [value])
    assert (plan.best(), plan.pareto()) == (1, [1, 3])


def test_a_metrics_value_is_the_best_a_run_has_shown():
    """In its rows and its summary, numbers only: W&B's metric_extremum."""
    (metric,) = expand({**GRID, "metric": {**LOSS, "goal": "maximize"}}, "s").metrics
    rows = [{"val/loss": 1}, {"val/loss": 3}, {"val/loss": math.inf}, {"val/loss": True}, {}]
    assert metric.value(rows, {"val/loss": 2}) == 3
    assert metric.value([], {"val/loss": 2, "plan": []}) == 2
    assert metric.value([{}], {}) is None


@pytest.mark.parametrize(
    ("impute", "wanted"), [("worst", 7), ("best", 1), ("latest", 4), (None, 7)]
)
def test_a_failed_run_is_told_to_the_search_as_wandb_imputes_it(impute, wanted):
    """The worst of all by default, its own best or last report on request."""
    plan = planner(
        RANDOM, method="bayes", metric={**LOSS, **({"impute": impute} if impute else {})}
    )
    for value in (3, 7):
        plan.tell(plan.ask().number, "finished", [value])
    trial = plan.ask()
    for epoch, value in enumerate((5, 1, 4)):
        plan.report(trial.number, epoch, value)
    plan.tell(trial.number, "diverged")
    assert plan._known()[2][1] == [wanted]


def test_a_running_trial_is_told_by_its_reports_on_request():
    """impute_while_running: not by default."""
    for how, wanted in (("false", None), ("latest", [4.0]), ("best", [1.0])):
        plan = planner(RANDOM, method="bayes", metric={**LOSS, "impute_while_running": how})
        trial = plan.ask()
        for epoch, value in enumerate((5, 1, 4)):
            plan.report(trial.number, epoch, value)
        assert plan._known()[0][1] == wanted


# Search


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 20), ("gp", 14)])
def test_search_beats_random(sampler, trials):
    """A parabola in log lr: draws after the first ten, which are random, lie at most half as high
    as random ones; so does the best.
    """
    parameters = {"lr": {"min": 1e-5, "max": 1.0, "distribution": "log_uniform_values"}}
    found = [
        loss(c)
        for c in run(planner(BAYES, sampler, parameters=parameters, run_cap=trials), BAYES, 99)
    ]
    chance = [
        loss(c) for c in run(planner(RANDOM, parameters=parameters, run_cap=trials), RANDOM, 99)
    ]
    assert sum(found[10:]) < sum(chance[10:]) / 2
    assert min(found) < min(chance) / 2


def test_search_of_several_objectives_fills_the_front():
    """24 trials: every one has both numbers, and the front holds more than one."""
    plan = planner(FRONT)
    assert len(run(plan, FRONT, 99, 2, 1)) == 24
    assert len(plan.pareto()) > 1


def test_trials_at_once_are_not_the_same():
    """Twelve asked without an answer, after twelve answers."""
    plan = planner(BAYES)
    run(plan, BAYES, 12)
    assert len({plan.ask().config.run_id for _ in range(12)}) == 12


# Faults


def test_faults_of_the_engine_are_named():
    """Unknown numbers, states, samplers; a search's run without its metric or its number.

    Two of one number.
    """
    plan = planner(BAYES)
    trial = plan.ask()
    for call, said in (
        (lambda: plan.tell(9, "finished", [1]), "trial 9 was not asked"),
        (lambda: plan.tell(0, "done", [1]), "state must be one of finished, failed"),
        (lambda: plan.tell(0, "finished", [None]), "trial 0 finished without val/loss"),
        (lambda: plan.replay([PastTrial(trial.config, "failed", [])]), "has no trial number"),
        (
            lambda: plan.replay([PastTrial(trial.config, "failed", [], number=0)]),
            "trial 0 is there already",
        ),
        (lambda: planner(BAYES, "tep"), "sampler must be one of tpe, gp"),
        (lambda: planner({k: v for k, v in GRID.items() if k != "metric"}).best(), "has no metric"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_a_search_without_optuna_says_what_to_install(monkeypatch):
    """Before the first trial."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError) as error:
        planner(BAYES)
    said = extras.install_line(error.value, "tbn-bench sweep", own="sweep")
    assert said == 'tbn-bench sweep needs optuna: pip install "tbn-bench[sweep]"'


def test_grid_and_random_need_no_optuna():
    """Nor torch: neither is imported."""
    code = f"""
import sys
from tbn_bench.sweep.planner import Planner
from tbn_bench.sweep.spec import expand
for file in ({GRID!r}, {RANDOM!r}):
    plan = Planner(expand(file, "s"))
    while trial := plan.ask():
        plan.tell(trial.number, "finished", [1.0])
assert not {{"optuna", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_quantised_space_is_read_back_from_configs():
    """Every form as an axis: the study holds exactly the points that were run."""
    space = planner(BAYES).spec.space
    for name, u in itertools.product(space, (0.0, 0.01, 0.5, 0.99, 1.0)):
        value = space[name].quantile(u)
        if name != "epochs":
            assert search.value_at(
                space[name], search.place_of(space[name], value)
            ) == pytest.approx(value)
