"""Defocus: planted values come back within their error bars, spectra are what they should be, bad input is named."""

import json

import numpy as np
import pytest

from cryonb import CTF, Micrograph, defocus, io, plot, samples, simulate
from cryonb.__main__ import main
from cryonb.defocus import fitting, spectrum

OPTICS = CTF(0.0, 0.0)


def ice(lens, shape=(1024, 1024), pixel_size=1.5, *, seed=0, **options):
    field = simulate.Field(lens, shape, pixel_size, **({"amorphous": 0.15} | options))
    return simulate.micrograph([], field, rng=seed)[0]


@pytest.fixture(scope="module")
def astigmatic():
    """A micrograph of known defocus and its fit."""
    lens = CTF(16_000, 14_400, 60, b_factor=80)
    return lens, ice(lens), defocus.fit_defocus(ice(lens), OPTICS, rng=1)


# --- spectrum ----------------------------------------------------------------------------------------------------


def test_spectrum_of_white_noise_is_one_and_of_a_wave_is_where_it_belongs():
    noise = np.random.default_rng(0).standard_normal((700, 512)) * 3
    flat = defocus.estimate_spectrum(Micrograph(noise, 4.0), tile_px=128, limit=9.0)
    assert abs(flat.power[3:-3, 3:].mean() / 9 - 1) < 0.02
    assert abs(flat.tiles.mean() / 9 - 1) < 0.02 and flat.tiles.shape[1] == len(flat.kx)
    assert np.hypot(flat.kx, flat.ky).max() <= 1 / 9
    wave = np.cos(2 * np.pi * 16 * np.arange(512) / 128) + np.zeros((512, 1))  # 16 cycles in 128 px, along x
    peak = defocus.estimate_spectrum(Micrograph(wave, 4.0), tile_px=128)
    assert np.unravel_index(np.argmax(peak.power), peak.power.shape) == (0, 16)
    whole = peak.centred()
    assert set(map(tuple, np.argwhere(whole > 0.9 * whole.max()))) == {(64, 64 - 16), (64, 64 + 16)}


def test_centred_spectrum_has_friedel_symmetry():
    noise = np.random.default_rng(0).standard_normal((256, 256))
    for size in (64, 65):
        whole = defocus.estimate_spectrum(Micrograph(noise, 4.0), tile_px=size).centred()
        c = size // 2
        inner = whole[c - 20 : c + 21, c - 20 : c + 21]
        assert np.allclose(inner, inner[::-1, ::-1], rtol=1e-4)


def test_overlapping_tiles_are_counted_as_fewer():
    """Means of the tiles' power over many noise micrographs vary as much as the inflation says."""
    rng, means, inflation = np.random.default_rng(0), [], None
    for _ in range(150):
        found = defocus.estimate_spectrum(Micrograph(rng.standard_normal((160, 160)), 5.0), tile_px=64, limit=12.0)
        means.append(found.tiles.mean())
        inflation = found.inflation
    apart = []
    for _ in range(150):
        found = defocus.estimate_spectrum(Micrograph(rng.standard_normal((64, 64)), 5.0), tile_px=64, limit=12.0)
        apart.append(found.tiles.mean())
    assert found.inflation == 1
    expected = np.var(apart) / 16 * inflation  # 4 × 4 tiles
    assert 0.7 < np.var(means) / expected < 1.4


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.full((64, 64), np.nan), "nan: 4096 of 4096"),
        (np.pad([[np.inf]], 40), "nan: 1 of"),
        (np.zeros((64, 64)), "black"),
        (np.minimum(np.random.default_rng(0).standard_normal((64, 64)), 0.5), "saturated: 3"),
        (np.random.default_rng(0).standard_normal((64, 64)), ""),
        (np.rint(np.random.default_rng(0).standard_normal((64, 64)) * 20 + 128), ""),  # 8 bits
        (np.random.default_rng(0).poisson(0.05, (64, 64)), ""),  # electrons counted one by one
    ],
)
def test_defects_are_named(data, reason):
    found = defocus.defects(Micrograph(data, 1.0))
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_tiles_are_wide_and_many():
    assert spectrum.default_tile(Micrograph(np.zeros((4096, 4096)), 1.3)) == 512
    assert spectrum.default_tile(Micrograph(np.zeros((4096, 3000)), 0.66)) >= 600 / 0.66
    assert spectrum.default_tile(Micrograph(np.zeros((1000, 4096)), 3.0)) <= 256
    with pytest.raises(ValueError, match="tile_px"):
        defocus.estimate_spectrum(ice(CTF(1e4, 1e4), (64, 64)), tile_px=128)


