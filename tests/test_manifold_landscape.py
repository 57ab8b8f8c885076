"""Landscapes from likelihoods against planted truth, and the wells and paths on landscapes known in closed form."""

import numpy as np
import pytest
from scipy.ndimage import label

from cryonb.manifold import (
    change_gauge,
    counting_landscape,
    deconvolve_landscape,
    find_basins,
    landscape_rms,
    minimum_energy_path,
    scan_smoothness,
)
from cryonb.manifold.landscape import FINEST
from cryonb.simulate import closed_valley
from cryonb.types import EnergyLandscape

EDGES = np.linspace(0, 1, 41)
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
N_PARTICLES = 5000
BARRIER_KT = 4.0


def double_well(x, *, barrier=BARRIER_KT, tilt=0.0):
    """Wells of the quartic at 0.2 and 0.8, ``barrier`` kT between them."""
    u = (x - 0.5) / 0.3
    return barrier * (u**2 - 1) ** 2 + tilt * u / 2


def draw(n, rng, energy=double_well):
    """Coordinates from a landscape on the unit range."""
    fine = (np.arange(20_000) + 0.5) / 20_000
    weight = np.exp(-energy(fine))
    return rng.choice(fine, n, p=weight / weight.sum())


def gaussian_log_likelihood(seen, sigma):
    return -0.5 * ((seen[:, None] - CENTERS) / sigma) ** 2


def planted(sigma, seed):
    rng = np.random.default_rng(seed)
    return draw(N_PARTICLES, rng) + sigma * rng.standard_normal(N_PARTICLES)


def share_covered(landscape, energy):
    """Share of the observed bins whose band holds the truth, both normalised over those bins."""
    seen = np.isfinite(landscape.energy_kt)
    truth = energy(landscape.centers[0])[seen]
    truth = truth + np.log(np.exp(-truth).sum() / np.exp(-landscape.energy_kt[seen]).sum())
    return np.mean((truth >= landscape.lower_kt[seen]) & (truth <= landscape.upper_kt[seen]))


@pytest.mark.parametrize("sigma, limit", [(0.06, 0.2), (0.10, 0.3)])
def test_deconvolution_recovers_a_landscape_that_counting_blurs(sigma, limit):
    errors, blurred, covered = [], [], []
    for seed in range(3):
        seen = planted(sigma, seed)
        landscape = deconvolve_landscape(gaussian_log_likelihood(seen, sigma), EDGES, rng=seed)
        counted = counting_landscape(np.clip(seen, 0, 1), EDGES)
        assert landscape.verdict == "resolved"
        errors.append(landscape_rms(landscape, double_well, energy_limit=BARRIER_KT))
        blurred.append(landscape_rms(counted, double_well, energy_limit=BARRIER_KT))
        covered.append(share_covered(landscape, double_well))
    # limits of the design for Gaussian errors of this share of the range; it asks for three times better than counting
    assert max(errors) <= limit
    assert np.mean(blurred) >= 3 * np.mean(errors)
    # neighbouring bins err together, so that a 90 % band covers between 80 and 100 % of a few landscapes' bins
    assert 0.8 <= np.mean(covered) <= 1.0


