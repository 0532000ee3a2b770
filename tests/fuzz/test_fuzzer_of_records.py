"""Guards the fuzzer of records: it finds nothing here, and it would find what it looks for."""

import json

import pytest
from fuzz import records as fuzz

from tbn_bench.runs import faults


def test_damaged_records_give_rows_or_a_refusal(tmp_path):
    """A few cases; `python -m tests.fuzz.records` runs as many as wanted."""
    found = fuzz.run(15, 0, tmp_path)
    assert found["failed"] == 0
    assert found["rows"] + found["refused"] == 15
    assert found["rows"] > 0
    assert found["refused"] > 0


@pytest.mark.parametrize("fault", [KeyError("x"), ValueError("x")], ids=["error", "refusal of all"])
def test_a_reader_that_raises_is_a_failure_with_its_input(fault, tmp_path, monkeypatch, capsys):
    """Also an exception that the command line would print as one line: it names no record."""

    def broken(path):
        raise fault

    monkeypatch.setattr(faults, "look", broken)
    found = fuzz.run(1, 0, tmp_path)
    assert (found["failed"], found["rows"], found["refused"]) == (1, 0, 0)
    out = capsys.readouterr().out
    assert "case 0.0" in out
    assert type(fault).__name__ in out
    assert json.dumps(found)
