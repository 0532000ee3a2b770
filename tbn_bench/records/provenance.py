"""Where a number comes from: the commit, versions, hardware and command that made it."""

import contextlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("tbn-bench", "torch", "pytorch-lightning", "torchvision", "timm", "numpy")


def provenance(
    command: str, device: str | None = None, threads: int | None = None
) -> dict[str, Any]:
    """Commit, versions, hardware, command and time of a measurement; None where unknown.

    dirty: whether files other than records and reports differ from the commit.
    """
    dirty = _git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        ":/",
        ":(top,exclude)results",
        ":(top,exclude)reports",
    )
    versions = {package: _version(package) for package in _PACKAGES}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if dirty is None else bool(dirty),
        "versions": {"python": platform.python_version()} | versions,
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "device": device,
            "threads": threads,
        },
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git(*args: str) -> str | None:
    """What git prints about the folder of this package; None where it fails."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", *args], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """The name of the CPU, by Linux or as Python knows it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name":
                return name.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
