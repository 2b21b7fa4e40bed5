"""Opens a page in headless Chromium, without a network, and hands back what came of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
        timeout=90,
        check=False,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
