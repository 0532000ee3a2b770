"""Warm processes, one per slot: each has the training code loaded and forks a process per run.

A Python process that imports torch and Lightning takes seconds to start; a fork takes milliseconds.
The warm process runs no tensor code (forking.py), so that a forked run is what a process of
its own would be. Where that is not certain, runs are processes of their own: with a GPU, with
torch.compile, on other systems than Linux, and after a warm process has died.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tbn_bench.records.text import tell
from tbn_bench.sweep import process
from tbn_bench.sweep.execution import ExecutionOptions
from tbn_bench.sweep.process import Command, Process

_PACKAGE = Path(__file__).parent.parent
_PROGRAM = ("-m", "tbn_bench.cli.warm")
_ANSWER_BYTES = 1000  # an answer is shorter
_LOOK = 0.05  # seconds between two looks at a run that is waited for
_END_S = 1.0  # that an idle warm process has to end by itself

Code = frozenset[tuple[str, int, int]]


def is_possible(options: ExecutionOptions) -> bool:
    """Whether runs may be forked. A process that has used CUDA must not be."""
    return (
        options.warm and sys.platform == "linux" and options.device == "cpu" and not options.compile
    )


def code_on_disk() -> Code:
    """(path, time of change in ns, size) of this package's sources and of the installed packages.

    A warm process that was started with other code is not used again.
    """
    found = set()
    for path in _sources():
        with contextlib.suppress(OSError):  # removed meanwhile
            status = path.stat()
            found.add((str(path), status.st_mtime_ns, status.st_size))
    return frozenset(found)


def _sources() -> Iterator[Path]:
    for name in ("purelib", "platlib"):  # a folder changes when a package is installed in it
        yield Path(sysconfig.get_path(name))
    for folder, _, files in os.walk(_PACKAGE):
        for name in files:
            if name.endswith(".py"):
                yield Path(folder, name)


class WarmProcess:
    """A live process that waits for orders. Raises OSError where it cannot be started.

    It has the environment of its first run. answers: see `ForkedRun`.
    """

    def __init__(self, command: Command, code: Code):
        self.environment = command.environment
        self.nice = command.nice
        self.code = code
        self.is_lost = False
        self.has_forked = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        try:
            with theirs:
                self._popen = _started(command, theirs.fileno())
        except OSError:
            self._control.close()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def fits(self, command: Command, code: Code) -> bool:
        """Whether a process of its own would find the same environment and code."""
        wanted = (command.environment, command.nice, code)
        return wanted == (self.environment, self.nice, self.code)

    def order(self, command: Command) -> None:
        """Asks for a run. Raises OSError where the process is gone."""
        order = {"arguments": command.arguments, "folder": os.getcwd()}
        words = json.dumps(order).encode()
        with command.log.open("a") as log:
            socket.send_fds(self._control, [words], [log.fileno()])

    def answer(self, wait_s: float = 0.0) -> dict[str, Any] | None:
        """Its next answer; None while there is none. Raises ConnectionError if it is gone."""
        ready = select.poll()
        ready.register(self._control, select.POLLIN)
        if not ready.poll(wait_s * 1000):
            return None
        words = self._control.recv(_ANSWER_BYTES)
        if not words:
            self.is_lost = True
            raise ConnectionError(f"the warm process {self.pid} is gone")
        answer: dict[str, Any] = json.loads(words)
        self.has_forked = True
        return answer

    def send_signal(self, sig: int) -> None:
        self._popen.send_signal(sig)

    def close(self) -> None:
        """Ends the process, and the run that it has forked."""
        self._control.close()
        if self.has_forked:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_END_S)
        self._popen.kill()
        self._popen.wait()


def _started(command: Command, control: int) -> subprocess.Popen[bytes]:
    """The program. What its imports print goes to a file without a name, for the logs of runs."""
    with TemporaryFile() as said:
        return subprocess.Popen(
            [sys.executable, *_PROGRAM, str(control), str(command.nice)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=command.environment,
            preexec_fn=partial(process.in_child, command.nice),
            start_new_session=True,
            pass_fds=[control],
        )


class ForkedRun:
    """A run that a warm process forks, as a Process.

    Until it is forked, the pid is that of the warm process, and signals go there. If the warm
    process dies without anyone having asked for it, the run goes on as a process of its own.
    lost: is told that, once. Raises OSError where the warm process cannot take the order.
    """

    def __init__(self, warm: WarmProcess, command: Command, lost: Callable[[object], None]):
        self._warm = warm
        self._command = command
        self._lost = lost
        self._forked: int | None = None
        self._returncode: int | None = None
        self._own: subprocess.Popen[bytes] | None = None
        self._signal: int | None = None  # the last one that was sent
        warm.order(command)

    @property
    def pid(self) -> int:
        """Of the process that trains."""
        if self._own is not None:
            return self._own.pid
        return self._forked or self._warm.pid

    def poll(self) -> int | None:
        """The exit status, as of subprocess.Popen; None while the run is alive."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once there is one. Raises subprocess.TimeoutExpired."""
        limit = None if timeout is None else time.monotonic() + timeout
        while True:
            code = self._look(_LOOK)
            if code is not None:
                return code
            if limit is not None and timeout is not None and time.monotonic() > limit:
                raise subprocess.TimeoutExpired(self._command.arguments, timeout)

    def send_signal(self, sig: int) -> None:
        """Sends nothing to a run that has ended."""
        if self.poll() is not None:
            return
        self._signal = sig
        if self._own is not None:
            self._own.send_signal(sig)
        elif self._forked is None:
            self._warm.send_signal(sig)
        else:
            os.kill(self._forked, sig)

    def _look(self, wait_s: float) -> int | None:
        if self._own is None and self._returncode is None:
            self._listen(wait_s)
        if self._own is None:
            return self._returncode
        code = self._own.poll()
        if code is None:
            time.sleep(wait_s)
        return code

    def _listen(self, wait_s: float) -> None:
        """Takes what the warm process says: {"pid": ...}, later {"code": ...}."""
        try:
            while answer := self._warm.answer(wait_s):
                self._forked = answer.get("pid", self._forked)
                self._returncode = answer.get("code")
                if self._returncode is not None:
                    return
        except ConnectionError as error:
            self._lose(error)

    def _lose(self, why: ConnectionError) -> None:
        """The warm process has died, and the run with it."""
        if self._forked is not None:
            # it leads a session, so its group is its own; it may be standing still
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._forked, signal.SIGKILL)
        if self._signal is not None:
            self._returncode = -self._signal
        else:
            self._lost(why)
            self._own = self._command.start()