# --- fit ----------------------------------------------------------------------------------------------------


def test_planted_defocus_and_astigmatism_come_back(astigmatic):
    lens, _, fit = astigmatic
    assert not fit.failed and abs(fit.ctf.defocus_u - lens.defocus_u) < 50
    assert abs(fit.ctf.defocus_v - lens.defocus_v) < 50 and abs(fit.ctf.defocus_angle - 60) < 2
    assert fit.resolution < 5 and fit.score > 0.7
    assert (fit.error[:2] > 1).all() and (fit.error[:2] < 40).all() and fit.error[3] == 0
    low, high = fit.interval(0.9).T
    wide = np.diff(fit.interval(0.99), axis=1).ravel()
    assert (low[:3] < [fit.ctf.defocus_u, fit.ctf.defocus_v, fit.ctf.defocus_angle]).all() and (wide > high - low)[
        :3
    ].all()


@pytest.mark.parametrize(
    ("u", "v", "angle", "shape", "pixel_size"),
    [
        (5_500, 4_500, 20, (1024, 1024), 1.3),
        (30_500, 29_000, 170, (1400, 900), 1.1),
        (21_000, 21_000, 0, (1024, 1024), 2.2),
        (12_000, 10_100, 95, (801, 1203), 1.7),
    ],
)
def test_defocus_over_its_range(u, v, angle, shape, pixel_size):
    lens = CTF(u, v, angle, b_factor=60)
    fit = defocus.fit_defocus(ice(lens, shape, pixel_size, seed=3), OPTICS, rng=0)
    assert abs(0.5 * (fit.ctf.defocus_u + fit.ctf.defocus_v) - 0.5 * (u + v)) < 60 and not fit.failed
    if u - v > 300:
        assert abs((fit.ctf.defocus_angle - angle + 90) % 180 - 90) < 5
        assert abs(fit.ctf.defocus_u - u) < 100


def test_particles_carbon_and_crystals_do_not_mislead():
    lens = CTF(14_500, 13_900, 30, b_factor=80)
    field = simulate.Field(lens, (1024, 1024), 2.0, amorphous=0.1, carbon=0.2, contaminants=2, ice_gradient=0.8)
    picture, _ = simulate.micrograph(simulate.Specimen(samples.blobs(30, rng=0), 25), field, rng=1)
    fit = defocus.fit_defocus(picture, OPTICS, rng=0)
    assert abs(fit.ctf.defocus_u - 14_500) < 60 and abs(fit.ctf.defocus_v - 13_900) < 60


def test_phase_shift_is_found_with_the_defocus():
    lens = CTF(12_000, 11_500, 45, phase_shift=70, b_factor=60)
    fit = defocus.fit_defocus(ice(lens, amorphous=0.3), OPTICS, phase_shift=(0, 150), rng=0)
    assert abs(fit.ctf.phase_shift - 70) < 8 and abs(fit.ctf.defocus_u - 12_000) < 150
    assert fit.error[3] > 0.2


