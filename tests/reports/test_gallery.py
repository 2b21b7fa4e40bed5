import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.run_folder import PICTURES, sheet_path
from nas.study.contact_sheet import TILE_PX, ContactSheet
from nas.study.records import StudyRecord
from reports.gallery import GAP_PX, MAX_MODELS, read_gallery
from reports.page import render
from reports.summary import summarize
from tests.reports import synthetic
from tests.reports.awkward import ATTACKS

SHARED = (("image", ""), ("teacher", "hed"))
OWN = (("student", "hed"), ("own", ""))
COLUMNS = ("animal", "tool", "sky")


def sheet(seed: int, rows=SHARED + OWN, columns=COLUMNS) -> ContactSheet:
    """Make a sheet of noise as images and 4 x 4 squares as maps; the first two rows are the same for every seed."""
    tiles = []
    for i in range(len(rows)):
        rng = np.random.default_rng(i if i < len(SHARED) else [seed, i])
        cells = rng.integers(0, 255, (len(columns), *((TILE_PX,) * 2 if i == 0 else (4, 4)), 3), dtype=np.uint8)
        times = TILE_PX // cells.shape[1]
        tiles.append(cells.repeat(times, 1).repeat(times, 2))
    return ContactSheet(rows, columns, np.stack(tiles))


@pytest.fixture(scope="module")
def study() -> StudyRecord:
    return synthetic.study(24)


def pictured(study: StudyRecord, folder: Path, **made) -> Path:
    """Fill the folder of a run with the sheet of every model that was trained to the last rung."""
    (folder / PICTURES).mkdir()
    for trial in study.trials:
        if len(trial.rungs) == 3:
            sheet(trial.number, **made).write(sheet_path(folder / PICTURES, trial.arch_id))
    return folder


@pytest.fixture(scope="module")
def run(study, tmp_path_factory) -> Path:
    return pictured(study, tmp_path_factory.mktemp("run"))


def test_front_and_best_baseline_are_shown_and_shared_strips_are_there_once(study, run):
    summary = summarize(study)
    shown = read_gallery(run, summary)
    shown_numbers = [p.model.trial.number for p in (*shown.first, *shown.more)]
    wanted = [*(s.trial.number for s in summary.front), summary.best_baseline.trial.number]
    assert sorted(shown_numbers) == sorted(wanted)
    assert len(wanted) <= MAX_MODELS
    assert len(shown.first) == 4
    recommended = summary.recommendation.trial.number
    assert [p.model.trial.number for p in shown.first if "recommended" in p.status] == [recommended]
    assert len(shown.strips) == 2 + 2 * len(wanted)
    page = render(study, summary, shown)
    assert page.count("<image ") == len(shown.strips)
    assert page.count("<use ") == 4 * len(wanted)
    assert all(page.count(f">{word}</span>") == len(wanted) for word in COLUMNS)


def test_a_strip_shows_its_tiles_with_gaps_and_maps_exactly(study, run):
    shown = read_gallery(run, summarize(study))
    first = shown.first[0]
    uri = shown.strips[first.rows[2].strip].uri
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))))
    tiles = sheet(first.model.trial.number).tiles[2]
    pitch = TILE_PX + GAP_PX
    assert pixels.shape == (TILE_PX, 3 * pitch - GAP_PX, 4)
    assert (pixels[:, pitch : pitch + TILE_PX, :3] == tiles[1]).all()
    assert (pixels[:, TILE_PX:pitch, 3] == 0).all()


def test_missing_and_broken_pictures_leave_no_hole(study, tmp_path):
    summary = summarize(study)
    assert read_gallery(tmp_path, summary) is None
    (tmp_path / PICTURES).mkdir()
    one, two = (s.trial.arch_id for s in summary.front[:2])
    sheet_path(tmp_path / PICTURES, one).write_bytes(b"\x89PNG broken")
    assert read_gallery(tmp_path, summary) is None
    sheet(0).write(sheet_path(tmp_path / PICTURES, two))
    shown = read_gallery(tmp_path, summary)
    assert [p.model.trial.arch_id for p in shown.first + shown.more] == [two]
    assert render(study, summary, shown).count('class="sheet"') == 1


def test_words_of_a_picture_never_become_markup(study, tmp_path):
    attack = "".join(ATTACKS)
    rows = ((attack, attack), ("teacher", attack), ("student", attack), ("own", ""))
    summary = summarize(study)
    page = render(study, summary, read_gallery(pictured(study, tmp_path, rows=rows, columns=(attack,) * 3), summary))
    found = Tags(page)
    assert not found.tags & {"img", "iframe"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "&lt;iframe" in page


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes = set(), set()
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_a_name_that_leads_elsewhere_finds_nothing(study, tmp_path):
    outside = tmp_path / "secret.png"
    sheet(0).write(outside)
    (tmp_path / "run" / PICTURES).mkdir(parents=True)
    trials = tuple(replace(t, arch_id="../../secret") for t in study.trials)
    assert read_gallery(tmp_path / "run", summarize(replace(study, trials=trials))) is None
