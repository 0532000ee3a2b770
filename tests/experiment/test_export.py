"""Guards tbn-bench export: each format runs like the trained model, from the file, and a wrong file
is an error.
"""

import dataclasses
import json

import pytest
import torch
from torch import nn

from tbn_bench import catalog, convert
from tbn_bench.config import make
from tbn_bench.convert.binarize import binarize_
from tbn_bench.experiment import export, graphs, nbits, train
from tbn_bench.layers import packed
from tbn_bench.records.store import RunStore


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make(
        {
            "data": "synthetic",
            "model": "resnet_cifar(depth=8)",
            "binarizer": "tbn(p=4, min_layer_size=0)",
            "epochs": 1,
        }
    )
    return train.run(config, train.RunOptions(root, wandb="off"))


@pytest.mark.parametrize("form", export.FORMATS)
def test_each_format_runs_from_its_file(record, tmp_path, form, capsys):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    path = tmp_path / f"net.{form}"
    result = export.export(record, form, path)
    assert path.stat().st_size == result["file_bytes"]
    assert result["payload_bytes"] == record.summary["stored_bytes"]
    assert result["test/top1"] == pytest.approx(record.summary["test/top1"], abs=1e-9)
    assert "dense float32 state" in capsys.readouterr().out


@pytest.mark.parametrize("spec", ["twn", "snn(tau=3)", "irnet", "adabin", "tbn(p=2, min_layer_size=0, copies='hadamard')",
                                  "tbn(p=2, min_layer_size=0, copies='shifted')", "tbn(p=2, min_layer_size=0, copies='columns')",
                                  "low_rank(rank=3, min_layer_size=0)"])  # fmt: skip
