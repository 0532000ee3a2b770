"""Chromium without a window, driven through its DevTools pipe: the page's real DOM, its console and every request it makes."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))),
    None,
)
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions", "--disable-background-networking",
          "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe")  # fmt: skip


_LEFT = (
    "Inspected target navigated or closed",
    "Execution context was destroyed",
    "Cannot find context",
    "Cannot find default execution",
    "Promise was collected",
)


class PageLeft(RuntimeError):
    """The page was left while a command waited for its answer."""


class Browser:
    """One process, one tab. errors: exceptions and console errors. requests: addresses asked for since the last open()."""

    def __init__(self, profile: Path, executable: str | None = CHROMIUM):
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        # bash, since other shells know descriptors of one digit only
        command = [
            "bash",
            "-c",
            f'exec "$0" "$@" 3<&{there} 4>&{back}',
            str(executable),
            *_FLAGS,
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(there)
        os.close(back)
        self._buffer, self._last = b"", 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._session: str | None = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = next(
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        self._session = self.call(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command. Raises RuntimeError where Chromium refuses it, TimeoutError after 60 s."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | (
            {"sessionId": self._session} if self._session else {}
        )
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            answer = self._next(end)
            if answer.get("id") == self._last:
                if "error" in answer:
                    left = answer["error"].get("message", "").startswith(_LEFT)
                    raise (PageLeft if left else RuntimeError)(f"{method}: {answer['error']}")
                return answer["result"]  # type: ignore[no-any-return]
        raise TimeoutError(method)

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            if not ready:
                return {}
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        self._note(answer.get("method"), answer.get("params", {}))
        return answer

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(
                " ".join(str(a.get("value", a.get("description"))) for a in params["args"])
            )
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def open(
        self,
        page: Path,
        hash: str = "",
        width: int = 1200,
        dark: bool = False,
        ready: str = "plotsReady",
    ) -> None:
        """Loads the page afresh and waits for its promise `ready`, by default until its charts are drawn."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.dark(dark)
        self.call("Page.navigate", url="about:blank")
        self.errors.clear()
        self.requests.clear()
        self.call("Page.navigate", url=f"{page.resolve().as_uri()}{hash}")
        self.until(f"document.readyState === 'complete' && typeof {ready} === 'object'")
        self.until(f"await {ready}.then(() => true)")

    def dark(self, on: bool) -> None:
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if on else "light"}],
        )

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited. Raises RuntimeError where it throws."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(
                f"{expression}: {answer['exceptionDetails'].get('exception', {}).get('description')}"
            )
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> None:
        """Waits for a condition, also over a page that loads itself again meanwhile. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not self._true(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; errors: {self.errors}")
            time.sleep(0.05)

    def _true(self, expression: str) -> bool:
        try:
            return self.run(f"(async () => Boolean({expression}))()") is True
        except PageLeft:
            return False

    def mouse(self, kind: str, x: float, y: float, pressed: bool = False) -> None:
        """kind: mouseMoved, mousePressed or mouseReleased, in pixels of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="none" if kind == "mouseMoved" and not pressed else "left",
                  buttons=int(pressed), clickCount=1)  # fmt: skip

    def key(self, name: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Of the window, or of the whole page."""
        path.write_bytes(
            base64.b64decode(
                self.call(
                    "Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole)
                )["data"]
            )
        )

    def _clip(self, whole: bool) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return (
            {
                "clip": {
                    "x": 0,
                    "y": 0,
                    "width": size["width"],
                    "height": min(size["height"], 12000),
                    "scale": 1,
                }
            }
            if whole
            else {}
        )
