"""The warm process from within: it loads the training code, then forks a process per run.

It must run no tensor code. Threads do not survive a fork, neither torch's nor those of BLAS or of
the native library, and CUDA does not work after one.
"""

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
from importlib import import_module
from pathlib import Path

from tbn_bench import fingerprint
from tbn_bench.config import RunConfig, make
from tbn_bench.sweep import process

_PACKAGE = Path(__file__).parent.parent
_TRAINING = ("pytorch_lightning", "tbn_bench.experiment.train")
_DATA = "--data="
_OF_DATA = {"digits": ("sklearn.datasets", "sklearn.model_selection")}  # half a second per run
# a run with W&B imports all of them, which takes two thirds of a second
_OF_WANDB = ("wandb", "wandb.sdk.launch", "requests")
_WANDB = ("--wandb=offline", "--wandb=online")
_ORDER_BYTES = 1 << 18  # no longer message goes through the socket
_STDOUT = 1
_STDERR = 2


def serve(control: socket.socket, nice: int) -> list[str]:
    """Forks a process per order, until the launcher closes its end of `control`.

    Returns in the forked processes alone, each time with the arguments of a run. An order is JSON,
    {"arguments": [...], "folder": ...}, with the open log. The answers are {"pid": ...}, and
    {"code": ...} at the end of the run. nice: niceness that this process already has. Raises
    RuntimeError if it cannot be forked.
    """
    _check_system()
    _load()
    home = os.getcwd()
    while True:
        arguments, folder, log = _receive(control)
        _load_for(arguments)
        gc.freeze()  # a collection in a run would copy every page of what is loaded
        _check()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            control.close()
            _become_run(parent, log, nice)
            _move(home, folder)
            sys.argv = [str(_PACKAGE / "cli" / "__main__.py"), *arguments]
            return arguments
        os.close(log)
        _attend(control, child)


def _load() -> None:
    """What every run needs: its modules, and the hashes of files that all fingerprints have."""
    for module in _TRAINING:
        import_module(module)
    fingerprint.of(make({}))
    sys.stdout.flush()
    gc.collect()


def _load_for(arguments: list[str]) -> None:
    """Imports what a run needs for its data set and its mirror; once, as all imports.

    scikit-learn and W&B set variables of the environment, which later runs would inherit. A package
    that is missing is reported by the run.
    """
    environment = dict(os.environ)
    call = RunConfig.model_fields["data"].default
    for argument in arguments:
        if argument.startswith(_DATA):
            call = argument.removeprefix(_DATA)
    name, _, _ = call.partition("(")
    needed = list(_OF_DATA.get(name, ()))
    if not set(_WANDB).isdisjoint(arguments):
        needed += _OF_WANDB
    for module in needed:
        with contextlib.suppress(ImportError):
            import_module(module)
    for added in set(os.environ) - set(environment):
        del os.environ[added]


def _receive(control: socket.socket) -> tuple[list[str], str, int]:
    """Arguments, folder and log of the next run. Ends this process if the launcher is gone."""
    words, files, _, _ = socket.recv_fds(control, _ORDER_BYTES, 1)
    if not words or _is_closed(control):
        os._exit(0)
    order = json.loads(words)
    return order["arguments"], order["folder"], files[0]


def _is_closed(control: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(control, 0)
    return bool(waiting.poll(0))


def _check_system() -> None:
    """Raises OSError where the kernel has no descriptors of processes (Linux before 5.3)."""
    os.close(os.pidfd_open(os.getpid()))


def _check() -> None:
    """Raises RuntimeError if this process has threads or has used CUDA."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise RuntimeError("a process that has used CUDA cannot be forked")
    if threading.active_count() > 1:
        raise RuntimeError(f"a process with threads cannot be forked: {threading.enumerate()}")


def _become_run(parent: int, log: int, nice: int) -> None:
    """What Popen does for a run in a process of its own."""
    import numpy as np

    os.setsid()
    process.terminate_with_parent()
    if os.getppid() != parent:  # it has died before that
        os._exit(1)
    if nice:
        process.lower_session(nice)
    os.write(log, os.pread(_STDERR, _ORDER_BYTES, 0))  # what the imports have said
    os.dup2(log, _STDOUT)
    os.dup2(log, _STDERR)
    os.close(log)
    np.random.seed()  # else every run would begin with one state; Python's own is seeded by fork


def _move(home: str, folder: str) -> None:
    """To the launcher's folder, from which Python imports if it started in one."""
    os.chdir(folder)
    if sys.path[0] == home:
        sys.path[0] = folder


def _attend(control: socket.socket, child: int) -> None:
    """Waits for the end of a run, and says it. If the launcher is gone, so are the run and this.

    The ended process is collected when the launcher has heard of it. Until then no other process
    gets its pid.
    """
    ended = os.pidfd_open(child)
    try:
        control.send(json.dumps({"pid": child}).encode())
        _wait_for(ended, control.fileno())
        if _is_closed(control):
            raise BrokenPipeError
        control.send(json.dumps({"code": _exit_status(child)}).encode())
        _wait_for(control.fileno())
    except BrokenPipeError:
        os.kill(child, signal.SIGTERM)
        os._exit(0)
    os.close(ended)
    os.waitpid(child, 0)


def _wait_for(*files: int) -> None:
    """Until one can be read, or is closed at its other end."""
    waiting = select.poll()
    for file in files:
        waiting.register(file, select.POLLIN)
    waiting.poll()


def _exit_status(child: int) -> int:
    """Of an ended process, as subprocess.Popen gives it. It is not collected."""
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert found is not None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
