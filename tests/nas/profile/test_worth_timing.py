"""The untimed specs that are worth timing, and the error of the predictor behind them."""

import random
from dataclasses import replace

from nas.measure import Arm
from nas.profile.space_sample import MIN_TIMED, worth_timing
from nas.samplers.latency.stage_costs import stage_costs
from nas.study.records import REST
from search_space import SPACES
from tests.nas.study.builders import measurement

EAGER = Arm()


def speed(spec) -> float:
    """Return a speed that falls with depth and width."""
    return 100 / sum(stage.depth * stage.width for stage in spec.stages)


def stages_of(spec) -> dict[str, float]:
    """Return times of stages that add up to the inverse of the speed."""
    sizes = {f"stage{i}": stage.depth * stage.width / 100 for i, stage in enumerate(spec.stages, start=1)}
    return {stage.name: sizes.get(stage.name, 0.0) for stage in stage_costs(spec, 16, 64)} | {REST: 0.0}


def fastest_untimed(count: int, limit_img_s: float | None = None, *, by_stage: bool = False, arm: Arm = EAGER):
    rng = random.Random(0)
    specs = [SPACES["micro"].sample(rng) for _ in range(count + 40)]
    stages = [stages_of(spec) if by_stage else {} for spec in specs]
    timed = [
        (spec, replace(measurement(speed(spec)), stages_s=of)) for spec, of in zip(specs[:count], stages, strict=False)
    ]
    rest = specs[count:]
    return rest, worth_timing(timed, rest, batch=16, resolution=64, arm=arm, limit_img_s=limit_img_s)


def test_fast_specs_are_on_it_and_the_error_is_positive():
    rest, result = fastest_untimed(60)
    assert result.untimed == 40
    assert 0 < result.error.median_error < 0.2
    fastest = sorted(rest, key=speed, reverse=True)[:10]
    assert len(set(result.arch_ids) & {spec.arch_id for spec in fastest}) >= 5


def test_specs_that_cannot_keep_the_limit_are_left_out():
    _, result = fastest_untimed(60, limit_img_s=1000 * 10 * max(speed(spec) for spec in fastest_untimed(60)[0]))
    assert result.arch_ids == ()


def test_times_of_stages_make_predictions_more_exact_where_they_are_of_the_same_runtime():
    plain, by_stage = (fastest_untimed(20, by_stage=stages)[1].error.median_error for stages in (False, True))
    assert by_stage < 0.7 * plain
    compiled = fastest_untimed(20, by_stage=True, arm=Arm("onnxruntime"))[1]
    assert compiled == fastest_untimed(20)[1]


def test_few_timed_specs_make_no_predictor():
    assert fastest_untimed(MIN_TIMED - 1)[1] is None
