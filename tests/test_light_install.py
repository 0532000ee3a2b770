"""What works without the extras of the package, and what the other commands say then."""

from pathlib import Path

import numpy as np
import pytest
import without
from generated_runs import finished_run

from tbn_bench import cli
from tbn_bench.format import packed_file
from tbn_bench.install import extras
from tbn_bench.records.store import RunStore

GOLDEN = Path(__file__).parent / "format" / "golden"
OF_EXTRAS = {package for packages in extras.EXTRAS.values() for package in packages}
NO_TORCH = {"torch", *OF_EXTRAS} - {*extras.REPORT, "PIL"}  # matplotlib needs Pillow

CORE = """
import torch
import tbn_bench as tb
from tbn_bench import cli

assert cli.main(["plan", "--data=imagenet", "--model=resnet(depth=18)", "--binarizer=sparks"]) == 0
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
plan = tb.binarize_(model, "tbn(p=4, min_layer_size=0)")
assert [row.p for row in plan.rows] == [4, 4]
x = torch.randn(3, 64)
expected = model(x)
tb.pack_(model)
assert torch.allclose(tb.Executor(model, x)(x), expected, atol=1e-5)
tb.save(model, "net.safetensors")
fresh = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
assert torch.allclose(tb.load(fresh, "net.safetensors")(x), expected, atol=1e-5)
print(sorted(HIDDEN & set(sys.modules)))
"""


def said(done) -> str:
    """The last line of a process that ended well."""
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_the_core_works_without_any_extra(tmp_path):
    """plan, binarize_, pack_, save, load and Executor need the dependencies of the package alone."""
    assert said(without.python(OF_EXTRAS, CORE, tmp_path)) == "[]"


def test_packed_files_are_read_with_numpy_alone(tmp_path):
    """The reader imports numpy and the standard library: no torch, no pydantic, no safetensors."""
    file = GOLDEN / "shifted_v3.safetensors"
    code = f"""
from pathlib import Path
from tbn_bench.format import packed_file

dense = packed_file.read(Path({str(file)!r})).dense()
print({{name: [list(w.shape), float(abs(w).sum())] for name, w in dense.items()}})
others = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(others - set(sys.stdlib_module_names) - {{"tbn_bench", "__main__", "__mp_main__"}}))
"""
    done = without.python({*extras.CORE, *OF_EXTRAS} - {"numpy"}, code, tmp_path)
    loaded = said(done)
    assert "numpy" in loaded
    foreign = [name for name in (*extras.CORE, *OF_EXTRAS) if f"'{name}'" in loaded]
    assert foreign == ["numpy"]
    dense = packed_file.read(file).dense()
    found = {name: [list(w.shape), float(np.abs(w).sum())] for name, w in dense.items()}
    assert done.stdout.splitlines()[-2] == str(found)


def lines_of(commands: list[list[str]], hidden: set[str], folder: Path) -> list[str]:
    """What each command writes to stderr without the hidden packages; each must end with 1."""
    code = f"""
from tbn_bench import cli

for command in {commands!r}:
    assert cli.main(command) == 1, command
"""
    done = without.python(hidden, code, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr.splitlines()


def test_a_command_without_its_extra_names_it(tmp_path):
    """One line each, with the packages of the core and torch installed."""
    (tmp_path / "s.yaml").write_text("method: grid\nparameters: {seed: {values: [0, 1]}}\n")
    finished_run(RunStore(tmp_path / "results"), 0.8, 0.9)
    commands = [["train", "--data=digits"], ["sweep", "s.yaml", "--dry-run"], ["report"]]
    train, sweep, report = lines_of(commands, OF_EXTRAS, tmp_path)
    assert train == 'tbn-bench train needs pytorch_lightning: pip install "tbn-bench[train]"'
    assert sweep == 'tbn-bench sweep needs rich: pip install "tbn-bench[sweep]"'
    assert report.startswith("tbn-bench report needs ")
    assert report.endswith(': pip install "tbn-bench[report]"')


def test_a_command_without_torch_says_so(tmp_path):
    """In an install for reports, the other commands name what one installation repairs."""
    plan, train = lines_of([["plan"], ["train"]], NO_TORCH, tmp_path)
    assert plan == "tbn-bench plan needs torch: pip install torch"
    assert train == 'tbn-bench train needs torch: pip install "tbn-bench[train]"'


def test_the_program_starts_where_numpy_is_alone(tmp_path):
    """With the packages of the numpy reader, one line names all others of the core but torch."""
    code = """
from tbn_bench.cli import main

print(main(["plan"]))
"""
    done = without.python({*extras.CORE, *OF_EXTRAS} - {"numpy"}, code, tmp_path)
    assert said(done) == "1"
    assert done.stderr == "tbn-bench needs pydantic: pip install pydantic PyYAML filelock\n"


@pytest.mark.parametrize(
    ("module", "own", "line"),
    [
        ("pandas", "report", 'x needs pandas: pip install "tbn-bench[report]"'),
        ("scipy.stats", "report", 'x needs scipy: pip install "tbn-bench[report]"'),
        ("scipy.stats", "", 'x needs scipy: pip install "tbn-bench[train]"'),
        ("rich.live", "train", 'x needs rich: pip install "tbn-bench[sweep]"'),
        ("ray", "sweep", 'x needs ray: pip install "tbn-bench[ray]"'),
        ("torch", "", "x needs torch: pip install torch"),
        ("torch", "report", "x needs torch: pip install torch"),
        ("torch", "sweep", 'x needs torch: pip install "tbn-bench[sweep]"'),
        ("yaml", "", "x needs yaml: pip install PyYAML"),
        ("no_such_module", "train", None),
        (None, "train", None),
    ],
)
def test_the_line_names_the_extra_of_the_command_first(module, own, line):
    error = ModuleNotFoundError("No module", name=module)
    assert extras.install_line(error, "x", own) == line


def test_an_unknown_missing_module_is_not_hidden(monkeypatch):
    """It is a fault of the program or of a plugin, and keeps its traceback."""
    error = ModuleNotFoundError("No module named 'mine'", name="mine")
    monkeypatch.setattr("tbn_bench.runs.list.run", lambda *_, **__: raised(error))
    with pytest.raises(ModuleNotFoundError, match="mine"):
        cli.main(["runs", "--results", str(GOLDEN)])


def raised(error: Exception) -> None:
    raise error


def test_the_face_names_the_extra(tmp_path):
    """tbn_bench.train without Lightning is no bare ImportError."""
    code = """
import tbn_bench

try:
    tbn_bench.train
except ModuleNotFoundError as error:
    print(error)
"""
    line = said(without.python(OF_EXTRAS, code, tmp_path))
    assert line.startswith("tbn_bench.train needs ")
    assert line.endswith(': pip install "tbn-bench[train]"')
