"""Numbers of images from made shares, whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from nas.analysis.image_choice import MIN_IMAGE_TAU, ImageEvidence, enough_images, image_evidence


def made(spread: float, private: float, common: float = 5.0, models: int = 12, images: int = 1024) -> np.ndarray:
    """Shares of models whose scores are `spread` apart, with noise of each model's own and of all."""
    rng = np.random.default_rng(1)
    noise = private * rng.standard_normal((models, images)) + common * rng.standard_normal(images)
    return spread * np.arange(models)[:, None] + noise


def test_what_an_image_adds_to_all_models_is_no_noise() -> None:
    evidence = image_evidence(made(spread=0.01, private=0.0))
    assert [each.images for each in evidence] == [1024, 512, 256, 128, 64, 32]
    assert [each.tau_to_all for each in evidence] == pytest.approx([1.0] * 6)
    assert [each.tau_of_draws for each in evidence] == [None, *[pytest.approx(1.0)] * 5]
    assert max(each.noise or 0 for each in evidence) < 1e-9
    assert enough_images([evidence]) == 32


def test_noise_falls_with_the_square_root_of_the_images_and_bounds_the_agreement() -> None:
    evidence = {each.images: each for each in image_evidence(made(spread=1.0, private=6.0))}
    spread = np.std(np.arange(12), ddof=1)
    for count in (1024, 64):
        assert evidence[count].noise == pytest.approx(6.0 / count**0.5 / spread, rel=0.1)
    taus = [evidence[count].tau_of_draws or 0.0 for count in (512, 256, 64, 32)]
    assert taus == sorted(taus, reverse=True)
    assert taus[0] > MIN_IMAGE_TAU > taus[-1]
    assert all((evidence[count].tau_to_all or 0) > (evidence[count].tau_of_draws or 0) for count in (512, 256, 64, 32))
    enough = enough_images([list(evidence.values())])
    assert enough in (64, 128, 256)
    assert (evidence[enough].tau_of_draws or 0) >= MIN_IMAGE_TAU > (evidence[enough // 2].tau_of_draws or 0)


def test_images_that_do_not_tell_the_models_apart_are_never_enough() -> None:
    assert enough_images([image_evidence(made(spread=0.001, private=6.0))]) is None
    same = image_evidence(np.ones((12, 32)))
    assert {(each.tau_to_all, each.tau_of_draws, each.noise) for each in same} == {(None, None, None)}
    assert enough_images([same]) is None


def numbers(*taus: float | None) -> list[ImageEvidence]:
    return [ImageEvidence(64 // 2**i, 1.0, tau, 0.0) for i, tau in enumerate(taus)]


def test_a_number_is_enough_if_every_rung_and_every_larger_number_agrees() -> None:
    assert enough_images([numbers(None, 0.99, 0.95, 0.8)]) == 16
    assert enough_images([numbers(None, 0.99, 0.95, 0.8), numbers(None, 0.92, 0.85, 0.95)]) == 32
    assert enough_images([numbers(None, 0.89, 0.95)]) is None
    assert enough_images([numbers(None)]) is None
