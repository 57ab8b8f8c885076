"""How bright each image is, and how strong the signal in each group of images: norm and scale corrections.

X_i = norm_i · (scale_g · CTF_i P V + N_i). The norm of a particle brings the power of what its reference leaves
unexplained to that of its optics group; a group's scale is Σ⟨X, CTF P V⟩ / Σ|CTF P V|² where the map is sure; as in
RELION (Scheres, J Struct Biol 180:519 (2012)). Both are shrunk to 1 by as much of their spread as sampling explains.
"""

from dataclasses import dataclass, replace

import numpy as np

from cryonb import io

from .observations import rim_mask

__all__ = ["GROUP_COLUMNS", "Contrast", "scale_groups"]

GROUP_COLUMNS = ("rlnGroupName", "rlnGroupNumber", "rlnMicrographName")  # of scale; else the optics group
STRONG = 0.75  # half-set FSC at which SSNR = f / (1 − f) is 3
LIMITS = (0.2, 5.0)  # of a group's scale
FIRST_RING = 1.0  # Fourier pixels: a background below it would rule the norm


@dataclass(frozen=True, eq=False)
class Contrast:
    """Norm and scale of n particles.

    Parameters
    ----------
    norm : ndarray (n,)
        Factor on signal and noise of each image; mean 1 in each optics group.
    group : ndarray (n,) int
        Group that each particle shares its scale with.
    group_scale : ndarray (m,)
        Factor on the signal of each group; mean 1 over particles.
    strong_shell : float
        Last shell, in Fourier pixels, whose SSNR is above 3: from there on nothing says what the scale is.
    """

    norm: np.ndarray
    group: np.ndarray
    group_scale: np.ndarray
    strong_shell: float = 0.0

    @classmethod
    def of(cls, particles):
        """What is known at the start: rlnNormCorrection where the particles' metadata have it, scales of 1.

        Raises
        ------
        ValueError
            A norm that is not positive.
        """
        norm = np.ones(len(particles))
        if particles.metadata is not None and "rlnNormCorrection" in particles.metadata:
            norm = io.column_numbers(particles.metadata, "rlnNormCorrection", path="the particles' metadata")
            if not (np.isfinite(norm) & (norm > 0)).all():
                row = int(np.argmin(np.isfinite(norm) & (norm > 0)))
                raise ValueError(f"rlnNormCorrection must be positive, got {norm[row]:g} in row {row + 1}")
            norm = norm / _group_mean(norm, particles.optics_group)
        group = scale_groups(particles)
        return cls(norm, group, np.ones(group.max() + 1))

    @property
    def scale(self):
        """Of each particle, ndarray (n,)."""
        return self.group_scale[self.group]

    def sure_of(self, correlation):
        """With the last shell whose SSNR is above 3 by an FSC (d // 2 + 1,) of half maps."""
        below = np.flatnonzero(np.asarray(correlation)[1:] < STRONG)
        return replace(self, strong_shell=float(below[0]) if len(below) else len(correlation) - 1.0)

    def updated(self, index, optics_group, posterior, grid):
        """The corrections after an expectation that used these.

        Parameters
        ----------
        index : ndarray (m,) int
            Particles that were looked at.
        optics_group : ndarray (n,) int
            Of all particles.
        posterior : sequence of ndarray (m,)
            ``misfit``, ``cross`` and ``explained`` of `expectation.Posterior`.
        grid : PolarGrid

        Returns
        -------
        Contrast
        """
        misfit, cross, explained = posterior
        norm, group_scale = self.norm.copy(), self.group_scale
        raw = np.log(self.norm[index]) + 0.5 * np.log(np.maximum(misfit, 1e-6))
        raw -= _group_mean(raw, optics_group[index])
        norm[index] = np.exp(_shrinkage(raw.var(), 0.25 / independent_coefficients(grid)) * raw)
        norm[index] /= _group_mean(norm[index], optics_group[index])
        if explained.sum() > 0:
            group_scale = self._scales(index, cross, explained)
        return replace(self, norm=norm, group_scale=group_scale)

    def _scales(self, index, cross, explained):
        n_groups = len(self.group_scale)
        group, count = self.group[index], np.bincount(self.group[index], minlength=n_groups)
        power = np.bincount(group, explained, n_groups)
        seen = power > 0
        ratio = np.divide(np.bincount(group, cross, n_groups), power, out=np.ones(n_groups), where=seen)
        raw = np.where(seen, self.group_scale * ratio, 0)
        raw = raw * count.sum() / (raw @ count) - 1
        sampling = np.divide(self.group_scale**2, power, out=np.zeros(n_groups), where=seen)
        spread = count @ (raw**2 - sampling) / count.sum()  # of the groups' scales, without that of sampling
        believed = max(spread, 0) / np.maximum(max(spread, 0) + sampling, 1e-30)
        scale = np.where(seen, np.clip(1 + believed * raw, *LIMITS), self.group_scale)
        return scale * count.sum() / (scale @ count)


def scale_groups(particles):
    """Which particles share a scale: those of a group or micrograph of the metadata, else of an optics group.

    Parameters
    ----------
    particles : Particles

    Returns
    -------
    ndarray (n,) int, counted from 0
    """
    for name in GROUP_COLUMNS:
        if particles.metadata is not None and name in particles.metadata:
            return np.unique(particles.metadata[name].astype(str).to_numpy(), return_inverse=True)[1].reshape(-1)
    return particles.optics_group


def independent_coefficients(grid):
    """How many independent complex numbers the noise of an image has on the rings that count for its norm.

    Parameters
    ----------
    grid : PolarGrid

    Returns
    -------
    float
    """
    squares = rim_mask(grid.size_px).astype(np.float64) ** 2
    return float(grid.areas[grid.radii >= FIRST_RING].sum() * squares.mean() ** 2 / (squares**2).mean())


def _shrinkage(observed, sampling):
    return max(0.0, 1 - sampling / max(observed, 1e-30))


def _group_mean(values, group):
    """Of each value's group."""
    total, count = np.bincount(group, values), np.bincount(group)
    return (total / np.maximum(count, 1))[group]