def test_the_same_seed_gives_the_same_landscape():
    log_likelihood = gaussian_log_likelihood(planted(0.1, 0)[:500], 0.1)
    first, again = (deconvolve_landscape(log_likelihood, EDGES, rng=3, n_bootstrap=8) for _ in range(2))
    for name in ("energy_kt", "lower_kt", "upper_kt", "counts"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_exact_likelihoods_give_the_histogram():
    coordinates = draw(N_PARTICLES, np.random.default_rng(0))
    bins = np.digitize(coordinates, EDGES) - 1
    log_likelihood = np.where(bins[:, None] == np.arange(len(CENTERS)), 0.0, -np.inf)
    landscape = deconvolve_landscape(log_likelihood, EDGES, rng=0)
    counted = counting_landscape(coordinates, EDGES)
    np.testing.assert_allclose(landscape.counts, counted.counts, atol=1e-9)
    # the two differ by the noise of the counts, which the smooth landscape does not follow: 1/√count per bin
    well = counted.counts > 20
    gap = (landscape.energy_kt - counted.energy_kt)[well]
    deviations = (gap - np.average(gap, weights=counted.counts[well])) * np.sqrt(counted.counts[well])
    assert np.sqrt(np.mean(deviations**2)) < 1.2


def test_weights_count_as_copies_of_a_particle():
    seen = planted(0.1, 1)[:400]
    log_likelihood = gaussian_log_likelihood(seen, 0.1)
    twice = deconvolve_landscape(np.concatenate([log_likelihood] * 2), EDGES, rng=0, n_bootstrap=4)
    weighted = deconvolve_landscape(log_likelihood, EDGES, rng=0, n_bootstrap=4, weights=np.full(400, 2.0))
    np.testing.assert_allclose(weighted.energy_kt, twice.energy_kt, atol=0.02, equal_nan=True)


@pytest.mark.parametrize("particle", ["flat", "wider than the range"])
def test_noise_alone_is_unresolvable(particle):
    rng = np.random.default_rng(0)
    log_likelihood = np.zeros((500, 40))
    if particle != "flat":
        log_likelihood = gaussian_log_likelihood(0.5 + 2 * rng.standard_normal(500), 2.0)
    landscape = deconvolve_landscape(log_likelihood, EDGES, rng=0, n_bootstrap=4)
    assert landscape.verdict.startswith("unresolvable")
    assert "unresolvable" in repr(landscape)


def test_particles_beyond_the_range_pile_up_unless_they_may_overflow():
    rng = np.random.default_rng(0)
    # uniform far beyond both ends: a quarter of the particles look like each outermost node, inside it is flat
    seen = np.clip(rng.uniform(-0.5, 1.5, 3000), CENTERS[0], CENTERS[-1])
    log_likelihood = gaussian_log_likelihood(seen, 0.03)
    piled, spread = (
        deconvolve_landscape(log_likelihood, EDGES, rng=0, n_bootstrap=4, overflow=overflow).energy_kt
        for overflow in (False, True)
    )
    assert (piled[[0, -1]] < np.nanmedian(piled) - 2).all()
    # the end bins are then hardly occupied, perhaps unobserved, but no wells
    assert not (spread[[0, -1]] < np.nanmedian(spread) - 0.5).any()
    assert np.ptp(spread[5:35]) < 1.0


def test_two_coordinates():
    rng = np.random.default_rng(0)
    edges = [np.linspace(0, 1, 13), np.linspace(-1, 1, 11)]
    centers = [(edge[1:] + edge[:-1]) / 2 for edge in edges]

    def energy(x, y):
        return 2 * ((x - 0.5) / 0.25) ** 2 / 2 + (y / 0.5) ** 2 / 2

    # independent Gaussians: standard deviations 0.25/√2 and 0.5, seen with errors of 0.08 and 0.15
    inside = rng.standard_normal((6000, 2)) * [0.25 / np.sqrt(2), 0.5] + [0.5, 0]
    inside = inside[(np.abs(inside - [0.5, 0]) < [0.5, 1]).all(axis=1)][:2000]
    seen = inside + rng.standard_normal(inside.shape) * [0.08, 0.15]
    along = [-0.5 * ((seen[:, [k]] - centers[k]) / sd) ** 2 for k, sd in enumerate((0.08, 0.15))]
    log_likelihood = along[0][:, :, None] + along[1][:, None, :]
    landscape = deconvolve_landscape(log_likelihood, edges, rng=0, n_bootstrap=4, gauge=("x (°)", "y (°)"))
    assert landscape.energy_kt.shape == (12, 10)
    assert landscape.gauge == ("x (°)", "y (°)")
    assert landscape.counts.sum() == pytest.approx(len(seen))
    # a penalty on third derivatives leaves a harmonic well as it is
    assert landscape_rms(landscape, energy, energy_limit=3.0) < 0.2
    flat = deconvolve_landscape(log_likelihood.reshape(len(seen), -1), edges, rng=0, n_bootstrap=4)
    np.testing.assert_allclose(flat.energy_kt, landscape.energy_kt)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a[:, :-1], r"must have shape \(n, 40\)"),
        (lambda a: np.where(np.arange(30)[:, None] == 7, np.nan, a), "particle 7 has no finite likelihood"),
        (lambda a: np.where(np.arange(30)[:, None] == 4, -np.inf, a), "particle 4 has no finite likelihood"),
    ],
)
def test_bad_likelihoods_are_refused(change, message):
    log_likelihood = gaussian_log_likelihood(planted(0.1, 0)[:30], 0.1)
    with pytest.raises(ValueError, match=message):
        deconvolve_landscape(change(log_likelihood), EDGES, rng=0)


