"""Whole micrographs with known truth: particles in ice, the lens, the detector, and the frames of an exposure."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.spatial import cKDTree

from .. import ctf as ctf_room
from ..filters import dose_attenuation
from ..projection import prepare, project
from ..rotations import to_relion_angles
from ..types import Micrograph, Poses, Volume
from .imaging import Imaging, draw_poses
from .specimens import Field

__all__ = ["MicrographTruth", "micrograph", "movie"]

ABSORPTION = 1.0  # darker by this many standard deviations of the noise per thickness of the ice
CARBON_THICKNESS = (
    3.0  # of the film, against the ice: its rings are √3 times as high, its grey level 3 deviations lower
)
TRIES = 400  # places tried for a particle before the field counts as full
SLICED_BOX = 128  # px: up to here one slice per rigid body is faster than every pseudo-atom


@dataclass(frozen=True, eq=False, repr=False)
class MicrographTruth:
    """What a simulated micrograph shows.

    Parameters
    ----------
    field : Field
    names : tuple of str
        Of the specimens.
    label : ndarray (n,) int
        Index into ``names`` of each particle.
    centres : ndarray (n, 2)
        (x, y) in pixels; the first pixel's centre is (0, 0). Of a movie: where the particles lie without drift.
    diameter : ndarray (n,)
        Å.
    poses : Poses of length n
        Shifts are zero.
    contaminants : ndarray (m, 3)
        (x, y) in pixels and radius in Å of each ice crystal.
    thickness : ndarray (h, w) float32
        Of ice, carbon and crystals; 1 is the mean thickness of the ice.
    drift : ndarray (f, 2), or None
        Å: where the specimen lies in each frame, against ``centres``.
    scale : float
        The recorded particles show ``scale`` times the density; the noise in ice has variance 1.
    """

    field: Field
    names: tuple
    label: np.ndarray
    centres: np.ndarray
    diameter: np.ndarray
    poses: Poses
    contaminants: np.ndarray
    thickness: np.ndarray
    drift: np.ndarray | None
    scale: float

    def __len__(self):
        return len(self.centres)

    @property
    def ctf(self):
        """The CTF of the field."""
        return self.field.ctf

    @property
    def centres_angstrom(self):
        """Centres (x, y) in Å, (n, 2)."""
        return self.centres * self.field.pixel_size

    def star_tables(self, name):
        """RELION's tables of the particles, for `cryonb.io.write_star`.

        Parameters
        ----------
        name : str
            Of the micrograph, for ``rlnMicrographName``.

        Returns
        -------
        dict of str to pandas.DataFrame
            ``optics`` and ``particles``: coordinates, angles and defocus; ``rlnClassNumber`` is the specimen, from 1.
        """
        import pandas as pd

        lens, n = self.ctf, len(self)
        angles = to_relion_angles(self.poses.rotation)
        columns = {
            "rlnCoordinateX": self.centres[:, 0], "rlnCoordinateY": self.centres[:, 1],
            "rlnAngleRot": angles[:, 0], "rlnAngleTilt": angles[:, 1], "rlnAnglePsi": angles[:, 2],
            "rlnOriginXAngst": np.zeros(n), "rlnOriginYAngst": np.zeros(n),
            "rlnDefocusU": np.full(n, lens.defocus_u), "rlnDefocusV": np.full(n, lens.defocus_v),
            "rlnDefocusAngle": np.full(n, lens.defocus_angle), "rlnPhaseShift": np.full(n, lens.phase_shift),
        }  # fmt: skip
        particles = pd.DataFrame({key: [f"{value:.6f}" for value in column] for key, column in columns.items()})
        particles.insert(0, "rlnMicrographName", name)
        particles["rlnClassNumber"] = [str(label + 1) for label in self.label]
        particles["rlnOpticsGroup"] = "1"
        optics = {
            "rlnOpticsGroup": "1", "rlnOpticsGroupName": "opticsGroup1",
            "rlnMicrographPixelSize": f"{self.field.pixel_size:.6f}", "rlnVoltage": f"{lens.voltage_kv:.6f}",
            "rlnSphericalAberration": f"{lens.cs_mm:.6f}", "rlnAmplitudeContrast": f"{lens.amplitude_contrast:.6f}",
        }  # fmt: skip
        return {"optics": pd.DataFrame([optics]), "particles": particles}

    def __repr__(self):
        kinds = ", ".join(f"{(self.label == i).sum()} {name}" for i, name in enumerate(self.names))
        return f"MicrographTruth({kinds or 'no particles'}, {self.ctf!r})"


def micrograph(specimens, field, *, rng):
    """A micrograph of particles in ice, with its truth.

    Parameters
    ----------
    specimens : Specimen or sequence of Specimen
        An empty sequence gives ice alone.
    field : Field
    rng : int or numpy.random.Generator

    Returns
    -------
    micrograph : Micrograph
        Protein dark, ``ctf`` None; the noise in ice of mean thickness has variance 1 and mean 0.
    truth : MicrographTruth

    Raises
    ------
    ValueError
        More particles than the field holds, a volume of another pixel size.

    Notes
    -----
    image = −MTF ∗ CTF ∗ (particles + √thickness · white) + MTF ∗ shot noise − thickness. Filters act on a periodic
    field: what the lens spreads over one edge comes in at the other. Particles lie whole inside the field, off the
    carbon and off the crystals, at uniform random places without overlap (random sequential adsorption, which fills at
    most 0.547 of the plane: Feder, J Theor Biol 87:237, 1980).

    Examples
    --------
    >>> from cryonb import CTF, samples
    >>> from cryonb.simulate import Field, Specimen
    >>> field = Field(CTF(2e4, 2e4), (256, 256), 5.0, snr=0.2)
    >>> picture, truth = micrograph(Specimen(samples.blobs(rng=0), 12), field, rng=1)
    >>> picture, truth
    (Micrograph(256 × 256, 5 Å/pixel), MicrographTruth(12 particle, CTF(2.00 µm, 300 kV)))
    """
    rng = np.random.default_rng(rng)
    scene = _Scene(specimens, field, rng)
    grid = scene.grid
    image = grid.back(scene.signal * (-scene.scale))
    if np.isfinite(field.snr):
        image += grid.back(scene.amorphous(rng) + scene.shot(rng))
        image -= ABSORPTION * (scene.thickness - 1)
    return Micrograph(image, field.pixel_size), scene.truth(None)


def movie(specimens, field, exposure, *, rng):
    """The dose-fractionated frames of a micrograph, which drift and fade.

    Parameters
    ----------
    specimens, field, rng
        As in `micrograph`.
    exposure : Exposure

    Returns
    -------
    frames : ndarray (f, h, w) float32
        Their sum without drift and damage is a micrograph as `micrograph` makes it.
    truth : MicrographTruth
        ``truth.drift`` is the specimen's displacement in each frame.

    Raises
    ------
    ValueError
        As in `micrograph`.

    Notes
    -----
    Specimen, ice and carbon move together; shot noise is new in every frame. A frame's damage is that of the dose in
    the middle of the frame.
    """
    rng = np.random.default_rng(rng)
    scene = _Scene(specimens, field, rng)
    drift = draw_drift(exposure, rng)
    noisy = np.isfinite(field.snr)
    specimen = scene.signal * (-scene.scale)
    absorbed = np.complex64(0)
    if noisy:
        specimen = specimen + scene.amorphous(rng)
        absorbed = scene.grid.forward(scene.thickness - 1) * np.float32(-ABSORPTION)
    frames = np.empty((exposure.n, *field.shape), dtype=np.float32)
    kx, ky = scene.grid.frequencies
    for f in range(exposure.n):
        phase = np.exp(-2j * np.pi * (kx * drift[f, 0] + ky * drift[f, 1])).astype(np.complex64)
        left = np.float32(1)
        if exposure.damage:
            dose = (f + 0.5) * exposure.dose
            left = dose_attenuation(np.sqrt(kx**2 + ky**2), dose, field.ctf.voltage_kv).astype(np.float32)
        frame = (specimen * left + absorbed) * phase / exposure.n
        if noisy:
            frame += scene.shot(rng) / np.float32(np.sqrt(exposure.n))
        frames[f] = scene.grid.back(frame)
    return frames, scene.truth(drift)


def draw_drift(exposure, rng):
    """Displacement (x, y) of the specimen in each frame in Å, (f, 2).

    Parameters
    ----------
    exposure : Exposure
    rng : numpy.random.Generator

    Notes
    -----
    Two thirds of the path are travelled with a time constant of an eighth of the exposure, as beam-induced motion is
    fastest at first; the rest evenly, in another direction.
    """
    if np.ndim(exposure.drift):
        return np.asarray(exposure.drift, dtype=float).copy()
    time = (np.arange(exposure.n) + 0.5) / exposure.n
    first, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-1.2, 1.2)
    fast = (1 - np.exp(-8 * time)) * 2 / 3
    path = fast[:, None] * [np.cos(first), np.sin(first)]
    path = path + time[:, None] / 3 * [np.cos(first + bend), np.sin(first + bend)]
    return float(exposure.drift) * path


class _Grid:
    """Half-plane transforms of a field and the filters on it."""

    def __init__(self, field):
        self.shape = tuple(int(side) for side in field.shape)
        height, width = self.shape
        kx = np.fft.rfftfreq(width, field.pixel_size).astype(np.float32)
        ky = np.fft.fftfreq(height, field.pixel_size).astype(np.float32)
        self.frequencies = (kx[None, :], ky[:, None])
        self.nyquist = 0.5 / field.pixel_size
        # Every column but the first, and the last of an even width, stands for two coefficients.
        self.weight = np.full(len(kx), 2.0)
        self.weight[0] = 1.0
        if width % 2 == 0:
            self.weight[-1] = 1.0

    def radial(self, values):
        """Values given from 0 to Nyquist, on the half plane; beyond Nyquist the last."""
        kx, ky = self.frequencies
        radius = np.sqrt(kx**2 + ky**2) / np.float32(self.nyquist)
        return np.interp(radius, np.linspace(0, 1, len(values)), values).astype(np.float32)

    def mean(self, values):
        """Mean of a filter over the whole plane."""
        return float((values.mean(axis=0, dtype=np.float64) * self.weight).sum() / self.weight.sum())

    def forward(self, image):
        return scipy.fft.rfft2(image)

    def back(self, transform):
        return scipy.fft.irfft2(transform, s=self.shape)


class _Scene:
    """Particles placed and projected, the lens, and the scale that gives the SNR."""

    def __init__(self, specimens, field, rng):
        specimens = (specimens,) if hasattr(specimens, "model") else tuple(specimens)
        self.field, self.specimens, self.grid = field, specimens, _Grid(field)
        for kind in specimens:
            if isinstance(kind.model, Volume) and not np.isclose(kind.model.voxel_size, field.pixel_size, rtol=1e-4):
                raise ValueError(
                    f"volume of {kind.name!r} has {kind.model.voxel_size:g} Å/voxel, the field {field.pixel_size:g} "
                    "Å/pixel: resample it first (cryonb.filters.resample)"
                )
        self.thickness, carbon = _ice_and_carbon(field, rng)
        self.crystals = _place_crystals(field, rng)
        self.label = np.repeat(np.arange(len(specimens)), [kind.n for kind in specimens])
        self.diameter = np.array([specimens[i].width for i in self.label])
        self.centres = _pack(self.diameter / 2 / field.pixel_size, field, carbon, self.crystals, rng)
        self.poses = _poses(specimens, rng)
        _draw_crystals(self.thickness, self.crystals, field.pixel_size, rng)
        self._filters()
        density = np.zeros(self.grid.shape, dtype=np.float32)
        _draw_particles(density, self)
        self.signal = self.grid.forward(density) * (self.lens * self.mtf)
        self.scale = self._scale()

    def _filters(self):
        field, grid = self.field, self.grid
        kx, ky = grid.frequencies
        self.lens = np.empty((ky.size, kx.size), dtype=np.float32)
        for rows in np.array_split(np.arange(ky.size), max(1, ky.size // 32)):  # a few rows stay in the cache
            self.lens[rows] = ctf_room.evaluate(field.ctf, kx, ky[rows])
        self.mtf = np.float32(1) if field.mtf is None else grid.radial(field.mtf)
        shot = np.ones(self.lens.shape, np.float32) if isinstance(field.noise, str) else grid.radial(field.noise)
        shot = np.sqrt(shot) * self.mtf
        self.shot_filter = shot * np.float32(np.sqrt((1 - field.amorphous) / grid.mean(shot**2)))
        rings = self.lens * self.mtf
        self.ice_filter = rings * np.float32(np.sqrt(field.amorphous / grid.mean(rings**2)))

    def amorphous(self, rng):
        """Transform of what amorphous ice, carbon and crystals add."""
        white = rng.standard_normal(self.grid.shape, dtype=np.float32) * np.sqrt(self.thickness)
        return self.grid.forward(white) * self.ice_filter

    def shot(self, rng):
        """Transform of the shot noise."""
        return self.grid.forward(rng.standard_normal(self.grid.shape, dtype=np.float32)) * self.shot_filter

    def _scale(self):
        if not len(self.label):
            return 1.0
        image = self.grid.back(self.signal)
        variances = [
            _circle(image, centre, radius).var(dtype=np.float64)
            for centre, radius in zip(self.centres, self.diameter / 2 / self.field.pixel_size)
        ]
        variance = float(np.mean(variances))
        if not variance > 0:
            raise ValueError("the particles have no signal inside their circles")
        return float(np.sqrt((self.field.snr if np.isfinite(self.field.snr) else 1.0) / variance))

    def truth(self, drift):
        names = tuple(kind.name for kind in self.specimens)
        return MicrographTruth(
            self.field, names, self.label, self.centres, self.diameter, self.poses, self.crystals, self.thickness,
            drift, self.scale,
        )  # fmt: skip


def _poses(specimens, rng):
    from scipy.spatial.transform import Rotation

    rotations = []
    for kind in specimens:
        if isinstance(kind.views, Poses):
            if len(kind.views) != kind.n:
                raise ValueError(f"views of {kind.name!r} are {len(kind.views)} poses for {kind.n} particles")
            rotations.append(kind.views.rotation)
        elif kind.n:
            rotations.append(
                draw_poses(Imaging(shift_sigma=0.0, views=kind.views), np.zeros((kind.n, 0)), rng).rotation
            )
    return Poses(Rotation.concatenate(rotations) if rotations else Rotation.from_quat(np.zeros((0, 4))))


def _ice_and_carbon(field, rng):
    """Thickness (h, w) float32 and the carbon film's disc of vacuum: centre (x, y) and radius in pixels, or None."""
    height, width = field.shape
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32((height - 1) / 2)
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32((width - 1) / 2)
    diagonal = np.hypot(height, width)
    slope, edge = rng.uniform(0, 2 * np.pi, 2)
    along = np.float32(np.cos(slope)) * x + np.float32(np.sin(slope)) * y
    thickness = 1 + np.float32(field.ice_gradient) * along / np.float32(np.ptp(along) + 1)
    if field.carbon == 0:
        return thickness, None
    # The rim of a hole as wide as the field's diagonal, moved so far that the film covers this much of the diagonal.
    radius = diagonal
    centre = np.array([np.cos(edge), np.sin(edge)]) * (radius - diagonal / 2 + field.carbon * diagonal)
    inside = radius - np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1]))
    rim = 20 / field.pixel_size  # px: the film ends within 20 Å
    film = np.clip(0.5 - inside / rim, 0, 1).astype(np.float32)
    return thickness + np.float32(CARBON_THICKNESS) * film, (centre + [(width - 1) / 2, (height - 1) / 2], radius)