@dataclass
class WarmSlots:
    """The warm processes of a launch: one per slot, started with the slot's first run.

    say: prints a line. told: slots whose warm process has been reported as lost.
    """

    options: ExecutionOptions
    say: Callable[[str], None] = tell
    processes: dict[int, WarmProcess] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)

    def start(self, slot: int, command: Command) -> Process:
        """A run in a slot that is free: forked where that is possible. Raises OSError."""
        if not is_possible(self.options):
            return command.start()
        lost = partial(self._tell_lost, slot)
        try:
            warm = self._fitting(slot, command)
            if not warm.is_lost:
                return ForkedRun(warm, command, lost)
        except OSError as error:
            lost(error)
        return command.start()

    def _tell_lost(self, slot: int, why: object) -> None:
        """Once per slot: its runs now take seconds longer to start."""
        if slot not in self.told:
            self.told.add(slot)
            self.say(f"[alone] {why}; the runs of slot {slot} are processes of their own")

    def _fitting(self, slot: int, command: Command) -> WarmProcess:
        """The slot's process, started anew if code or environment have changed."""
        code = code_on_disk()
        warm = self.processes.get(slot)
        if warm is not None and warm.fits(command, code):
            return warm
        if warm is not None:
            warm.close()
        self.processes[slot] = WarmProcess(command, code)
        return self.processes[slot]

    def close(self) -> None:
        """Ends the warm processes, with their runs."""
        for warm in self.processes.values():
            warm.close()
        self.processes.clear()