def test_bad_arguments_are_refused():
    log_likelihood = gaussian_log_likelihood(planted(0.1, 0)[:30], 0.1)
    one = log_likelihood.copy()
    one[3, 5] = np.nan
    with pytest.raises(ValueError, match="particle 3"):
        deconvolve_landscape(one, EDGES, rng=0)
    with pytest.raises(ValueError, match="weights must be 30 numbers"):
        deconvolve_landscape(log_likelihood, EDGES, rng=0, weights=np.ones(29))
    with pytest.raises(ValueError, match="increasing"):
        deconvolve_landscape(log_likelihood, EDGES[::-1], rng=0)
    with pytest.raises(ValueError, match="at least 4 bins"):
        deconvolve_landscape(log_likelihood[:, :3], EDGES[:4], rng=0)
    with pytest.raises(ValueError, match="finite, particle 1"):
        counting_landscape(np.array([0.1, np.nan]), EDGES)
    with pytest.raises(ValueError, match="2 columns"):
        counting_landscape(np.zeros((5, 2)), EDGES)
    with pytest.raises(ValueError, match="weighting"):
        landscape_rms(EnergyLandscape(np.zeros(40), [EDGES]), double_well, weighting="mass")
    with pytest.raises(ValueError, match="nothing to compare"):
        landscape_rms(EnergyLandscape(np.zeros(40), [EDGES]), lambda x: np.where(x < 0.02, 0, np.nan))
    with pytest.raises(ValueError, match="only 0 bins"):  # and no warning of an all-NaN minimum before
        landscape_rms(EnergyLandscape(np.zeros(40), [EDGES]), lambda x: np.full_like(x, np.nan))


def test_counting_is_the_histogram_with_poisson_bands():
    edges = np.array([0.0, 0.5, 1.0, 2.0])
    landscape = counting_landscape(np.repeat([0.2, 1.5], [100, 50]), edges)
    # densities 200 and 50 per unit
    np.testing.assert_allclose(landscape.energy_kt, [0, np.nan, np.log(4)])
    np.testing.assert_array_equal(landscape.counts, [100, 0, 50])
    assert landscape.lower_kt[0] < 0 < landscape.upper_kt[0]
    # 1.645 standard deviations of 1/√100 on either side
    assert landscape.upper_kt[0] - landscape.lower_kt[0] == pytest.approx(2 * 1.645 / 10, rel=0.02)


@pytest.mark.parametrize("sign", [1, -1])
def test_change_of_gauge_keeps_populations(sign):
    tilted = EnergyLandscape(double_well(CENTERS, tilt=1.0), [EDGES], counts=np.arange(40.0))
    edges = sign * (EDGES**2 + 0.1 * EDGES)
    moved = change_gauge(tilted, edges, gauge="angle (°)")
    order = slice(None, None, sign)
    np.testing.assert_allclose(moved.probability, tilted.probability[order], rtol=1e-12)
    np.testing.assert_array_equal(moved.counts, tilted.counts[order])
    np.testing.assert_array_equal(moved.edges[0], edges[order])
    assert moved.gauge == ("angle (°)",)
    # F_y = F_x + kT ln |dy/dx|, up to the constant that puts the minimum at zero; dy/dx = 2x + 0.1
    gap = moved.energy_kt[order] - tilted.energy_kt - np.log(2 * CENTERS + 0.1)
    np.testing.assert_allclose(gap, gap[0], atol=1e-12)
    wells = [sorted(basin.population for basin in find_basins(landscape)) for landscape in (tilted, moved)]
    if len(wells[0]) == len(wells[1]):
        # the divide between the wells moves with the gauge by a bin or two, where hardly any particle is
        np.testing.assert_allclose(*wells, atol=0.01)
    back = change_gauge(moved, EDGES[order] if sign == 1 else EDGES[::-1])
    np.testing.assert_allclose(back.energy_kt, tilted.energy_kt, atol=1e-12)


