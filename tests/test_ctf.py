"""The contrast transfer function against values worked out by hand."""

import numpy as np
import pytest

from cryonb import ctf as ctf_room
from cryonb import fourier
from cryonb.types import CTF


@pytest.mark.parametrize(("voltage_kv", "wavelength"), [(300, 0.01969), (200, 0.02508), (100, 0.03701)])
def test_wavelength(voltage_kv, wavelength):
    # Reimer & Kohl, Transmission Electron Microscopy (2008), table 2.1 (pm: 1.969, 2.508, 3.701)
    assert CTF(1e4, 1e4, voltage_kv=voltage_kv).wavelength == pytest.approx(wavelength, abs=5e-6)


@pytest.mark.parametrize("q", [0.0, 0.07, 0.1, 1.0])
def test_value_at_zero_frequency_is_the_amplitude_contrast(q):
    ctf = CTF(15000, 14000, 20, amplitude_contrast=q)
    assert ctf_room.grid(ctf, 9, 2.0)[4, 4] == pytest.approx(q)


@pytest.mark.parametrize("q", [1.5, -0.01, [0.1, 0.2, 1.5]])
def test_an_impossible_amplitude_contrast_is_refused(q):
    entry = np.size(q) - 1
    with pytest.raises(ValueError, match=rf"amplitude_contrast must lie in \[0, 1\], got .* in entry {entry}"):
        CTF(15000, 14000, 20, amplitude_contrast=q)


def test_underfocus_raises_the_ctf_first():
    # χ grows with k² for positive defocus, so that sin χ rises from Q; overfocus falls
    k = np.array(0.005)
    assert ctf_room.evaluate(CTF(10000, 10000), k, 0 * k) > 0.1
    assert ctf_room.evaluate(CTF(-10000, -10000), k, 0 * k) < 0.1


def test_zeros_are_where_chi_is_a_multiple_of_pi():
    # without Cs and Q: πλΔf k² = nπ, so k = √(n / (λΔf))
    ctf = CTF(12000, 12000, cs_mm=0, amplitude_contrast=0)
    k = np.sqrt(np.arange(1, 8) / (ctf.wavelength * 12000))
    np.testing.assert_allclose(ctf_room.evaluate(ctf, k, 0 * k), 0, atol=1e-12)
    # χ = π(λΔf k² − ½ Cs λ³ k⁴); at Δf = 1 µm the first zero, 14.03 Å = √(λΔf), moves to 14.01 with Cs = 2.7 mm
    ctf = CTF(10000, 10000, cs_mm=2.7, amplitude_contrast=0)
    a, b = 0.5 * 2.7e7 * ctf.wavelength**3, ctf.wavelength * 10000
    first = np.sqrt((b - np.sqrt(b**2 - 4 * a)) / (2 * a))
    assert 1 / first == pytest.approx(14.01, abs=0.005)
    assert ctf_room.evaluate(ctf, first, 0.0) == pytest.approx(0, abs=1e-12)


def test_scherzer_defocus_cancels_the_phase():
    # at Δf = ½ Cs λ² k² the spherical aberration is undone: χ = arcsin Q
    k = 0.3
    wavelength = CTF(1, 1).wavelength
    defocus = 0.5 * 2.7e7 * wavelength**2 * k**2
    assert ctf_room.evaluate(CTF(defocus, defocus), k, 0.0) == pytest.approx(0.1)


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 135.0])
def test_astigmatism_turns_from_x_to_y(angle):
    ctf = CTF(16000, 12000, angle, cs_mm=0)
    for direction, defocus in ((angle, 16000), (angle + 90, 12000), (angle + 45, 14000)):
        kx, ky = 0.05 * np.cos(np.radians(direction)), 0.05 * np.sin(np.radians(direction))
        expected = np.sin(np.pi * ctf.wavelength * defocus * 0.05**2 + np.arcsin(0.1))
        assert ctf_room.evaluate(ctf, kx, ky) == pytest.approx(expected, abs=1e-12)


def test_grid_has_ky_on_rows():
    ctf = CTF(16000, 12000, 0.0)
    grid = ctf_room.grid(ctf, 32, 4.0)
    k = 7 / (32 * 4.0)
    assert grid[16, 16 + 7] == pytest.approx(ctf_room.evaluate(ctf, k, 0.0), abs=1e-6)
    assert grid[16 + 7, 16] == pytest.approx(ctf_room.evaluate(ctf, 0.0, k), abs=1e-6)


def test_phase_plate_and_envelope():
    assert ctf_room.evaluate(CTF(0, 0, amplitude_contrast=0, phase_shift=90), 0.0, 0.0) == pytest.approx(1)
    plain, damped = CTF(10000, 10000), CTF(10000, 10000, b_factor=80)
    ratio = ctf_room.evaluate(damped, 0.1, 0.0) / ctf_room.evaluate(plain, 0.1, 0.0)
    assert ratio == pytest.approx(np.exp(-80 * 0.1**2 / 4))


@pytest.mark.parametrize("size_px", [15, 16])
def test_apply_and_phase_flip(size_px):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, size_px, size_px)).astype(np.float32)
    ctf = CTF(rng.uniform(8000, 20000, 3), rng.uniform(8000, 20000, 3), rng.uniform(0, 180, 3))
    seen = ctf_room.apply(images, ctf, 3.0)
    assert seen.shape == images.shape and seen.dtype == np.float32
    np.testing.assert_allclose(seen[1], ctf_room.apply(images[1], ctf[1], 3.0), atol=1e-6)
    # |CTF|² is real and even: applying twice equals one multiplication by its square
    twice = fourier.transform(ctf_room.apply(seen, ctf, 3.0), ndim=2)
    once = fourier.transform(images, ndim=2) * ctf_room.grid(ctf, size_px, 3.0) ** 2
    inside = fourier.radius_px(size_px) < size_px / 2
    np.testing.assert_allclose(twice[:, inside], once[:, inside], atol=1e-4)
    flipped = ctf_room.phase_flip(seen, ctf, 3.0)
    power = (fourier.transform(flipped, ndim=2) * fourier.transform(images, ndim=2).conj()).real
    assert (power[:, inside] > -1e-3).all()


def test_one_image_under_many_ctfs():
    image = np.random.default_rng(0).normal(size=(16, 16))
    assert ctf_room.apply(image, CTF(np.full(4, 1e4), np.full(4, 1e4)), 2.0).shape == (4, 16, 16)
