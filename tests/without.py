"""Python without some of its packages: what an install without extras does, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent

_HIDE = """
import sys
from importlib.machinery import PathFinder

HIDDEN = set({hidden!r})


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return super().find_spec(name, path, target)


sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""


def python(hidden: Iterable[str], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in `folder`, as if the packages `hidden` were not installed."""
    text = _HIDE.format(hidden=sorted(hidden)) + code
    command = [sys.executable, "-c", text]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
