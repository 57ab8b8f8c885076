"""Three clocks for movies on a landscape, against what each of them promises."""

import numpy as np
import pytest

from cryonb.manifold import (
    CLOCKS,
    Basin,
    brownian_walk,
    frame_sequence,
    minimum_energy_path,
    passage_times,
)
from cryonb.simulate import double_well
from cryonb.types import EnergyLandscape

EDGES = np.linspace(-10, 10, 21)


def uneven_wells(n=20):
    """Two wells, 1.5 kT between them, one deeper by 0.6 kT, on a coordinate of 20°."""
    x = (np.arange(n) + 0.5) / n
    u = (x - 0.5) / 0.25
    return EnergyLandscape(
        1.5 * (u**2 - 1) ** 2 / (1 + u**2 / 4) + 0.3 * u, [np.linspace(-10, 10, n + 1)], gauge="turn (°)"
    )


def closed_ring():
    """Two coordinates of unlike ranges; a valley along a half circle, nothing observed far from it."""
    edges = [np.linspace(-1, 1, 31), np.linspace(0, 50, 26)]
    x, y = np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij")
    energy = 30 * (np.hypot(x, y / 50) - 0.7) ** 2
    return EnergyLandscape(np.where(energy > 6, np.nan, energy), edges, gauge=("a (°)", "b (Å)"))


def test_closeness_takes_equal_steps():
    found = frame_sequence(uneven_wells(), "closeness", n_frames=31)
    np.testing.assert_allclose(np.diff(found.positions[:, 0]), 19 / 30)
    assert found.positions[[0, -1], 0].tolist() == [-9.5, 9.5]
    assert found.clock_reading[[0, -1]].tolist() == [0, 1]
    centres = uneven_wells().centers[0]
    assert np.abs(centres[found.cells] - found.positions[:, 0]).max() <= 0.5 + 1e-9


def test_closeness_takes_equal_steps_along_a_bent_path():
    landscape = closed_ring()
    path = minimum_energy_path(landscape, start=(-0.7, 3.0), end=(0.7, 3.0), n_points=80)
    found = frame_sequence(landscape, "closeness", n_frames=25, path=path)
    steps = np.linalg.norm(np.diff(found.positions / [2, 50], axis=0), axis=1)
    assert np.ptp(steps) < 0.03 * steps.mean()  # chords of a bent way, cut off at its 80 points
    # a half circle of radius 0.7, half as wide in units of the ranges as it is high
    assert steps.sum() == pytest.approx(path.arclength[-1], rel=0.01)
    assert np.isfinite(landscape.energy_kt.ravel()[found.cells]).all()
    assert "the path" in found.label


@pytest.mark.parametrize("n_frames", [17, 100, 1000])
def test_occupancy_lasts_as_long_as_states_are_common(n_frames):
    landscape = uneven_wells()
    found = frame_sequence(landscape, "occupancy", n_frames=n_frames)
    frames = np.bincount(found.cells, minlength=20)
    assert frames.sum() == len(found) == n_frames
    assert np.abs(frames - n_frames * landscape.probability).max() < 1
    assert (np.diff(found.cells) >= 0).all()


def test_occupancy_skips_what_was_not_observed():
    energy = uneven_wells().energy_kt
    energy[[0, 9, 10]] = np.nan
    landscape = EnergyLandscape(energy, [EDGES])
    assert set(frame_sequence(landscape, "occupancy").cells) <= set(np.flatnonzero(np.isfinite(energy)))
    two = closed_ring()
    along = frame_sequence(two, "occupancy", n_frames=50, path=minimum_energy_path(two, start=(-0.7, 3), end=(0.7, 3)))
    assert len(along) == 50 and np.isfinite(two.energy_kt.ravel()[along.cells]).all()


