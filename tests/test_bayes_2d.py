"""classify_2d: planted views, the likelihood and its adjoint against direct sums, checkpoints, threads, bad input."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from cryonb import bayes, ctf, filters, parallel, projection
from cryonb.bayes import PolarGrid, _kernels, averages
from cryonb.bayes.classify_images import balanced_weights
from cryonb.bayes.observations import observe, rim_mask
from cryonb.bayes.scores import AngleTables, image_columns, products, turned_images
from cryonb.types import CTF, Particles, Poses

SIZE, PIXEL, DIAMETER = 32, 8.0, 190.0


def turned_and_moved(images, psi, shift):
    """Images turned by ψ (degrees) and moved so that the centre sits at centre − shift (Å), by direct Fourier sums."""
    size = images.shape[1]
    axis = np.arange(size) - size // 2
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    out = np.empty(images.shape, np.float32)
    for image, angle, move, result in zip(images, np.radians(psi), shift / PIXEL, out):
        x, y = np.cos(angle) * kx - np.sin(angle) * ky, np.sin(angle) * kx + np.cos(angle) * ky
        rows = np.exp(-2j * np.pi * y[..., None] * axis / size)
        columns = np.exp(-2j * np.pi * x[..., None] * axis / size)
        turned = ((rows @ image) * columns).sum(-1)
        turned = turned * np.exp(2j * np.pi * (kx * move[0] + ky * move[1]) / size)
        result[:] = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(turned))).real
    return out


@pytest.fixture(scope="module")
def views():
    """Four pictures without noise."""
    rng = np.random.default_rng(3)
    pictures = np.zeros((4, SIZE, SIZE))
    for picture in pictures:
        place = rng.normal(0, 4.5, (14, 2)).round().astype(int) + SIZE // 2
        np.add.at(picture, tuple(np.clip(place, 8, 24).T), 1.0)
    pictures = np.stack([gaussian_filter(picture, 1.3) for picture in pictures])
    return (pictures / pictures.std((1, 2), keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def planted(views):
    """240 particles of the four views in unequal parts, SNR 0.3, noise of variance 1."""
    rng = np.random.default_rng(5)
    label = rng.permutation(np.repeat([0, 1, 2, 3], [90, 70, 50, 30]))
    psi, shift = rng.uniform(-180, 180, 240), rng.normal(0, 6, (240, 2))
    lens = CTF(rng.uniform(1e4, 2.5e4, 240), rng.uniform(1e4, 2.5e4, 240), rng.uniform(0, 180, 240))
    images = ctf.apply(turned_and_moved(views[label], psi, shift), lens, PIXEL)
    images /= np.sqrt(0.3) * images.std()
    images += rng.normal(0, 1, images.shape).astype(np.float32)
    return Particles(images, PIXEL, ctf=lens), label, psi, shift


OPTIONS = {"n_classes": 4, "rng": 1, "mask_diameter": DIAMETER, "progress": False}


@pytest.fixture(scope="module")
def result(planted):
    return bayes.classify_2d(planted[0], workers=1, **OPTIONS)


def matching(found, label, n_classes=4):
    """The class that each view became, and the counts (view, class)."""
    counts = np.zeros((n_classes, n_classes), int)
    np.add.at(counts, (label, found), 1)
    return linear_sum_assignment(-counts)[1], counts


def test_four_views_are_recovered(result, planted, views):
    _, label, psi, shift = planted
    became, counts = matching(result.label, label)
    assert counts[np.arange(4), became].sum() > 0.93 * len(label)
    assert sorted(became) == [0, 1, 2, 3]
    mask = filters.soft_sphere(SIZE, DIAMETER / 2 / PIXEL - 2, edge_px=4, ndim=2)
    for view, k in enumerate(became):
        members = (label == view) & (result.label == k)
        turn = np.exp(1j * np.radians(psi - result.psi))[members]
        assert np.abs(turn.mean()) > 0.9  # one angle lies between the view and its class's average
        back = turned_and_moved(views[view][None], [np.degrees(np.angle(turn.mean()))], np.zeros((1, 2)))[0] * mask
        best = max(
            np.corrcoef(np.roll(back, move, (0, 1)).ravel(), result.averages[k].ravel())[0, 1]
            for move in [(a, b) for a in range(-3, 4) for b in range(-3, 4)]
        )
        assert best > 0.85
    assert np.abs(result.occupancy[became] - np.bincount(label) / 240).max() < 0.04


def test_result_tells_what_was_done(result):
    assert result.averages.shape == (4, SIZE, SIZE) and result.pixel_size == PIXEL
    assert np.allclose(result.probability.sum(1), 1) and (result.pmax <= 1).all()
    assert np.bincount(result.fold).tolist() == [24] * 10
    assert isinstance(result.poses, Poses) and len(result.poses) == 240
    assert np.allclose(result.poses.rotation.as_matrix()[:, 2, 2], 1)  # no tilt
    assert 16 <= result.resolution.min() < 40 and "4 classes" in repr(result)
    record = result.iterations[-1]
    assert record.correlation.shape == record.prior.shape == (4, SIZE // 2 + 1)
    assert not record.local and 0 < record.pmax <= 1 and record.entropy >= 0
    assert np.median(record.noise[0, 8:]) == pytest.approx(SIZE**2 / 2, rel=0.1)  # variance 1 in every pixel


def test_single_poses_are_kept_best_first(result):
    top = result.top
    assert top.weight.shape[0] == 240 and (np.diff(top.weight) <= 0).all()
    assert (top.weight.sum(1) <= 1 + 1e-5).all()
    sure = result.pmax > 0.5
    assert np.allclose(top.weight[sure, 0], result.pmax[sure], rtol=0.02)  # of those above a thousandth of the best
    assert sure.sum() > 20 and np.array_equal(top.label[sure, 0], result.label[sure])
    best = Rotation.from_matrix(top.matrix[:, 0])
    assert np.abs(best.as_matrix()[:, 2, 2] - 1).max() < 1e-6
    turned = np.degrees((best * result.poses.rotation.inv()).magnitude())
    assert np.median(turned) < 4 and np.abs(top.shift[:, 0] - result.shift)[sure].max() < PIXEL
    assert top.weight[:, 1:].any() and (top.matrix[top.weight == 0] == 0).all()


def test_likelihood_agrees_with_a_direct_one(planted, views):
    """Two averages, twelve angles, three shifts: −½ Σ_half-plane |X − CTF R_ψ A|² / σ² over all Fourier pixels."""
    particles = planted[0][:1]
    max_shell, sigma2 = 12, SIZE**2 / 2
    grid = PolarGrid.covering(SIZE, max_shell, 13)
    observed = observe(particles, grid, np.full((1, SIZE // 2 + 1), sigma2), np.zeros((1, 2)), 4)
    bank = averages.average_bank(views[:2] * rim_mask(SIZE), grid, 4)
    shifts = np.array([[0.0, 0.0], [1.5, -2.0], [0.0, 3.0]])
    phases = projection.shift_phases(grid.points, shifts, SIZE).reshape(3, grid.n_radii, grid.n_angles)
    tables = AngleTables(int(grid.bands[-1]), np.pi * np.arange(6) / 6, full_turn=True)
    images = grid.analyse(observed.weighted * phases.conj())
    score = tables.scores(*products(bank.packed, image_columns(images, grid), 3, grid)).reshape(12, 2, 3)
    norm = np.empty((8, 24), dtype=np.float32)
    psi = np.tile(tables.angles, 2)
    _kernels.norm_harmonics(bank.power, np.repeat([0, 1], 12), psi, observed.lens[0], norm)
    score = score - 0.5 * (norm[0] + 2 * norm[1:4].sum(0)).reshape(2, 12).T[:, :, None]

    ky, kx = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    shell = np.hypot(kx, ky)
    some = (shell > 0.5) & (shell <= max_shell + 0.5)
    picture = np.fft.fftshift(np.fft.fft2(particles.images[0] * rim_mask(SIZE)))[some]
    direct = np.empty_like(score)
    for p, k, t in np.ndindex(direct.shape):
        still = turned_and_moved(views[k][None], [np.degrees(tables.angles[p])], shifts[t][None] * PIXEL)
        expected = np.fft.fftshift(np.fft.fft2(ctf.apply(still, particles.ctf, PIXEL)[0]))[some]
        direct[p, k, t] = -0.25 * (np.abs(picture - expected) ** 2).sum() / sigma2
    assert np.corrcoef(score.ravel(), direct.ravel())[0, 1] > 0.999
    assert score.argmax() == direct.argmax()
    assert np.polyfit(direct.ravel(), score.ravel(), 1)[0] == pytest.approx(1, abs=0.02)


def test_sums_are_the_adjoint_of_the_scores():
    """⟨Γ, scores(A)⟩ = ⟨A, sums(Γ)⟩, and the same sums and weights as the direct kernel of the 3D engine."""
    rng = np.random.default_rng(0)
    grid = PolarGrid.covering(25, 10, 9)
    slices, images = (grid.analyse(grid.transform(rng.standard_normal((m, 25, 25)))) for m in (5, 3))
    tables = AngleTables(int(grid.bands[-1]), 0.3 + np.pi * np.arange(10) / 10, full_turn=True)
    columns = image_columns(images, grid)
    score = tables.scores(*products(slices, columns, 3, grid))
    weight = rng.random(score.shape).astype(np.float32)
    even, odd = (part.reshape(-1, 2, 5, 3) for part in tables.coefficients(weight))
    turned = turned_images(even, odd, columns, grid)
    lens = rng.standard_normal((2, grid.n_radii, 2)).astype(np.float32)
    power = rng.random((5, 2, grid.n_radii, 2)).astype(np.float32)
    place, rows = (grid.lowest, grid.starts), np.arange(5)
    ours, theirs = (
        (np.zeros_like(slices), np.zeros_like(power), *np.zeros((2, grid.n_radii), np.float32)) for _ in range(2)
    )
    _kernels.add_turned(turned, even[:2].sum(3), rows, *place, slices, power, lens, *ours)
    assert ours[2].sum() == pytest.approx((weight * score).sum(), rel=1e-5)
    weight = weight.reshape(20, 5, 3)
    _kernels.accumulate(
        weight, np.zeros(5), tables.angles, rows, grid.n_radii, *place, slices, images, power, lens, *theirs
    )
    for one, other in zip(ours, theirs):
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def test_polar_transform_is_inverted():
    rng = np.random.default_rng(1)
    grid = PolarGrid.covering(48, 20, 20)
    picture = gaussian_filter(rng.standard_normal((48, 48)), 1.5) * filters.soft_sphere(48, 13, edge_px=5, ndim=2)
    back = grid.invert(grid.transform(picture[None]))[0]
    inside = filters.soft_sphere(48, 18, edge_px=0, ndim=2) > 0
    assert np.abs(back - picture)[inside].max() < 0.02 * picture.std()


def test_an_average_without_noise_is_the_picture(views):
    """The CTF-corrected average of one view at known angles, with astigmatism, from the sums of a bank of images."""
    rng = np.random.default_rng(2)
    psi = rng.uniform(-180, 180, 60)
    lens = CTF(rng.uniform(1e4, 2.5e4, 60), rng.uniform(1e4, 2.5e4, 60), rng.uniform(0, 180, 60))
    picture = views[0] * filters.soft_sphere(SIZE, 9, edge_px=3, ndim=2)
    images = ctf.apply(turned_and_moved(np.stack([picture] * 60), psi, np.zeros((60, 2))), lens, PIXEL)
    grid = PolarGrid.covering(SIZE, 14, 14)
    observed = observe(Particles(images, PIXEL, ctf=lens), grid, np.ones((60, SIZE // 2 + 1)), np.zeros((60, 2)), 4)
    packed = grid.analyse(observed.weighted)
    turned = np.empty_like(packed)
    _kernels.gather_turned(packed, np.arange(60), -np.radians(psi), grid.n_radii, grid.lowest, grid.starts, turned)
    even = (observed.lens[:, 0] + 1j * observed.lens[:, 1]) * np.exp(-2j * np.arange(4) * np.radians(psi)[:, None])[
        :, None
    ]
    weights = np.stack([even.real, even.imag], axis=1).sum(0)[None]
    found = averages.solve_averages(turned.sum(0)[None], weights, grid)[0]
    expected = grid.invert(grid.transform(picture[None]))[0]
    inside = filters.soft_sphere(SIZE, 12, edge_px=0, ndim=2) > 0
    assert np.corrcoef(found[inside], expected[inside])[0, 1] > 0.97


def test_labels_of_classes_carry_no_meaning(result, planted):
    """Another seed gives other numbers to the same classes."""
    other = bayes.classify_2d(planted[0], workers=1, **(OPTIONS | {"rng": 8}))
    became, counts = matching(other.label, result.label)
    assert counts[np.arange(4), became].sum() > 0.9 * 240


def test_threads_and_resume_give_the_same(planted, tmp_path, monkeypatch):
    particles = planted[0][:60]
    options = OPTIONS | {"n_iterations": 3, "n_classes": 2}
    alone = bayes.classify_2d(particles, workers=1, **options)
    threads = bayes.classify_2d(particles, workers=2, **options)
    assert np.array_equal(alone.probability, threads.probability)
    assert np.array_equal(alone.averages, threads.averages)
    save, calls = parallel.save_checkpoint, []

    def killed(*args, **kwargs):
        save(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "save_checkpoint", killed)
    path = tmp_path / "classes.npz"
    with pytest.raises(KeyboardInterrupt):
        bayes.classify_2d(particles, workers=1, checkpoint=path, **options)
    monkeypatch.undo()
    resumed = bayes.classify_2d(particles, workers=1, checkpoint=path, **options)
    assert np.array_equal(resumed.averages, alone.averages) and np.array_equal(resumed.psi, alone.psi)
    with pytest.raises(ValueError, match="another job"):
        bayes.classify_2d(particles, workers=1, checkpoint=path, **(options | {"rng": 6}))


def test_even_shares():
    evidence = np.random.default_rng(0).normal(0, 5, (400, 6)) + np.arange(6)
    weight = balanced_weights(evidence)
    share = np.exp(evidence) * weight
    assert np.allclose((share / share.sum(1, keepdims=True)).mean(0), 1 / 6, atol=1e-3)


def test_one_particle_odd_box_optics_groups(planted):
    one = bayes.classify_2d(planted[0][:1], workers=1, **(OPTIONS | {"n_classes": 1, "n_iterations": 2}))
    assert one.probability.tolist() == [[1.0]] and np.isfinite(one.averages).all()
    few = planted[0][:12]
    odd = dataclasses.replace(few, images=few.images[:, 1:, 1:])
    options = OPTIONS | {"mask_diameter": None, "n_iterations": 2, "highest_resolution": 20.0, "cross_fit": False}
    found = bayes.classify_2d(odd, workers=1, **options)
    assert found.averages.shape == (4, 31, 31) and np.isfinite(found.averages).all()
    assert found.iterations[-1].max_shell <= 31 * PIXEL / 20.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ctf": None}, "have no CTF"),
        ({"images": np.full((8, 32, 32), np.nan, np.float32)}, "must be finite"),
        ({"images": np.ones((8, 32, 32), np.float32)}, "constant"),
    ],
)
def test_particles_that_cannot_be_used(planted, change, message):
    with pytest.raises(ValueError, match=message):
        bayes.classify_2d(dataclasses.replace(planted[0][:8], **change), **OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_classes": 9}, "n_classes must be between 1 and the 8 particles, got 9"),
        ({"n_classes": 0}, "n_classes must be between 1"),
        ({"n_iterations": 0}, "n_iterations must be at least 1, got 0"),
        ({"mask_diameter": 900}, "mask_diameter must be between"),
        ({"highest_resolution": 100}, "finer than a quarter of the box, 64.0 Å; got 100 Å"),
        ({"tau_fudge": 0.0}, "tau_fudge must be positive"),
    ],
)
def test_arguments_that_cannot_be_used(planted, change, message):
    with pytest.raises(ValueError, match=message):
        bayes.classify_2d(planted[0][:8], **(OPTIONS | change))
