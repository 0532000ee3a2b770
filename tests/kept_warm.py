"""Warm processes that all launches of a test session share, so that torch is imported once, not once per test."""

import os
import threading

import pytest

from tbn_bench.sweep import warm

_TEST = "PYTEST_CURRENT_TEST"  # the one variable by which the environments of tests differ


class KeptWarm:
    """Slot -> idle warm process. `install` makes launches take theirs from here and give them back."""

    def __init__(self):
        self.idle: dict[int, warm.WarmProcess] = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        real = {"start": warm.WarmSlots.start, "close": warm.WarmSlots.close}
        fits = warm.WarmProcess.fits

        def start(slots, slot, command):
            if warm.is_possible(slots.options) and slot not in slots.processes:
                self._lend(slots, slot)
            return real["start"](slots, slot, command)

        def close(slots):
            self._take_back(slots)
            real["close"](slots)

        def fits_any_test(process, command, code):
            process.environment[_TEST] = command.environment.get(_TEST)
            return fits(process, command, code)

        patch.setattr(warm.WarmSlots, "start", start)
        patch.setattr(warm.WarmSlots, "close", close)
        patch.setattr(warm.WarmProcess, "fits", fits_any_test)

    def _lend(self, slots, slot):
        kept = self.idle.pop(slot, None)
        if kept is not None:
            slots.processes[slot] = kept

    def _take_back(self, slots):
        """Those that are idle. One that a thread has started ends with the thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for slot, process in list(slots.processes.items()):
            if slot not in self.idle and is_idle(process):
                self.idle[slot] = slots.processes.pop(slot)

    def cpu_seconds(self) -> float:
        """Of the idle processes and of what they have forked."""
        ticks = 0
        for process in self.idle.values():
            own, *forked = [stat(pid) for pid in [process.pid, *children(process.pid)]]
            ticks += sum(map(int, own[11:15])) + sum(sum(map(int, one[11:13])) for one in forked)
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self):
        while self.idle:
            self.idle.popitem()[1].close()


def is_idle(process) -> bool:
    """Whether it lives and every process that it has forked has ended."""
    if process.is_lost or not process.has_forked:
        return False
    if gone(process.pid):
        return False
    return all(state[0] == "Z" for state in map(stat, children(process.pid)) if state)


def stat(pid) -> list[str]:
    """Fields of /proc/PID/stat from the state on; [] where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def gone(pid) -> bool:
    """No such process, or one that has ended and that nobody has collected."""
    found = stat(pid)
    return not found or found[0] == "Z"


def children(pid) -> list[str]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return file.read().split()
    except OSError:
        return []


KEPT = KeptWarm()