def test_change_of_gauge_refuses_what_is_not_a_coordinate():
    landscape = EnergyLandscape(double_well(CENTERS), [EDGES])
    with pytest.raises(ValueError, match="monotone"):
        change_gauge(landscape, (EDGES - 0.5) ** 2)
    with pytest.raises(ValueError, match="one coordinate"):
        change_gauge(EnergyLandscape(np.zeros((4, 4)), [EDGES[:5]] * 2, gauge=("x", "y")), EDGES[:5])


def test_basins_share_out_all_particles():
    barrier, tilt = 3.0, 1.0
    edges = np.linspace(-0.1, 1.1, 241)
    centers = (edges[1:] + edges[:-1]) / 2
    landscape = EnergyLandscape(double_well(centers, barrier=barrier, tilt=tilt), [edges])
    deep, shallow = find_basins(landscape)
    # stationary points of B(u² − 1)² + T u/2
    stationary = np.sort(np.roots([4 * barrier, 0, -4 * barrier, tilt / 2]).real)
    left, top, right = double_well(0.5 + 0.3 * stationary, barrier=barrier, tilt=tilt)
    assert deep.population + shallow.population == pytest.approx(1)
    assert deep.position[0] == pytest.approx(0.5 + 0.3 * stationary[0], abs=0.005)
    assert shallow.energy_kt == pytest.approx(right - left, abs=0.005)
    assert shallow.barrier_kt == pytest.approx(top - right, abs=0.005)
    assert deep.barrier_kt == np.inf
    below = centers < 0.5 + 0.3 * stationary[1]
    assert deep.population == pytest.approx(landscape.probability[below].sum(), abs=0.002)
    assert (deep.cells ^ shallow.cells).all()
    assert "barrier" in repr(shallow)
    # wells shallower than asked for are one
    assert len(find_basins(landscape, minimum_depth=top - right + 0.1)) == 1


def test_unobserved_cells_belong_to_no_basin():
    energy = double_well(CENTERS)
    energy[19:21] = np.nan
    basins = find_basins(EnergyLandscape(energy, [EDGES]))
    assert [basin.barrier_kt for basin in basins] == [np.inf, np.inf]
    assert not any(basin.cells[19:21].any() for basin in basins)
    assert sum(basin.population for basin in basins) == pytest.approx(1)


def test_path_on_one_coordinate():
    landscape = EnergyLandscape(double_well(CENTERS), [EDGES])
    path = minimum_energy_path(landscape)
    assert path.barrier_kt == pytest.approx(BARRIER_KT, abs=0.1)
    np.testing.assert_allclose(path.points[[0, -1], 0], [0.2, 0.8], atol=0.0126)  # nearest bin centres
    assert path.arclength[-1] == pytest.approx(0.6, abs=0.03)
    assert "barrier" in repr(path)
    back = minimum_energy_path(landscape, start=0.8, end=0.2)
    assert back.points[0, 0] > back.points[-1, 0]


def valley(n_bins=60, *, barrier=3.0, width=0.1):
    """A valley along the upper half of the unit circle, wells at 30° and 150°, a saddle of ``barrier`` kT at 90°."""
    edges = [np.linspace(-1.4, 1.4, n_bins + 1), np.linspace(-0.2, 1.6, n_bins + 1)]
    x, y = np.meshgrid(*((edge[1:] + edge[:-1]) / 2 for edge in edges), indexing="ij")
    angle = (np.arctan2(y, x) - np.pi / 2) / (np.pi / 3)
    energy = barrier * (angle**2 - 1) ** 2 + ((np.hypot(x, y) - 1) / width) ** 2 / 2
    return np.where(energy < 9, energy, np.nan), edges


def cell_of(landscape, point):
    return tuple(int(np.argmin(np.abs(axis - x))) for axis, x in zip(landscape.centers, point))


