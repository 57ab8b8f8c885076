"""Arguments that several jobs share, under our names and under RELION's, and the input that they name."""

import warnings
from argparse import ArgumentTypeError
from pathlib import Path

from .. import io

__all__ = ["add_engine_arguments", "read_particles", "read_reference", "seed"]


START = "start volume; low-passed, at 60 Å unless said (25 Å by classify3d around known poses)"


def seed(text):
    """A random seed as argparse reads it.

    Parameters
    ----------
    text : str

    Returns
    -------
    int

    Raises
    ------
    argparse.ArgumentTypeError
        Not a whole number from 0 on.
    """
    if not text.isdecimal():
        raise ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def add_engine_arguments(parser, *, reference=True, symmetry=True):
    """What every question to the Bayesian engine needs.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    reference : bool
        Whether it starts from a volume.
    symmetry : bool
        Whether volumes may have one.
    """
    parser.add_argument("--particles", "--i", type=Path, required=True, metavar="STAR", help=".star or .cs file")
    if reference:
        parser.add_argument("--reference", "--ref", type=Path, required=True, metavar="MRC", help=START)
    parser.add_argument("--out", "--o", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument(
        "--mask-diameter",
        "--particle_diameter",
        type=float,
        metavar="Å",
        help="of the particle (default: 90 %% of the box)",
    )
    if symmetry:
        parser.add_argument(
            "--symmetry", "--sym", default="C1", metavar="GROUP", help="C4, D7, T, O, I … (%(default)s)"
        )
    parser.add_argument("--workers", "--j", type=int, default=2, help="threads (%(default)s)")
    parser.add_argument("--seed", "--random_seed", type=seed, default=0, help="random seed (%(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def read_particles(options):
    """The particles of ``--particles``.

    Raises
    ------
    ValueError
        No CTF.
    """
    particles = io.read_particles(options.particles)
    if particles.ctf is None:
        raise ValueError(f"{options.particles}: expected the CTF of each particle (rlnDefocusU, …), found none")
    return particles


def read_reference(path, particles):
    """A start volume on the particles' grid; resampled, and said so, where it came on another.

    Parameters
    ----------
    path : Path
    particles : Particles

    Returns
    -------
    Volume

    Raises
    ------
    ValueError
        Not finite, constant, or larger than the particles' box.
    """
    from ..bayes.inputs import fit_references

    volume = io.read_volume(path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            (fitted,) = fit_references(particles, [volume])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    for warning in said:
        print(f"{path}: {warning.message}")
    return fitted
