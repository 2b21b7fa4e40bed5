"""Fixtures of the report's tests: one browser, one stored study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nas.study.records import TrialState
from tests.reports import synthetic
from tests.reports.browser import CHROMIUM, Browser


@pytest.fixture(scope="session")
def running_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start one Chromium for all tests."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def browser(running_browser: Browser) -> Browser:
    """Return the shared Chromium; each page that a test opens has a new tab."""
    return running_browser


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small finished study, stored as `nas.search` stores it. Read only."""
    folder = tmp_path_factory.mktemp("stored") / "run"
    synthetic.store_study(synthetic.study(6, baselines=False, only=TrialState.COMPLETE), folder)
    return folder
