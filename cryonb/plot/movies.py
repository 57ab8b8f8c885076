"""Movies of a landscape: the volume in 3D, and projections beside averages in 2D, labelled with their clock."""

import io

import numpy as np

from ..manifold import frame_sequence, projections_and_averages, volumes_at
from .manifold import evidence as evidence_strip
from .manifold import frame_evidence
from .movie_files import movie_writer
from .style import png
from .volumes import default_level, surface

__all__ = ["FRAME_MS", "distinct_states", "draw_strip", "write_projection_movie", "write_surface_movie"]

FRAME_MS = {"closeness": 180, "occupancy": 80, "Brownian": 80}
WIDTH, HEIGHT, DPI = 5.6, 4.4, 100  # of a frame, inches


def write_surface_movie(found, path, *, sequence=None, evidence=None):
    """The volume going through its states, seen from two sides, with the evidence under each frame.

    Parameters
    ----------
    found : manifold.ConformationalLandscape
    path : path-like
        ``.gif``, or ``.mp4`` where there is ffmpeg (`write_mp4`).
    sequence : manifold.FrameSequence, optional
        Of ``found.landscape``; by closeness by default.
    evidence : manifold.FrameEvidence, optional
        Drawn under each frame; without it, the expected number of particles per node.

    Returns
    -------
    Path
        There and back by closeness and occupancy; a Brownian walk starts again. A GIF goes on for ever.

    Raises
    ------
    ValueError
        Another kind of file, a sequence of two coordinates.
    RuntimeError
        ``.mp4`` without ffmpeg; before anything is drawn.
    """
    from scipy.spatial.transform import Rotation

    movie_writer(path)  # before the work
    sequence = frame_sequence(found.landscape, "closeness") if sequence is None else sequence
    states, frame_of = distinct_states(sequence)
    volumes = volumes_at(found, states)
    level = default_level(found.volumes[len(found.volumes) // 2])
    sides = [None, Rotation.from_euler("y", 90, degrees=True)]

    def draw(axes, state):
        for ax, side in zip(axes, sides):
            surface(volumes[state], ax=ax, rotation=side, level=level)

    return _write(path, found, sequence, evidence, draw, states, frame_of)


def write_projection_movie(found, particles, path, *, sequence=None, evidence=None):
    """The view that most particles share: projections of the volumes beside averages of the particles at each state.

    Parameters
    ----------
    found : manifold.ConformationalLandscape
    particles : Particles
        With poses and CTF: those that were embedded.
    path, sequence, evidence
        As in `write_surface_movie`.

    Returns
    -------
    Path
    """
    movie_writer(path)  # before the work
    sequence = frame_sequence(found.landscape, "closeness") if sequence is None else sequence
    states, frame_of = distinct_states(sequence)
    stacks = projections_and_averages(found, particles, states)
    limits = [np.quantile(stack, [0.01, 0.995]) for stack in stacks]

    def draw(axes, state):
        for ax, stack, (low, high), title in zip(axes, stacks, limits, ("volume, projected", "particles, averaged")):
            ax.imshow(stack[state], cmap="gray", vmin=low, vmax=high, origin="lower")
            ax.set_title(title, fontsize=9)
            ax.set_axis_off()

    return _write(path, found, sequence, evidence, draw, states, frame_of)


def distinct_states(sequence):
    """Distinct positions, increasing, and which of them each frame shows."""
    if sequence.positions.shape[1] != 1:
        raise ValueError(f"movies are drawn along one coordinate, this sequence has {sequence.positions.shape[1]}")
    return np.unique(sequence.positions[:, 0], return_inverse=True)


def _write(path, found, sequence, evidence, draw, states, frame_of):
    def compose(figure, state):
        upper = figure.subplots(2, 2, height_ratios=[4, 1.2])
        draw(upper[0], state)
        strip = figure.add_subplot(upper[0, 0].get_gridspec()[1, :])
        for ax in upper[1]:
            ax.remove()
        draw_strip(strip, found, evidence, states[state])
        figure.suptitle(sequence.label, fontsize=9, x=0.02, ha="left")
        figure.supxlabel(_wrapped(sequence.unknown), fontsize=7, color="#666666")

    drawn = [
        png(lambda figure, k=state: compose(figure, k), width=WIDTH, height=HEIGHT, dpi=DPI)
        for state in range(len(states))
    ]
    frames = [drawn[state] for state in frame_of]
    brownian = sequence.clock == "Brownian"
    if brownian:
        frames = [_stamped(frame, f"{time:.2f} L²/D") for frame, time in zip(frames, sequence.clock_reading)]
    return movie_writer(path)(path, frames, milliseconds=FRAME_MS[sequence.clock], back=not brownian)


def draw_strip(ax, found, evidence, position):
    """Under the frame: where it is, and what stands behind it."""
    if evidence is not None:
        frame_evidence(evidence, frame=int(np.argmin(np.abs(evidence.positions - position))), ax=ax)
        return
    count = np.interp(position, found.nodes, found.effective_particles)
    says = f"{found.landscape.gauge[0]} = {position:.3g}: {count:.0f} particles"
    evidence_strip(found.nodes, found.effective_particles, ax=ax, gauge=says)
    ax.axvline(position, color="#D55E00", lw=2)


def _wrapped(text):
    import textwrap

    return "\n".join(textwrap.wrap(text, 100))


def _stamped(frame, text):
    """A PNG frame with a line of text in its upper right corner."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.open(io.BytesIO(frame)).convert("RGB")
    font = ImageFont.truetype(findfont("DejaVu Sans"), 13)  # Pillow's own has no ²
    ImageDraw.Draw(picture).text((picture.width - 10, 6), text, fill="#D55E00", font=font, anchor="ra")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
