"""Guards the LaTeX of tables: floats that a paper can take, and that they compile."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tbn_bench.reporting import build, load, tables, tex, write
from tbn_bench.reporting.latex import latex
from tbn_bench.reporting.table import Column, Table, column, text_column

ROOT = Path(__file__).parents[2]
HEAD = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs,siunitx}
\begin{document}
"""
FLOAT = re.compile(r"\\begin\{table\}.*?\\end\{table\}", re.S)


@pytest.fixture(scope="module")
def built():
    """Name -> table, of all that the committed records have."""
    records = load.load(ROOT / "results")
    found = {}
    for name, module in build.entries(tables):
        table = getattr(module, name)(records)
        if table is not None:
            found[name] = table
    return found


def _table(rows, *columns, **more):
    return Table("A table", [text_column("method", "method"), *columns], rows, **more)


def _rows(text):
    """The rows of the first tabular, as lists of cells, its head first."""
    lines = [line for line in text.splitlines() if " & " in line]
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_a_float_has_caption_label_and_siunitx_columns():
    """Numbers are aligned by their point; what is no number is in braces."""
    rows = [{"method": "TBN-4", "a": 93.5}, {"method": "BWN", "a": None}]
    text = latex(_table(rows, column("a", "top-1 %", ".1f")))
    assert r"\caption{A table}" in text
    assert r"\label{tab:a-table}" in text
    assert r"\begin{tabular}{@{}lS[table-format=2.1]@{}}" in text
    assert _rows(text) == [["{method}", r"{top-1 \%}"], ["TBN-4", "93.5"], ["BWN", "{---}"]]


def test_a_further_float_has_a_number_for_a_wide_label_that_rows_need():
    rows = [{"method": f"TBN-{p}", "settings": f"lr=0.{p}, " * 9, "a": p} for p in (4, 8)]
    columns = [text_column("settings", "settings")]
    columns += [Column("a", f"number {k}", lambda row: str(row["a"])) for k in range(9)]
    text = latex(_table(rows, *columns))
    assert (text.count("{settings}"), text.count("{no.}")) == (1, 0)
    rows[1]["method"] = "TBN-4"
    text = latex(_table(rows, *columns))
    assert text.count("{settings}") == 1
    assert text.count("{no.}") == text.count(r"\begin{table}")


def test_every_part_has_the_keys_that_tell_its_rows_apart():
    """TBN-4 against BWN and against FP32 are two rows in every part."""
    rows = [{"method": "TBN-4", "batch": n, **{f"c{i}": n + i for i in range(9)}} for n in (1, 64)]
    columns = [column(f"c{i}", f"c{i}", "d") for i in range(9)]
    text = latex(_table(rows, *columns, column("batch", "batch", "d")))
    heads = [_rows(part)[0] for part in FLOAT.findall(text)]
    assert len(heads) == 2
    assert all({"{method}", "{batch}"} <= set(head) for head in heads)


def test_what_is_the_same_in_all_rows_is_in_the_note():
    rows = [{"method": f"TBN-{p}", "a": p, "n": 3} for p in (4, 8)]
    text = latex(_table(rows, column("a", "a", "d"), column("n", "seeds", "d")))
    assert _rows(text)[0] == ["{method}", "{a}"]
    assert "In all rows, seeds: 3." in text


@pytest.mark.parametrize(
    ("cell", "spec", "shown"),
    [
        ("93.00 ± 2.48", "S[table-format=2.2(3)]", r"93.00 \pm 2.48"),
        ("1,234", "S[table-format=4]", "1234"),
        ("\u22120.5", "S[table-format=-1.1]", "-0.5"),
        ("1 to 3", "r", "1 to 3"),
        (
            "93.1† [2]",
            r"S[table-format=2.1, table-space-text-post={\,$^\dagger$ {[}2]}]",
            r"93.1{\,$^\dagger$ {[}2]}",
        ),
    ],
)
def test_numbers_are_as_siunitx_reads_them(cell, spec, shown):
    kind = tex.kind_of("head", [cell], numeric=True)
    assert (kind.spec, kind.cell(cell)) == (spec, shown)


def test_a_part_is_a_float_of_its_own():
    """With the part's title in the caption and its note below."""
    rows = [{"method": "TBN-4", "a": 1}]
    part = Table("CIFAR-10, ResNet-18", [text_column("method", "method")], rows, "A note.")
    text = latex(_table(rows, parts=(part, part)))
    assert text.count(r"\begin{table}") == 2
    assert text.count(r"\caption{A table: CIFAR-10, ResNet-18}") == 2
    assert len(set(re.findall(r"\\label\{[^}]+\}", text))) == 2
    assert text.count("A note.") == 2


