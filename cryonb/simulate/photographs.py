"""Pictures of a population, and the truth behind them."""

import operator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from .. import ctf as ctf_room
from .. import fourier
from ..parallel import chunk_slices, map_reduce
from ..rotations import to_relion_angles
from ..types import CTF, EnergyLandscape, Particles, Poses
from .imaging import Imaging, draw_ctf, draw_poses
from .population import Population

__all__ = ["Truth", "particles"]

CHUNK = 128  # images at a time in each worker
PILOT = 1000  # images whose signal variance sets the noise


@dataclass(frozen=True, eq=False, repr=False)
class Truth:
    """What a simulation knows about its particles.

    Parameters
    ----------
    population : Population
        Model, species, and each particle's label, state, trajectory and time.
    imaging : Imaging
    poses : Poses
    ctf : CTF, or None
    optics_group : ndarray (n,) int
        From 0.
    scale : float
        Images show ``scale`` times the model's density; with noise, chosen so that the noise has variance 1 (in an
        optics group whose relative noise is 1).
    signal_variance : float
        Of the images without noise, per pixel inside the particle's circle, as scaled.
    """

    population: Population
    imaging: Imaging
    poses: Poses
    ctf: CTF | None
    optics_group: np.ndarray
    scale: float
    signal_variance: float

    def __len__(self):
        return len(self.population)

    @property
    def label(self):
        """Index of each particle's species, (n,)."""
        return self.population.label

    @property
    def label_names(self):
        """Names of the species."""
        return tuple(kind.name for kind in self.population.species)

    @property
    def state(self):
        """Conformational coordinates (n, k)."""
        return self.population.state

    @property
    def state_names(self):
        """Names of the coordinates."""
        return self.population.coordinate_names

    @property
    def gauge(self):
        """Coordinates with their units."""
        return self.population.gauge

    @property
    def noise_variance(self):
        """Of each optics group, per pixel, (g,); zero for an infinite SNR."""
        level = 0.0 if np.isinf(self.imaging.snr) else 1.0
        return level * np.asarray(self.imaging.group_noise, dtype=float) ** 2

    @property
    def noise_spectrum(self):
        """Of each optics group, (g, d // 2 + 1), as `cryonb.filters.noise_spectrum` measures it."""
        shells = _shell_variance(self.imaging)
        return self.noise_variance[:, None] * shells * self.imaging.size_px**2 / 2

    def landscape(self, *labels):
        """Free energy of the species mixed in their true proportions.

        Parameters
        ----------
        *labels : str
            Names of species; all that have a landscape by default.

        Returns
        -------
        EnergyLandscape
        """
        kinds = [kind for kind in self.population.species if kind.landscape is not None]
        kinds = [kind for kind in kinds if not labels or kind.name in labels]
        unknown = set(labels) - set(self.label_names)
        if unknown or not kinds:
            raise ValueError(
                f"no species with a landscape is called {sorted(unknown) or labels}; there are {self.label_names}"
            )
        first = kinds[0].landscape
        for kind in kinds:
            same = kind.landscape.gauge == first.gauge and len(kind.landscape.edges) == len(first.edges)
            if not same or not all(np.array_equal(a, b) for a, b in zip(kind.landscape.edges, first.edges)):
                raise ValueError(f"species {kind.name!r} and {kinds[0].name!r} have different coordinates or bins")
        probability = sum(kind.fraction * kind.landscape.probability for kind in kinds)
        for axis, edge in enumerate(first.edges):
            probability = probability / np.expand_dims(
                np.diff(edge), tuple(i for i in range(probability.ndim) if i != axis)
            )
        with np.errstate(divide="ignore"):
            energy = np.where(probability > 0, -np.log(probability), np.nan)
        return EnergyLandscape(energy, first.edges, gauge=first.gauge, credibility=1.0)

    def with_poses(self, particles):
        """The particles with their true poses.

        Parameters
        ----------
        particles : Particles
        """
        return replace(particles, poses=self.poses)

    def table(self):
        """One row a particle, for `cryonb.io.write_star`: RELION's columns for pose and CTF, ours for the rest.

        Returns
        -------
        pandas.DataFrame
        """
        import pandas as pd

        angles, shift = to_relion_angles(self.poses.rotation), self.poses.shift
        columns = dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), angles.T))
        columns |= dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), shift.T))
        if self.ctf is not None:
            columns |= {"rlnDefocusU": self.ctf.defocus_u, "rlnDefocusV": self.ctf.defocus_v}
            columns["rlnDefocusAngle"] = self.ctf.defocus_angle
        columns["rlnOpticsGroup"] = self.optics_group + 1
        columns["cryonbSpecies"] = np.array(self.label_names)[self.label]
        # A STAR file has no blanks in names: "head swivel" is cryonbHeadSwivel.
        names = ["".join(word.capitalize() for word in name.split()) for name in self.state_names]
        columns |= {f"cryonb{name}": self.state[:, i] for i, name in enumerate(names)}
        if (self.population.trajectory >= 0).any():
            columns |= {"cryonbTrajectory": self.population.trajectory, "cryonbTime": self.population.time}
        return pd.DataFrame(columns)

    def __repr__(self):
        return f"Truth({self.population!r}, SNR {self.imaging.snr:g}, density × {self.scale:.3g})"


