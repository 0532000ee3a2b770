"""Two processes (gloo, CPU) with different data: what methods keep beside weights stays the same on
both ranks.
"""

import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbn_bench import cli
from tbn_bench.binarizers._base import ActivationBinarizer, WeightBinarizer
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.data import _order
from tbn_bench.experiment import distributed, train
from tbn_bench.records.store import RunStore

METHODS = [
    "snn(tau=3, every=5, activations=True)",
    "sparks(tau=3)",
    "irnet(activations=True)",
    "adabin",
    "tbn(p=2, min_layer_size=0)",
    "reactnet",
]
MOVES = {"snn": (".P", ".step"), "sparks": (".X", ".step", ".level"), "irnet": (".k", ".t"), "adabin": (".alpha", ".beta", ".t"),
         "tbn": (".A",), "reactnet": (".shift",)}  # fmt: skip
STEPS = 20


def network(spec):
    """Normalised without running statistics, which torch keeps for each rank apart."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Hardtanh(), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8),
        nn.Hardtanh(), nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(2, 16), nn.Hardtanh(), nn.Flatten(), nn.Linear(144, 10),
    )  # fmt: skip
    binarize_(net, spec, ["0", "10"])
    return net


def trained(spec, rank, broadcast, x, y):
    """(state at the start, state at the end, weights used in the last step, last loss of this
    rank). broadcast: buffers are rank 0's, ranks begin with other seeds.
    """
    torch.manual_seed(rank if broadcast else 0)
    net = network(spec)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # newer versions of torch have another name for the option
        wrapped = DistributedDataParallel(net, broadcast_buffers=broadcast)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9, weight_decay=1e-4)
    modules = [m for m in net.modules() if isinstance(m, WeightBinarizer | ActivationBinarizer)]
    for step in range(STEPS):
        for module in modules:
            if step % 10 == 0:
                module.begin_epoch(step // 10, STEPS // 10)
            if isinstance(module, WeightBinarizer):
                module.begin_step()
        now = slice(16 * step, 16 * step + 16)
        loss = nn.functional.cross_entropy(wrapped(x[now]), y[now])
        used = {
            name: m.weight.detach().clone()
            for name, m in net.named_modules()
            if isinstance(m, nn.Conv2d | nn.Linear)
        }
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return start, net.state_dict(), used, float(loss.detach())


def rank_main(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = [part[rank::2] for part in torch.load(f"{folder}/digits.pt", weights_only=True)]
    found = {
        (spec, broadcast): trained(spec, rank, broadcast, *data)
        for spec in METHODS
        for broadcast in (False, True)
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks have to say."""
    from sklearn.datasets import load_digits  # here alone: the ranks start faster without it

    folder, digits = tmp_path_factory.mktemp("ranks"), load_digits()
    torch.save(
        [
            torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32),
            torch.tensor(digits.target),
        ],
        folder / "digits.pt",
    )
    mp.spawn(rank_main, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("spec", METHODS)
def test_ranks_agree_bit_by_bit(ranks, spec, broadcast):
    """After 20 steps every parameter, buffer and binary weight is equal on both, whether DDP hands buffers around or not; what learns
    has moved."""
    (start, end, *used, loss), (*others, other_loss) = (rank[spec, broadcast] for rank in ranks)
    for one, other in zip((start, end, *used), others, strict=True):
        assert [k for k, v in one.items() if not torch.equal(v, other[k])] == []
    assert loss != other_loss  # they saw different data
    assert all(v.isfinite().all() for v in end.values())
    for name in (".original", *MOVES[spec.partition("(")[0]]):
        assert all(not torch.equal(v, start[k]) for k, v in end.items() if k.endswith(name)), name
        assert any(k.endswith(name) for k in end), name


OPTIONS = (
    "--quiet",
    "--wandb=off",
    "--threads=1",
    "--data=synthetic(n=80)",
    "--batch_size=20",
    "--epochs=3",
    "--lr=0.05",
)


def command(tmp_path, devices, *flags):
    """tbn-bench train as a user runs it: Lightning starts the second process by the same command."""
    results = f"--results={tmp_path / str(devices)}"
    train_command = [sys.executable, "-m", "tbn_bench.cli", "train", results]
    run = [*train_command, f"--devices={devices}", *OPTIONS, *flags]
    done = subprocess.run(
        run,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done, list(RunStore(tmp_path / str(devices)).runs())


@pytest.mark.parametrize(
    "binarizer", ["tbn(p=2, min_layer_size=0)", "tbn(p=2, min_layer_size=0, gradient='tile')"]
)
def test_two_processes_train_as_one(tmp_path, binarizer):
    """Where nothing depends on the statistics of a batch: the same rows and results up to rounding,
    one record, one line of JSON.
    """
    flags = ("--model=mlp(hidden=[16])", f"--binarizer={binarizer}")
    two, [together] = command(tmp_path, 2, *flags)
    assert two.returncode == 0, two.stderr
    assert cli.main(["train", f"--results={tmp_path / '1'}", *OPTIONS, *flags]) == 0
    [alone] = RunStore(tmp_path / "1").runs()
    assert json.loads(two.stdout.splitlines()[-1])["test_samples"] == 40
    assert sum(line.startswith("{") for line in two.stdout.splitlines()) == 1
    assert together.provenance["devices"] == 2
    assert len(together.rows()) == 3
    for row, other in zip(together.rows(), alone.rows(), strict=True):
        for key in ("train/loss", "val/loss", "val/top1", "tile/flip_rate"):
            assert row[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6)
    for key in ("test/loss", "test/top1"):
        assert together.summary[key] == pytest.approx(alone.summary[key], rel=1e-4)


def test_two_processes_with_batch_norm_end_with_the_same_tiles(tmp_path):
    """The run compares all weights, scales and schedules of both before it says that it is
    finished.
    """
    done, [record] = command(
        tmp_path, 2, "--model=resnet_cifar(depth=8, width=4)", "--binarizer=irnet"
    )
    assert done.returncode == 0, done.stderr
    assert record.status == "finished"


def test_processes_that_came_apart_are_a_fault():
    """Of weights and binarizers' state; running statistics are each process's own."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    everyone = []
    task = SimpleNamespace(
        model=net,
        device="cpu",
        all_gather=lambda v: (everyone.append(v), torch.stack([everyone[0], v]))[1],
    )
    distributed.check_ranks(task)
    net[1].running_mean += 1
    distributed.check_ranks(task)
    net[0].weight.data[0, 0] += 1e-6
    with pytest.raises(RuntimeError, match="ended with different weights"):
        distributed.check_ranks(task)


@pytest.mark.parametrize(
    ("devices", "batch_size", "message"),
    [
        (0, 20, "--devices must lie between 1 and"),
        (9999, 20, "got 9999"),
        (2, 3, "2 need 4, got 3"),
    ],
)
def test_impossible_numbers_of_devices_are_refused(tmp_path, devices, batch_size, message):
    with pytest.raises(ValueError, match=message):
        train.run(
            make({"batch_size": batch_size}),
            train.RunOptions(tmp_path, wandb="off", devices=devices),
        )


@pytest.mark.parametrize(("size", "batch"), [(40, 8), (41, 8), (42, 8), (43, 8), (44, 8), (7, 8)])
@pytest.mark.parametrize("seed", [None, 3])
def test_processes_share_every_batch(monkeypatch, size, batch, seed):
    """Each position once, the same number of batches for both, no part of one sample in training."""
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(_order, "world_place", lambda rank=rank: (rank, 2))
        order = _order.Order(size, batch, seed)
        parts.append(list(order))
        assert len(parts[-1]) == len(order)
    assert sorted(p for part in parts for some in part for p in some) == list(range(size))
    assert len(parts[0]) == len(parts[1])
    assert min(len(some) for part in parts for some in part) >= (1 if seed is None else 2)
