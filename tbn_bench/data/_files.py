"""Image files: a decoding error names its file."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@contextlib.contextmanager
def opened(path: Path, again: str) -> Iterator["Image.Image"]:
    """Raises ValueError naming a file that cannot be decoded.

    This includes a fault that appears only inside the block.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:  # PIL's decoders raise these
        why = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be decoded ({why}); {again}") from error


def rgb(image: "Image.Image") -> "Image.Image":
    if image.mode == "RGB":
        return image
    return image.convert("RGB")


def resized(
    image: "Image.Image", size: tuple[int, int], box: tuple[float, ...] | None = None
) -> "Image.Image":
    """size: (width, height), in pixels. box: the part that is taken, default the whole image."""
    from PIL.Image import Resampling

    return rgb(image).resize(size, Resampling.BILINEAR, box)
