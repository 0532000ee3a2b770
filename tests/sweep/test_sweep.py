"""Guards the sweep file: W&B's schema form by form and rule by rule, what it expands to, and the
same file under `wandb agent`.
"""

import itertools
import json
import math
import os
import subprocess
import textwrap

import pytest
import yaml

from tbn_bench import cli
from tbn_bench.cli.flags import config_of
from tbn_bench.cli.parser import make_parser
from tbn_bench.experiment import build
from tbn_bench.sweep.distributions import KINDS, Constant
from tbn_bench.sweep.dotted import fold, same
from tbn_bench.sweep.parameter import distribution
from tbn_bench.sweep.space import draw
from tbn_bench.sweep.spec import expand, load, load_all, smoke

P = {"model": {"value": "mlp"}}
LOSS = {"name": "val/loss"}
TWO = [{"name": "val/top1", "goal": "maximize"}, {"name": "stored_bits"}]
TOP = {"name": "val/top1"}
BAND = {"type": "hyperband", "min_iter": 1}


def spec(**changes):
    return {"method": "grid", "parameters": P, **changes}


def drawn(**parameter):
    """A random sweep over one learning rate."""
    return spec(method="random", run_cap=2, parameters={"lr": parameter})


def search(**changes):
    return spec(
        **{
            "method": "bayes",
            "run_cap": 2,
            "metric": LOSS,
            "parameters": {"lr": {"min": 0.1, "max": 0.2}},
            **changes,
        }
    )


def parsed_flags(*flags):
    """The config that `tbn-bench train` makes of these flags."""
    return config_of(make_parser().parse_args(["train", *flags]))


GOOD = {
    "every text at the top": spec(
        apiVersion="v1",
        kind="sweep",
        description="d",
        entity="e",
        program="p.py",
        project="p",
        job="j",
        image_uri="i",
        name="n",
    ),
    "command": spec(command=["tbn-bench", "train", "--x", "${args}", "${envvar:HOME}", 3]),
    "controller": spec(controller={"type": "local"}),
    "metric": spec(
        metric={
            **LOSS,
            "goal": "maximize",
            "target": 1,
            "impute": "best",
            "impute_while_running": "false",
        }
    ),
    "run_cap": spec(run_cap=3),
    "min_iter": spec(metric=LOSS, early_terminate={**BAND, "eta": 2, "strict": False}),
    "max_iter": spec(metric=LOSS, early_terminate={"type": "hyperband", "max_iter": 27, "s": 2}),
    "both": spec(metric=LOSS, early_terminate={**BAND, "max_iter": 27, "s": 2}),
    "values": spec(parameters={"lr": {"values": [0.1, 0.2], "distribution": "categorical"}}),
    "value": spec(parameters={"lr": {"value": 0.1, "distribution": "constant"}}),
    "null": spec(parameters={"teacher": {"value": None}}),
    "int_uniform": spec(parameters={"seed": {"min": 0, "max": 2, "distribution": "int_uniform"}}),
    "q_uniform": spec(
        parameters={"lr": {"min": 1, "max": 2, "q": 0.25, "distribution": "q_uniform"}}
    ),
    "dotted": spec(parameters={"binarizer": {"value": "tbn"}, "binarizer.p": {"values": [2, 4]}}),
    "nested": spec(parameters={"model": {"parameters": {"hidden": {"values": [[8], [16]]}}}}),
    "probabilities": drawn(values=[0.1, 0.2], probabilities=[0.25, 0.75]),
    "named probabilities": drawn(
        values=[0.1, 0.2], probabilities=[0.25, 0.75], distribution="categorical_w_probabilities"
    ),
    "uniform of integers": drawn(min=1, max=2, distribution="uniform"),
    "integer and float": drawn(min=1, max=2.0),
    "log_uniform_values": drawn(min=0.1, max=1, distribution="log_uniform_values"),
    "q_log_uniform_values": drawn(min=1, max=10, q=2, distribution="q_log_uniform_values"),
    "inv_log_uniform_values": drawn(min=0.1, max=1, distribution="inv_log_uniform_values"),
    "normal": drawn(mu=90, sigma=0.5, distribution="normal"),
    "q_normal": drawn(mu=90, sigma=1, q=0.5, distribution="q_normal"),
    "log_normal": drawn(distribution="log_normal"),
    "q_log_normal": drawn(mu=9, q=0.1, distribution="q_log_normal"),
    "beta": drawn(a=2, b=3.5, distribution="beta"),
    "q_beta": drawn(a=200, q=0.125, distribution="q_beta"),
    "bayes": search(),
    "custom": search(method="custom", scheduler={"engine": "optuna"}),
    "several objectives": {
        k: v for k, v in search(method="custom", metrics=TWO).items() if k != "metric"
    },
    "engine wandb": search(scheduler={"engine": "wandb"}),
}

