"""The nouns: what every room hands to the next. Invariants are checked when a value is made; no algorithms here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import gemmi
    import pandas
    from scipy.spatial.transform import Rotation

__all__ = ["CTF", "AtomicModel", "Embedding", "EnergyLandscape", "Micrograph", "Particles", "Poses", "Volume"]


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """A density on a cubic grid.

    Parameters
    ----------
    data : ndarray (d, d, d)
        ``[z, y, x]``, protein bright; kept as float32.
    voxel_size : float
        Å.
    origin : (3,), optional
        Position (x, y, z) in Å of voxel [0, 0, 0]; as MRC ``ORIGIN``.
    """

    data: np.ndarray
    voxel_size: float
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self):
        data = np.asarray(self.data, dtype=np.float32)
        if data.ndim != 3 or len(set(data.shape)) != 1 or data.size == 0:
            raise ValueError(f"a volume is a cube (d, d, d), got shape {data.shape}")
        _set(self, data=data, voxel_size=_positive(self.voxel_size, "voxel_size", "Å"))
        _set(self, origin=_vector(self.origin, 3, "origin"))

    @property
    def size_px(self):
        """Box size in voxels."""
        return self.data.shape[0]

    @property
    def box_size(self):
        """Box size in Å."""
        return self.size_px * self.voxel_size

    def with_data(self, data):
        """The same grid with other values."""
        return replace(self, data=data)

    def __repr__(self):
        return f"Volume({self.size_px}³, {self.voxel_size:g} Å/voxel, {self.box_size:.4g} Å box)"


@dataclass(frozen=True, eq=False, repr=False)
class CTF:
    """Parameters of the contrast transfer function: one microscope image, or n of them.

    Parameters
    ----------
    defocus_u, defocus_v : float or ndarray (n,)
        Å, positive for underfocus.
    defocus_angle : float or ndarray (n,)
        Degrees from +x to +y, of the axis of ``defocus_u``.
    voltage_kv, cs_mm : float or ndarray (n,)
        Acceleration voltage in kV, spherical aberration in mm.
    amplitude_contrast : float or ndarray (n,)
        Q in [0, 1].
    phase_shift : float or ndarray (n,)
        Degrees (phase plate).
    b_factor : float or ndarray (n,)
        Å²; the envelope is exp(−B k² / 4).
    """

    defocus_u: Any
    defocus_v: Any
    defocus_angle: Any = 0.0
    voltage_kv: Any = 300.0
    cs_mm: Any = 2.7
    amplitude_contrast: Any = 0.1
    phase_shift: Any = 0.0
    b_factor: Any = 0.0

    def __post_init__(self):
        values = {f.name: np.asarray(getattr(self, f.name), dtype=np.float64) for f in fields(self)}
        lengths = {value.size for value in values.values() if value.ndim}
        for name, value in values.items():
            if value.ndim > 1:
                raise ValueError(f"{name} must be a scalar or have shape (n,), got {value.shape}")
            if not np.isfinite(value).all():
                entry = int(np.argmin(np.isfinite(np.atleast_1d(value))))
                raise ValueError(f"{name} must be finite, entry {entry} is not")
        if len(lengths) > 1:
            raise ValueError(f"CTF parameters have different lengths: {sorted(lengths)}")
        if (values["voltage_kv"] <= 0).any():
            raise ValueError(f"voltage_kv must be positive, got {values['voltage_kv'].min():g} kV")
        contrast = np.atleast_1d(values["amplitude_contrast"])
        possible = (contrast >= 0) & (contrast <= 1)
        if not possible.all():
            entry = int(np.argmin(possible))
            raise ValueError(f"amplitude_contrast must lie in [0, 1], got {contrast[entry]:g} in entry {entry}")
        if lengths:
            values = {name: np.broadcast_to(value, lengths).copy() for name, value in values.items()}
        else:
            values = {name: float(value) for name, value in values.items()}
        _set(self, **values)

    def __len__(self):
        if isinstance(self.defocus_u, float):
            raise TypeError("this CTF describes one image; it has no length")
        return len(self.defocus_u)

    def __getitem__(self, index):
        if isinstance(self.defocus_u, float):
            raise TypeError("this CTF describes one image; it cannot be indexed")
        return CTF(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    @property
    def wavelength(self):
        """Relativistic electron wavelength in Å (0.0197 at 300 kV)."""
        volts = np.asarray(self.voltage_kv) * 1e3
        return 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))

    def __repr__(self):
        mean = np.mean([self.defocus_u, self.defocus_v]) / 1e4
        count = "" if isinstance(self.defocus_u, float) else f"{len(self)} × "
        return f"CTF({count}{mean:.2f} µm, {np.mean(self.voltage_kv):g} kV)"


@dataclass(frozen=True, eq=False, repr=False)
class Poses:
    """Orientation and shift of n particles.

    Parameters
    ----------
    rotation : scipy.spatial.transform.Rotation, n of them
        Image frame to volume frame: F_image(k) = F_volume(R·(kx, ky, 0)).
    shift : ndarray (n, 2), optional
        RELION's origin (x, y) in Å: add it to the image to centre the particle, which sits at centre − shift.
    """

    rotation: "Rotation"
    shift: np.ndarray | None = None

    def __post_init__(self):
        from scipy.spatial.transform import Rotation  # half of what `import cryonb` would take

        rotation = self.rotation
        if not isinstance(rotation, Rotation):
            raise TypeError(f"rotation must be a scipy Rotation, got {type(rotation).__name__}")
        if rotation.single:
            rotation = Rotation.from_quat(rotation.as_quat()[None])
        shift = np.zeros((len(rotation), 2)) if self.shift is None else np.asarray(self.shift, dtype=np.float64)
        if shift.shape != (len(rotation), 2):
            raise ValueError(f"shift must have shape ({len(rotation)}, 2) in Å, as the rotations, got {shift.shape}")
        if not np.isfinite(shift).all():
            raise ValueError(f"shift must be finite, row {int(np.argmin(np.isfinite(shift).all(1)))} is not")
        _set(self, rotation=rotation, shift=shift)

    def __len__(self):
        return len(self.rotation)

    def __getitem__(self, index):
        index = np.atleast_1d(np.arange(len(self))[index])
        return Poses(self.rotation[index], self.shift[index])

    def __repr__(self):
        rms = float(np.sqrt((self.shift**2).sum(1).mean())) if len(self) else 0.0
        return f"Poses({len(self)}, shifts {rms:.2g} Å rms)"


@dataclass(frozen=True, eq=False, repr=False)
class Micrograph:
    """A recorded field of view, protein dark.

    Parameters
    ----------
    data : ndarray (h, w)
    pixel_size : float
        Å.
    ctf : CTF of one image, or None
    """

    data: np.ndarray
    pixel_size: float
    ctf: CTF | None = None

    def __post_init__(self):
        data = np.asarray(self.data, dtype=np.float32)
        if data.ndim != 2 or data.size == 0:
            raise ValueError(f"a micrograph is an image (h, w), got shape {data.shape}")
        _set(self, data=data, pixel_size=_positive(self.pixel_size, "pixel_size", "Å"))

    def __repr__(self):
        height, width = self.data.shape
        return f"Micrograph({width} × {height}, {self.pixel_size:g} Å/pixel)"


@dataclass(frozen=True, eq=False, repr=False)
class Particles:
    """Images of single particles, with what is known of each.

    Parameters
    ----------
    images : ndarray (n, d, d) or a lazy stack with ``shape`` and slicing (`cryonb.io.ImageStack`)
        Protein bright. ``np.asarray(particles[0:100].images)`` reads those hundred.
    pixel_size : float
        Å.
    ctf : CTF of length n, or None
    poses : Poses of length n, or None
    metadata : pandas.DataFrame of n rows, or None
        Every column of the STAR file, untouched.
    optics : pandas.DataFrame, or None
        The optics table of the STAR file, untouched.
    """

    images: Any
    pixel_size: float
    ctf: CTF | None = None
    poses: Poses | None = None
    metadata: "pandas.DataFrame | None" = None
    optics: "pandas.DataFrame | None" = None

    def __post_init__(self):
        images = self.images
        if not hasattr(images, "shape"):
            images = np.asarray(images, dtype=np.float32)
        if len(images.shape) != 3 or images.shape[1] != images.shape[2]:
            raise ValueError(f"images must have shape (n, d, d), got {tuple(images.shape)}")
        n = images.shape[0]
        for name in ("ctf", "poses", "metadata"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{name} describes {len(value)} particles, but there are {n} images")
        _set(self, images=images, pixel_size=_positive(self.pixel_size, "pixel_size", "Å"))

    def __len__(self):
        return self.images.shape[0]

    def __getitem__(self, index):
        index = np.atleast_1d(np.arange(len(self))[index])
        return replace(
            self,
            images=self.images[index],
            ctf=None if self.ctf is None else self.ctf[index],
            poses=None if self.poses is None else self.poses[index],
            metadata=None if self.metadata is None else self.metadata.iloc[index],
        )

    @property
    def size_px(self):
        """Box size in pixels."""
        return self.images.shape[1]

    @property
    def box_size(self):
        """Box size in Å."""
        return self.size_px * self.pixel_size

    @property
    def optics_group(self):
        """Optics group of each particle, counted from 0 in order of number; ndarray (n,) int."""
        if self.metadata is None or "rlnOpticsGroup" not in self.metadata:
            return np.zeros(len(self), dtype=np.int64)
        number = self.metadata["rlnOpticsGroup"].to_numpy().astype(np.float64)
        if (number != np.round(number)).any():
            row = int(np.argmax(number != np.round(number)))
            raise ValueError(f"rlnOpticsGroup must be a whole number, got {number[row]:g} in row {row + 1}")
        return np.unique(number, return_inverse=True)[1].reshape(-1)

    def __repr__(self):
        known = "".join(f", {name}" for name in ("ctf", "poses") if getattr(self, name) is not None)
        return f"Particles({len(self)} × {self.size_px}², {self.pixel_size:g} Å/pixel{known})"


@dataclass(frozen=True, eq=False, repr=False)
class AtomicModel:
    """An atomic model: a thin view of a ``gemmi.Structure`` (first model, hydrogens and altlocs as they are).

    Parameters
    ----------
    structure : gemmi.Structure
    """

    structure: "gemmi.Structure"

    def __post_init__(self):
        if len(self.structure) == 0 or next(iter(self.structure[0].all()), None) is None:
            raise ValueError(f"structure {self.structure.name!r} has no atoms")

    def __len__(self):
        return self.structure[0].count_atom_sites()

    def _column(self, get, dtype):
        return np.array([get(site) for site in self.structure[0].all()], dtype=dtype)

    @property
    def coordinates(self):
        """ndarray (n, 3), Å, columns x, y, z."""
        return self._column(lambda site: site.atom.pos.tolist(), np.float64)

    @property
    def elements(self):
        """Element symbols, ndarray (n,) of str."""
        return self._column(lambda site: site.atom.element.name, object).astype(str)

    @property
    def atomic_numbers(self):
        """ndarray (n,) int."""
        return self._column(lambda site: site.atom.element.atomic_number, np.int64)

    @property
    def b_factors(self):
        """ndarray (n,), Å²."""
        return self._column(lambda site: site.atom.b_iso, np.float64)

    @property
    def occupancies(self):
        """ndarray (n,)."""
        return self._column(lambda site: site.atom.occ, np.float64)

    @property
    def atom_names(self):
        """ndarray (n,) of str (CA, P, …)."""
        return self._column(lambda site: site.atom.name, object).astype(str)

    @property
    def residue_names(self):
        """ndarray (n,) of str (ALA, G, …), per atom."""
        return self._column(lambda site: site.residue.name, object).astype(str)

    @property
    def residue_numbers(self):
        """ndarray (n,) int, per atom."""
        return self._column(lambda site: site.residue.seqid.num, np.int64)

    @property
    def chains(self):
        """ndarray (n,) of str, per atom."""
        return self._column(lambda site: site.chain.name, object).astype(str)

    def __repr__(self):
        model = self.structure[0]
        residues = sum(len(chain) for chain in model)
        return f"AtomicModel({self.structure.name}: {len(self)} atoms, {residues} residues, {len(model)} chains)"


@dataclass(frozen=True, eq=False, repr=False)
class Embedding:
    """Conformational coordinates of n particles.

    Parameters
    ----------
    coordinates : ndarray (n, k)
    eigenvalues : ndarray (k,)
    method : str
        How they were found, in words for a figure.
    covariance : ndarray (n, k, k), or None
        Posterior covariance of each particle's coordinates, where known.
    """

    coordinates: np.ndarray
    eigenvalues: np.ndarray
    method: str
    covariance: np.ndarray | None = None

    def __post_init__(self):
        coordinates = np.asarray(self.coordinates, dtype=np.float64)
        if coordinates.ndim != 2:
            raise ValueError(f"coordinates must have shape (n, k), got {coordinates.shape}")
        n, k = coordinates.shape
        eigenvalues = _vector(self.eigenvalues, k, "eigenvalues")
        _set(self, coordinates=coordinates, eigenvalues=eigenvalues)
        if self.covariance is not None:
            covariance = np.asarray(self.covariance, dtype=np.float64)
            if covariance.shape != (n, k, k):
                raise ValueError(f"covariance must have shape {(n, k, k)}, got {covariance.shape}")
            _set(self, covariance=covariance)

    def __len__(self):
        return len(self.coordinates)

    def __repr__(self):
        return f"Embedding({len(self)} particles, {self.coordinates.shape[1]} coordinates, {self.method})"


@dataclass(frozen=True, eq=False, repr=False)
class EnergyLandscape:
    """Free energy over one or two conformational coordinates.

    Parameters
    ----------
    energy_kt : ndarray (m,) or (m1, m2)
        −ln p in kT above the minimum; NaN where nothing was observed.
    edges : sequence of ndarray, one (m + 1,) per axis
        Bin edges of each coordinate.
    lower_kt, upper_kt : ndarray like ``energy_kt``, or None
        Credible band.
    counts : ndarray like ``energy_kt``, or None
        Particles (may be fractional) per bin.
    gauge : sequence of str, one per axis
        What the coordinate measures, with its unit: ``"ratchet (°)"``, ``"arclength (Å)"``.
    credibility : float
        Probability inside the band.
    verdict : str
        "resolved", or why the data cannot say ("unresolvable: …").
    """

    energy_kt: np.ndarray
    edges: Sequence[np.ndarray]
    lower_kt: np.ndarray | None = None
    upper_kt: np.ndarray | None = None
    counts: np.ndarray | None = None
    gauge: Sequence[str] = ("coordinate",)
    credibility: float = 0.9
    verdict: str = "resolved"

    def __post_init__(self):
        energy = np.asarray(self.energy_kt, dtype=np.float64)
        edges = tuple(np.asarray(edge, dtype=np.float64) for edge in self.edges)
        gauge = (self.gauge,) if isinstance(self.gauge, str) else tuple(self.gauge)
        if energy.ndim not in (1, 2):
            raise ValueError(f"a landscape has one or two coordinates, got energy of shape {energy.shape}")
        if tuple(len(edge) - 1 for edge in edges) != energy.shape:
            got = [len(edge) for edge in edges]
            raise ValueError(f"edges must have m + 1 entries per axis for shape {energy.shape}, got {got}")
        if any((np.diff(edge) <= 0).any() for edge in edges):
            raise ValueError("edges must increase")
        if len(gauge) != energy.ndim:
            raise ValueError(f"gauge must name {energy.ndim} coordinates, got {gauge}")
        if not np.isfinite(energy).any():
            raise ValueError("no bin of the landscape was observed (all energies are NaN)")
        for name in ("lower_kt", "upper_kt", "counts"):
            value = getattr(self, name)
            if value is not None and np.shape(value) != energy.shape:
                raise ValueError(f"{name} must have shape {energy.shape}, got {np.shape(value)}")
        minimum = np.nanmin(energy)
        band = {name: getattr(self, name) for name in ("lower_kt", "upper_kt")}
        _set(self, **{name: None if value is None else np.asarray(value) - minimum for name, value in band.items()})
        _set(self, energy_kt=energy - minimum, edges=edges, gauge=gauge)

    @property
    def centers(self):
        """Bin centres of each coordinate: tuple of ndarray (m,)."""
        return tuple((edge[1:] + edge[:-1]) / 2 for edge in self.edges)

    @property
    def probability(self):
        """Probability per bin, like ``energy_kt``, summing to one; 0 where unobserved."""
        weight = np.nan_to_num(np.exp(-self.energy_kt), nan=0.0)
        for axis, edge in enumerate(self.edges):
            width = np.diff(edge)
            weight = weight * (width if self.energy_kt.ndim == 1 else np.expand_dims(width, 1 - axis))
        return weight / weight.sum()

    def __repr__(self):
        shape = " × ".join(str(m) for m in self.energy_kt.shape)
        height = np.nanmax(self.energy_kt)
        return f"EnergyLandscape({shape} bins over {', '.join(self.gauge)}, {height:.1f} kT, {self.verdict})"


def _set(instance, **values):
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _positive(value, name, unit):
    value = float(value)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite in {unit}, got {value:g}")
    return value


def _vector(value, length, name):
    value = np.asarray(value, dtype=np.float64)
    if value.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {value.shape}")
    return value
