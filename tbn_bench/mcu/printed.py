"""The result of a run, from the text of its test program."""

import re
from typing import Any

import numpy as np

from tbn_bench.mcu.cores import find_core
from tbn_bench.mcu.counts import counts_of
from tbn_bench.mcu.outcome import Ended, Result, SimulationError, last_lines
from tbn_bench.mcu.simulators import version
from tbn_bench.mcu.toolchain import Build


def result_of(
    build: Build,
    sim: str,
    ended: Ended,
    seconds: float,
    count: bool,
) -> Result:
    said = _lines(ended.text)
    _check_end(
        build,
        sim,
        ended,
        said,
    )
    is_f32 = build.is_f32
    common: dict[str, Any] = {
        "sim": sim,
        "core": build.core,
        "version": version(build.core, sim),
        "status": ended.status,
        "selftest": _number(said, "selftest", 0),
        "seconds": seconds,
        "text": ended.text,
    }
    images = _number(said, "images")
    if images is not None:
        values = np.frombuffer(ended.written, "<f4" if is_f32 else "<i4")
        return Result(outputs=values.reshape(images, -1), **common)
    counts = None
    if count and "ticks" in said:
        counts = counts_of(said, find_core(build.core), sim)
    return Result(
        outputs=_outputs(said["output"], is_f32),
        argmax=tuple(int(row[1]) for row in said["argmax"]),
        mismatches=int(said["mismatch"][0][0]),
        stack=_number(said, "stack"),
        cycles=counts if sim == "simavr" else None,
        instructions=None if sim == "simavr" else counts,
        **common,
    )


def _check_end(
    build: Build,
    sim: str,
    ended: Ended,
    said: dict[str, list[list[str]]],
) -> None:
    """Raises SimulationError where a program did not run to its end."""
    init = _number(said, "init", 0)
    if init:
        raise SimulationError(
            f"{build.elf} on {sim}: init returned {init} (tbn_status in src/tbn_rt.h); "
            "nothing was run"
        )
    last = last_lines(ended.text)
    if "error" in said:
        reason = said["error"][0][0].replace("_", " ")
        raise SimulationError(f"{build.elf} on {sim}: {reason}; {last}")
    if "done" not in said:
        raise SimulationError(
            f"{build.elf} on {sim} ended with status {ended.status} before it was done; {last}"
        )


def _number(
    said: dict[str, list[list[str]]],
    key: str,
    otherwise: int | None = None,
) -> int | None:
    """The first value behind a key of a program's text."""
    if key not in said:
        return otherwise
    return int(said[key][0][0])


def _lines(text: str) -> dict[str, list[list[str]]]:
    said: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if re.fullmatch(r"[a-z]+( \S+)+", line):
            key, *values = line.split()
            said.setdefault(key, []).append(values)
    return said


def _outputs(said: list[list[str]], f32: bool) -> np.ndarray:
    """The values behind the number of the vector; floats are printed by their bits."""
    base = 16 if f32 else 10
    rows = []
    for _, *values in said:
        rows.append([int(value, base) for value in values])
    if f32:
        return np.array(rows, np.uint32).view(np.float32)
    return np.array(rows, np.int32)
