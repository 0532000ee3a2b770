"""Statistics by hand and against scipy.

The tables and the figure made of them, on generated records.
"""

import re

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tbn_bench.config import make
from tbn_bench.records.store import RunStore
from tbn_bench.reporting import load, spread, stats, style, task_sets, write
from tbn_bench.reporting.figures import performance_profiles
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.markup import markup
from tbn_bench.reporting.table import Table, cells
from tbn_bench.reporting.tables.aggregate import aggregate
from tbn_bench.reporting.tables.comparison import comparison
from tbn_bench.reporting.tables.differences import LEAST_PAIRS, differences
from tbn_bench.reporting.tables.forecasting import forecasting


def test_pairs_are_the_seeds_that_both_have():
    """By seed, in growing order; a seed of one side alone counts nowhere."""
    got = stats.paired_differences({2: 0.9, 0: 0.5, 7: 0.1}, {0: 0.25, 2: 0.4, 1: 0.3})
    assert got.tolist() == [0.25, 0.5]
    assert stats.paired_differences({0: 0.5}, {1: 0.5}).size == 0


def test_the_paired_interval_is_that_of_scipy():
    """The interval of ttest_rel; one pair has none."""
    a, b = np.random.default_rng(0).normal(size=(2, 6))
    got = stats.paired_interval(a - b)
    wanted = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (got.mean - got.half, got.mean + got.half) == pytest.approx((wanted.low, wanted.high))
    assert stats.paired_interval([0.5]) is None
    assert stats.paired_interval([]) is None