BAD = {  # W&B refuses these too
    "unknown key 'paramters', did you mean 'parameters'": spec(paramters=P),
    "unknown key 'resources'": spec(resources={"gpu": 1}),
    "method is missing": {"parameters": P},
    "method: unknown 'gird', did you mean 'grid'": spec(method="gird"),
    "parameters is missing": {"method": "grid"},
    "at least one parameter, got {}": spec(parameters={}),
    "parameter 1: a name is": spec(parameters={"1": {"value": 1}}),
    "run_cap: must be positive, got 0": spec(run_cap=0),
    "run_cap: must be an integer, got 1.5": spec(run_cap=1.5),
    "run_cap: must be a number, got True": spec(run_cap=True),
    "name: Input should be a valid string, got 3": spec(name=3),
    "metric: Input should be a valid dictionary": spec(metric=None),
    "metric.name is missing": spec(metric={"goal": "minimize"}),
    "metric.goal: unknown 'maximise', did you mean 'maximize'": spec(
        metric={**LOSS, "goal": "maximise"}
    ),
    "metric: unknown key 'gaol', did you mean 'goal'": spec(metric={**LOSS, "gaol": "minimize"}),
    "metric.target: must be a number, got 'low'": spec(metric={**LOSS, "target": "low"}),
    "metric.impute: unknown 'wrost', did you mean 'worst'": spec(
        metric={**LOSS, "impute": "wrost"}
    ),
    "metric.impute_while_running: unknown False": spec(
        metric={**LOSS, "impute_while_running": False}
    ),
    "metrics: List should have at least 2": spec(method="custom", run_cap=1, metrics=TWO[:1]),
    "metrics needs method custom, got grid": spec(metrics=TWO),
    "metric and metrics cannot both": search(method="custom", metrics=TWO),
    "early_terminate.type is missing": spec(metric=LOSS, early_terminate={"min_iter": 1}),
    "early_terminate.type: unknown 'hyberband', did you mean 'hyperband'": spec(
        metric=LOSS, early_terminate={**BAND, "type": "hyberband"}
    ),
    "give min_iter, or max_iter with s": spec(
        metric=LOSS, early_terminate={"type": "hyperband", "max_iter": 9}
    ),
    "early_terminate.min_iter: must be positive": spec(
        metric=LOSS, early_terminate={**BAND, "min_iter": 0}
    ),
    "early_terminate.eta: must be greater than 1": spec(
        metric=LOSS, early_terminate={**BAND, "eta": 1}
    ),
    "early_terminate: unknown key 'mni_iter', did you mean 'min_iter'": spec(
        metric=LOSS, early_terminate={**BAND, "mni_iter": 1}
    ),
    "early_terminate and scheduler cannot both": search(
        scheduler={"engine": "wandb"}, early_terminate=BAND
    ),
    "scheduler.engine optuna needs method custom, got bayes": search(
        scheduler={"engine": "optuna"}
    ),
    "scheduler: optimizer and search_space need source": search(
        method="custom", scheduler={"engine": "optuna", "optimizer": "f"}
    ),
    "controller of type local and scheduler": search(
        scheduler={"engine": "wandb"}, controller={"type": "local"}
    ),
    "controller.type: unknown 'here'": spec(controller={"type": "here"}),
    "kind: unknown 'swep', did you mean 'sweep'": spec(kind="swep"),
    "command: Input should be a valid list": spec(command="tbn-bench train"),
    "parameter seed: expected {value: ...}": spec(parameters={"seed": 3}),
    "give exactly one of value, values": spec(parameters={"seed": {"value": 1, "values": [2]}}),
    "parameter seed: unknown key 'vales', did you mean 'values'": spec(
        parameters={"seed": {"vales": [1]}}
    ),
    "parameter seed: values must be a non-empty list": spec(parameters={"seed": {"values": []}}),
    "min and max must be numbers with min < max, got 3 and 3": spec(
        parameters={"seed": {"min": 3, "max": 3}}
    ),
    "parameter seed: int_uniform needs max": spec(
        parameters={"seed": {"min": 3, "distribution": "int_uniform"}}
    ),
    "parameter seed: max must be an integer, got 5.0": spec(
        parameters={"seed": {"min": 3, "max": 5.0, "distribution": "int_uniform"}}
    ),
    "leave its quotes out": drawn(min="1e-4", max=1),
    "must match values one by one and sum to 1": drawn(values=[1, 2], probabilities=[0.3, 0.3]),
    "categorical takes values, not probabilities": drawn(
        values=[1, 2], probabilities=[0.5, 0.5], distribution="categorical"
    ),
    "unknown distribution 'unifrom', did you mean 'uniform'": drawn(
        min=1, max=2, distribution="unifrom"
    ),
    "log_uniform_values, with min and max": drawn(min=-9, max=-2, distribution="log_uniform"),
    "q_log_uniform_values, with min and max": drawn(min=-9, max=-2, distribution="q_log_uniform"),
    "inv_log_uniform_values, with min and max": drawn(
        min=-9, max=-2, distribution="inv_log_uniform"
    ),
    "min must be positive, got 0": drawn(min=0, max=1, distribution="log_uniform_values"),
    "q must be positive, got 0": drawn(min=0, max=1, q=0, distribution="q_uniform"),
    "sigma must not be negative": drawn(sigma=-1, distribution="normal"),
    "normal takes mu, sigma, not min": drawn(min=1, distribution="normal"),
    "a must be positive, got -1": drawn(a=-1, distribution="beta"),
}

