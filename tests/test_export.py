"""Guards tbn-bench export: each format runs like the trained model, from the file, and a wrong file is an error."""

import pytest
import torch
from torch import nn

from tbn_bench import export, packed, train
from tbn_bench.config import make
from tbn_bench.convert import binarize_
from tbn_bench.records import RunStore


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    config = make({"data": "synthetic", "model": "resnet_cifar(depth=8)", "binarizer": "tbn(p=4, min_layer_size=0)", "epochs": 1})
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
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Hardtanh(), nn.Flatten(), nn.Linear(128, 6))
    binarize_(net, spec)
    packed.pack_(net.eval())
    for layer in (net[0], net[3]):
        assert (layer.expanded().numpy() == layer.form.dense(layer.tensors())).all()
    x = torch.randn(5, 4, 4, 4)
    expected = net(x)
    call = export._write_pt2(net, x, tmp_path / "net.pt2")
    for n in (1, 5):
        torch.testing.assert_close(call(x[:n]), expected[:n], rtol=1e-5, atol=1e-5)
    held = [*call.parameters(), *call.buffers()]
    assert max(t.numel() for t in held if t.dtype == torch.float32) <= 2048  # the table of the signs of a byte
    assert not any(t.numel() in (288, 768) for t in held)


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
    with pytest.raises(ValueError, match="does not exist"):
        export.export(record, "safetensors", tmp_path / "no" / "net.safetensors")
    assert RunStore(record.path.parent.parent.parent).find(record.run_id).run_id == record.run_id
    assert torch.is_grad_enabled()
