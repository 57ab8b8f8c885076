"""Central slices: an adjoint pair, equal to exact projections, in even and odd boxes."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import fourier, samples
from cryonb.projection import (
    Accumulator,
    atoms_to_volume,
    back_project,
    from_half_plane,
    half_plane,
    insert_slices,
    prepare,
    project,
    project_atoms,
    sample_slices,
    solve,
    to_half_plane,
    weight_spectrum,
)
from cryonb.resolution import fourier_ring_correlation, fourier_shell_correlation
from cryonb.rotations import random_rotations
from cryonb.types import Poses, Volume

BOX = 192.0  # Å


def atoms(n=200, reach=BOX / 3, seed=0):
    """Points uniform in a ball that fills two thirds of the box."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * reach * rng.uniform(size=(n, 1)) ** (1 / 3), rng.uniform(1, 2, size=n)


def poses(n, seed=1, shift=8.0):
    return Poses(random_rotations(n, rng=seed), np.random.default_rng(seed).normal(size=(n, 2)) * shift)


@pytest.mark.parametrize(("size_px", "padding"), [(32, 2), (31, 2), (30, 1), (24, 3)])
def test_adjoint(size_px, padding):
    rng = np.random.default_rng(size_px)
    volume = Volume(rng.normal(size=(size_px,) * 3), 3.0)
    where = poses(6)
    images = rng.normal(size=(6, size_px, size_px)).astype(np.float32)
    one = np.vdot(project(prepare(volume, padding=padding), where).astype(float), images)
    other = np.vdot(volume.data.astype(float), back_project(images, where, 3.0, padding=padding).data)
    scale = np.linalg.norm(volume.data) * np.linalg.norm(images)
    assert abs(one - other) < 1e-6 * scale
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize(("size_px", "padding", "at_least"), [(64, 2, 0.999), (63, 2, 0.999), (64, 3, 0.9998)])
def test_equals_exact_projections_to_four_fifths_of_nyquist(size_px, padding, at_least):
    ribosome = samples.ribosome()
    box = 403.2
    pixel_size = box / size_px
    sample, sigma, where = ribosome.state(), pixel_size, poses(10)
    exact = project_atoms(sample, sigma, where, size_px, pixel_size)
    # the volume is an average over cubes that turn with it, the image over squares that do not: undo both
    exact = without_pixel_average(exact)
    volume = without_pixel_average(atoms_to_volume(sample, sigma, size_px, pixel_size))
    sliced = project(prepare(volume, padding=padding), where)
    correlation = fourier_ring_correlation(sliced, exact, pixel_size).correlation
    assert correlation[: round(0.8 * size_px / 2) + 1].min() > at_least
    assert np.vdot(exact, sliced) / np.vdot(exact, exact) == pytest.approx(1, abs=5e-3)
    np.testing.assert_allclose(sliced.sum(axis=(1, 2)), exact.sum(axis=(1, 2)), rtol=2e-3)


