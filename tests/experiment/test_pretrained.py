"""Pretrained float networks: by timm's name or a file, where a run starts, converted without training."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import TensorDataset

import tbn_bench as tb
from tbn_bench import catalog
from tbn_bench.config import make
from tbn_bench.experiment.build import build
from tbn_bench.experiment.options import RunOptions
from tbn_bench.experiment.train import prepared
from tbn_bench.experiment.weights import start_from, start_from_file
from tbn_bench.models.from_timm import preprocessing
from tbn_bench.records.store import RunStore

NAME = "test_resnet"  # timm's smallest


def timm_call(**options):
    listed = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"from_timm(name={NAME!r}, {listed})"


def net():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)
    )


@pytest.fixture
def file(tmp_path):
    save_file(net().state_dict(), tmp_path / "net.safetensors")
    return str(tmp_path / "net.safetensors")


def test_a_model_of_timm_takes_a_file(tmp_path):
    """With other classes all but the head comes from the file; on the meta device nothing is read."""
    trained = catalog.build("models", timm_call(num_classes=7))
    path = str(tmp_path / "timm.safetensors")
    save_file(trained.state_dict(), path)
    same = catalog.build("models", timm_call(num_classes=7, pretrained=path))
    assert all(
        torch.equal(value, same.state_dict()[name]) for name, value in trained.state_dict().items()
    )
    other = catalog.build("models", timm_call(num_classes=3, pretrained=path)).state_dict()
    differing = [
        name for name, value in trained.state_dict().items() if not torch.equal(value, other[name])
    ]
    assert {name.partition(".")[0] for name in differing} == {"fc"}
    with torch.device("meta"):
        catalog.build("models", timm_call(num_classes=3, pretrained="none.safetensors"))


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    import timm

    real = timm.create_model

    def create(name, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no network")
        return real(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(
        ValueError, match="cannot be fetched.*no network.*pretrained='FILE.safetensors'"
    ):
        catalog.build("models", timm_call(pretrained=True))


def test_the_preprocessing_of_a_network():
    found = preprocessing("resnet18")
    assert (found["size"], found["interpolation"]) == (224, "bicubic")
    assert found["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert found["resize"] >= found["size"]


def test_a_run_starts_from_a_file(file):
    """Latent weights are the file's; the run id follows the content, not the path alone."""
    trained = net()
    trained.load_state_dict(load_file(file))
    model = net()
    tb.binarize_(model, "tbn(p=2, min_layer_size=0)")
    start_from_file(model, file)
    assert torch.equal(model[1].parametrizations.weight.original, trained[1].weight)
    before = make({"init": file})
    assert before.init.startswith(f"{file}#")
    save_file(net().state_dict(), file)
    assert make({"init": file}).run_id != before.run_id
    with pytest.raises(ValueError, match="has changed"):
        start_from_file(model, before.init)


def test_a_run_from_a_file_is_trained(tmp_path):
    config = make({"data": "digits", "model": "mlp(hidden=[8])", "binarizer": "bwn", "epochs": 1})
    path = str(tmp_path / "mlp.safetensors")
    float_net = build(make({"data": "digits", "model": "mlp(hidden=[8])", "seed": 5})).model
    save_file(float_net.state_dict(), path)
    run = tb.train(**config.non_defaults | {"init": path}, results=tmp_path, wandb="off")
    assert run.config["init"].startswith(path)


def test_a_classifier_of_other_classes_starts_at_random(tmp_path, capsys):
    """All but the classifier comes from the file, and the run says so."""
    trained = catalog.build("models", "mlp(hidden=[8])", num_classes=3, in_shape=(1, 8, 8))
    path = str(tmp_path / "three.safetensors")
    save_file(trained.state_dict(), path)
    config = make({"data": "digits", "model": "mlp(hidden=[8])", "binarizer": "bwn", "init": path})
    experiment, _ = prepared(config, RunOptions(), RunStore(tmp_path))
    assert torch.equal(experiment.model[1].parametrizations.weight.original, trained[1].weight)
    said = "has other classes: 3.bias and 3.weight start at random"
    assert said in capsys.readouterr().out
    with pytest.raises(ValueError, match="3.weight .3, 8. instead of .10, 8."):
        start_from_file(experiment.model, path)


@pytest.mark.parametrize("width", [8, 9])
def test_another_network_is_no_other_classifier(width):
    """From a run: a further layer of another width is an error, another number of classes none."""
    source, model = (
        nn.Sequential(nn.Linear(6, k), nn.Linear(k, n)) for k, n in ((8, 2), (width, 3))
    )
    tb.binarize_(source, "tbn(p=2, min_layer_size=0)")
    tb.binarize_(model, "tbn(p=3, min_layer_size=0)")
    if width == 8:
        assert start_from(model, source, classes=3) == ["1.bias", "1.weight"]
        return
    with pytest.raises(ValueError, match="same shape for 0.weight, 1.weight;"):
        start_from(model, source, classes=3)


def test_tensors_that_do_not_fit_are_named(file, tmp_path):
    state = {name: value for name, value in net().state_dict().items() if name != "1.bias"}
    state["4.weight"] = torch.zeros(3, 32)
    state["head.weight"] = torch.zeros(1)
    path = str(tmp_path / "other.safetensors")
    save_file(state, path)
    with pytest.raises(
        ValueError,
        match=r"missing: 1.bias; unexpected: head.weight; misshaped: 4.weight \(3, 32\) instead of \(2, 32\)",
    ):
        start_from_file(net(), path)
    tb.save(net(), tmp_path / "saved.safetensors")
    with pytest.raises(ValueError, match="is a file of tb.save; expected a network's state dict"):
        start_from_file(net(), str(tmp_path / "saved.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no safetensors file"):
        start_from_file(net(), str(tmp_path / "bad.safetensors"))
    with pytest.raises(ValueError, match=r"init: .*cannot be read"):
        make({"init": "none.safetensors"})


def test_a_trained_network_is_converted_without_training():
    """Batch norm is re-estimated on a few batches; the scores are of the whole test set."""
    torch.manual_seed(0)
    x, y = torch.randn(300, 1, 8, 8), torch.arange(300) % 2
    x[y == 1] += 0.5
    data = (TensorDataset(x[:200], y[:200]), TensorDataset(x[200:], y[200:]))
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:200]), y[:200]).backward()
        optimizer.step()
    found = tb.binarize_trained(model, data, "bwn", batches=2, batch_size=50)
    model.eval()
    right = (model(x[200:]).argmax(1) == y[200:]).float().mean().item()
    assert found.top1_float == pytest.approx(right)
    network = found.network
    assert found.top1 == pytest.approx(
        (network(x[200:]).argmax(1) == y[200:]).float().mean().item()
    )
    assert not torch.equal(network[2].running_mean, model[2].running_mean)
    assert found.top1 > 0.8
    assert "re-estimated" in str(found)
    assert "<td>float</td>" in found._repr_html_()
    with pytest.raises(ValueError, match="batches must be at least 1"):
        tb.binarize_trained(model, data, "bwn", batches=0)