BAD |= {
    "unknown distribution [1]": spec(parameters={"lr": {"distribution": [1]}}),
    "unknown distribution {}": spec(parameters={"lr": {"distribution": {}}}),
}

OURS = {  # what W&B's schema lets pass, and nobody could carry out, or nobody here
    "did you mean 'binarizer'": spec(parameters={"binariser": {"value": "sign"}}),
    "lr takes no arguments": spec(parameters={"lr.x": {"value": 1}}),
    "the name of one argument": spec(parameters={"model.a.b": {"value": 1}}),
    "binarizer.p is given twice": spec(
        parameters={"binarizer": {"value": "tbn(p=2)"}, "binarizer.p": {"value": 4}}
    ),
    "given twice, once with a dot": spec(
        parameters={"model.x": {"value": 1}, "model": {"parameters": {"x": {"value": 1}}}}
    ),
    "epochs: Input should be greater": spec(parameters={"epochs": {"value": 0}}),
    "a grid needs value": spec(parameters={"lr": {"min": 0.1, "max": 0.2}}),
    "a grid needs value, values without": spec(
        parameters={"lr": {"values": [1, 2], "probabilities": [0.5, 0.5]}}
    ),
    "method random needs run_cap": spec(method="random"),
    "method bayes needs run_cap": {k: v for k, v in search().items() if k != "run_cap"},
    "method bayes needs metric": {k: v for k, v in search().items() if k != "metric"},
    "more than one value": search(parameters=P),
    "early_terminate needs metric": spec(early_terminate=BAND),
    "leave no epoch to stop at": spec(
        metric=LOSS, early_terminate={"type": "hyperband", "max_iter": 2, "s": 1}
    ),
    "s: must be an integer, got 1.5": spec(
        metric=LOSS, early_terminate={"type": "hyperband", "max_iter": 9, "s": 1.5}
    ),
    "leave the rest to": search(method="custom", scheduler={"engine": "ax"}),
    "unknown macro ${arg}, did you mean 'args'": spec(command=["tbn-bench", "train", "${arg}"]),
    "must be positive, got 0": drawn(a=0, distribution="beta"),
    "must be a number, got inf": drawn(min=0, max=math.inf),
    "'val/accuracy' is no number that a run of image_classification logs, did you mean 'val/top1'": spec(
        metric={"name": "val/accuracy"}
    ),
    "did you mean 'val/mse'": spec(metric=TOP, parameters={**P, "task": {"value": "forecasting"}}),
    "every run of image_classification and forecasting": spec(
        metric=TOP, parameters={**P, "task": {"values": ["image_classification", "forecasting"]}}
    ),
    "did you mean 'stored_bits'": search(
        method="custom", metric=None, metrics=[TOP, {"name": "stored_bit"}]
    ),
    "metric 'tile/flip_rate' has no better direction by itself; add goal": spec(
        metric={"name": "tile/flip_rate"}
    ),
    "a metric that every epoch logs, got 'test/top1'": spec(
        metric={"name": "test/top1"}, early_terminate=BAND
    ),
}
OURS = {said: {k: v for k, v in file.items() if v is not None} for said, file in OURS.items()}


@pytest.mark.parametrize("name", GOOD)
def test_every_form_of_the_schema_is_taken(name):
    """Each form of W&B's schema, and each key at the top, with the values it may have."""
    sweep = expand(GOOD[name], "s")
    assert sweep.is_search is not bool(sweep.configs)