def test_path_follows_a_curved_valley_over_its_saddle():
    energy, edges = valley()
    landscape = EnergyLandscape(energy, edges, gauge=("x", "y"))
    path = minimum_energy_path(landscape)
    assert all(np.isfinite(energy[cell_of(landscape, point)]) for point in path.points)
    # 60 bins of 0.047 × 0.03: the string may lie a tenth of kT beside the valley's floor
    assert path.barrier_kt == pytest.approx(3.0, abs=0.15)
    radius = np.hypot(*path.points.T)
    assert np.abs(radius - 1).max() < 0.05
    top = path.points[np.argmax(path.energy_kt)]
    np.testing.assert_allclose(top, [0, 1], atol=0.1)
    ends = np.degrees(np.arctan2(path.points[[0, -1], 1], path.points[[0, -1], 0]))
    np.testing.assert_allclose(sorted(ends), [30, 150], atol=3)
    assert [basin.population for basin in path.basins[:2]] == pytest.approx([0.5, 0.5], abs=0.03)


def test_path_takes_the_only_opening():
    # flat but for a wall with one gate; the straight way is unobserved
    energy = np.zeros((31, 31))
    energy[15] = np.nan
    energy[15, 25:28] = 2.0
    landscape = EnergyLandscape(energy, [np.linspace(0, 1, 32)] * 2, gauge=("x", "y"))
    path = minimum_energy_path(landscape, start=(0.2, 0.3), end=(0.8, 0.3))
    assert all(np.isfinite(energy[cell_of(landscape, point)]) for point in path.points)
    assert 1.0 < path.barrier_kt <= 2.0  # the points straddle a gate of one cell
    gate = path.points[np.argmin(np.abs(path.points[:, 0] - 0.5)), 1]
    assert 25 / 31 <= gate <= 28 / 31


def test_no_path_over_unobserved_cells():
    energy, edges = valley()
    energy[29:31] = np.nan
    with pytest.raises(ValueError, match="unobserved cells part them"):
        minimum_energy_path(EnergyLandscape(energy, edges, gauge=("x", "y")))
    line = double_well(CENTERS)
    line[20] = np.nan
    landscape = EnergyLandscape(line, [EDGES], gauge=("ratchet (°)",))
    with pytest.raises(ValueError, match=r"ratchet \(°\) = 0.512 was not observed"):
        minimum_energy_path(landscape)
    with pytest.raises(ValueError, match="was not observed"):
        minimum_energy_path(landscape, start=0.5125, end=0.8)


def test_the_landscapes_of_a_scan_mix_to_the_deconvolved_one():
    rng = np.random.default_rng(0)
    seen = draw(1500, rng, lambda x: double_well(x, barrier=1.5)) + 0.1 * rng.standard_normal(1500)
    log_likelihood = -0.5 * ((seen[:, None] - CENTERS) / 0.1) ** 2
    scan = scan_smoothness(log_likelihood, EDGES, gauge="x")
    whole = deconvolve_landscape(log_likelihood, EDGES, rng=0)
    assert scan.weight.sum() == pytest.approx(1) and scan.log_evidence.max() == 0
    assert 0 < scan.best < len(scan.smoothness) - 1  # neither end of the grid
    used = scan.weight > 1e-9
    share = scan.weight[used]
    mixed = share @ [one.energy_kt for one, keep in zip(scan.landscapes, used) if keep]
    both = np.isfinite(mixed) & np.isfinite(whole.energy_kt)
    assert both.sum() > 30
    gap = (mixed - whole.energy_kt)[both]
    np.testing.assert_allclose(gap, gap.mean(), atol=1e-6)
    rough = [np.nanmean(one.upper_kt - one.lower_kt) for one in scan.landscapes]
    assert rough[scan.best - 4] > rough[scan.best] > rough[-1]  # a band at one λ is narrower the smoother it is


# --- the published landscape and its look-alike -------------------------------------------------------------------


def lowest_pass(energy, start, end):
    """Lowest level at which the cells below it connect two cells: flooding, no path involved."""
    for level in np.unique(energy[np.isfinite(energy)]):
        pools, _ = label(np.nan_to_num(energy, nan=np.inf) <= level, np.ones((3, 3)))
        if pools[start] and pools[start] == pools[end]:
            return level
    return None


