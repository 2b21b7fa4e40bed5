"""A headless Chromium without a network, spoken to over a pipe by the DevTools protocol, as a person would use it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 120.0  # ends what hangs
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe", "--window-size=1280,900",
)  # fmt: skip


def open_page(page: Path, tmp_path: Path, fragment: str = "") -> tuple[str, list[str]]:
    """Open a page in a browser of its own.

    Returns:
        The document after its scripts ran, and the lines that the page wrote to the console.
    """
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page, fragment)
        return browser.document(), browser.console
    finally:
        browser.close()


class BrowserError(RuntimeError):
    """The browser refused a command."""


class Browser:
    """A running Chromium with one tab at a time; `console` holds what the tab's page wrote there."""

    def __init__(self, profile: Path) -> None:
        """Start Chromium with its own profile folder."""
        assert CHROMIUM is not None
        to_browser, from_browser = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (to_browser[0], from_browser[1])]

        def connect() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, preexec_fn=connect, pass_fds=(3, 4), stdout=quiet, stderr=quiet)
        for fd in (*ends, to_browser[0], from_browser[1]):
            os.close(fd)
        self._write, self._read = os.fdopen(to_browser[1], "wb"), os.fdopen(from_browser[0], "rb")
        self._asked = 0
        self._target: str | None = None
        self._session: str | None = None
        self.console: list[str] = []

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a page in a new tab, close the old one, and return when the page's charts are drawn."""
        old, self._session = self._target, None
        self._target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        self.console = []
        self.send("Runtime.enable")
        self.send("Log.enable")
        self.send("Page.navigate", url=page.resolve().as_uri() + fragment)
        self.wait("location.protocol === 'file:' && document.documentElement?.dataset.charts === 'ready'")
        if old is not None:
            session, self._session = self._session, None
            self.send("Target.closeTarget", targetId=old)
            self._session = session

    def document(self) -> str:
        """Return the document as it is now."""
        return str(self.evaluate("document.documentElement.outerHTML"))

    def send(self, method: str, **parameters: Any) -> Any:
        """Return the result of a command of the DevTools protocol."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        message |= {} if self._session is None else {"sessionId": self._session}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := json.loads(self._message())).get("id") != self._asked:
            self._listen(answer)
        if "error" in answer:
            raise BrowserError(answer["error"]["message"])
        return answer["result"]

    def _listen(self, event: dict[str, Any]) -> None:
        """Note what a page says: console calls, uncaught exceptions, and the log, which has policy violations."""
        if event.get("sessionId") != self._session:
            return
        if event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(event["params"]))

    def _message(self) -> bytes:
        read = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser is gone"
            read += byte
        return bytes(read)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or what a promise resolves to."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        self.expect(f"Boolean({condition})", True)

    def expect(self, expression: str, value: object) -> None:
        """Wait until a JavaScript expression has a value: what an input does to a page may come after its answer."""
        until, last = time.monotonic() + LIMIT_S, None
        while True:
            with suppress(BrowserError):  # the page is loading
                if (last := self.evaluate(expression)) == value:
                    return
            assert time.monotonic() < until, f"{expression} is {last!r}, not {value!r}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press a key and release it."""
        code = {"Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        texts = {"Enter": "\r", " ": " "}
        text = {"text": texts[key]} if key in texts else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move over the others, release at the last; one point is a click."""
        self._mouse("mouseMoved", points[0], 0)
        self._mouse("mousePressed", points[0], 1)
        for point in points[1:]:
            self._mouse("mouseMoved", point, 1)
        self._mouse("mouseReleased", points[-1], 0)

    def _mouse(self, kind: str, point: tuple[float, float], buttons: int) -> None:
        where = {"x": point[0], "y": point[1]}
        self.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=buttons, clickCount=1, **where)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(LIMIT_S)
        self._write.close()
        self._read.close()
