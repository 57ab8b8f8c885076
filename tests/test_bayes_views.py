"""The learned distribution of viewing directions: what the search counts, how it is smoothed, and what it changes."""

import numpy as np
import pytest

from cryonb import bayes, ctf, projection, rotations, samples, simulate
from cryonb.bayes.polar import PolarGrid
from cryonb.bayes.search import Sampling
from cryonb.bayes.views import CELLS, FLOOR, cells_of, view_density
from cryonb.types import CTF, Particles, Poses

SIZE, PIXEL = 32, 8.0
PREFERRED = np.array([0.48, 0.36, 0.8])


@pytest.fixture(scope="module")
def views():
    return simulate.VonMisesFisher(PREFERRED, concentration=20.0, uniform=0.0).draw(400, np.random.default_rng(0))


def test_the_density_follows_the_views_and_has_a_floor(views):
    density = view_density(np.bincount(cells_of(views), minlength=CELLS)[None])[0]
    cells = rotations.healpix_directions(3)
    assert density.mean() == pytest.approx(1, abs=0.02) and density.min() >= 0.99 * FLOOR
    assert cells[density.argmax()] @ PREFERRED > np.cos(np.radians(12))
    # the planted density, κ exp(κ(cos − 1)) / 2π over that of an even one, blurred by 10°: κ' = 1 / (1/κ + 0.1745²)
    sharpness = 1 / (1 / 20.0 + np.radians(10.0) ** 2)
    expected = FLOOR + (1 - FLOOR) * 2 * sharpness * np.exp(sharpness * (cells @ PREFERRED - 1))
    assert np.abs(density - expected).max() < 0.25 * expected.max()


def test_even_views_are_left_even(views):
    """What sampling makes of two halves of 150 even views does not recur; uneven views do. No views are even."""
    even = rotations.random_rotations(300, rng=1).as_matrix()[:, :, 2]
    left, right, uneven = (
        np.stack([np.bincount(cells_of(half), minlength=CELLS) for half in np.split(some, 2)])
        for some in (even, even[::-1], views[:300])
    )
    assert view_density(left, halves=True).std() < 0.3 * view_density(left).std()
    assert view_density(uneven, halves=True).std() > 0.8 * view_density(uneven).std()
    assert np.allclose(view_density(right, halves=True)[::-1], view_density(left, halves=True))
    assert np.allclose(view_density(np.zeros((2, CELLS))), 1)


def test_equivalent_views_have_one_density(views):
    turns = rotations.point_group("T")
    density = view_density(np.bincount(cells_of(views), minlength=CELLS)[None], turns)[0]
    tops = [density[cells_of((turn.as_matrix() @ PREFERRED)[None])[0]] for turn in turns]
    assert min(tops) > 0.8 * max(tops) > 1.0


def test_the_search_counts_views_and_heeds_the_prior(views):
    """Noise-free images: the histogram is that of the true views. Images of nothing: the posterior is the prior."""
    volume = samples.blobs(30, radius=80.0, sigma=9.0, rng=5).volume(SIZE, PIXEL)
    n, rng = 40, np.random.default_rng(2)
    angles = np.column_stack([rotations.directions_to_angles(views[:n]), rng.uniform(0, 360, n)])
    poses = Poses(rotations.from_relion_angles(angles))
    lens = CTF(np.full(n, 1.5e4), np.full(n, 1.5e4))
    images = ctf.apply(projection.project(volume, poses), lens, PIXEL)
    grid, sampling = PolarGrid.covering(SIZE, 10, 12), Sampling(2, 2.0, 2.0, coarse_radius=8.0, keep_views=192)
    noise = np.full((1, SIZE // 2 + 1), (0.2 * images.std() * SIZE) ** 2 / 2)
    model = bayes.Model((volume,), noise, np.ones(1), 8.0)
    sums, _ = bayes.expectation(Particles(images, PIXEL, ctf=lens), model, grid, sampling)
    seen = rotations.healpix_directions(3)
    truth = np.bincount(cells_of(views[:n]), minlength=CELLS)
    assert sums.views.shape == (1, CELLS) and sums.views.sum() == pytest.approx(n, rel=1e-3)
    blur = np.exp(30 * (seen @ seen.T - 1))
    assert np.corrcoef(blur @ sums.views[0], blur @ truth)[0, 1] > 0.95
    flat = volume.with_data(1e-6 * volume.data)
    empty = Particles(rng.normal(0, images.std(), images.shape).astype(np.float32), PIXEL, ctf=lens)
    density = view_density(np.bincount(cells_of(views), minlength=CELLS)[None])
    model = bayes.Model((flat,), noise, np.ones(1), 8.0, view_density=density)
    sums, _ = bayes.expectation(empty, model, grid, sampling)
    assert np.corrcoef(blur @ sums.views[0], blur @ density[0])[0, 1] > 0.95