@pytest.mark.parametrize(
    ("differences", "p"),
    [([1, 2, 3], 2 / 8), ([3, -1, 1], 6 / 8), ([1, -1], 1), ([0, 0, 0], 1), ([1, 0], 1)],
)
def test_sign_flips_by_hand(differences, p):
    """1 2 3: of 8 patterns only two reach 6.

    3 1 1: 5 twice, 3 four times, 1 twice, so six reach 3. No difference at all: p is 1.
    """
    assert stats.sign_flip_p(differences) == p


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_sign_flips_agree_with_scipy(n):
    """scipy's exact permutation test of paired samples."""
    d = np.random.default_rng(n).normal(0.3, 1, size=n)
    wanted = scipy_stats.permutation_test(
        (d, np.zeros(n)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        vectorized=True,
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert stats.sign_flip_p(d) == pytest.approx(wanted.pvalue)


@pytest.mark.parametrize("n", [2, 3, 6, 12])
def test_no_p_is_smaller_than_stated(n):
    """All differences of one sign give the smallest p.

    Rounding does not make equal sums unequal.
    """
    smallest = 2 / 2**n
    assert stats.sign_flip_p(0.1 + 0.01 * np.arange(n)) == smallest
    assert stats.sign_flip_p(np.full(n, -0.1)) == smallest


def test_six_pairs_are_the_fewest_with_a_p_under_5_percent():
    fewer = LEAST_PAIRS - 1
    assert stats.sign_flip_p(np.full(fewer, 0.1)) > 0.05
    assert stats.sign_flip_p(np.full(LEAST_PAIRS, 0.1)) < 0.05


def test_what_cannot_be_tested_has_no_p():
    """One pair, none, or more than are enumerated; not a number is an error."""
    assert stats.sign_flip_p([0.5]) is None
    assert stats.sign_flip_p([]) is None
    assert stats.sign_flip_p(np.ones(stats.MAX_PAIRS + 1)) is None
    with pytest.raises(ValueError, match="finite"):
        stats.sign_flip_p([0.1, float("nan")])


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 (not under the one before), 0.5 x 1; ties share; never over 1.

    The order is kept.
    """
    assert stats.holm([0.5, 0.01, 0.03, 0.02]).tolist() == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert stats.holm([0.25, 0.25, 1.0]).tolist() == [0.75, 0.75, 1.0]
    assert stats.holm([0.25] * 5).tolist() == [1.0] * 5
    assert stats.holm([]).size == 0
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        stats.holm([0.1, float("nan")])


def _scores(*means: float, seeds: int = 3) -> list[dict[int, float]]:
    """Scores by seed that move with the seed alike, but for 0.001."""
    return [
        {s: m + 0.1 * s + 0.001 * (s * i % 3) for s in range(seeds)} for i, m in enumerate(means)
    ]


def test_leaders_only_where_told_apart():
    """Paired, so a shift of all by the seed hides nothing.

    What is not separated is not marked, nor is a second without a best.
    """
    assert stats.leaders(_scores(0.5, 0.7, 0.6)) == [1, 2]
    assert stats.leaders(_scores(0.5, 0.7, 0.5003)) == [1]
    assert stats.leaders(_scores(0.7003, 0.7, 0.5)) == []
    assert stats.leaders(_scores(0.5, 0.7)) == [1]
    assert stats.leaders(_scores(0.5)) == stats.leaders([]) == stats.leaders([{}, {}]) == []


def test_one_seed_is_never_told_apart():
    """Neither marked nor beaten: a rival of one seed leaves the best unmarked.

    Equal differences alone are no evidence either.
    """
    assert stats.leaders(_scores(0.5, 0.7, seeds=1)) == []
    assert stats.leaders([*_scores(0.5, 0.7), {0: 0.1}]) == []
    assert stats.leaders([{0: 0.5, 1: 0.6}, {0: 0.6, 1: 0.7}]) == []


def test_a_best_is_wrong_in_one_of_twenty_panels_at_worst():
    """Two methods that are equally good, three far behind, normal seeds: uncorrected, one of the
    two is marked in 5 % of 2,000 panels.
    """
    draws = (
        np.random.default_rng(0).normal(size=(2000, 5, 3))
        - np.array([0, 0, 100, 100, 100])[:, None]
    )
    marked = [bool(stats.leaders([dict(enumerate(seeds)) for seeds in panel])) for panel in draws]
    assert np.mean(marked) == pytest.approx(0.05, abs=0.015)


ONES = np.ones(8)


def test_interquartile_mean_by_hand_and_as_scipy_trims():
    """Nine values: the middle 4.5 are 5, 7 and their neighbours by three quarters, here 9.

    A multiple of 4: scipy's trimmed mean.
    """
    assert spread.interquartile_mean(np.arange(1, 18, 2), np.ones(9)) == pytest.approx(9)
    assert spread.interquartile_mean(np.array([0.0, 1, 2, 3, 100]), np.ones(5)) == pytest.approx(
        (0.75 * 1 + 2 + 0.75 * 3) / 2.5
    )
    x = np.random.default_rng(0).normal(size=(3, 8))
    assert spread.interquartile_mean(x, ONES) == pytest.approx(
        scipy_stats.trim_mean(x, 0.25, axis=1)
    )
    assert spread.interquartile_mean(np.array([0.5]), np.ones(1)) == 0.5


def test_every_task_weighs_the_same():
    """A task of one run counts as much as one of three.

    The interquartile mean of doubled runs is the same.
    """
    values, weights = spread.pooled([np.array([1.0]), np.array([0.0, 0.0, 0.0])])
    assert spread.mean(values, weights) == pytest.approx(0.5)
    tasks = [np.array([0.1, 0.4, 0.2]), np.array([0.7, 0.3])]
    twice = [tasks[0], np.repeat(tasks[1], 2)]
    assert spread.interquartile_mean(*spread.pooled(tasks)) == pytest.approx(
        spread.interquartile_mean(*spread.pooled(twice))
    )
    with pytest.raises(ValueError, match=r"\[2, 0\] runs"):
        spread.pooled([np.ones(2), np.ones(0)])


def test_the_bootstrap_agrees_with_scipy_in_one_task():
    """One task, the mean: the percentile interval of scipy, to what 4,000 draws of either allow."""
    x = np.random.default_rng(0).normal(size=40)
    got = spread.stratified_bootstrap([x], spread.mean, np.random.default_rng(1), resamples=4000)
    wanted = scipy_stats.bootstrap(
        (x,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(2)
    )
    assert got == pytest.approx(wanted.confidence_interval, abs=0.02)


def test_the_bootstrap_stays_within_its_tasks():
    """Tasks without spread of their own have an interval of no width, however far apart.

    The same generator gives the same numbers.
    """
    apart = [np.full(3, 0.2), np.full(3, 0.8)]
    assert spread.stratified_bootstrap(
        apart, spread.mean, np.random.default_rng(0)
    ) == pytest.approx((0.5, 0.5))
    tasks = [np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.9])]
    first, again = (
        spread.stratified_bootstrap(tasks, spread.interquartile_mean, np.random.default_rng(0))
        for _ in range(2)
    )
    assert first == again
    assert first[0] < float(spread.interquartile_mean(*spread.pooled(tasks))) < first[1]


def test_a_task_of_one_run_has_no_bootstrap():
    """Drawing the same run again is no spread."""
    assert (
        spread.stratified_bootstrap([np.ones(3), np.ones(1)], spread.mean, np.random.default_rng(0))
        is None
    )


def test_performance_profile_by_hand():
    """Strictly above, averaged over tasks: 1, then (2/2 + 1/3) / 2, then 0."""
    tasks = [np.array([0.8, 0.9]), np.array([0.2, 0.4, 0.6])]
    got = spread.performance_profile(tasks, np.array([0.0, 0.4, 0.8, 0.9]))
    assert got.tolist() == pytest.approx([1, (1 + 1 / 3) / 2, 1 / 4, 0])


FULL, SUB = "full_precision", "tbn(p=4)"
JITTER = (
    0.0,
    0.01,
    -0.005,
    0.002,
    0.004,
    -0.001,
)  # of a method's seeds, so that differences are not all alike


def _write(
    root,
    data: str,
    methods: dict[str, float],
    seeds: int = 3,
    score: str = "top1",
    track: str = "W1A32",
    **config,
) -> None:
    """Finished runs of methods with the given scores.

    A seed moves all of them alike, and every method by its own jitter.
    """
    for k, (spec, value) in enumerate(methods.items()):
        for seed in range(seeds):
            made = make({"binarizer": spec, "data": data, "seed": seed, **config})
            run = RunStore(root).claim(
                "s", made.run_id, made.model_dump(mode="json"), {"commit": "c0ffee", "dirty": False}
            )
            run.log({"epoch": 0, f"val/{score}": 0.5})
            run.finish(
                {
                    "score": score,
                    f"test/{score}": value + 0.03 * seed + k * JITTER[seed],
                    "weights": 8,
                    "bits_per_weight": 1.5,
                    "stored_bytes": 9,
                    "bits_per_binarized_weight": 0.25 if "tbn" in spec else 1.0,
                    "track": "W32A32" if spec == FULL else track,
                }
            )


def test_differences_are_paired_and_corrected_within_the_panel(tmp_path):
    """bwn against full precision; tbn against both; the shift by the seed cancels.

    Six pairs give 1/32 at best, 3/32 after Holm.
    """
    _write(tmp_path, "digits", {FULL: 0.6, "bwn": 0.5, SUB: 0.4}, seeds=6)
    table = differences(load.load(tmp_path))
    assert [(r["binarizer"], r["baseline"], r["n"]) for r in table.rows] == [
        ("bwn", FULL, 6),
        (SUB, FULL, 6),
        (SUB, "bwn", 6),
    ]
    assert [r["p"] for r in table.rows] == [1 / 32] * 3
    assert [r["p_holm"] for r in table.rows] == [3 / 32] * 3
    assert table.rows[0]["difference"] == pytest.approx(-0.1 + np.mean(JITTER))
    wanted = 100 * stats.t_interval(JITTER).half
    assert cells(table)[0][-4:] == [f"\u22129.83 ± {wanted:.2f}", "6", "0.0312", "0.0938"]


def test_few_pairs_have_no_p_but_the_difference_that_they_can_separate(tmp_path):
    _write(tmp_path, "digits", {FULL: 0.6, "bwn": 0.5})
    table = differences(load.load(tmp_path))
    assert [row["p"] for row in table.rows] == [None]
    assert "p" not in {c.key for c in table.columns}
    wanted = 100 * stats.t_interval(JITTER[:3]).half
    assert f"3 seeds can separate about {wanted:.1f} points" in table.note


def test_holm_counts_the_rows_of_one_panel_alone(tmp_path):
    """Another data set is another family."""
    _write(tmp_path, "digits", {FULL: 0.6, "bwn": 0.5}, seeds=6)
    _write(tmp_path, "cifar10", {FULL: 0.6, "bwn": 0.5, SUB: 0.4}, seeds=6)
    adjusted = [row["p_holm"] for row in differences(load.load(tmp_path)).rows]
    assert adjusted == [3 / 32, 3 / 32, 3 / 32, 1 / 32]


def test_one_seed_makes_no_difference(tmp_path):
    """Fewer than two pairs are left out, and counted in the note; without any there is no table."""
    _write(tmp_path, "digits", {FULL: 0.6, "bwn": 0.5}, seeds=1)
    assert differences(load.load(tmp_path)) is None
    _write(tmp_path, "cifar10", {FULL: 0.6, "bwn": 0.5})
    table = differences(load.load(tmp_path))
    assert [r["data"] for r in table.rows] == ["cifar10"]
    assert "Left out: 1 comparisons" in table.note


def test_a_baseline_of_two_configurations_is_none(tmp_path):
    """Which of two learning rates is meant is not known.

    Nor do methods with activations stand against bwn.
    """
    _write(tmp_path, "digits", {FULL: 0.6, "bwn": 0.5})
    _write(tmp_path, "digits", {"bwn": 0.5}, lr=0.5)
    _write(tmp_path, "digits", {SUB: 0.4})
    _write(tmp_path, "digits", {"snn(activations=True)": 0.4}, track="W1A1")
    assert {r["baseline"] for r in differences(load.load(tmp_path)).rows} == {FULL}


def test_methods_are_aggregated_over_the_tasks_they_share(tmp_path):
    """bwn ran on three tasks, tbn on two of them: two sets, and bwn is in both.

    Forecasting is in none.
    """
    for data in ("digits", "cifar10"):
        _write(tmp_path, data, {FULL: 0.8, "bwn": 0.4, SUB: 0.2})
    _write(tmp_path, "mnist", {FULL: 0.8, "bwn": 0.4})
    _write(tmp_path, "etth1", {FULL: 0.8, "bwn": 0.4}, score="mse", task="forecasting")
    records = load.load(tmp_path)
    assert [(len(s.tasks), list(s.scores)) for s in task_sets.task_sets(records)] == [
        (3, [FULL, "bwn"]),
        (2, [FULL, "bwn", SUB]),
    ]
    rows = aggregate(records).rows
    assert [(r["task_set"], r["binarizer"], r["tasks"], r["runs"]) for r in rows] == [
        (1, "bwn", 3, 9),
        (2, "bwn", 2, 6),
        (2, SUB, 2, 6),
    ]
    assert rows[0]["mean"] == pytest.approx((0.43 + np.mean(JITTER)) / 0.83)
    assert all(r["iqm_interval"][0] < r["iqm"] < r["iqm_interval"][1] for r in rows)


def test_one_run_of_a_task_takes_the_interval(tmp_path):
    """The number stays, its bounds go."""
    _write(tmp_path, "digits", {FULL: 0.8, "bwn": 0.4})
    _write(tmp_path, "cifar10", {FULL: 0.8, "bwn": 0.4}, seeds=1)
    (row,) = (table := aggregate(load.load(tmp_path))).rows
    assert row["iqm_interval"] is None
    assert "[" not in "".join(cells(table)[0])


def test_profiles_fall_from_all_to_none(tmp_path):
    """Drawn for print and for the page; one task has none."""
    _write(tmp_path, "digits", {FULL: 0.8, "bwn": 0.4})
    assert performance_profiles.frame(load.load(tmp_path)).empty
    assert performance_profiles.chart(load.load(tmp_path)) is None
    _write(tmp_path, "cifar10", {FULL: 0.8, "bwn": 0.4})
    records = load.load(tmp_path)
    frame = performance_profiles.frame(records)
    for _, line in frame.groupby("binarizer"):
        assert (line["share"].iloc[0], line["share"].iloc[-1]) == (pytest.approx(100), 0)
        assert line["share"].is_monotonic_decreasing
        assert line["score"].is_monotonic_increasing
    with style.printing():
        assert len(performance_profiles.print_panel(frame, style.COLUMN_INCHES).axes) == 1
    assert "Task set 1, weights only (W1A32), 2 tasks" in str(performance_profiles.chart(records))


def _marks(table: Table) -> dict[str, str]:
    """Method -> how its score stands out in Markdown."""
    cells = [
        line.split(" | ") for line in write.markdown(table).splitlines() if line.startswith("| ")
    ][2:]
    return {cell[0].removeprefix("| "): re.sub(r"[^*]", "", cell[1]) for cell in cells}


def test_best_and_second_stand_out_beside_full_precision(tmp_path):
    """In every format but the CSV, which stays raw."""
    _write(tmp_path, "digits", {FULL: 0.8, "bwn": 0.6, SUB: 0.4, "sign": 0.2})
    table = comparison(load.load(tmp_path))
    assert _marks(table) == {"FP32": "", "BWN": "****", "TBN-4": "**", "Sign": ""}
    page, tex = markup(table), latex(table)
    assert re.findall("<(strong|u)>(6|4)", page) == [("strong", "6"), ("u", "4")]
    assert re.findall(r"\\(textbf|underline)\{(6|4)[^}]+\}+ (?:&|\\)", tex) == [
        ("textbf", "6"),
        ("underline", "4"),
    ]
    assert not re.search(
        "[\ue000-\uf8ff]", page + tex + write.markdown(table) + write.comma_separated(table)
    )
    assert "*" not in write.comma_separated(table)


def test_nothing_stands_out_that_is_not_told_apart(tmp_path):
    """Neither a near tie nor single seeds.

    A rival of one seed leaves the panel without marks, not its neighbour.
    """
    _write(tmp_path, "digits", {"bwn": 0.6, SUB: 0.601})
    _write(tmp_path, "mnist", {"bwn": 0.6, SUB: 0.2}, seeds=1)
    _write(tmp_path, "cifar10", {"bwn": 0.6, SUB: 0.2})
    _write(tmp_path, "cifar10", {"sign": 0.1}, seeds=1)
    _write(tmp_path, "cifar100", {"bwn": 0.6, SUB: 0.2})
    text = write.markdown(comparison(load.load(tmp_path)))
    assert re.findall(r"\*\*[^*]+\*\*", text) == ["**63.00 ± 7.45**"]
    before, _ = text.split("**63.00")
    assert before.rpartition("#### ")[2].startswith("CIFAR-100")
    assert text.count("(1 seed)") == 3


def test_the_smallest_error_is_the_best(tmp_path):
    """Of MSE, lower is better, and only the score that runs are judged by is marked."""
    _write(tmp_path, "etth1", {"bwn": 0.2, SUB: 0.4}, score="mse", task="forecasting")
    assert _marks(forecasting(load.load(tmp_path))) == {"BWN": "****", "TBN-4": ""}
