"""Guards the leaderboard: who holds a budget, by hand, and that only certified runs are on it."""

import hashlib
from types import SimpleNamespace

import pytest

from tbn_bench.config import make
from tbn_bench.records.certificate import Certificate, Claims, Data
from tbn_bench.reporting import standings
from tbn_bench.reporting.standings import boards
from tbn_bench.reporting.tables import leaderboard

HASH = "0" * 64
BUDGETS = standings.budgets()
SHIFTS = (0.000, 0.002, 0.001, 0.003, -0.001, 0.002)  # by seed


def certified(binarizer="bwn", seed=0, top1=0.9, size=3000, bits=0.4, day=1, **config):
    """A certificate as the board reads it; what verify reads is left out."""
    settings = make({"data": "digits", "binarizer": binarizer, "seed": seed, **config})
    claims = Claims(
        config=settings.non_defaults,
        command=None,
        commit=None,
        dirty=None,
        started=f"2026-01-{day:02}T00:00:00+00:00",
        track="W1A32",
        score="top1",
        recorded=top1,
        weights=1000,
        stored_bits=400,
        stored_bytes=50,
        file_bytes=size,
        bits_per_weight=bits,
    )
    data = Data(call="digits", samples=397, inputs_sha256=HASH, labels_sha256=HASH)
    return Certificate(
        sweep="s",
        run_id=hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:12],
        claims=claims,
        data=data,
        predictions=None,
        computed={},
        parts={},
    )


def six(binarizer, top1, day, noise=1.0):
    """A row of six seeds."""
    found = []
    for seed, shift in enumerate(SHIFTS):
        found.append(certified(binarizer, seed, top1 + noise * shift, day=day))
    return found


def standing(*certificates):
    """(method, verdict) of each row that a budget shows."""
    (entries,) = boards(certificates).values()
    return [(one.entry.binarizer, one.verdict) for one in standings.standings(entries)]


def test_few_seeds_show_nothing():
    """A row of one seed is the best so far, and says so."""
    assert standing(certified("bwn"), certified("sign", top1=0.91)) == [
        ("sign", "not shown: 1 of 6 seeds")
    ]


def test_six_better_seeds_take_a_budget():
    """All six differences have one sign: p = 2 / 2^6 = 0.031."""
    rows = six("bwn", 0.90, 1) + six("sign", 0.92, 2, noise=0.5)
    assert standing(*rows) == [("sign", "shown")]
    (entries,) = boards(rows).values()
    (found,) = standings.standings(entries)
    assert (found.against.binarizer, found.difference.p) == ("bwn", pytest.approx(2 / 64))


def test_a_lead_that_is_not_shown_stands_above_the_holder():
    """Five of six differences are positive: p is above 0.05, and the holder stays."""
    rows = six("bwn", 0.90, 1)
    challengers = [certified("sign", seed, 0.9 + 0.01, day=2) for seed in range(5)]
    challengers.append(certified("sign", 5, 0.9 - 0.005, day=2))
    assert standing(*rows, *challengers) == [
        ("sign", "not shown: p = 0.094"),
        ("bwn", "the first with 6 seeds"),
    ]


def test_a_later_row_that_is_worse_changes_nothing():
    rows = six("bwn", 0.92, 1) + six("sign", 0.90, 2, noise=0.5)
    assert standing(*rows) == [("bwn", "the first with 6 seeds")]


def test_other_seeds_are_no_pairs():
    """Six seeds each, three of them common."""
    rows = six("bwn", 0.90, 1)
    others = [certified("sign", seed, 0.95, day=2) for seed in range(3, 9)]
    assert standing(*rows, *others)[0] == ("sign", "not shown: 3 of 6 common seeds")


def test_a_row_is_a_recipe_over_its_seeds():
    """Seeds share a row; other epochs are another row; a run counts once in two sweeps."""
    twice = certified(seed=1).model_copy(update={"sweep": "t"})
    found = [certified(seed=0), certified(seed=1), twice, certified(epochs=3)]
    (entries,) = boards(found).values()
    assert sorted(len(entry.members) for entry in entries) == [1, 2]


def test_budgets_count_the_whole_file_and_all_weights():
    """4 KB are 4,096 bytes of file; 0.5 bits per weight are of all weights."""
    ((inside,),) = boards([certified(size=4096, bits=0.5)]).values()
    ((outside,),) = boards([certified(size=4097, bits=0.51)]).values()
    fits = {budget.label: (budget.fits(inside), budget.fits(outside)) for budget in BUDGETS}
    assert fits["4 KB"] == fits["0.5 bits per weight"] == (True, False)
    assert fits["16 KB"] == fits["1 bit per weight"] == (True, True)


def test_an_empty_budget_says_so(monkeypatch):
    """Nothing of 3,000 bytes is within 2 KB."""
    small = standings.Budget("2", "KB", lambda entry: entry.file_bytes <= 2048)
    monkeypatch.setattr(standings, "budgets", lambda: [small])
    records = SimpleNamespace(certificates=[certified()])
    (row,) = leaderboard.leaderboard(records).rows
    assert (row["method"], row["verdict"]) == (None, "none certified")


def test_budgets_with_the_same_leader_are_one_row():
    """3,000 bytes fit all five sizes; 0.4 bits per weight fit three of five."""
    records = SimpleNamespace(certificates=[certified()])
    table = leaderboard.leaderboard(records)
    found = [(row["budget"], row["method"]) for row in table.rows]
    assert found == [
        ("4 to 1,024 KB", "BWN"),
        ("0.125 to 0.25 bits per weight", None),
        ("0.5 to 2 bits per weight", "BWN"),
    ]
