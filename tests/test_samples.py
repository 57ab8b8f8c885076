"""The shipped ribosome: parts, axes, states, volumes and images; phantoms; archives without a network."""

import hashlib
import importlib.util
import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb import projection, samples
from cryonb.samples import archives, shipped
from cryonb.types import Poses


@pytest.fixture(scope="module")
def ribosome():
    return samples.ribosome()


def some_poses(n):
    return Poses(Rotation.random(n, rng=1), np.random.default_rng(2).normal(0, 5, (n, 2)))


def relative_difference(a, b):
    return np.sqrt(((a - b) ** 2).mean() / ((b - b.mean()) ** 2).mean())


def test_registry_describes_every_sample(root):
    entries = samples.registry()
    shipped_files = {p.name for p in (root / "data_samples").iterdir() if p.suffix not in {".py", ".md", ".json"}}
    assert {name for name in shipped_files if not name.startswith("__")} == set(entries)
    for name, entry in entries.items():
        assert {"source", "licence", "shape", "pixel_size", "sha256"} <= set(entry)
        path = samples.sample_path(name)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert path.stat().st_size < 2_000_000


def test_a_damaged_or_missing_sample_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        samples.registry()
    (tmp_path / "registry.json").write_text(json.dumps({"a.npz": {"sha256": "0" * 64}}))
    with pytest.raises(FileNotFoundError, match="check it out again"):
        samples.sample_path("a.npz")
    (tmp_path / "a.npz").write_bytes(b"other bytes")
    with pytest.raises(ValueError, match="sha256"):
        samples.sample_path("a.npz")
    with pytest.raises(KeyError, match="a.npz"):
        samples.sample_path("b.npz")


def test_ribosome_has_the_size_of_a_ribosome(ribosome):
    weight = {name: ribosome.weights[ribosome.in_parts(name)].sum() for name in ribosome.part_names}
    # half the mass number per electron: 3,910 nucleotides of 325 Da and 6,300 residues of 112 Da give 2.0 MDa
    assert sum(weight.values()) == pytest.approx(2.0e6 / 1.85, rel=0.15)
    assert 1.4 < weight["60S"] / (weight["40S body"] + weight["40S head"]) < 2.0  # 60S : 40S, 1.6 in mass
    assert weight["factor"] / 0.535 == pytest.approx(95_000, rel=0.03)  # 0.535 electrons per dalton of protein
    core = ribosome.in_parts(["40S"]) | (ribosome.part == 0)
    centre = np.average(ribosome.coordinates[core], axis=0, weights=ribosome.weights[core])
    assert np.abs(centre).max() < 0.05
    assert 240 < np.ptp(ribosome.coordinates, axis=0).max() < 300


def test_parts_are_on_the_right_side(ribosome):
    centre = {name: ribosome.coordinates[ribosome.in_parts(name)].mean(0) for name in ribosome.part_names}
    assert centre["60S"][0] > 20 and centre["40S body"][0] < -40 and centre["40S head"][0] < -40
    assert centre["40S head"][1] - centre["40S body"][1] > 60
    assert centre["60S P stalk"][2] > 50 and centre["60S L1 stalk"][2] < -40  # either side of the 60S
    assert centre["factor"][2] > 20  # on the P stalk's side
    factor = ribosome.coordinates[ribosome.in_parts("factor")]
    for landmark in ("sarcin_ricin_loop", "decoding_site"):
        assert np.linalg.norm(factor - ribosome.landmarks[landmark], axis=1).min() < 10


