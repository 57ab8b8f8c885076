"""What lies in the field of view of a simulated micrograph, and how the field is recorded."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..types import CTF, Volume

__all__ = ["Exposure", "Field", "Specimen"]


@dataclass(frozen=True, eq=False)
class Specimen:
    """One kind of particle in the ice.

    Parameters
    ----------
    model : `cryonb.samples.MovingModel` or Volume
        Protein bright. A volume must have the field's pixel size as its voxel size (`cryonb.filters.resample`).
    n : int
        Particles in the field.
    diameter : float, optional
        Å: no two particles come closer than the mean of their diameters, and a particle's circle has this width. By
        default twice the distance of the farthest pseudo-atom from the centre, or 85 % of a volume's box.
    name : str
        Its label, such as "80S" or "contaminant".
    state : dict
        Conformation of a model, as `cryonb.samples.MovingModel.state` takes it: ``{"ratchet": 4.0}``.
    views : None, VonMisesFisher, ndarray (m, 3), Rotation, callable, or Poses
        As in `Imaging`; n `Poses` are taken as they are, in order, without their shifts.
    """

    model: Any
    n: int
    diameter: float | None = None
    name: str = "particle"
    state: dict = field(default_factory=dict)
    views: Any = None

    def __post_init__(self):
        if not (isinstance(self.model, Volume) or hasattr(self.model, "project")):
            raise TypeError(
                f"model of {self.name!r} must be a MovingModel or a Volume, got {type(self.model).__name__}"
            )
        if self.n != int(self.n) or self.n < 0:
            raise ValueError(f"n of {self.name!r} must be a whole number of 0 or more, got {self.n}")
        if self.diameter is not None and not (np.isfinite(self.diameter) and self.diameter > 0):
            raise ValueError(f"diameter of {self.name!r} must be positive in Å, got {self.diameter}")

    @property
    def width(self):
        """Diameter in Å, given or found."""
        if self.diameter is not None:
            return float(self.diameter)
        if isinstance(self.model, Volume):
            return 0.85 * self.model.box_size
        return 2 * float(np.linalg.norm(self.model.coordinates, axis=1).max())


@dataclass(frozen=True, eq=False)
class Field:
    """One field of view and the microscope that records it.

    Parameters
    ----------
    ctf : CTF
        Of one image; its B factor is the envelope.
    shape : (int, int)
        Height and width in pixels.
    pixel_size : float
        Å.
    snr : float
        Variance of the signal over variance of the noise, per pixel inside the particles' circles, both as recorded;
        ``inf`` is no noise at all (no ice either).
    amorphous : float
        Fraction of the variance of the noise that amorphous ice makes and the lens modulates: the Thon rings. The
        rest is shot noise.
    noise : "white" or ndarray (m,)
        Relative variance of the shot noise at m frequencies evenly spaced from 0 to Nyquist.
    mtf : ndarray (m,), optional
        Modulation transfer of the detector at m frequencies evenly spaced from 0 to Nyquist; on everything that the
        lens delivers, shot noise too.
    ice_gradient : float
        How much thicker the ice is at one side of the field than at the other, relative to its mean, in [0, 2).
    carbon : float
        Fraction of the field's diagonal that the carbon film covers, in [0, 1): its round edge comes in from one side.
    contaminants : int
        Ice crystals.
    """

    ctf: CTF
    shape: tuple = (1024, 1024)
    pixel_size: float = 4.0
    snr: float = 0.1
    amorphous: float = 0.1
    noise: Any = "white"
    mtf: np.ndarray | None = None
    ice_gradient: float = 0.0
    carbon: float = 0.0
    contaminants: int = 0

    def __post_init__(self):
        if not isinstance(self.ctf, CTF) or not isinstance(self.ctf.defocus_u, float):
            raise TypeError("ctf must be the CTF of one image (scalars)")
        if len(self.shape) != 2 or min(self.shape) < 16:
            raise ValueError(f"shape must be (height, width) of 16 px or more, got {self.shape}")
        if not (np.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise ValueError(f"pixel_size must be positive in Å, got {self.pixel_size}")
        if not self.snr > 0:
            raise ValueError(f"snr must be positive (inf for no noise), got {self.snr}")
        for name, limit in (("amorphous", 1), ("ice_gradient", 2), ("carbon", 1)):
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name} must lie in [0, {limit}), got {getattr(self, name)}")
        if self.contaminants < 0:
            raise ValueError(f"contaminants must be 0 or more, got {self.contaminants}")
        for name in ("noise", "mtf"):
            value = getattr(self, name)
            if value is None or (name == "noise" and isinstance(value, str) and value == "white"):
                continue
            values = np.asarray(value, dtype=float) if not isinstance(value, str) else np.zeros(0)
            if values.ndim != 1 or len(values) < 2 or not (values >= 0).all() or values.sum() == 0:
                raise ValueError(f"{name} must be numbers ≥ 0 (m,) from 0 to Nyquist, not all 0, got {value!r}")
            object.__setattr__(self, name, values)


@dataclass(frozen=True, eq=False)
class Exposure:
    """How an exposure is fractionated into frames, and what moves and fades meanwhile.

    Parameters
    ----------
    n : int
        Frames.
    dose : float
        Electrons per Å² and frame.
    drift : float or ndarray (n, 2)
        Å. A number is the length of a smooth path: fast at first, then slower, on a bent line. An array gives the
        displacement (x, y) of the specimen in each frame, against any origin.
    damage : bool
        Whether the specimen fades with the dose, by `cryonb.filters.dose_attenuation`.
    """

    n: int = 20
    dose: float = 2.0
    drift: Any = 12.0
    damage: bool = True

    def __post_init__(self):
        if self.n != int(self.n) or self.n < 1:
            raise ValueError(f"n must be a whole number of 1 or more frames, got {self.n}")
        if not (np.isfinite(self.dose) and self.dose > 0):
            raise ValueError(f"dose must be positive in e/Å² per frame, got {self.dose}")
        drift = np.asarray(self.drift, dtype=float)
        if (drift.ndim and drift.shape != (self.n, 2)) or not np.isfinite(drift).all():
            raise ValueError(f"drift must be a length or displacements ({self.n}, 2) in Å, got shape {drift.shape}")