def particles(population, imaging, *, rng, path=None, workers=1, progress=True):
    """Take a picture of every particle: image = CTF · projection, moved to centre − shift, plus noise.

    Parameters
    ----------
    population : Population
    imaging : Imaging
    rng : int or numpy.random.Generator
    path : path, optional
        Write the images to this MRC stack, a block at a time; memory then stays bounded whatever their number.
    workers : 1, int, "threads", or dask.distributed.Client
        As in `cryonb.parallel.map_reduce`; the images are the same wherever they are computed.
    progress : bool

    Returns
    -------
    particles : Particles
        Without poses (`Truth.with_poses` adds them), with CTF and micrographs; noise of variance 1.
    truth : Truth

    Notes
    -----
    Particle i draws its noise from a Philox stream with counter i, so that it does not matter in which chunk it falls.

    Examples
    --------
    >>> from cryonb.samples import blobs
    >>> from cryonb.simulate import populate
    >>> population = populate(blobs(rng=0), None, 20, rng=1)
    >>> images, truth = particles(population, Imaging(32, 8.0, snr=0.5), rng=2, progress=False)
    >>> images.images.shape, truth.noise_variance.tolist()
    ((20, 32, 32), [1.0])
    """
    rng = np.random.default_rng(rng)
    n = len(population)
    poses = draw_poses(imaging, population.state, rng)
    lens, micrograph = draw_ctf(imaging, n, rng)
    group = micrograph % len(imaging.group_noise)
    key = rng.integers(0, 2**64, 2, dtype=np.uint64)
    camera = _Camera(population, imaging, poses, lens, group, key)
    camera.calibrate(workers)
    truth = Truth(population, imaging, poses, lens, group, camera.scale, camera.signal_variance)
    lazy = _Developing(camera, n, workers, progress)
    if path is None:
        images = lazy[0:n]
    else:
        from ..io import read_stack, write_stack

        write_stack(lazy, path, imaging.pixel_size)
        images = read_stack(Path(path))
    lazy.close()
    metadata, optics = _tables(imaging, micrograph, group, lens, rng)
    return Particles(images, imaging.pixel_size, ctf=lens, metadata=metadata, optics=optics), truth


class _Camera:
    """Draws any of the images: signal, then noise of its own stream."""

    def __init__(self, population, imaging, poses, lens, group, key):
        self.population, self.imaging, self.poses, self.lens = population, imaging, poses, lens
        self.noise_std = np.asarray(imaging.group_noise, dtype=float)[group]
        self.key = key
        self.scale = self.signal_variance = 1.0
        self.circle = fourier.radius_px(imaging.size_px) <= imaging.circle_px
        self.junk = np.array([kind.junk for kind in population.species])[population.label]

    def signal(self, rows):
        """Images without noise, (m, d, d) float32; junk is as bright as the molecule."""
        images = np.empty((len(rows), self.imaging.size_px, self.imaging.size_px), dtype=np.float32)
        labels = self.population.label[rows]
        for label in np.unique(labels):
            place = np.flatnonzero(labels == label)
            images[place] = self._of_species(rows[place], int(label))
        if self.lens is not None:
            images = ctf_room.apply(images, self.lens[rows], self.imaging.pixel_size)
        junk = self.junk[rows]
        if junk.any():
            brightness = images[junk][:, self.circle].std(axis=1)[:, None, None]
            images[junk] *= np.sqrt(self.signal_variance) / self.scale / brightness
        return images * np.float32(self.scale)

    def _of_species(self, rows, label):
        imaging, poses = self.imaging, self.poses[rows]
        if self.population.species[label].junk:
            return np.stack([_blob_image(imaging.size_px, self._stream(row, 1)) for row in rows])
        values = self.population.values(rows, label)
        return self.population.model.project(poses, imaging.size_px, imaging.pixel_size, **values)

    def _stream(self, row, purpose):
        return np.random.Generator(np.random.Philox(key=self.key, counter=[0, 0, purpose, int(row)]))

    def noise(self, rows):
        """Noise images of the true spectrum, variance 1 times the group's."""
        size_px = self.imaging.size_px
        white = np.empty((len(rows), size_px, size_px), dtype=np.float32)
        for image, row in zip(white, rows):
            self._stream(row, 0).standard_normal(out=image, dtype=np.float32)
        if not isinstance(self.imaging.noise, str):
            amplitude = np.sqrt(_pixel_variance(self.imaging)).astype(np.float32)
            white = fourier.inverse_transform(fourier.transform(white, ndim=2) * amplitude, ndim=2).real
        return white * self.noise_std[rows, None, None].astype(np.float32)

    def picture(self, rows):
        """The images as recorded."""
        images = self.signal(rows)
        return images if np.isinf(self.imaging.snr) else images + self.noise(rows)

    def calibrate(self, workers):
        """Set the scale from the signal variance of particles spread over the list."""
        molecules = np.flatnonzero(~self.junk)
        if not len(molecules):
            raise ValueError("every particle is junk: there is no signal to set the noise by")
        rows = molecules[np.linspace(0, len(molecules) - 1, min(PILOT, len(molecules))).astype(int)]
        chunks = chunk_slices(len(rows), CHUNK)
        variances = map_reduce(partial(_signal_variances, self, rows), chunks, combine=operator.add, workers=workers)
        variance = float(np.concatenate(variances).mean())
        if not variance > 0:
            raise ValueError("the images have no signal inside the particle's circle")
        if not np.isinf(self.imaging.snr):
            self.scale = float(np.sqrt(self.imaging.snr / variance))
        self.signal_variance = variance * self.scale**2


