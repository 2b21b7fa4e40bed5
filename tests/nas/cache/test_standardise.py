"""PHI-S: equal variances, invertible, the same for any batch size; Hadamard matrices are Hadamard matrices."""

import numpy as np
import pytest

from nas.teachers import TeacherError
from nas.cache.hadamard import hadamard, spreading_rotation
from nas.cache.standardise import Moments, compressed_dims, fit, spectrum


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


@pytest.mark.parametrize("n", [1, 2, 4, 8, 12, 20, 24, 28, 36, 64, 128])
def test_hadamard_rows_are_orthogonal_signs(n):
    matrix = hadamard(n)
    assert set(np.unique(matrix)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(matrix @ matrix.T, n * np.eye(n))


@pytest.mark.parametrize("n", [3, 6, 10, 22])
def test_where_no_hadamard_matrix_exists_a_rotation_stands_in(n):
    assert hadamard(n) is None
    rotation = spreading_rotation(n)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_moments_are_the_same_for_any_batch_size(rows, batch):
    moments = moments_of(rows, batch)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), rtol=1e-8, atol=1e-9)
    ours, whole = (fit(spectrum(m), 16).apply(rows) for m in (moments, moments_of(rows, 1000)))
    np.testing.assert_allclose(ours, whole, atol=1e-6)


@pytest.mark.parametrize("dims", [4, 16, 24])
def test_every_channel_has_mean_0_and_variance_1(rows, dims):
    targets = fit(spectrum(moments_of(rows, 100)), dims).apply(rows)
    np.testing.assert_allclose(targets.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(targets.var(0), 1, rtol=1e-6)


def test_it_is_a_rotation_and_one_scalar_not_whitening(rows):
    fitted = fit(spectrum(moments_of(rows, 100)), 24)
    gram = fitted.forward @ fitted.forward.T
    np.testing.assert_allclose(gram, gram[0, 0] * np.eye(24), atol=1e-9 * gram[0, 0])


def test_invert_is_exact_at_full_width_and_loses_what_kept_says(rows):
    principal = spectrum(moments_of(rows, 100))
    whole, part = fit(principal, 24), fit(principal, 2)
    assert whole.kept == pytest.approx(1)
    np.testing.assert_allclose(whole.invert(whole.apply(rows)), rows, rtol=1e-9)
    lost = ((part.invert(part.apply(rows)) - rows) ** 2).sum() / ((rows - rows.mean(0)) ** 2).sum()
    assert lost == pytest.approx(1 - part.kept, abs=1e-6)
    assert 0.5 < part.kept < 1


def test_kept_dimensions_are_a_power_of_two_within_limits():
    values = np.array([5.0, 4, 3, 2, 1, 1e-15])
    assert compressed_dims(values, 128) == 4
    assert compressed_dims(values, 2) == 2
    assert compressed_dims(values[:1], 64) == 1


def test_constant_features_are_refused():
    with pytest.raises(TeacherError, match="do not vary"):
        spectrum(moments_of(np.ones((10, 4)), 5))
