"""What cannot work is refused before a search builds anything: limits that nothing keeps, a runtime that fails."""

from __future__ import annotations

import random
import re
from importlib import import_module
from pathlib import Path

import pytest

from nas.measure.counts.totals import totals
from nas.search.__main__ import main
from nas.search.preconditions import _least_costs, check_limits, unseen_images
from nas.study.config import DistillConfig, Group, SearchConfig
from nas.study.limits import Totals
from nas.validation import ConfigError
from search_space import SPACES, ArchSpec


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[ArchSpec]:
    """Return the architectures whose costs were counted, as they are counted."""
    specs: list[ArchSpec] = []

    def noted(spec: ArchSpec, img_size: int) -> Totals:
        specs.append(spec)
        return totals(spec, img_size)

    monkeypatch.setattr(import_module("nas.measure.counts.totals"), "totals", noted)
    return specs


def test_a_limit_far_below_the_space_is_refused_without_a_count(counted: list[ArchSpec]) -> None:
    for limits in ({"max_params": 1.0}, {"max_gmacs": 1e-5}):
        with pytest.raises(ConfigError, match="far below what the architectures of the space laptop need"):
            check_limits(SearchConfig(limits=limits))
    assert counted == []


def test_smaller_choices_than_those_of_the_space_are_counted(counted: list[ArchSpec]) -> None:
    stages = {"blocks": ["mbconv"], "widths": [4], "depths": [1], "mlp_expansions": [1], "heads": [1]}
    choices = {"stages": stages, "layouts": {"necks": ["none"]}}
    limited = SearchConfig(choices=choices, limits={"max_params": 3e3})
    assert "random architectures are within" in str(check_limits(limited))
    assert {stage.width for spec in counted for stage in spec.stages} == {4}


@pytest.mark.parametrize("space", SPACES)
def test_the_least_costs_of_a_space_are_those_of_small_architectures(space: str) -> None:
    """The smallest of 2,000 architectures do not cost less, nor much more."""
    px = SPACES[space].image_px
    config = SearchConfig(space=space, distill=DistillConfig(img_size=px))
    least, rng = _least_costs(config), random.Random(1)
    specs = [SPACES[space].sample(rng) for _ in range(2000)]
    specs.sort(key=lambda spec: sum(stage.depth * stage.width**2 for stage in spec.stages))
    costs = [totals(spec, px) for spec in specs[:10]]
    for name in ("params", "macs"):
        smallest, known = min(getattr(each, name) for each in costs), getattr(least, name)
        assert 0.999 * known <= smallest <= 3 * known


def test_a_limit_just_below_the_space_is_refused_after_all_counts(counted: list[ArchSpec]) -> None:
    with pytest.raises(ConfigError, match="far below") as far:
        check_limits(SearchConfig(limits={"max_params": 1.0}))
    known = float(str(far.value).rpartition(" are ")[2].partition(" for ")[0].replace(",", ""))
    with pytest.raises(
        ConfigError, match="none of 200 random architectures of the space laptop is within this limit"
    ) as few:
        check_limits(SearchConfig(limits={"max_params": known / 2}))
    assert len(counted) == 200
    smallest = float(str(few.value).rpartition(" is ")[2].partition(" for ")[0].replace(",", ""))
    assert check_limits(SearchConfig(limits={"max_params": smallest})).startswith("1 of 200")


@pytest.mark.parametrize(
    ("images", "views", "groups", "advice"),
    [
        (8640, 1, (), ""),
        (8641, 1, (), "sees at most 8,640 of the 8,641 images .270 steps of 32 images.*--train-images 8640"),
        (5000, 2, (), "sees at most 8,640 of the 10,000 views of images .*--train-images 4320"),
        (10_000, 1, (Group(("hed",), 64, (64,)),), ""),
    ],
)
def test_images_that_no_candidate_trains_on_are_named(
    images: int, views: int, groups: tuple[Group, ...], advice: str
) -> None:
    config = SearchConfig(train_images=images, views=views, distill=DistillConfig(groups=groups))
    assert re.search(advice, unseen_images(config)) if advice else unseen_images(config) == ""


@pytest.mark.slow
def test_without_a_compiler_a_search_ends_before_its_teachers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr("nas.search.session.open_targets", lambda *words: pytest.fail("the teachers ran"))
    assert main(["--device", "cpu", "--runtime", "compiled", "--run", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert "checking the runtime compiled+fp32: 0/1" in shown
    (line,) = [line for line in shown if line.startswith("error: ")]
    assert "no-compiler" in line
    assert "apt install gcc g++ python3-dev; until then give --runtime eager+fp32" in line
