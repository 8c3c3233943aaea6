"""A real Chromium for the tests of the page, driven through a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
DUMPING = (*FLAGS, "--virtual-time-budget=8000", "--dump-dom")
"""Flags for a page that drives itself and leaves what it saw in the document."""

PATIENCE = 60.0


class Browser:
    """One tab of a headless Chromium with an empty profile; a context manager.

    troubles: errors that pages have logged or thrown. asked: addresses of everything requested.
    """

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self.asked: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._last, self._left, self._session = 0, b"", ""
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={self._profile.name}"]
        self._process, self._to, self._from = _start([*command, "--remote-debugging-pipe"])

    def __enter__(self) -> Browser:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result; events that come first are noted."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            piece = os.read(self._from, 1 << 16)
            if not piece:
                raise RuntimeError("Chromium has ended")
            self._left += piece
        first, self._left = self._left.split(b"\0", 1)
        return dict(json.loads(first))

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.troubles.append(json.dumps(told["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.troubles.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.troubles.append(json.dumps(told["args"]))
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def size(self, width: int, height: int, phone: bool = False, dark: bool = False) -> None:
        """Set the viewport in CSS pixels and the scheme that the system prefers."""
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    def open(self, address: str) -> None:
        """Open an address and wait until the script of the page has begun."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        self.until("document.documentElement?.dataset.ready !== undefined")

    def run(self, code: str) -> Any:
        """Return the JSON value of an expression; promises are awaited."""
        told = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(json.dumps(told["exceptionDetails"])[:2000])
        return told["result"].get("value")

    def until(self, code: str) -> Any:
        """Return the first true value of an expression; raises TimeoutError after a minute."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.run(code):
                return value
            time.sleep(0.05)
        raise TimeoutError(code)

    def press(self, key: str) -> None:
        """Press and release a key, as the keyboard would."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def point(self, selector: str, across: float, kind: str = "mouseMoved") -> None:
        """Move or press the pointer at a fraction of an element's width, at its middle height."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"JSON.parse(JSON.stringify({found}.getBoundingClientRect()))")
        x, y = box["x"] + across * box["width"], box["y"] + box["height"] / 2
        extra = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **extra)

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        for kind in ("mousePressed", "mouseReleased"):
            self.point(selector, 0.5, kind)

    def shoot(self, path: Path) -> None:
        """Write a PNG of the viewport."""
        path.write_bytes(self.picture())

    def picture(self) -> bytes:
        """Return a PNG of the viewport."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD_CLOEXEC, 10) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from file descriptor 3 and answers on 4, so those must be the pipe's."""


def _start(command: list[str]) -> tuple[subprocess.Popen[bytes], int, int]:
    """Start Chromium; return the process and our ends: for commands, and for answers."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", LAUNCH, str(theirs_in), str(theirs_out), *command],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    return process, ours_out, ours_in
