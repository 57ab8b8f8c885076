"""Diffusion maps as scikit-learn estimators, on curves whose order is known, and the coordinates chosen from them."""

import warnings

import numpy as np
import pytest
import scipy.sparse
from scipy.stats import spearmanr

from cryonb.manifold import DiffusionMap, local_linear_residuals, select_coordinates
from cryonb.manifold.diffusion import kernel_bandwidth, sinkhorn_scaling


def arc(n, *, angle=np.pi, dimensions=2):
    """Points on an arc in the first two of several dimensions, and their angles."""
    along = np.linspace(0, angle, n)
    points = np.zeros((n, dimensions))
    points[:, 0], points[:, 1] = np.cos(along), np.sin(along)
    return points, along


def test_scikit_learn_accepts_the_estimator():
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        # scikit-learn tells of checks that it leaves out for estimators of this kind
        warnings.simplefilter("ignore")
        check_estimator(DiffusionMap())


@pytest.mark.parametrize("dense", [True, False])
def test_sinkhorn_rows_sum_to_one(dense):
    rng = np.random.default_rng(0)
    kernel = rng.random((80, 80)) * (rng.random((80, 80)) < 0.3)
    kernel = kernel + kernel.T
    kernel = kernel if dense else scipy.sparse.csr_matrix(kernel)
    scaling = sinkhorn_scaling(kernel)
    np.testing.assert_allclose(scaling * (kernel @ scaling), 1, atol=1e-8)
    assert (scaling > 0).all()


def test_fitted_kernel_is_doubly_stochastic_with_zero_diagonal():
    # no outliers: where a point has one neighbour only, Sinkhorn's sums approach one slowly
    points = np.random.default_rng(1).random((300, 3))
    fitted = DiffusionMap(3).fit(points)
    rows, columns = (np.asarray(fitted.kernel_.sum(axis=axis)).ravel() for axis in (1, 0))
    np.testing.assert_allclose(rows, 1, atol=1e-6)
    np.testing.assert_allclose(columns, 1, atol=1e-6)
    assert fitted.kernel_.diagonal().max() == 0
    assert fitted.n_connected_ == 1
    assert (np.diff(fitted.eigenvalues_) <= 0).all() and fitted.eigenvalues_[0] < 1
    # coordinates are eigenvectors with unit variance
    np.testing.assert_allclose(fitted.kernel_ @ fitted.embedding_, fitted.embedding_ * fitted.eigenvalues_, atol=1e-6)
    np.testing.assert_allclose(fitted.embedding_.std(axis=0), 1, atol=1e-6)


def test_training_points_keep_their_coordinates_and_others_fall_between():
    points, along = arc(400, dimensions=5)
    order = np.random.default_rng(2).permutation(400)
    fitted = DiffusionMap(2, n_neighbors=30).fit(points[order])
    np.testing.assert_allclose(fitted.transform(points[order]), fitted.embedding_, atol=1e-10)
    between = np.zeros((100, 5))
    angle = np.linspace(0.1, np.pi - 0.1, 100) + 1e-4
    between[:, 0], between[:, 1] = np.cos(angle), np.sin(angle)
    known = fitted.embedding_[np.argsort(order)]
    expected = np.stack([np.interp(angle, along, column) for column in known.T], axis=1)
    # coordinates have unit variance; Nyström's formula is exact only in the limit of many points
    assert np.abs(fitted.transform(between) - expected).max() < 0.05


def test_an_arc_is_ordered_and_its_harmonic_rejected():
    rng = np.random.default_rng(3)
    points, along = arc(600, dimensions=6)
    points += 0.03 * rng.standard_normal(points.shape)
    coordinates = DiffusionMap(3).fit_transform(points)
    assert abs(spearmanr(coordinates[:, 0], along).statistic) > 0.99
    residuals = local_linear_residuals(coordinates)
    assert residuals[0] == 1
    # on a line all other eigenvectors are functions of the first
    assert (residuals[1:] < 0.35).all()
    assert select_coordinates(coordinates, n_coordinates=3) == [0]
    assert select_coordinates(coordinates) == [0]