@pytest.mark.parametrize("said", [*BAD, *OURS])
def test_faults_are_named(said):
    """Each fault of a sweep file is one line that says where it is, what was expected and what was
    got.
    """
    with pytest.raises(ValueError) as caught:
        expand((BAD | OURS)[said], "s")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "goal"),
    [("val/top1", "maximize"), ("val/top1_last", "maximize"), ("test/top1_tta", "maximize"), ("images_per_second", "maximize"),
     ("val/loss", "minimize"), ("seconds", "minimize"), ("train_pflop", "minimize"), ("macs", "minimize"), ("bits_per_weight", "minimize")],
)  # fmt: skip
def test_a_goal_that_is_left_out_is_the_better_direction(name, goal):
    """From scores.py; where W&B, which minimises, would do otherwise, there is a warning."""
    sweep = expand(spec(metric={"name": name}), "s")
    assert sweep.metrics[0].goal == goal
    assert ["would minimise it" in line for line in sweep.warnings] == [True] * (goal == "maximize")


def test_a_goal_against_the_score_is_taken_with_a_warning(tmp_path, capsys):
    """W&B's format allows it, and a dry run says it before anything is paid for."""
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(spec(metric={**TOP, "goal": "minimize"})))
    assert load(path).metrics[0].goal == "minimize"
    assert cli.main(["sweep", str(path), "--dry-run", "--results", str(tmp_path)]) == 0
    assert (
        f"warning: {path}: metric 'val/top1': goal: minimize looks for the WORST runs"
        in capsys.readouterr().err
    )


def test_several_objectives_have_the_directions_of_their_fields():
    """Accuracy up, bits down, without a word in the file."""
    sweep = expand(
        {
            k: v
            for k, v in search(method="custom", metrics=[TOP, {"name": "stored_bits"}]).items()
            if k != "metric"
        },
        "s",
    )
    assert [m.goal for m in sweep.metrics] == ["maximize", "minimize"]


def test_a_metric_that_no_run_has_fails_the_dry_run(tmp_path, capsys):
    """Before the first run is paid for, and without a trace."""
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(search(metric={"name": "val/accuracy", "goal": "maximize"})))
    assert cli.main(["sweep", str(path), "--dry-run", "--results", str(tmp_path / "r")]) == 1
    assert "did you mean 'val/top1'?" in capsys.readouterr().err


def test_all_faults_are_told_at_once(tmp_path):
    """One line per fault, each with the file and the key."""
    path = tmp_path / "s.yaml"
    path.write_text(
        "method: gird\nrun_cap: 0\nparameters: {seed: {vales: [1]}, lr: {min: 2, max: 1}}\n"
    )
    with pytest.raises(ValueError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert [
        line.startswith(f"{path}: {key}")
        for line, key in zip(
            lines, ("method", "run_cap", "parameter seed", "parameter lr"), strict=True
        )
    ]


CHOICES = {
    "binarizer": {"values": ["full_precision", "tbn", "sign"]},
    "binarizer.p": {"values": [4, 8]},
    "seed": {"values": [0, 1]},
}


def test_an_option_that_only_some_choices_have(tmp_path, capsys):
    """The others go without it, equal runs are one, and the dry run says both."""
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(spec(parameters=CHOICES)))
    sweep = load(path)
    methods = [
        "full_precision",
        "full_precision",
        "tbn(p=4)",
        "tbn(p=4)",
        "sign",
        "sign",
        "tbn(p=8)",
        "tbn(p=8)",
    ]
    assert sorted(c.binarizer for c in sweep.configs) == sorted(methods)
    assert cli.main(["sweep", str(path), "--dry-run", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert (
        f"warning: {path}: parameter binarizer.p: no option of full_precision, sign, whose runs go without it"
        in said
    )
    assert f"warning: {path}: 12 points of the grid are 8 runs: equal ones are made once" in said


def test_a_search_goes_on_with_an_option_that_only_some_choices_have():
    """A point is found again from its config; what the config has no option for has one value."""
    sweep = expand(search(run_cap=9, parameters={**CHOICES, "lr": {"min": 0.1, "max": 0.2}}), "s")
    for n in range(20):
        point = draw(sweep.space, str(n))
        config = sweep.config(point)
        found = sweep.point(config)
        assert sweep.config(found) == config
        assert found == point | {
            "binarizer.p": point["binarizer.p"] if point["binarizer"] == "tbn" else 8
        }


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"binarizer": {"values": ["sign", "twn"]}, "binarizer.p": {"value": 4}}, "parameter binarizer.p: sign or twn has no option 'p': it takes none"),
        ({"binarizer": {"values": ["sign", "tbn"]}, "binarizer.tile_lenght": {"value": 4}}, "did you mean 'tile_length'? Known: alpha, "),
        ({"model.hiden": {"value": [3]}}, "parameter model.hiden: mlp has no option 'hiden', did you mean 'hidden'?"),
    ],
)  # fmt: skip
def test_an_option_that_no_choice_has_is_an_error(parameters, said):
    with pytest.raises(ValueError) as error:
        expand(spec(parameters=parameters), "s")
    assert said in str(error.value)


