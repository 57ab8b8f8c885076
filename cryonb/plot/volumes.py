"""Draw volumes and images: central slices, montages, and a shaded surface that needs no graphics card."""

import numpy as np

from .style import new_axes, scale_bar, styled

__all__ = ["central_slices", "default_level", "image", "images", "projection_montage", "surface", "surface_strip"]

COLORS = ("#7aa6c2", "#e0b25a", "#c2605a", "#6dae8c")  # of surfaces drawn together
RAYS = 150  # of a surface, along each edge of the picture
GAP = 0.04  # space between the tiles of a montage, as a fraction of a tile
BARS = np.array([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000])  # Å, what a scale bar may stand for


@styled
def image(data, *, pixel_size, ax=None, limits=None, cmap="gray", label="density"):
    """One image (d, d), with axes in Å from the box centre and a colour bar.

    Parameters
    ----------
    data : ndarray (d, d)
    pixel_size : float
        Å.
    ax : Axes, optional
    limits : (low, high), optional
        Grey values drawn black and white; the data's own extremes by default.
    cmap : str
    label : str
        What the colour bar measures.

    Returns
    -------
    Axes
    """
    ax = new_axes(ax, width=4.0, height=3.3)
    height, width = np.shape(data)
    left, bottom = -(width // 2 + 0.5) * pixel_size, -(height // 2 + 0.5) * pixel_size
    low, high = (np.nanmin(data), np.nanmax(data)) if limits is None else limits
    extent = (left, left + width * pixel_size, bottom, bottom + height * pixel_size)
    shown = ax.imshow(data, cmap=cmap, vmin=low, vmax=high, extent=extent, origin="lower", interpolation="nearest")
    ax.figure.colorbar(shown, ax=ax, label=label, shrink=0.9)
    ax.set(xlabel="x (Å)", ylabel="y (Å)")
    return ax


@styled
def images(stack, *, pixel_size, ax=None, titles=None, columns=None, limits=None):
    """A montage of images, each on the same grey scale, with one scale bar.

    Parameters
    ----------
    stack : ndarray (n, d, d)
    pixel_size : float
        Å.
    ax : Axes, optional
    titles : sequence of n str, optional
        Written above each tile.
    columns : int, optional
        Tiles in a row; up to eight by default.
    limits : (low, high) or "each", optional
        Grey values drawn black and white: by default the 0.5 % and 99.5 % quantiles of all images; "each"
        stretches every image by itself.

    Returns
    -------
    Axes
    """
    stack = np.asarray(stack, dtype=float)
    n, size = len(stack), stack.shape[-1]
    columns = min(n, 8) if columns is None else columns
    rows = -(-n // columns)
    if isinstance(limits, str):
        low, high = np.quantile(stack, [0.005, 0.995], axis=(1, 2), keepdims=True)
        stack, limits = (stack - low) / np.maximum(high - low, 1e-12), (0, 1)
    low, high = np.quantile(stack, [0.005, 0.995]) if limits is None else limits
    tile = 1.1 if columns > 4 else 1.5
    ax = new_axes(ax, width=tile * columns + 0.1, height=(tile + (0.25 if titles else 0)) * rows + 0.1)
    step, head = size * (1 + GAP), size * (0.22 if titles else GAP)
    for index, tile_data in enumerate(stack):
        left, bottom = index % columns * step, -(index // columns) * (size + head)
        ax.imshow(tile_data, cmap="gray", vmin=low, vmax=high, extent=(left, left + size, bottom, bottom + size))
        if titles:
            ax.text(left + size / 2, bottom + 1.03 * size, titles[index], ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(0, columns * step - GAP * size), ylim=(-(rows - 1) * (size + head), size + (head if titles else 0)))
    ax.set_aspect("equal")
    ax.set_axis_off()
    _add_bar(ax, size, pixel_size)
    return ax


@styled
def central_slices(volume, *, ax=None):
    """The three slices through the centre of a volume, side by side, with one scale bar.

    Parameters
    ----------
    volume : Volume
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    centre = volume.size_px // 2
    data = volume.data
    stack = np.stack([data[centre], data[:, centre], data[:, :, centre]])
    titles = ["z = 0:  x →, y ↑", "y = 0:  x →, z ↑", "x = 0:  y →, z ↑"]
    ax = new_axes(ax, width=6.6, height=2.5)
    return images(stack, pixel_size=volume.voxel_size, ax=ax, titles=titles, columns=3)


@styled
def projection_montage(particles, *, ax=None, count=16):
    """The first ``count`` images of some `Particles`, on one grey scale.

    Parameters
    ----------
    particles : Particles
    ax : Axes, optional
    count : int

    Returns
    -------
    Axes
    """
    return images(np.asarray(particles[: min(count, len(particles))].images), pixel_size=particles.pixel_size, ax=ax)


@styled
def surface(volume, *, ax=None, level=None, rotation=None, color=COLORS):
    """Surfaces as seen from the +z of a view: shaded by their slope, darker with depth.

    Parameters
    ----------
    volume : Volume, or a sequence of Volume
        Several are drawn together, each in a colour of its own: the parts of a machine.
    ax : Axes, optional
    level : float, optional
        Density of the surface; by default `default_level` of the first volume.
    rotation : scipy Rotation, optional
        View: image frame to volume frame, as in `Poses`.
    color : str or sequence of str
        Any matplotlib colours.

    Returns
    -------
    Axes
    """
    volumes = [volume] if hasattr(volume, "voxel_size") else list(volume)
    colors = [color] if isinstance(color, str) else list(color)
    level = default_level(volumes[0]) if level is None else level
    ax = new_axes(ax, width=2.8, height=2.8)
    picture, front = np.ones((RAYS, RAYS, 3)), np.full((RAYS, RAYS), -np.inf)
    for one, its_color in zip(volumes, colors):
        shaded, height = _render(one, level, rotation, its_color)
        nearer = height > front
        picture[nearer], front[nearer] = shaded[nearer], height[nearer]
    half = volumes[0].box_size / 2
    ax.imshow(picture, interpolation="bilinear", extent=(-half, half, -half, half))
    ax.set_axis_off()
    return ax


@styled
def surface_strip(volumes, *, ax=None, titles=None, rotation=None, level=None, color=COLORS[0]):
    """Surfaces of several volumes side by side, at one level and from one view: a movie on paper.

    Parameters
    ----------
    volumes : sequence of Volume
    ax : Axes, optional
    titles : sequence of str, optional
    rotation, level
        As in `surface`; the level of the first volume serves for all.
    color : str

    Returns
    -------
    Axes
    """
    level = default_level(volumes[0]) if level is None else level
    tiles = [_render(volume, level, rotation, color)[0] for volume in volumes]
    tiles, size = _trimmed(tiles), volumes[0].box_size / RAYS
    width, height = tiles[0].shape[1] * size, tiles[0].shape[0] * size  # Å
    step, n = 1.05 * width, len(tiles)
    ax = new_axes(ax, width=1.3 * n, height=1.3 * height / width + 0.3)
    for index, tile in enumerate(tiles):
        left = index * step
        ax.imshow(tile, extent=(left, left + width, 0, height), interpolation="bilinear")
        if titles is not None:
            ax.text(left + width / 2, 1.02 * height, titles[index], ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(0, n * step), ylim=(-0.16 * height, height * (1.12 if titles is not None else 1)))
    ax.set_aspect("equal")
    ax.set_axis_off()
    _add_bar(ax, width, 1.0, color="black")
    return ax


def default_level(volume):
    """The density at which surfaces are drawn when nobody says: a quarter of the 99.9 % quantile."""
    return 0.25 * float(np.quantile(volume.data, 0.999))


def _trimmed(tiles):
    """The same pictures without the white margin that all of them share."""
    inked = np.any([(tile < 0.999).any(-1) for tile in tiles], axis=0)
    if not inked.any():
        return tiles
    rows, columns = np.flatnonzero(inked.any(1)), np.flatnonzero(inked.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return [tile[box] for tile in tiles]


def _add_bar(ax, tile_px, pixel_size, color="white"):
    length = BARS[np.searchsorted(BARS, 0.3 * tile_px * pixel_size) - 1]
    scale_bar(ax, length, length / pixel_size, color=color)


def _render(volume, level, rotation, color, *, size=RAYS):
    """RGB picture of the first crossing of ``level`` along each ray from +z of the view, and its height in voxels."""
    from matplotlib.colors import to_rgb
    from scipy.ndimage import gaussian_filter, map_coordinates
    from scipy.spatial.transform import Rotation

    rotation = Rotation.identity() if rotation is None else rotation
    d = volume.size_px
    radius = 0.5 * d
    axis = np.linspace(-radius, radius, size)
    depth = np.linspace(radius, -radius, 2 * d)  # from the viewer inwards
    x, y = np.meshgrid(axis, axis)
    matrix = rotation.as_matrix().reshape(3, 3)
    smooth = gaussian_filter(volume.data, 0.6)

    def density(z):
        """Values at (x, y, z) of the view's frame."""
        position = np.einsum("ij,j...->i...", matrix, np.stack([x, y, z]))
        return map_coordinates(smooth, position[::-1] + d // 2, order=1, mode="constant")

    hit, before, height = np.zeros_like(x, dtype=bool), np.zeros_like(x), np.full_like(x, np.nan)
    for z in depth:
        value = density(np.full_like(x, z))
        new = ~hit & (value > level)
        fraction = (level - before[new]) / np.maximum(value[new] - before[new], 1e-12)
        height[new] = z + (depth[0] - depth[1]) * (1 - np.clip(fraction, 0, 1))
        hit |= new
        before = value
    at = np.where(hit, height, 0)
    slope = _slope(smooth, matrix, x, y, at, d)
    light = np.array([-0.35, 0.45, 0.82])
    shade = 0.3 + 0.62 * np.clip(np.einsum("i...,i->...", slope, light), 0, 1)
    near, far = (np.nanmax(height), np.nanmin(height)) if hit.any() else (1.0, 0.0)
    shade = shade * (0.62 + 0.38 * (at - far) / max(near - far, 1e-6))
    gloss = 0.22 * np.clip(slope[2], 0, 1) ** 24
    picture = shade[..., None] * np.array(to_rgb(color)) * 1.25 + gloss[..., None]
    picture[~hit] = 1.0
    return np.clip(picture, 0, 1), np.where(hit, height, -np.inf)


def _slope(smooth, matrix, x, y, z, d):
    """Unit outward normals (3, …) of the density at points of the view's frame."""
    from scipy.ndimage import map_coordinates

    position = np.einsum("ij,j...->i...", matrix, np.stack([x, y, z]))[::-1] + d // 2
    gradient = np.stack([map_coordinates(g, position, order=1) for g in np.gradient(smooth)][::-1])
    normal = -np.einsum("ji,j...->i...", matrix, gradient)
    return normal / np.maximum(np.linalg.norm(normal, axis=0), 1e-12)
