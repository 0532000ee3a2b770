"""Forty trials on digits: killed three times and begun again, or on two nodes of a cluster, they
end in the table of an undisturbed sweep.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tbn_bench.records.store import RunStore
from tbn_bench.records.summary import TIMES
from tbn_bench.sweep import local, spec
from tbn_bench.sweep.execution import ExecutionOptions

SWEEP = {
    "name": "forty",
    "method": "grid",
    "command": ["tbn-bench", "train", "${args}"],
    "parameters": {
        "data": {"value": "digits"},
        "model": {"value": "mlp(hidden=[32])"},
        "epochs": {"value": 4},
        "binarizer": {
            "values": [
                "full_precision",
                "bwn",
                "tbn(p=2, min_layer_size=0)",
                "tbn(p=4, min_layer_size=0)",
            ]
        },
        "seed": {"values": list(range(10))},
    },
}


def table(results: Path) -> dict[str, tuple]:
    """run id -> rows and results, without what is measured in seconds."""

    def timeless(row):
        return {k: v for k, v in row.items() if k not in TIMES}

    return {
        r.run_id: ([timeless(row) for row in r.rows()], timeless(r.summary))
        for r in RunStore(results).runs()
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("forty") / "forty.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    return path


@pytest.fixture(scope="module")
def calm(file) -> dict[str, tuple]:
    """One thread each, as on a node of one core."""
    said = local.run(spec.load(file), file.parent / "calm", ExecutionOptions(jobs=os.cpu_count()))
    assert (said["finished"], said["failed"]) == (40, 0)
    return table(file.parent / "calm")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_three_times(file, calm, tmp_path):
    """SIGKILL to the launcher after a random number of runs and a random moment, three times."""
    results, rng = tmp_path / "r", random.Random(os.getpid())
    command = [
        sys.executable,
        "-m",
        "tbn_bench.cli",
        "sweep",
        str(file),
        f"--results={results}",
        f"--jobs={os.cpu_count()}",
    ]
    for least in sorted(rng.sample(range(1, 36), 3)):
        launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(results.glob("runs/*/*/summary.json"))) < least:
            assert launcher.poll() is None
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 5))
        launcher.kill()
        launcher.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 0, done.stderr
    assert table(results) == calm


@pytest.mark.ray
@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("ignore::FutureWarning:ray.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")
def test_on_two_nodes(file, calm, tmp_path):
    """The same file with --engine ray."""
    pytest.importorskip("ray", reason='needs Ray: pip install "tbn-bench[ray]"')
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        nodes.add_node(num_cpus=1)
        command = [
            sys.executable,
            "-m",
            "tbn_bench.cli",
            "sweep",
            str(file),
            f"--results={tmp_path / 'r'}",
            "--engine=ray",
        ]
        done = subprocess.run(
            [*command, f"--address={nodes.address}"], capture_output=True, text=True
        )
    finally:
        nodes.shutdown()
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["finished"], said["failed"]) == (40, 0), done.stderr
    assert table(tmp_path / "r") == calm
