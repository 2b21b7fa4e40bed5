"""The losses against their formulas, on features of the teacher's own width."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nas.cache.standardize import Moments, fit, spectrum
from nas.distill.balance import BALANCES, AdaLoss, Balance, Dropping, Uncertainty
from nas.distill.losses import (
    LOSSES,
    PHI_S,
    TRANSFORMS,
    DistillationLoss,
    TargetTransform,
    angular_dispersion,
    squared_angle,
)
from nas.study.config import DistillConfig
from tests.nas.distill.targets_builder import standardizer, targets

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((400, 16)) @ RNG.standard_normal((16, 16)) * 3 + RNG.standard_normal(16) * 5
ESTIMATES = FEATURES + RNG.standard_normal((400, 16))


def fitted(dims: int = 16) -> object:
    moments = Moments(16)
    moments.update(FEATURES)
    return fit(spectrum(moments), dims)


def as_targets(features: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(fitted().apply(features)).float()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["raw", "global", "phi_s"])
def test_a_transform_gives_the_error_of_the_features_themselves(name: str) -> None:
    """Rotations change no squared error: with all directions kept it is that of the C channels."""
    transform = TRANSFORMS[name](fitted())
    error = LOSSES["mse"](transform.apply(as_targets(FEATURES)), transform.apply(as_targets(ESTIMATES)), transform)
    scale = {"raw": 1.0, "global": FEATURES.std(), "phi_s": math.sqrt(FEATURES.var(0).mean())}[name]
    expected = ((FEATURES - ESTIMATES) ** 2).mean(1) / scale**2
    np.testing.assert_allclose(error.numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["raw", "global"])
def test_the_squared_error_of_few_directions_is_a_mean_over_the_teachers_channels(name: str) -> None:
    part = fitted(8)
    transform = TRANSFORMS[name](part)  # type: ignore[arg-type]
    targets = [part.apply(features) for features in (FEATURES, ESTIMATES)]  # type: ignore[attr-defined]
    error = LOSSES["mse"](*(transform.apply(torch.from_numpy(t).float()) for t in targets), transform)
    u, v = (part.invert(t) for t in targets)  # type: ignore[attr-defined]
    scale = {"raw": 1.0, "global": FEATURES.std()}[name]
    np.testing.assert_allclose(error.numpy(), ((u - v) ** 2).mean(1) / scale**2, rtol=1e-2)


def test_the_angle_to_the_mean_direction_costs_one_for_any_cone(tmp_path: Path) -> None:
    """The teacher's mean lies mostly outside of the kept directions."""
    made = targets(tmp_path)
    about = replace(made.teachers["colour"], summary=standardizer(48, 8, 0))
    loss = DistillationLoss(
        replace(made, teachers={"colour": about}), DistillConfig(summary_loss="angle"), torch.device("cpu")
    )
    assert loss.transforms["colour/summary"].rest > 10
    stored = torch.from_numpy(np.array(made.train.summary["colour"])).float()
    mean = loss.transforms["colour/summary"].apply(stored.mean(0, keepdim=True)).expand_as(stored)
    (found,) = loss({"colour": {"summary": mean}}, {"colour/summary": stored}).values()
    assert found.mean().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", ["raw", "global"])
