"""Two motions at once: the gauge of a surface on exact volumes, and `embed_surface` on planted ribosomes."""

from functools import cache

import numpy as np
import pytest

from cryonb import manifold, plot, simulate
from cryonb.manifold import SurfaceGauge, embed_surface
from cryonb.manifold.gauge_surface import PreparedSurfaceGauge, SmoothMap, grid_points
from cryonb.manifold.surface import surface_basis
from cryonb.manifold.volume_sets import VolumeSet, crop_or_pad
from cryonb.samples import ribosome
from cryonb.samples.drawing import draw_volume

SIZE, PIXEL = 32, 12.6
NAMES = ("ratchet (°)", "swivel (°)")


@cache
def ribosome_at(ratchet, swivel, *, turned_back=(0.0, 0.0)):
    """The ribosome with both motions; the whole is turned back about each one's axis by a share of its angle."""
    sample = ribosome()
    coordinates, weights = sample.state(ratchet=ratchet, swivel=swivel, factor=False)
    for name, angle, share in zip(("ratchet", "swivel"), (ratchet, swivel), turned_back):
        motion = next(motion for motion in sample.motions if motion.name == name)
        coordinates = motion.rotation(-share * angle).apply(coordinates - motion.point) + motion.point
    return draw_volume((coordinates, weights), sample.sigma, SIZE, PIXEL)


def gauge(model=ribosome_at):
    return SurfaceGauge(model, (np.linspace(-12, 12, 7), np.linspace(-18, 18, 7)), NAMES)


@pytest.fixture(scope="module")
def ribosomes():
    """600 ribosomes whose 40S ratchets and whose head swivels along."""
    landscape = simulate.coupled_wells(slope=0.5, spread=4.0)
    species = simulate.Species("free", landscape=landscape, state={"factor": False})
    population = simulate.populate(ribosome(), species, 600, rng=[1, 0])
    imaging = simulate.Imaging(SIZE, PIXEL, snr=2.0)
    particles, truth = simulate.particles(population, imaging, rng=[1, 1], progress=False)
    names = list(truth.state_names)
    return truth.with_poses(particles), truth.state[:, [names.index("ratchet"), names.index("swivel")]]


@pytest.fixture(scope="module")
def found(ribosomes, tmp_path_factory):
    checkpoint = tmp_path_factory.mktemp("surface") / "surface.npz"
    return embed_surface(ribosomes[0], gauge=gauge(), rng=0, progress=False, checkpoint=checkpoint), checkpoint


@pytest.mark.parametrize("turned_back", [(0.0, 0.0), (0.25, 0.1)])
def test_the_surface_is_read_right_though_poses_turned_the_whole_back(turned_back):
    axes = (np.linspace(-8, 8, 17), np.linspace(-12, 12, 17))
    nodes = grid_points(axes)
    density = np.exp(-0.5 * ((nodes[:, 0] / 4) ** 2 + ((nodes[:, 1] - 0.5 * nodes[:, 0]) / 4) ** 2))
    density /= density.sum()
    # volumes of a polynomial surface, from the true ones at every fourth node of either side
    some = np.isin(nodes[:, 0], axes[0][::4]) & np.isin(nodes[:, 1], axes[1][::4])
    limits = [(axis[0], axis[-1]) for axis in axes]
    data = np.stack([crop_or_pad(ribosome_at(*pair, turned_back=turned_back).data, 28) for pair in nodes[some]])
    terms = np.linalg.lstsq(surface_basis(nodes[some], limits), data.reshape(len(data), -1), rcond=None)[0]
    fit = VolumeSet(terms.reshape(-1, 28, 28, 28).astype(np.float32), np.ones((28,) * 3, np.float32), SIZE, PIXEL)
    basis = surface_basis(nodes, limits)
    prepared = PreparedSurfaceGauge(gauge(), fit.combine((density @ basis)[None]))
    (place,), reading = prepared.place([fit], basis, axes, density)
    for k in range(2):
        centre = np.average(reading[:, k] - nodes[:, k], weights=density)
        slope = np.polyfit(nodes[:, k], reading[:, k], 1, w=np.sqrt(density))[0]
        assert abs(centre) < 0.2 and abs(slope - 1) < 0.06
    # there and back
    inner = density > 0.1 * density.max()
    np.testing.assert_allclose(place(reading[inner]), nodes[inner], atol=0.4)


def test_a_smooth_map_goes_straight_on_beyond_its_points():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (60, 2))
    bent = SmoothMap(points, np.column_stack([points[:, 0] ** 2, points @ [1.0, 2.0]]), np.ones(60))
    edge = points.max(axis=0)[0]
    np.testing.assert_allclose(bent(np.array([[0.5, -0.5]])), [[0.25, -0.5]], atol=1e-6)
    np.testing.assert_allclose(bent(np.array([[edge + 1, 0.0]]))[0, 0], edge**2 + 2 * edge, atol=1e-3)