def test_error_bars_hold_what_they_promise():
    """Deviations over error bars, of the mean defocus of 24 micrographs, have a variance near one."""
    rng, ratio = np.random.default_rng(4), []
    for seed in range(24):
        mean, size = rng.uniform(8_000, 25_000), rng.uniform(300, 2000)
        lens = CTF(mean + size / 2, mean - size / 2, rng.uniform(0, 180), b_factor=80)
        fit = defocus.fit_defocus(ice(lens, (800, 800), seed=seed, amorphous=0.2), OPTICS, rng=seed)
        found = 0.5 * (fit.ctf.defocus_u + fit.ctf.defocus_v)
        ratio.append((found - mean) / (0.5 * (fit.draws[:, 0] + fit.draws[:, 1])).std())
    assert 0.6 < np.sqrt(np.mean(np.square(ratio))) < 1.5
    assert np.mean(np.abs(ratio) < 1.75) >= 0.7


def test_same_seed_same_error(astigmatic):
    _, picture, fit = astigmatic
    again = defocus.fit_defocus(picture, OPTICS, rng=1)
    assert np.array_equal(fit.draws, again.draws) and repr(fit) == repr(again)


def test_equiphase_average_keeps_rings_that_a_plain_one_blurs(astigmatic):
    lens, _, fit = astigmatic
    average = defocus.equiphase_average(fit.spectrum, lens)
    plain = defocus.equiphase_average(fit.spectrum, CTF(15_200, 15_200))
    assert average.resolution < 5 < plain.resolution
    fine = average.frequency > 1 / 8
    assert np.ptp((average.power - average.background)[fine]) > 1.5 * np.ptp((plain.power - plain.background)[fine])


def test_equiphase_radius_has_the_phase_of_its_line():
    from cryonb import ctf
    from cryonb.defocus.profile import _equivalent_radius, _round

    lens, rng = CTF(16_000, 13_000, 25), np.random.default_rng(0)
    kx, ky = rng.uniform(-0.2, 0.2, (2, 100))
    radius = _equivalent_radius(lens, kx, ky)
    assert np.allclose(ctf.phase(_round(lens, 14_500), radius, 0 * radius), ctf.phase(lens, kx, ky))


# --- what cannot be fitted ------------------------------------------------------------------------------------------


def test_noise_and_black_fail_with_a_reason():
    noise = Micrograph(np.random.default_rng(0).standard_normal((800, 800)), 1.5)
    fit = defocus.fit_defocus(noise, OPTICS, rng=0)
    assert fit.failed and fit.reason.startswith("no rings")
    black = defocus.fit_defocus(Micrograph(np.ones((600, 600)), 1.5), OPTICS, rng=0)
    assert black.failed and black.ctf is None and "black" in repr(black) and np.isnan(black.error).all()
    assert black.resolution == np.inf and black.score == 0
    with pytest.raises(ValueError, match="no fit to draw: black"):
        plot.ctf_fit(black)


def test_ice_is_flagged():
    lens = CTF(15_000, 15_000, b_factor=40)
    picture = ice(lens, (1024, 1024), 1.2, amorphous=0.3)
    assert not defocus.fit_defocus(picture, OPTICS, rng=0).failed
    k = np.hypot(np.fft.rfftfreq(1024, 1.2)[None], np.fft.fftfreq(1024, 1.2)[:, None])
    crystal = np.where(np.abs(1 / np.maximum(k, 1e-6) - 3.7) < 0.12, np.sqrt(2.0), 1.0)
    frozen = np.fft.irfft2(np.fft.rfft2(picture.data) * crystal, s=picture.data.shape)
    fit = defocus.fit_defocus(Micrograph(frozen, 1.2), OPTICS, rng=0)
    assert fit.reason.startswith("ice") and fit.ctf is not None
    assert fitting.ice_ring(defocus.estimate_spectrum(ice(lens, pixel_size=2.0))) == 0


def test_defocus_outside_the_range_is_doubted():
    fit = defocus.fit_defocus(ice(CTF(25_000, 25_000, b_factor=60)), OPTICS, defocus=(5_000, 12_000), rng=0)
    assert fit.failed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"defocus": (5000, 4000)}, "defocus must be a range"),
        ({"resolution": (5, 30)}, "coarsest, finest"),
        ({"phase_shift": (90, 0)}, "phase_shift"),
    ],
)
def test_empty_ranges_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        defocus.fit_defocus(Micrograph(np.ones((8, 8)), 1.0), OPTICS, rng=0, **options)


