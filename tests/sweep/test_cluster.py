"""Guards the cluster engine: two real nodes on one machine, a killed worker, a removed node.

And W&B's agent by a stand-in.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tbn_bench import cli
from tbn_bench.cli.parser import make_parser
from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.sweep import cluster, local, nodes, ray_tune, spec, worker
from tbn_bench.sweep.execution import ExecutionOptions

ONE = {"data": {"value": "synthetic"}, "model": {"value": "mlp(hidden=[8])"}, "epochs": {"value": 40}, "batch_size": {"value": 16},
       "lr": {"value": 0.05}}  # fmt: skip
GRID = {"binarizer": {"values": ["bwn", "sign"]}, "seed": {"values": [0, 1, 2]}}


def sweep_file(folder: Path, top=None, **parameters) -> Path:
    path = folder / "nodes.yaml"
    path.write_text(
        yaml.safe_dump(
            {"name": "nodes", "method": "grid", "parameters": ONE | parameters, **(top or {})}
        )
    )
    return path


def lines(results: Path, config) -> list[dict]:
    return [
        {k: v for k, v in row.items() if k not in TIMES}
        for row in RunStore(results).read("nodes", config.run_id).rows()
    ]


def summary(results: Path, config) -> dict:
    found = RunStore(results).read("nodes", config.run_id).summary
    return {k: v for k, v in found.items() if k not in TIMES}


def assert_same(results: Path, reference: Path, configs) -> None:
    assert {r.run_id for r in RunStore(results).runs()} == {c.run_id for c in configs}
    for config in configs:
        assert lines(results, config) == lines(reference, config)
        assert summary(results, config) == summary(reference, config)


def test_ray_without_what_tune_needs_names_the_extra(tmp_path, monkeypatch, capsys):
    """`pip install ray` alone leaves out what ray.tune imports."""
    ray = tmp_path / "ray"
    ray.mkdir()
    (ray / "__init__.py").write_text("")
    (ray / "tune.py").write_text("raise ImportError('no pyarrow')")
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["sweep", str(sweep_file(tmp_path, **GRID)), "--engine=ray"]
    assert cli.main([*words, f"--results={tmp_path}"]) == 1
    for name in ("ray", "ray.tune"):
        sys.modules.pop(name, None)
    assert capsys.readouterr().err == 'tbn-bench sweep needs ray: pip install "tbn-bench[ray]"\n'


# Two nodes


@pytest.fixture(scope="module")
def two_nodes():
    """A head and a second node of one core each.

    Skipped without Ray: the development environment does not hold it.
    """
    pytest.importorskip("ray", reason='needs Ray: pip install "tbn-bench[ray]"')
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        yield SimpleNamespace(
            cluster=nodes, address=nodes.address, second=nodes.add_node(num_cpus=1)
        )
    finally:
        nodes.shutdown()
        del os.environ["RAY_USAGE_STATS_ENABLED"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """Results of the local engine, by one thread each, as on a node of one core."""
    folder = tmp_path_factory.mktemp("calm")
    said = local.run(
        spec.load(sweep_file(folder, **GRID)), folder / "r", ExecutionOptions(jobs=os.cpu_count())
    )
    assert said["failed"] == 0
    return folder / "r"


@pytest.fixture
def launch(two_nodes):
    """launch(file, results, *flags): `tbn-bench sweep` on the two nodes, in a process of its own."""
    started = []

    def start(file: Path, results: Path, *flags: str) -> subprocess.Popen:
        command = [
            sys.executable,
            "-m",
            "tbn_bench.cli",
            "sweep",
            str(file),
            f"--results={results}",
            "--engine=ray",
        ]
        process = subprocess.Popen(
            [*command, f"--address={two_nodes.address}", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def outcome(process: subprocess.Popen) -> tuple[dict, str]:
    out, err = process.communicate()
    assert out.strip(), err
    return json.loads(out.splitlines()[-1]), out


def holder(results: Path, process: subprocess.Popen, rows: int = 3) -> int:
    """The process id of a worker that is in the midst of a run."""
    while process.poll() is None:
        for path in results.glob("runs/*/*/metrics.jsonl"):
            if (
                len(path.read_text().splitlines()) >= rows
                and not (path.parent / "summary.json").exists()
            ):
                for link in Path("/proc").glob("[0-9]*/fd/*"):
                    try:
                        if os.readlink(link) == str(path.parent / "owner.lock"):
                            return int(link.parts[2])
                    except OSError:
                        continue
        time.sleep(0.02)
    pytest.fail(f"the sweep ended first: {process.communicate()}")


needs_ray = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
]


def on_nodes(test):
    for mark in needs_ray:
        test = mark(test)
    return test


@on_nodes
def test_a_cluster_gives_the_local_results(tmp_path, launch, calm):
    """The same runs, rows and summaries as by local processes; nothing of Ray is printed or left.

    A second call starts nothing.
    """
    file = sweep_file(tmp_path, **GRID)
    said, out = outcome(launch(file, tmp_path / "r"))
    assert (said["runs"], said["finished"], said["failed"]) == (6, 6, 0)
    assert [line[:6] for line in out.splitlines()] == [
        "sweep ",
        *(f"[{n}/6] " for n in range(1, 7)),
        '{"swee',
    ]
    assert_same(tmp_path / "r", calm, spec.load(file).configs)
    assert list((tmp_path / "r" / "logs" / "nodes").glob("cluster-*")) == []
    again = cluster.run(spec.load(file), tmp_path / "r", address="nowhere:1")
    assert (again["finished"], again["skipped"]) == (0, 6)


@on_nodes
def test_a_killed_worker_is_replaced(tmp_path, launch, calm):
    """SIGKILL in the midst of a run: it is tried again from its checkpoint, and its rows are those
    of an undisturbed one.
    """
    file = sweep_file(tmp_path, **GRID | {"seed": {"value": 0}})
    process = launch(file, tmp_path / "r", "--retries=0")
    os.kill(holder(tmp_path / "r", process), signal.SIGKILL)
    said, out = outcome(process)
    assert (said["finished"], said["failed"]) == (2, 0)
    assert out.count("[again]") == 1
    assert_same(tmp_path / "r", calm, spec.load(file).configs)


@on_nodes
def test_a_lost_node_is_survived(tmp_path, launch, calm, two_nodes):
    """A node goes in the midst of a run and another comes: every run finishes with the undisturbed
    rows.
    """
    file = sweep_file(tmp_path, **GRID | {"seed": {"values": [0, 1]}})
    process = launch(file, tmp_path / "r")
    holder(tmp_path / "r", process)
    two_nodes.cluster.remove_node(two_nodes.second)
    time.sleep(3)
    two_nodes.second = two_nodes.cluster.add_node(num_cpus=1)
    said, out = outcome(process)
    assert (said["finished"], said["failed"]) == (4, 0), out
    assert_same(tmp_path / "r", calm, spec.load(file).configs)


@on_nodes
def test_random_search_draws_the_same(tmp_path, launch):
    """method random: the configurations and results of the local engine."""
    top = {"method": "random", "run_cap": 3}
    file = sweep_file(
        tmp_path, top, lr={"distribution": "uniform", "min": 0.01, "max": 0.1}, epochs={"value": 2}
    )
    local.run(spec.load(file), tmp_path / "local", ExecutionOptions(jobs=os.cpu_count()))
    said, _ = outcome(launch(file, tmp_path / "r"))
    assert said["finished"] == 3
    assert_same(tmp_path / "r", tmp_path / "local", spec.load(file).configs)


@on_nodes
def test_early_termination_reaches_the_workers(tmp_path, launch):
    """Hyperband stops the learning rate that learns nothing; its record says so."""
    top = {
        "early_terminate": {"type": "hyperband", "min_iter": 2, "eta": 2},
        "metric": {"name": "val/top1", "goal": "maximize"},
    }
    file = sweep_file(tmp_path, top, lr={"values": [0.1, 0.05, 1e-9]}, epochs={"value": 150})
    said, _ = outcome(launch(file, tmp_path / "r"))
    (stopped,) = [r for r in RunStore(tmp_path / "r").runs() if r.status == "stopped"]
    assert (said["finished"], said["stopped"], stopped.config["lr"]) == (2, 1, 1e-9)
    assert len(stopped.rows()) < 150


@on_nodes
def test_runs_that_fail_on_a_cluster_are_named(tmp_path, launch):
    """A diverged run is not tried again; a time limit is a crash that is."""
    file = sweep_file(tmp_path, lr={"values": [1e30, 0.05]}, epochs={"value": 100_000})
    said, out = outcome(launch(file, tmp_path / "r", "--time-limit=60"))
    assert said["failed"] == 2
    assert out.count("[again]") == 1
    statuses = {r.config["lr"]: (r.status, r.error) for r in RunStore(tmp_path / "r").runs()}
    assert statuses[1e30][0] == "diverged"
    assert statuses[0.05] == ("failed", "time limit of 60 s passed")


@on_nodes
def test_a_node_without_the_results_is_named_before_the_first_run(tmp_path, two_nodes, monkeypatch):
    """One node cannot see the path (simulated: its look finds nothing): an error with its name, and
    no run.
    """
    blind = two_nodes.second.node_id

    def look(folder, token, node):
        from pathlib import Path

        if node == blind:
            return f"No such file or directory: {folder}/driver"
        Path(folder, node).write_text(token)
        return None

    monkeypatch.setattr(nodes, "look", look)
    with pytest.raises(
        ValueError,
        match=f"(?s)must be one folder that every node shares.*{blind[:8]}.*No such file",
    ) as said:
        cluster.run(spec.load(sweep_file(tmp_path)), tmp_path / "r", address=two_nodes.address)
    assert str(said.value).count("node ") == 2  # "every node", and the one
    assert list(RunStore(tmp_path / "r").runs()) == []


@on_nodes
def test_a_run_that_fits_nowhere_is_refused(tmp_path, two_nodes):
    """Two cores on nodes of one: an error with what there is, where Ray would wait for ever."""
    with pytest.raises(
        ValueError, match=r"no node has room for a run of 2 CPU; there are .*1 CPU; .*1 CPU"
    ):
        cluster.run(
            spec.load(sweep_file(tmp_path)),
            tmp_path / "r",
            address=two_nodes.address,
            resources=nodes.Resources(2),
        )


# Without Ray


def test_ray_is_asked_for_by_name(tmp_path, monkeypatch, capsys):
    """--engine ray without Ray: exit 1, and the extra to install."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert (
        cli.main(
            ["sweep", str(sweep_file(tmp_path)), "--engine=ray", f"--results={tmp_path / 'r'}"]
        )
        == 1
    )
    assert 'pip install "tbn-bench[ray]"' in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--address=auto"], "need --engine ray"), (["--cpus-per-run=0"], "need --engine ray"),
     (["--engine=ray", "--cpus-per-run=0"], "--cpus-per-run must be at least 1, got 0"),
     (["--engine=ray", "--cpus-per-run=1001"], "--cpus-per-run must be at most 1,000, got 1,001"),
     (["--engine=ray", "--gpus-per-run=1.5"], "must be a fraction of one GPU or a whole number, got 1.5"),
     (["--engine=ray", "--gpus-per-run=1"], "needs --device cuda")],
)  # fmt: skip
def test_flags_that_cannot_be_are_refused(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "library", lambda: None)
    assert (
        cli.main(["sweep", str(sweep_file(tmp_path)), f"--results={tmp_path / 'r'}", *flags]) == 1
    )
    assert said in capsys.readouterr().err


