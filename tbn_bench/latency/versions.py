"""Versions of this repository: their files, their native library, and a process that runs them."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tbn_bench
from tbn_bench.native import LIBRARY_VARIABLE

PACKAGE = Path(tbn_bench.__file__).parent
WORKER = Path(__file__).with_name("version_worker.py")
_PARTS = ("CMakeLists.txt", "tbn_bench")  # what a version is built and imported from
_LIBRARIES = ("libtbn_bench.so", "libtbn_bench.dylib")


class VersionError(ValueError):
    """A version that cannot be had, built or driven; the message says why and what to do."""


@dataclass(frozen=True)
class Version:
    """A copy of the package, ready to be built. name: as messages call it."""

    name: str
    folder: Path


def commit_of(revision: str) -> str:
    """The hash of a revision of this repository.

    Raises VersionError outside a git checkout, for an unknown revision, and for one without native
    sources.
    """
    inside = _git("rev-parse", "--show-prefix")
    if inside is None or inside.strip():
        # no repository, or the package lies somewhere inside the repository of something else
        raise VersionError(
            f"--against {revision}: {PACKAGE.parent} is not a git checkout of tbn_bench, "
            "so it has no other versions; clone the repository and install it with pip install -e ."
        )
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not found:
        raise VersionError(
            f"--against: unknown revision {revision!r}; "
            "give a commit, a branch or a tag that git log knows (a shallow clone lacks old ones)"
        )
    commit = found.decode().strip()
    _check_sources(commit)
    return commit


def _check_sources(commit: str) -> None:
    listed = _git("ls-tree", "--name-only", "--full-tree", commit, "--", *_PARTS) or b""
    missing = set(_PARTS) - set(listed.decode().split())
    if not missing:
        return
    first = _git("log", "--reverse", "--diff-filter=A", "--format=%h", "--", _PARTS[0])
    oldest = (first or b"").decode().split()
    hint = f"; the first revision with them is {oldest[0]}" if oldest else ""
    raise VersionError(
        f"revision {commit[:7]} has no native sources (no {', '.join(sorted(missing))}){hint}"
    )


def check_out(commit: str, folder: Path) -> Version:
    """Copies the package of a commit into an empty folder. The working tree stays as it is."""
    archive = _git("archive", "--format=tar", commit, "--", *_PARTS)
    if archive is None:
        raise VersionError(f"git archive {commit[:7]} failed; see: git fsck")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return Version(commit[:7], folder)


def copy_own(folder: Path) -> Version:
    """Copies this package as it is now, changes that are not committed included."""
    shutil.copytree(
        PACKAGE,
        folder / PACKAGE.name,
        ignore=shutil.ignore_patterns("__pycache__", *_LIBRARIES),
    )
    shutil.copy(PACKAGE.parent / "CMakeLists.txt", folder)
    return Version("this version", folder)


def _git(*args: str) -> bytes | None:
    """What git prints in the folder that holds this package; None where it fails."""
    command = ["git", *args]
    try:
        done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def build(version: Version) -> None:
    """Builds the native library of a version by its own CMakeLists.txt, into its own package.

    Raises VersionError without CMake or a compiler, and where the build fails.
    """
    if shutil.which("cmake") is None:
        raise VersionError(
            "cmake is missing; the native library of a version is built with it: pip install cmake"
        )
    folder = str(version.folder)
    objects = str(version.folder / "build")
    _cmake(version, "-S", folder, "-B", objects, "-DCMAKE_BUILD_TYPE=Release")
    _cmake(version, "--build", objects)
    _cmake(version, "--install", objects, "--prefix", folder)
    package = version.folder / PACKAGE.name
    if not any(next(package.rglob(name), None) for name in _LIBRARIES):
        raise VersionError(
            f"the native library of {version.name} was not built: no C++17 compiler was found; "
            "install g++ or clang++, or name one in the environment variable CXX"
        )


def _cmake(version: Version, *args: str) -> None:
    done = subprocess.run(["cmake", *args], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    printed = f"{done.stdout}\n{done.stderr}"
    faults = [line.strip() for line in printed.splitlines() if "error" in line.lower()]
    said = faults[0] if faults else f"exit status {done.returncode}"
    raise VersionError(f"the native library of {version.name} cannot be built: {said}")


class Worker:
    """A process that runs the packed executor of one version (version_worker.py).

    It shares the installed packages with this process, except tbn_bench itself. Raises VersionError
    for a version that it cannot drive, and for whatever the version raises.
    """

    def __init__(self, version: Version, threads: int):
        self.version = version
        self._log = (version.folder / "worker.log").open("w+", encoding="utf-8")
        # -S: no site-packages but those below, whose editable install would import this version
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-P", str(WORKER), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            env=_environment(version, threads),
        )
        try:
            self._check_folder()
        except VersionError:
            self.close()
            raise

    def _check_folder(self) -> None:
        folder = self.ask("hello")["folder"]
        if Path(folder).resolve() != self.version.folder.resolve():
            raise VersionError(f"{self.version.name} was imported from {folder}, not from its copy")

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises VersionError where the version raised."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise VersionError(f"the process of {self.version.name} ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise VersionError(f"cannot drive {self.version.name}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {status}"

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            self._process.communicate()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _environment(version: Version, threads: int) -> dict[str, str]:
    """Of a worker: the version's package first, then whatever this process can import."""
    environment = dict(os.environ)
    environment.pop(LIBRARY_VARIABLE, None)  # each version has its own library
    places = [str(version.folder), *filter(None, sys.path)]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    environment["OMP_NUM_THREADS"] = str(threads)
    return environment
