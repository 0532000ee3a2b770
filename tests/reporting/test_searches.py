"""A sweep that searched settings: a readable table, and a winner chosen on held-out data."""

import pytest
from generated_runs import finished_run

from tbn_bench.records.store import RunStore
from tbn_bench.reporting.load import load
from tbn_bench.reporting.tables.best_configurations import best_configurations
from tbn_bench.reporting.tables.comparison import MOST, comparison

RATES = (0.1, 0.01, 0.5, 0.001)


@pytest.fixture
def search(tmp_path):
    """Held-out score and test score disagree about the best of four rates; two seeds each."""
    store = RunStore(tmp_path)
    held_out = {0.1: 0.80, 0.01: 0.90, 0.5: 0.70, 0.001: 0.60}
    for lr in RATES:
        for seed in (0, 1):
            top1 = 1.0 - held_out[lr] + 0.01 * seed
            finished_run(store, lr=lr, seed=seed, held_out=held_out[lr], top1=top1)
    return load(tmp_path)


def test_the_best_configuration_is_chosen_on_held_out_data(search):
    (row,) = best_configurations(search).rows
    assert row["settings"] == "lr=0.01"
    assert row["tried"] == 4
    assert row["held_out"] == pytest.approx(0.90)
    assert row["test"] == pytest.approx(0.105)
    assert row["n"] == 2


def test_the_winner_is_named(search):
    note = best_configurations(search).note
    assert "TBN-4 with lr=0.01 (held-out 90.00 %, test 10.50 % ±" in note


def test_a_varied_setting_is_a_column_and_rows_are_in_its_order(search):
    (part,) = comparison(search).parts
    assert [c.key for c in part.columns][:2] == ["method", "lr"]
    assert [row["lr"] for row in part.rows] == sorted(RATES)
    assert "batch_size 128" in part.note


def test_a_long_search_shows_its_best_rows_and_the_csv_has_all(tmp_path):
    store = RunStore(tmp_path)
    for n in range(MOST + 20):
        finished_run(store, lr=0.001 * (n + 1), held_out=n / 100, top1=0.5)
    table = comparison(load(tmp_path))
    (part,) = table.parts
    assert len(table.rows) == MOST + 20
    assert len(part.rows) == MOST
    assert min(row["lr"] for row in part.rows) == pytest.approx(0.021)
    assert f"The best {MOST} of {MOST + 20} configurations" in part.note


def test_runs_without_a_search_have_no_winner(tmp_path):
    finished_run(RunStore(tmp_path), held_out=0.5, top1=0.5)
    assert best_configurations(load(tmp_path)) is None
