"""Energy and gradient of a model in a map, in numba; `minimise` says what the terms are."""

import numba
import numpy as np

__all__ = ["close_pairs", "energy_gradient", "lbfgs", "map_values", "spline_weights"]


@numba.njit(cache=True, inline="always")
def spline_weights(t, weight, slope):
    """Cubic B-spline and its slope at the four knots around a point at t (0 … 1) past the second."""
    s = 1.0 - t
    weight[0], weight[3] = s * s * s / 6, t * t * t / 6
    weight[1] = 2.0 / 3 - t * t * (2 - t) / 2
    weight[2] = 2.0 / 3 - s * s * (2 - s) / 2
    slope[0], slope[3] = -s * s / 2, t * t / 2
    slope[1] = t * (1.5 * t - 2)
    slope[2] = -s * (1.5 * s - 2)


@numba.njit(cache=True, nogil=True)
def _map_at(coefficients, x, y, z, weights, out):
    """Value and gradient (per voxel, x y z) of a spline volume; 0 outside."""
    out[:] = 0.0
    nz, ny, nx = coefficients.shape
    i, j, k = int(np.floor(z)), int(np.floor(y)), int(np.floor(x))
    if i < 1 or j < 1 or k < 1 or i > nz - 3 or j > ny - 3 or k > nx - 3:
        return
    spline_weights(z - i, weights[0], weights[1])
    spline_weights(y - j, weights[2], weights[3])
    spline_weights(x - k, weights[4], weights[5])
    for a in range(4):
        for b in range(4):
            line, slope = 0.0, 0.0
            for c in range(4):
                value = coefficients[i - 1 + a, j - 1 + b, k - 1 + c]
                line += value * weights[4, c]
                slope += value * weights[5, c]
            out[0] += weights[0, a] * weights[2, b] * line
            out[1] += weights[0, a] * weights[2, b] * slope
            out[2] += weights[0, a] * weights[3, b] * line
            out[3] += weights[1, a] * weights[2, b] * line


@numba.njit(cache=True, nogil=True)
def map_values(coefficients, points, values, gradient):
    """Spline volume at points (n, 3) in voxels, x y z; fills values (n,) and gradient (n, 3) per voxel."""
    weights, out = np.empty((6, 4)), np.empty(4)
    for n in range(len(points)):
        _map_at(coefficients, points[n, 0], points[n, 1], points[n, 2], weights, out)
        values[n] = out[0]
        gradient[n] = out[1:]


@numba.njit(cache=True)
def _torsion(x, i, j, k, m, turn):
    """Dihedral in radians; fills turn (4, 3) with its gradient (Blondel & Karplus, J Comput Chem 17:1132 (1996))."""
    b1, b2, b3 = x[j] - x[i], x[k] - x[j], x[m] - x[k]
    n1 = np.array([b1[1] * b2[2] - b1[2] * b2[1], b1[2] * b2[0] - b1[0] * b2[2], b1[0] * b2[1] - b1[1] * b2[0]])
    n2 = np.array([b2[1] * b3[2] - b2[2] * b3[1], b2[2] * b3[0] - b2[0] * b3[2], b2[0] * b3[1] - b2[1] * b3[0]])
    length2 = (b2 * b2).sum() + 1e-12
    length, s1, s2 = np.sqrt(length2), (n1 * n1).sum() + 1e-6, (n2 * n2).sum() + 1e-6
    first, last = (b1 * b2).sum() / length2, (b3 * b2).sum() / length2
    for c in range(3):
        head, tail = -length / s1 * n1[c], length / s2 * n2[c]
        turn[0, c], turn[3, c] = head, tail
        turn[1, c] = -(1 + first) * head + last * tail
        turn[2, c] = -(1 + last) * tail + first * head
    return np.arctan2((b1 * n2).sum() * length, (n1 * n2).sum())


