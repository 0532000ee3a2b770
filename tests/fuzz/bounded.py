"""What the fuzzers of texts share: mutations of a text, bounds on steps and memory, and the report.

Steps are calls of functions, in Python and C, so a loop without any call is not seen. Time is
reported, never judged.
"""

import argparse
import collections
import json
import random
import sys
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LIMIT_STEPS = 8_000_000
LIMIT_BYTES = 60_000_000
LIMIT_LETTERS = 3000  # of a line in a message
LONGEST = 30_000  # letters that a mutation inserts at once
_SHOWN = 4000  # letters of an input that failed


class TooManySteps(BaseException):
    """No Exception: the code under test must not catch it."""


@contextmanager
def counted() -> Iterator[list[int]]:
    """[number of calls so far]; raises TooManySteps above the limit."""
    steps = [0]

    def count(frame: Any, event: str, value: Any) -> None:
        steps[0] += 1
        if steps[0] > LIMIT_STEPS:
            sys.setprofile(None)
            raise TooManySteps(f"more than {LIMIT_STEPS:,} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield steps
    finally:
        sys.setprofile(before)


def mutated(text: str, others: list[str], words: list[str], rng: random.Random) -> str:
    """The text after one to four changes: slices deleted, doubled, repeated, swapped, taken from another text; words put in."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, start + rng.choice([1, 3, 10, 100]))
        part = text[start:end]
        other = rng.choice(others)
        cut = rng.randrange(len(other) + 1)
        change = rng.randrange(7)
        if change == 0:
            part = ""
        elif change == 1:
            part = part * 2
        elif change == 2:
            times = rng.choice([3, 100, 10_000])
            part = (part * min(times, LONGEST // max(1, len(part)) + 1))[:LONGEST]
        elif change == 3:
            part = part[::-1]
        elif change == 4:
            part = other[cut : cut + rng.choice([1, 5, 40])]
        else:
            part = rng.choice(words)
        text = text[:start] + part + text[end:]
    return text


def check_message(error: ValueError, lines: int) -> None:
    """Raises AssertionError unless an error has words, few lines, and none of them long."""
    said = str(error).splitlines()
    assert said, f"{type(error).__name__} without a word"
    assert len(said) <= lines, f"{len(said)} lines"
    assert max(map(len, said)) <= LIMIT_LETTERS, f"a line of {max(map(len, said))} letters"


def fuzz(
    make: Callable[[random.Random], str], check: Callable[[str], str], count: int, seed: int
) -> dict[str, Any]:
    """Counts by what `check` says of `count` inputs. Prints each input that breaks a promise.

    check: returns a word, or raises; whatever it raises is a failure. Case n depends on (seed, n) alone.
    """
    outcomes: collections.Counter[str] = collections.Counter(failed=0)
    worst_s, worst_case, peak_bytes, most_steps = 0.0, "", 0, 0
    for number in range(count):
        text = make(random.Random(f"{seed}.{number}"))
        began = time.perf_counter()
        tracemalloc.start()
        try:
            with counted() as steps, warnings.catch_warnings():
                warnings.simplefilter("error")
                outcome = check(text)
            peak = tracemalloc.get_traced_memory()[1]
            assert peak <= LIMIT_BYTES, f"{peak:,} bytes"
        except (Exception, TooManySteps):  # noqa: BLE001 (any is a finding)
            outcome, peak = "failed", tracemalloc.get_traced_memory()[1]
            why = traceback.format_exc(chain=False)[-_SHOWN:]
            print(
                f"case {seed}.{number}: {text[:_SHOWN]!a} ({len(text):,} letters)\n{why}",
                flush=True,
            )
        finally:
            tracemalloc.stop()
        outcomes[outcome] += 1
        took_s = time.perf_counter() - began
        if took_s > worst_s:
            worst_s, worst_case = took_s, f"{seed}.{number}"
        peak_bytes = max(peak_bytes, peak)
        most_steps = max(most_steps, steps[0])
    worst = {
        "worst_s": round(worst_s, 3),
        "worst_case": worst_case,
        "most_steps": most_steps,
        "peak_bytes": peak_bytes,
    }
    return {**outcomes, "seed": seed, **worst}


def main(run: Callable[[int, int], dict[str, Any]], count: int, what: str) -> int:
    """A fuzzer as a command: exit status 1 where an input failed."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--count", type=int, default=count, help=f"inputs (default: {count})")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = run(args.count, args.seed)
    print(json.dumps(found))
    return 1 if found["failed"] else 0
