"""Guards the ledger of published numbers: every line is readable, has its source and stands only
beside runs it is about.
"""

import inspect
import re
from pathlib import Path

import pytest

from tbn_bench import catalog
from tbn_bench.reporting import published

ROOT = Path(__file__).parents[2]
# It quotes the float network of its own paper.
IR_NET_ISSUE = "https://github.com/htqin/IR-Net/issues/8"
LINE = {
    "method": "tbn",
    "spec": "tbn(p=4)",
    "dataset": "cifar10",
    "model": "resnet_cifar(depth=18)",
    "weight_bits": "",
    "activation_bits": "32",
    "metric": "top1",
    "value": "0.93",
    "second_hand": "false",
    "source": "README",
    "note": "",
}


def _write(results: Path, *lines: dict[str, str], name: str = "tbn.csv") -> Path:
    """results/published/<name> with `lines`, each LINE with changes; returns results."""
    folder = results / "published"
    folder.mkdir(exist_ok=True)
    quoted = [",".join(f'"{value}"' for value in (LINE | line).values()) for line in lines]
    (folder / name).write_text(
        "\n".join([",".join(published.COLUMNS), *quoted]) + "\n", encoding="utf-8"
    )
    return results


def _read(results: Path) -> tuple[list[dict], list[str]]:
    problems: list[str] = []
    return published.read(results, problems).to_dict("records"), problems


@pytest.fixture(scope="module")
def ledger():
    rows, problems = _read(ROOT / "results")
    assert problems == []
    return rows


def test_every_committed_line_has_its_source_and_file(ledger):
    """A file is named for the method of its lines; specs are in the one spelling.

    No line comes twice.
    """
    assert len(ledger) > 200
    assert all(len(row["source"]) > 8 for row in ledger)
    assert {row["method"] for row in ledger} == {
        p.stem for p in (ROOT / "results" / "published").glob("*.csv")
    }
    assert all(catalog.canonical(row["spec"]) == row["spec"] for row in ledger if row["spec"])
    assert len({tuple(row.values()) for row in ledger}) == len(ledger)


def test_a_reader_can_open_every_source(ledger):
    """A source begins with an address; what follows in parentheses says where to look there."""
    address = re.compile(r"https://\S+( \(.+\))?")
    assert all(address.fullmatch(row["source"]) for row in ledger)


def test_second_hand_lines_are_marked(ledger):
    """A number that is quoted is never shown as read in its source."""
    quoted = [row for row in ledger if "quoted" in (row["note"] or "")]
    assert len(quoted) > 10
    assert {row["source"] for row in quoted if not row["second_hand"]} == {IR_NET_ISSUE}


def test_accuracies_name_data_and_model(ledger):
    assert all(row["dataset"] and row["model"] for row in ledger if row["metric"].startswith("top"))


@pytest.mark.parametrize("name", catalog.names("models"))
def test_models_of_the_ledger_are_written_as_ours(ledger, name):
    """Where a line names one of our models, the call is one that this model takes."""
    calls = [
        catalog.parse(row["model"])
        for row in ledger
        if (row["model"] or "").partition("(")[0] == name
    ]
    options = set(inspect.signature(catalog.load("models", name)).parameters)
    assert all(set(named) <= options for _, named in calls)


