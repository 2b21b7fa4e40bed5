"""Every picture of the documentation that is drawn from published rows can be drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.pictures import DOCS, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_that_of_the_published_rows(name: str, tmp_path: Path) -> None:
    PICTURES[name](tmp_path / name)
    drawn, committed = imread(tmp_path / name)[..., :3], imread(DOCS / name)[..., :3]
    assert drawn.shape == committed.shape
    # Other versions of matplotlib move a line by a fraction of a pixel; other rows move many.
    assert np.mean(np.abs(drawn - committed) > 0.5) < 0.01
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *DOCS.glob("*/*.md")]
    assert any(f"{name})" in page.read_text() for page in pages), "no page shows it"
