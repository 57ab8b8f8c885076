"""The loops of `projection`, compiled by numba: reading and filling a transform on rotated planes, drawing atoms."""

from math import erf

import numba
import numpy as np

__all__ = ["draw_atoms", "fill_atoms", "gather", "scatter"]


@numba.njit(cache=True, fastmath=True, nogil=True)
def gather(data, axes, points, slices):
    depth, height, width = data.shape
    centre = depth // 2
    for n in range(len(axes)):
        xx, xy = axes[n, 0, 0], axes[n, 0, 1]
        yx, yy = axes[n, 1, 0], axes[n, 1, 1]
        zx, zy = axes[n, 2, 0], axes[n, 2, 1]
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            x = xx * kx + xy * ky
            y = yx * kx + yy * ky
            z = zx * kx + zy * ky
            mirrored = x < 0
            if mirrored:
                x, y, z = -x, -y, -z
            y += centre
            z += centre
            x0, y0, z0 = int(x), int(np.floor(y)), int(np.floor(z))
            if x0 + 1 >= width or y0 < 0 or y0 >= height or z0 < 0 or z0 >= depth:
                slices[n, m] = 0
                continue
            y1 = y0 + 1 if y0 + 1 < height else 0  # +Nyquist is −Nyquist
            z1 = z0 + 1 if z0 + 1 < depth else 0
            fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
            gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
            low = gy * (gx * data[z0, y0, x0] + fx * data[z0, y0, x0 + 1]) + fy * (
                gx * data[z0, y1, x0] + fx * data[z0, y1, x0 + 1]
            )
            high = gy * (gx * data[z1, y0, x0] + fx * data[z1, y0, x0 + 1]) + fy * (
                gx * data[z1, y1, x0] + fx * data[z1, y1, x0 + 1]
            )
            value = gz * low + fz * high
            slices[n, m] = np.conj(value) if mirrored else value


@numba.njit(cache=True, fastmath=True, nogil=True)
def scatter(values, weights, axes, points, slices, slice_weights, with_weights):
    depth, height, width = values.shape
    centre = depth // 2
    for n in range(len(axes)):
        xx, xy = axes[n, 0, 0], axes[n, 0, 1]
        yx, yy = axes[n, 1, 0], axes[n, 1, 1]
        zx, zy = axes[n, 2, 0], axes[n, 2, 1]
        for m in range(len(points)):
            kx, ky = points[m, 0], points[m, 1]
            x = xx * kx + xy * ky
            y = yx * kx + yy * ky
            z = zx * kx + zy * ky
            value = slices[n, m]
            if x < 0:
                x, y, z = -x, -y, -z
                value = np.conj(value)
            y += centre
            z += centre
            x0, y0, z0 = int(x), int(np.floor(y)), int(np.floor(z))
            if x0 + 1 >= width or y0 < 0 or y0 >= height or z0 < 0 or z0 >= depth:
                continue
            fx, fy, fz = x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)
            weight = slice_weights[n, m] if with_weights else np.float32(0)
            for dz in range(2):
                wz = fz if dz else np.float32(1) - fz
                zi = (z0 + dz) % depth  # +Nyquist is −Nyquist
                for dy in range(2):
                    wzy = wz * (fy if dy else np.float32(1) - fy)
                    yi = (y0 + dy) % height
                    for dx in range(2):
                        w = wzy * (fx if dx else np.float32(1) - fx)
                        values[zi, yi, x0 + dx] += w * value
                        if with_weights:
                            weights[zi, yi, x0 + dx] += w * weight


@numba.njit(cache=True, nogil=True)
def pixel_integrals(position, sigma, size_px, out):
    """Integrals of a unit Gaussian over the pixels it reaches; returns the first and one past the last."""
    reach = 5.0 * sigma + 0.5
    centre = size_px // 2
    first = max(0, int(np.floor(position + centre - reach)))
    last = min(size_px, int(np.ceil(position + centre + reach)) + 1)
    if last <= first:
        return 0, 0
    scale = 1.0 / (np.sqrt(2.0) * sigma)
    below = erf((first - 0.5 - centre - position) * scale)
    for pixel in range(first, last):
        above = erf((pixel + 0.5 - centre - position) * scale)
        out[pixel] = 0.5 * (above - below)
        below = above
    return first, last


@numba.njit(cache=True, nogil=True)
def draw_atoms(coordinates, weights, sigma, axes, offset, images):
    size_px = images.shape[-1]
    along_x, along_y = np.zeros(size_px), np.zeros(size_px)
    for n in range(len(images)):
        for a in range(len(coordinates)):
            px, py = offset[n, 0], offset[n, 1]
            for axis in range(3):
                px += axes[n, axis, 0] * coordinates[a, axis]
                py += axes[n, axis, 1] * coordinates[a, axis]
            x0, x1 = pixel_integrals(px, sigma[a], size_px, along_x)
            y0, y1 = pixel_integrals(py, sigma[a], size_px, along_y)
            for y in range(y0, y1):
                row = weights[a] * along_y[y]
                for x in range(x0, x1):
                    images[n, y, x] += row * along_x[x]


@numba.njit(cache=True, nogil=True)
def fill_atoms(coordinates, weights, sigma, data):
    size_px = data.shape[-1]
    along_x, along_y, along_z = np.zeros(size_px), np.zeros(size_px), np.zeros(size_px)
    for a in range(len(coordinates)):
        x0, x1 = pixel_integrals(coordinates[a, 0], sigma[a], size_px, along_x)
        y0, y1 = pixel_integrals(coordinates[a, 1], sigma[a], size_px, along_y)
        z0, z1 = pixel_integrals(coordinates[a, 2], sigma[a], size_px, along_z)
        for z in range(z0, z1):
            for y in range(y0, y1):
                row = weights[a] * along_z[z] * along_y[y]
                for x in range(x0, x1):
                    data[z, y, x] += row * along_x[x]