def test_axes_agree_with_the_literature(ribosome):
    swivel, ratchet = ribosome.motions
    offset = ribosome.landmarks["bridge_b3"] - ratchet.point
    # bridge B3 is the pivot of intersubunit rotation (Dunkle et al. 2011); a base pair is 10 Å wide
    assert np.linalg.norm(offset - (offset @ ratchet.axis) * ratchet.axis) < 10
    up = ribosome.coordinates[ribosome.part == 2].mean(0) - ribosome.coordinates[ribosome.part == 1].mean(0)
    assert swivel.axis @ up / np.linalg.norm(up) > np.cos(np.radians(30))  # along the neck, towards the head
    assert ratchet.axis[0] < -0.99  # from 60S to 40S, so positive is counter-clockwise from the 40S solvent side


def test_positive_swivel_carries_the_interface_side_towards_the_e_site(ribosome):
    """What lies on the 60S side of the neck, as the tRNA does, moves towards −z, where the L1 stalk is."""
    lever = ribosome.coordinates[:, 0] - ribosome.motions[0].point[0]
    moved, _ = ribosome.state(swivel=15)
    step = (moved - ribosome.coordinates)[:, 2]
    head = ribosome.part == 2
    assert step[head & (lever > 10)].mean() < -4 and step[head & (lever < -10)].mean() > 4  # 10 Å · sin 15° = 2.6 Å


@pytest.mark.parametrize(("angles", "moving"), [({"ratchet": 8.0}, (1, 2)), ({"swivel": -12.0}, (2,))])
def test_a_motion_turns_only_its_parts_and_rigidly(ribosome, angles, moving):
    moved, weights = ribosome.state(**angles)
    turning = np.isin(ribosome.part, moving)
    assert np.array_equal(moved[~turning], ribosome.coordinates[~turning])
    assert np.array_equal(weights, ribosome.weights)
    before, after = ribosome.coordinates[turning], moved[turning]
    assert np.linalg.norm(after - before, axis=1).mean() > 5
    pairs = np.random.default_rng(0).integers(0, turning.sum(), (2, 500))
    distance = [np.linalg.norm(x[pairs[0]] - x[pairs[1]], axis=1) for x in (before, after)]
    assert np.allclose(*distance)
    (name, degrees), *_ = angles.items()
    motion = ribosome.motions[ribosome.coordinate_names.index(name)]
    found, _ = Rotation.align_vectors(after - after.mean(0), before - before.mean(0))
    assert np.allclose(np.degrees(found.as_rotvec()), degrees * motion.axis, atol=1e-3)


def test_the_ratchet_carries_a_swivelled_head_along(ribosome):
    both, _ = ribosome.state(ratchet=6, swivel=10)
    head = ribosome.part == 2
    swivelled, _ = ribosome.state(swivel=10)
    ratchet = ribosome.motions[1]
    assert np.allclose(both[head], ratchet.rotation(6).apply(swivelled[head] - ratchet.point) + ratchet.point)


def test_absent_parts_weigh_nothing(ribosome):
    _, without = ribosome.state(factor=False)
    assert (without[ribosome.in_parts("factor")] == 0).all() and (without[~ribosome.in_parts("factor")] > 0).all()
    _, small = ribosome.state(parts="40S")
    assert np.array_equal(small > 0, np.isin(ribosome.part, (1, 2)))
    _, large = ribosome.state(parts=["60S"])
    assert np.array_equal(large > 0, np.isin(ribosome.part, (0, 3, 4)))
    with pytest.raises(ValueError, match="no part is called '50S'.*60S"):
        ribosome.state(parts="50S")
    with pytest.raises(TypeError, match="unknown coordinate 'rachet'.*ratchet"):
        ribosome.state(rachet=3)


@pytest.mark.parametrize("size_px", [48, 49])
def test_images_of_states_are_exact_projections_of_pseudo_atoms(ribosome, size_px):
    """Slices of rigid bodies against every pseudo-atom drawn, each particle in its own state."""
    poses, pixel_size = some_poses(6), 403.2 / size_px
    state = {
        "ratchet": np.linspace(-8, 8, 6), "swivel": np.linspace(12, -12, 6), "factor": np.arange(6) % 2 == 0,
    }  # fmt: skip
    fast = ribosome.project(poses, size_px, pixel_size, **state)
    exact = ribosome.project(poses, size_px, pixel_size, exact=True, **state)
    assert relative_difference(fast, exact) < 2e-3  # cubic interpolation on a doubled grid: (x/(P − x))⁴
    for i in (0, 3):
        _, weights = ribosome.state(factor=state["factor"][i])
        assert exact[i].sum() == pytest.approx(weights.sum(), rel=1e-3)


