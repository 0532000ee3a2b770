"""tbn-bench report --watch: the report again whenever a record changed; its page loads itself again in the reader's browser."""

import os
import time
from pathlib import Path
from typing import Any

from tbn_bench.records.store import RunStore, replace, tell
from tbn_bench.reporting import build
from tbn_bench.runs import index

SHARE = 3  # a build is followed by at least so many times its duration of rest: a sweep on the same machine needs its cores
_DAMAGE = (
    ValueError,
    OSError,
    KeyError,
    TypeError,
    AttributeError,
)  # what a record half written or of another shape may cause


def stamp(results: Path) -> dict[str, list[int]]:
    """Changes with every run that begins or ends, every measurement and every published number."""
    found = {}
    for sweep, run_id in RunStore(results).folders([]):
        found[f"{sweep}/{run_id}"] = index.stamp(f"{results}/runs/{sweep}/{run_id}")
    for path in [
        *results.glob("latency/*/*.json"),
        *results.glob("mcu/*/*.json"),
        *results.glob("published/*.csv"),
    ]:
        try:
            stat = os.stat(path)
        except OSError:  # replaced just now: seen at the next look
            continue
        found[str(path)] = [stat.st_mtime_ns, stat.st_size, stat.st_ino]
    return found


def watch(results: Path, out: Path, every_s: float = 10.0) -> dict[str, Any]:
    """Until Ctrl-C; the page that stays behind is an ordinary one. Raises ValueError for an interval that is not positive."""
    if not every_s > 0:
        raise ValueError(f"--every must be more than 0 seconds, got {every_s:g}")
    last: dict[str, Any] = {"page": None, "runs": 0, "finished": 0, "unreadable": 0}
    seen, builds = None, 0
    try:
        while True:
            began, now = time.monotonic(), stamp(results)
            if now != seen:
                seen = now
                if (done := _built(results, out, every_s)) is not None:
                    last, builds = done, builds + 1
                    _announce(out, f"{os.getpid()}-{builds}")
                tell(f"{time.strftime('%H:%M:%S')} watching {results}; Ctrl-C ends it")
            time.sleep(max(every_s, SHARE * (time.monotonic() - began)))
    except KeyboardInterrupt:
        _settle(out)
    return last | {"builds": builds}


def _built(results: Path, out: Path, every_s: float) -> dict[str, Any] | None:
    """What report says; None where it could not be built this time, and why on stdout."""
    try:
        return build.report(results, out, every_s)
    except _DAMAGE as error:
        tell(f"not built this time: {error}")
        return None


def _announce(out: Path, name: str) -> None:
    """The script by which the open page learns that there is another one."""
    (out / "data").mkdir(exist_ok=True)
    replace(out / "data" / "stamp.js", f'reportStamp("{name}");\n'.encode())


def _settle(out: Path) -> None:
    """The page looks for no successor any more."""
    page = out / "index.html"
    (out / "data" / "stamp.js").unlink(missing_ok=True)
    if page.exists():
        replace(
            page,
            page.read_text(encoding="utf-8")
            .replace('<meta name="watch"', '<meta name="watched"', 1)
            .encode(),
        )
