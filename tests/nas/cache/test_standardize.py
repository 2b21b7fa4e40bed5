"""PHI-S: equal variances, invertible, the same for any batch size; Hadamard matrices are Hadamard matrices."""

from pathlib import Path

import numpy as np
import pytest

from nas.cache import CacheError
from nas.cache.hadamard import hadamard, spreading_rotation
from nas.cache.standardize import STATISTICS_FILE, Moments, calibrate, choose_dims, fit, load_statistics, spectrum
from nas.teachers import TeacherError


@pytest.fixture
def rows():
    """1,000 rows of 24 correlated channels on very different scales, far from zero."""
    rng = np.random.default_rng(0)
    mixed = rng.standard_normal((1000, 24)) @ rng.standard_normal((24, 24))
    return mixed * np.geomspace(0.01, 100, 24) + 1000


def moments_of(rows, batch):
    moments = Moments(rows.shape[1])
    for start in range(0, len(rows), batch):
        moments.update(rows[start : start + batch])
    return moments


# Neither Paley's constructions over fields of p or p^2 elements nor products of them give these orders.
NONE_HERE = {92, 116, 156, 172, 184, 188, 232, 236}


def test_hadamard_matrices_of_all_documented_orders():
    """Rows of signs are orthogonal, for every multiple of 4 up to 256 but the eight above.

    Orders 52 and 100 need fields of 25 and 49 elements.
    """
    orders = [1, 2, *range(4, 257, 4)]
    assert {n for n in orders if hadamard(n) is None} == NONE_HERE
    for n in set(orders) - NONE_HERE:
        matrix = hadamard(n)
        assert set(np.unique(matrix)) <= {-1.0, 1.0}
        np.testing.assert_array_equal(matrix @ matrix.T, n * np.eye(n))


def test_products_of_other_orders():
    """Lite0 has 1,280 = 20 x 64 channels."""
    np.testing.assert_allclose(np.abs(spreading_rotation(1280)), 1 / np.sqrt(1280))


@pytest.mark.parametrize("n", [3, 6, 10, 22, 92])
def test_a_random_rotation_replaces_a_missing_hadamard_matrix(n):
    assert hadamard(n) is None
    rotation = spreading_rotation(n)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_moments_are_the_same_for_any_batch_size(rows, batch):
    """To 1e-12 of the largest, though the mean is ten thousand times some deviations."""
    moments, whole = moments_of(rows, batch), moments_of(rows, 1000)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, whole.covariance, rtol=0, atol=1e-12 * whole.covariance.max())
    np.testing.assert_allclose(whole.covariance, np.cov(rows.T, bias=True), rtol=0, atol=1e-9)
    ours, theirs = (fit(spectrum(m), 16).apply(rows) for m in (moments, whole))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dims", [4, 16, 24])
def test_every_channel_has_mean_0_and_variance_1(rows, dims):
    targets = fit(spectrum(moments_of(rows, 100)), dims).apply(rows)
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(targets.var(0), 1, rtol=1e-6)


def test_it_is_a_rotation_and_one_scalar_not_whitening(rows):
    fitted = fit(spectrum(moments_of(rows, 100)), 24)
    gram = fitted.forward @ fitted.forward.T
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(24), atol=1e-9 * gram[0, 0])


def test_invert_is_exact_at_full_width_and_loses_the_rest_of_kept(rows):
    principal = spectrum(moments_of(rows, 100))
    whole, part = fit(principal, 24), fit(principal, 2)
    assert whole.kept == pytest.approx(1)
    np.testing.assert_allclose(whole.invert(whole.apply(rows)), rows, rtol=1e-9)
    lost = ((part.invert(part.apply(rows)) - rows) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum()
    assert lost == pytest.approx(1 - part.kept, abs=1e-6)
    assert 0.5 < part.kept < 1


FALLING = 0.9 ** np.arange(64)


def kept(values, k):
    return values[:k].sum() / values.sum()


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_heads_divide_the_budget_at_the_same_loss(share):
    """The budget holds, orders have Hadamard matrices, and neither head could keep more without breaking it."""
    values, cells = {"summary": FALLING**0.3, "spatial": FALLING}, {"summary": 1, "spatial": 16}
    dims = choose_dims(values, cells, share)
    budget = share * (64 + 16 * 64)
    assert dims["summary"] + 16 * dims["spatial"] <= budget < dims["summary"] + 16 * (dims["spatial"] + 4)
    assert all(hadamard(k) is not None for k in dims.values())
    least = min(kept(values[head], k) for head, k in dims.items())
    for head, k in dims.items():
        smaller = max((n for n in range(1, k) if hadamard(n) is not None), default=1)
        assert k == 1 or kept(values[head], smaller) < least + 1e-12


def test_a_summary_that_takes_little_keeps_every_direction():
    """The map of 256 cells takes what is left of the budget."""
    values, cells = {"summary": FALLING**0.3, "spatial": FALLING}, {"summary": 1, "spatial": 256}
    dims = choose_dims(values, cells, 0.25)
    budget = 0.25 * (64 + 256 * 64)
    assert dims["summary"] == 64
    assert 64 + 256 * dims["spatial"] <= budget < 64 + 256 * (dims["spatial"] + 4)
    assert choose_dims({"summary": np.append(np.ones(62), [0, 0]), "spatial": FALLING}, cells, 0.25)["summary"] == 60


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("images", [24, 48, 200])
def test_a_whole_summary_is_whole_on_other_images(share, images):
    """Of 48 channels, 24 images show 23 directions, in which images that were not seen do not lie."""
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((48, 48))
    summary = (rng.standard_normal((images + 50, 48)) @ mixing).astype(np.float32)
    spatial = rng.standard_normal((images, 32, 16, 16)).astype(np.float32)
    fitted = calibrate(lambda: [{"summary": summary[:images], "spatial": spatial}], share)["summary"].standardizer
    assert fitted.dims == 48
    unseen = summary[images:]
    np.testing.assert_allclose(fitted.invert(fitted.apply(unseen)), unseen, atol=1e-4)
    np.testing.assert_allclose(fitted.apply(summary[:images]).var(0), 1, rtol=1e-4)


def test_a_teacher_without_summary_spends_its_budget_on_the_map():
    assert choose_dims({"spatial": FALLING}, {"spatial": 16}, 0.25) == {"spatial": 16}


def test_a_share_of_1_keeps_all_that_varies_and_a_tiny_one_a_channel():
    values = {"summary": np.array([5.0, 4, 3, 1e-15]), "spatial": FALLING}
    assert choose_dims(values, {"summary": 1, "spatial": 16}, 1.0) == {"summary": 3, "spatial": 64}
    assert choose_dims(values, {"summary": 1, "spatial": 16}, 0.001) == {"summary": 1, "spatial": 1}


def test_constant_features_are_refused():
    with pytest.raises(TeacherError, match="do not vary"):
        spectrum(moments_of(np.ones((10, 4)), 5))


def test_statistics_that_would_run_code_are_refused(tmp_path):
    """As in a cache that another user has written."""
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return Path.touch, (ran,)

    mean = np.empty(1, object)
    mean[0] = Code()
    np.savez(tmp_path / STATISTICS_FILE, **{"summary-mean": mean, "summary-forward": np.eye(1)})
    with pytest.raises(CacheError, match=STATISTICS_FILE):
        load_statistics(tmp_path)
    assert not ran.exists()
