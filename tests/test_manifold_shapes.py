"""Points, lines, circles and surfaces planted among latents with uneven errors, and in images."""

from dataclasses import replace

import numpy as np
import pytest

from cryonb import samples, simulate
from cryonb.manifold import (
    DiffusionMap,
    choose_shape,
    deconvolve_landscape,
    fit_shape,
    landscape_rms,
    principal_volumes,
    product_harmonics,
    shape_landscape,
    unshrunk_latents,
)
from cryonb.types import Embedding


def seen_through_errors(truth, error, seed, *, understated=1.0, q=4):
    """Posterior of latents in q dimensions under a Gaussian prior, each with an error of its own."""
    rng = np.random.default_rng(seed)
    n = len(truth)
    whole = np.zeros((n, q))
    whole[:, : truth.shape[1]] = truth - truth.mean(axis=0)
    whole = whole @ np.linalg.qr(rng.standard_normal((q, q)))[0]
    root = np.eye(q) + 0.12 * rng.standard_normal((n, q, q))
    covariance = (error * rng.uniform(0.7, 1.4, (n, 1, 1))) ** 2 * (root @ root.swapaxes(1, 2))
    seen = whole + understated * np.einsum("nij,nj->ni", np.linalg.cholesky(covariance), rng.standard_normal((n, q)))
    values, vectors = np.linalg.eigh(np.cov(whole.T))
    values, vectors = np.maximum(values[::-1], 0.1 * error**2), vectors[:, ::-1]
    precision = np.linalg.inv(vectors.T @ covariance @ vectors)
    posterior = np.linalg.inv(precision + np.diag(1 / values))
    return Embedding((posterior @ precision @ (seen @ vectors)[..., None])[..., 0], values, "planted", posterior)


def planted(shape, n, seed):
    """Places (n, p) in the unit of each side, and where they lie."""
    rng = np.random.default_rng([seed, 7])
    if shape == "point":
        return np.zeros((n, 0)), np.zeros((n, 2))
    if shape == "line":
        x = np.where(rng.random(n) < 0.67, rng.normal(0.3, 0.08, n), rng.normal(0.75, 0.07, n))
        return x[:, None], np.column_stack([4 * x, 6 * (x - 0.5) ** 2])
    if shape == "circle":
        angle = rng.vonmises(0, 0.7, n)
        return angle[:, None], np.column_stack([2 * np.cos(angle), 1.5 * np.sin(angle)])
    x, y = rng.random((2, n))
    return np.column_stack([x, y]), np.column_stack([4 * x, 3 * y + x * y, 0.8 * x * x])


@pytest.mark.parametrize("shape, error", [("point", 0.3), ("line", 0.3), ("circle", 0.3), ("surface", 0.2)])
def test_a_planted_shape_is_chosen(shape, error, understated=1.3):
    embedding = seen_through_errors(planted(shape, 1500, 1)[1], error, 1, understated=understated)
    found = choose_shape(embedding, rng=0)
    assert found.name == shape
    assert found.evidence[shape] == (0.0, 0.0)
    assert list(found.evidence) == ["point", "line", "circle", "surface"]
    if shape == "surface":  # its polynomials are not quite what was planted
        return
    # errors 1.3 times larger than stated are found as spread: 0.69 of their mean square
    expected = (understated**2 - 1) * error**2 * 1.03 * (1 + 4 * 0.12**2)
    assert np.linalg.eigvalsh(found.spread).mean() == pytest.approx(expected, abs=0.03)


def test_spread_of_a_gaussian_second_motion_is_width_and_no_second_coordinate():
    rng = np.random.default_rng(3)
    x = rng.uniform(-3, 3, 2000)
    embedding = seen_through_errors(np.column_stack([x, rng.normal(0, 0.5, 2000)]), 0.3, 3)
    found = choose_shape(embedding, rng=0)
    assert found.name == "line"
    assert np.linalg.eigvalsh(found.spread)[-1] == pytest.approx(0.25, rel=0.25)
    assert abs(np.corrcoef(found.coordinate[:, 0], x)[0, 1]) > 0.98


def test_a_line_is_spaced_by_arclength_and_follows_the_truth():
    rng = np.random.default_rng(8)
    # uneven density on a half circle: equal steps of the coordinate are equal angles all the same
    angle = np.pi * rng.beta(1.5, 1.0, 1500)
    embedding = seen_through_errors(np.column_stack([np.cos(angle), np.sin(angle)]), 0.05, 8, q=2)
    found = fit_shape(embedding, "line")
    steps = np.linalg.norm(np.diff(found.positions, axis=0), axis=1)
    assert steps.std() < 0.02 * steps.mean()
    assert found.posterior.sum(axis=1) == pytest.approx(1)
    slope, offset = np.polyfit(angle, found.coordinate[:, 0], 1)
    assert abs(slope) == pytest.approx(1, abs=0.05)
    assert np.std(found.coordinate[:, 0] - slope * angle - offset) < 0.08