@numba.njit(cache=True)
def energy_gradient(x, gradient, terms, coefficients, scale, origin):
    """Energy in kJ/mol of the terms at x (atoms, 3) in Å; fills the gradient.

    terms: pairs, their lengths and stiffness; torsions, their angles, stiffness and fold; rows of φ and ψ, their table;
    tables; contacts, their distances and stiffness; atoms in the map and their weights.
    """
    pairs, length, stiff, torsions, angle, hard, fold = terms[:7]
    rama, kind, tables, contacts, reach, soft, mapped, weight = terms[7:]
    gradient[:] = 0.0
    energy = 0.0
    for t in range(len(pairs)):
        i, j = pairs[t]
        step = x[i] - x[j]
        distance = np.sqrt((step * step).sum()) + 1e-9
        off = distance - length[t]
        energy += 0.5 * stiff[t] * off * off
        pull = stiff[t] * off / distance * step
        gradient[i] += pull
        gradient[j] -= pull
    turn, other = np.empty((4, 3)), np.empty((4, 3))
    for t in range(len(torsions)):
        phi = _torsion(x, torsions[t, 0], torsions[t, 1], torsions[t, 2], torsions[t, 3], turn)
        off = fold[t] * (phi - angle[t])
        energy += hard[t] * (1 - np.cos(off))
        slope = hard[t] * fold[t] * np.sin(off)
        for c in range(4):
            gradient[torsions[t, c]] += slope * turn[c]
    weights = np.empty((6, 4))
    cells = tables.shape[1]
    for t in range(len(rama)):
        phi = _torsion(x, rama[t, 0], rama[t, 1], rama[t, 2], rama[t, 3], turn)
        psi = _torsion(x, rama[t, 1], rama[t, 2], rama[t, 3], rama[t, 4], other)
        u, v = (phi / (2 * np.pi) + 0.5) * cells, (psi / (2 * np.pi) + 0.5) * cells
        i, j = int(np.floor(u)), int(np.floor(v))
        spline_weights(u - i, weights[0], weights[1])
        spline_weights(v - j, weights[2], weights[3])
        along_phi, along_psi = 0.0, 0.0
        for a in range(4):
            for b in range(4):
                value = tables[kind[t], (i - 1 + a) % cells, (j - 1 + b) % cells]
                energy += value * weights[0, a] * weights[2, b]
                along_phi += value * weights[1, a] * weights[2, b]
                along_psi += value * weights[0, a] * weights[3, b]
        per_radian = cells / (2 * np.pi)
        for c in range(4):
            gradient[rama[t, c]] += along_phi * per_radian * turn[c]
            gradient[rama[t, c + 1]] += along_psi * per_radian * other[c]
    for t in range(len(contacts)):
        i, j = contacts[t]
        dx, dy, dz = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
        square = dx * dx + dy * dy + dz * dz
        if square < reach[t] * reach[t]:
            distance = np.sqrt(square) + 1e-9
            off = distance - reach[t]
            energy += 0.5 * soft * off * off
            pull = soft * off / distance
            gradient[i, 0] += pull * dx
            gradient[i, 1] += pull * dy
            gradient[i, 2] += pull * dz
            gradient[j, 0] -= pull * dx
            gradient[j, 1] -= pull * dy
            gradient[j, 2] -= pull * dz
    out = np.empty(4)
    for t in range(len(mapped)):
        n = mapped[t]
        _map_at(
            coefficients, (x[n, 0] - origin[0]) / scale, (x[n, 1] - origin[1]) / scale, (x[n, 2] - origin[2]) / scale,
            weights, out,
        )  # fmt: skip
        energy -= weight[t] * out[0]
        for c in range(3):
            gradient[n, c] -= weight[t] * out[1 + c] / scale
    return energy


@numba.njit(cache=True)
def lbfgs(x, free, terms, coefficients, scale, origin, steps, memory=8, largest=0.25):
    """Minimise over the atoms in `free`, in place (Nocedal, Math Comput 35:773 (1980)); returns the energy."""
    n = len(free) * 3
    gradient = np.zeros_like(x)
    s, y, rho = np.zeros((memory, n)), np.zeros((memory, n)), np.zeros(memory)
    alpha = np.zeros(memory)
    energy = energy_gradient(x, gradient, terms, coefficients, scale, origin)
    g = gradient[free].copy().reshape(n)
    count = 0
    for _ in range(steps):
        direction = -g
        kept = min(count, memory)
        for a in range(kept):
            m = (count - 1 - a) % memory
            alpha[m] = rho[m] * (s[m] * direction).sum()
            direction -= alpha[m] * y[m]
        if kept:
            m = (count - 1) % memory
            direction *= (s[m] * y[m]).sum() / (y[m] * y[m]).sum()
        else:
            direction *= 0.02 / (np.sqrt((g * g).mean()) + 1e-12)
        for a in range(kept - 1, -1, -1):
            m = (count - 1 - a) % memory
            direction += s[m] * (alpha[m] - rho[m] * (y[m] * direction).sum())
        slope = (direction * g).sum()
        if slope >= 0:
            direction, slope, count = -g, -(g * g).sum(), 0
        farthest = np.abs(direction).max()
        if farthest > largest:
            direction *= largest / farthest
            slope *= largest / farthest
        before, old, old_g = x[free].copy(), energy, g.copy()
        rate, moved = 1.0, False
        for _ in range(12):
            step = before + (rate * direction).reshape(-1, 3)
            for a in range(len(free)):
                x[free[a]] = step[a]
            energy = energy_gradient(x, gradient, terms, coefficients, scale, origin)
            if energy <= old + 1e-4 * rate * slope:
                moved = True
                break
            rate *= 0.4
        if not moved:
            for a in range(len(free)):
                x[free[a]] = before[a]
            if count == 0:
                return old
            energy, count = old, 0
            energy_gradient(x, gradient, terms, coefficients, scale, origin)
            g = gradient[free].copy().reshape(n)
            continue
        g = gradient[free].copy().reshape(n)
        m = count % memory
        s[m] = rate * direction
        y[m] = g - old_g
        curvature = (s[m] * y[m]).sum()
        if curvature > 1e-9:
            rho[m] = 1 / curvature
            count += 1
        if old - energy < 1e-3 and np.abs(g).max() < 5.0:
            break
    return energy


@numba.njit(cache=True)
def close_pairs(x, free, is_free, there, bonded_start, bonded, cutoff):
    """Pairs (free atom, any atom) within a cutoff that no path of up to three bonds joins; each pair once."""
    first, second = [0], [0]
    square = cutoff * cutoff
    for a in range(len(free)):
        i = free[a]
        for b in range(len(there)):
            j = there[b]
            if j == i or (is_free[j] and j < i):
                continue
            dx = x[i, 0] - x[j, 0]
            if dx > cutoff or dx < -cutoff:
                continue
            dy, dz = x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
            if dx * dx + dy * dy + dz * dz > square:
                continue
            near = False
            for k in range(bonded_start[i], bonded_start[i + 1]):
                if bonded[k] == j:
                    near = True
                    break
            if not near:
                first.append(i)
                second.append(j)
    out = np.empty((len(first) - 1, 2), np.int64)
    out[:, 0] = np.array(first)[1:]
    out[:, 1] = np.array(second)[1:]
    return out