def test_pixels_too_coarse_for_rings():
    with pytest.raises(ValueError, match="pixels of 14 Å"):
        defocus.fit_defocus(ice(CTF(1e4, 1e4), (256, 256), 14.0), OPTICS, rng=0)


# --- files ----------------------------------------------------------------------------------------------------


def test_micrograph_ctf_goes_to_star_and_back(tmp_path):
    lens = CTF([15e3, 16e3], [14e3, 15.5e3], [10, 170], voltage_kv=[300, 200], phase_shift=[0, 90])
    io.write_micrograph_ctf(["a b.mrc", "c.mrc"], lens, [1.3, 1.1], tmp_path / "m.star", merit=[0.2, 0.3])
    names, found, pixel_size = io.read_micrograph_ctf(tmp_path / "m.star")
    assert names == ["a b.mrc", "c.mrc"] and pixel_size.tolist() == [1.3, 1.1]
    for name in ("defocus_u", "defocus_v", "defocus_angle", "voltage_kv", "phase_shift", "amplitude_contrast"):
        assert np.allclose(getattr(found, name), getattr(lens, name))
    assert len(io.read_star(tmp_path / "m.star")["optics"]) == 2
    for names, ctf in (([], lens), (["a"], lens), (["a"], CTF(1e4, 1e4))):
        with pytest.raises(ValueError, match="cannot write"):
            io.write_micrograph_ctf(names, ctf, 1.0, tmp_path / "n.star")
    assert not (tmp_path / "n.star").exists()


def test_unknown_optics_group_is_refused(tmp_path):
    io.write_micrograph_ctf(["a.mrc"], CTF([1e4], [1e4]), 1.0, tmp_path / "m.star")
    tables = io.read_star(tmp_path / "m.star")
    tables["micrographs"]["rlnOpticsGroup"] = "7"
    io.write_star(tables, tmp_path / "m.star")
    with pytest.raises(ValueError, match="optics group 7"):
        io.read_micrograph_ctf(tmp_path / "m.star")