def test_every_stored_form_is_decoded_in_the_graph(tmp_path, spec):
    """At any batch size the archive gives the packed network's outputs, and holds no float weight."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.Hardtanh(), nn.Flatten(), nn.Linear(128, 6)
    )
    binarize_(net, spec)
    convert.pack_(net.eval())
    for layer in (net[0], net[3]):
        assert (layer.expanded().numpy() == layer.form.dense(layer.tensors())).all()
    x = torch.randn(5, 4, 4, 4)
    expected = net(x)
    call = graphs.write_pt2(net, x, tmp_path / "net.pt2")
    for n in (1, 5):
        torch.testing.assert_close(call(x[:n]), expected[:n], rtol=1e-5, atol=1e-5)
    held = [*call.parameters(), *call.buffers()]
    assert (
        max(t.numel() for t in held if t.dtype == torch.float32) <= 2048
    )  # the table of the signs of a byte
    assert not any(t.numel() in (288, 768) for t in held)


@pytest.mark.parametrize("spec", ["bwn", "tbn(p=4, min_layer_size=0)", "tbn(p=3, min_layer_size=0)",
                                  "tbn(p=4, min_layer_size=0, copies='columns')", "tbn(p=4, min_layer_size=0, copies='hadamard')"])  # fmt: skip
@pytest.mark.parametrize(("weights", "tolerance"), [("4bit", 1e-5), ("2bit", nbits.TOLERANCE)])
def test_signs_of_linear_layers_as_codes(tmp_path, spec, weights, tolerance):
    """ONNX Runtime's outputs are the packed network's; 2 bits round inputs, never signs."""
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(200, 96), nn.ReLU(), nn.Linear(96, 40))
    binarize_(net, spec)
    convert.pack_(net.eval())
    x = torch.randn(5, 200)
    expected = net(x)
    call = graphs.write_onnx(net, x, tmp_path / "net.onnx", weights=weights)
    for n in (1, 5):
        error = (call(x[:n]) - expected[:n]).abs().max() / expected.abs().max()
        assert error <= tolerance
    assert (tmp_path / "net.onnx").stat().st_size < 200 * 96 * 4 / 2  # no weight as float


def test_ternary_weights_are_no_codes_of_signs(tmp_path):
    net = nn.Sequential(nn.Linear(64, 32))
    binarize_(net, "twn")
    convert.pack_(net.eval())
    with pytest.raises(nbits.NothingToCode, match="this network has none"):
        graphs.write_onnx(net, torch.randn(2, 64), tmp_path / "net.onnx", weights="2bit")


def test_the_packed_file_names_its_network(record, tmp_path):
    export.export(record, "safetensors", tmp_path / "net.safetensors")
    network = export.load(tmp_path / "net.safetensors")
    assert any(isinstance(m, packed.PackedConv2d) for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


def test_a_file_that_computes_something_else_is_removed(record, tmp_path, monkeypatch):
    honest = export.load

    def tampered(path):
        network = honest(path)
        network.fc.tile_bits[0] ^= 255
        return network

    monkeypatch.setattr(export, "load", tampered)
    with pytest.raises(export.ExportError, match="outputs differ"):
        export.export(record, "safetensors", tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


def test_wrong_requests_say_what_is_expected(record, tmp_path):
    with pytest.raises(ValueError, match="safetensors, pt2, onnx"):
        export.export(record, "zip", None)
    with pytest.raises(ValueError, match="must be one of bits, 4bit, 2bit"):
        export.export(record, "onnx", None, weights="1bit")
    with pytest.raises(ValueError, match="2bit is for --format onnx, got pt2"):
        export.export(record, "pt2", None, weights="2bit")
    with pytest.raises(ValueError, match="pt2 and onnx"):
        export.export(record, "safetensors", tmp_path / "net.safetensors", fold_normalisation=True)
    assert RunStore(record.path.parent.parent.parent).find(record.run_id).run_id == record.run_id
    assert torch.is_grad_enabled()


# What a graph says about itself


def metadata_of(path):
    """The metadata of an exported graph, and the graph as a function."""
    if path.suffix == ".pt2":
        extra = {graphs.METADATA: ""}
        program = torch.export.load(str(path), extra_files=extra)
        return json.loads(extra[graphs.METADATA]), program.module()
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def call(x):
        return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    return dict(session.get_modelmeta().custom_metadata_map), call


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_a_graph_says_how_its_input_is_prepared(digits_record, tmp_path, form, folds):
    """From the metadata alone, raw pixels reach the recorded accuracy."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
    path = tmp_path / "new folder" / f"net.{form}"
    export.export(digits_record, form, path, folds)
    said, call = metadata_of(path)
    assert said["tbn_bench.run"] == f"single/{digits_record.run_id}"
    assert said["tbn_bench.normalisation"] == ("in the graph" if folds else "before the graph")
    assert json.loads(said["tbn_bench.input_size"]) == [1, 8, 8]
    assert json.loads(said["tbn_bench.classes"]) == [str(digit) for digit in range(10)]
    data = catalog.build("data", said["tbn_bench.data"])
    data.setup()
    x, y = data.splits["test"]
    pixels = x.float() / 255 if x.dtype == torch.uint8 else x
    if not folds:
        mean, std = (json.loads(said[f"tbn_bench.{name}"])[0] for name in ("mean", "std"))
        pixels = (pixels - mean) / std
    with torch.no_grad():
        top1 = float((call(pixels).argmax(1) == y).float().mean())
    assert top1 == pytest.approx(json.loads(said["tbn_bench.score_value"]), abs=0.002)


@pytest.fixture(scope="module")
def digits_record(tmp_path_factory):
    config = {"data": "digits", "model": "mlp(hidden=[32])", "binarizer": "bwn", "epochs": 3}
    root = tmp_path_factory.mktemp("results")
    return train.run(make(config), train.RunOptions(root, wandb="off"))


# Runs in bfloat16


@pytest.fixture(scope="module")
def bfloat16_record(tmp_path_factory):
    config = {
        "data": "digits",
        "model": "mlp(hidden=[32])",
        "binarizer": "bwn",
        "epochs": 1,
        "precision": "bf16",
    }
    return train.run(
        make(config), train.RunOptions(tmp_path_factory.mktemp("results"), wandb="off")
    )


def test_the_record_of_a_bfloat16_run_holds_what_its_file_gives(bfloat16_record, tmp_path):
    """The test loss to six digits, of which bfloat16 has two, and so every score."""
    path = tmp_path / "net.safetensors"
    result = export.export(bfloat16_record, "safetensors", path)
    data = catalog.build("data", "digits")
    data.setup()
    (x, y), network = data.splits["test"], export.load(path)
    loss = nn.functional.cross_entropy(network(data.prepare(x)), y)
    assert float(loss) == pytest.approx(bfloat16_record.summary["test/loss"], rel=1e-6)
    assert result["test/top1"] == bfloat16_record.summary["test/top1"]


