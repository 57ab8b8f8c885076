"""The most probable defocus: rings and background fitted to the spectrum together, and how far the tiles agree."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import BSpline

from .. import ctf as ctf_room
from .search import lens

__all__ = ["Rings", "fit_rings"]

BACKGROUND_TERMS = 9
RING_TERMS = 6
STEPS = 40
TOLERANCE = 0.05  # Å


@dataclass(frozen=True, eq=False)
class Rings:
    """Rings fitted to a spectrum.

    Parameters
    ----------
    parameters : ndarray (p,)
        Mean defocus, (U − V) cos 2α, (U − V) sin 2α in Å; the phase shift in degrees where it was fitted.
    influence : ndarray (n, p)
        How much each tile moves the parameters: their sum over n tiles, drawn anew, is a bootstrap's change.
    covariance : ndarray (p, p)
        Of the parameters, by the curvature of the likelihood.
    gain : float
        How much the rings raise the log-likelihood, against a background without rings.
    converged : bool
    """

    parameters: np.ndarray
    influence: np.ndarray
    covariance: np.ndarray
    gain: float
    converged: bool


def fit_rings(spectrum, optics, start, resolution, *, fit_phase):
    """Maximum-likelihood defocus, astigmatism and phase shift from a start within half a ring.

    Parameters
    ----------
    spectrum : Spectrum
    optics : CTF
    start : sequence of float
        Mean, along, across (Å), phase shift (degrees).
    resolution : (float, float)
        Å.
    fit_phase : bool

    Returns
    -------
    Rings

    Notes
    -----
    The power of a tile at one frequency is exponentially distributed about its mean S (Whittle, J R Stat Soc B 15:125,
    1953), and S(k) = B(k) + R(k)·CTF², with B and R cubic splines along the radius, each with an ellipticity. The mean
    over n tiles then has variance S²/n: weighted least squares, with the weights of the last step (Fisher scoring).
    """
    radius = np.hypot(spectrum.kx, spectrum.ky)
    inside = (radius >= 1 / resolution[0]) & (radius <= 1 / resolution[1])
    kx, ky, k = spectrum.kx[inside], spectrum.ky[inside], radius[inside]
    tiles = spectrum.tiles[:, inside]
    power = tiles.mean(axis=0, dtype=np.float64)
    level = np.median(power)
    power, tiles = power / level, tiles / np.float32(level)
    background, rings = _smooth(k, kx, ky, BACKGROUND_TERMS), _smooth(k, kx, ky, RING_TERMS)
    parameters = np.array(start[: 4 if fit_phase else 3], dtype=float)
    fixed_phase = float(start[3])

    def tangent(parameters):
        phase = parameters[3] if fit_phase else fixed_phase
        chi = ctf_room.phase(lens(optics, *parameters[:3], phase), kx, ky)
        slope = np.pi * float(optics.wavelength) * k**2
        columns = [slope, 0.5 * slope * (kx**2 - ky**2) / k**2, slope * kx * ky / k**2]
        if fit_phase:
            columns.append(np.full_like(k, np.pi / 180))
        return np.sin(chi) ** 2, np.stack(columns, axis=1) * np.sin(2 * chi)[:, None]

    n = len(tiles) / spectrum.inflation
    plain, plain_cost = _background_alone(power, background)
    weight, damping, converged = 1 / plain**2, 1e-3, False
    wave, slopes = tangent(parameters)
    linear, model, cost = _linear(power, background, rings, wave, weight)
    for _ in range(STEPS):
        weight = 1 / model**2
        amplitude = rings @ linear[background.shape[1] :]
        design = np.hstack([background, rings * wave[:, None], slopes * amplitude[:, None]])
        moved = False
        while damping < 1e6:
            step = _solve(design, power - model, weight, len(parameters), damping)[-len(parameters) :]
            trial = parameters + np.clip(step, -1000, 1000)
            wave_t, slopes_t = tangent(trial)
            linear_t, model_t, cost_t = _linear(power, background, rings, wave_t, weight)
            if cost_t <= cost + 1e-9:
                moved = True
                break
            damping *= 10
        if not moved:
            converged = True
            break
        parameters, wave, slopes, linear, model, cost = trial, wave_t, slopes_t, linear_t, model_t, cost_t
        damping = max(damping / 10, 1e-9)
        if np.abs(step).max() < TOLERANCE:
            converged = True
            break
    weight = 1 / model**2
    amplitude = rings @ linear[background.shape[1] :]
    design = np.hstack([background, rings * wave[:, None], slopes * amplitude[:, None]])
    information = design.T @ (design * weight[:, None])
    influence = ((tiles - model.astype(np.float32)) @ (design * weight[:, None]).astype(np.float32)) / len(tiles)
    inverse = np.linalg.inv(_steady(information))[-len(parameters) :]
    influence = influence.astype(float) @ inverse.T
    covariance = inverse[:, -len(parameters) :] / n
    return Rings(parameters, influence, covariance, float(n * (plain_cost - cost)), converged)


def _smooth(k, kx, ky, terms):
    """Cubic splines along the radius, and two of them once more with each ellipticity."""
    low, high = k.min(), k.max()
    inner = np.linspace(low, high, terms - 2)
    knots = np.concatenate([[low] * 3, inner, [high + 1e-9] * 3])
    splines = BSpline.design_matrix(np.clip(k, low, high), knots, 3).toarray()
    unit = (k - low) / (high - low)
    shape = np.stack([np.ones_like(unit), unit], axis=1)
    twice = [(kx**2 - ky**2) / k**2, 2 * kx * ky / k**2]
    return np.hstack([splines, *(shape * wave[:, None] for wave in twice)])


def _linear(power, background, rings, wave, weight):
    """Least squares for what the spectrum is linear in: coefficients, model, and −log-likelihood per tile."""
    design = np.hstack([background, rings * wave[:, None]])
    weighted = design * weight[:, None]
    linear = np.linalg.solve(_steady(design.T @ weighted), weighted.T @ power)
    model = np.maximum(design @ linear, 0.02 * power.mean())
    return linear, model, _cost(power, model)


def _cost(power, model):
    return float((np.log(model) + power / model).sum())


def _background_alone(power, background):
    model = np.full_like(power, power.mean())
    for _ in range(5):
        weighted = background / (model**2)[:, None]
        model = background @ np.linalg.solve(_steady(background.T @ weighted), weighted.T @ power)
        model = np.maximum(model, 0.02 * power.mean())
    return model, _cost(power, model)


def _solve(design, residual, weight, n_free, damping):
    weighted = design * weight[:, None]
    matrix = _steady(design.T @ weighted)
    diagonal = np.zeros(len(matrix))
    diagonal[-n_free:] = damping * np.diag(matrix)[-n_free:]
    return np.linalg.solve(matrix + np.diag(diagonal), weighted.T @ residual)


def _steady(matrix):
    """A normal matrix that can be solved where a spline meets no data."""
    return matrix + 1e-10 * np.trace(matrix) / len(matrix) * np.eye(len(matrix)) + 1e-12 * np.diag(np.diag(matrix))
