"""Any UTF-8 text as a language-modelling set: a token is a character.

char_text() is tiny Shakespeare, split as nanoGPT splits it; char_text(path='x.txt') is another
file.
"""

from pathlib import Path

import torch
from torch import Tensor

from tbn_bench.data._base import Split, TensorDataModule
from tbn_bench.data._order import Order
from tbn_bench.data._root import data_root, find, md5
from tbn_bench.scores import IGNORED

FILE = "tinyshakespeare/input.txt"
MD5 = "6fb458f1232090904fb40fe944165e91"
SOURCE = "github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt"
CHARACTERS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # of that file

TEST_TENTHS = 1  # nanoGPT's "val": data/shakespeare_char/prepare.py
HELD_OUT = 0.05  # of the whole text


class CharText(TensorDataModule):
    """x: (N, context) token numbers, y: (N, context) int64, the token after each one of x.

    Parts, in the order of the text. Test: the last 10 %, which nanoGPT calls "val", so that a test
    loss compares with the losses published for it. Validation: `val_size` characters before it, by
    default 5 % of the text. Training: the rest. val_size=0 trains on the whole first 90 %, as
    nanoGPT does; such a run needs `select: last`. Nothing is chosen by the test part.

    Vocabulary: the sorted characters of the first 90 %.

    A training sample is a context that begins at a random place, drawn with replacement as nanoGPT
    draws it. An epoch is `steps_per_epoch` batches, drawn from (seed, epoch). Validation and test
    contexts lie side by side and hold every character but the first once; what the last one has
    too much is labelled IGNORED.

    path: relative to the working folder, or to the data folder; None: tiny Shakespeare.
    Raises ValueError for a missing or damaged file, a text that is not UTF-8, parts shorter than a
    context, and characters that the vocabulary lacks.
    """

    tasks = ("next_token",)
    val_size = 0

    def __init__(
        self,
        path: str | None = None,
        context: int = 64,
        steps_per_epoch: int = 100,
        val_size: int | None = None,
        batch_size: int = 12,
        seed: int = 0,
    ):
        super().__init__(batch_size, seed, augment=False)
        for name, value in (("context", context), ("steps_per_epoch", steps_per_epoch)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.in_shape = (context,)
        self.steps_per_epoch = steps_per_epoch
        self.asked_val_size = val_size
        self.given = None if path is None else _given(path)
        self.vocabulary = CHARACTERS
        if self.given is not None:
            text = _text(self.given)
            known = set(text[: _test_start(text)])
            self.vocabulary = "".join(sorted(known))

    @property
    def context(self) -> int:
        return self.in_shape[0]

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """Size of the vocabulary."""
        return len(self.vocabulary)

    @property
    def token_bytes(self) -> Tensor:
        """(num_classes,) int64: bytes of each character in UTF-8."""
        sizes = [len(character.encode()) for character in self.vocabulary]
        return torch.tensor(sizes)

    def encoded(self, text: str) -> Tensor:
        """(len(text),) int64. Raises ValueError naming the first unknown character."""
        numbers = {character: number for number, character in enumerate(self.vocabulary)}
        for position, character in enumerate(text):
            if character not in numbers:
                line = text.count("\n", 0, position) + 1
                raise ValueError(
                    f"the vocabulary lacks {character!r} (line {line} of the text); it has the "
                    f"{self.num_classes} characters of the training part: {self.vocabulary!r}. "
                    "Replace the character, or train on a text that has it"
                )
        return torch.tensor([numbers[character] for character in text])

    def decoded(self, tokens: Tensor) -> str:
        """The text of token numbers: (n,)."""
        return "".join(self.vocabulary[number] for number in tokens.tolist())

    def read(self) -> tuple[Split, Split, Split]:
        text = _text(self.given or _shakespeare())
        test_start = _test_start(text)
        val_size = self.asked_val_size
        if val_size is None:
            val_size = int(HELD_OUT * len(text))
        if not 0 <= val_size < test_start:
            raise ValueError(
                f"val_size must lie between 0 (train on the first 90 %) and {test_start - 1} "
                f"characters, got {val_size}"
            )
        val_start = test_start - val_size
        tokens = self.encoded(text)
        return (
            self._everywhere(tokens[:val_start]),
            self._side_by_side(tokens[val_start:test_start], "validation"),
            self._side_by_side(tokens[test_start:], "test"),
        )

    def _everywhere(self, tokens: Tensor) -> Split:
        """A context at every place: views of tokens (n,), no copy."""
        self._check_length(tokens, "training")
        windows = tokens.unfold(0, self.context + 1, 1)
        return windows[:, :-1], windows[:, 1:]

    def _side_by_side(self, tokens: Tensor, part: str) -> Split:
        """Contexts that share no token; the last one is filled up."""
        if not len(tokens):
            nothing = torch.zeros(0, self.context, dtype=torch.int64)
            return nothing, nothing
        self._check_length(tokens, part)
        predicted = len(tokens) - 1
        contexts = -(-predicted // self.context)
        size = contexts * self.context
        x = torch.zeros(size, dtype=torch.int64)
        y = torch.full((size,), IGNORED)
        x[:predicted] = tokens[:-1]
        y[:predicted] = tokens[1:]
        return x.reshape(contexts, -1), y.reshape(contexts, -1)

    def _check_length(self, tokens: Tensor, part: str) -> None:
        least = self.context + 1
        if len(tokens) < least:
            raise ValueError(
                f"the {part} part has {len(tokens)} characters, context + 1 = {least} are needed; "
                "choose a smaller context or a longer text"
            )

    def size(self, split: str) -> int:
        """Samples of an evaluation, or of a training epoch."""
        if split == "train":
            return self.steps_per_epoch * self.batch_size
        return super().size(split)

    def order(self, split: str, batch_size: int, seed: int | None) -> Order:
        if split != "train":
            return super().order(split, batch_size, seed)
        x, _ = self.splits["train"]
        return Order(self.size("train"), batch_size, seed, pool=len(x))

    def prepare(self, x: Tensor, training: bool = False) -> Tensor:
        """Token numbers as float32, the type of all inputs; exact up to 2^24."""
        return x.float()


def _test_start(text: str) -> int:
    """The first 90 % are rounded down, as nanoGPT's are."""
    return len(text) * (10 - TEST_TENTHS) // 10


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8; its byte {error.start} is not ({error.reason}). "
            "Convert it, e.g. by iconv"
        ) from error


def _given(path: str) -> Path:
    root = data_root()
    found = find([Path(path), root / path])
    if found is None:
        raise ValueError(f"char_text: {path} found neither here nor under {root}")
    return found


def _shakespeare() -> Path:
    """The file of tiny Shakespeare. Raises ValueError where it is missing or another text."""
    root = data_root()
    place = root / FILE
    found = find([place, root / place.name])
    if found is None:
        raise ValueError(
            f"{place.name} of tiny Shakespeare not found under {root}. Fetch it ({SOURCE}) and put "
            f"it in {place.parent}, or set TBN_BENCH_DATA to the folder that has it"
        )
    if md5(found) != MD5:
        raise ValueError(
            f"{found} must have 1,115,394 bytes and md5 {MD5}; fetch it again ({SOURCE}), or give "
            "another text by char_text(path=...)"
        )
    return found
