"""The arena's questions: their tests, a law that is known beforehand, and what is missing."""

import csv
import io
import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from tbn_bench.config import make
from tbn_bench.reporting import build, style
from tbn_bench.reporting.load import load
from tbn_bench.reporting.questions import answers, arena, picture, worth, write
from tbn_bench.reporting.questions.contrast import (
    BETTER,
    EVEN,
    FEW,
    NOT_RUN,
    WORSE,
    Contrast,
    answer,
    counted,
    of_values,
)
from tbn_bench.reporting.write import comma_separated
from tests import generated_runs

WIDTHS = {(24, 48, 48): 60_000, (32, 64, 64): 120_000, (48, 96, 96): 240_000}
SLOPES = {(24, 48, 48): 3.0, (32, 64, 64): 2.0, (48, 96, 96): 1.0}  # points per halving, 18 epochs
ABOVE = 0.4  # points per doubling
BY_WIDTH = 2.5  # points per halving of the weights
BITS = {
    "full_precision": 32.0,
    "bwn": 1.0,
    "tbn(p=2)": 0.5,
    "tbn(p=4)": 0.25,
    "tbn(p=8)": 0.125,
}


def top1(widths, spec: str, epochs: int, seed: int) -> float:
    """A line on either side of one bit; a seed's slope below one bit is off by a tenth of itself."""
    start = 80 + BY_WIDTH * math.log2(WIDTHS[widths] / 60_000) + 0.2 * seed
    exponent = math.log2(BITS[spec])
    if exponent > 0:
        return start + ABOVE * exponent
    slope = SLOPES[widths] + (epochs == 6)
    return start + slope * (1 + 0.1 * (seed - 1)) * exponent


def write_run(root, sweep: str, model: str, spec: str, seed: int, epochs: int, **summary) -> None:
    config = make(
        {"data": "cifar10", "model": model, "binarizer": spec, "seed": seed, "epochs": epochs}
    )
    generated_runs.write(root, config, sweep)
    path = root / "runs" / sweep / config.run_id / "summary.json"
    value = json.loads(path.read_text()) | {"run_id": config.run_id} | summary
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """cifar10_small of a known law: three widths, five sizes, two lengths, three seeds."""
    root = tmp_path_factory.mktemp("small")
    for widths, weights in WIDTHS.items():
        for spec, bits in BITS.items():
            for epochs in (6, 18):
                for seed in range(3):
                    known = {
                        "test/top1": top1(widths, spec, epochs, seed) / 100,
                        "bits_per_weight": bits,
                        "weights": weights,
                        "stored_bits_weights": bits * weights,
                    }
                    model = f"airbench(widths={list(widths)})"
                    write_run(root, arena.SMALL, model, spec, seed, epochs, **known)
    return load(root)


def asked(records, key: str):
    return next(question for question in answers.questions(records) if question.key == key)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([], NOT_RUN),
        ([1.0], FEW),
        ([1.0, 1.1], FEW),
        ([1.0, 1.1, 1.2], BETTER),
        ([-1.0, -1.1, -1.2], WORSE),
        ([1.0, -1.1, 0.5], EVEN),
        ([1.0, 1.0, 1.0], EVEN),  # equal differences are chance
    ],
)
def test_three_seeds_decide_where_the_interval_is_off_zero(values, verdict):
    assert of_values("row", "bwn", values, []).verdict == verdict