def _place_crystals(field, rng):
    """(x, y) in pixels and radius in Å; between 60 and 250 Å, anywhere, over each other too."""
    height, width = field.shape
    places = rng.uniform([0, 0], [width, height], (field.contaminants, 2))
    return np.column_stack([places, rng.uniform(60, 250, field.contaminants)])


def _draw_crystals(thickness, crystals, pixel_size, rng):
    """Add rounded polygons to the thickness, up to three times the ice."""
    height, width = thickness.shape
    for x, y, radius in crystals:
        reach = int(np.ceil(1.3 * radius / pixel_size)) + 1
        rows, columns = _window(y, reach, height), _window(x, reach, width)
        dy, dx = (rows - y)[:, None] * pixel_size, (columns - x)[None, :] * pixel_size
        turn, high = rng.uniform(0, np.pi), rng.uniform(1.5, 3.0)
        sides = np.arange(6) * np.pi / 3 + turn
        far = rng.uniform(0.6, 1.0, 6) * radius
        beyond = np.max([dx * np.cos(a) + dy * np.sin(a) - d for a, d in zip(sides, far)], axis=0)
        thickness[np.ix_(rows, columns)] += (high * np.clip(0.5 - beyond / 20, 0, 1)).astype(np.float32)


def _window(centre, reach, size):
    middle = int(np.rint(centre))
    return np.arange(max(0, middle - reach), min(size, middle + reach + 1))


