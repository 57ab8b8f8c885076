"""The loops of `gram` and `normal_equations`, by numba: many volumes at once, read or filled on rotated planes."""

import numba
import numpy as np

__all__ = ["insert", "project_out", "read", "solve"]


@numba.njit(cache=True, fastmath=True, nogil=True, inline="always")
def _read_point(data, axes, kx, ky, out):
    """Trilinear values of all volumes at one point; out is (2, l), real and imaginary."""
    depth, _, width = data.shape[:3]
    centre = depth // 2
    x = axes[0, 0] * kx + axes[0, 1] * ky
    y = axes[1, 0] * kx + axes[1, 1] * ky
    z = axes[2, 0] * kx + axes[2, 1] * ky
    sign = np.float32(1)
    if x < 0:
        x, y, z = -x, -y, -z
        sign = np.float32(-1)
    y += centre
    z += centre
    x0, y0, z0 = int(x), int(y), int(z)
    n = data.shape[4]
    for c in range(n):
        out[0, c] = 0
        out[1, c] = 0
    if x0 + 1 >= width or y0 < 0 or y0 + 1 >= depth or z0 < 0 or z0 + 1 >= depth:
        return
    fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
    for dz in range(2):
        wz = fz if dz else np.float32(1) - fz
        for dy in range(2):
            wzy = wz * (fy if dy else np.float32(1) - fy)
            for dx in range(2):
                w = wzy * (fx if dx else np.float32(1) - fx)
                cell = data[z0 + dz, y0 + dy, x0 + dx]
                for c in range(n):
                    out[0, c] += w * cell[0, c]
                    out[1, c] += w * cell[1, c]
    for c in range(n):
        out[1, c] *= sign


@numba.njit(cache=True, fastmath=True, nogil=True)
def read(data, axes, points, values, ctf, scale, mean, turned, step, cycles, gram, overlap):
    """Per particle: G_kl = Re Σ s² C² conj(S_k) S_l and b_k = Re Σ s² C conj(S_k) y over the points.

    With ``turned`` (n, 6, 3, 2) not empty, five more slices follow the volumes': derivatives of ``mean`` by the three
    rotation angles of the image frame (central differences of half-width ``step``) and by the shift in x and y
    (2πi k per ``cycles``).
    """
    n_volumes = data.shape[4]
    with_pose = turned.shape[1] == 6
    n_slices = n_volumes + (5 if with_pose else 0)
    volume_values = np.empty((2, n_volumes), dtype=np.float32)
    value = np.empty((2, n_slices), dtype=np.float32)
    ahead = np.empty((2, 1), dtype=np.float32)
    behind = np.empty((2, 1), dtype=np.float32)
    total = np.empty((n_slices, n_slices), dtype=np.float64)
    part = np.empty((n_slices, n_slices), dtype=np.float32)
    for n in range(len(axes)):
        total[:] = 0
        part[:] = 0
        overlap[n] = 0
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            _read_point(data, axes[n], kx, ky, volume_values)
            for c in range(n_volumes):
                value[0, c] = volume_values[0, c]
                value[1, c] = volume_values[1, c]
            if with_pose:
                for c in range(3):
                    _read_point(mean, turned[n, 2 * c], kx, ky, ahead)
                    _read_point(mean, turned[n, 2 * c + 1], kx, ky, behind)
                    value[0, n_volumes + c] = (ahead[0, 0] - behind[0, 0]) / (2 * step)
                    value[1, n_volumes + c] = (ahead[1, 0] - behind[1, 0]) / (2 * step)
                _read_point(mean, axes[n], kx, ky, ahead)
                value[0, n_volumes + 3] = -ahead[1, 0] * kx * cycles
                value[1, n_volumes + 3] = ahead[0, 0] * kx * cycles
                value[0, n_volumes + 4] = -ahead[1, 0] * ky * cycles
                value[1, n_volumes + 4] = ahead[0, 0] * ky * cycles
            factor = ctf[n, m] * scale[m]
            real, imaginary = values[n, m].real * scale[m], values[n, m].imag * scale[m]
            for c in range(n_slices):
                value[0, c] *= factor
                value[1, c] *= factor
            for c in range(n_slices):
                a, b = value[0, c], value[1, c]
                overlap[n, c] += a * real + b * imaginary
                for e in range(c + 1):
                    part[c, e] += a * value[0, e] + b * value[1, e]
            if m % 64 == 63:  # single precision only over short runs
                total += part
                part[:] = 0
        total += part
        for c in range(n_slices):
            for e in range(c + 1):
                gram[n, c, e] = total[c, e]
                gram[n, e, c] = total[c, e]


@numba.njit(cache=True, fastmath=True, nogil=True)
def project_out(data, axes, points, values, ctf, weights, shell, power):
    """Sum over particles of |y − C Σ_k w_k S_k|² per shell; weights (n, l)."""
    n_volumes = data.shape[4]
    value = np.empty((2, n_volumes), dtype=np.float32)
    for n in range(len(axes)):
        for m in range(len(points)):
            _read_point(data, axes[n], points[m, 0], points[m, 1], value)
            real, imaginary = np.float32(0), np.float32(0)
            for c in range(n_volumes):
                real += weights[n, c] * value[0, c]
                imaginary += weights[n, c] * value[1, c]
            real = values[n, m].real - ctf[n, m] * real
            imaginary = values[n, m].imag - ctf[n, m] * imaginary
            power[shell[m]] += real * real + imaginary * imaginary


