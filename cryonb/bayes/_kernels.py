"""The loops of the polar engine, compiled by numba. Packed images: see `polar.PolarGrid`."""

import numba
import numpy as np

__all__ = [
    "accumulate", "add_turned", "best_angle", "gather_plane", "gather_turned", "norm_harmonics", "normalise_score",
    "pack", "scatter_plane", "select_candidates", "shifted_parts", "stack_columns", "unpack",
]  # fmt: skip


@numba.njit(cache=True, fastmath=True, nogil=True)
def gather_plane(plane, first, weights, out):
    """Interpolate a half-complex plane (p, p // 2 + 1), zero frequency first, at points with kx ≥ 0."""
    size, last, width = plane.shape[0], plane.shape[1] - 1, weights.shape[2]
    for point in range(len(out)):
        x0, y0 = first[point, 0], first[point, 1]
        total = np.complex64(0)
        for j in range(width):
            row = np.complex64(0)
            y = (y0 + j) % size
            if x0 >= 0 and x0 + width - 1 <= last:
                for i in range(width):
                    row += weights[point, 0, i] * plane[y, x0 + i]
            else:
                mirrored = (size - y) % size
                for i in range(width):
                    x = x0 + i
                    if x < 0:
                        row += weights[point, 0, i] * np.conj(plane[mirrored, -x])
                    elif x > last:
                        row += weights[point, 0, i] * np.conj(plane[mirrored, size - x])
                    else:
                        row += weights[point, 0, i] * plane[y, x]
            total += weights[point, 1, j] * row
        out[point] = total


@numba.njit(cache=True, fastmath=True, nogil=True)
def scatter_plane(values, first, weights, plane):
    """Spread values at points onto a whole plane (p, p), zero frequency first: adjoint of `gather_plane`."""
    size, width = plane.shape[0], weights.shape[2]
    for point in range(len(values)):
        for j in range(width):
            y = (first[point, 1] + j) % size
            row = weights[point, 1, j] * values[point]
            for i in range(width):
                plane[y, (first[point, 0] + i) % size] += weights[point, 0, i] * row


@numba.njit(cache=True, nogil=True)
def pack(even, odd, n_radii, lowest, starts, packed):
    """Rows (image, ring) of [Re | Im] coefficients, even and odd q apart, into packed images."""
    n_q = even.shape[1] // 2
    for n in range(len(packed)):
        for block in range(len(lowest)):
            first = lowest[block]
            length = n_radii - first
            place = starts[block]
            for i in range(8):
                rows = even if i < 4 else odd
                q = 4 * block + i % 4
                for part in range(2):
                    for r in range(length):
                        packed[n, place + r] = rows[n * n_radii + first + r, part * n_q + q]
                    place += length


@numba.njit(cache=True, nogil=True)
def unpack(packed, n_radii, lowest, starts, even, odd):
    """The way back from `pack`; what is not in a packed image stays as it is."""
    n_q = even.shape[1] // 2
    for n in range(len(packed)):
        for block in range(len(lowest)):
            first = lowest[block]
            length = n_radii - first
            place = starts[block]
            for i in range(8):
                rows = even if i < 4 else odd
                q = 4 * block + i % 4
                for part in range(2):
                    for r in range(length):
                        rows[n * n_radii + first + r, part * n_q + q] = packed[n, place + r]
                    place += length


@numba.njit(cache=True, fastmath=True, nogil=True)
def shifted_parts(weighted, particle, phases, offset, real, imaginary):
    """Rows ``weighted[particle] · conj(phases[offset])``, real and imaginary parts apart."""
    for n in range(len(particle)):
        image, phase = weighted[particle[n]], phases[offset[n]]
        for r in range(real.shape[1]):
            for a in range(real.shape[2]):
                x, p = image[r, a], phase[r, a]
                real[n, r, a] = x.real * p.real + x.imag * p.imag
                imaginary[n, r, a] = x.imag * p.real - x.real * p.imag


