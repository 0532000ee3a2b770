"""Guards faults: how many bits are flipped, and which weights become wrong."""

import numpy as np
import pytest
import torch
from torch import nn

from tbn_bench import binarize_, pack_
from tbn_bench.convert import saved
from tbn_bench.robustness.faults import Stored, share_of_wrong_signs, unrolled
from tbn_bench.robustness.hamming import Hamming

METHODS = ("bwn", "tbn(p=4, min_layer_size=0)", "twn", "snn(tau=4)", "low_rank(bits=0.5)")


def stored(spec, layer=None):
    model = nn.Sequential(layer or nn.Conv2d(16, 16, 3), nn.Flatten())
    binarize_(model, spec)
    pack_(model)
    return Stored(saved.to_artifact(model))


def changed(a, b):
    return {name for name in a.tensors if a.tensors[name].tobytes() != b.tensors[name].tobytes()}


@pytest.mark.parametrize("spec", METHODS)
def test_a_network_with_faults_is_one_that_can_be_loaded(spec):
    """Whatever was flipped, the packed form is valid, and only bits of weights have changed."""
    network = stored(spec)
    faulty = network.faulty("bits", 0.3, np.random.default_rng(0))
    faulty.content.check()
    assert changed(network.content, faulty.content) <= set(network.sizes("bits"))
    assert faulty.flips > 0


@pytest.mark.parametrize("p", [1, 4, 16])
def test_a_bit_of_a_tile_is_p_weights(p):
    network = stored(f"tbn(p={p}, min_layer_size=0)")
    faulty = network.faulty("bits", 0.02, np.random.default_rng(0))
    wrong = share_of_wrong_signs(network.dense, faulty.content.unmoved())
    assert wrong == pytest.approx(p * faulty.flips / 2304)


def test_wrong_weights_are_as_many_and_in_no_groups():
    """The unrolled network equals the packed one but for the weights that were flipped."""
    network = stored("tbn(p=4, min_layer_size=0)")
    faulty = network.faulty("weights", 0.02, np.random.default_rng(0))
    (right,) = network.dense.values()
    (found,) = (faulty.content.tensors[name] for name in network.dense)
    assert np.count_nonzero(right != found) == faulty.flips == np.count_nonzero(right == -found)
    assert 20 < faulty.flips < 75


def test_an_unrolled_network_computes_the_same():
    layer = nn.Conv2d(16, 16, 3)
    network = stored("tbn(p=4, copies='hadamard', min_layer_size=0)", layer)
    plain = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Flatten())
    x = torch.randn(2, 16, 5, 5)
    packed = saved.load(plain, network.content)(x)
    dense = saved.load(plain, unrolled(network.content, network.dense))(x)
    torch.testing.assert_close(packed, dense)


def test_shifted_copies_cannot_be_unrolled():
    network = stored(
        "tbn(p=4, copies='shifted', min_layer_size=0)", nn.Conv2d(16, 16, 3, padding=1)
    )
    with pytest.raises(ValueError, match=r"0\.weight has shifted copies"):
        network.faulty("weights", 0.1, np.random.default_rng(0))


def test_faults_in_scales_leave_the_tile():
    network = stored("bwn")
    faulty = network.faulty("scales", 0.1, np.random.default_rng(0))
    assert changed(network.content, faulty.content) == {"0.alphas"}
    assert network.sizes("scales") == {"0.alphas": 32 * 16}


def test_floats_have_faults_in_all_their_bits():
    """Of a network in full precision: about rate times 32 bits of each weight."""
    content = saved.to_artifact(nn.Sequential(nn.Linear(64, 64)))
    network = Stored(content, ("0.weight",))
    faulty = network.faulty("bits", 0.01, np.random.default_rng(0))
    assert network.sizes("bits") == {"0.weight": 32 * 4096}
    assert changed(content, faulty.content) == {"0.weight"}
    assert faulty.flips == pytest.approx(0.01 * 32 * 4096, rel=0.1)


def test_a_code_corrects_what_it_can():
    """At a rate of one error per 50 blocks nothing is wrong; its check bits are counted."""
    network = stored("tbn(p=4, min_layer_size=0)")
    code = Hamming(64)
    assert network.check_bits(code) == 9 * 7
    faulty = network.faulty("bits", 0.005, np.random.default_rng(1), code)
    assert faulty.flips > 0
    assert not changed(network.content, faulty.content)
