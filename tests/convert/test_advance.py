"""Schedules in anyone's training loop: they move when they are told, and warn when nobody tells them."""

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import tbn_bench as tb

pytestmark = pytest.mark.filterwarnings("error:.*its schedule never moved")
SCHEDULED = ["irnet", "irnet(activations=True)", "adabin", "snn(tau=3)", "sparks(tau=3)"]


def network(method: str) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    tb.binarize_(model, method)
    return model


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(torch.randn(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("method", SCHEDULED)
def test_a_schedule_that_never_moved_is_said_at_evaluation(method):
    model = network(method)
    model.train()
    step(model)
    with pytest.warns(UserWarning, match="schedule never moved; call tbn_bench"):
        model.eval()
    model.train().eval()  # once is enough: a second warning would be an error


@pytest.mark.parametrize("method", [*SCHEDULED, "bwn", "tbn(p=4, min_layer_size=0)"])
def test_a_loop_that_tells_hears_nothing(method):
    model = network(method)
    for epoch in range(2):
        tb.advance_(model.train(), epoch, 2)
        tb.begin_step_(model)
        step(model)
        model.eval()


@pytest.mark.parametrize("method", SCHEDULED)
def test_a_model_that_was_never_trained_hears_nothing(method):
    model = network(method).eval()
    model(torch.zeros(1, 3, 8, 8))


def test_half_of_the_calls_are_named():
    """sparks changes by epoch and by step."""
    model = network("sparks(tau=3)").train()
    tb.advance_(model, 0, 1)
    step(model)
    with pytest.warns(UserWarning, match=r"call tbn_bench.begin_step_\(model\) before each step"):
        model.eval()


def test_irnet_moves_by_its_formula():
    """t = t_min (t_max / t_min)^(epoch / epochs) = 1e-3 x 1e4^(2 / 4) = 0.1."""
    model = network("irnet")
    tb.advance_(model, 2, 4)
    assert model[0].parametrizations.weight[0].t.item() == pytest.approx(0.1)


@pytest.mark.parametrize(("epoch", "epochs"), [(4, 4), (-1, 4), (0, 0), (1.0, 4), (True, 4)])
def test_an_epoch_outside_the_training_is_refused(epoch, epochs):
    with pytest.raises(ValueError, match="epoch"):
        tb.advance_(network("irnet"), epoch, epochs)


def test_the_loop_of_the_docs_runs(tmp_path, monkeypatch):
    """Training, and then packing, saving and loading."""
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "own_loop.md"
    blocks = re.findall(r"```python\n(.+?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    exec("".join(blocks), {})


class Foreign(pl.LightningModule):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def training_step(self, batch, _):
        return self.model(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:.*log_every_n_steps",
)
def test_a_foreign_lightning_module_takes_the_callback(tmp_path):
    """Two epochs of two steps: t of the last epoch is 1e-3 x 1e4^(1 / 2) = 0.1; snn counted four steps."""
    images = torch.randn(4, 3, 8, 8)
    for method in ("irnet", "snn(tau=3)"):
        module = Foreign(network(method))
        trainer = pl.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[tb.Advance()],
        )
        loader = torch.utils.data.DataLoader(images, batch_size=2)
        trainer.fit(module, loader)
        weight = module.model[0].parametrizations.weight[0]
        if method == "irnet":
            assert weight.t.item() == pytest.approx(0.1)
        else:
            assert int(weight.step) == 4