def _pack(radius, field, carbon, crystals, rng):
    """Centres (n, 2) in pixels: the largest particles first, each where nothing is yet."""
    height, width = field.shape
    centres = np.zeros((len(radius), 2))
    taken, taken_radius = np.zeros((0, 2)), np.zeros(0)
    order = np.argsort(-radius, kind="stable")
    crystal_px = crystals[:, 2] / field.pixel_size
    for place, index in enumerate(order):
        r = radius[index]
        if 2 * r > min(height, width) - 1:
            raise ValueError(f"a particle of {2 * r:.0f} px does not fit a field of {width} × {height} px")
        candidates = rng.uniform([r, r], [width - 1 - r, height - 1 - r], (TRIES, 2))
        free = np.ones(TRIES, dtype=bool)
        if carbon is not None:
            free &= np.hypot(*(candidates - carbon[0]).T) + r < carbon[1]
        for others, reach in ((taken, taken_radius), (crystals[:, :2], crystal_px)):
            if len(others):
                near = cKDTree(others).query_ball_point(candidates, r + reach.max())
                free &= [all(np.hypot(*(others[j] - c)) >= r + reach[j] for j in js) for js, c in zip(near, candidates)]
        if not free.any():
            raise ValueError(
                f"the field of {width} × {height} px holds about {place} of the {len(radius)} particles: ask for "
                "fewer, or for a larger field"
            )
        centres[index] = candidates[np.argmax(free)]
        taken, taken_radius = np.vstack([taken, centres[index]]), np.append(taken_radius, r)
    return centres


