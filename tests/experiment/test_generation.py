"""Text from a language model: the cache, the window that moves, and the command."""

import pytest
import torch

from tbn_bench import catalog, cli
from tbn_bench.config import make
from tbn_bench.experiment import train
from tbn_bench.experiment.generation import Reader, continuation

CONTEXT = 8


@pytest.fixture
def model():
    torch.manual_seed(0)
    call = "gpt(dim=16, depth=2, heads=2)"
    network = catalog.build("models", call, num_classes=11, in_shape=(CONTEXT,)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(8)  # from nearly uniform to clear preferences
    return network


def behind(model, tokens):
    """The logits behind at most CONTEXT tokens, by forward alone."""
    x = torch.zeros(1, CONTEXT)
    x[0, : len(tokens)] = torch.tensor(tokens)
    return model(x)[0, len(tokens) - 1]


def test_a_reader_gives_what_forward_gives(model):
    """A full cache starts again with the later half: 9 tokens are read as the last 4."""
    text = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    reader = Reader(model)
    with torch.no_grad():
        for end in range(2, len(text) + 1):
            logits = reader.read(text[:2] if end == 2 else text[end - 1 : end])
            window = text[:end] if end <= CONTEXT else text[end - 4 : end]
            torch.testing.assert_close(logits, behind(model, window), rtol=1e-4, atol=1e-4)


def test_temperature_zero_takes_the_likeliest(model):
    new = continuation(model, torch.tensor([3, 1]), 4, temperature=0).tolist()
    text = [3, 1]
    with torch.no_grad():
        for token in new:
            assert token == int(behind(model, text).argmax())
            text.append(token)


def test_draws_are_those_of_the_seed(model):
    prompt = torch.arange(5)
    drawn = [continuation(model, prompt, 30, seed=seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        ([], {}, "the prompt is empty"),
        ([1], {"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
    ],
)
def test_what_it_refuses(model, prompt, options, said):
    with pytest.raises(ValueError, match=said):
        continuation(model, torch.tensor(prompt, dtype=torch.int64), 2, **options)
    with pytest.raises(ValueError, match="got Linear; use a run of --model gpt"):
        continuation(torch.nn.Linear(1, 1), torch.tensor([1]), 2)


def test_a_run_writes_text(tmp_path, monkeypatch, capsys):
    """From its packed file alone, by torch and by the kernels; an unknown character is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.txt").write_text("to be or not to be. " * 30)
    config = make({
        "data": "char_text(context=8, path='x.txt', steps_per_epoch=2)", "task": "next_token", "epochs": 1, "batch_size": 4,
        "model": "gpt(depth=1, dim=16, heads=2)", "binarizer": "tbn(p=4, min_layer_size=0)", "optimizer": "adamw", "lr": 0.001,
    })  # fmt: skip
    record = train.run(config, train.RunOptions(tmp_path, wandb="off", threads=1))
    (record.path / "checkpoints" / "best.ckpt").unlink()
    command = ["generate", record.run_id, f"--results={tmp_path}", "--prompt=to b", "--tokens=20"]
    capsys.readouterr()
    texts = []
    for more in ([], ["--kernels"]):
        assert cli.main([*command, *more]) == 0
        texts.append(capsys.readouterr().out.splitlines()[0])
    assert texts[0].startswith("to b")
    assert texts[0] == texts[1]
    assert cli.main([*command, "--prompt=Z"]) != 0
    assert "the vocabulary lacks 'Z'" in capsys.readouterr().err