def test_data_sets_and_networks_are_split_by_display_name():
    """A table without parts has one float per data set and network."""
    rows = [
        {"data": "cifar10", "model": "vit", "method": "BWN", "a": 1},
        {"data": "digits", "model": "vit", "method": "BWN", "a": 2},
    ]
    columns = [text_column("data", "data"), text_column("model", "model"), column("a", "a", "d")]
    text = latex(Table("T", [*columns, text_column("method", "method")], rows))
    assert re.findall(r"\\caption\{(.+)\}", text) == ["T: CIFAR-10, ViT", "T: Digits, ViT"]


def test_a_wide_table_goes_on_in_a_further_float():
    """With the method again, at most seven columns each, about as many in each."""
    rows = [{"method": "TBN-4", **{f"c{i}": i for i in range(9)}}]
    text = latex(_table(rows, *(column(f"c{i}", f"c{i}", "d") for i in range(9))))
    first, second = FLOAT.findall(text)
    assert _rows(first)[0] == ["{method}", *(f"{{c{i}}}" for i in range(5))]
    assert _rows(second)[0] == ["{method}", *(f"{{c{i}}}" for i in range(5, 9))]
    assert "(1 of 2)" in first
    assert "(2 of 2)" in second


def test_a_float_lists_the_sources_that_it_cites():
    rows = [{"method": "TBN-4", "a": "93.1 [2]"}]
    text = latex(_table(rows, column("a", "a"), sources=["A", "https://b.example"]))
    assert "{[}2] https://b.example" in text
    assert "{[}1]" not in text


def test_best_and_second_keep_their_marks():
    rows = [{"a": "93.1", "kind": "best"}, {"a": "92.0", "kind": "second"}, {"a": "9.0"}]
    marked = Column("a", "a", lambda row: row["a"], mark="kind")
    text = latex(Table("T", [marked], rows))
    assert r"{\textbf{93.1}}" in text
    assert r"{\underline{92.0}}" in text


def test_a_table_of_data_is_not_typeset():
    """2,000 timings are for the CSV; the file says so."""
    text = latex(_table([{"method": "TBN-4"}] * 501))
    assert text == "% A table: 501 rows are not typeset; the CSV file beside this one has them.\n"


def test_every_table_is_well_formed_without_a_compiler(built):
    """Braces close, rows have as many cells as their head, at most seven, and nothing is scaled."""
    for name, table in built.items():
        text = "\n".join(latex(table).splitlines()[1:])  # the first line is a comment
        bare = re.sub(r"\\[{}\\&%$#_]", "", text)
        assert bare.count("{") == bare.count("}"), name
        assert text.isascii(), name
        assert "resizebox" not in text, name
        for found in FLOAT.findall(text):
            widths = {len(row) for row in _rows(found)}
            assert len(widths) <= 1, (name, found)
            assert max(widths, default=1) <= 7, (name, found)
        labels = re.findall(r"\\label\{[^}]+\}", text)
        assert len(labels) == len(set(labels)), name


def test_every_csv_has_numbers_without_marks(built):
    """No dagger, citation or interval in a column of numbers; no column twice."""
    for name, table in built.items():
        head, *rows = csv.reader(write.comma_separated(table).splitlines())
        assert len(head) == len(set(head)), name
        for column_name, cells in zip(head, zip(*rows, strict=True), strict=True):
            is_number = re.search("percent|points|_bits|bytes|_ms|_mib|_mbit|error$", column_name)
            if is_number and not column_name.endswith("_source"):
                numbers = {cell for cell in cells if cell != "—"}
                assert all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell) for cell in numbers), (
                    name,
                    column_name,
                )


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="no pdflatex on PATH: the tables are not compiled here"
)
def test_all_tables_compile(built, tmp_path):
    """With booktabs and siunitx alone; none is wider than the line or higher than the page."""
    for name, table in built.items():
        (tmp_path / f"{name}.tex").write_text(latex(table))
    names = sorted(tmp_path.glob("*.tex"))
    inputs = "".join(rf"\input{{{path.name}}}\clearpage" + "\n" for path in names)
    (tmp_path / "all.tex").write_text(f"{HEAD}{inputs}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:]
    for fault in ("Overfull \\hbox", "Float too large", "multiply"):
        assert fault not in done.stdout
