"""Where a tour's particles come from: the shipped ribosome with its truth, or the user's files."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from .. import filters, io, manifold, samples, simulate
from ..types import EnergyLandscape, Particles, Poses, Volume

__all__ = ["Source", "Truth", "own", "simulated"]

PIXEL_SIZE = 6.3  # Å at 64 px; the box stays 403 Å at any other size
BOX = 64 * PIXEL_SIZE
RIBOSOME_DIAMETER = 320.0  # Å: the 80S with its stalks, and room for its motion
RATCHET = "ratchet (°)"
STATE_STEP = 2.5  # degrees: a finer grid of true states does not change which species a particle resembles most
LEAST = 20  # particles: fewer cannot be embedded


@dataclass(frozen=True, eq=False)
class Truth:
    """What the simulation knows.

    Parameters
    ----------
    poses : Poses
    label : ndarray (n,) int
        Index into ``label_names``.
    label_names : tuple of str
    state : ndarray (n,)
        Ratchet angle in degrees.
    landscape : EnergyLandscape
        Of all particles.
    states : tuple of (int, float, Volume)
        Species, share of all particles, and density on the grey scale of the images, for every `STATE_STEP` degrees.
    """

    poses: Poses
    label: np.ndarray
    label_names: tuple
    state: np.ndarray
    landscape: EnergyLandscape
    states: tuple


@dataclass(frozen=True, eq=False)
class Source:
    """Particles and what goes with them.

    Parameters
    ----------
    particles : Particles
        As read from the RELION files in the folder of results.
    reference : Volume or None
        Start volume; None where the particles' own angles are used.
    mask_diameter : float
        Å.
    truth : Truth or None
    gauge : manifold.RigidBodyGauge or None
        What turns a conformational coordinate into degrees.
    title, lead : str
        For the report.
    """

    particles: Particles
    reference: Volume | None
    mask_diameter: float
    truth: Truth | None
    gauge: "manifold.RigidBodyGauge | None"
    title: str
    lead: str


def species():
    """The tour's molecules: a ribosome that ratchets between two wells, and a factor that likes the ratcheted one.

    Returns
    -------
    landscape : EnergyLandscape
        Of all of them.
    kinds : tuple of `cryonb.simulate.Species`
        Free and bound.
    """
    landscape = simulate.double_well(RATCHET, span=(-10.0, 10.0), wells=(-5.0, 5.0), barrier_kt=2.0, tilt_kt=0.4)
    return landscape, simulate.bind(landscape, lambda ratchet: 0.05 + 0.9 / (1 + np.exp(-ratchet)))


def simulated(plan, stages):
    """Simulate particles of the shipped ribosome, write them as RELION files with the truth beside, read them back.

    Parameters
    ----------
    plan : Plan
    stages : Stages
    """
    sample, (landscape, kinds) = samples.ribosome(), species()
    folder = plan.out / "particles"
    star = folder / "particles.star"
    imaging = simulate.Imaging(
        plan.size_px, BOX / plan.size_px, snr=plan.snr, shift_sigma=1.5 * PIXEL_SIZE / np.sqrt(2)
    )
    population = simulate.populate(sample, kinds, plan.n_particles, rng=[plan.seed, 0])

    def compute():
        folder.mkdir(parents=True, exist_ok=True)
        particles, truth = simulate.particles(
            population, imaging, rng=[plan.seed, 1], path=folder / "particles.mrcs", workers=plan.workers,
            progress=False,
        )  # fmt: skip
        io.write_particles(particles, star)
        io.write_star({"truth": truth.table()}, folder / "truth.star")
        return {"rotation": truth.poses.rotation.as_quat(), "shift": truth.poses.shift, "scale": truth.scale}

    values = stages.stored("simulate", "simulate particles and write them as RELION files", compute)
    particles = io.read_particles(star)
    truth = Truth(
        poses=Poses(Rotation.from_quat(values["rotation"]), values["shift"]),
        label=population.label,
        label_names=("no factor", "factor bound"),
        state=population.state[:, 0],
        landscape=landscape,
        states=tuple(_states(sample, population, imaging, values["scale"])),
    )
    pixel_size = particles.pixel_size
    return Source(
        particles,
        reference=sample.volume(plan.size_px, pixel_size, factor=False),
        mask_diameter=plan.mask_diameter or RIBOSOME_DIAMETER,
        truth=truth,
        gauge=manifold.RigidBodyGauge(
            lambda angle: sample.volume(plan.size_px, pixel_size, ratchet=angle, factor=False),
            np.linspace(-14.0, 14.0, 15),
            name=RATCHET,
        ),
        title="A ribosome, from noisy projections to a free-energy landscape",
        lead=f"{len(particles):,} simulated particles of the 80S ribosome of PDB 6ZU5, {plan.size_px} px of "
        f"{pixel_size:.3g} Å, SNR {plan.snr:g}: the 40S ratchets between two wells, and a factor prefers one of them. "
        "Orientations, classes and energies are found from the images; the truth is only drawn beside.",
    )


def own(plan, stages):
    """Read the user's particles; crop large boxes in Fourier space; say early what is missing.

    Parameters
    ----------
    plan : Plan
    stages : Stages
    """
    particles = io.read_particles(plan.particles)
    if particles.ctf is None:
        raise ValueError(f"{plan.particles}: expected the CTF of each particle (rlnDefocusU, rlnDefocusV), found none")
    reference = None if plan.reference is None else io.read_volume(plan.reference)
    if particles.poses is None and reference is None:
        raise ValueError(f"{plan.particles} holds no angles (rlnAngleRot, …); give a start volume: --reference my.mrc")
    if reference is not None and abs(reference.box_size / particles.box_size - 1) > 0.01:
        raise ValueError(
            f"{plan.reference} is {reference.box_size:.1f} Å wide, the particles' box is {particles.box_size:.1f} Å; "
            "expected the same box"
        )
    if len(particles) < LEAST:
        raise ValueError(f"{plan.particles}: expected at least {LEAST} particles, got {len(particles)}")
    diameter = plan.mask_diameter or 0.85 * particles.box_size
    size_px = min(plan.size_px, particles.size_px)
    if not 4 * particles.box_size / size_px < diameter <= particles.box_size:
        raise ValueError(
            f"--mask-diameter must lie between four pixels, {4 * particles.box_size / size_px:.0f} Å, and the box, "
            f"{particles.box_size:.0f} Å; got {diameter:g} Å"
        )
    folder = plan.out / "particles"
    star = folder / "particles.star"

    def compute():
        folder.mkdir(parents=True, exist_ok=True)
        images = _Prepared(particles, size_px, diameter)
        io.write_stack(images, folder / "particles.mrcs", images.pixel_size)
        small = replace(particles, images=io.read_stack(folder / "particles.mrcs"), pixel_size=images.pixel_size)
        io.write_particles(small, star)
        return {}

    stages.stored("prepare", f"prepare particles at {size_px} px", compute)
    small = io.read_particles(star)
    if reference is not None:
        reference = filters.resample(reference, size_px)
        reference = Volume(reference.data, small.pixel_size)
    name = Path(plan.particles).name
    return Source(
        small,
        reference=reference,
        mask_diameter=diameter,
        truth=None,
        gauge=None,
        title=f"{name}: from particles to a free-energy landscape",
        lead=f"{len(small):,} particles of {particles.size_px} px, {particles.pixel_size:.3g} Å/px, analysed at "
        f"{size_px} px of {small.pixel_size:.3g} Å; orientations "
        + ("from the file." if reference is None else f"found from {Path(plan.reference).name}."),
    )


class _Prepared:
    """Images normalised on their background and cropped in Fourier space, a slice at a time, for `io.write_stack`."""

    def __init__(self, particles, size_px, diameter):
        self.particles, self.size_px = particles, size_px
        self.pixel_size = particles.box_size / size_px
        self.radius_px = min(diameter / 2 / particles.pixel_size, particles.size_px / 2 - 1)
        self.shape = (len(particles), size_px, size_px)

    def __len__(self):
        return len(self.particles)

    def __getitem__(self, index):
        images = np.asarray(self.particles[index].images)
        images = filters.normalise(images, self.radius_px)
        return images if self.size_px == images.shape[-1] else filters.resample(images, self.size_px)


def _states(sample, population, imaging, scale):
    """Species, share and density of every state that particles are in, the angle rounded to `STATE_STEP`."""
    angles = STATE_STEP * np.round(population.state[:, 0] / STATE_STEP)
    for label, kind in enumerate(population.species):
        for angle, count in zip(*np.unique(angles[population.label == label], return_counts=True)):
            volume = sample.volume(imaging.size_px, imaging.pixel_size, ratchet=angle, **kind.state)
            yield label, count / len(population), volume.with_data(scale * volume.data)