def test_directions_are_those_of_decompressed_features(name: str) -> None:
    """The mean has a part outside of the eight kept directions, which decompressed features have too."""
    part = fitted(8)
    transform = TRANSFORMS[name](part)  # type: ignore[arg-type]
    assert transform.rest > 0.1
    targets = [part.apply(features) for features in (FEATURES, ESTIMATES)]  # type: ignore[attr-defined]
    mine = [transform.apply(torch.from_numpy(t).float()) for t in targets]
    shift = {"raw": 0.0, "global": FEATURES.mean()}[name]
    u, v = (part.invert(t) - shift for t in targets)  # type: ignore[attr-defined]
    cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    distance = LOSSES["cosine"](*mine, transform)
    np.testing.assert_allclose(distance, 1 - cosine, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(LOSSES["angle"](*mine, transform), np.arccos(cosine) ** 2, rtol=1e-3, atol=1e-5)
    assert LOSSES["cosine"](*mine, PHI_S).mean() > 1.05 * distance.mean()


@pytest.mark.parametrize("size", [0.3, 30.0])
def test_smooth_l1_of_the_hybrid_is_that_of_the_teachers_channels(size: float) -> None:
    """Of 64 channels, eight are kept; differences of 0.3 are on the parabola, those of 30 on the straight lines."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((400, 64)) @ np.linalg.qr(rng.standard_normal((64, 64)))[0]
    moments = Moments(64)
    moments.update(rows)
    part = fit(spectrum(moments), 8)
    transform = TRANSFORMS["raw"](part)
    targets = torch.from_numpy(part.apply(rows)).float()
    answers = targets + size * torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    u, v = transform.apply(answers), transform.apply(targets)
    smooth = (LOSSES["hybrid"](u, v, transform) - 0.9 * LOSSES["cosine"](u, v, transform)) / 0.1
    own = [torch.from_numpy(part.invert(each.numpy())) for each in (answers, targets)]
    assert smooth.mean().item() == pytest.approx(F.smooth_l1_loss(*own).item(), rel=0.1)


def test_losses_by_hand() -> None:
    u, v = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert LOSSES["mse"](u, v, PHI_S).item() == pytest.approx((9 + 4) / 2)
    assert LOSSES["cosine"](u, v, PHI_S).item() == pytest.approx(1)
    assert LOSSES["angle"](u, v, PHI_S).item() == pytest.approx((math.pi / 2) ** 2, rel=1e-5)
    assert LOSSES["hybrid"](u, v, PHI_S).item() == pytest.approx(0.9 + 0.1 * (2.5 + 1.5) / 2)
    maps, longer = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    maps[0, 0, 0], longer[0, 0, 0] = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])
    assert LOSSES["cosine"](maps, longer, PHI_S).item() == pytest.approx(0, abs=1e-6), "each cell by its channels"


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_are_per_image_and_vanish_on_the_truth(name: str) -> None:
    maps = torch.randn(3, 8, 2, 2)
    assert LOSSES[name](maps, maps, PHI_S).abs().max() < 1e-5
    one_off = maps.clone()
    one_off[1] += torch.randn(8, 2, 2)
    assert (LOSSES[name](maps, one_off, PHI_S) > 1e-3).tolist() == [False, True, False]


def test_the_angle_has_a_finite_gradient_at_the_truth_and_opposite_it() -> None:
    for sign in (1, -1):
        u = torch.ones(1, 4, requires_grad=True)
        squared_angle(u, sign * torch.ones(1, 4), PHI_S).sum().backward()
        assert u.grad is not None
        assert torch.isfinite(u.grad).all()


def test_dispersion_grows_with_the_cone() -> None:
    axis = torch.tensor([1.0, 0, 0, 0])
    narrow, wide = axis + 0.1 * torch.randn(500, 4), axis + 0.5 * torch.randn(500, 4)
    assert angular_dispersion(narrow) < angular_dispersion(wide)
    maps = narrow.view(125, 4, 4).transpose(1, 2).reshape(125, 4, 2, 2)
    assert angular_dispersion(narrow, TargetTransform(rest=5.0)) < angular_dispersion(narrow) / 10
    assert angular_dispersion(maps) == pytest.approx(angular_dispersion(narrow), rel=1e-4)


WEIGHTS = {"a/summary": 0.5, "a/spatial": 0.5, "b/spatial": 3.0}
PER_IMAGE = {
    "a/summary": torch.tensor([1.0, 3]),
    "a/spatial": torch.tensor([2.0, 4]),
    "b/spatial": torch.tensor([0.1, 9]),
}


def test_fixed_balance_is_the_weighted_mean() -> None:
    assert Balance(WEIGHTS)(PER_IMAGE).item() == pytest.approx((0.5 * 2 + 0.5 * 3 + 3 * 4.55) / 4)


def of_teachers(*names: str) -> dict[str, torch.Tensor]:
    return {key: loss for key, loss in PER_IMAGE.items() if key[0] in names}


@pytest.mark.parametrize("make", list(BALANCES.values()))
def test_the_weight_of_a_teacher_alone_in_its_group_counts(make: type[Balance]) -> None:
    """Teacher a weighs 1 and b 3, 2 on average: alone they weigh a half and one and a half of their losses."""
    losses = {name: make(WEIGHTS)(of_teachers(name)).item() for name in "ab"}
    equal = {name: make({"a/summary": 0.5, "a/spatial": 0.5, "b/spatial": 1.0})(of_teachers(name)) for name in "ab"}
    assert losses == pytest.approx({"a": 0.5 * equal["a"].item(), "b": 1.5 * equal["b"].item()})
    both = make(WEIGHTS)(PER_IMAGE).item()
    if make is not Dropping:  # which leaves teachers out
        assert both == pytest.approx((losses["a"] + losses["b"]) / 2), "groups in turn are worth one group"


def test_uncertainty_learns_the_logarithm_of_each_loss() -> None:
    """exp(-s) L + s is least at s = log L."""
    balance = Uncertainty(WEIGHTS)
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        balance(PER_IMAGE).backward()
        optimizer.step()
    expected = [math.log(PER_IMAGE[key].mean()) for key in WEIGHTS]
    assert balance.log_variance.tolist() == pytest.approx(expected, abs=0.02)


def test_adaloss_weighs_each_loss_by_its_running_mean() -> None:
    balance = AdaLoss(dict.fromkeys(WEIGHTS, 1.0))
    assert balance(PER_IMAGE).item() == pytest.approx(1.0), "the first loss is its own mean"
    balance.end_step()
    halved = {key: loss / 2 for key, loss in PER_IMAGE.items()}
    assert balance(halved).item() == pytest.approx(0.5 / (0.98 + 0.02 * 0.5), rel=1e-5)


def test_running_means_of_adaloss_advance_once_a_step_whatever_its_parts() -> None:
    whole, accumulated = (AdaLoss(dict.fromkeys(WEIGHTS, 1.0)) for _ in range(2))
    rng = np.random.default_rng(0)
    for step in range(40):
        steps_losses = {key: torch.from_numpy(rng.random(16)) * (0.2 if step >= 20 else 1.0) for key in WEIGHTS}
        alone = whole(steps_losses)
        parts = [accumulated({key: loss.chunk(8)[part] for key, loss in steps_losses.items()}) for part in range(8)]
        for balance in (whole, accumulated):
            balance.end_step()
        torch.testing.assert_close(accumulated.running, whole.running, rtol=1e-5, atol=0)
        if step:  # of the first step, each part knows the losses up to itself alone
            torch.testing.assert_close(torch.stack(parts).mean(), alone, rtol=0.02, atol=0)


def test_dropping_keeps_the_worst_teacher_of_each_image() -> None:
    torch.manual_seed(0)
    balance = Dropping(WEIGHTS)
    means = torch.stack([balance(PER_IMAGE) for _ in range(2000)])
    # Image 0: teacher a (1.5, share 1) is the worst: alone 1.5, with b (0.3, share 3) 1.8 / 4. Image 1: b, likewise.
    first, second = (1.5 + 1.8 / 4) / 2, (27 / 3 + (3.5 + 27) / 4) / 2
    assert means.mean().item() == pytest.approx((first + second) / 2, rel=0.02)
    assert means.std() > 0