def test_exact_images_are_the_integrals_over_fine_pixels_where_those_suffice():
    """Gaussians of 12 Å are band-limited at 6 Å pixels: direct sampling by error functions is right there."""
    model = samples.blobs(sigma=12.0, rng=3)
    poses = some_poses(4)
    fine = projection.project_atoms((model.coordinates, model.weights), model.sigma, poses, 144, 2.0)
    ours = model.project(poses, 48, 6.0)
    sampled = fine[:, ::3, ::3] * 9  # pixel 24 of 48 is pixel 72 of 144
    assert relative_difference(ours, sampled) < 5e-3  # 2 Å pixels blur the Gaussian a little: v²/12σ² = 2e-3


def test_volume_projects_to_the_images(ribosome):
    volume = ribosome.volume(48, 8.4, ratchet=5.0, factor=False)
    poses = some_poses(3)
    images = ribosome.project(poses, 48, 8.4, ratchet=5.0, factor=False)
    sliced = projection.project(volume, poses)
    for ours, theirs in zip(images, sliced):
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    assert volume.data.sum() == pytest.approx(ribosome.state(factor=False)[1].sum(), rel=1e-4)
    whole = ribosome.volume(48, 8.4).data
    parts = sum(ribosome.volume(48, 8.4, parts=p).data for p in ("60S", "40S", "factor"))
    assert np.allclose(whole, parts, atol=1e-4 * whole.max())


def test_phantoms_are_what_they_say():
    assert np.allclose(samples.blobs(rng=4).coordinates, samples.blobs(rng=4).coordinates)
    rotor = samples.rotor()
    poses = some_poses(1)
    once, full, half = (rotor.project(poses, 32, 8.0, angle=a) for a in (10.0, 370.0, 190.0))
    assert np.allclose(once, full, atol=1e-6 * once.max())
    assert relative_difference(half, once) > 0.2


def test_downloads_name_their_address(monkeypatch, tmp_path):
    asked = []

    def retrieve(url, **options):
        asked.append((url, options))
        raise OSError("no route to host")

    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(ConnectionError, match="EMD-11437/map/emd_11437.map.gz.*by hand"):
        samples.fetch_emdb("EMD-11437", folder=tmp_path)
    with pytest.raises(ConnectionError, match="world_availability/10028/data/a/b.mrcs"):
        samples.fetch_empiar(10028, "a/b.mrcs", folder=tmp_path)
    assert asked[0][1]["fname"] == "emd_11437.map.gz" and asked[0][1]["processor"] is not None
    assert asked[0][0] == archives.EMDB_URL.format(entry=11437)
    for wrong in ("ribosome", "-1"):
        with pytest.raises(ValueError, match="entry is a number"):
            samples.fetch_emdb(wrong)
    with pytest.raises(ValueError, match="below the entry's data folder"):
        samples.fetch_empiar(10028, "../x")


def test_the_script_makes_the_shipped_file(root, shared_data):
    spec = importlib.util.spec_from_file_location("make_ribosome", root / "data_samples" / "make_ribosome.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    record, _ = script.assemble(shared_data / "ribosome" / "6zu5.cif.gz")
    with np.load(samples.sample_path("ribosome_6zu5.npz")) as stored:
        assert set(stored) == set(record)
        for name in ("coordinates", "weights", "sigma", "part", "kind", "chain", "residue"):
            assert np.abs(stored[name].astype(int) - record[name].astype(int)).max() <= 1, name  # one unit of rounding