def _draw_particles(density, scene):
    """Add the projections of all particles, each at its exact centre."""
    pixel_size = scene.field.pixel_size
    for label, kind in enumerate(scene.specimens):
        rows = np.flatnonzero(scene.label == label)
        if not len(rows):
            continue
        nearest = np.rint(scene.centres[rows])
        poses = Poses(scene.poses.rotation[rows], (nearest - scene.centres[rows]) * pixel_size)
        if isinstance(kind.model, Volume):
            images = project(prepare(kind.model), poses)
        else:
            size_px = scipy.fft.next_fast_len(int(np.ceil(1.25 * kind.width / pixel_size)) + 8)
            images = kind.model.project(poses, size_px, pixel_size, exact=size_px > SLICED_BOX, **kind.state)
        for image, (x, y) in zip(images, nearest.astype(int)):
            _add(density, image, x, y)


def _add(density, image, x, y):
    """Add a centred image at pixel (x, y); what reaches over the edge is left out."""
    height, width = density.shape
    size = image.shape[0]
    top, left = y - size // 2, x - size // 2
    rows, columns = slice(max(0, top), min(height, top + size)), slice(max(0, left), min(width, left + size))
    density[rows, columns] += image[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _circle(image, centre, radius):
    """Pixels of an image within ``radius`` of a centre (x, y)."""
    rows, columns = (_window(centre[i], int(radius) + 1, image.shape[1 - i]) for i in (1, 0))
    inside = np.hypot(rows[:, None] - centre[1], columns[None, :] - centre[0]) <= radius
    return image[np.ix_(rows, columns)][inside]