@numba.njit(cache=True, nogil=True)
def stack_columns(packed, n_radii, lowest, starts, columns):
    """Packed images as right-hand sides: per q, a matrix (2 rings, n) for Re S and one for Im S."""
    n = len(packed)
    for block in range(len(lowest)):
        length = n_radii - lowest[block]
        for i in range(8):
            source = starts[block] + 2 * length * i
            target = 2 * n * source
            turned = target + 2 * length * n
            for r in range(length):
                for m in range(n):
                    re, im = packed[m, source + r], packed[m, source + length + r]
                    columns[target + r * n + m] = re
                    columns[target + (length + r) * n + m] = im
                    columns[turned + r * n + m] = im
                    columns[turned + (length + r) * n + m] = -re


@numba.njit(cache=True, fastmath=True, nogil=True)
def gather_turned(packed, row, angle, n_radii, lowest, starts, out):
    """Rows of a bank with coefficient q times exp(iqψ₀) of each row."""
    for n in range(len(row)):
        source = packed[row[n]]
        step_re, step_im = np.cos(angle[n]), np.sin(angle[n])
        re, im = 1.0, 0.0
        for block in range(len(lowest)):
            length = n_radii - lowest[block]
            for j in range(8):
                i = j // 2 + 4 * (j % 2)
                place = starts[block] + 2 * length * i
                c, s = np.float32(re), np.float32(im)
                for r in range(length):
                    a, b = source[place + r], source[place + length + r]
                    out[n, place + r] = a * c - b * s
                    out[n, place + length + r] = a * s + b * c
                re, im = re * step_re - im * step_im, re * step_im + im * step_re


@numba.njit(cache=True, fastmath=True, nogil=True)
def add_turned(turned, mass, row, lowest, starts, slices, power, lens, sums, weights, cross, norm):
    """Add images (rows, n_packed) that are already turned and weighted to the sums of their rows.

    ``mass`` (n_m, 2, rows) is Σ Γ [cos, sin] 2mψ; the rest as in `accumulate`.
    """
    n_radii, n_harmonics = len(cross), power.shape[3]
    for n in range(len(row)):
        a, total = slices[row[n]], sums[row[n]]
        for block in range(len(lowest)):
            first = lowest[block]
            length = n_radii - first
            for i in range(8):
                place = starts[block] + 2 * length * i
                both = np.float32(2 if block or i else 1)
                for r in range(length):
                    x, y = turned[n, place + r], turned[n, place + length + r]
                    total[place + r] += x
                    total[place + length + r] += y
                    cross[first + r] += both * (a[place + r] * x + a[place + length + r] * y)
        for m in range(n_harmonics):
            c, s = mass[m, 0, n], -mass[m, 1, n]
            both = np.float32(2 if m else 1)
            for r in range(n_radii):
                x = c * lens[0, r, m] - s * lens[1, r, m]
                y = c * lens[1, r, m] + s * lens[0, r, m]
                weights[row[n], 0, r, m] += x
                weights[row[n], 1, r, m] += y
                norm[r] += both * (power[row[n], 0, r, m] * x + power[row[n], 1, r, m] * y)


@numba.njit(cache=True, fastmath=True, nogil=True)
def best_angle(even, odd, best):
    """max over ψ of the score, from its even and odd parts on half a turn: E + O there, E − O half a turn on."""
    n_psi, size = even.shape
    for i in range(size):
        best[i] = even[0, i] + abs(odd[0, i])
    for k in range(1, n_psi):
        for i in range(size):
            best[i] = max(best[i], even[k, i] + abs(odd[k, i]))


@numba.njit(cache=True, nogil=True)
def select_candidates(score, depth, rows, shifts, n_rows):
    """The best rows of each particle, down to ``depth`` below the best, and the best shifts over these rows."""
    n, n_all, n_shifts = score.shape
    best, reach = np.empty(n_all, np.float32), np.empty(n_shifts, np.float32)
    for i in range(n):
        for v in range(n_all):
            best[v] = score[i, v].max()
        order = np.argsort(-best)
        reach[:] = -np.inf
        count = 0
        while count < rows.shape[1] and best[order[count]] >= best[order[0]] - depth and best[order[count]] > -np.inf:
            rows[i, count] = order[count]
            for t in range(n_shifts):
                reach[t] = max(reach[t], score[i, order[count], t])
            count += 1
        n_rows[i] = count
        shifts[i] = np.argsort(-reach)[: shifts.shape[1]]


