import copy
import functools
import itertools
import math

import pytest
import torch
from torch import nn

from tbn_bench import convert
from tbn_bench.binarizers._base import WeightBinarizer
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.latency import agreement, gate, peers, sampling, timing, trained, variants
from tbn_bench.latency.show import missing_ratios
from tbn_bench.layers import packed

SPECS = (
    "sign",
    "bwn",
    "tbn(p=1)",
    "tbn(p=4, min_layer_size=0)",
    "tbn(p=4, min_layer_size=0, alpha='layer')",
    "tbn(p=2, min_layer_size=0, alpha_source='W')",
    "tbn(p=3, min_layer_size=0)",
)


def _by(clock):
    return functools.partial(sampling._one_sample, clock)


def _net() -> nn.Module:
    """24 rows everywhere but in the grouped convolution.

    p = 3 leaves the last layer's scale covering part of a row.
    """
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, groups=2, padding="same", padding_mode="reflect"),
        nn.Flatten(1),
        nn.Linear(24 * 16, 12),
        nn.Unflatten(1, (3, 4)),
        nn.Conv1d(3, 8, 3, dilation=1, bias=False),
    )


@pytest.mark.parametrize("spec", SPECS)
def test_a_packed_network_computes_what_the_trained_one_does(spec):
    """pack_ changes the form of a network and not its function, for aligned, unaligned and grouped
    layers.
    """
    model = _net()
    binarize_(model, spec)
    x = torch.randn(5, 3, 8, 8)
    expected, plain = model.eval()(x), convert.dense(model)(x)
    rows = convert.pack_(model)
    assert all(isinstance(model[i], packed.Packed) for i in (0, 2, 4, 6))
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-5)
    assert len(rows) == 4


@pytest.mark.parametrize("spec", ["bwn", "tbn(p=4, min_layer_size=0)", "low_rank(bits=0.5)"])
def test_a_packed_file_is_timed_as_the_trained_network_is(spec, tmp_path):
    """Its dense reference has the same outputs, and every implementation is there."""
    structure = _net().eval()
    trained_one = copy.deepcopy(structure)
    binarize_(trained_one, spec)
    small = copy.deepcopy(trained_one)
    convert.pack_(small)
    convert.save(small, tmp_path / "net.safetensors")
    loaded = convert.load(structure, tmp_path / "net.safetensors")
    plain = trained.expanded(structure, loaded)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(plain(x), trained_one.eval()(x), rtol=1e-5, atol=1e-5)
    setting = peers.Setting(make({"binarizer": spec}), x, 1, x, {"distinct_macs": 1}, few=True)
    names = [v.implementation for v in variants.variants_of(trained_one, setting)]
    assert [v.implementation for v in variants.variants_of(loaded, setting, plain)] == names


def test_packing_a_copy_leaves_the_original_trainable():
    """torch shares the parametrized class between copies.

    Neither dense nor pack_ may break the other copies.
    """
    import copy

    model = nn.Sequential(nn.Linear(8, 8))
    binarize_(model, "tbn(p=4, min_layer_size=0)")
    x, before = torch.randn(2, 8), model[0].weight.clone()
    convert.dense(model)
    convert.pack_(copy.deepcopy(model))
    assert torch.equal(model[0].weight, before)
    model(x).sum().backward()


def test_attention_is_packed_without_changing_it():
    """nn.MultiheadAttention reads its projections itself: they are expanded, and the fused
    evaluation path still agrees.
    """
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    binarize_(layer, "tbn(p=4, min_layer_size=0)")
    x = torch.randn(2, 5, 8)
    expected = layer.train()(x).detach()
    convert.pack_(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, WeightBinarizer) for m in layer.modules())


