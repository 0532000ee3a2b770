"""Guards the YAML of sweeps and presets: numbers, keys that are given twice, bounds."""

import pytest

from tbn_bench import yaml_file


def of(text, tmp_path):
    path = tmp_path / "f.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return yaml_file.read(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E3", 1000.0), ("-1e+2", -100.0), ("+2e0", 2.0), (".5e1", 5.0), ("1.e1", 10.0), ("1.5e-3", 0.0015),
        ("1.0e-3", 0.001), ("3", 3), ("0.5", 0.5), ("'1e-3'", "1e-3"), ("1e", "1e"), ("e3", "e3"), ("1e-3x", "1e-3x"),
    ],
)  # fmt: skip
def test_numbers_with_an_exponent_are_numbers(text, value, tmp_path):
    """With or without a point or a sign; text in quotes is text."""
    assert of(f"a: [{text}]", tmp_path) == {"a": [value]}
    assert type(of(text, tmp_path)) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: 'a' is given twice, first in line 1"),
        ('a: {b: 1, "b": 2}', "'b' is given twice"),
        ("p: {1: x, 0x1: y}", "1 is given twice"),
        ("- {x: {y: 1, y: 1}}", "'y' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_an_error(text, said, tmp_path):
    """In any mapping, in any spelling; PyYAML takes the last one."""
    with pytest.raises(ValueError, match=said) as error:
        of(text, tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'f.yaml'} is not valid YAML: ")


def test_a_merged_key_is_no_repetition(tmp_path):
    """YAML's `<<`: what stands beside it wins."""
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a, z: 4}"
    assert of(text, tmp_path)["b"] == {"x": 1, "y": 3}


def bomb(opened, closed):
    """Nine levels of nine aliases each: 9^9 values in some 400 bytes."""
    lines = ["l0: &l0 {x: 1}"]
    for level in range(1, 10):
        aliases = ", ".join([f"*l{level - 1}"] * 9)
        lines.append(f"l{level}: &l{level} {opened}{aliases}{closed}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb("[", "]"), "stands for 1.36e[+]09 values, expected at most 20,000"),
        (bomb("{<<: [", "]}"), "values, expected at most 20,000"),
        ("a: &a [*a]", "stands for inf values"),
        ("&a {b: *a}", "stands for inf values"),
        ("[" * 5000, "nested too deep"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: 2020-13-45", "is not valid YAML"),
        ("? [1, 2]\n: 3", "is not valid YAML"),
        ("a: " + "9" * 5000, "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
        (b"\xff", "is not valid YAML"),
        ("#" * 250_001, "too large: expected at most 250,000 bytes"),
        ("[" + "a," * 30_000 + "]", "too many values, expected at most 20,000"),
        ("- " * 5000, "nested too deep, expected at most 100 levels"),
        ("a: 1" + ":1" * 50_000, "line 1: a number has 100,001 digits, expected at most 100"),
        ("a: 1" + ":1" * 50_000 + ".5", "a number has 100,003 digits"),
        ("a: 0x" + "f" * 5000, "a number has 5,002 digits"),
        ("a: *" + "x" * 50_000, "found undefined alias"),
        (f"{'x' * 1000}: 1\n" * 2, "is given twice"),
    ],
)
def test_hostile_text_is_one_line(text, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        of(text, tmp_path)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text", ["[" + "a," * 100_000 + "]", "".join(f"k{i}: 1\n" for i in range(20_000))]
)
def test_reading_ends_where_a_bound_is_met(text):
    """The rest of the values takes neither time nor memory."""
    loader = yaml_file._Loader(text)
    with pytest.raises(ValueError, match="too many values"):
        loader.get_single_node()
    assert loader.values == yaml_file.LIMIT_VALUES + 1
    assert loader.index < len(text) / 1.8


def test_an_empty_file_is_none(tmp_path):
    assert of("", tmp_path) is None
    assert of("# nothing", tmp_path) is None
