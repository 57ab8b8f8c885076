"""The iterations of a run read back from the folder that a command fills, while it goes on or afterwards."""

from pathlib import Path

import numpy as np

from cryonb import io

from .records import Iteration

__all__ = ["read_iterations"]


def read_iterations(folder):
    """What ``python -m cryonb refine``, ``classify3d``, ``classify2d`` or ``initial-model`` wrote after each iteration.

    Parameters
    ----------
    folder : path
        Its ``--out``; a run that has not finished an iteration has none.

    Returns
    -------
    list of (Iteration, list of Path)
        In order; the files hold the volumes of the iteration (of a gold-standard run its halves), or its averages.

    Raises
    ------
    ValueError
        No such folder, or a file without what cryonb writes (a run of RELION's own has less).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    found = {}
    for path in sorted(folder.glob("run_it*_model.star")):
        number = int(path.name.removeprefix("run_it").split("_")[0])
        found.setdefault(number, []).append(path)
    return [_iteration(number, paths) for number, paths in sorted(found.items()) if _whole(paths)]


def _whole(paths):
    """Of a gold-standard run the second half is written last."""
    return "_half" not in paths[0].name or len(paths) == 2


def _iteration(number, paths):
    tables = [io.read_star(path, numeric=True) for path in paths]
    first = tables[0]
    general, classes = first["model_general"].iloc[0], first["model_classes"]
    if "cryonbParticles" not in general:
        raise ValueError(f"{paths[0]}: expected cryonbParticles in model_general; this is not a run of cryonb")
    curves = [first[name] for name in first if name.startswith("model_class_")]
    groups = [first[name] for name in first if name.startswith("model_group_")]
    to_here = float(general["rlnOriginalImageSize"]) ** 4
    record = Iteration(
        number, int(general["cryonbParticles"]), float(general["rlnPsiStep"]), bool(general["cryonbLocal"]),
        int(general["rlnCurrentImageSize"]) // 2, float(general["rlnCurrentResolution"]),
        np.squeeze([curve["cryonbFsc"] for curve in curves]).astype(float),
        np.array([group["rlnSigma2Noise"] for group in groups], dtype=float) * to_here,
        np.array([curve["cryonbPrior"] for curve in curves], dtype=float),
        classes["rlnClassDistribution"].to_numpy(dtype=float), float(general["rlnAveragePmax"]),
        float(general["cryonbEntropy"]), float(general["rlnSigmaOffsetsAngst"]),
        float(general["rlnChangesOptimalOrientations"]), float(general["rlnChangesOptimalClasses"]),
        float(general["cryonbSeconds"]),
    )  # fmt: skip
    names = [str(name) for table in tables for name in table["model_classes"]["rlnReferenceImage"]]
    files = [paths[0].parent / name.rpartition("@")[2] for name in names]
    return record, sorted(set(files), key=files.index)
