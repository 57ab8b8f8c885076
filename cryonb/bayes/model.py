"""Where an analysis starts: checked input, a low-passed reference on the images' grey scale, the images' noise."""

import numpy as np

from cryonb import fourier, io, parallel, projection

from . import coarse, inputs
from .observations import observe, rim_mask
from .slices import fill_bank

__all__ = ["check_input", "fingerprint", "initial_noise", "low_pass", "on_grey_scale", "split_halves"]

FORMAT = 2  # of checkpoints: those of other versions are another job's
HEEDED = ("rlnRandomSubset", "rlnNormCorrection", "rlnGroupNumber", "rlnGroupName", "rlnMicrographName")  # columns

SCALE_PARTICLES = 200
NOISE_PARTICLES = 1000


def check_input(particles, references, mask_diameter):
    """Say before any long work what is wrong with the input. Reads every image once.

    Parameters
    ----------
    particles : Particles
    references : sequence of Volume
        Same box and pixel size as the particles (`inputs.fit_references` brings them there).
    mask_diameter : float or None
        Å; None is nine tenths of the box.

    Returns
    -------
    float : the mask's diameter in Å

    Raises
    ------
    ValueError
        No particles or no CTF; optics groups of different pixel sizes; images that are not finite, constant or all the
        same; a reference that does not fit, is not finite, constant, or larger than the mask; an impossible mask.
    """
    if len(particles) < 1:
        raise ValueError("there are no particles")
    if particles.ctf is None:
        raise ValueError(
            "the particles have no CTF: expected rlnDefocusU and the other columns of the CTF (for images without a "
            "CTF: amplitude_contrast=1, cs_mm=0 and defocus 0, which is CTF = 1)"
        )
    inputs.check_pixel_sizes(particles)
    for number, volume in enumerate(references, 1):
        same = abs(volume.voxel_size / particles.pixel_size - 1) < inputs.SAME
        if volume.size_px != particles.size_px or not same:
            raise ValueError(
                f"reference {number} must have the particles' box and pixel size, {particles.size_px} px at "
                f"{particles.pixel_size:g} Å; got {volume.size_px} px at {volume.voxel_size:g} Å"
            )
    inputs.check_references(references)
    diameter = 0.9 * particles.box_size if mask_diameter is None else float(mask_diameter)
    if not 4 * particles.pixel_size < diameter <= particles.box_size:
        raise ValueError(
            f"mask_diameter must be between 4 pixels and the box, {particles.box_size:g} Å; got {diameter:g} Å"
        )
    for number, volume in enumerate(references, 1):
        inputs.check_extent(volume, diameter, f"reference {number}")
    inputs.check_images(particles)
    return diameter


def fingerprint(particles, references):
    """What tells the input of one run from another's, for the key of its checkpoint.

    Parameters
    ----------
    particles : Particles
    references : sequence of Volume

    Returns
    -------
    str
    """
    known = [] if particles.metadata is None else [name for name in HEEDED if name in particles.metadata]
    columns = [[str(value) for value in particles.metadata[name]] for name in known]
    return parallel.fingerprint(
        FORMAT, particles.images, particles.ctf, particles.poses, particles.optics_group, known, columns,
        [volume.data for volume in references],
    )  # fmt: skip


def split_halves(particles, *, rng):
    """Which half each particle belongs to: as its file says (rlnRandomSubset 1 and 2), or at random.

    Parameters
    ----------
    particles : Particles
    rng : seed or Generator

    Returns
    -------
    ndarray (n,) int, 0 or 1

    Raises
    ------
    ValueError
        A subset other than 1 and 2, or all particles in one.
    """
    n = len(particles)
    if particles.metadata is not None and "rlnRandomSubset" in particles.metadata:
        subset = io.column_numbers(particles.metadata, "rlnRandomSubset", path="the particles' metadata")
        if n > 1 and set(np.unique(subset)) != {1.0, 2.0}:
            raise ValueError(f"rlnRandomSubset must be 1 and 2, some of each; got {sorted(set(subset.tolist()))}")
        return subset.astype(np.int64) - 1
    half = np.empty(n, dtype=np.int64)
    half[np.random.default_rng(rng).permutation(n)] = np.arange(n) % 2
    return half


def low_pass(volume, shell):
    """Soft low-pass at a Fourier shell (cosine over ± 1 shell).

    Parameters
    ----------
    volume : Volume
    shell : float
        Fourier pixels.

    Returns
    -------
    Volume
    """
    radius = fourier.radius_px(volume.size_px, ndim=3)
    gain = 0.5 + 0.5 * np.cos(np.pi * np.clip((radius - shell + 1) / 2, 0, 1))
    return volume.with_data(fourier.inverse_transform(fourier.transform(volume.data) * gain).real)


def initial_noise(particles, *, rng):
    """σ² per optics group and shell as if the images were all noise: half their mean power.

    Parameters
    ----------
    particles : Particles
    rng : seed or Generator
        At most a thousand particles of each group are drawn.

    Returns
    -------
    ndarray (g, d // 2 + 1)
    """
    rng = np.random.default_rng(rng)
    group = particles.optics_group
    mask = rim_mask(particles.size_px)
    noise = []
    for number in range(group.max() + 1):
        members = np.flatnonzero(group == number)
        chosen = np.sort(rng.choice(members, min(len(members), NOISE_PARTICLES), replace=False))
        power = np.zeros(particles.size_px // 2 + 1)
        for part in parallel.chunk_slices(len(chosen), 100):
            images = np.asarray(particles[chosen[part]].images, dtype=np.float32)
            power += fourier.shell_mean(np.abs(fourier.transform(images * mask, ndim=2)) ** 2).sum(0)
        noise.append(power / (2 * len(chosen) * (mask**2).mean()))
    return np.stack(noise)


def on_grey_scale(particles, reference, noise, grid, sampling, *, rng):
    """The reference times the factor that best explains the images, found at their best correlated coarse poses.

    Parameters
    ----------
    particles : Particles
    reference : Volume
    noise : ndarray (g, d // 2 + 1)
    grid : PolarGrid
    sampling : Sampling
        Global; its coarse pass is used.
    rng : seed or Generator
        Two hundred particles are drawn.

    Returns
    -------
    Volume
    """
    rng = np.random.default_rng(rng)
    chosen = np.sort(rng.choice(len(particles), min(len(particles), SCALE_PARTICLES), replace=False))
    some = particles[chosen]
    reference = reference.with_data(reference.data / reference.data.std())
    inner = grid.inner(grid.rings_within(sampling.coarse_radius))
    observed = observe(some, grid, noise[particles.optics_group[chosen]], np.zeros((len(some), 2)), 1)
    bank = fill_bank([projection.prepare(reference)], sampling.views(), inner, 1)
    norm = observed.lens[:, 0, : inner.n_radii, 0] @ bank.power[:, 0, :, 0].T
    shifts, _ = sampling.shifts_px()
    phases = projection.shift_phases(inner.points, shifts, inner.size_px).reshape(-1, inner.n_radii, inner.n_angles)
    tables = coarse.full_turn_tables(inner, 2 * sampling.step)
    explained = expected = 0.0
    for block in parallel.chunk_slices(len(some), 12):
        cross = coarse.global_scores(bank, observed, block, phases, inner, tables).max(2) + 0.5 * norm[block]
        best = (cross / np.sqrt(norm[block])).argmax(1)[:, None]
        explained += np.take_along_axis(cross, best, 1).sum()
        expected += np.take_along_axis(norm[block], best, 1).sum()
    return reference.with_data(reference.data * max(explained / expected, 1e-6))
