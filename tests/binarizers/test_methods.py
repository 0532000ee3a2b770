"""docs/methods: a page, a picture and a row of the index for every binarizer, and nothing in them
that the code contradicts.
"""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tbn_bench import catalog
from tbn_bench.convert.binarize import binarize_

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"
METHODS = catalog.names("binarizers")


@pytest.fixture(scope="module")
def draw():
    """docs/methods/draw.py, with few points."""
    spec = importlib.util.spec_from_file_location("draw", FOLDER / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SWEEP = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    return module


def page(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def index():
    """(spec, track, bits per weight, sign(0)) of each row of the table."""
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page("README").splitlines()
        if line.startswith("| ")
    ]
    return [(row[1].strip("`"), row[2], row[4], row[6]) for row in rows[2:]]


def test_every_method_is_in_the_index():
    """Linked in the table, with a page of its own."""
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1\.md\)", page("README"), re.MULTILINE)) == METHODS
    assert {catalog.parse(spec)[0] for spec, *_ in index()} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_page_points_at_things_that_exist(name):
    """Its picture (small), the recipes and sweeps it names, and every test it calls a proof.

    It says what sign(0) is.
    """
    text = page(name)
    assert (FOLDER / f"{name}.svg").stat().st_size < 40_000
    assert f"({name}.svg)" in text
    assert all((ROOT / path).exists() for path in re.findall(r"(?:recipes|sweeps)/\w+\.yaml", text))
    for path, test in re.findall(r"(tests/\w+\.py)::(\w+)", text):
        assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test
    assert "**sign(0).**" in text
    assert "**Stored.**" in text


@pytest.mark.parametrize(("spec", "track", "bits", "sign_of_zero"), index())
def test_the_index_is_what_the_code_does(spec, track, bits, sign_of_zero):
    """Track and bits of a 64-to-64 3x3 convolution.

    What is stored where a weight, its channel's mean and its column sum are 0.
    """
    plan = binarize_(nn.Sequential(nn.Conv2d(64, 64, 3, bias=False)), spec)
    assert plan.track == track.partition(" ")[0]
    assert f"{plan.stored_bits / plan.weights:.4f}" == bits
    net = nn.Sequential(nn.Linear(4, 2))
    net[0].weight.data = torch.tensor([[0.0, 1.0, -1.0, 0.0], [0.0, 0.5, -0.5, 0.0]])
    untiled = spec.replace("p=4", "p=1").replace("budget(bits=0.3", "budget(bits=99")
    if binarize_(net, untiled).rows[0].binarized:
        chain = net[0].parametrizations.weight
        assert int(chain[0].signs(chain.original)[0]) == int(sign_of_zero)
    else:
        assert sign_of_zero == "none"


def test_pictures_come_from_the_code(draw, tmp_path):
    """One of every method and of the layouts, the same bytes again: no date, no random ids."""
    draw.main(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == sorted([*METHODS, "tbn_copies"])
    before = (tmp_path / "irnet.svg").read_bytes()
    with draw.mpl.rc_context(draw.STYLE):
        draw.save(draw.method_figure("irnet"), tmp_path / "irnet.svg")
    assert (tmp_path / "irnet.svg").read_bytes() == before


def test_a_curve_is_the_value_and_its_gradient(draw):
    """sign: +-1 and the window; bireal: its window times alpha or alone.

    Reactnet's inputs: ApproxSign, then the threshold at -0.5.
    """
    values, gradients = draw.weight_curves("sign")[""]
    assert values.tolist() == [-1, -1, 1, 1, 1]
    assert gradients.tolist() == [0, 1, 1, 1, 0]
    values, gradients = draw.weight_curves("bireal(grad='magnitude')")[""]
    assert gradients.tolist() == (abs(values) * [0, 1, 1, 1, 0]).tolist()
    assert draw.weight_curves("bireal(grad='clip_ste')")[""][1].tolist() == [0, 1, 1, 1, 0]
    first, moved = draw.input_curves("reactnet").values()
    assert first[1].tolist() == [0, 1, 2, 1, 0]
    assert moved[0].tolist() == [-1, 1, 1, 1, 1]
    assert moved[1].tolist() == [0, 2, 1, 0, 0]


def test_a_schedule_is_drawn_at_three_epochs(draw):
    """EDE at w = 0 narrows; a method without a schedule has one curve."""
    labels = ["epoch 1 of 400", "epoch 201 of 400", "epoch 400 of 400"]
    assert list(draw.named("irnet", draw.weight_curves)) == labels
    assert list(draw.named("twn", draw.weight_curves)) == [""]
