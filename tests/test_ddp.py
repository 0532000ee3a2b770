"""Two processes (gloo, CPU) with different data: what methods keep beside weights stays the same on both ranks."""

import os
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tbn_bench.binarizers._base import ActivationBinarizer, WeightBinarizer
from tbn_bench.convert import binarize_

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
STEPS = 30


def network(spec):
    """Normalised without running statistics, which torch keeps for each rank apart."""
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Hardtanh(), nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8),
        nn.Hardtanh(), nn.Conv2d(8, 16, 3, stride=2), nn.GroupNorm(2, 16), nn.Hardtanh(), nn.Flatten(), nn.Linear(144, 10),
    )  # fmt: skip
    binarize_(net, spec, ["0", "10"])
    return net


def trained(spec, rank, broadcast, x, y):
    """(state at the start, state at the end, weights used in the last step, last loss of this rank). broadcast: buffers are rank 0's, ranks begin with other seeds."""
    torch.manual_seed(rank if broadcast else 0)
    net = network(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch have another name for the option
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
        used = {name: m.weight.detach().clone() for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return start, net.state_dict(), used, float(loss.detach())


def rank_main(rank, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    data = [part[rank::2] for part in torch.load(f"{folder}/digits.pt", weights_only=True)]
    found = {(spec, broadcast): trained(spec, rank, broadcast, *data) for spec in METHODS for broadcast in (False, True)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks have to say."""
    from sklearn.datasets import load_digits  # here alone: the ranks start faster without it

    folder, digits = tmp_path_factory.mktemp("ranks"), load_digits()
    torch.save(
        [torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), torch.tensor(digits.target)], folder / "digits.pt"
    )
    mp.spawn(rank_main, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("spec", METHODS)
def test_ranks_agree_bit_by_bit(ranks, spec, broadcast):
    """After 30 steps every parameter, buffer and binary weight is equal on both, whether DDP hands buffers around or not; what learns
    has moved."""
    (start, end, *used, loss), (*others, other_loss) = (rank[spec, broadcast] for rank in ranks)
    for one, other in zip((start, end, *used), others, strict=True):
        assert [k for k, v in one.items() if not torch.equal(v, other[k])] == []
    assert loss != other_loss  # they saw different data
    assert all(v.isfinite().all() for v in end.values())
    for name in (".original", *MOVES[spec.partition("(")[0]]):
        assert all(not torch.equal(v, start[k]) for k, v in end.items() if k.endswith(name)), name
        assert any(k.endswith(name) for k in end), name
