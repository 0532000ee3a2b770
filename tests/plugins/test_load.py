"""Files of the user's own: what is loaded from them, and which mistakes are said at once."""

import os
from types import SimpleNamespace

import pytest

from tbn_bench import catalog, extend, fingerprint
from tbn_bench.catalog import plugged
from tbn_bench.config import make
from tbn_bench.experiment import build
from tbn_bench.plugins import carry
from tbn_bench.plugins.load import load
from tbn_bench.plugins.shelves import snake_case
from tbn_bench.records.store import RunStore
from tbn_bench.sweep import estimate, spec
from tbn_bench.sweep.execution import ExecutionOptions

SHELF_FILES = '''
import torch
from torch import nn
from tbn_bench.extend import ImageClassification, ImageDataModule, Parameters, RunConfig


class MyNet(nn.Module):
    def __init__(self, num_classes: int, in_shape: tuple, width: int = 8):
        super().__init__()


def small_net(num_classes, in_shape, width: int = 8):
    return nn.Linear(width, num_classes)


def plain(parameters: Parameters, config: RunConfig):
    return torch.optim.SGD(parameters.all, config.lr)


class Stripes(ImageDataModule):
    num_classes = 2
    in_shape = (1, 4, 4)
    mean = (0.5,)
    std = (0.5,)
    val_size = 4

    def read(self):
        x = torch.zeros(8, 1, 4, 4)
        return (x, torch.arange(8) % 2), (x, torch.arange(8) % 2)


class Again(ImageClassification):
    """The same task under another name."""


class _Block(nn.Module):
    pass


class Helper:
    pass
'''


def test_a_method_of_a_file_is_an_entry(write, good):
    """It has the snake-case name of its class, is built, and its source is the fingerprint's."""
    path = write()
    (plugin,) = load([path])
    assert "half_scaled" in catalog.names("binarizers")
    assert type(catalog.build("binarizers", "half_scaled")).__name__ == "HalfScaled"
    assert catalog.source("binarizers", "half_scaled") == path
    before = fingerprint.of(make({"binarizer": "half_scaled"}))
    write(good + "\n# a comment")
    assert fingerprint.of(make({"binarizer": "half_scaled"})) == before
    assert load([path])[0].hash != plugin.hash
    write(good.replace("mean()", "median()"))
    now = fingerprint.of(make({"binarizer": "half_scaled"}))
    assert [part for part in now if now[part] != before[part]] == ["binarizer"]


def test_a_dry_run_prints_commands_with_their_plugin(write, tmp_path, capsys):
    """Copied from the screen, a command finds its method."""
    path = write()
    load([path])
    text = "method: grid\nparameters:\n  binarizer: {values: [bwn, half_scaled]}\n"
    sweep = tmp_path / "s.yaml"
    sweep.write_text(f"{text}  data: {{value: synthetic}}\n", encoding="utf-8")
    estimate.dry_run(spec.load(sweep), RunStore(tmp_path / "results"), ExecutionOptions())
    own, bwn = sorted(capsys.readouterr().out.splitlines()[:2], key=lambda line: "bwn" in line)
    assert own.endswith(f" --plugin={path.name}")
    assert "--plugin" not in bwn


def test_every_shelf_is_known_by_its_kind(write):
    """Networks, optimizers, data sets and tasks of one file; helpers are none."""
    (plugin,) = load([write(SHELF_FILES)])
    assert sorted(plugged.of(plugin)) == [
        ("data", "stripes"),
        ("models", "my_net"),
        ("models", "small_net"),
        ("optimizers", "plain"),
        ("tasks", "again"),
    ]


def test_a_folder_has_a_file_per_entry(write, good):
    """As in this package: the entry is the callable of the file's name."""
    write(good.replace("class HalfScaled(", "class Half_Scale("), "mine/binarizers/half_scale.py")
    folder = write(SHELF_FILES.replace("MyNet", "Own"), "mine/models/own.py").parents[1]
    (plugin,) = load([folder])
    assert sorted(plugged.of(plugin)) == [("binarizers", "half_scale"), ("models", "own")]


def test_a_file_may_name_its_entries(write, good):
    load([write(good + '\nENTRIES = {"binarizers": ["HalfScaled"]}')])
    assert "half_scaled" in catalog.names("binarizers")
    with pytest.raises(ValueError, match="'HalfScale', which it lacks, did you mean 'HalfScaled'"):
        load([write(good + '\nENTRIES = {"binarizers": ["HalfScale"]}', "other.py")])