def test_a_second_direction_is_kept_and_harmonics_before_it_left_out():
    rng = np.random.default_rng(4)
    # a strip 5 : 2; eigenvectors cos(πx/2.5), cos(2πx/2.5), then cos(πy)
    points = rng.random((1500, 2)) * [2.5, 1]
    coordinates = DiffusionMap(4, n_neighbors=40).fit_transform(points)
    along, across = select_coordinates(coordinates, n_coordinates=2)
    assert along == 0 and across > 1
    assert abs(spearmanr(coordinates[:, along], points[:, 0]).statistic) > 0.98
    assert abs(spearmanr(coordinates[:, across], points[:, 1]).statistic) > 0.9


def test_covariances_free_distances_of_noise():
    rng = np.random.default_rng(5)
    clean, along = arc(500, dimensions=100)
    # half of the points five times as noisy: in 100 dimensions their noise alone keeps them apart
    sigma = np.where(rng.random(500) < 0.5, 0.02, 0.10)
    noisy = clean + sigma[:, None] * rng.standard_normal(clean.shape)
    covariance = sigma[:, None, None] ** 2 * np.eye(100)
    raw = DiffusionMap(1, n_neighbors=499, bandwidth=0.02).fit_transform(noisy)[:, 0]
    freed = DiffusionMap(1, n_neighbors=499, bandwidth=0.02).fit_transform(noisy, covariance=covariance)[:, 0]
    truth = DiffusionMap(1, n_neighbors=499, bandwidth=0.02).fit_transform(clean)[:, 0]
    agreement = [abs(np.corrcoef(coordinate, truth)[0, 1]) for coordinate in (raw, freed)]
    assert agreement[1] > 0.97 and agreement[1] > agreement[0]
    assert abs(spearmanr(freed, along).statistic) > 0.95


def test_separate_clusters_are_counted():
    rng = np.random.default_rng(6)
    points = rng.standard_normal((200, 2)) * 0.1 + np.repeat([[0, 0], [50, 0]], 100, axis=0)
    assert DiffusionMap(1, n_neighbors=20).fit(points).n_connected_ == 2


def test_an_isolated_pair_is_scaled_by_itself():
    kernel = np.zeros((5, 5))
    kernel[0, 1] = kernel[1, 0] = 4.0  # u = 1/√4 each
    kernel[2:, 2:] = [[0, 1, 3], [1, 0, 2], [3, 2, 0]]
    scaling = sinkhorn_scaling(kernel)
    np.testing.assert_allclose(scaling[:2], 0.5)
    np.testing.assert_allclose(scaling * (kernel @ scaling), 1, atol=1e-6)
    cloud = np.random.default_rng(0).standard_normal((60, 2))
    fitted = DiffusionMap(1, n_neighbors=5).fit(np.vstack([cloud, [[50, 50], [50, 50.1]]]))
    np.testing.assert_allclose(np.ravel(fitted.kernel_.sum(axis=1)), 1, atol=1e-6)
    assert np.isfinite(fitted.embedding_).all()


def test_what_has_no_scaling_is_refused():
    star = np.zeros((3, 3))
    star[0, 1:] = star[1:, 0] = 1  # the middle's row cannot be one while both others' are
    with pytest.raises(ValueError, match="share it; take more neighbours"):
        sinkhorn_scaling(star)
    with pytest.raises(ValueError, match="point 2 has no neighbour"):
        sinkhorn_scaling(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    with pytest.raises(ValueError, match="take more neighbours"):
        DiffusionMap(1, n_neighbors=1).fit(np.random.default_rng(0).standard_normal((60, 2)))


def test_bandwidth_scales_with_the_points():
    squared = np.random.default_rng(7).random(5000)
    assert kernel_bandwidth(9 * squared) == pytest.approx(9 * kernel_bandwidth(squared), rel=1e-3)
    assert kernel_bandwidth(np.zeros(10)) == 1.0


def test_wrong_arguments_are_refused():
    points = arc(30)[0]
    with pytest.raises(ValueError, match="n_components"):
        DiffusionMap(0).fit(points)
    with pytest.raises(ValueError, match="covariance must have shape"):
        DiffusionMap().fit(points, covariance=np.ones((30, 2)))
    with pytest.raises(ValueError, match="NaN"):
        DiffusionMap().fit(np.where(points == points[3], np.nan, points))


def test_more_coordinates_or_neighbours_than_points():
    points = np.random.default_rng(0).standard_normal((10, 3))
    with pytest.warns(UserWarning, match="10 points have 8 coordinates, not 12"):
        assert DiffusionMap(12).fit(points).embedding_.shape == (10, 8)
    assert np.isfinite(DiffusionMap(2, n_neighbors=50).fit_transform(points)).all()
