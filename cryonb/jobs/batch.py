"""Many micrographs, one after the other: what fails is listed at the end."""

import numpy as np

from ..io.formats import replacing
from .runs import summary_text

__all__ = ["finish", "require_different_names", "through"]


def require_different_names(paths):
    """Refuse micrographs that would write to the same file.

    Parameters
    ----------
    paths : sequence of Path
    """
    names = [path.stem for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two micrographs are called {twice!r}: their results would be one file")


def through(paths, function, *, label, quiet):
    """``function(path)`` for each path: (results of those that worked, {path: reason} of the others).

    Parameters
    ----------
    paths : sequence of Path
    function : callable
    label : str
        Of the progress bar.
    quiet : bool
    """
    from tqdm.auto import tqdm

    found, failed = [], {}
    for path in tqdm(paths, desc=label, unit="micrograph", disable=quiet):
        try:
            found.append(function(path))
        except (OSError, ValueError, TypeError, ArithmeticError, MemoryError, np.linalg.LinAlgError) as error:
            failed[str(path)] = " ".join(str(error).split()) or type(error).__name__
    return found, failed


def finish(numbers, failed, folder):
    """Write ``summary.json`` and return the summary, the failed ones last.

    Parameters
    ----------
    numbers : dict
    failed : dict of str to str
    folder : Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "summary.json") as beside:
        beside.write_text(summary_text(numbers | {"reasons": failed}), encoding="utf-8")
    return numbers | {f"failed {name}": reason for name, reason in failed.items()}