def test_both_motions_of_planted_ribosomes_are_found_apart(ribosomes, found):
    particles, state = ribosomes
    surface = found[0]
    truth = simulate.coupled_wells(slope=0.5, spread=4.0)
    scores = manifold.score(surface, state)
    assert scores.spearman[0] > 0.9 and scores.spearman[1] > 0.7
    assert scores.cross_talk < 0.35
    assert (np.abs(scores.amplitude_ratio - 1) < 0.25).all()
    assert "and" in repr(scores) and len(scores.as_dict()["spearman"]) == 2
    landscape = surface.landscape
    assert landscape.gauge == NAMES and landscape.energy_kt.shape == (10, 10)
    assert surface.nodes.shape == (100, 2) and surface.log_likelihood.shape == (600, 100)
    assert surface.effective_particles.sum() == pytest.approx(600)
    # particles further on in one motion are further on in the other, as planted
    assert 0.1 < np.polyfit(*surface.coordinate.T, 1)[0] < 1.0
    assert landscape.verdict.startswith("unresolvable") and surface.warnings
    assert truth.gauge == NAMES
    drawn = plot.landscape(surface, path=None if surface.path is None else surface.path.points)
    assert "unresolvable" in drawn.get_title(loc="left")


def test_volumes_anywhere_on_the_surface_show_its_values(found):
    surface = found[0]
    points = np.array([[-4.0, -2.0], [4.0, 2.0]])
    first, second = surface.volumes_at(points)
    true = [ribosome_at(*point).data for point in points]
    change = (second.data - first.data).ravel()
    assert np.corrcoef(change, (true[1] - true[0]).ravel())[0, 1] > 0.8
    with pytest.raises(ValueError, match="inside the landscape"):
        surface.volumes_at([[90.0, 0.0]])


def test_checkpoint_returns_the_same_surface_at_once(ribosomes, found, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("computed again in spite of the checkpoint")

    monkeypatch.setattr("cryonb.manifold.surface.principal_volumes", forbidden)
    again = embed_surface(ribosomes[0], gauge=gauge(), rng=0, progress=False, checkpoint=found[1])
    np.testing.assert_array_equal(again.coordinate, found[0].coordinate)
    np.testing.assert_array_equal(again.landscape.energy_kt, found[0].landscape.energy_kt)
    point = found[0].nodes[55:56]
    np.testing.assert_array_equal(again.volumes_at(point)[0].data, found[0].volumes_at(point)[0].data)
    with pytest.raises(ValueError, match="checkpoint of another job"):
        embed_surface(ribosomes[0], gauge=gauge(), rng=1, progress=False, checkpoint=found[1])


def test_what_is_for_one_coordinate_says_so(ribosomes, found):
    surface = found[0]
    with pytest.raises(ValueError, match="this is a surface over two"):
        manifold.check(ribosomes[0], surface, rng=0)
    with pytest.raises(ValueError, match="this is a surface over two"):
        manifold.compare_conditions(surface, np.arange(600) % 2, rng=0)
    with pytest.raises(ValueError, match="its own volumes_at"):
        manifold.volumes_at(surface, [0.0])
    with pytest.raises(ValueError, match="this is a surface over two"):
        manifold.score(surface, ribosomes[1], volumes=[])


def test_a_model_whose_motions_look_alike_is_refused(ribosomes, found):
    principal = found[0].principal
    both = SurfaceGauge(lambda x, y: ribosome_at(float(x + y), 0.0), (np.linspace(-6, 6, 5),) * 2, NAMES)
    with pytest.raises(ValueError, match="change the volume alike"):
        PreparedSurfaceGauge(both, principal.volumes).direction(principal.volumes)
    with pytest.raises(TypeError, match="must be a SurfaceGauge"):
        embed_surface(ribosomes[0], gauge=None, rng=0)


@pytest.mark.parametrize("middle", [0.0, 6.0])
def test_the_start_is_where_the_particles_are(found, middle):
    """Values that are not centred on the particles gave a scale 30 % off."""
    principal = found[0].principal
    off = SurfaceGauge(ribosome_at, (np.linspace(-12, 12, 7) + middle, np.linspace(-18, 18, 7)), NAMES)
    direction, origin = PreparedSurfaceGauge(off, principal.volumes).direction(principal.volumes)
    np.testing.assert_allclose(origin, [middle % 4, 0.0], atol=2.1)
    coordinate = origin + principal.embedding.coordinates @ direction
    assert 1.0 < coordinate[:, 0].std() < 8.0


def test_a_gauge_of_other_particles_or_of_one_motion_is_refused(ribosomes):
    with pytest.raises(ValueError, match="two coordinates, got 1"):
        SurfaceGauge(ribosome_at, (np.linspace(-1, 1, 5),), NAMES)
    with pytest.raises(ValueError, match=r"swivel \(°\) must be at least 5 equally spaced"):
        SurfaceGauge(ribosome_at, (np.linspace(-1, 1, 5), np.array([0.0, 1, 2, 4, 5])), NAMES)
    larger = SurfaceGauge(lambda x, y: ribosome().volume(36, PIXEL), (np.linspace(-1, 1, 5),) * 2, NAMES)
    with pytest.raises(ValueError, match="but the particles have box 32 px"):
        embed_surface(ribosomes[0], gauge=larger, rng=0, progress=False)
