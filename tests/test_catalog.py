import pytest

from tbn_bench import catalog


@pytest.mark.parametrize("package", ["binarizers", "models", "data", "tasks"])
def test_every_file_is_an_entry(package):
    """Each file of an open folder defines the callable of its name."""
    entries = catalog.names(package)
    assert entries
    assert all(callable(catalog.load(package, name)) for name in entries)


def test_canonical_spelling():
    """Spaces, argument order and empty parentheses do not make another entry."""
    assert catalog.canonical(" tbn( p = 4,alpha='layer' )") == "tbn(alpha='layer', p=4)"
    assert catalog.canonical("sign()") == catalog.canonical("sign") == "sign"


@pytest.mark.parametrize("call", ["tbn(4)", "tbn(p=1+1)", "tbn(p=__import__('os'))", "a.b()", "tbn(", "", "tbn(**x)", "1"])
def test_only_names_with_literal_keywords(call):
    """Anything that is not a name with literal keyword arguments is refused, nothing is evaluated."""
    with pytest.raises(ValueError, match="expected a call"):
        catalog.canonical(call)


def test_unknown_names_are_answered_with_the_known():
    """The error suggests the nearest entry or option."""
    with pytest.raises(ValueError, match="did you mean 'tbn'"):
        catalog.build("binarizers", "tbm(p=4)")
    with pytest.raises(ValueError, match="did you mean 'tile_length'"):
        catalog.build("binarizers", "tbn(tile_lenght=64)")
    with pytest.raises(ValueError, match="unknown package"):
        catalog.names("binarisers")
