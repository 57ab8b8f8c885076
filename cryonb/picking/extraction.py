"""Boxes around picks: from coordinates to particles."""

import numpy as np

from .. import filters
from ..io.star import number_text
from ..types import CTF, Micrograph, Particles, Poses

__all__ = ["extract"]


def extract(micrograph, picks, size_px, *, name="micrograph.mrc", background_radius=None, ramp=True, rotation=None):
    """Cut out particles: contrast inverted, background of mean 0 and standard deviation 1.

    Parameters
    ----------
    micrograph : Micrograph
        Protein dark.
    picks : Picks
    size_px : int
        Box size.
    name : str
        For the column rlnMicrographName.
    background_radius : float, optional
        Å; pixels farther from the centre are background. 37.5 % of the box by default, as RELION.
    ramp : bool
        Also take a fitted plane off.
    rotation : scipy Rotation, one for each pick, optional
        Known already; the particles then have poses, whose shifts are the fractions of a pixel between pick and box.

    Returns
    -------
    particles : Particles
        ``metadata`` holds rlnMicrographName, rlnCoordinateX and Y (pixels) and rlnAutopickFigureOfMerit; ``ctf`` is
        that of the micrograph.
    kept : ndarray (n,) of int
        Rows of ``picks``. A pick is left out whose box reaches over the edge or holds pixels that are not numbers or
        a background without contrast.

    Raises
    ------
    ValueError
        No box is left; a box size or radius that does not fit; picks of another pixel size; not one rotation each.

    Notes
    -----
    Boxes are cut at whole pixels: the centre, pixel ``size_px // 2``, is the pixel nearest to the pick, and the
    coordinates that are written are those of that pixel.
    """
    import pandas as pd

    if not isinstance(micrograph, Micrograph):
        raise TypeError(f"expected a Micrograph, got {type(micrograph).__name__}")
    size_px = int(size_px)
    height, width = micrograph.data.shape
    if not 8 <= size_px <= min(height, width):
        raise ValueError(
            f"a box of {size_px} pixels: expected 8 to {min(height, width)}, the micrograph's shorter side"
        )
    if abs(picks.pixel_size - micrograph.pixel_size) > 0.01 * micrograph.pixel_size:
        raise ValueError(f"picks are on {picks.pixel_size:g} Å pixels, the micrograph on {micrograph.pixel_size:g} Å")
    if rotation is not None and len(rotation) != len(picks):
        raise ValueError(f"{len(rotation)} rotations for {len(picks)} picks: expected one each")
    radius_px = 0.375 * size_px if background_radius is None else background_radius / micrograph.pixel_size
    corner = np.rint(picks.centres).astype(int) - size_px // 2
    fits = ((corner >= 0) & (corner + size_px <= [width, height])).all(axis=1)
    boxes, kept = [], []
    for index in np.flatnonzero(fits):
        x, y = corner[index]
        box = micrograph.data[y : y + size_px, x : x + size_px]
        if np.isfinite(box).all() and np.ptp(box) > 0:
            try:
                boxes.append(filters.normalise(-box, radius_px, ramp=ramp))
            except ValueError as error:
                if "background" not in str(error) or "leaves no" in str(error):
                    raise
                continue
            kept.append(index)
    if not kept:
        over = int((~fits).sum())
        raise ValueError(
            f"none of {len(picks)} picks gives a box of {size_px} pixels of this micrograph ({width} × {height}): "
            f"{over} reach over the edge, {len(picks) - over} without contrast or with pixels that are not numbers"
        )
    kept = np.array(kept)
    centre = corner[kept] + size_px // 2
    finite = np.where(np.isfinite(picks.score[kept]), picks.score[kept], 0)
    metadata = pd.DataFrame(
        {
            "rlnMicrographName": [name] * len(kept),
            "rlnCoordinateX": number_text(centre[:, 0].astype(float)),
            "rlnCoordinateY": number_text(centre[:, 1].astype(float)),
            "rlnAutopickFigureOfMerit": number_text(finite),
        }
    )
    ctf = micrograph.ctf
    if ctf is not None:
        ctf = CTF(**{field: np.full(len(kept), getattr(ctf, field)) for field in CTF.__dataclass_fields__})
    poses = None
    if rotation is not None:
        poses = Poses(rotation[kept], (centre - picks.centres[kept]) * micrograph.pixel_size)
    return Particles(np.stack(boxes), micrograph.pixel_size, ctf=ctf, poses=poses, metadata=metadata), kept
