"""Image files: decoding that names the file it fails on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image


@contextlib.contextmanager
def opened(path: Path, again: str) -> Iterator[Image.Image]:
    """Raises ValueError naming a file that cannot be decoded, also where that shows only inside the block."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:  # what PIL's decoders raise
        raise ValueError(
            f"{path} cannot be decoded ({' '.join(str(error).split())}); {again}"
        ) from error


def rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")
