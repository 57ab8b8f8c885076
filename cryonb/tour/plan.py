"""What a tour is asked to do, and the folder that remembers which of its stages are done."""

import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import parallel

__all__ = ["Plan", "Stages", "peak_memory_gb"]


@dataclass(frozen=True)
class Plan:
    """The choices of one tour.

    Parameters
    ----------
    out : Path
        Folder of the results.
    seed : int
    n_classes : int
        3D classes.
    workers : int
        Threads.
    n_particles, snr : int, float
        Of the simulation; unused with ``particles``.
    particles : Path, optional
        The user's .star or .cs file.
    reference : Path, optional
        Start volume (MRC); needed where the file holds no angles.
    mask_diameter : float, optional
        Å; 85 % of the box by default.
    size_px : int
        Larger boxes are cropped in Fourier space to this one.
    """

    out: Path
    seed: int = 0
    n_classes: int = 2
    workers: int = 2
    n_particles: int = 4000
    snr: float = 0.2
    particles: Path | None = None
    reference: Path | None = None
    mask_diameter: float | None = None
    size_px: int = 64

    def __post_init__(self):
        for name, least in (("n_classes", 1), ("workers", 1), ("n_particles", 200), ("size_px", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.snr > 0:
            raise ValueError(f"snr must be positive, got {self.snr:g}")
        for name in ("particles", "reference"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise FileNotFoundError(f"--{name} {path}: there is no such file")
        if self.particles is None and self.reference is not None:
            raise ValueError("--reference goes with --particles; the shipped sample brings its own")

    @classmethod
    def from_options(cls, options):
        """From the parsed command line."""
        return cls(
            out=options.out,
            seed=options.seed,
            n_classes=options.classes,
            workers=options.workers,
            n_particles=options.n_particles,
            snr=options.snr,
            particles=options.particles,
            reference=options.reference,
            mask_diameter=options.mask_diameter,
            size_px=options.size,
        )

    @property
    def key(self):
        """What makes a stage of this tour reusable: every choice that changes a number, and the input's state."""
        choices = {name: value for name, value in asdict(self).items() if name not in ("out", "workers")}
        for name in ("particles", "reference"):
            path = choices[name]
            if path is not None:
                status = Path(path).stat()
                choices[name] = [str(Path(path).resolve()), status.st_size, status.st_mtime_ns]
        return choices


class Stages:
    """Runs stages once: a stage that is done is read back from ``folder``, one that was cut short starts again.

    Parameters
    ----------
    folder : Path
    key : JSON-like
        A folder that holds stages of another key is refused.
    say : callable
        Told one line per stage.
    """

    def __init__(self, folder, key, say):
        self.folder, self.key, self.say = Path(folder), key, say
        self.seconds = {}
        self.peak_memory_gb = 0.0

    def checkpoint(self, name):
        """Where a stage that resumes by itself keeps its progress."""
        return self.folder / f"{name}.progress.npz"

    def stored(self, name, title, compute):
        """The values of stage ``name``: read back, or ``compute()``d (a dict) and saved.

        Parameters
        ----------
        name, title : str
        compute : callable
        """
        values = self._read(name)
        if values is None:
            self.say(f"{title} …")
            started = time.perf_counter()
            values = compute()
            values |= self._record(name, title, started, values)
        else:
            self.say(f"{title}: done before, read back")
        self._note(title, values)
        return values

    def resumed(self, name, title, compute):
        """The result of a stage that keeps its own ``checkpoint(name)``: once done, ``compute`` returns at once.

        Parameters
        ----------
        name, title : str
        compute : callable
        """
        record = self._read(name)
        if record is None:
            self.say(f"{title} …")
        started = time.perf_counter()
        result = compute()
        if record is None:
            record = self._record(name, title, started, {})
        else:
            self.say(f"{title}: done before, read back")
        self._note(title, record)
        return result

    def _read(self, name):
        try:
            return parallel.load_checkpoint(self.folder / f"{name}.npz", key=self.key)
        except ValueError as error:
            raise ValueError(f"{self.folder} holds another tour: give another --out, or delete it ({error})") from error

    def _record(self, name, title, started, values):
        record = {"seconds": time.perf_counter() - started, "peak_memory_gb": peak_memory_gb()}
        parallel.save_checkpoint(self.folder / f"{name}.npz", values | record, key=self.key)
        self.say(f"{title}: {record['seconds']:.1f} s")
        return record

    def _note(self, title, record):
        self.seconds[title] = float(record["seconds"])
        self.peak_memory_gb = max(self.peak_memory_gb, float(record["peak_memory_gb"]))


def peak_memory_gb():
    """Largest resident memory of this process so far, in GB (10⁹ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