def _signal_variances(camera, rows, chunk):
    return [camera.signal(rows[chunk])[:, camera.circle].var(axis=1, dtype=np.float64)]


def _pictures(camera, rows, chunk):
    return chunk, camera.picture(rows[chunk])


class _Developing:
    """The images as a lazy array (n, d, d): a slice is computed by the workers when it is asked for."""

    dtype = np.dtype(np.float32)

    def __init__(self, camera, n, workers, progress):
        from tqdm.auto import tqdm

        self.camera, self.workers = camera, workers
        self.shape = (n, camera.imaging.size_px, camera.imaging.size_px)
        self.bar = tqdm(total=n, desc="simulating particles", unit="image", disable=not progress)

    def __getitem__(self, wanted):
        rows = np.arange(self.shape[0])[wanted]
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        if not len(rows):
            return images

        def keep(first, item):
            chunk, pictures = item
            images[chunk] = pictures
            self.bar.update(len(pictures))
            return first

        # Each result goes to its place at once; the first has nobody to be combined with, and comes back.
        chunks = chunk_slices(len(rows), CHUNK)
        keep(None, map_reduce(partial(_pictures, self.camera, rows), chunks, combine=keep, workers=self.workers))
        return images

    def close(self):
        self.bar.close()


def _blob_image(size_px, rng):
    """Junk: two to five elongated blobs anywhere near the centre."""
    axis = np.arange(size_px) - size_px // 2
    image = np.zeros((size_px, size_px), dtype=np.float32)
    for _ in range(rng.integers(2, 6)):
        x, y = rng.normal(0, 0.15 * size_px, 2)
        turn, long, short = rng.uniform(0, np.pi), *(size_px * rng.uniform([0.06, 0.03], [0.18, 0.08]))
        along = (axis - x) * np.cos(turn) + (axis[:, None] - y) * np.sin(turn)
        across = (axis[:, None] - y) * np.cos(turn) - (axis - x) * np.sin(turn)
        image += rng.uniform(0.5, 1.5) * np.exp(-0.5 * ((along / long) ** 2 + (across / short) ** 2))
    return image


def _pixel_variance(imaging):
    """Variance of each Fourier pixel (d, d) relative to white noise of the same variance per image pixel."""
    if isinstance(imaging.noise, str):
        return np.ones((imaging.size_px, imaging.size_px))
    radius = fourier.radius_px(imaging.size_px) / (imaging.size_px / 2)
    variance = np.interp(radius, np.linspace(0, 1, len(imaging.noise)), imaging.noise)
    return variance / variance.mean()


def _shell_variance(imaging):
    return fourier.shell_mean(_pixel_variance(imaging))


def _tables(imaging, micrograph, group, lens, rng):
    """RELION's particle and optics tables, as text."""
    import pandas as pd

    coordinate = rng.uniform(imaging.size_px, 4096 - imaging.size_px, (len(micrograph), 2))
    metadata = pd.DataFrame(
        {
            "rlnMicrographName": [f"micrographs/{number + 1:05d}.mrc" for number in micrograph],
            "rlnCoordinateX": [f"{x:.1f}" for x in coordinate[:, 0]],
            "rlnCoordinateY": [f"{y:.1f}" for y in coordinate[:, 1]],
            "rlnOpticsGroup": [str(number + 1) for number in group],
        },
        dtype=object,
    )
    optics_ctf = lens if lens is not None else CTF(np.zeros(1), 0.0)
    numbers = range(1, len(imaging.group_noise) + 1)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [str(number) for number in numbers],
            "rlnOpticsGroupName": [f"opticsGroup{number}" for number in numbers],
            "rlnVoltage": f"{optics_ctf.voltage_kv[0]:.6f}",
            "rlnSphericalAberration": f"{optics_ctf.cs_mm[0]:.6f}",
            "rlnAmplitudeContrast": f"{optics_ctf.amplitude_contrast[0]:.6f}",
            "rlnImagePixelSize": f"{imaging.pixel_size:.6f}",
            "rlnImageSize": str(imaging.size_px),
            "rlnImageDimensionality": "2",
        },
        dtype=object,
    )
    return metadata, optics
