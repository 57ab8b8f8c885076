"""The loops of the polar engine, compiled by numba. Packed arrays are (n, 2, n_packed): see `polar.PolarGrid`."""

import numba
import numpy as np

__all__ = ["gather_plane", "pack", "unpack"]


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


@numba.njit(cache=True, nogil=True)
def pack(even, odd, n_even, n_odd, bands, starts, packed):
    """Rows (image, ring) of [Re | Im] coefficients, even and odd q apart, into packed arrays."""
    n_radii = len(bands)
    for n in range(len(packed)):
        for r in range(n_radii):
            row = n * n_radii + r
            for part in range(2):
                for q in range(bands[r]):
                    source = even[row, part * n_even + q // 2] if q % 2 == 0 else odd[row, part * n_odd + q // 2]
                    packed[n, part, starts[r] + q] = source


@numba.njit(cache=True, nogil=True)
def unpack(packed, n_even, n_odd, bands, starts, even, odd):
    """The way back from `pack`; what is not in a packed array stays as it is."""
    n_radii = len(bands)
    for n in range(len(packed)):
        for r in range(n_radii):
            row = n * n_radii + r
            for part in range(2):
                for q in range(bands[r]):
                    if q % 2 == 0:
                        even[row, part * n_even + q // 2] = packed[n, part, starts[r] + q]
                    else:
                        odd[row, part * n_odd + q // 2] = packed[n, part, starts[r] + q]


@numba.njit(cache=True, fastmath=True, nogil=True)
def shifted_parts(weighted, particle, phases, offset, real, imaginary):
    """Rows ``weighted[particle] · conj(phases[offset])``, real and imaginary parts apart."""
    for n in range(len(particle)):
        image, phase = weighted[particle[n]], phases[offset[n]]
        for r in range(image.shape[0]):
            for a in range(image.shape[1]):
                x, p = image[r, a], phase[r, a]
                real[n, r, a] = x.real * p.real + x.imag * p.imag
                imaginary[n, r, a] = x.imag * p.real - x.real * p.imag


@numba.njit(cache=True, nogil=True)
def stack_columns(packed, lowest, bands, starts, columns, place):
    """Packed images as right-hand sides of one product per q: rows (part, ring), one column per image."""
    n = len(packed)
    for q in range(bands[-1]):
        n_rings = len(bands) - lowest[q]
        for part in range(2):
            for r in range(n_rings):
                source = starts[lowest[q] + r] + q
                target = place[q] + (part * n_rings + r) * n
                for i in range(n):
                    columns[target + i] = packed[i, part, source]


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
def select_pairs(score, keep_rows, keep_offsets, depth, rows, offsets, counts):
    """The best rows (over their offsets) of each particle, and for each its best offsets within ``depth``."""
    n, n_rows, n_offsets = score.shape
    for i in range(n):
        best = np.empty(n_rows, np.float32)
        for v in range(n_rows):
            best[v] = score[i, v].max()
        order = np.argsort(-best)[:keep_rows]
        count = 0
        for v in order:
            if best[v] < best[order[0]] - depth:
                break
            for t in np.argsort(-score[i, v])[:keep_offsets]:
                if score[i, v, t] < best[v] - depth:
                    break
                rows[i, count], offsets[i, count] = v, t
                count += 1
        counts[i] = count


@numba.njit(cache=True, fastmath=True, nogil=True)
def pair_products(slices, images, row, column, bands, starts, n_rings, out):
    """S[pair, q] = Σ_r conj(slice) · image of each pair (row, column); ``out`` is (pairs, 2, n_q)."""
    for p in range(len(row)):
        ar, ai = slices[row[p], 0], slices[row[p], 1]
        br, bi = images[column[p], 0], images[column[p], 1]
        sr, si = out[p, 0], out[p, 1]
        for q in range(len(sr)):
            sr[q] = 0
            si[q] = 0
        for r in range(n_rings):
            start = starts[r]
            for q in range(bands[r]):
                sr[q] += ar[start + q] * br[start + q] + ai[start + q] * bi[start + q]
                si[q] += ar[start + q] * bi[start + q] - ai[start + q] * br[start + q]


@numba.njit(cache=True, fastmath=True, nogil=True)
def turn_products(products, angle):
    """Multiply S[pair, q] by exp(−iqψ₀) of each pair, in place."""
    for p in range(len(products)):
        step_re, step_im = np.cos(angle[p]), -np.sin(angle[p])
        re, im = 1.0, 0.0
        for q in range(products.shape[2]):
            a, b = products[p, 0, q], products[p, 1, q]
            products[p, 0, q] = a * re - b * im
            products[p, 1, q] = a * im + b * re
            re, im = re * step_re - im * step_im, re * step_im + im * step_re


@numba.njit(cache=True, fastmath=True, nogil=True)
def norm_harmonics(power, lens, row, particle, n_rings, out):
    """Even angular harmonics (pairs, 2, n_m) of Σ_r |slice|² · CTF²/σ² of each pair."""
    n_harmonics = power.shape[3]
    for p in range(len(row)):
        for m in range(n_harmonics):
            re, im = np.float32(0), np.float32(0)
            a, b = power[row[p]], lens[particle[p]]
            for r in range(n_rings):
                re += a[0, r, m] * b[0, r, m] + a[1, r, m] * b[1, r, m]
                im += a[0, r, m] * b[1, r, m] - a[1, r, m] * b[0, r, m]
            out[p, 0, m] = re
            out[p, 1, m] = im


@numba.njit(cache=True, fastmath=True, nogil=True)
def normalise_scores(score, first, threshold, log_evidence, entropy, counts):
    """Scores (pairs, n_ψ) to posteriors, particle by particle; entries below ``threshold`` · maximum become 0."""
    n_psi = score.shape[1]
    for i in range(len(first) - 1):
        best = np.float32(-np.inf)
        for p in range(first[i], first[i + 1]):
            for k in range(n_psi):
                best = max(best, score[p, k])
        total, kept, moment = 0.0, 0.0, 0.0
        for p in range(first[i], first[i + 1]):
            for k in range(n_psi):
                difference = score[p, k] - best
                if difference < -30:
                    score[p, k] = 0
                    continue
                weight = np.exp(difference)
                total += weight
                moment += weight * difference
                if weight < threshold:
                    weight = np.float32(0)
                else:
                    kept += weight
                    counts[i] += 1
                score[p, k] = weight
        for p in range(first[i], first[i + 1]):
            for k in range(n_psi):
                score[p, k] /= kept
        log_evidence[i] = best + np.log(total)
        entropy[i] = np.log(total) - moment / total


@numba.njit(cache=True, fastmath=True, nogil=True)
def accumulate(posterior, angle, step, row, column, particle, bands, starts, slices, images, power, lens, sums, weights,
               cross, norm):
    """The adjoint of the scores: every image, turned and weighted, into its slice; and what the residual needs."""
    n_psi, n_q, n_harmonics = posterior.shape[1], bands[-1], power.shape[3]
    factor = np.empty((2, max(n_q, 2 * n_harmonics)), np.float32)
    for p in range(len(row)):
        factor[:] = 0
        empty = True
        for k in range(n_psi):
            w = posterior[p, k]
            if w == 0:
                continue
            empty = False
            psi = angle[p] + step[k]
            step_re, step_im = np.cos(psi), -np.sin(psi)
            re, im = 1.0, 0.0
            for q in range(factor.shape[1]):
                factor[0, q] += w * re
                factor[1, q] += w * im
                re, im = re * step_re - im * step_im, re * step_im + im * step_re
        if empty:
            continue
        fr, fi = factor[0], factor[1]
        ar, ai = slices[row[p], 0], slices[row[p], 1]
        br, bi = images[column[p], 0], images[column[p], 1]
        tr, ti = sums[row[p], 0], sums[row[p], 1]
        i = particle[p]
        for r in range(len(bands)):
            start = starts[r]
            total = np.float32(0)
            for q in range(bands[r]):
                x = fr[q] * br[start + q] - fi[q] * bi[start + q]
                y = fr[q] * bi[start + q] + fi[q] * br[start + q]
                tr[start + q] += x
                ti[start + q] += y
                total += ar[start + q] * x + ai[start + q] * y
            zero = fr[0] * (ar[start] * br[start] + ai[start] * bi[start])
            cross[i, r] += 2 * total - zero
            for m in range(n_harmonics):
                x = fr[2 * m] * lens[i, 0, r, m] - fi[2 * m] * lens[i, 1, r, m]
                y = fr[2 * m] * lens[i, 1, r, m] + fi[2 * m] * lens[i, 0, r, m]
                weights[row[p], 0, r, m] += x
                weights[row[p], 1, r, m] += y
                both = np.float32(2 if m else 1)
                norm[i, r] += both * (power[row[p], 0, r, m] * x + power[row[p], 1, r, m] * y)