def test_a_foreign_engine_that_is_wrong_is_a_row_that_says_so():
    """The others are timed; one of ours that is wrong still stops everything."""
    layer, exact, x = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), torch.randn(2, 4)
    exact.load_state_dict(layer.state_dict())
    good = gate.Variant("full_precision", "dense", layer, exact, 0)
    wrong = gate.Variant(
        "full_precision", "elsewhere", lambda x: layer(x) + 1, exact, 0, foreign=True
    )
    assert set(gate.gate([good, wrong], x)) == {good.name}
    assert "differs from its float64 reference" in wrong.unavailable
    record = timing.time_case("c", [good, wrong], x, 1, "cpu", {}, "command")
    assert [row["unavailable"] is None for row in record.rows] == [True, False]
    with pytest.raises(gate.ParityError, match="elsewhere"):
        gate.gate([good, gate.Variant("full_precision", "elsewhere", wrong.call, exact, 0)], x)


def test_a_foreign_engine_that_raises_is_a_row_that_says_so():
    layer, exact, x = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), torch.randn(2, 4)
    exact.load_state_dict(layer.state_dict())
    good = gate.Variant("full_precision", "dense", layer, exact, 0)

    def broken(x):
        raise NotImplementedError("no kernel for this\nand more")

    foreign = gate.Variant("full_precision", "elsewhere", broken, exact, 0, foreign=True)
    assert set(gate.gate([good, foreign], x)) == {good.name}
    assert foreign.unavailable == "NotImplementedError: no kernel for this"
    with pytest.raises(NotImplementedError):
        gate.gate([gate.Variant("bwn", "ours", broken, exact, 0)], x)


def test_a_compiled_network_stays_frozen_when_others_are_compiled(monkeypatch):
    """Compiled once each, with freezing on; calling the first again compiles nothing."""
    import torch._inductor.compile_fx as inductor

    frozen, original = [], inductor.compile_fx
    monkeypatch.setattr(
        inductor,
        "compile_fx",
        lambda *a, **k: (frozen.append(inductor.config.freezing), original(*a, **k))[1],
    )
    x = torch.randn(2, 8)
    layers = [nn.Linear(8, 8).eval() for _ in range(3)]
    calls = [peers.compiled(layer, x) for layer in layers]
    with torch.no_grad():
        for layer, call in zip(layers, calls, strict=True):
            torch.testing.assert_close(call(x), layer(x))
    assert frozen == [True] * 3