def test_a_brownian_walk_visits_states_as_often_as_they_are_common():
    landscape = uneven_wells()
    times, cells = brownian_walk(landscape, 400.0, rng=0)
    assert np.abs(np.diff(cells)).tolist() == [1] * (len(cells) - 1)
    stay = np.diff(np.append(times, 400.0))
    share = np.bincount(cells, stay, minlength=20) / 400
    # blocks of 20 L²/D, longer than a passage, as independent samples of each share
    block = np.minimum(times // 20, 19).astype(int)
    blocks = np.stack([np.bincount(cells[block == k], stay[block == k], minlength=20) for k in range(20)]) / 20
    error = blocks.std(axis=0, ddof=1) / np.sqrt(20)
    surprise = (share - landscape.probability) / error
    assert np.sqrt(np.mean(surprise**2)) < 2
    assert 0.5 * np.abs(share - landscape.probability).sum() < 0.03
    short = np.bincount(cells[times < 4], stay[times < 4], minlength=20) / 4
    assert np.abs(short - landscape.probability).sum() > 2 * np.abs(share - landscape.probability).sum()


def test_mean_first_passage_is_that_of_the_rates():
    landscape = uneven_wells()
    exact = passage_times(landscape)
    centres = landscape.centers[0]
    ends = [int(np.argmin(np.abs(centres - basin.position[0]))) for basin in exact.basins]
    times, cells = brownian_walk(landscape, 600.0, rng=1)
    visits = np.flatnonzero(np.isin(cells, ends))
    # from the first arrival in one end to the first in the other
    arrivals = visits[np.concatenate([[True], np.diff(cells[visits]) != 0])]
    went, lasted = cells[arrivals[:-1]], np.diff(times[arrivals])
    for row, column in ((0, 1), (1, 0)):
        passages = lasted[went == ends[row]]
        assert len(passages) > 100
        assert abs(passages.mean() - exact.times[row, column]) < 3 * passages.std() / np.sqrt(len(passages))


def test_a_walk_on_flat_ground_crosses_in_half_its_square():
    flat = EnergyLandscape(np.zeros(25), [np.linspace(0, 1, 26)])
    ends = [Basin(np.array([x]), 0.0, 0.5, 0.0, None) for x in (0.0, 1.0)]
    expected = passage_times(flat, ends).times[0, 1]
    crossed = []
    for seed in range(300):
        times, cells = brownian_walk(flat, 6.0, start=0.0, rng=seed)
        crossed.append(times[np.argmax(cells == 24)])
    assert np.mean(crossed) == pytest.approx(expected, abs=3 * np.std(crossed) / np.sqrt(300))


def test_brownian_frames_are_the_walk_at_equal_times():
    landscape = uneven_wells()
    found = frame_sequence(landscape, "Brownian", n_frames=50, interval=0.01, start=-5.5, rng=3)
    times, cells = brownian_walk(landscape, 0.49, start=-5.5, rng=3)
    assert found.cells[0] == 4
    np.testing.assert_allclose(found.clock_reading, 0.01 * np.arange(50))
    assert found.cells.tolist() == [cells[times <= t + 1e-12][-1] for t in found.clock_reading]
    again = frame_sequence(landscape, "Brownian", n_frames=50, interval=0.01, start=-5.5, rng=3)
    np.testing.assert_array_equal(found.cells, again.cells)


def test_a_walk_in_two_dimensions_stays_where_something_was_observed():
    landscape = closed_ring()
    times, cells = brownian_walk(landscape, 20.0, rng=0)
    assert np.isfinite(landscape.energy_kt.ravel()[cells]).all()
    share = np.bincount(cells, np.diff(np.append(times, 20.0)), minlength=landscape.energy_kt.size) / 20
    left = np.unravel_index(np.arange(landscape.energy_kt.size), landscape.energy_kt.shape)[0] < 15
    assert abs(share[left].sum() - 0.5) < 0.1
    assert frame_sequence(landscape, "Brownian", n_frames=5, rng=0).positions.shape == (5, 2)


def test_each_movie_says_what_it_is_and_what_it_is_not():
    landscape = double_well()
    movies = [frame_sequence(landscape, clock, rng=0) for clock in CLOCKS]
    assert [len(movie) for movie in movies] == [16, 100, 200]
    for movie, clock in zip(movies, CLOCKS):
        assert movie.label.startswith(clock + ":") and movie.label in repr(movie)
    assert "not time" in movies[0].label and "not in their order in time" in movies[1].label
    assert "L²/D" in movies[2].label and "D is unknown" in movies[2].unknown
    assert all("direction" in movie.unknown for movie in movies)


def test_bad_requests_are_refused():
    landscape = uneven_wells()
    with pytest.raises(ValueError, match="clock must be one of"):
        frame_sequence(landscape, "time")
    with pytest.raises(ValueError, match="at least two frames, got 1"):
        frame_sequence(landscape, "closeness", n_frames=1)
    with pytest.raises(ValueError, match="needs an rng"):
        frame_sequence(landscape, "Brownian")
    with pytest.raises(ValueError, match="interval must be positive"):
        frame_sequence(landscape, "Brownian", interval=0, rng=0)
    energy = landscape.energy_kt.copy()
    energy[3] = np.nan
    with pytest.raises(ValueError, match="start at .* was not observed"):
        frame_sequence(EnergyLandscape(energy, [EDGES]), "Brownian", start=-6.5, rng=0)
    with pytest.raises(ValueError, match="path has 1 coordinates, the landscape 2"):
        frame_sequence(closed_ring(), "closeness", path=minimum_energy_path(landscape))
