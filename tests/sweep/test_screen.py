"""What a terminal and a file show of a running sweep."""

import io
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from tbn_bench.config import make
from tbn_bench.records.store import RunStore
from tbn_bench.sweep import growing, local, screen, spec
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.local import LocalLaunch, Started
from tbn_bench.sweep.process import Attempt
from tbn_bench.sweep.trial import Trial

CONFIGS = [make({"epochs": 4, "seed": seed}) for seed in range(4)]


@pytest.fixture
def launch(tmp_path):
    """Two slots, four runs, none started."""
    options = ExecutionOptions(jobs=2)
    return LocalLaunch(spec.SweepSpec("s", CONFIGS), RunStore(tmp_path), options)


@pytest.fixture
def train(launch):
    """train(config, *rows) -> its record, open, as a process has it that trains the run."""

    runs = []

    def train(config, *rows, seconds=0.0, number=1):
        run = launch.store.claim("s", config.run_id, config.model_dump(mode="json"), {})
        runs.append(run)
        for epoch, row in enumerate(rows):
            run.log({"epoch": epoch, "seconds": 10.0} | row)
        attempt = Attempt(None, config, len(launch.live), number, time.monotonic() - seconds)
        launch.live[config.run_id] = Started(Trial(0, config), attempt)
        return run

    yield train
    for run in runs:
        run.release()


def printed(launch, width=120) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(screen.table(launch))
    return out.getvalue().splitlines()


def test_a_row_has_epoch_score_best_and_time_left(launch, train):
    """Of four epochs of 10 s three are over; the best was the second."""
    train(CONFIGS[1], *({"val/top1": score} for score in (0.5, 0.9, 0.71)), seconds=31)
    title, *lines = printed(launch)
    (row,) = [line for line in lines if CONFIGS[1].run_id in line]
    assert title.strip() == "s: 0 of 4 finished, 0 failed"
    assert row.split()[2:] == [*f"{CONFIGS[1].run_id} 1 3/4 71.00 % 90.00 % 31 s 10 s".split()]


def test_less_is_better_for_an_error(launch, train):
    config = make({"task": "forecasting", "epochs": 4})
    train(config, *({"val/mse": score} for score in (0.5, 0.3, 0.4)))
    shown = screen.progress_of(launch, config.run_id)
    assert (shown.name, shown.score, shown.best) == ("mse", 0.4, 0.3)


def test_the_time_left_is_that_of_all_runs(launch, train):
    """One run of 40 s has 20 s left, another just started, and two wait for the two slots."""
    train(CONFIGS[0], {}, {})
    train(CONFIGS[1])
    assert screen.left_s(launch) is None
    launch.paces.add(CONFIGS[3], 40.0)
    assert screen.left_s(launch) == pytest.approx((20 + 40 + 2 * 40) / 2, abs=1)
    launch.done = [config.run_id for config in CONFIGS[2:]]
    assert screen.left_s(launch) == pytest.approx(40, abs=1)


def test_a_search_has_a_time_left_up_to_its_limit(launch, train):
    """Its coming runs are taken to be like the last one that was drawn."""
    launch.spec = SimpleNamespace(name="s", is_search=True, run_cap=5)
    assert screen.left_s(launch) is None
    launch.planner.trials = {0: Trial(0, CONFIGS[0])}
    launch.paces.add(CONFIGS[0], 40.0)
    assert screen.left_s(launch) == pytest.approx(4 * 40 / 2)
    launch.exhausted = True
    assert screen.left_s(launch) == 0


def test_a_narrow_terminal_keeps_the_numbers(launch, train):
    train(CONFIGS[0], {"val/top1": 0.5}, number=2)
    shown = "\n".join(printed(launch, width=80))
    assert all(text in shown for text in (CONFIGS[0].run_id, "attempt 2: 1/4", "50.00 %"))


def test_a_terminal_is_redrawn_below_the_lines_of_ended_runs(launch, train, monkeypatch):
    """The table is gone at the end; what was said of a run is text of the terminal."""
    trial = launch.next()
    run = train(trial.config, {"val/top1": 0.5})
    steps = iter(("trains", "ends"))
    monkeypatch.setattr(screen, "_REDRAW_S", 0)

    def step(self):
        if next(steps) == "ends":
            run.finish({"test/top1": 0.6, "seconds": 10.0})
            del launch.live[CONFIGS[0].run_id]
            launch.finish(trial)
            launch.exhausted = True

    monkeypatch.setattr(LocalLaunch, "step", step)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, legacy_windows=False)
    screen.follow(launch, console, 0)
    drawn, _, after = out.getvalue().partition(f"[1/4] {CONFIGS[0].run_id}  top-1 60.00 %")
    assert "1/4   50.00 %" in drawn
    assert "\x1b[2K" in after[after.rindex("time") :]  # the table is erased


def test_a_file_has_a_line_per_finished_run(tmp_path, capsys, monkeypatch):
    """The head, the runs, and no table."""
    monkeypatch.setattr(screen, "follow", lambda *_: pytest.fail("a table in a file"))
    configs = [
        make({"data": "synthetic", "model": "mlp(hidden=[8])", "epochs": 1, "seed": s})
        for s in (0, 1)
    ]
    local.run(spec.SweepSpec("s", configs), tmp_path)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "sweep s: 2 runs, 0 already finished, 2 to run"
    for number, (line, config) in enumerate(zip(lines, configs, strict=True), 1):
        assert line.startswith(f"[{number}/2] {config.run_id}  top-1 ")


def test_rows_are_read_when_there_are_new_ones(launch, train, monkeypatch):
    """A run logs once per epoch, and a launcher looks every second."""
    reads = []
    read = growing.read_rows
    monkeypatch.setattr(growing, "read_rows", lambda path: reads.append(path) or read(path))
    run = train(CONFIGS[0])
    rows = launch.rows_of(CONFIGS[0].run_id)
    for epoch in range(3):
        run.log({"epoch": epoch})
        assert [row["epoch"] for row in rows.now()] == list(range(epoch + 1))
        assert rows.now() is rows.now()
    assert len(reads) == 3
