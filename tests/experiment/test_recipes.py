"""The presets in recipes/: each parses, builds, says where it comes from, and starts from the runs
that it names.
"""

import re
from pathlib import Path

import pytest
import yaml

from tbn_bench import catalog, cli
from tbn_bench.config import make
from tbn_bench.experiment import build, weights

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# binary_connect without its protocol, the controls, and what was published for language models alone
WITHOUT = {"sign", "repeated_filters", "frozen_tile", "low_rank", "tbn_budget"}
TEACHER, STEP1 = "full_precision_resnet18_cifar10", "reactnet_resnet18_cifar10_step1"


def text(name):
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def config(name, **changes):
    return make({**yaml.safe_load(text(name)), **changes})


def head(name):
    """The comment at the top, as one line."""
    lines = text(name).splitlines()
    return " ".join(
        line.lstrip("# ")
        for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    )


def built(name, **changes):
    """(model, plan, cost): CIFAR-10 is read when training starts, so no file is needed."""
    built = build.build(config(name, **changes))
    return built.model, built.plan, built.cost


def test_every_method_has_a_recipe():
    """A new binarizer comes with its published settings."""
    assert {catalog.parse(config(name).binarizer)[0] for name in RECIPES} == set(
        catalog.names("binarizers")
    ) - WITHOUT


@pytest.mark.parametrize("name", RECIPES)
def test_it_builds_as_its_head_says(name):
    """Track and bits of a tiled network are those of the head.

    What never changes its sign is owned up to; keep patterns all match.
    """
    _, plan, total = built(name)
    assert plan.track in head(name)
    assert [
        w for w in plan.warnings if "never changes its sign" in w
    ] == [] or "never change their sign" in head(name)
    if name.startswith("tbn"):
        assert f"{total.summary()['bits_per_weight']:.3f} bits per weight with the scales" in head(
            name
        )


@pytest.mark.parametrize("name", RECIPES)
def test_its_head_names_a_source_and_what_differs(name):
    """With an evidence tag, the deviations, and the command that runs this very file."""
    assert re.search(r"Source: .*(arXiv \d{4}\.\d{5}|\w+/\w+).*\[[VSP]\]", head(name))
    assert "Deviations: " in head(name)
    assert f"tbn-bench train --config recipes/{name}.yaml" in head(name)


@pytest.mark.parametrize("name", RECIPES)
def test_its_name_is_method_model_data(name):
    """And perhaps a variant."""
    c = config(name)
    model, options = catalog.parse(c.model)
    network = f"resnet{options['depth']}" if "depth" in options else model
    assert f"{name}_".startswith(
        f"{catalog.parse(c.binarizer)[0]}_{network}_{catalog.parse(c.data)[0]}_"
    )


@pytest.mark.parametrize("name", [n for n in RECIPES if "teacher" in config(n).non_defaults])
def test_the_runs_it_starts_from_are_those_of_the_other_files(name):
    """Ids are hashes of settings: a change to the teacher or to step 1 must reach the files that
    name them, for other seeds too.
    """
    c = config(name)
    assert c.teacher == f"single/{config(TEACHER).run_id}"
    assert c.init == (None if name == STEP1 else f"single/{config(STEP1).run_id}")
    seeds = [f"--seed {s} --init single/{config(STEP1, seed=s).run_id}" for s in (1, 2)]
    assert name == STEP1 or all(seed in head(name) for seed in seeds)


@pytest.mark.parametrize("name", [n for n in RECIPES if "init" in config(n).non_defaults])
def test_it_can_start_from_step_1(name):
    """Every weight finds its counterpart, and latent weights are step 1's (checked on a narrow
    network).
    """
    narrow = {"model": config(name).model.replace("depth=18", "depth=18, width=8")}
    (model, *_), (source, *_) = built(name, **narrow), built(STEP1, seed=1, **narrow)
    weights.start_from(model, source)
    latent = model.blocks[3].conv1.parametrizations.weight.original
    assert (latent == source.blocks[3].conv1.weight).all()


@pytest.mark.parametrize(("p", "first_shortcut"), [(4, 1), (8, 8)])
def test_the_authors_lists(p, first_shortcut):
    """Stem, first block, next convolution and classifier at p = 1.

    The first shortcut is tiled under p = 8 alone.
    """
    rows = {
        row.name.removesuffix(".weight"): row.p
        for row in built(f"tbn_resnet18_cifar10_p{p}")[1].rows
    }
    assert [name for name, found in rows.items() if found == 1] == [
        "conv1", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", *["blocks.2.shortcut.0"] * (first_shortcut == 1), "fc",
    ]  # fmt: skip
    assert set(rows.values()) == {1, p}


def test_the_command_line_reads_a_recipe(capsys):
    """Flags win over the file."""
    path = str(FOLDER / "irnet_resnet20_cifar10.yaml")
    assert cli.main(["plan", "--config", path, "--keep", "conv1,fc,blocks.0.*"]) == 0
    kept = [line for line in capsys.readouterr().out.splitlines() if line.rstrip().endswith("kept")]
    assert len(kept) == 4
