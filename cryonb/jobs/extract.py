"""``python -m cryonb extract``: particles around coordinates on many micrographs, as one STAR file and its stack."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

__all__ = ["add_arguments", "execute"]


def add_arguments(parser):
    """Arguments of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    parser.add_argument("micrographs", nargs="+", type=Path, metavar="FILE", help="MRC, TIFF, PNG or JPEG images")
    parser.add_argument(
        "--coordinates", type=Path, required=True, metavar="DIR",
        help="folder of one .star or .box file for each micrograph, or one STAR or .cs file for all",
    )  # fmt: skip
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--box", "--extract_size", type=int, required=True, metavar="PX", help="box size")
    parser.add_argument("--ctf", type=Path, metavar="STAR", help="micrographs_ctf.star of `cryonb ctf` or RELION")
    parser.add_argument("--pixel-size", "--angpix", type=float, metavar="Å", help="instead of the headers'")
    parser.add_argument("--invert-y", action="store_true", help="of coordinates from a .cs file: see read_coordinates")
    parser.add_argument(
        "--recentre", "--recenter", action="store_true",
        help="--coordinates is the run_data.star of a finished run: move each pick by the shift found there",
    )  # fmt: skip
    parser.add_argument(
        "--centre-of", type=Path, metavar="FILE",
        help="with --recentre: the volume (.mrc) or class averages (.mrcs) of that run, whose centre of mass becomes "
        "the particles' centre (default: the middle of its box)",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def execute(options):
    """Run the job: one bad micrograph never stops the others.

    Returns
    -------
    dict : the summary, with the failed ones last

    Notes
    -----
    ``particles.star`` and ``particles.mrcs``, ``summary.json``. Boxes over the edge are left out and counted. In memory
    are one micrograph and its boxes; those of all lie in a temporary folder of ``--out`` until they are joined.

    With ``--recentre`` picks move as RELION's re-extraction moves them; particles keep their angles, and as shift what
    is left of a pixel. Two picks that come to lie on one particle both stay.
    """
    from .. import io
    from .batch import finish, require_different_names, through

    if options.box < 8:
        raise ValueError(f"--box must be 8 pixels or more, got {options.box}")
    require_different_names(options.micrographs)
    poses, centre = _found(options)
    shared = (
        None if options.coordinates.is_dir() else io.read_coordinates(options.coordinates, invert_y=options.invert_y)
    )
    lenses = {} if options.ctf is None else _lenses(options.ctf)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".parts-") as folder:
        found, failed = through(
            options.micrographs, lambda path: _one(path, shared, lenses, Path(folder), options, poses, centre),
            label="extraction", quiet=options.quiet,
        )  # fmt: skip
        parts = [particles for particles, *_ in found]
        if parts:
            io.write_particles(
                _joined(parts), options.out / "particles.star", stack_path=options.out / "particles.mrcs"
            )
    numbers = {
        "micrographs": len(options.micrographs), "particles": sum(map(len, parts)),
        "over_the_edge": sum(lost for _, lost, _ in found), "failed": len(failed),
    }  # fmt: skip
    if poses is not None and found:
        moved = np.concatenate([move for *_, move in found])
        numbers["moved_angstrom_rms"] = round(float(np.sqrt((moved**2).mean())), 2)
    return finish(numbers, failed, options.out)


def _found(options):
    """Poses of the particles of ``--coordinates`` and the place (n, 3) to centre each on; None without --recentre."""
    from .. import io, picking

    if not options.recentre:
        if options.centre_of is not None:
            raise ValueError("--centre-of says what to centre with --recentre: expected both")
        return None, None
    if options.coordinates.is_dir():
        raise ValueError(f"--recentre: expected the run_data.star of a run as --coordinates, got the folder "
                         f"{options.coordinates}")  # fmt: skip
    particles = io.read_particles(options.coordinates, check_images=False)
    if particles.poses is None or "rlnCoordinateX" not in (
        particles.metadata if particles.metadata is not None else ()
    ):
        raise ValueError(f"{options.coordinates}: --recentre needs rlnCoordinateX and Y, the three angles and origins")
    if options.centre_of is None:
        return particles.poses, np.zeros((len(particles), 3))
    if options.centre_of.suffix != ".mrcs":
        centre = picking.centre_of_mass(io.read_volume(options.centre_of))
        return particles.poses, np.tile(centre, (len(particles), 1))
    averages = np.asarray(io.read_stack(options.centre_of)[:])
    if "rlnClassNumber" not in particles.metadata:
        raise ValueError(f"{options.coordinates}: no rlnClassNumber, which --centre-of {options.centre_of} needs")
    numbers = io.column_numbers(particles.metadata, "rlnClassNumber", path=options.coordinates).astype(int)
    if not (1 <= numbers.min() and numbers.max() <= len(averages)):
        raise ValueError(
            f"{options.coordinates}: classes {numbers.min()} to {numbers.max()}, but {options.centre_of} has "
            f"{len(averages)} averages"
        )
    used, member = np.unique(numbers, return_inverse=True)  # an average of no particles has no centre
    return particles.poses, picking.centre_of_mass(averages[used - 1], particles.pixel_size)[member]


