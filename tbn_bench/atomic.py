"""The one writer of files that readers find whole: the old content or the new, never a part."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Writes by a temporary file, fsync and rename. Raises OSError; the old file is then intact."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
        raise
