"""tbn-bench report --watch: builds the report again whenever a record changed.

The page reloads itself in the reader's browser.
"""

import os
import time
from pathlib import Path
from typing import Any

from tbn_bench.records.files import replace
from tbn_bench.records.store import RunStore
from tbn_bench.records.text import tell
from tbn_bench.reporting import build
from tbn_bench.runs import index

# After a build, the pause is at least so many times as long: a sweep on the same machine needs its
# cores.
SHARE = 3
# The errors that a half written record, or one of another shape, may cause.
_DAMAGE = (ValueError, OSError, KeyError, TypeError, AttributeError)


def stamp(results: Path) -> dict[str, list[int]]:
    """Changes with every run that begins or ends, every measurement and every published number."""
    found = {}
    for sweep, run_id in RunStore(results).folders([]):
        name = f"{sweep}/{run_id}"
        found[name] = index.stamp(f"{results}/runs/{name}")
    others = [
        *results.glob("latency/*/*.json"),
        *results.glob("mcu/*/*.json"),
        *results.glob("robustness/*/*.json"),
        *results.glob("published/*.csv"),
    ]
    for path in others:
        try:
            stat = os.stat(path)
        except OSError:  # being replaced: the next look will see it
            continue
        found[str(path)] = [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return found


def watch(results: Path, out: Path, every_s: float = 10.0) -> dict[str, Any]:
    """Builds until Ctrl-C, and then leaves an ordinary page.

    Raises ValueError for an interval that is not positive.
    """
    if not every_s > 0:
        raise ValueError(f"--every must be more than 0 seconds, got {every_s:g}")
    last: dict[str, Any] = {
        "page": None,
        "runs": 0,
        "finished": 0,
        "unreadable": 0,
    }
    seen = None
    builds = 0
    try:
        while True:
            began = time.monotonic()
            now = stamp(results)
            if now != seen:
                seen = now
                done = _built(results, out, every_s)
                if done is not None:
                    last = done
                    builds += 1
                    _announce(out, f"{os.getpid()}-{builds}")
                tell(f"{time.strftime('%H:%M:%S')} watching {results}; Ctrl-C ends it")
            build_s = time.monotonic() - began
            time.sleep(max(every_s, SHARE * build_s))
    except KeyboardInterrupt:
        _settle(out)
    return last | {"builds": builds}


def _built(results: Path, out: Path, every_s: float) -> dict[str, Any] | None:
    """The result of report; None if it failed this time, with the reason on stdout."""
    try:
        return build.report(results, out, every_s)
    except _DAMAGE as error:
        tell(f"not built this time: {error}")
        return None


def _announce(out: Path, name: str) -> None:
    """Writes the script that tells the open page of a newer one."""
    folder = out / "data"
    folder.mkdir(exist_ok=True)
    script = f'reportStamp("{name}");\n'
    path = folder / "stamp.js"
    replace(path, script.encode())


def _settle(out: Path) -> None:
    """Stops the page from looking for a newer one."""
    script = out / "data" / "stamp.js"
    script.unlink(missing_ok=True)
    page = out / "index.html"
    if not page.exists():
        return

    text = page.read_text(encoding="utf-8")
    settled = text.replace('<meta name="watch"', '<meta name="watched"', 1)
    replace(page, settled.encode())
