"""Movies along the conformational coordinate, as GIFs: the volume in 3D, and projections beside averages in 2D."""

import io
from pathlib import Path

import numpy as np

from .. import fourier, plot, projection
from ..manifold.views import average_near_view, crowded_view, turned_to_view
from ..types import Poses

__all__ = ["write_gif", "write_projection_movie", "write_surface_movie"]

FRAMES = 16
FRAME_MS = 180


def write_gif(path, frames, *, milliseconds=FRAME_MS):
    """Write PNG frames as a GIF that runs there and back.

    Parameters
    ----------
    path : path-like
    frames : sequence of bytes
        PNG images of one size.
    milliseconds : int
        Per frame.

    Returns
    -------
    Path
    """
    from PIL import Image

    pictures = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    # one palette for all frames, so that the background does not flicker
    sheet = Image.new("RGB", (pictures[0].width, pictures[0].height * len(pictures)))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (0, index * picture.height))
    palette = sheet.quantize(96)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    loop = pictures + pictures[-2:0:-1]
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    loop[0].save(beside, format="GIF", save_all=True, append_images=loop[1:], duration=milliseconds, loop=0)
    beside.replace(path)
    return path


def write_surface_movie(found, path):
    """The volume turning through its states, seen from two sides, with the evidence under each frame.

    Parameters
    ----------
    found : ConformationalLandscape
    path : path-like

    Returns
    -------
    Path
    """
    from scipy.spatial.transform import Rotation

    middle = found.volumes[len(found.volumes) // 2]
    level = plot.default_level(middle)
    sides = [None, Rotation.from_euler("y", 90, degrees=True)]

    def draw(figure, node):
        upper = figure.subplots(2, 2, height_ratios=[4, 1])
        for ax, side in zip(upper[0], sides):
            plot.surface(found.volumes[node], ax=ax, rotation=side, level=level)
        _evidence(figure, upper[1], found, node)

    frames = [plot.png(lambda figure, node=node: draw(figure, node), width=5.6, height=4.0) for node in _frames(found)]
    return write_gif(path, frames)


def write_projection_movie(found, particles, path):
    """The view that most particles share: projections of the volumes beside averages of the particles at each state.

    Parameters
    ----------
    found : ConformationalLandscape
    particles : Particles
        With poses and CTF.
    path : path-like

    Returns
    -------
    Path
    """
    view, index = crowded_view(particles)
    frames_of = _frames(found)
    aligned, squares = turned_to_view(particles[index], view)
    predicted = np.concatenate([projection.project(found.volumes[node], Poses(view)) for node in frames_of])
    width = np.median(np.diff(found.nodes)) * max(1.0, len(found.nodes) / 8)
    averages = []
    for frame, node in enumerate(frames_of):
        weights = np.exp(-0.5 * ((found.coordinate[index] - found.nodes[node]) / width) ** 2)
        averages.append(average_near_view(aligned, squares, weights))
        # the average lacks what the particles' CTFs let through little of; so must what stands beside it
        predicted[frame] = average_near_view(fourier.transform(predicted[frame])[None] * squares, squares, weights)

    def draw(figure, frame):
        axes = figure.subplots(2, 2, height_ratios=[4, 1])
        for ax, stack, title in zip(axes[0], (predicted, averages), ("volume, projected", "particles, averaged")):
            low, high = np.quantile(stack, [0.01, 0.995])
            ax.imshow(stack[frame], cmap="gray", vmin=low, vmax=high, origin="lower")
            ax.set_title(title, fontsize=9)
            ax.set_axis_off()
        _evidence(figure, axes[1], found, frames_of[frame])

    frames = [plot.png(lambda figure, k=k: draw(figure, k), width=5.6, height=4.0) for k in range(len(frames_of))]
    return write_gif(path, frames)


def _frames(found):
    """At most `FRAMES` nodes that some particle stands behind."""
    observed = np.flatnonzero(found.effective_particles >= 1)
    if len(observed) < 2:
        observed = np.arange(len(found.volumes))
    return observed[np.unique(np.linspace(0, len(observed) - 1, FRAMES).round().astype(int))]


def _evidence(figure, axes, found, node):
    """A strip under the frame: where it is, and how many particles stand behind it."""
    strip = figure.add_subplot(axes[0].get_gridspec()[1, :])
    for ax in axes:
        ax.remove()
    unit, count = found.landscape.gauge[0], found.effective_particles[node]
    says = f"{unit} = {found.nodes[node]:.3g}: {count:.0f} particles"
    plot.evidence(found.nodes, found.effective_particles, ax=strip, gauge=says)
    strip.axvline(found.nodes[node], color="#D55E00", lw=2)
