"""Simulated micrographs: the planted truth is where it says, the noise is as stated, nothing overlaps."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from cryonb import CTF, Poses, Volume, fourier, io, samples, simulate
from cryonb.rotations import from_relion_angles
from cryonb.simulate import Exposure, Field, Specimen

LENS = CTF(15_000, 14_000, 30)


def blob_at_once(**options):
    return Specimen(samples.blobs(rng=0), 20, **options)


def test_particles_lie_where_the_truth_says():
    """Without noise and with a lens that only inverts, each box around a centre is that pose's projection."""
    lens = CTF(0, 0, cs_mm=0, amplitude_contrast=1.0)  # CTF = 1
    picture, truth = simulate.micrograph(blob_at_once(), Field(lens, (320, 400), 4.0, snr=np.inf), rng=1)
    shift = (np.rint(truth.centres) - truth.centres) * 4.0
    clean = samples.blobs(rng=0).project(Poses(truth.poses.rotation, shift), 40, 4.0)
    for (x, y), image in zip(np.rint(truth.centres).astype(int), clean):
        box, image = -picture.data[y - 13 : y + 13, x - 13 : x + 13], image[7:33, 7:33]
        circle = fourier.radius_px(26) < 12
        assert np.corrcoef(box[circle], image[circle])[0, 1] > 0.999
        assert np.allclose(box[circle], truth.scale * image[circle], atol=0.02 * truth.scale * image.max())


def test_nothing_overlaps_and_all_lies_inside():
    kinds = [Specimen(samples.blobs(rng=0), 40, diameter=140), Specimen(samples.blobs(rng=1), 30, diameter=70)]
    field = Field(LENS, (700, 500), 4.0, carbon=0.2, contaminants=3)
    _, truth = simulate.micrograph(kinds, field, rng=2)
    radius = truth.diameter / 2 / 4.0
    touching = squareform(pdist(truth.centres)) < radius[:, None] + radius - 1e-9
    assert not (touching & ~np.eye(len(truth), dtype=bool)).any()
    assert (truth.centres >= radius[:, None]).all()
    assert (truth.centres + radius[:, None] <= [499, 699]).all()
    for x, y, r in truth.contaminants:
        assert (np.hypot(*(truth.centres - [x, y]).T) >= radius + r / 4.0).all()
    x, y = np.rint(truth.centres).astype(int).T
    assert truth.thickness[y, x].max() < 1.01 and truth.thickness.max() > 2
    assert (truth.label == np.repeat([0, 1], [40, 30])).all()


@pytest.mark.parametrize("snr", [0.03, 0.3])
def test_signal_to_noise_is_as_stated(snr):
    field = Field(LENS, (512, 512), 4.0, snr=snr, noise=np.linspace(2, 0.5, 8), mtf=np.linspace(1, 0.4, 8))
    noisy, truth = simulate.micrograph(blob_at_once(), field, rng=3)
    clean, same = simulate.micrograph(blob_at_once(), Field(LENS, (512, 512), 4.0, snr=np.inf, mtf=field.mtf), rng=3)
    assert np.array_equal(truth.centres, same.centres)
    signal = clean.data * truth.scale / same.scale
    noise = noisy.data - signal
    assert abs(noise.var() - 1) < 0.02
    inside = np.zeros(signal.shape, dtype=bool)
    variances = []
    y, x = np.indices(signal.shape)
    for (cx, cy), diameter in zip(truth.centres, truth.diameter):
        inside = np.hypot(x - cx, y - cy) <= diameter / 8
        variances.append(signal[inside].var())
    assert abs(np.mean(variances) / noise.var() / snr - 1) < 0.03


def test_ice_shows_thon_rings_and_shot_noise_its_colour():
    field = Field(CTF(20_000, 20_000), (512, 512), 2.0, amorphous=0.5, noise=np.array([1.0, 3.0]))
    picture, _ = simulate.micrograph([], field, rng=4)
    power = np.abs(fourier.transform(picture.data)) ** 2 / picture.data.size
    rings = fourier.shell_mean(power)[20:256]
    k = np.arange(20, 256) / 1024
    from cryonb import ctf

    wave = ctf.evaluate(field.ctf, k, np.zeros_like(k)) ** 2
    shot = 1 + 2 * k / 0.25
    fit = np.linalg.lstsq(np.stack([wave, shot], 1), rings, rcond=None)[0]
    assert np.corrcoef(np.stack([wave, shot], 1) @ fit, rings)[0, 1] > 0.98
    assert (fit > 0.1).all()


def test_protein_and_carbon_are_dark():
    field = Field(LENS, (512, 512), 4.0, snr=1.0, carbon=0.3)
    picture, truth = simulate.micrograph(Specimen(samples.blobs(rng=0), 20), field, rng=5)
    assert picture.data[truth.thickness > 3].mean() < picture.data[truth.thickness < 1.5].mean() - 2
    lens = CTF(0, 0, cs_mm=0, amplitude_contrast=1.0)
    picture, truth = simulate.micrograph(blob_at_once(), Field(lens, (512, 512), 4.0, snr=np.inf), rng=5)
    assert picture.data.max() < 0.05 * -picture.data.min()