def test_the_landscape_of_a_circle_closes():
    edges = np.linspace(0, 360, 37)
    truth = simulate.circular(wells=2, barrier_kt=2.0, tilt_kt=1.0)
    rng = np.random.default_rng(0)
    centres = truth.centers[0]
    angle = rng.choice(centres, 4000, p=truth.probability) + rng.uniform(-1, 1, 4000) * np.diff(centres)[0] / 2
    seen = angle + 20 * rng.standard_normal(4000)
    middle = (edges[1:] + edges[:-1]) / 2
    gap = (seen[:, None] - middle + 180) % 360 - 180
    found = deconvolve_landscape(-0.5 * (gap / 20) ** 2, edges, rng=1, periodic=True)
    expected = np.interp(middle, centres, truth.energy_kt)
    assert landscape_rms(found, lambda x: expected) < 0.25
    # turned by a third, the landscape turns with it: no place is special
    turned = deconvolve_landscape(-0.5 * (np.roll(gap, 12, axis=1) / 20) ** 2, edges, rng=1, periodic=True)
    assert np.abs(np.roll(found.energy_kt, 12) - turned.energy_kt).max() < 0.02


def test_landscapes_over_planted_shapes():
    latents = planted("circle", 1500, 2)[1]
    found = fit_shape(seen_through_errors(latents, 0.3, 2), "circle")
    landscape = shape_landscape(found, rng=0)
    assert landscape.gauge == ("angle (°)",)
    # the ellipse's own density along its arc: fewest particles opposite to most
    assert landscape.energy_kt.max() > 0.8
    place, latents = planted("surface", 1500, 2)
    found = fit_shape(seen_through_errors(latents, 0.2, 2), "surface")
    landscape = shape_landscape(found, rng=0)
    assert landscape.energy_kt.shape == (16, 16)
    # the sides may lie somewhat oblique, but both places are told by both coordinates
    design = np.column_stack([np.ones(1500), found.coordinate])
    left = place - design @ np.linalg.lstsq(design, place, rcond=None)[0]
    assert (left.var(axis=0) < 0.1 * place.var(axis=0)).all()
    inside = landscape.energy_kt[2:-2, 2:-2]  # planted flat, but for how the sides stretch
    assert np.std(inside) < 0.5


def test_a_wheel_in_images_is_a_circle():
    """A rotor's arm that goes all the way round, at SNR 0.5."""
    population = simulate.populate(
        samples.rotor(), simulate.circular("angle (°)", wells=2, barrier_kt=1.0), 1500, rng=1
    )
    particles, truth = simulate.particles(population, simulate.Imaging(24, 10.0, snr=0.5), rng=2, progress=False)
    particles = replace(particles, poses=truth.poses)
    found = principal_volumes(particles, rng=0, n_components=8, progress=False)
    shape = choose_shape(found.embedding, rng=0)
    assert shape.name == "circle"
    angle, true = np.radians(shape.coordinate[:, 0]), np.radians(truth.state[:, 0])
    together = max(abs(np.mean(np.exp(1j * (true - sign * angle)))) for sign in (1, -1))
    assert together > 0.9


def test_products_of_two_motions_are_told_from_new_ones():
    rng = np.random.default_rng(5)
    points = rng.random((4000, 2)) * [1.5, 1.0]
    map_ = DiffusionMap(8).fit(points + 0.01 * rng.standard_normal(points.shape))
    found = product_harmonics(map_.embedding_, map_.eigenvalues_)
    assert any((i, j) == (0, 1) and ratio == pytest.approx(1, abs=0.03) for i, j, _, ratio in found.values())
    line = DiffusionMap(5).fit(points[:1500, :1])
    assert all(i + j + 1 <= k for k, (i, j, _, _) in product_harmonics(line.embedding_, line.eigenvalues_).items())


def test_what_cannot_be_fitted_is_refused():
    embedding = seen_through_errors(planted("line", 50, 0)[1], 0.3, 0)
    with pytest.raises(ValueError, match="shapes must be some of point, line, circle, surface, got torus"):
        fit_shape(embedding, "torus")
    with pytest.raises(ValueError, match="covariance"):
        choose_shape(Embedding(embedding.coordinates, embedding.eigenvalues, ""), rng=0)
    with pytest.raises(ValueError, match="at least 20 particles, got 12"):
        some = Embedding(embedding.coordinates[:12], embedding.eigenvalues, "", embedding.covariance[:12])
        choose_shape(some, rng=0)
    single = Embedding(embedding.coordinates[:, :1], embedding.eigenvalues[:1], "", embedding.covariance[:, :1, :1])
    with pytest.raises(ValueError, match="at least 2 latent coordinates, got 1"):
        fit_shape(single, "circle")
    assert list(choose_shape(single, rng=0).evidence) == ["point", "line"]
    with pytest.raises(ValueError, match="a point: nothing moves"):
        shape_landscape(fit_shape(embedding, "point"), rng=0)
    with pytest.raises(ValueError, match="one coordinate with equal bins"):
        deconvolve_landscape(np.zeros((30, 6)), np.geomspace(1, 2, 7), rng=0, periodic=True)


def test_unshrunk_latents_undo_the_prior():
    embedding = seen_through_errors(planted("line", 200, 4)[1], 0.3, 4)
    latents, information = unshrunk_latents(embedding)
    precision = information + np.diag(1 / embedding.eigenvalues)
    again = np.linalg.solve(precision, np.einsum("nij,nj->ni", information, latents)[..., None])[..., 0]
    np.testing.assert_allclose(again, embedding.coordinates, atol=1e-9)
