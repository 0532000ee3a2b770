"""Characters of a text file: parts, vocabulary, contexts, and what is refused."""

import hashlib

import pytest
import torch

from tbn_bench import catalog
from tbn_bench.data import char_text
from tbn_bench.scores import IGNORED

TEXT = "abcdefghij" * 20  # 200 characters: 170, 10 and 20 of the parts


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("TBN_BENCH_DATA", str(tmp_path))
    return tmp_path


def built(root, text=TEXT, options="context=4", **given):
    (root / "x.txt").write_bytes(text.encode())
    data = catalog.build("data", f"char_text(path='x.txt', {options})", **given)
    data.setup()
    return data


def test_parts_are_in_the_order_of_the_text(root):
    """The last 10 % are the test part, 5 % before them the validation part."""
    data = built(root, "a" * 170 + "b" * 10 + "a" * 20)
    for split, character in (("train", "a"), ("val", "b"), ("test", "a")):
        x, y = data.splits[split]
        assert set(data.decoded(x[0])) == {character}
        assert y.shape == x.shape
    x, _ = data.splits["train"]
    assert len(x) == 170 - 4  # a context at every place that has a next character


def test_the_first_tenths_are_trained_on_without_a_held_out_part(root):
    """val_size=0 is nanoGPT's split."""
    data = built(root, options="context=4, val_size=0")
    assert "val" not in data.splits
    x, _ = data.splits["train"]
    assert len(x) == 180 - 4


def test_every_character_of_the_test_part_is_predicted_once(root):
    """All but the first, which nothing predicts; the last context is filled up."""
    data = built(root, options="context=6")
    x, y = data.splits["test"]
    counted = y != IGNORED
    assert data.decoded(y[counted]) == TEXT[-19:]
    assert data.decoded(x[counted]) == TEXT[-20:-1]
    assert x.shape == (4, 6)


def test_labels_are_the_next_characters(root):
    data = built(root, batch_size=5)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (5, 4)
    for tokens, labels in zip(x, y, strict=True):
        whole = data.decoded(tokens) + data.decoded(labels[-1:])
        assert whole in TEXT
        assert torch.equal(tokens[1:], labels[:-1])


def test_an_epoch_is_some_random_contexts_of_seed_and_epoch(root):
    """steps_per_epoch batches; another epoch and another seed give others."""
    data = built(root, options="context=4, steps_per_epoch=3", batch_size=8, seed=0)
    loader = data.train_dataloader()

    def epoch(number):
        loader.sampler.set_epoch(number)
        return torch.cat([x for x, _ in loader])

    first = epoch(0)
    assert first.shape == (24, 4)
    assert data.size("train") == 24
    assert torch.equal(first, epoch(0))
    assert not torch.equal(first, epoch(1))
    other = built(root, options="context=4, steps_per_epoch=3", batch_size=8, seed=1)
    assert not torch.equal(first, torch.cat([x for x, _ in other.train_dataloader()]))


def test_bytes_are_those_of_utf8(root):
    data = built(root, "aé€" * 60)
    assert data.vocabulary == "aé€"
    assert data.token_bytes.tolist() == [1, 2, 3]
    assert data.num_classes == 3


def test_a_character_outside_the_vocabulary_is_named(root):
    """With the line; the vocabulary is that of the first 90 %."""
    with pytest.raises(ValueError, match=r"lacks 'Z' \(line 96 of the text\).*Replace"):
        built(root, "a\n" * 95 + "Z" + "a" * 9)
    with pytest.raises(ValueError, match="lacks 'x'"):
        built(root).encoded("x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("context=0", "context must be a whole number of at least 1, got 0"),
        ("context=30", "the validation part has 10 characters, context . 1 = 31 are needed"),
        ("val_size=180", "val_size must lie between 0 .* and 179 characters, got 180"),
    ],
)
def test_what_cannot_work_is_refused(root, options, said):
    with pytest.raises(ValueError, match=said):
        built(root, options=options)


def test_bytes_that_are_no_utf8_are_refused(root):
    (root / "x.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"x\.txt must be UTF-8; its byte 3 is not"):
        catalog.build("data", "char_text(path='x.txt')")


def test_shakespeare_is_found_and_checked(root, monkeypatch):
    """In its folder or in the root; a missing or another file is named, with its source."""
    data = catalog.build("data", "char_text(context=4)")
    assert data.num_classes == 65  # known without the file
    with pytest.raises(ValueError, match=r"input.txt of tiny Shakespeare not found .* Fetch it"):
        data.setup()
    (root / "tinyshakespeare").mkdir()
    path = root / "tinyshakespeare" / "input.txt"
    path.write_text("To be. " * 40)
    with pytest.raises(ValueError, match="must have 1,115,394 bytes and md5 .* fetch it again"):
        data.setup()
    monkeypatch.setattr(char_text, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    data.setup()
    assert data.size("test") > 0
