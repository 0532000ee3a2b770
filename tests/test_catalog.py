import ast

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


@pytest.mark.parametrize(
    "call",
    [
        "tbn(4)",
        "tbn(p=1+1)",
        "tbn(p=__import__('os'))",
        "a.b()",
        "tbn(",
        "",
        "tbn(**x)",
        "1",
        5,
        None,
        "tbn(p={[]: 1})",
        "tbn(p={{}})",
        "tbn(p={1, 2})",
        "tbn(p=1e999)",
        "tbn(p=-1e999)",
        "tbn(p=1+2j)",
        "tbn(p=b'x')",
        "tbn(p=...)",
        "tbn(p=9223372036854775808)",
        "tbn(p={'a': 1, 'a': 2})",
        "tbn(p=[{1: 2, True: 3}])",
        "tbn(p=" + "[" * 500 + ")",
        "tbn(p=" + "-" * 20_000 + "1)",
        "tbn(p='" + "x" * 20_000 + "')",
    ],
    ids=lambda call: str(call)[:30],
)
def test_only_names_with_literal_keywords(call):
    """Anything that is not a name with literal keyword arguments is refused, nothing is evaluated."""
    with pytest.raises(ValueError, match="expected a call"):
        catalog.canonical(call)


def test_nested_dictionaries_are_evaluated_once(monkeypatch):
    """A list below 90 dictionaries is not made again for each of them."""
    evaluate, nodes = ast.literal_eval, []
    monkeypatch.setattr(
        ast,
        "literal_eval",
        lambda node: nodes.append(sum(1 for _ in ast.walk(node))) or evaluate(node),
    )
    catalog.parse("tbn(p=" + "{1: " * 90 + "[" + "0, " * 5000 + "]" + "}" * 90 + ")")
    assert sum(nodes) < 2 * 5000


LONG = "x" * 9000


@pytest.mark.parametrize(
    "call",
    [
        LONG,
        f"tbn({LONG}=1)",
        f"tbn(p={{'{LONG}': 1, '{LONG}': 1}})",
        f"bireal(grad='{LONG}')",
        f"tbn(p=[{LONG}])",
    ],
)
def test_messages_are_short(call):
    """A long word of one's own is cut in the middle."""
    with pytest.raises(ValueError) as error:
        catalog.build("binarizers", call)
    assert len(str(error.value)) < 1500


def test_unknown_names_are_answered_with_the_known():
    """The error suggests the nearest entry or option."""
    with pytest.raises(ValueError, match="did you mean 'tbn'"):
        catalog.build("binarizers", "tbm(p=4)")
    with pytest.raises(ValueError, match="did you mean 'tile_length'"):
        catalog.build("binarizers", "tbn(tile_lenght=64)")
    with pytest.raises(ValueError, match="unknown package"):
        catalog.names("binarisers")


@pytest.mark.parametrize(
    ("package", "call", "said"),
    [
        ("models", "mlp(hidden=5)", "mlp: option hidden must be Sequence[int], got 5"),
        ("models", "mlp(hidden='64')", "mlp: option hidden must be Sequence[int], got '64'"),
        ("models", "resnet_cifar(depth='x')", "resnet_cifar: option depth must be int, got 'x'"),
        ("models", "resnet_cifar(depth='18')", "resnet_cifar: option depth must be int, got '18'"),
        ("models", "vit(dim=1.5)", "vit: option dim must be int, got 1.5"),
        ("binarizers", "tbn(per_layer=5)", "tbn: option per_layer must be list[int] | None, got 5"),
        ("data", "smoke(of=5)", "smoke: option of must be str, got 5"),
        ("tasks", "point_classification(reg='1e-3')", "option reg must be float, got '1e-3'"),
        (
            "tasks",
            "point_classification(config=1)",
            "point_classification has no option 'config'; known: num_classes, reg",
        ),
        ("binarizers", "sign(p=4)", "sign has no option 'p': it takes none"),
        ("optimizers", "adam(betas=0.9)", "adam: option betas must be Sequence[float], got 0.9"),
    ],
)
def test_a_value_of_another_type_is_one_line(package, call, said):
    """Before the entry is called: its annotations say what it takes."""
    with pytest.raises(ValueError) as error:
        catalog.check(package, call, ("model", "config", "num_classes"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("package", "call"),
    [("models", "mlp(hidden=(64, 32))"), ("models", "mlp(bias=0)"), ("data", "csv_forecast(path='x', split=[1, 0, 0])"),
     ("binarizers", "tbn(p=None)"), ("data", "cifar10(flip='alternating')"), ("models", "from_timm(kwargs={'a': [1]})")],
)  # fmt: skip
def test_values_that_fit_are_taken(package, call):
    """A tuple for a list, 0 for False, an integer for a float, None where it may be."""
    catalog.check(package, call)


def test_another_error_of_an_entry_is_one_line():
    """vit divides by its patch before it looks at it."""
    with pytest.raises(
        catalog.EntryFailed, match=r"vit\(patch=0\) cannot be built: ZeroDivisionError"
    ):
        catalog.build("models", "vit(patch=0)")


def test_a_parsed_call_is_the_callers_own():
    """The answer is kept; changing a list in it changes no later answer."""
    _, options = catalog.parse("mlp(hidden=[8, 8])")
    options["hidden"].append(1)
    assert catalog.parse("mlp(hidden=[8, 8])") == ("mlp", {"hidden": [8, 8]})