@numba.njit(cache=True, fastmath=True, nogil=True)
def insert(total, axes, points, values, ctf, scale, first, second):
    """Add normal equations of all volumes: total[..., :2l] += w s² C y E[f_k], total[..., 2l:] += w s² C² E[f_k f_l].

    ``second`` is packed, (n, l(l+1)/2), lower triangle by rows.
    """
    depth, _, width = total.shape[:3]
    centre = depth // 2
    n_volumes = first.shape[1]
    n_pairs = second.shape[1]
    row = np.empty(2 * n_volumes + n_pairs, dtype=np.float32)
    for n in range(len(axes)):
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            x = axes[n, 0, 0] * kx + axes[n, 0, 1] * ky
            y = axes[n, 1, 0] * kx + axes[n, 1, 1] * ky
            z = axes[n, 2, 0] * kx + axes[n, 2, 1] * ky
            factor = scale[m] * scale[m] * ctf[n, m]
            real, imaginary = factor * values[n, m].real, factor * values[n, m].imag
            if x < 0:
                x, y, z = -x, -y, -z
                imaginary = -imaginary
            y += centre
            z += centre
            x0, y0, z0 = int(x), int(y), int(z)
            if x0 + 1 >= width or y0 < 0 or y0 + 1 >= depth or z0 < 0 or z0 + 1 >= depth:
                continue
            factor *= ctf[n, m]
            for c in range(n_volumes):
                row[c] = first[n, c] * real
                row[n_volumes + c] = first[n, c] * imaginary
            for c in range(n_pairs):
                row[2 * n_volumes + c] = second[n, c] * factor
            fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
            for dz in range(2):
                wz = fz if dz else np.float32(1) - fz
                for dy in range(2):
                    wzy = wz * (fy if dy else np.float32(1) - fy)
                    for dx in range(2):
                        w = wzy * (fx if dx else np.float32(1) - fx)
                        cell = total[z0 + dz, y0 + dy, x0 + dx]
                        for c in range(row.size):
                            cell[c] += w * row[c]


@numba.njit(cache=True, fastmath=True, nogil=True)
def solve(total, n_volumes, precision, limit, solution, variance, counts):
    """Solve (A + diag(precision[shell])) s = b at every voxel within ``limit`` (padded pixels).

    precision : (n_shells, l), shells of the unpadded box; padding is the ratio that ``precision`` was shared by.
    solution : (p, p, h, 2, l); variance : (n_shells, l), sum of the diagonal of the inverse; counts : (n_shells,).
    """
    depth, height, width = total.shape[:3]
    centre = depth // 2
    matrix = np.empty((n_volumes, n_volumes), dtype=np.float64)
    vector = np.empty((2, n_volumes), dtype=np.float64)
    column = np.empty(n_volumes, dtype=np.float64)
    n_shells = len(precision)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                radius = np.sqrt(np.float64((z - centre) ** 2 + (y - centre) ** 2 + x * x))
                if radius > limit:
                    continue
                cell = total[z, y, x]
                shell = min(int(radius / 2 + 0.5), n_shells - 1)
                index = 2 * n_volumes
                for a in range(n_volumes):
                    vector[0, a] = cell[a]
                    vector[1, a] = cell[n_volumes + a]
                    for b in range(a + 1):
                        matrix[a, b] = cell[index]
                        index += 1
                    matrix[a, a] += precision[shell, a]
                # Cholesky factor in the lower triangle
                for a in range(n_volumes):
                    for b in range(a + 1):
                        value = matrix[a, b]
                        for e in range(b):
                            value -= matrix[a, e] * matrix[b, e]
                        if a == b:
                            matrix[a, a] = np.sqrt(max(value, 1e-30))
                        else:
                            matrix[a, b] = value / matrix[b, b]
                for part in range(2):
                    for a in range(n_volumes):
                        value = vector[part, a]
                        for e in range(a):
                            value -= matrix[a, e] * vector[part, e]
                        vector[part, a] = value / matrix[a, a]
                    for a in range(n_volumes - 1, -1, -1):
                        value = vector[part, a]
                        for e in range(a + 1, n_volumes):
                            value -= matrix[e, a] * vector[part, e]
                        vector[part, a] = value / matrix[a, a]
                        solution[z, y, x, part, a] = vector[part, a]
                counts[shell] += 1
                for a in range(n_volumes):
                    # squared norm of the column of L⁻¹ is the diagonal of the inverse
                    for e in range(a, n_volumes):
                        value = 1.0 if e == a else 0.0
                        for f in range(a, e):
                            value -= matrix[e, f] * column[f]
                        column[e] = value / matrix[e, e]
                        variance[shell, a] += column[e] ** 2
