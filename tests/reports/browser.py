"""Opens a page in headless Chromium, without a network, and hands back what came of it."""

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

from tests.waiting import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--dump-dom",
)  # fmt: skip


def open_page(page: Path, tmp_path: Path, fragment: str = "") -> tuple[str, list[str]]:
    """(the document after its scripts ran, lines that the page wrote to the console)."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *OPTIONS, profile, page.resolve().as_uri() + fragment],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


class BrowserError(RuntimeError):
    """The browser refused a command."""


class Tab:
    """One tab of a headless Chromium, spoken to over a pipe (DevTools protocol): a test uses it as a person does."""

    def __init__(self, page: Path, profile: Path) -> None:
        assert CHROMIUM is not None
        to_browser, to_read = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (to_browser[0], to_read[1])]

        def connect() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        options = [o for o in OPTIONS if not o.startswith(("--virtual-time", "--dump", "--enable-logging", "--v="))]
        command = [
            CHROMIUM,
            *options,
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--window-size=1280,900",
        ]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, preexec_fn=connect, pass_fds=(3, 4), stdout=quiet, stderr=quiet)
        for fd in (*ends, to_browser[0], to_read[1]):
            os.close(fd)
        self._write, self._read = os.fdopen(to_browser[1], "wb"), os.fdopen(to_read[0], "rb")
        self._asked = 0
        self.open(page)

    def open(self, page: Path) -> None:
        """Another page, in a tab of its own; returns when its charts are drawn."""
        self._session: str | None = None
        target = self.send("Target.createTarget", url=page.resolve().as_uri())["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.wait("document.documentElement?.dataset.charts === 'ready'")

    def send(self, method: str, **parameters: Any) -> Any:
        """The result of a command."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        message |= {} if self._session is None else {"sessionId": self._session}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while (answer := json.loads(self._message())).get("id") != self._asked:
            pass  # an event
        if "error" in answer:
            raise BrowserError(answer["error"]["message"])
        return answer["result"]

    def _message(self) -> bytes:
        read = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser is gone"
            read += byte
        return bytes(read)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; of a promise, what it comes to."""
        result = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE_S) -> None:
        """Until a JavaScript condition holds."""
        until = time.monotonic() + seconds
        while True:
            with suppress(BrowserError):  # the page is on its way
                if self.evaluate(condition):
                    return
            assert time.monotonic() < until, condition
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """A key, down and up."""
        code = {"Enter": 13, "Escape": 27}.get(key, 0)
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def drag(self, *points: tuple[float, float]) -> None:
        """The mouse goes down at the first point, over the others, and up at the last; one point is a click."""
        self._mouse("mouseMoved", points[0], 0)
        self._mouse("mousePressed", points[0], 1)
        for point in points[1:]:
            self._mouse("mouseMoved", point, 1)
        self._mouse("mouseReleased", points[-1], 0)

    def _mouse(self, kind: str, point: tuple[float, float], buttons: int) -> None:
        where = {"x": point[0], "y": point[1]}
        self.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=buttons, clickCount=1, **where)

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait(20)
        self._write.close()
        self._read.close()
