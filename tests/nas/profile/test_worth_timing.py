"""The untimed specs that are worth timing, and the error of the predictor behind them."""

import random

from nas.profile.space_sample import MIN_TIMED, worth_timing
from search_space import SPACES
from tests.nas.study.builders import measurement


def speed(spec) -> float:
    """Return a speed that falls with depth and width."""
    return 100 / sum(stage.depth * stage.width for stage in spec.stages)


def fastest_untimed(count: int, limit_img_s: float | None = None):
    rng = random.Random(0)
    specs = [SPACES["micro"].sample(rng) for _ in range(count + 40)]
    timed = [(spec, measurement(speed(spec))) for spec in specs[:count]]
    rest = specs[count:]
    return rest, worth_timing(timed, rest, batch=16, resolution=64, limit_img_s=limit_img_s)


def test_fast_specs_are_on_it_and_the_error_is_positive():
    rest, result = fastest_untimed(60)
    assert result.untimed == 40
    assert 0 < result.error.median_error < 0.2
    fastest = sorted(rest, key=speed, reverse=True)[:10]
    assert len(set(result.arch_ids) & {spec.arch_id for spec in fastest}) >= 5


def test_specs_that_cannot_keep_the_limit_are_left_out():
    _, result = fastest_untimed(60, limit_img_s=1000 * 10 * max(speed(spec) for spec in fastest_untimed(60)[0]))
    assert result.arch_ids == ()


def test_few_timed_specs_make_no_predictor():
    assert fastest_untimed(MIN_TIMED - 1)[1] is None
