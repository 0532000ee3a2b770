"""Guards against sweep files that ask for too much: bounded in memory and steps, refused in one
line.
"""

import tracemalloc

import pytest

from tbn_bench import catalog
from tbn_bench.sweep import dotted, space, spec
from tbn_bench.sweep.planner import Planner
from tbn_bench.sweep.spec import expand

MEGABYTE = 10**6
LOSS = {"name": "val/loss"}
TINY = {"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-8}
MANY = {"min": 0, "max": 10**10}
SIXTY = {"values": list(range(1, 61))}
FIVE = {
    name: SIXTY for name in ("batch_size", "binarizer.p", "epochs", "seed", "warmup_epochs")
} | {"binarizer": {"value": "tbn"}}


def grid(parameters, **changes):
    return {"method": "grid", "parameters": parameters, **changes}


def stopped(**rule):
    return grid({"seed": {"value": 0}}, metric=LOSS, early_terminate={"type": "hyperband", **rule})


def uniform(low, high, **more):
    return grid({"lr": {"min": low, "max": high, **more}}, method="random", run_cap=2)


REFUSED = [
    (grid(FIVE), "the grid has 777,600,000 points, expected at most 10,000; give run_cap"),
    (grid({"lr": TINY}), "the grid has 100,000,000 points"),
    (grid({"seed": MANY}), "the grid has 10,000,000,001 points"),
    (grid({"seed": MANY}, run_cap=10**9), "the grid has 10,000,000,001 points"),
    (grid({f"model.x{i}": MANY for i in range(200)}), "the grid has about 10^2000 points"),
    (
        grid({"lr": {"min": 0.1, "max": 0.2}}, method="random", run_cap=10**9),
        "run_cap: expected at most 10,000",
    ),
    (
        grid({f"x{i}": {"value": 0} for i in range(5000)}),
        "parameters: 5,000 are given, expected at most 200",
    ),
    (grid({f"x{i}": {"value": 0} for i in range(200)}), "unknown parameter 'x19'"),
    (grid({"seed": {f"x{i}": 0 for i in range(5000)}}), "parameter seed: unknown key 'x19'"),
    (grid({"seed": {"value": 0}}) | {f"x{i}": 0 for i in range(5000)}, "unknown key 'x19'"),
    (stopped(max_iter=10**9, s=10**9, eta=1.0000001), "give more than 1000 epochs to stop at"),
    (stopped(max_iter=10**400, s=2), "max_iter: must be a number"),
    (uniform(10**400, 10**401), "min must be a number"),
    (uniform(-1e308, 1e308), "has values beyond 64-bit floating-point numbers"),
    (uniform(0, 1, distribution="q_uniform", q=1e-320), "has values beyond 64-bit"),
    (
        uniform(1e-300, 1e300, distribution="q_log_uniform_values", q=1e-300),
        "has values beyond 64-bit",
    ),
    (
        grid({"lr": {"distribution": "log_normal", "mu": 1000}}, method="random", run_cap=2),
        "has values beyond 64-bit",
    ),
    (
        grid({"model.dim": {"value": 1}, "model.Dim": {"value": 2}}),
        "parameters model.dim and model.Dim differ in upper and lower",
    ),
    (
        grid({"seed": {"value": 0}}, metric={"name": "x" * 3000}),
        "is no number that a run of image_classification logs",
    ),
    (grid({"seed": {"values": "x" * 50_000}}), "must be a non-empty list"),
    (grid({"seed": ["x"] * 9000}), "expected {value: ...}"),
]


@pytest.mark.parametrize(("file", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_a_bomb_is_refused(file, said):
    """In little memory, with a short message."""
    for package, name in (("binarizers", "tbn"), ("models", "mlp")):
        catalog.load(package, name)  # imports take memory too, once
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            expand(file, "s")
        assert tracemalloc.get_traced_memory()[1] < 20 * MEGABYTE
    finally:
        tracemalloc.stop()
    lines = str(error.value).splitlines()
    assert said in str(error.value)
    assert len(lines) <= 50
    assert max(map(len, lines)) < 2000


@pytest.mark.parametrize(
    "parameters",
    [
        FIVE,
        {"seed": MANY},
        {"lr": {**TINY, "min": 0.5}},
        {"seed": MANY, "epochs": {"min": 1, "max": 2**31 - 1}},
    ],
)
def test_run_cap_takes_the_first_runs_of_any_grid(parameters, monkeypatch):
    """Only as many points are made as there are runs."""
    made = []
    fold = dotted.fold
    monkeypatch.setattr(dotted, "fold", lambda values: made.append(values) or fold(values))
    sweep = expand(grid(parameters, run_cap=3), "s")
    assert len(sweep.configs) == len({c.run_id for c in sweep.configs}) == len(made) == 3


@pytest.mark.parametrize("kind", ["int_uniform", "q_uniform"])
def test_a_range_is_drawn_from_and_not_listed(kind):
    """Random draws and a search: q = 1e-8, and integers to 1e10."""
    space = {"lr": TINY | {"min": 0.5}} if kind == "q_uniform" else {"seed": MANY}
    assert len(expand(grid(space, method="random", run_cap=3), "s").configs) == 3
    planner = Planner(expand(grid(space, method="bayes", run_cap=3, metric=LOSS), "s"))
    for number in range(3):
        planner.tell(planner.ask().number, "finished", [number])
    assert planner.ask() is None


def test_a_thousand_equal_points_in_a_row_do_not_end_a_grid():
    """Points of sign with another p are one run, for each of 1,500 seeds."""
    parameters = {
        "binarizer": {"values": ["sign", "sign()", "tbn"]},
        "seed": {"min": 0, "max": 1499},
    }
    sweep = expand(grid(parameters), "s")
    assert len(sweep.configs) == 3000
    assert "4,500 points of the grid are 3,000 runs: equal ones are made once" in sweep.warnings


def test_points_that_differ_in_left_out_options_alone_are_passed_over():
    """10^10 of them at once, and no run is missing."""
    parameters = {"binarizer": {"values": ["sign", "tbn"]}, "binarizer.p": MANY, "binarizer.min_layer_size": {"values": [1, 2]},
                  "seed": {"values": [0, 1]}}  # fmt: skip
    runs = [(c.binarizer, c.seed) for c in expand(grid(parameters, run_cap=4), "s").configs]
    assert runs[:2] == [("sign", 0), ("sign", 1)]
    assert runs[2:] == [("tbn(min_layer_size=1, p=0)", 0), ("tbn(min_layer_size=1, p=0)", 1)]


def test_left_out_options_lose_no_run():
    """Skipping gives what making every point and merging gives, in the same order."""
    parameters = {"binarizer": {"values": ["sign", "tbn"]}, "binarizer.p": {"values": [2, 4]}, "optimizer": {"values": ["sgd", "adam", "muon"]},
                  "optimizer.betas": {"values": [[0.8, 0.9], [0.9, 0.99]]}, "seed": {"values": [0, 1]}}  # fmt: skip
    sweep = expand(grid(parameters), "s")
    sizes = [sweep.space[name].grid_size for name in sorted(parameters)]
    every = [
        {
            n: sweep.space[n].nth(i)
            for n, i in zip(sorted(parameters), space._places(k, sizes), strict=True)
        }
        for k in range(48)
    ]
    merged = {config.run_id: config for config in map(sweep.config, every)}
    assert sweep.configs == list(merged.values())


def test_values_that_mean_the_same_are_bounded(monkeypatch):
    """A grid with run_cap that finds no further run ends with a word."""
    monkeypatch.setattr(spec, "LIMIT_LOOKED", 50)
    parameters = {"seed": {"values": [0] * 1000}, "tta": {"values": [False] * 1000}}
    with pytest.raises(
        ValueError,
        match="the first 50 points are only 1 different runs; leave out values that mean the same",
    ):
        expand(grid(parameters, run_cap=2), "s")


def test_warnings_are_short():
    """Also of a name of 3,000 letters, and of 1,000 choices that have no p."""
    choices = {"values": [*["sign"] * 999, "tbn"]}
    choices["values"][:900] = [f"dorefa(a={n})" for n in range(900)]
    file = grid({"binarizer": choices, "binarizer.p": {"values": [4]}}, name="-" * 3000, run_cap=2)
    warnings = expand(file, "s").warnings
    assert len(warnings) >= 2
    assert max(map(len, warnings)) < 1500


def test_a_random_space_that_is_used_up_is_told():
    sweep = expand(grid({"seed": {"values": [0, 1]}}, method="random", run_cap=5), "s")
    assert any("the space has only 2 different runs" in line for line in sweep.warnings)


def test_brackets_are_counted_before_they_are_made():
    """s = 1e9 has the four brackets of 81 epochs; powers that would overflow are not computed."""
    assert expand(stopped(max_iter=81, s=10**9), "s").early_terminate.brackets == [1, 3, 9, 27]
    assert expand(stopped(min_iter=5, eta=1e300), "s").early_terminate.brackets == [5]
    assert expand(stopped(min_iter=1, eta=10**18), "s").early_terminate.brackets == [1]
    assert (
        len(expand(stopped(max_iter=10**9, s=900, eta=1.01), "s").early_terminate.brackets) == 900
    )


def test_a_file_of_many_options_is_linear(monkeypatch):
    """A call is read once for all its dotted arguments."""
    calls = []
    parse = dotted.parse
    monkeypatch.setattr(dotted, "parse", lambda call: calls.append(call) or parse(call))
    point = {"model": "from_timm(name='x')"} | {f"model.x{i}": i for i in range(190)}
    dotted.fold(point)
    assert len(calls) <= 3
