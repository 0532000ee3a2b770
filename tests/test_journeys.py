"""Journeys of people who have installed the wheel, each in an empty folder."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import yaml
from generated_runs import finished_run
from installed import ROOT, Installed, asked_by, installed, kept, last_line, lines, with_theirs
from PIL import Image
from plugin_files import METHOD, REPORT
from safetensors.torch import save_file

from tbn_bench.native import library
from tbn_bench.records.store import RunStore

OF_TRAINING = ("sweep", "report")
SWEEP = {
    "name": "compare",
    "method": "grid",
    "plugins": ["my_methods.py"],
    "parameters": {
        "data": {"value": "digits"},
        "model": {"value": "mlp(hidden=[16])"},
        "epochs": {"value": 1},
        "binarizer": {"values": ["bwn", "half_scaled"]},
    },
}
IN_ONE_PROCESS = """
from tbn_bench import cli

for command in {commands!r}:
    assert cli.main(command) == 0, command
"""


@pytest.fixture(scope="session")
def wheel(request) -> Path:
    return kept(request.config.cache.mkdir("wheel"))


@pytest.fixture(scope="session")
def environment(wheel, tmp_path_factory) -> Installed:
    """With the extras sweep and report, and the library that this environment has compiled."""
    names = with_theirs(wheel, asked_by(wheel, ["", *OF_TRAINING]))
    made = installed(wheel, tmp_path_factory.mktemp("installed"), names)
    (package,) = made.environment.glob("lib/*/site-packages/tbn_bench")
    shutil.copy(library.library_path(), package / "native")
    return made


@pytest.fixture
def here(environment, tmp_path) -> Installed:
    """The environment, in a folder of this test's own."""
    return Installed(environment.environment, tmp_path)


def commands(here: Installed, *words: list[str]) -> list[dict]:
    """What commands end with, in one process: torch is imported once."""
    return lines(here.run("python", "-c", IN_ONE_PROCESS.format(commands=words)))


def test_a_method_outside_the_repository_is_compared_and_reported(here):
    """The sweep's runs name the plugin and its hash; table and figure have the method."""
    path = here.folder / "my_methods.py"
    path.write_text(METHOD)
    (here.folder / "compare.yaml").write_text(yaml.safe_dump(SWEEP))
    listed, swept, verified, _ = commands(
        here,
        ["list", "--plugin=my_methods.py"],
        ["sweep", "compare.yaml"],
        ["runs", "verify"],
        ["report"],
    )
    assert "half_scaled" in listed["binarizers"]
    assert (swept["finished"], verified["failed"]) == (2, 0)
    records = [json.loads(p.read_text()) for p in here.folder.glob("results/runs/*/*/run.json")]
    named = {r["config"]["binarizer"]: r["provenance"]["plugins"] for r in records}
    assert named["bwn"] == []
    assert [plugin["name"] for plugin in named["half_scaled"]] == ["my_methods.py"]
    for file in ("tables/comparison.md", "figures/accuracy_bits.json"):
        assert "half_scaled" in (here.folder / "reports" / file).read_text()
    path.write_text(METHOD.replace("mean()", "median()"))
    (again,) = lines(here.run("tbn-bench", "sweep", "compare.yaml"))
    assert len(again["stale"]) == 1


def test_a_network_in_its_own_loop_with_irnet(here):
    """examples/own_training_loop.py, outside of the repository."""
    script = shutil.copy(ROOT / "examples" / "own_training_loop.py", here.folder)
    done = here.run("python", str(script), "--epochs=2", "--binarizer=irnet")
    before, packed = (word for word in last_line(done).split() if word.endswith("%,"))
    assert before == packed
    assert float(packed.removesuffix("%,")) > 60
    assert done.stderr == ""
    assert (here.folder / "digits.safetensors").stat().st_size < 30_000


def photos(folder: Path, mode: str = "L") -> None:
    """60 images of two classes, dark and bright."""
    for number in range(60):
        kind, grey = (("dark", 20), ("bright", 200))[number % 2]
        file = folder / kind / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 10), grey + number).convert(mode).save(file)