def assert_paths_keep_to_observed_cells(landscape, start, end, apart):
    energy, (x, y) = landscape.energy_kt, landscape.centers
    path = minimum_energy_path(landscape, start=(x[start[0]], y[start[1]]), end=(x[end[0]], y[end[1]]))
    assert all(np.isfinite(energy[cell_of(landscape, point)]) for point in path.points)
    # the string runs between cells, over the mean of four
    assert path.energy_kt.max() == pytest.approx(lowest_pass(energy, start, end), abs=0.12)
    assert lowest_pass(energy, start, apart) is None
    there = (x[apart[0]], y[apart[1]])
    with pytest.raises(ValueError, match="unobserved cells part them"):
        minimum_energy_path(landscape, start=path.points[0], end=there)
    # the same cells taken for high ones: a way appears that nobody saw
    filled = EnergyLandscape(np.nan_to_num(energy, nan=2.0), landscape.edges, gauge=landscape.gauge)
    way = minimum_energy_path(filled, start=path.points[0], end=there)
    assert not all(np.isfinite(energy[cell_of(landscape, point)]) for point in way.points)


def test_paths_on_the_published_ribosome_landscape(shared_data):
    energy = np.loadtxt(shared_data / "tables" / "dashti2014_landscape_70x70.csv", delimiter=",")
    energy[energy >= 2.0] = np.nan  # the cap: nobody was there
    landscape = EnergyLandscape(energy, [np.linspace(0, 1, 71)] * 2, gauge=("coordinate 1", "coordinate 2"))
    assert_paths_keep_to_observed_cells(landscape, (23, 16), (40, 51), (9, 26))


def test_paths_on_the_look_alike():
    landscape = closed_valley()
    assert np.nanmin(landscape.energy_kt) == 0 and np.nanmax(landscape.energy_kt) < 2.0
    assert_paths_keep_to_observed_cells(landscape, (25, 17), (28, 51), (9, 56))
    path = minimum_energy_path(landscape, start=(0.36, 0.24), end=(0.80, 0.42))
    assert path.barrier_kt == pytest.approx(0.6, abs=0.05)


def attracted(seen, *, step=0.2, pull=0.02):
    """Coordinates as volumes that are wrong by the same for all particles make them: drawn to a few places."""
    return seen - pull * np.sin(2 * np.pi * seen / step)


def test_errors_that_all_particles_share_are_not_taken_for_detail():
    """Errors of a fiftieth of the range, less than a third of a particle's own, make the evidence want narrow wells."""
    sigma, plain, limited, covered = 0.07, [], [], []
    for seed in range(2):
        log_likelihood = gaussian_log_likelihood(attracted(planted(sigma, seed)), sigma)
        for errors, finest in ((plain, 0.0), (limited, FINEST)):
            landscape = deconvolve_landscape(log_likelihood, EDGES, rng=seed, finest=finest)
            errors.append(landscape_rms(landscape, double_well, energy_limit=BARRIER_KT))
        covered.append(share_covered(landscape, double_well))
    assert min(plain) > 1.0 and max(limited) < 0.25
    assert np.mean(covered) > 0.5


def test_right_likelihoods_lose_little_by_a_limit_of_detail():
    sigma = 0.06
    log_likelihood = gaussian_log_likelihood(planted(sigma, 0), sigma)
    free, limited = (deconvolve_landscape(log_likelihood, EDGES, rng=0, finest=finest) for finest in (0.0, FINEST))
    wells = [landscape_rms(each, double_well, energy_limit=BARRIER_KT) for each in (free, limited)]
    assert wells[1] < wells[0] + 0.15
    # the band holds what the limit and the width of likelihoods change
    half = [np.nanmedian(each.upper_kt - each.lower_kt) / 2 for each in (free, limited)]
    assert half[1] > 0.8 * half[0]
    with pytest.raises(ValueError, match="at least 0 standard deviations"):
        deconvolve_landscape(log_likelihood, EDGES, rng=0, finest=-1.0)
