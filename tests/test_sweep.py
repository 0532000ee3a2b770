import pytest

from tbn_bench.sweep.spec import expand, load, load_all

P = {"model": {"value": "mlp"}}


def spec(**changes):
    return {"method": "grid", "parameters": P, **changes}


def test_grid_order_is_wandbs():
    """Names sorted, the last varies fastest; an int range is spelled out; repeats are one run."""
    parameters = {"seed": {"min": 0, "max": 1}, "binarizer": {"values": ["sign", "sign()", "bwn"]}}
    configs = expand(spec(parameters=parameters), "s").configs
    assert [(c.binarizer, c.seed) for c in configs] == [("sign", 0), ("sign", 1), ("bwn", 0), ("bwn", 1)]


def test_random_draws_are_repeatable_and_capped():
    """The same file draws the same runs; a larger cap continues them."""
    wanted = spec(method="random", run_cap=3, parameters={"lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}})
    first = expand(wanted, "s").configs
    assert [c.run_id for c in expand({**wanted, "run_cap": 5}, "s").configs[:3]] == [c.run_id for c in first]
    assert all(1e-4 <= c.lr <= 1e-1 for c in first)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "mapping"),
        (spec(paramters=P), "did you mean 'parameters'"),
        (spec(method="bayes"), "not supported yet"),
        (spec(method="gird"), "grid or random"),
        (spec(parameters={"binariser": {"value": "sign"}}), "did you mean 'binarizer'"),
        (spec(parameters={"seed": {"value": 1, "values": [2]}}), "exactly one"),
        (spec(parameters={"seed": {"values": []}}), "non-empty"),
        (spec(parameters={"seed": {"min": 3, "max": 3}}), "min < max"),
        (spec(parameters={"seed": 3}), "expected"),
        (spec(parameters={"lr": {"min": 0.1, "max": 0.2}}), "a grid needs"),
        (spec(parameters={"epochs": {"value": 0}}), "epochs"),
        (spec(method="random"), "run_cap"),
        (spec(run_cap=0), "positive"),
    ],
)
def test_faults_are_named(value, said):
    """Each fault of a sweep file is one line that says what was expected."""
    with pytest.raises(ValueError, match=said):
        expand(value, "s")


def test_every_sweep_in_the_repository_expands(request):
    """The files in sweeps/ are valid and every network in them can be built (checked on the meta device)."""
    from tbn_bench.sweep.local import check

    for path in sorted((request.config.rootpath / "sweeps").glob("*.yaml")):
        check(load(path).configs)


def test_files_of_one_name_are_one_sweep(tmp_path):
    """Their runs are joined, each once; files of different names are refused."""
    head = "method: grid\nparameters:\n  seed: {values: [0, 1]}\n"
    for file, name, binarizer in (("a", "x", "bwn"), ("b", "x", "sign"), ("c", "y", "sign")):
        (tmp_path / file).write_text(f"name: {name}\n{head}  binarizer: {{value: {binarizer}}}\n")
    joined = load_all([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    assert (joined.name, len(joined.configs)) == ("x", 4)
    with pytest.raises(ValueError, match="must have the same"):
        load_all([tmp_path / "a", tmp_path / "c"])
