"""Display names: short, the same everywhere, and different where calls differ."""

import pytest

from tbn_bench.reporting import names, style


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("full_precision", "FP32"),
        ("bwn(grad='clip_ste')", "BWN"),
        ("tbn(min_layer_size=0, p=4)", "TBN-4"),
        ("tbn(copies='hadamard', p=8)", "TBN-8 hadamard"),
        ("tbn(per_layer=[8, 4, 8, 16, 4, 8])", "TBN-4/8/16"),
        ("tbn(tile_length=256)", "TBN q=256"),
        ("low_rank(bits=0.25)", "Low rank 1/4"),
        ("low_rank(bits=0.3)", "Low rank 0.3"),
        ("snn(activations=True, tau=4)", "SNN-4 W1A1"),
        ("my_own(p=2)", "my_own-2"),
        ("not a call", "not a call"),
    ],
)
def test_a_method_has_a_short_name(spec, expected):
    assert names.method(spec) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet_cifar(depth=18)", "ResNet-18"),
        ("airbench(widths=[64, 256, 256])", "airbench 64/256/256"),
        ("mlp(bias=False, hidden=[128])", "MLP 128"),
    ],
)
def test_a_network_has_a_short_name(model, expected):
    assert names.network(model) == expected


def test_options_appear_only_where_names_would_be_the_same():
    specs = ["tbn(p=4)", "tbn(min_layer_size=0, p=4)", "tbn(gradient='tile', p=8)"]
    assert names.methods(specs) == {
        "tbn(p=4)": "TBN-4",
        "tbn(min_layer_size=0, p=4)": "TBN-4 (all layers)",
        "tbn(gradient='tile', p=8)": "TBN-8",
    }


def test_a_list_of_shifts_shows_how_far_they_go():
    """All four diagonals by one, and the window from its own place on."""
    diagonal = [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    window = [[0, 0], [0, 1], [1, 0], [1, 1]]
    specs = [f"tbn(copies='shifted', p=4, shifts={shifts})" for shifts in (diagonal, window)]
    found = list(names.methods(specs).values())
    assert found == ["TBN-4 shifted (shifts ±1)", "TBN-4 shifted (shifts 0 to 1)"]


def test_no_two_methods_have_one_name():
    long = [
        f"tbn(p=4, shifts={[[i, j] for i in range(9) for j in range(9)] + [k]})" for k in (3, 4)
    ]
    found = names.methods(long)
    assert len(set(found.values())) == 2


def test_networks_of_two_entries_with_one_name_are_told_apart():
    found = names.distinct(["resnet(depth=18)", "resnet_cifar(depth=18)"], names.network)
    assert len(set(found.values())) == 2


def test_each_p_of_a_method_has_its_own_colour():
    """Up to p = 16; the marker is that of the layout."""
    colours = [style.colour(f"tbn(p={p})") for p in (2, 4, 8, 16)]
    assert len(set(colours)) == 4
    assert style.marker("tbn(p=4)") == style.marker("tbn(p=16)")
    assert style.marker("tbn(p=4)") != style.marker("tbn(copies='hadamard', p=4)")
