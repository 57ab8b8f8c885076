"""The polar engine: sampling, likelihood against a direct Cartesian one, expectation and maximisation as adjoints."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import ctf, projection, samples
from cryonb.bayes import PolarGrid, _kernels, maximisation, model
from cryonb.bayes.observations import count_harmonics, observe, rim_mask
from cryonb.bayes.scores import AngleTables, angle_table, image_columns, products, shifted_images
from cryonb.bayes.search import coarse_shell, local_views, psi_towards, shift_grid, turn_in_plane
from cryonb.bayes.slices import SliceBank, fill_bank, insert_bank, view_matrices
from cryonb.types import CTF, Particles, Poses

SIZE, PIXEL = 40, 6.0


@pytest.fixture(scope="module")
def phantom():
    return samples.blobs(40, radius=75.0, sigma=7.0, rng=3).volume(SIZE, PIXEL)


@pytest.fixture(scope="module")
def astigmatic(phantom):
    return astigmatic_images(phantom, 20)


def astigmatic_images(phantom, n):
    """Noisy images with 1,000 Å of astigmatism, several times the usual."""
    rng = np.random.default_rng(4)
    poses = Poses(Rotation.random(n, rng=rng), rng.normal(0, 6, (n, 2)))
    defocus = rng.uniform(1.2e4, 2.2e4, n)
    lens = CTF(defocus, defocus + rng.normal(0, 1000, n), rng.uniform(0, 180, n))
    images = ctf.apply(projection.project(phantom, poses), lens, PIXEL)
    images += rng.normal(0, 2 * images.std(), images.shape).astype(np.float32)
    return Particles(images, PIXEL, ctf=lens, poses=poses)


@pytest.mark.parametrize("size_px", [40, 33])
def test_polar_transform_equals_a_direct_sum(size_px):
    grid = PolarGrid.covering(size_px, (size_px - 1) // 2, 0.4 * size_px)
    images = np.random.default_rng(0).standard_normal((2, size_px, size_px))
    axis = (np.arange(size_px) - size_px // 2) / size_px
    kx, ky = grid.points.astype(float).T
    direct = np.einsum(
        "my,nyx,mx->nm", np.exp(-2j * np.pi * ky[:, None] * axis), images, np.exp(-2j * np.pi * kx[:, None] * axis)
    )
    error = np.abs(grid.transform(images).reshape(2, -1) - direct).max() / direct.std()
    assert error < 3e-4  # the interpolation kernel is good to 1e-5 of the largest value


def test_angular_coefficients_come_back_and_turn_by_a_phase():
    grid = PolarGrid.covering(SIZE, 15, 14)
    packed = np.random.default_rng(1).standard_normal((3, grid.n_packed)).astype(np.float32)
    packed = grid.analyse(grid.synthesise(packed))  # makes the coefficient q = 0 of a real function real
    assert np.allclose(grid.analyse(grid.synthesise(packed)), packed, atol=1e-5)
    angle = np.array([0.0, 0.7, -2.0])
    turned = np.empty_like(packed)
    _kernels.gather_turned(packed, np.arange(3), angle, grid.n_radii, grid.lowest, grid.starts, turned)
    back = np.empty_like(packed)
    _kernels.gather_turned(turned, np.arange(3), -angle, grid.n_radii, grid.lowest, grid.starts, back)
    assert np.allclose(back, packed, atol=1e-4)


def test_in_plane_rotation_of_a_slice_is_a_phase(phantom):
    grid = PolarGrid.covering(SIZE, 15, 16)
    views = view_matrices(1, Rotation.identity())[[5, 11, 30]]
    angle = np.array([0.3, 1.9, -2.5])
    volume = [projection.prepare(phantom)]
    bank = fill_bank(volume, views, grid, 1)
    turned = np.empty_like(bank.packed)
    _kernels.gather_turned(bank.packed, np.arange(3), angle, grid.n_radii, grid.lowest, grid.starts, turned)
    # A(φ) of the turned pose is A(φ + ψ) of the view: coefficient q times exp(iqψ)
    direct = fill_bank(volume, turn_in_plane(views, angle), grid, 1).packed
    assert np.abs(turned - direct).max() < 0.01 * np.abs(direct).max()


def test_polar_likelihood_agrees_with_the_cartesian_one(phantom):
    """All in-plane angles, nine views around the truth, five shifts: correlation and best pose, with astigmatism."""
    n, astigmatic = 1000, astigmatic_images(phantom, 1000)
    max_shell, sigma2 = 15, float(np.var(astigmatic.images)) * SIZE**2 / 2
    grid = PolarGrid.covering(SIZE, max_shell, 17)
    noise = np.full((n, SIZE // 2 + 1), sigma2)
    n_harmonics = count_harmonics(astigmatic, grid)
    observed = observe(astigmatic, grid, noise, np.zeros((n, 2)), n_harmonics)
    shifts = shift_grid(1, 1)
    phases = projection.shift_phases(grid.points, shifts, SIZE).reshape(-1, grid.n_radii, grid.n_angles)
    tables = AngleTables(int(grid.bands[-1]), np.pi * np.arange(18) / 18, full_turn=True)
    norm_table = 0.5 * angle_table(2 * np.arange(n_harmonics), tables.angles).swapaxes(0, 1).reshape(-1, 36).T
    half = projection.half_plane(SIZE)
    inside = (np.hypot(*half.points.T) <= max_shell + 0.5) & (np.hypot(*half.points.T) > 0.5)
    points = half.points[inside]
    recorded = np.fft.rfft2(np.fft.ifftshift(astigmatic.images * rim_mask(SIZE), axes=(1, 2)))
    recorded = recorded[:, half.rows, half.columns][:, inside]
    lens = ctf.evaluate(astigmatic.ctf, *(points / (SIZE * PIXEL)).T)
    prepared = projection.prepare(phantom)
    same, each, pooled = 0, [], []
    for i in range(n):
        pose = astigmatic.poses.rotation[i]
        tilts = Rotation.from_rotvec(np.radians(8) * np.array([[x, y, 0] for x in (-1, 0, 1) for y in (-1, 0, 1)]))
        views = (pose * tilts).as_matrix()
        bank = fill_bank([prepared], views, grid, n_harmonics)
        images = shifted_images(observed, np.full(5, i), np.arange(5), phases, grid)
        score = tables.scores(*products(bank.packed, image_columns(images, grid), 5, grid)).reshape(36, 9, 5)
        norms = np.empty((2 * n_harmonics, 9), dtype=np.float32)
        _kernels.norm_harmonics(bank.power, np.arange(9), np.zeros(9), observed.lens[i], norms)
        polar = score - (norm_table @ norms)[:, :, None]
        matrices = turn_in_plane(np.tile(views, (36, 1, 1)), np.repeat(tables.angles, 9))
        predicted = lens[i] * projection.sample_slices(prepared, matrices, points)
        centred = recorded[i] * projection.shift_phases(points, shifts, SIZE).conj()
        cross = (predicted.conj() @ centred.T).real - 0.5 * (np.abs(predicted) ** 2).sum(1)[:, None]
        direct = (cross / sigma2).reshape(36, 9, 5)
        each.append(np.corrcoef(polar.ravel(), direct.ravel())[0, 1])
        pooled.append([values.ravel() - values.mean() for values in (polar, direct)])
        same += polar.argmax() == direct.argmax()
    assert np.quantile(each, 0.01) > 0.9995
    assert np.corrcoef(*np.hstack(pooled))[0, 1] > 0.9999
    assert same >= 0.99 * n  # neighbouring poses may tie within rounding


def test_expectation_and_maximisation_are_adjoint(phantom, astigmatic):
    """Σ Γ · score(V) = Re⟨V, A(Γ)⟩ for any posterior Γ, and Σ Γ · norm = ⟨|V|², W(Γ)⟩ along the rings."""
    rng = np.random.default_rng(5)
    grid = PolarGrid.covering(SIZE, 14, 16)
    noise = np.ones((20, SIZE // 2 + 1))
    observed = observe(astigmatic, grid, noise, np.zeros((20, 2)), 2)
    shell_0 = grid.radii < 0.5  # inserted, but no part of the scores
    observed.weighted[:, shell_0] = 0
    observed.lens[:, :, shell_0] = 0
    phases = np.ones((1, grid.n_radii, grid.n_angles), dtype=np.complex64)
    views = Rotation.random(4, rng=rng).as_matrix()
    prepared = projection.prepare(phantom)
    bank = fill_bank([prepared], views, grid, 2)
    images = shifted_images(observed, np.arange(3), np.zeros(3, dtype=int), phases, grid)
    tables = AngleTables(int(grid.bands[-1]), np.linspace(-1, 1, 7))
    angle, rows = np.array([0.2, -1.0, 0.5, 2.0]), np.arange(4)
    turned = np.empty_like(bank.packed)
    _kernels.gather_turned(bank.packed, rows, angle, grid.n_radii, grid.lowest, grid.starts, turned)
    score = tables.scores(*products(turned, image_columns(images, grid), 3, grid)).reshape(7, 4, 3)
    posterior = rng.random(score.shape).astype(np.float32)
    sums, weights = np.zeros_like(bank.packed), np.zeros_like(bank.power)
    cross, norm = np.zeros((2, grid.n_radii), dtype=np.float32)
    _kernels.accumulate(
        posterior, angle, tables.angles, rows, grid.n_radii, grid.lowest, grid.starts, bank.packed, images, bank.power,
        observed.lens[0], sums, weights, cross, norm,
    )  # fmt: skip
    expected = float((posterior.astype(float) * score).sum())
    accumulator = projection.Accumulator(SIZE)
    insert_bank(accumulator, sums, weights, views, grid)
    inner = float(np.vdot(prepared.data.astype(complex), accumulator.values).real)
    scale = np.linalg.norm(posterior) * np.linalg.norm(score)
    assert abs(inner - expected) < 1e-5 * scale
    assert abs(cross.sum() - expected) < 1e-5 * scale
    norms = np.empty((4, 4), dtype=np.float32)
    _kernels.norm_harmonics(bank.power, rows, angle, observed.lens[0], norms)
    table = angle_table(2 * np.arange(2), tables.angles).swapaxes(0, 1).reshape(-1, 7).T
    expected = float((posterior.sum(2, dtype=float) * (table @ norms)).sum())
    assert norm.sum() == pytest.approx(expected, rel=1e-5)
    # weights: what is inserted is what the rings hold, Σ Γ · area · ⟨CTF²/σ²⟩
    total = posterior.sum((0, 2)).astype(float) @ np.tile(observed.lens[0, 0, :, 0], (4, 1)).sum(1)
    assert accumulator.weights.sum() == pytest.approx(total, rel=1e-5)


def test_norm_harmonics_are_the_norm_of_a_slice_under_its_ctf(phantom, astigmatic):
    grid = PolarGrid.covering(SIZE, 15, 17)
    observed = observe(astigmatic, grid, np.ones((20, SIZE // 2 + 1)), np.zeros((20, 2)), 8)
    matrix = astigmatic.poses.rotation[:1].as_matrix()
    bank = fill_bank([projection.prepare(phantom)], matrix, grid, 8)
    norms = np.empty((16, 1), dtype=np.float32)
    _kernels.norm_harmonics(bank.power, np.zeros(1, int), np.zeros(1), observed.lens[0], norms)
    value = float(norms[0, 0] + 2 * norms[1:8, 0].sum())  # at ψ = 0
    samples_ = projection.sample_slices(projection.prepare(phantom), matrix, grid.points)[0]
    factor = ctf.evaluate(astigmatic.ctf[0:1], *(grid.points / (SIZE * PIXEL)).T)[0]
    squares = (np.abs(samples_) * factor).reshape(grid.n_radii, -1) ** 2
    assert value == pytest.approx(float((grid.areas * (grid.radii > 0.5)) @ squares.mean(1)), rel=0.01)


def test_no_astigmatism_needs_one_harmonic_only(astigmatic):
    grid = PolarGrid.covering(SIZE, 15, 17)
    round_lens = Particles(astigmatic.images, PIXEL, ctf=CTF(np.full(20, 2e4), np.full(20, 2e4)))
    assert count_harmonics(round_lens, grid) == 1
    assert count_harmonics(astigmatic, grid) > 2


def test_search_grids():
    views = view_matrices(2, Rotation.random(rng=0))
    pose = Rotation.random(5, rng=1).as_matrix()
    particle, view, distance = local_views(views, pose, 20.0)
    direct = np.degrees(np.arccos(np.clip(pose[:, :, 2] @ views[:, :, 2].T, -1, 1)))
    assert len(particle) == (direct <= 20).sum()
    assert np.allclose(direct[particle, view], distance, atol=1e-4)
    psi = psi_towards(pose, turn_in_plane(pose, np.full(5, 0.4)))
    assert np.allclose(psi, 0.4)
    assert len(shift_grid(5, 2)) == 21  # as RELION's default search
    assert coarse_shell(4, 64, 26) == pytest.approx(2 * coarse_shell(3, 64, 26))


def test_scale_of_a_reference_is_found(phantom):
    rng = np.random.default_rng(6)
    poses = Poses(Rotation.random(60, rng=rng))
    lens = CTF(np.full(60, 1.5e4), np.full(60, 1.5e4))
    images = ctf.apply(projection.project(phantom, poses), lens, PIXEL)
    sigma = 2 * images.std()
    images += rng.normal(0, sigma, images.shape).astype(np.float32)
    particles = Particles(images, PIXEL, ctf=lens)
    noise = model.initial_noise(particles, rng=0)
    assert np.allclose(noise[0, 15:], sigma**2 * SIZE**2 / 2, rtol=0.1)
    grid = PolarGrid.covering(SIZE, 12, 17)
    from cryonb.bayes import Sampling

    sampling = Sampling(2, 2.0, 2.0, coarse_radius=8)
    scaled = model.on_grey_scale(particles, phantom.with_data(40 * phantom.data), noise, grid, sampling, rng=1)
    # a coarse grid of 15° explains less than all of it, and the noise lends a little
    assert scaled.data.std() / phantom.data.std() == pytest.approx(1.0, abs=0.2)


def test_wiener_prior_and_last_shell():
    assert maximisation.wiener_prior(np.array([0.5]), np.array([4.0]))[0] == pytest.approx(0.25)
    assert maximisation.last_shell_above([1, 0.9, 0.6, 0.4, 0.8], 0.5) == 2
    assert maximisation.last_shell_above([1, 0.9, 0.6], 0.5) == 2
    volume = np.random.default_rng(0).standard_normal((9, 9, 9))
    assert np.allclose(maximisation.correlation(volume, 3 * volume), 1)
    assert np.allclose(maximisation.filtered(volume, np.ones(20)), volume, atol=1e-5)


def test_statistics_add_up():
    bank = SliceBank(np.zeros((1, 4), np.float32), np.zeros((1, 2, 1, 1), np.float32))
    assert len(bank) == 1
    from cryonb.bayes import Statistics

    one = Statistics(
        np.ones((1, 4, 4, 3), complex), np.ones((1, 4, 4, 3)), np.ones((1, 2)), np.ones(1), np.ones(1), 2.0
    )
    both = maximisation.sum_statistics([one, one])
    assert both.offset2 == 4.0 and both.values.sum() == 2 * one.values.sum()
    stacked = maximisation.stack_classes([one, one])
    assert stacked.values.shape == (2, 4, 4, 3) and stacked.count[0] == 2
    assert maximisation.merge_classes(stacked).values.sum() == 2 * one.values.sum()