def test_shares_are_ray_resources():
    """Two runs on a GPU by --per-gpu or by --gpus-per-run; memory as Ray counts it, in bytes."""
    assert nodes.Resources(4).for_ray(ExecutionOptions(memory_limit_gb=2)) == {
        "CPU": 4,
        "memory": 2e9,
    }
    assert nodes.Resources().for_ray(ExecutionOptions(device="cuda", per_gpu=2)) == {
        "CPU": 1,
        "GPU": 0.5,
    }
    assert nodes.Resources(gpus=0.25).for_ray(ExecutionOptions(device="cuda")) == {
        "CPU": 1,
        "GPU": 0.25,
    }


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two runs as Ray's hooks see it, without Ray."""
    loaded = spec.load(sweep_file(tmp_path, seed={"values": [0, 1]}))
    return ray_tune.ClusterLaunch(
        loaded, RunStore(tmp_path / "r"), ExecutionOptions(retries=1), out=io.StringIO()
    )


def test_losses_and_crashes_count_apart(sweep):
    """--retries is for crashes; a worker may be lost LOSSES times more.

    The search ends when nothing can come again.
    """
    assert sweep.suggest("a")["run_id"] == sweep.spec.configs[0].run_id
    assert sweep.suggest("b")["run_id"] == sweep.spec.configs[1].run_id
    assert sweep.suggest("c") is None
    for n in range(1 + ray_tune.LOSSES):
        sweep.complete("a" * (n + 1), {}, lost="node gone")
        assert sweep.suggest("a" * (n + 2))["run_id"] == sweep.spec.configs[0].run_id
    for n in range(2):
        sweep.complete("b" * (n + 1), {"error": "OSError: disk"})
        assert (sweep.suggest("bb") is None) == bool(n)
    sweep.complete("a" * (ray_tune.LOSSES + 2), {}, lost="node gone")
    assert sweep.suggest("d") == ray_tune.FINISHED
    assert sorted(sweep.failed.values()) == ["OSError: disk", "lost its worker: node gone"]
    assert {r.status for r in sweep.store.runs()} == {"failed"}
    assert sweep.out.getvalue().count("[again]") == ray_tune.LOSSES + 2


