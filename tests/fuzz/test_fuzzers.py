"""Guards the fuzzers: a few inputs of each in the suite (more by `make fuzz`), and that they see what is wrong."""

import random

import pytest
from fuzz import bounded, call_strings, sweep_files


@pytest.mark.parametrize(("fuzzer", "count"), [(call_strings, 40), (sweep_files, 10)])
def test_mutated_inputs_keep_every_promise(fuzzer, count, capsys):
    """Taken or refused in short lines, in bounded steps and memory."""
    found = fuzzer.run(count, seed=5)
    assert found["failed"] == 0, capsys.readouterr().out
    assert found["refused"] > 0
    assert sum(value for key, value in found.items() if key in OUTCOMES) == count


OUTCOMES = ("refused", "parsed", "taken", "preset", "listed", "searched", "refused draw")


def endless(text):
    while True:
        text.upper()


def hungry(text):
    return f"{len([0] * 10**8)}"


@pytest.mark.parametrize(
    "check",
    [
        endless,
        hungry,
        lambda text: text[99],
        lambda text: bounded.check_message(ValueError("x" * 9999), 1),
    ],
)
def test_a_broken_promise_is_printed_with_its_input(check, monkeypatch, capsys):
    """Too many steps, too much memory, another error, a long message."""
    monkeypatch.setattr(bounded, "LIMIT_STEPS", 10_000)
    found = bounded.fuzz(lambda rng: "what was tried", check, 1, 0)
    assert found["failed"] == 1
    assert "case 0.0: 'what was tried' (14 letters)" in capsys.readouterr().out


def test_a_case_depends_on_its_number_alone():
    """So a failure is made again by its seed and number."""
    texts = ["method: grid\nparameters: {seed: {value: 1}}\n", "lr: 0.1\n"]
    for number in range(20):
        first, second = (
            sweep_files.make_text(texts, random.Random(f"0.{number}")) for _ in range(2)
        )
        assert first == second