def test_a_score_of_bfloat16_is_named_as_such(bfloat16_record, tmp_path):
    """A record of an early version, whose score was that of autocast."""
    summary = bfloat16_record.summary | {"test/top1": bfloat16_record.summary["test/top1"] + 0.015}
    early = dataclasses.replace(bfloat16_record, summary=summary)
    with pytest.raises(
        export.ExportError, match="trained in bf16; early versions tested such runs in bf16 too"
    ):
        export.export(early, "safetensors", tmp_path / "net.safetensors")


# Every model with every task

DATA = {
    "image_classification": "smoke(of='cifar10')",
    "point_classification": "smoke(of='primitives(points=32)')",
    "part_segmentation": "smoke(of='shapenet_part(points=32)')",
    "semantic_segmentation": "smoke(of='s3dis(points=32)')",
    "forecasting": "smoke(of='etth1(lookback=12, horizon=3, features=\"MS\")')",
    "next_token": "smoke(of='char_text(context=8)')",
}
NETWORKS = {
    "mlp": ("mlp(hidden=[16])", "image_classification", "point_classification", "forecasting"),
    "resnet_cifar": ("resnet_cifar(depth=8, width=4)", "image_classification"),
    "resnet": ("resnet(width=4)", "image_classification"),
    "vgg_small": ("vgg_small(width=4)", "image_classification"),
    "micro_cnn": ("micro_cnn(channels=[4, 8])", "image_classification"),
    "vit": ("vit(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=16)", "image_classification"),
    "swin": (
        "swin(hidden=8, layers=[2, 2], heads=[1, 2], head_dim=8, downscale=[2, 2])",
        "image_classification",
    ),
    "mlp_mixer": ("mlp_mixer(dim=16, depth=1, token_dim=8, channel_dim=8)", "image_classification"),
    "conv_mixer": ("conv_mixer(dim=8, depth=1, kernel=4, patch=2)", "image_classification"),
    "from_timm": ("from_timm(name='test_vit')", "image_classification"),
    "airbench": ("airbench(widths=[8, 8, 8])", "image_classification"),
    "pointnet_cls": ("pointnet_cls", "point_classification"),
    "pointnet_part_seg": ("pointnet_part_seg", "part_segmentation"),
    "pointnet_sem_seg": ("pointnet_sem_seg", "semantic_segmentation"),
    "ts_transformer": ("ts_transformer(dim=8, mlp_dim=16)", "forecasting"),
    "gpt": ("gpt(dim=16, depth=1, heads=2)", "next_token"),
}
PAIRS = [(name, task) for name, (_, *tasks) in NETWORKS.items() for task in tasks]


def test_every_model_and_task_is_exported():
    """A new model or task enters these tests, or this fails."""
    assert set(NETWORKS) == set(catalog.names("models"))
    assert {task for _, task in PAIRS} == set(catalog.names("tasks"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(model, task) -> the record of a run of one epoch, made once."""
    root, made = tmp_path_factory.mktemp("results"), {}

    def run(name, task):
        if (name, task) not in made:
            config = {
                "data": DATA[task],
                "task": task,
                "model": NETWORKS[name][0],
                "epochs": 1,
                "batch_size": 8,
            }
            made[name, task] = train.run(
                make(config | {"binarizer": "bwn"}), train.RunOptions(root, wandb="off")
            )
        return made[name, task]

    return run


@pytest.mark.parametrize(
    "form", ["safetensors", "pt2", pytest.param("onnx", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_every_network_is_exported_and_read_back(trained, tmp_path, name, task, form):
    """export itself runs the file: outputs and test score are those of the trained model.

    Nothing else is left beside it.
    """
    if form == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    result = export.export(trained(name, task), form, tmp_path / f"net.{form}")
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{form}"]
    assert result["relative_error"] <= export.TOLERANCE


def test_an_older_file_stays_where_an_export_fails(record, tmp_path, monkeypatch):
    """Half an export must not replace a good file, and none is left where there was none."""
    (tmp_path / "net.pt2").write_text("older")
    monkeypatch.setattr(
        torch.export, "save", lambda *args, **kw: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        export.export(record, "pt2", tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert (tmp_path / "net.pt2").read_text() == "older"