def test_tokens_must_agree(tmp_path):
    """look: None where the launcher's token is seen; else what is wrong."""
    assert "No such file" in worker.look(str(tmp_path / "elsewhere"), "t", "n")
    (tmp_path / "driver").write_text("t")
    assert worker.look(str(tmp_path), "t", "n") is None
    assert (tmp_path / "n").read_text() == "t"
    assert "another token" in worker.look(str(tmp_path), "u", "n")


# W&B's agent


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A `wandb` that writes down what it was called with, and no key anywhere."""
    program = tmp_path / "bin" / "wandb"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/called\ncommand -v python3 >> {tmp_path}/called\nexit ${{STATUS:-0}}\n'
    )
    program.chmod(0o755)
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "called"


@pytest.mark.parametrize("status", [0, 3])
def test_an_agent_of_wandb_is_started(status, wandb, monkeypatch, capsys):
    """`wandb agent ID`, with this environment's programs first on PATH.

    Its failure is the command's.
    """
    from tbn_bench.tracking import account

    monkeypatch.setattr(account, "require_key", lambda what: None)
    monkeypatch.setenv("STATUS", str(status))
    assert cli.main(["sweep", "--engine=wandb", "me/tbn/abc123"]) == (1 if status else 0)
    assert wandb.read_text().splitlines() == [
        "agent me/tbn/abc123",
        str(Path(sys.executable).parent / "python3"),
    ]
    assert json.loads(capsys.readouterr().out) == {
        "engine": "wandb",
        "sweep": "me/tbn/abc123",
        "failed": status,
    }


def test_an_agent_needs_a_key(wandb, capsys):
    """Without a key: exit 1, what to do, and the agent is not started."""
    assert cli.main(["sweep", "--engine=wandb", "me/tbn/abc123"]) == 1
    assert (
        "--engine wandb needs a W&B key; run `wandb login` or set WANDB_API_KEY"
        in capsys.readouterr().err
    )
    assert not wandb.exists()


def test_an_agent_takes_an_id(wandb, tmp_path, capsys):
    """A file is not a sweep ID: the answer says how to get one."""
    assert cli.main(["sweep", "--engine=wandb", str(sweep_file(tmp_path))]) == 1
    assert "`wandb sweep FILE` makes one" in capsys.readouterr().err


@pytest.mark.parametrize(("sweep_id", "mode"), [("abc123", "online"), (None, "offline")])
def test_an_agents_runs_are_mirrored_online(sweep_id, mode, monkeypatch):
    """The agent names its sweep in the environment.

    There --wandb is online unless said otherwise.
    """
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    if sweep_id:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep_id)
    assert make_parser().parse_args(["train"]).wandb == mode