def _one(path, shared, lenses, folder, options, poses, centre):
    """Particles of one micrograph, their images in a file of ``folder``; boxes that did not fit; Å that picks moved."""
    from .. import io, picking

    micrograph = io.read_micrograph(path, pixel_size=options.pixel_size)
    table = _coordinates(path, shared, options.coordinates)
    if lenses:
        if path.stem not in lenses:
            raise ValueError(f"{options.ctf} has no micrograph {path.stem}")
        micrograph = replace(micrograph, ctf=lenses[path.stem])
    # The diameter of these records plays no part in cutting boxes.
    picks = picking.Picks(
        table[["x", "y"]].to_numpy(), table["score"].to_numpy(), micrograph.pixel_size, micrograph.pixel_size
    )
    rotation, moved = None, np.zeros(len(picks))
    if poses is not None:
        rows, before = table.index.to_numpy(), picks.centres_angstrom
        picks, rotation = picking.recentre(picks, poses[rows], centre=centre[rows]), poses.rotation[rows]
        moved = np.hypot(*(picks.centres_angstrom - before).T)
    particles, _ = picking.extract(micrograph, picks, options.box, name=str(path), rotation=rotation)
    part = folder / f"{path.stem}.mrcs"
    io.write_stack(particles.images, part, particles.pixel_size)
    return replace(particles, images=io.read_stack(part)), len(picks) - len(particles), moved


def _joined(parts):
    """Particles of all micrographs; their images stay in the files of the parts."""
    import pandas as pd
    from scipy.spatial.transform import Rotation

    from .. import io
    from ..types import Particles, Poses

    pixel_sizes = [particles.pixel_size for particles in parts]
    if max(pixel_sizes) > 1.01 * min(pixel_sizes):
        raise ValueError(f"micrographs have pixels of {min(pixel_sizes):g} to {max(pixel_sizes):g} Å; give one size")
    count = [len(particles) for particles in parts]
    images = io.ImageStack(
        [particles.images.paths[0] for particles in parts], np.repeat(np.arange(len(parts)), count),
        np.concatenate([np.arange(n) for n in count]),
    )  # fmt: skip
    metadata = pd.concat([particles.metadata for particles in parts], ignore_index=True)
    poses = None
    if parts[0].poses is not None:
        rotation = Rotation.concatenate([particles.poses.rotation for particles in parts])
        poses = Poses(rotation, np.concatenate([particles.poses.shift for particles in parts]))
    return Particles(images, pixel_sizes[0], ctf=_joined_ctf(parts), poses=poses, metadata=metadata)


def _coordinates(path, shared, folder):
    from .. import io

    if shared is not None:
        table = shared[[Path(name).stem == path.stem for name in shared["micrograph"]]]
        if table.empty:
            raise ValueError(f"{folder} has no coordinates of {path.name}")
        return table
    for ending in ("_autopick.star", "_manualpick.star", ".star", ".box"):
        file = folder / f"{path.stem}{ending}"
        if file.exists():
            return io.read_coordinates(file)
    raise ValueError(f"no coordinates of {path.name} in {folder}: expected {path.stem}_autopick.star, .star or .box")


def _lenses(path):
    """CTF by the micrograph's name without folder and ending."""
    from .. import io
    from ..types import CTF

    tables = io.read_star(path)
    table = next((block for block in tables.values() if "rlnMicrographName" in block and "rlnDefocusU" in block), None)
    if table is None:
        raise ValueError(f"{path}: no table with rlnMicrographName and rlnDefocusU")
    optics = tables.get("optics")
    known = {"defocus_u": "rlnDefocusU", "defocus_v": "rlnDefocusV", "defocus_angle": "rlnDefocusAngle",
             "phase_shift": "rlnPhaseShift"}  # fmt: skip
    microscope = {"voltage_kv": "rlnVoltage", "cs_mm": "rlnSphericalAberration",
                  "amplitude_contrast": "rlnAmplitudeContrast"}  # fmt: skip
    values = {name: io.column_numbers(table, column, path=path) for name, column in known.items() if column in table}
    group = [0] * len(table)
    if optics is not None and "rlnOpticsGroup" in table:
        order = {number: row for row, number in enumerate(optics["rlnOpticsGroup"])}
        group = [order[number] for number in table["rlnOpticsGroup"]]
    for name, column in microscope.items():
        if optics is not None and column in optics:
            values[name] = io.column_numbers(optics, column, path=path)[group]
        elif column in table:
            values[name] = io.column_numbers(table, column, path=path)
    return {
        Path(name).stem: CTF(**{field: float(column[row]) for field, column in values.items()})
        for row, name in enumerate(table["rlnMicrographName"])
    }


def _joined_ctf(parts):
    from ..types import CTF

    if any(particles.ctf is None for particles in parts):
        return None
    fields = CTF.__dataclass_fields__
    return CTF(**{name: np.concatenate([getattr(particles.ctf, name) for particles in parts]) for name in fields})