@pytest.mark.parametrize("cold", [False, True])
def test_a_gpu_sample_is_the_time_between_its_events(monkeypatch, cold):
    """Hot: all calls between one pair of events.

    Cold: each call between its own, what flushes the caches outside.
    """
    order, ticks = [], itertools.count()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = next(ticks)
            order.append("event")

        def elapsed_time(self, end):
            return float(end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def call():
        order.append("call")
        next(ticks), next(ticks)

    def flush():
        order.append("flush")
        next(ticks)

    each = sampling._one_sample_cuda(call, 4, flush if cold else None)
    assert order == (
        ["flush", "event", "call", "event"] * 4 if cold else ["event", *["call"] * 4, "event"]
    )
    assert each == (3.0 if cold else 9 / 4)


def test_one_flipped_bit_fails_the_gate():
    """A single wrong bit of the tile must stop the timing."""
    model = nn.Sequential(nn.Linear(16, 16))
    binarize_(model, "tbn(p=4, min_layer_size=0)")
    x, reference = torch.randn(3, 16), convert.dense(model)
    convert.pack_(model)
    good = gate.Variant("tbn(p=4)", "tile reuse", model, reference, 0)
    assert gate.gate([good], x)[good.name] < 1e-6
    model[0].tile_bits[0] ^= 1
    with pytest.raises(gate.ParityError, match="not timed"):
        gate.gate([good], x)


def test_a_cpu_without_a_number_is_named_by_its_generation(tmp_path):
    """Virtual machines call every EPYC the same; the first processor's family and model differ."""
    info = tmp_path / "cpuinfo"
    info.write_text("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nmodel\t: 3\n")
    assert timing._generation(info) == " family 26 model 2"
    assert timing._generation(tmp_path / "missing") == ""


def test_the_gate_refuses_nan_and_wrong_shapes():
    """An error that cannot be computed is infinite, not small."""
    y = torch.ones(3)
    assert gate.relative_error(y * math.nan, y) == math.inf
    assert gate.relative_error(torch.ones(4), y) == math.inf


def test_interleaving_rotates_and_pairs():
    """Every round times every variant once; the first place rotates.

    The ratio is the median of ratios within rounds.
    """
    order, clock = [], iter(range(10_000))
    samples = sampling.interleave(
        {n: lambda n=n: order.append(n) for n in "ab"}, _by(lambda: float(next(clock))), rounds=4
    ).times
    assert [len(s) for s in samples.values()] == [4, 4]
    assert "".join(order[6:]) == "abbaabba"
    row = timing.statistics_of([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert (row["time_ms_p50"], row["ratio"], row["n"]) == (2.0, 1.0, 3)


def test_quantile_by_hand():
    assert timing.quantile([4.0, 1.0, 2.0, 3.0, 5.0], 0.2) == pytest.approx(1.8)


def test_a_disturbed_sample_is_taken_again_and_counted():
    """With several threads, a sample during which a thread waited for a processor does not
    count.
    """
    waits, clock = iter([0.0, 1.0, 1.0, 1.0] + [1.0] * 1000), iter(range(10_000))
    samples = sampling.interleave(
        {"a": lambda: None}, _by(lambda: float(next(clock))), rounds=3, wait=lambda: next(waits)
    )
    assert len(samples.times["a"]) == 3
    assert samples.rejected == pytest.approx(1 / 4)


def test_a_machine_that_is_never_quiet_gives_no_numbers():
    total = iter(range(100_000))
    with pytest.raises(RuntimeError, match="disturbed"):
        sampling.interleave(
            {"a": lambda: None},
            _by(lambda: next(total) * 1e-4),
            rounds=3,
            wait=lambda: float(next(total)),
        )


def test_lossy_peers_carry_their_own_tolerance():
    """bfloat16 may be timed, with its error shown.

    The exact implementations keep the narrow gate.
    """
    model, x = nn.Linear(64, 8), torch.randn(4, 64)
    reference = nn.Linear(64, 8)
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        lossy = gate.Variant(
            "full_precision", "bf16", lambda v: model(v) * 1.01, reference, 0, tolerance=5e-2
        )
        assert 5e-3 < gate.gate([lossy], x)[lossy.name] < 2e-2
        lossy.tolerance = gate.TOLERANCE
        with pytest.raises(gate.ParityError):
            gate.gate([lossy], x)


def test_rounded_activations_may_change_one_class_in_500():
    """4 of 2,000 changed pass and 5 do not.

    One of 100 passes, since there is no smaller change, and two do not.
    """
    assert agreement.agrees(1996 / 2000, 2000)
    assert not agreement.agrees(1995 / 2000, 2000)
    assert agreement.agrees(0.99, 100)
    assert not agreement.agrees(0.98, 100)


def test_a_missing_ratio_says_why():
    """The peer's own reason, or that there is no full-precision network to compare with."""
    row = {"binarizer": "sign", "implementation": "tile", "unavailable": None, "ratio": 2.0}
    peer = {"binarizer": "full_precision", "implementation": "ONNX Runtime int8"}
    rows = [row | {"ratio_compiled": 1.0}, peer | {"unavailable": "no onnxruntime"}]
    (line,) = missing_ratios(rows)
    assert line == "no x int8: it needs full_precision [ONNX Runtime int8]: no onnxruntime"
    alone = missing_ratios([row | {"ratio": None}])
    assert len(alone) == 3
    assert all("no full-precision network was timed" in line for line in alone)


def test_a_peer_that_is_not_installed_names_its_extra():
    """Any other error keeps its type."""
    missing = ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")
    said = gate.first_line(missing)
    assert said == 'needs onnxscript: pip install "tbn-bench[peers]"'
    assert gate.first_line(ValueError("of\nlines")) == "ValueError: of"