MISTAKES = {
    "no base": (
        ("class HalfScaled(Binarizer)", "class HalfScaled"),
        "HalfScaled has layer(), but is no Binarizer: write HalfScaled(Binarizer)",
    ),
    "missing method": (("def layer", "def layers"), "expected layer(target) -> Decision"),
    "missing signs": (("def signs", "def sign"), "signs must be written"),
    "wrong return": (
        ('Decision(HalfScaledWeight(), "binary, one scale")', "HalfScaledWeight()"),
        "layer() must return Decision(parametrization or None, reason), got HalfScaledWeight",
    ),
    "wrong parametrization": (
        ("Decision(HalfScaledWeight(),", "Decision(0.5,"),
        "parametrization must be a WeightBinarizer or None, got float",
    ),
    "wrong shape": (
        ("return self.scales(weight) * clip_ste(weight)", "return self.scales(weight)"),
        "forward(weight) must have shape (12, 18), got (1,)",
    ),
    "wrong number of scales": (
        ("return 1", "return 2"),
        "num_scales(weight) is 2, but scales(weight) has shape (1,)",
    ),
    "scales are no number": (
        ("return 1", "return 1.0"),
        "num_scales(weight) must return an int, got float",
    ),
    "other signs": (("clip_ste(weight).reshape", "-clip_ste(weight).reshape"), "disagrees with"),
    "syntax": (("def signs", "def signs signs"), "my_methods.py:9: SyntaxError"),
    "import": (("import Binarizer", "import Binarizers"), "import from tbn_bench.extend"),
    "taken name": (("HalfScaled(Binarizer)", "BWN(Binarizer)"), "an entry of tbn_bench already"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_when_the_file_is_loaded(write, good, mistake):
    """Each error names the file and what to do; nothing of the file is on a shelf."""
    (old, new), said = MISTAKES[mistake]
    assert old in good
    path = write(good.replace(old, new))
    with pytest.raises(ValueError) as caught:
        load([path])
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert plugged.PLUGINS == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    def read(self)", "    def reads(self)", "expected the method read, got none"),
        ("width: int = 8):\n        super", "width: int):\n        super", "got width without a"),
        ("config: RunConfig)", "config: RunConfig, rate)", "got rate without a default"),
        ("class Again(ImageClassification)", "class Again(Helper)", None),
    ],
)
def test_mistakes_on_other_shelves(write, old, new, said):
    """What a data set, a network and an optimizer need."""
    assert old in SHELF_FILES
    source = SHELF_FILES.replace("class Helper:\n    pass\n", "")
    path = write("class Helper:\n    pass\n" + source.replace(old, new))
    if said is None:
        load([path])
        return
    with pytest.raises(ValueError, match=said):
        load([path])


@pytest.mark.parametrize(("name", "got"), [("no.py", "nothing there"), (".", "without them")])
def test_a_path_that_is_no_plugin(tmp_path, name, got):
    with pytest.raises(ValueError, match=f"expected a Python file, or a folder .*{got}"):
        load([tmp_path / name])


def test_processes_started_from_here_have_the_same_plugins(write, monkeypatch):
    """Their paths are in the environment; a plugin that is loaded twice is loaded once."""
    path = write()
    load([path, path.name], folder=path.parent)
    assert os.environ[plugged.VARIABLE] == str(path)
    assert [plugin.path for plugin in load([])] == [path]


def test_a_worker_elsewhere_gets_the_files(write):
    """From its text where the path holds something else, as on another machine."""
    path = write()
    (plugin,) = load([path])
    packed = carry.packed()
    plugged.remove(plugin)
    os.environ[plugged.VARIABLE] = ""
    path.unlink()
    carry.unpack(packed)
    assert [other.hash for other in plugged.PLUGINS] == [plugin.hash]
    assert catalog.source("binarizers", "half_scaled") != path


def test_an_installed_package_is_found_by_its_entry_points(monkeypatch):
    """The group of a shelf names its entries; none is imported before it is used."""
    point = SimpleNamespace(
        name="of_a_package",
        module="tbn_bench.binarizers.bwn",
        value="tbn_bench.binarizers.bwn:BWN",
        dist=SimpleNamespace(name="their-package", version="1.2"),
        load=lambda: catalog.load("binarizers", "bwn"),
    )
    monkeypatch.setattr(
        plugged, "_installed", lambda s: {point.name: point} if s == "binarizers" else {}
    )
    assert "of_a_package" in catalog.names("binarizers")
    assert type(catalog.build("binarizers", "of_a_package(grad='paper')")).__name__ == "BWN"
    assert plugged.origin("binarizers", "of_a_package") == "their-package"
    config = make({"binarizer": "of_a_package"})
    assert "binarizer" in fingerprint.of(config)
    assert config.packages == [{"name": "their-package", "version": "1.2"}]
    assert make({"binarizer": "bwn"}).packages == config.plugins == []


@pytest.mark.parametrize(
    ("name", "entry"),
    [("MyMethod", "my_method"), ("HalfBWN", "half_bwn"), ("TBN2", "tbn2"), ("ResNet", "res_net")],
)
def test_names(name, entry):
    assert snake_case(name) == entry


def test_every_name_of_extend_is_there():
    """The stable place: each name loads, and nothing else is promised."""
    assert all(getattr(extend, name) is not None for name in extend.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = extend.Nothing


def test_an_optimizer_of_a_plugin(write):
    """It is built with the plugin. Without it its records are read, and a run is refused."""
    config = make({"optimizer": "plain", "model": "mlp(hidden=[8])"})
    with pytest.raises(ValueError, match="unknown name 'plain' in optimizers"):
        build.check(config)
    load([write(SHELF_FILES)])
    build.check(config)