def test_no_folder_means_no_number(tmp_path):
    assert _read(tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "high"}, "value must be a finite number, got 'high'"),
        ({"value": ""}, "value must be a finite number, got None"),
        ({"value": "nan"}, "value must be a finite number"),
        ({"metric": "mse", "value": "inf"}, "value must be a finite number"),
        ({"value": "93.1"}, "top1 must be a fraction in (0, 1], got 93.1"),
        ({"value": "0"}, "top1 must be a fraction"),
        ({"activation_bits": "3"}, "activation_bits must be one of 1, 8, 32, got '3'"),
        ({"activation_bits": ""}, "activation_bits must be one of"),
        ({"weight_bits": "-1"}, "weight_bits must be a positive number or empty, got '-1'"),
        ({"weight_bits": "one"}, "weight_bits must be a positive number"),
        ({"second_hand": "yes"}, "second_hand must be true or false, got 'yes'"),
        ({"source": " "}, "source must not be empty"),
        ({"metric": ""}, "metric must not be empty"),
        ({"spec": "tbn(4)"}, "spec: expected a call"),
        ({"spec": "sign"}, "spec must be of the method 'tbn', got 'sign'"),
        ({"note": '","'}, "expected 11 cells, got 12"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_kept(tmp_path, change, said):
    """The message names file, line and fault; no number is lost with it."""
    rows, (problem,) = _read(_write(tmp_path, {}, change, {"value": "0.5"}))
    assert [row["value"] for row in rows] == [0.93, 0.5]
    assert "tbn.csv, line 3: " in problem
    assert said in problem


@pytest.mark.parametrize("content", [b"", b"method,value\ntbn,1\n", b"\xff\xfe"])
def test_a_file_that_is_no_ledger_is_named(tmp_path, content):
    """It costs its own lines only."""
    (_write(tmp_path, {}) / "published" / "bad.csv").write_bytes(content)
    rows, (problem,) = _read(tmp_path)
    assert len(rows) == 1
    assert "bad.csv: " in problem


@pytest.mark.parametrize(
    ("binarizer", "data", "model", "bits", "shown"),
    [
        ("tbn(p=4)", "cifar10", "resnet_cifar(depth=18)", 32, "93"),
        (
            "tbn(gradient='tile', min_layer_size=0, p=4)",
            "cifar10",
            "resnet_cifar(depth=18)",
            32,
            "93",
        ),  # ours alone
        ("tbn(per_layer=[1, 4, 4, 1])", "cifar10", "resnet_cifar(depth=18)", 32, "93"),
        (
            "tbn(p=4)",
            "cifar10(augment=False)",
            "resnet_cifar(classifier='conv1x1', depth=18)",
            32,
            "93",
        ),
        ("tbn(p=8)", "cifar10", "resnet_cifar(depth=18)", 32, None),
        ("tbn(tile_length=64)", "cifar10", "resnet_cifar(depth=18)", 32, None),
        ("tbn(per_layer=[1, 8])", "cifar10", "resnet_cifar(depth=18)", 32, None),
        ("sign", "cifar10", "resnet_cifar(depth=18)", 32, None),
        ("tbn(p=4)", "mnist", "resnet_cifar(depth=18)", 32, None),
        ("tbn(p=4)", "cifar10(size=64)", "resnet_cifar(depth=18)", 32, None),
        ("tbn(p=4)", "cifar10", "resnet_cifar(depth=34)", 32, None),
        ("tbn(p=4)", "cifar10", "resnet_cifar", 32, None),
        ("tbn(p=4)", "cifar10", "resnet_cifar(depth=18, width=16)", 32, None),  # another network
        ("tbn(p=4)", "cifar10", "resnet_cifar(depth=18)", 1, None),
    ],
)
def test_a_line_is_matched_by_what_it_names(tmp_path, binarizer, data, model, bits, shown):
    """Method, p, data set, model and activation bits.

    Options that only we name are ignored unless they are sizes.
    """
    ledger = published.read(_write(tmp_path, {}), [])
    assert published.reported(ledger, binarizer, data, model, bits) == shown


def test_lines_that_name_no_entry_of_ours_match_nothing(tmp_path):
    """A method without our spec, a paper's own network, another metric."""
    ledger = published.read(
        _write(tmp_path, {"spec": ""}, {"model": "VGG-7"}, {"model": ""}, {"metric": "top1_rerun"}),
        [],
    )
    assert len(ledger) == 4
    assert published.reported(ledger, "tbn(p=4)", "cifar10", "resnet_cifar(depth=18)", 32) is None


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([("0.931", "true"), ("0.9324", "false")], "93.1†, 93.24"),
        ([("0.931", "true"), ("0.931", "false")], "93.1"),  # read somewhere as well
        (
            [("0.93", "false"), ("0.90", "false"), ("0.91", "false"), ("0.92", "false")],
            "90 to 93 (4 values)",
        ),
        (
            [("0.93", "true"), ("0.90", "false"), ("0.91", "true"), ("0.92", "false")],
            "90 to 93† (4 values, some †)",
        ),
    ],
)
def test_several_values_are_listed_or_a_range(tmp_path, values, shown):
    ledger = published.read(
        _write(tmp_path, *({"value": v, "second_hand": s} for v, s in values)), []
    )
    assert published.reported(ledger, "tbn(p=4)", "cifar10", "resnet_cifar(depth=18)", 32) == shown