def test_given_poses_and_volumes_are_taken():
    model = samples.blobs(rng=0)
    poses = Poses(Rotation.random(6, rng=1))
    lens = CTF(0, 0, cs_mm=0, amplitude_contrast=1.0)
    field = Field(lens, (300, 300), 5.0, snr=np.inf)
    of_model, truth = simulate.micrograph(Specimen(model, 6, diameter=150, views=poses), field, rng=0)
    assert np.allclose((truth.poses.rotation * poses.rotation.inv()).magnitude(), 0, atol=1e-7)
    volume = model.volume(48, 5.0)
    of_volume, _ = simulate.micrograph(Specimen(volume, 6, diameter=150, views=poses), field, rng=0)
    assert np.corrcoef(of_model.data.ravel(), of_volume.data.ravel())[0, 1] > 0.995


def test_same_seed_same_micrograph():
    field = Field(LENS, (128, 129), 8.0, contaminants=1, ice_gradient=0.5)
    first, second = (simulate.micrograph(Specimen(samples.blobs(rng=0), 4), field, rng=7)[0] for _ in range(2))
    assert np.array_equal(first.data, second.data)
    assert not np.array_equal(first.data, simulate.micrograph([], field, rng=7)[0].data)


def test_truth_goes_to_star_and_back(tmp_path):
    _, truth = simulate.micrograph(Specimen(samples.blobs(rng=0), 9), Field(LENS, (256, 256), 6.0), rng=8)
    io.write_star(truth.star_tables("mic.mrc"), tmp_path / "truth.star")
    table = io.read_star(tmp_path / "truth.star", numeric=True)["particles"]
    assert np.allclose(table[["rlnCoordinateX", "rlnCoordinateY"]], truth.centres, atol=1e-5)
    angles = table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy()
    assert (from_relion_angles(angles) * truth.poses.rotation.inv()).magnitude().max() < 1e-6
    assert set(table["rlnDefocusU"]) == {15_000} and np.allclose(truth.centres_angstrom, 6 * truth.centres)


def test_frames_add_up_to_the_micrograph_and_drift_as_planted():
    field = Field(LENS, (128, 128), 4.0, snr=np.inf)
    drift = np.array([[0.0, 0.0], [8.0, -4.0], [12.0, 4.0]])
    frames, truth = simulate.movie(Specimen(samples.blobs(rng=0), 3), field, Exposure(3, 1.0, drift, False), rng=9)
    still, _ = simulate.micrograph(Specimen(samples.blobs(rng=0), 3), field, rng=9)
    assert frames.shape == (3, 128, 128) and np.array_equal(truth.drift, drift)
    assert np.allclose(3 * frames[0], still.data, atol=1e-4)
    moved = np.roll(still.data, (-1, 2), axis=(0, 1))  # 8 Å along x is two pixels, −4 Å along y is one up
    assert np.allclose(3 * frames[1], moved, atol=1e-4)


def test_frames_fade_with_the_dose():
    from cryonb.filters import dose_attenuation

    field = Field(LENS, (128, 128), 4.0, snr=np.inf)
    frames, _ = simulate.movie(Specimen(samples.blobs(rng=0), 3), field, Exposure(2, 10.0, 0.0), rng=9)
    k = np.fft.fftfreq(128, 4.0)[10]
    before, after = (np.fft.fft2(frame)[0, 10] for frame in frames)
    assert np.isclose(abs(after / before), dose_attenuation(k, 15.0) / dose_attenuation(k, 5.0), rtol=1e-3)


def test_drawn_drift_is_as_long_as_asked_and_slows_down():
    _, truth = simulate.movie([], Field(LENS, (32, 32), 4.0), Exposure(40, 1.0, 20.0), rng=1)
    steps = np.hypot(*np.diff(truth.drift, axis=0).T)
    assert 12 < steps.sum() < 21 and steps[0] > 4 * steps[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (8, 8)}, "16 px"),
        ({"snr": 0}, "snr"),
        ({"pixel_size": -1}, "pixel_size"),
        ({"carbon": 1.0}, "carbon"),
        ({"noise": [1.0]}, "noise"),
        ({"mtf": "sharp"}, "mtf"),
    ],
)
def test_fields_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Field(LENS, **change)


def test_more_particles_than_fit_and_wrong_volumes():
    field = Field(LENS, (128, 128), 4.0)
    with pytest.raises(ValueError, match="holds about"):
        simulate.micrograph(Specimen(samples.blobs(rng=0), 500), field, rng=0)
    with pytest.raises(ValueError, match="resample"):
        simulate.micrograph(Specimen(Volume(np.ones((8, 8, 8)), 3.0), 1), field, rng=0)
    with pytest.raises(ValueError, match="2 poses for 1"):
        simulate.micrograph(Specimen(samples.blobs(rng=0), 1, views=Poses(Rotation.random(2, rng=0))), field, rng=0)
    with pytest.raises(TypeError, match="MovingModel"):
        Specimen("ribosome", 1)
    with pytest.raises(ValueError, match="drift"):
        Exposure(3, 1.0, np.zeros((2, 2)))
