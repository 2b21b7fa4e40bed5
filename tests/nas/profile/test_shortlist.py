"""What a predictor made of timed specs says of the others: names, and how wrong it may be."""

import random

from nas.profile.space_sample import MIN_TIMED, shortlist
from search_space import SPACES
from tests.nas.study.builders import measurement


def speed(spec) -> float:
    """Narrow nets are fast."""
    return 100 / sum(stage.depth * stage.width for stage in spec.stages)


def found(count: int, limit_img_s: float | None = None):
    rng = random.Random(0)
    specs = [SPACES["micro"].sample(rng) for _ in range(count + 40)]
    timed = [(spec, measurement(speed(spec))) for spec in specs[:count]]
    rest = specs[count:]
    return rest, shortlist(timed, rest, batch=16, resolution=64, limit_img_s=limit_img_s)


def test_the_fast_ones_are_on_it_and_the_error_is_told():
    rest, made = found(60)
    assert made.untimed == 40
    assert 0 < made.error.median_error < 0.2
    fastest = sorted(rest, key=speed, reverse=True)[:10]
    assert len(set(made.arch_ids) & {spec.arch_id for spec in fastest}) >= 5


def test_who_cannot_keep_the_limit_is_left_out():
    _, made = found(60, limit_img_s=1000 * 10 * max(speed(spec) for spec in found(60)[0]))
    assert made.arch_ids == ()


def test_few_timed_specs_make_no_predictor():
    assert found(MIN_TIMED - 1)[1] is None