def test_p_is_given_from_six_seeds_on():
    five = of_values("row", "bwn", [1.0, 1.1, 1.2, 1.3, 1.4], [])
    six = of_values("row", "bwn", [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [])
    assert five.p is None
    assert six.p == 2 / 2**6
    assert six.text == "+1.25 ± 0.20 points (6 seeds, p = 0.031)"


def test_an_answer_counts_and_says_that_it_is_of_some_seeds():
    found = [
        of_values("a", "bwn", [-1.0, -1.1, -1.2], []),
        of_values("b", "bwn", [0.5], []),
        Contrast("c", "bwn", "x", "y"),
    ]
    assert answer(found) == "No, so far"
    assert counted(found, "tiling") == (
        "tiling is better in 0 and worse in 1 of 3 comparisons; "
        "1 has fewer than 3 seeds (1 with a mean above 0), 1 is not run"
    )


def test_the_fit_finds_the_law(small):
    """Slope and interval below one bit, above it, and by width, for every network."""
    found = {c.label: c for c in asked(small, "law").contrasts}
    for widths, slope in SLOPES.items():
        network = f"airbench {'/'.join(map(str, widths))}, 18 epochs"
        below = found[f"TBN, {network}"]
        assert below.difference == pytest.approx(slope)
        assert below.half == pytest.approx(4.3027 * 0.1 * slope / math.sqrt(3), rel=1e-4)
        assert found[f"above one bit, {network}"].difference == pytest.approx(ABOVE)
    assert found["BWN, fewer filters, all widths, 18 epochs"].difference == pytest.approx(BY_WIDTH)


def test_the_law_says_how_far_sizes_are_off_the_line(small):
    """All sizes are on it here."""
    below = [c for c in asked(small, "law").contrasts if c.first == "TBN"]
    assert {c.detail for c in below} == {"4 sizes, 0.00 points off the line (root mean square)"}


@pytest.mark.parametrize(
    ("key", "change"),
    [("width", 4.0), ("epochs", 2.0)],  # two halvings: slope 3 to 1 by width, 2 to 1 by epochs
)
def test_the_gap_closes_as_much_as_it_does(small, key, change):
    contrast = next(c for c in asked(small, key).contrasts if c.first == "TBN-4")
    assert contrast.difference == pytest.approx(change)
    assert contrast.shown == "the gap closes"
    assert asked(small, key).answer.startswith(
        "Yes, so far: the gap closes in 3 and widens in 0 of 9"
    )


def test_training_hours_of_two_processors_are_not_compared():
    """Those of the processor and commit with the most groups count; the others are unknown."""
    rows = []
    for group, cpu, seconds in (("a", "new", 3600), ("a", "old", 9000), ("b", "new", 1800)):
        row = {"sweep": arena.SWEEP, "run_id": f"{group}{cpu}", "group_id": group}
        rows.append(row | {"cpu": cpu, "commit": "c", "cpu_seconds": seconds})
    records = SimpleNamespace(runs=pd.DataFrame(rows))
    known = [SimpleNamespace(run_ids=["anew", "aold"]), SimpleNamespace(run_ids=["bnew"])]
    assert [worth.hours(records, g) for g in known] == [1.0, 0.5]
    assert worth.hours(records, SimpleNamespace(run_ids=["aold"])) is None


@pytest.mark.parametrize("width", [style.COLUMN_INCHES, style.PAGE_INCHES])
def test_every_question_with_runs_has_a_figure(small, width):
    frame = picture.frame(small)
    assert set(frame["panel"]) == {"width", "epochs", "law"}
    for _, panel in frame.groupby("panel"):
        with style.printing():
            assert picture.print_panel(panel, width).axes


def test_what_is_missing_has_its_command(small, tmp_path):
    write.write_questions(small, tmp_path)
    text = (tmp_path / "questions.md").read_text()
    _, _, own = text.partition("## Does tiling beat repeated filters?")
    assert own.lstrip().startswith("Not run.")
    assert f"`{arena.RUN_ARENA}`" in own.partition("## ")[0]


def test_the_csv_has_the_numbers_in_their_unit(small):
    text = comma_separated(build.tables_of()["questions"](small))
    found = {row["comparison"]: row for row in csv.DictReader(io.StringIO(text))}
    below = found["TBN, airbench 24/48/48, 18 epochs"]
    assert (below["first_minus_second"], below["unit"]) == ("3.0", "points per halving")


COSTS = {"test/top1": 0.9, "stored_bytes": 1000, "distinct_macs": 500, "bits_per_weight": 0.3}


@pytest.fixture(scope="module")
def arena_records(tmp_path_factory):
    """TBN-4, and narrower networks of which the second has its bytes within 2 %."""
    root = tmp_path_factory.mktemp("arena")
    full = "airbench(widths=[64, 256, 256])"
    whole = COSTS | {"weights": 2000, "tile_bits": 400, "stored_bits_weights": 600}
    slim = COSTS | {"weights": 500, "stored_bits_weights": 500}
    for seed in range(6):
        noise = {"test/top1": 0.9 + 0.001 * seed * seed}
        write_run(root, arena.SWEEP, full, "tbn(p=4)", seed, 12, **whole | noise)
        write_run(root, arena.SWEEP, full, "bwn", seed, 12, **whole | {"stored_bytes": 3000})
        for width, size, score in ((30, 900, 0.9), (37, 1010, 0.91)):
            model = f"airbench(widths=[{width}, 142, 142])"
            own = slim | {"stored_bytes": size, "distinct_macs": size, "tile_bits": size}
            own["test/top1"] = score
            write_run(root, arena.SWEEP, model, "bwn", seed, 12, **own)
    return load(root)


def test_a_rival_has_the_same_cost_within_two_percent(arena_records):
    found = [c for c in asked(arena_records, "narrower").contrasts if c.first == "TBN-4"]
    by_cost = {c.label: c for c in found}
    of_bytes = by_cost["p = 4, equal file bytes"]
    assert of_bytes.second == "BWN airbench 37/142/142, narrower"
    assert of_bytes.n == 6
    assert of_bytes.difference == pytest.approx(100 * (0.9 + 0.055 / 6 - 0.91))
    assert by_cost["p = 4, equal multiply-adds"].verdict == NOT_RUN


def test_the_rival_is_the_best_of_those_that_cost_no_more(arena_records):
    """Within 2 % of the bytes there are two; milliseconds were not measured."""
    found = {c.label: c for c in asked(arena_records, "worth").contrasts}
    assert found["TBN-4, flash"].second == "BWN airbench 37/142/142, narrower"
    assert found["TBN-4, milliseconds"].verdict == NOT_RUN
    assert "milliseconds: not measured" in asked(arena_records, "worth").detail