def without_pixel_average(data):
    """Undo the average over a pixel or voxel."""
    volume = isinstance(data, Volume)
    array = data.data if volume else data
    ndim = 3 if volume else 2
    axis = np.sinc((np.arange(array.shape[-1]) - array.shape[-1] // 2) / array.shape[-1])
    factor = axis[:, None] * axis if ndim == 2 else axis[:, None, None] * axis[:, None] * axis
    array = fourier.inverse_transform(fourier.transform(array, ndim=ndim) / factor, ndim=ndim).real
    return data.with_data(array) if volume else array


@pytest.mark.parametrize("size_px", [24, 25])
def test_views_along_the_axes_are_sums(size_px):
    # these views fall on grid points, where nothing is interpolated and the envelope, up to 1/sinc²(1/16) = 1.013 for a
    # particle that fills a quarter of the box, is undone in vain
    data = atoms_to_volume(atoms(20, BOX / 8), 12.0, size_px, BOX / size_px).data
    volume = Volume(data, BOX / size_px)
    along_z = project(volume, Poses(Rotation.identity(1)))[0]
    np.testing.assert_allclose(along_z, data.sum(axis=0), atol=0.02 * along_z.max())
    # rot = 0, tilt = 90: the image's x is the volume's −z, its y is y, and the beam runs along +x
    along_x = project(volume, Poses(Rotation.from_euler("ZYZ", [[0, 90, 0]], degrees=True)))[0]
    mirrored = np.roll(data.sum(axis=2).T[:, ::-1], 1 - size_px % 2, axis=1)
    np.testing.assert_allclose(along_x, mirrored, atol=0.02 * along_x.max())


def test_shift_is_to_be_added_to_centre_the_particle():
    point = np.zeros((1, 3)), np.ones(1)
    where = Poses(Rotation.identity(1), [[9.0, -6.0]])
    for image in (
        project(atoms_to_volume(point, 6.0, 32, 3.0), where)[0],
        project_atoms(point, 6.0, where, 32, 3.0)[0],
    ):
        row, column = np.unravel_index(image.argmax(), image.shape)
        assert (column - 16, row - 16) == (-3, 2)


@pytest.mark.parametrize("size_px", [8, 9])
def test_half_plane_round_trip(size_px):
    half = half_plane(size_px)
    images = np.random.default_rng(0).normal(size=(3, size_px, size_px)).astype(np.float32)
    kept = from_half_plane(to_half_plane(images, half), half, size_px)
    transform = fourier.transform(images, ndim=2) * (fourier.radius_px(size_px) < size_px / 2)
    np.testing.assert_allclose(kept, fourier.inverse_transform(transform, ndim=2).real, atol=1e-6)
    assert half.multiplicity.sum() == (fourier.radius_px(size_px) < size_px / 2).sum()


def test_kernels_equal_a_few_lines_of_numpy():
    size_px = 12
    volume = Volume(np.random.default_rng(0).normal(size=(size_px,) * 3), 1.0)
    prepared = prepare(volume)
    matrices = random_rotations(4, rng=0).as_matrix()
    points = half_plane(size_px).points
    # reference: the whole padded transform, read by scipy's trilinear interpolation
    whole = np.zeros((25, 25, 25), dtype=complex)  # indices −12 … 12: Nyquist on both sides
    whole[:24, :24, 12:] = prepared.data
    whole[24, :24], whole[:, 24] = whole[0, :24], whole[:, 0]
    whole[:, :, :12] = whole[::-1, ::-1, :12:-1].conj()
    from scipy.ndimage import map_coordinates

    where = 2 * np.einsum("nij,mj->inm", matrices[:, :, :2], points)[::-1] + 12
    expected = map_coordinates(whole.real, where, order=1) + 1j * map_coordinates(whole.imag, where, order=1)
    np.testing.assert_allclose(sample_slices(prepared, matrices, points), expected, atol=1e-3)


@pytest.mark.parametrize("size_px", [32, 33])
def test_solve_inverts_noiseless_slices(size_px):
    pixel_size = BOX / size_px
    sample, where = atoms(reach=BOX / 4), poses(600, shift=0.0)
    truth = atoms_to_volume(sample, 0.7 * pixel_size, size_px, pixel_size)
    half = half_plane(size_px)
    slices = to_half_plane(project(truth, where), half)
    accumulator = Accumulator(size_px)
    insert_slices(accumulator, slices, np.ones(slices.shape), where.rotation.as_matrix(), half.points)
    before = accumulator.weights.copy()
    found = solve(accumulator, pixel_size)
    np.testing.assert_array_equal(accumulator.weights, before)
    fsc = fourier_shell_correlation(found, truth).correlation
    assert fsc[: round(0.9 * size_px / 2)].min() > 0.99
    # a prior that equals σ² of the reconstruction halves what is found, from shell 5 on
    halved = solve(accumulator, pixel_size, prior=1 / weight_spectrum(accumulator))
    power = [fourier.shell_mean(np.abs(fourier.transform(v.data)) ** 2, ndim=3) for v in (halved, found)]
    ratio = np.sqrt(power[0] / power[1])
    np.testing.assert_allclose(ratio[:3], 1, atol=0.01)  # the step at shell 5 reaches shells 3 and 4: the box is cut
    np.testing.assert_allclose(ratio[7 : size_px // 2 - 2], 0.5, atol=0.05)


def test_weight_spectrum_counts_observations():
    # every view brings one unit of weight per Fourier pixel: in shell s, n·2πs of them in 4πs² voxels
    n, size_px = 400, 32
    half = half_plane(size_px)
    accumulator = Accumulator(size_px)
    ones = np.ones((n, len(half)))
    insert_slices(accumulator, ones, ones, random_rotations(n, rng=0).as_matrix(), half.points)
    shells = np.arange(size_px // 2 + 1)
    np.testing.assert_allclose(weight_spectrum(accumulator)[4:-2], (n / (2 * shells[4:-2])), rtol=0.05)


def test_empty_accumulator_gives_an_empty_volume():
    assert not solve(Accumulator(8), 1.0).data.any()
    with pytest.raises(ValueError, match="prior must be 5 variances"):
        solve(Accumulator(8), 1.0, prior=np.ones(3))


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"shape \(4, d, d\)"):
        back_project(np.zeros((3, 8, 8)), poses(4), 1.0)
    with pytest.raises(ValueError, match="must be even"):
        prepare(Volume(np.zeros((7, 7, 7)), 1.0), padding=1)
    with pytest.raises(ValueError, match=r"\(n, 3, 3\)"):
        sample_slices(prepare(Volume(np.zeros((8, 8, 8)), 1.0)), np.eye(3), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="sigma must be positive"):
        project_atoms(atoms(3), 0.0, poses(1), 8, 1.0)
    with pytest.raises(ValueError, match="coordinates"):
        atoms_to_volume((np.zeros((3, 2)), np.ones(3)), 1.0, 8, 1.0)


def test_project_of_one_volume_in_batches(monkeypatch):
    from cryonb.projection import slices

    volume = atoms_to_volume(atoms(20), 12.0, 16, 12.0)
    whole = project(volume, poses(7))
    monkeypatch.setattr(slices, "BATCH", 3)
    np.testing.assert_array_equal(project(volume, poses(7)), whole)
