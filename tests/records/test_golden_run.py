"""A run directory as an earlier version of this package wrote it."""

import json
from pathlib import Path

from tbn_bench.config import make
from tbn_bench.records.store import RunStore

FOLDER = Path(__file__).parent / "golden"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_an_older_run_has_the_same_content():
    """Its config, rows and summary are read with the same values, and it is the only run."""
    (record,) = RunStore(FOLDER).runs()
    assert {
        "config": record.config,
        "status": record.status,
        "summary": record.summary,
        "rows": record.rows(),
    } == EXPECTED


def test_an_older_run_has_the_same_id():
    """The config of the record still makes the id that names its folder."""
    (record,) = RunStore(FOLDER).runs()
    assert make(record.config).run_id == record.run_id == record.path.name