@pytest.mark.slow
def test_a_folder_of_images(here):
    """Trained, reported and exported by its path alone."""
    photos(here.folder / "photos")
    data = "image_folder(path='photos', size=8, workers=0)"
    model = "resnet_cifar(depth=8, width=4)"
    how = ["--epochs=6", "--batch_size=8", "--binarizer=bwn"]
    run, _ = commands(here, ["train", f"--data={data}", f"--model={model}", *how], ["report"])
    assert run["test/top1"] > 0.9
    assert "image_folder" in (here.folder / "reports" / "tables" / "comparison.md").read_text()
    file = here.folder / "net.safetensors"
    commands(here, ["export", f"single/{run['run_id']}", f"--out={file}"])
    assert file.stat().st_size < 10_000


FLOAT = """
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from tbn_bench import catalog

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images).float() / 16, torch.tensor(labels)
model = catalog.build("models", "mlp(hidden=[64])", num_classes=10, in_shape=(1, 8, 8))
optimizer = torch.optim.Adam(model.parameters(), 0.01)
for _ in range(100):
    loss = torch.nn.functional.cross_entropy(model(x.view(-1, 1, 8, 8)), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
save_file(model.state_dict(), "float.safetensors")
"""


@pytest.mark.slow
def test_fine_tuning(here):
    """A binary network that starts from a float network's file is better after one epoch."""
    script = here.folder / "float.py"
    script.write_text(FLOAT)
    assert here.run("python", str(script)).returncode == 0
    train = ["train", "--model=mlp(hidden=[64])", "--binarizer=bwn", "--epochs=1", "--lr=0.0001"]
    tuned, fresh = commands(here, [*train, "--init=float.safetensors"], train)
    assert tuned["test/top1"] > fresh["test/top1"] + 0.2


LOADED = """
import timm, tbn_bench as tb
from pathlib import Path
from PIL import Image

(file,) = Path("results").glob("runs/*/*/network.safetensors")
network = tb.load(tb.catalog.build("models", "from_timm(name='test_resnet')", num_classes=2), file)
prepare = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
images = [Image.open(path) for path in ("photos/bright/1.png", "photos/dark/2.png")]
print([network.eval()(prepare(image)[None]).argmax().item() for image in images])
"""


@pytest.mark.slow
def test_a_pretrained_network_of_timm(here):
    """From a file: fine-tuned, packed, reported; loaded, it reads images as timm prepares them."""
    photos(here.folder / "photos", "RGB")
    float_network = timm.create_model("test_resnet")
    save_file(float_network.state_dict(), here.folder / "float.safetensors")
    model = "from_timm(name='test_resnet', pretrained='float.safetensors')"
    data = "image_folder(path='photos', timm='test_resnet', workers=0)"
    how = ["--epochs=4", "--batch_size=4", "--lr=0.02", "--binarizer=bwn"]
    words = [["train", f"--model={model}", f"--data={data}", *how], ["report"]]
    done = here.run("python", "-c", IN_ONE_PROCESS.format(commands=words) + LOADED)
    assert last_line(done) == "[0, 1]"
    run, _ = lines(done)
    assert run["test/top1"] > 0.9
    assert run["file_bytes"] < 0.2 * (here.folder / "float.safetensors").stat().st_size
    assert "timm test_resnet" in (here.folder / "reports" / "tables" / "comparison.md").read_text()


def test_a_report_on_a_machine_without_torch(wheel, tmp_path):
    """With the extra `report`, and torch left out: records to a page, and a list of runs."""
    wanted = [one for one in asked_by(wheel, ["report"]) if one.name != "torch"]
    here = installed(wheel, tmp_path, with_theirs(wheel, wanted))
    run_id = finished_run(RunStore(here.folder / "results"), 0.8, 0.9)
    (here.folder / "my_report.py").write_text(REPORT)
    report = ["report", "--plugin=my_report.py"]
    listed = commands(here, report, ["report", "--paper"], ["runs", "list"], ["list", "data"])
    assert "tbn(p=4)" in (here.folder / "reports" / "tables" / "fastest.md").read_text()
    assert (here.folder / "reports" / "index.html").stat().st_size > 10_000
    assert listed[1]["cells"] > 0
    shown = here.run("tbn-bench", "runs", "show", run_id)
    assert run_id in shown.stdout
    refused = here.run("tbn-bench", "plan")
    assert refused.stderr == "tbn-bench plan needs torch: pip install torch\n"