def test_a_batch_ends_with_the_list_of_those_that_failed(tmp_path, capsys):
    lens, files = CTF(15_500, 14_000, 40, b_factor=80), []
    noise = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)
    pictures = {"good": ice(lens, (900, 800)).data, "black": 0 * noise, "noise": noise, "small": noise[:40, :40]}
    for name, data in pictures.items():
        files.append(tmp_path / f"{name}.mrc")
        io.write_micrograph(Micrograph(data, 1.5), files[-1])
    io.write_mrc(np.stack([noise] * 2), tmp_path / "movie.mrc", pixel_size=1.5)
    (tmp_path / "broken.mrc").write_bytes(b"abc")
    files += [tmp_path / name for name in ("movie.mrc", "broken.mrc", "missing.mrc")]
    out = tmp_path / "out"
    arguments = ["ctf", *map(str, files), "--out", str(out), "--quiet", "--workers", "1", "--pictures"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "measured: 1" in shown and "failed: 6" in shown
    assert [line.split(":")[0] for line in shown.rstrip().splitlines()[-6:]] == [f"  {path}" for path in files[1:]]
    names, found, _ = io.read_micrograph_ctf(out / "micrographs_ctf.star")
    assert names == [str(files[0])] and abs(found.defocus_u[0] - 15_500) < 60
    reasons = io.read_star(out / "failed.star")["micrographs"]["cryonbReason"].tolist()
    for reason, start in zip(reasons, ("black", "no rings", "", "", "", "")):
        assert reason.startswith(start) and reason
    assert json.loads((out / "summary.json").read_text())["failed"] == 6
    assert (out / "good_ctf.png").read_bytes()[1:4] == b"PNG"
    listed = ["ctf", str(out / "micrographs_ctf.star"), "--out", str(tmp_path / "again"), "--quiet"]
    assert main(listed) == 0
    assert io.read_micrograph_ctf(tmp_path / "again" / "micrographs_ctf.star")[0] == names
    assert main([*arguments[:1], *arguments[2:]]) == 0 and not (out / "micrographs_ctf.star").exists()
    assert main([*arguments, "--defocus", "5", "1"]) == 1 and "defocus must be a range" in capsys.readouterr().err


def test_the_real_micrograph(shared_data):
    """Recorded as −2.2 µm; rings and fit agree to better than 4 Å."""
    picture = io.read_micrograph(shared_data / "micrographs" / "epu2.9_example.mrc.gz")
    fit = defocus.fit_defocus(picture, CTF(0, 0, voltage_kv=300, cs_mm=2.7), rng=0)
    assert not fit.failed and fit.resolution < 4 and fit.score > 0.5
    assert 22_000 < 0.5 * (fit.ctf.defocus_u + fit.ctf.defocus_v) < 30_000


# --- drawing --------------------------------------------------------------------------------------------------------


def test_fitted_rings_stand_beside_the_measured_ones(astigmatic):
    lens, _, fit = astigmatic
    ax = plot.ctf_fit(fit, limit=6.0)
    shown = ax.images[0].get_array()
    half = shown.shape[1] // 2
    assert shown.shape == (2 * half, 2 * half)
    # a spectrum is the same at −k: turned by half a circle, the measured half must look like the fitted one
    measured, fitted = shown[1:, 1:][::-1, ::-1][:, half:], shown[1:, 1:][:, half:]
    assert np.corrcoef(measured.ravel(), fitted.ravel())[0, 1] > 0.5
    across = plot.ctf_fit(defocus.at_defocus(fit.spectrum, CTF(16_000, 14_400, 150)), limit=6.0).images[0].get_array()
    assert np.corrcoef(measured.ravel(), across[1:, 1:][:, half:].ravel())[0, 1] < 0.3


def test_curves_are_the_averages(astigmatic):
    _, _, fit = astigmatic
    ax = plot.equiphase_average(fit, limit=4.0)
    rings, _, correlation = ax.lines[:3]
    inside = fit.average.frequency <= 0.25
    assert np.array_equal(rings.get_ydata(), fit.average.fit[inside])
    assert np.array_equal(correlation.get_ydata(), fit.average.correlation[inside])


def test_a_micrograph_is_drawn_with_its_particles_and_a_path_with_its_name():
    picture = Micrograph(np.random.default_rng(0).standard_normal((1100, 700)), 2.0)
    ax = plot.micrograph(picture, centres=np.array([[300.0, 600.0]]), diameter=120.0)
    assert ax.images[0].get_array().shape == (366, 233)  # averaged over 3 × 3 pixels
    (circles,) = ax.collections
    assert np.allclose(circles.get_offsets(), [[(300 - 1) / 3, (600 - 1) / 3]])
    path = np.array([[0.0, 1.0], [2.0, 3.0]])
    ax = plot.drift({"planted": path})
    assert np.allclose(ax.lines[0].get_xydata(), [[-1, -1], [1, 1]])


def test_the_thon_ring_panel_gives_the_ctf_of_its_sliders(astigmatic):
    widgets = pytest.importorskip("cryonb.widgets", reason="the lab extras are not installed")
    _, _, fit = astigmatic
    panel = widgets.ThonRings(fit.spectrum, OPTICS)
    start = panel.result.score
    panel.defocus.value, panel.astigmatism.value, panel.angle.value = 1.52, 0.16, 60
    assert panel.result.ctf.defocus_u == 16_000 and panel.result.ctf.defocus_v == pytest.approx(14_400)
    assert panel.result.score > start + 0.2 and panel.result.resolution < 5
    assert panel.result.score == defocus.at_defocus(fit.spectrum, panel.result.ctf).score
    assert panel.view.value[1:4] == b"PNG"