def test_wandb_agent_hands_on_options_that_a_choice_does_not_have(monkeypatch, capsys):
    """They are left out there, with a warning; typed by hand they are an error."""
    flags = ("--binarizer=full_precision", "--binarizer.p=4")
    with pytest.raises(ValueError, match="full_precision has no option 'p': it takes none"):
        build.sketch(parsed_flags(*flags))
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    assert parsed_flags(*flags).binarizer == "full_precision"
    assert "--binarizer.p is no option of this binarizer and left out" in capsys.readouterr().err
    assert parsed_flags("--binarizer=tbn", "--binarizer.p=4").binarizer == "tbn(p=4)"


def test_numbers_with_an_exponent_are_numbers_everywhere(tmp_path):
    """YAML 1.1 takes 1e-3 for text: in lists, as ends of a range, below a call, as a metric's
    target.
    """
    path = tmp_path / "s.yaml"
    path.write_text(
        "method: random\nrun_cap: 2\nmetric: {name: val/loss, target: 1e-9}\nparameters:\n"
        "  lr: {distribution: log_uniform_values, min: 1e-5, max: 1e-3}\n"
        "  weight_decay: {values: [1e-4, 2e-4], probabilities: [5e-1, 5e-1]}\n"
        "  model.dropout: {values: [1e-1]}\n  model: {value: vit}\n"
    )
    sweep = load(path)
    assert (sweep.space["lr"].min, sweep.space["lr"].max) == (1e-5, 1e-3)
    assert sweep.metrics[0].target == 1e-9
    assert {c.model for c in sweep.configs} == {"vit(dropout=0.1)"}


def test_numbers_that_wandb_hands_on_as_text_are_numbers():
    """Its agent reads 1e-1 as text and writes it so, also in a dictionary or a list."""
    config = parsed_flags("--optimizer.betas=['9e-1', 0.99]", "--optimizer=adam")
    assert config.optimizer == "adam(betas=[0.9, 0.99])"
    config = parsed_flags("--task={'reg': '1e-3'}", "--data=modelnet40")
    assert config.task == "image_classification(reg=0.001)"


def test_a_sweep_file_is_a_mapping():
    """A list at the top of the file is refused."""
    with pytest.raises(ValueError, match="must hold a mapping, got list"):
        expand([], "s")


def test_grid_order_is_wandbs():
    """Names sorted, the last varies fastest; an int range is spelled out; repeats are one run."""
    parameters = {"seed": {"min": 0, "max": 1}, "binarizer": {"values": ["sign", "sign()", "bwn"]}}
    configs = expand(spec(parameters=parameters), "s").configs
    assert [(c.binarizer, c.seed) for c in configs] == [
        ("sign", 0),
        ("sign", 1),
        ("bwn", 0),
        ("bwn", 1),
    ]


def test_a_quantised_grid_ends_before_its_maximum():
    """As W&B's, which is numpy.arange."""
    parameters = {"lr": {"min": 1, "max": 2, "q": 0.25, "distribution": "q_uniform"}}
    assert [c.lr for c in expand(spec(parameters=parameters), "s").configs] == [
        1.0,
        1.25,
        1.5,
        1.75,
    ]


def test_dotted_and_nested_parameters_are_arguments_of_calls():
    """`binarizer.p` beside `binarizer: tbn` is tbn(p=...).

    Nested parameters are the same with the field's default call.
    """
    parameters = {"binarizer": {"value": "tbn(alpha='tile')"}, "binarizer.p": {"values": [2, 4]}}
    assert [c.binarizer for c in expand(spec(parameters=parameters), "s").configs] == [
        "tbn(alpha='tile', p=2)",
        "tbn(alpha='tile', p=4)",
    ]
    nested = {"model": {"parameters": {"hidden": {"values": [[8], [16]]}}}}
    assert [c.model for c in expand(spec(parameters=nested), "s").configs] == [
        "mlp(hidden=[8])",
        "mlp(hidden=[16])",
    ]


def test_a_point_is_found_again_from_its_config():
    """Spelling aside: what a search was told of is read from run records."""
    parameters = {
        "binarizer": {"values": ["bwn", "tbn( alpha='tile' )"]}, "binarizer.p": {"values": [2, 4]}, "lr": {"min": 0.1, "max": 0.7},
        "keep": {"values": [["fc"], ["fc", "stem"]]}, "precision": {"value": 32}, "teacher": {"values": [None, "a/0123456789ab"]},
    }  # fmt: skip
    sweep = expand(search(parameters=parameters), "s")
    for n in range(20):
        point = draw(sweep.space, str(n))
        assert sweep.point(sweep.config(point)) == point
    assert sweep.point(sweep.config(point).model_copy(update={"seed": 7})) is None