@numba.njit(cache=True, fastmath=True, nogil=True)
def norm_harmonics(power, row, angle, lens, out):
    """Even angular harmonics (2 n_m, rows) of Σ_r |slice|² · CTF²/σ² of one particle, turned by ψ₀."""
    n_harmonics = power.shape[3]
    n_rings = lens.shape[1]
    for n in range(len(row)):
        a = power[row[n]]
        for m in range(n_harmonics):
            re, im = np.float32(0), np.float32(0)
            for r in range(n_rings):
                re += a[0, r, m] * lens[0, r, m] + a[1, r, m] * lens[1, r, m]
                im += a[0, r, m] * lens[1, r, m] - a[1, r, m] * lens[0, r, m]
            c, s = np.cos(2 * m * angle[n]), -np.sin(2 * m * angle[n])
            out[m, n] = re * c - im * s
            out[n_harmonics + m, n] = re * s + im * c


@numba.njit(cache=True, fastmath=True, nogil=True)
def normalise_score(score, threshold, summary):
    """Scores of one particle to its posterior in place, entries below ``threshold`` · best dropped.

    ``summary`` receives log evidence, entropy and the probability of the best entry.
    """
    best = score[0]
    for k in range(len(score)):
        best = max(best, score[k])
    total, kept, moment = 0.0, 0.0, 0.0
    for k in range(len(score)):
        difference = score[k] - best
        if difference < -25:
            score[k] = 0
            continue
        weight = np.exp(difference)
        total += weight
        moment += weight * difference
        if weight < threshold:
            weight = np.float32(0)
        kept += weight
        score[k] = weight
    for k in range(len(score)):
        score[k] /= kept
    summary[0], summary[1], summary[2] = best + np.log(total), np.log(total) - moment / total, 1 / total


@numba.njit(cache=True, fastmath=True, nogil=True)
def accumulate(
    posterior, angle, step, row, n_radii, lowest, starts, slices, images, power, lens, sums, weights, cross, norm
):
    """The adjoint of the scores for one particle: its images, turned and weighted, into the slices' sums.

    ``posterior`` is (n_ψ, rows, shifts); ``cross`` and ``norm`` (n_r,) receive what the residual needs.
    """
    n_psi, n_rows, n_shifts = posterior.shape
    n_harmonics = power.shape[3]
    n_q = 8 * len(lowest)
    factor = np.empty((2, max(n_q, 2 * n_harmonics)))
    for n in range(n_rows):
        mass = np.zeros((2, 2 * n_harmonics))
        for t in range(n_shifts):
            empty = True
            for k in range(n_psi):
                w = posterior[k, n, t]
                if w == 0:
                    continue
                if empty:
                    factor[:] = 0
                    empty = False
                psi = angle[n] + step[k]
                step_re, step_im = np.cos(psi), -np.sin(psi)
                re, im = float(w), 0.0
                for q in range(factor.shape[1]):
                    factor[0, q] += re
                    factor[1, q] += im
                    re, im = re * step_re - im * step_im, re * step_im + im * step_re
            if empty:
                continue
            mass += factor[:, : 2 * n_harmonics]
            a, b, total = slices[row[n]], images[t], sums[row[n]]
            for block in range(len(lowest)):
                first = lowest[block]
                length = n_radii - first
                for i in range(8):
                    q = 8 * block + 2 * (i % 4) + i // 4
                    place = starts[block] + 2 * length * i
                    c, s = np.float32(factor[0, q]), np.float32(factor[1, q])
                    both = np.float32(2 if q else 1)
                    for r in range(length):
                        x = c * b[place + r] - s * b[place + length + r]
                        y = c * b[place + length + r] + s * b[place + r]
                        total[place + r] += x
                        total[place + length + r] += y
                        cross[first + r] += both * (a[place + r] * x + a[place + length + r] * y)
        for m in range(n_harmonics):
            c, s = np.float32(mass[0, 2 * m]), np.float32(mass[1, 2 * m])
            both = np.float32(2 if m else 1)
            if c == 0 and s == 0:
                continue
            for r in range(n_radii):
                x = c * lens[0, r, m] - s * lens[1, r, m]
                y = c * lens[1, r, m] + s * lens[0, r, m]
                weights[row[n], 0, r, m] += x
                weights[row[n], 1, r, m] += y
                norm[r] += both * (power[row[n], 0, r, m] * x + power[row[n], 1, r, m] * y)
