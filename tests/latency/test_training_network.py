"""Guards the timing of whole training steps: what is compared, and the gate before it."""

import pytest
import torch

from tbn_bench.latency import training_network
from tbn_bench.latency.gate import ParityError
from tbn_bench.records.store import RunStore


@pytest.fixture
def small(monkeypatch):
    """A network whose steps take milliseconds, timed once."""
    monkeypatch.setitem(training_network.NETWORKS, "resnet18", "resnet_cifar(depth=8, width=8)")
    monkeypatch.setattr(training_network, "ROUNDS", 1)


def test_a_record_has_plain_and_fused_steps(small, tmp_path):
    """Ratios are to full precision; a fused row says what each of its layers did."""
    training_network.network_steps(tmp_path, "resnet18", [4], 2, 1, half=False, learned_scales=True)
    (record,) = RunStore(tmp_path).latencies()
    fused = [row for row in record.rows if row["implementation"].endswith("fused")]
    assert len(record.rows) == 8
    assert len(fused) == 3
    assert all(row["ratio"] > 0 for row in record.rows)
    assert "batch norm" in fused[0]["layers"]["blocks.0.bn1"]


def test_a_wrong_gradient_is_not_timed(small, monkeypatch, tmp_path):
    """An error in the fused path, here a doubled loss, stops the timing."""
    plain = training_network._loss
    monkeypatch.setattr(training_network, "_loss", lambda *args, **kw: 2 * plain(*args, **kw))
    with pytest.raises(ParityError, match="not timed"):
        training_network.network_steps(tmp_path, "resnet18", [4], 2, 1, False, False)


def test_bfloat16_is_a_precision_of_the_step():
    """Autocast reaches the network; the loss stays float32."""
    batch = training_network._Batch.random(2, torch.channels_last)
    model = training_network._network("resnet_cifar(depth=8, width=8)", "full_precision", False)
    assert training_network._loss(model, batch, half=True).dtype == torch.float32