def test_a_choice_that_no_config_takes_fails_a_search_at_once():
    """Every such choice is named; ranges are met when they are drawn."""
    parameters = {
        "binarizer": {"values": ["tbn(p=, x=1)", "tbn(p=2)", 0.5]},
        "seed": {"values": [0, "grid"]},
    }
    with pytest.raises(ValueError) as error:
        expand(search(parameters=parameters), "s")
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "binarizer",
        "binarizer",
        "seed",
    ]


def test_a_choice_that_no_config_takes_hides_no_other_one():
    """What a search was told of comes after it in the list."""
    assert same("binarizer", "tbn( p=4 )", "tbn(p=4)")
    assert not same("binarizer", "tbn(p=", "tbn(p=4)")
    assert not same("seed", "grid", 0)


def test_random_draws_are_repeatable_and_capped():
    """The same file draws the same runs; a larger cap continues them."""
    wanted = spec(
        method="random",
        run_cap=3,
        parameters={"lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}},
    )
    first = expand(wanted, "s").configs
    assert [c.run_id for c in expand({**wanted, "run_cap": 5}, "s").configs[:3]] == [
        c.run_id for c in first
    ]
    assert all(1e-4 <= c.lr <= 1e-1 for c in first)


def test_repeated_draws_are_one_run_and_end():
    """run_cap counts different runs; a space with fewer ends the sweep."""
    wanted = spec(method="random", run_cap=5, parameters={"seed": {"values": [0, 1, 2, 3, 4, 5]}})
    assert len(expand(wanted, "s").configs) == 5
    assert len(expand({**wanted, "run_cap": 9}, "s").configs) == 6


QUANTILES = [i / 1000 for i in range(1001)]


@pytest.mark.parametrize(
    ("given", "low", "high", "median"),
    [
        ({"values": [1, 2, 4]}, 1, 4, 2),
        ({"values": [1, 2, 4], "probabilities": [0.1, 0.1, 0.8]}, 1, 4, 4),
        ({"min": 1, "max": 9}, 1, 9, 5),
        ({"min": 1.0, "max": 9}, 1, 9, 5),
        ({"min": 0, "max": 1, "q": 0.25, "distribution": "q_uniform"}, 0, 1, 0.5),
        ({"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"}, 1e-4, 1e-2, 1e-3),
        ({"min": 1e-4, "max": 1e-2, "distribution": "inv_log_uniform_values"}, 1e-4, 1e-2, 1e-3),
        ({"min": 1, "max": 64, "q": 4, "distribution": "q_log_uniform_values"}, 0, 64, 8),
        ({"mu": 3, "sigma": 0.5, "distribution": "normal"}, -1, 7, 3),
        ({"mu": 3, "sigma": 2, "q": 2, "distribution": "q_normal"}, -12, 18, 4),
        ({"mu": 0, "sigma": 1, "distribution": "log_normal"}, 0, 1200, 1),
        ({"mu": 2, "sigma": 1, "q": 3, "distribution": "q_log_normal"}, 0, 8700, 6),
        ({"a": 2, "b": 2, "distribution": "beta"}, 0, 1, 0.5),
        ({"a": 2, "b": 2, "q": 0.5, "distribution": "q_beta"}, 0, 1, 0.5),
    ],
)
def test_distributions_by_hand(given, low, high, median):
    """Range, median, multiples of q, never falling with the quantile.

    Position() is the way back.
    """
    shape = distribution("lr", given)
    values = [shape.quantile(u) for u in QUANTILES]
    assert min(values) >= low
    assert max(values) <= high
    assert values[500] == pytest.approx(median)
    assert values == sorted(values)
    assert all((v / given.get("q", v or 1)).is_integer() for v in values)
    assert [shape.quantile(shape.cdf(v)) for v in values] == pytest.approx(values, rel=1e-6)


def test_draws_follow_the_distribution():
    """10,000 draws: log spacing puts a third into each decade, probabilities are frequencies.

    A normal is finite at its ends.
    """
    space = {"lr": distribution("lr", {"min": 1e-3, "max": 1, "distribution": "log_uniform_values"}),
             "seed": distribution("seed", {"values": [0, 1], "probabilities": [0.2, 0.8]})}  # fmt: skip
    points = [draw(space, str(n)) for n in range(10000)]
    for low in (1e-3, 1e-2, 1e-1):
        assert sum(low <= p["lr"] < 10 * low for p in points) / 10000 == pytest.approx(
            1 / 3, abs=0.02
        )
    assert sum(p["seed"] for p in points) / 10000 == pytest.approx(0.8, abs=0.02)
    assert all(
        math.isfinite(distribution("lr", {"distribution": "normal"}).quantile(u)) for u in (0, 1)
    )
    assert distribution("lr", {"mu": 9, "sigma": 0, "distribution": "normal"}).quantile(0.3) == 9


def test_every_distribution_of_wandb_is_there():
    """The names of ecosystem.md 1c; nested parameters are the one form without a name."""
    quantised = {"q_uniform", "q_log_uniform_values", "q_normal", "q_log_normal", "q_beta"}
    plain = {
        "uniform",
        "log_uniform_values",
        "inv_log_uniform_values",
        "normal",
        "log_normal",
        "beta",
        "int_uniform",
    }
    assert {*KINDS} == quantised | plain | {
        "constant",
        "categorical",
        "categorical_w_probabilities",
    }


def test_every_sweep_in_the_repository_expands(request):
    """The files in sweeps/ are valid, and their data sets take their options.

    Networks: tests/experiment/test_published_sweeps.py.
    """
    for path in sorted((request.config.rootpath / "sweeps").glob("*.yaml")):
        configs = load(path).configs
        assert len({config.run_id for config in configs}) == len(configs) > 0
        for first in {config.data: config for config in configs}.values():
            build.data_of(first)


def test_files_of_one_name_are_one_sweep(tmp_path):
    """Their runs are joined, each once; files of different names are refused."""
    head = "method: grid\nparameters:\n  seed: {values: [0, 1]}\n"
    for file, name, binarizer in (("a", "x", "bwn"), ("b", "x", "sign"), ("c", "y", "sign")):
        (tmp_path / file).write_text(f"name: {name}\n{head}  binarizer: {{value: {binarizer}}}\n")
    joined = load_all([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    assert (joined.name, len(joined.configs)) == ("x", 4)
    with pytest.raises(ValueError, match="must have the same"):
        load_all([tmp_path / "a", tmp_path / "c"])


@pytest.mark.parametrize(
    ("change", "said"), [(search(), "a search has one space"), (spec(metric=LOSS), "same metric")]
)
def test_files_that_cannot_be_one_sweep_are_refused(tmp_path, change, said):
    """A search joined with a grid, grids that are stopped by different rules."""
    for file, value in (("a", spec()), ("b", change)):
        (tmp_path / file).write_text(yaml.safe_dump({**value, "name": "x"}))
    with pytest.raises(ValueError, match=said):
        load_all([tmp_path / "a", tmp_path / "b"])


def test_smoke_of_a_search_makes_small_runs():
    """Also of configs that are not known beforehand."""
    small = smoke(expand(search(name="x"), "s"))
    config = small.config({"lr": 0.15})
    assert (small.name, config.epochs, config.data, config.lr) == (
        "x-smoke",
        1,
        "smoke(of='digits')",
        0.15,
    )


# Under wandb agent


def agent_flags(point):
    """What ${args} becomes: wandb/sdk/launch/sweeps/utils.py, create_sweep_command_args."""
    return [f"--{name}={value}" for name, value in point.items()]


@pytest.mark.parametrize(
    "point",
    [
        {"binarizer": "tbn", "binarizer.p": 4, "binarizer.alpha": "tile", "lr": 1e-05, "seed": 2},
        {"model": "mlp", "model.hidden": [64, 32], "model.bias": False, "keep": ["1", "3"]},
        {"teacher": None, "keep": "1", "precision": "32"},
    ],
)
def test_wandb_agent_starts_the_same_run(point):
    """Flags as `wandb agent` writes them give the config, and so the run id, that the file gives
    here.
    """
    from tbn_bench.config import make

    args = make_parser().parse_args(["train", *agent_flags(point)])
    assert config_of(args) == make(fold(point))


def test_wandb_agent_hands_on_a_nested_parameter_as_a_dictionary():
    """Which is read as the arguments of the call."""
    args = make_parser().parse_args(
        ["plan", "--model={'hidden': [64]}", "--binarizer", "tbn", "--binarizer.p", "4"]
    )
    assert (config_of(args).model, config_of(args).binarizer) == (
        "mlp(hidden=[64])",
        "tbn(p=4)",
    )


def test_a_dotted_flag_wins_over_the_preset(tmp_path):
    """`--config recipe.yaml --binarizer.p=8` changes one argument of the preset's call."""
    (tmp_path / "p.yaml").write_text("binarizer: tbn(p=4, alpha='tile')\n")
    args = make_parser().parse_args(["plan", f"--config={tmp_path / 'p.yaml'}", "--binarizer.p=8"])
    assert config_of(args).binarizer == "tbn(alpha='tile', p=8)"


# Against W&B's own package, which cannot be installed beside numpy 2: in a venv of its own, pip install sweeps==0.3.0

PEER = """
import json, sys
from sweeps import next_runs, stop_runs, SweepRun
from sweeps.config import schema_violations_from_proposed_config as violations
from sweeps.params import HyperParameter
from sweeps.run import RunState
def violated(file):
    try: return violations(file)
    except Exception as error: return [repr(error)]
asked = json.load(sys.stdin)
grids = [[{k: v["value"] for k, v in r.config.items()} for r in next_runs(f, [], n=99) if r] for f in asked["grids"]]
forms = [[getattr(v, "tolist", lambda v=v: v)() for v in (HyperParameter("x", f).ppf(u) for u in asked["at"])] for f in asked["forms"]]
stops = [[int(r.name) for r in stop_runs(f, [SweepRun(name=str(i), state=RunState.running, history=[{"val/loss": v} for v in h])
         for i, h in enumerate(histories)])] for f, histories in asked["stops"]]
print(json.dumps({"files": [violated(f) for f in asked["files"]], "grids": grids, "forms": forms, "stops": stops}))
"""


@pytest.fixture(scope="module")
def peer():
    """peer(files=..., grids=..., forms=..., at=..., stops=...) -> the package's answers."""
    python = os.environ.get("TBN_BENCH_SWEEPS_PYTHON")
    if not python:
        pytest.skip("TBN_BENCH_SWEEPS_PYTHON names no interpreter that has PyPI's sweeps 0.3.0")

    def ask(**asked):
        text = json.dumps({"files": [], "grids": [], "forms": [], "at": [], "stops": [], **asked})
        done = subprocess.run(
            [python, "-c", textwrap.dedent(PEER)], input=text, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


def test_wandb_takes_and_refuses_the_same_files(peer):
    """Every good file is good to W&B, every bad one bad; what we refuse beyond that is in OURS."""
    files = [*GOOD.items(), *BAD.items(), *((k, v) for k, v in OURS.items() if "inf" not in k)]
    violated = dict(
        zip([k for k, _ in files], peer(files=[v for _, v in files])["files"], strict=True)
    )
    assert {k: violated[k] for k in GOOD if violated[k]} == {}
    assert [k for k in BAD if not violated[k]] == []
    assert {k: violated[k] for k in OURS if violated.get(k)} == {}


def test_wandb_expands_the_same_grids(peer):
    """Same values, same order."""
    grids = [v for k, v in GOOD.items() if v["method"] == "grid" and k not in ("run_cap", "nested")]
    grids += [
        spec(
            parameters={
                "seed": {"min": 0, "max": 2},
                "lr": {"values": [0.2, 0.1]},
                "data": {"value": "digits"},
            }
        )
    ]
    for file, points in zip(grids, peer(grids=grids)["grids"], strict=True):
        sweep = expand(file, "s")
        constants = {
            name: shape.value for name, shape in sweep.space.items() if isinstance(shape, Constant)
        }
        assert [sweep.config(constants | point) for point in points] == sweep.configs


def test_wandb_draws_from_the_same_distributions(peer):
    """Equal quantile functions."""
    forms = [f["parameters"]["lr"] for f in GOOD.values() if f["method"] == "random"]
    at = [0.01 + 0.07 * i for i in range(14)]
    for given, theirs in zip(forms, peer(forms=forms, at=at)["forms"], strict=True):
        assert [distribution("lr", given).quantile(u) for u in at] == pytest.approx(
            theirs, rel=1e-9
        ), given


def test_wandb_stops_the_same_runs(peer):
    """Hyperband on 2 x 2 x 5 sets of histories, strict and not, by min_iter and by max_iter."""
    import random

    from tbn_bench.sweep.planner import Planner

    rng, stops = random.Random(0), []
    rules = [
        {"type": "hyperband", "min_iter": 2, "eta": 2},
        {"type": "hyperband", "max_iter": 9, "s": 2},
    ]
    for rule, strict, _ in itertools.product(rules, (True, False), range(5)):
        file = spec(
            metric=LOSS,
            early_terminate={**rule, "strict": strict},
            parameters={"seed": {"min": 0, "max": 11}},
        )
        stops.append(
            (file, [[round(rng.random(), 1) for _ in range(rng.randint(1, 12))] for _ in range(12)])
        )
    for (file, histories), theirs in zip(stops, peer(stops=stops)["stops"], strict=True):
        planner = Planner(expand(file, "s"))
        for history in histories:
            number = planner.ask().number
            for epoch, value in enumerate(history):
                planner.report(number, epoch, value)
        last = [planner.report(n, len(h) - 1, h[-1]) for n, h in enumerate(histories)]
        assert [n for n, stop in enumerate(last) if stop] == theirs
