"""Files of a run: what RELION writes after each iteration, so that its users find their way."""

import json
import os
from dataclasses import replace

import numpy as np
import pandas as pd

from .. import io
from ..bayes.contrast import GROUP_COLUMNS, scale_groups
from ..bayes.maximisation import last_shell_above
from ..io.formats import replacing
from ..io.star import number_text

__all__ = ["Run", "summary_text"]


class Run:
    """A folder of results, filled iteration by iteration; made with its first file.

    Parameters
    ----------
    folder : Path
    particles : Particles
        What is analysed.
    gold_standard : bool
        Whether the halves are independent, so that their FSC may be called gold standard.

    Notes
    -----
    ``run_it003_model.star`` and ``run_it003_class001.mrc`` after each iteration (of a gold-standard run
    ``run_it003_half1_…`` and ``run_it003_half2_…``); ``run_data.star``, ``run_model.star``
    and the maps at the end; ``summary.json``. σ² is written in RELION's scale: of a transform divided by the
    number of pixels.
    """

    def __init__(self, folder, particles, *, gold_standard=True):
        self.folder, self.particles, self.gold_standard = folder, particles, gold_standard
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise OSError(f"cannot write results to {folder}: {there} is not a folder that can be written to")

    @property
    def checkpoint(self):
        """Where the run resumes from."""
        return self.folder / "run_checkpoint.npz"

    def monitor(self, record, volumes):
        """Write one iteration: the `monitor` of an engine's question."""
        name = f"run_it{record.number:03d}"
        if not self.gold_standard:
            self.write_model(name, record, volumes)
            return
        for half, volume in enumerate(volumes, 1):
            self.write_model(f"{name}_half{half}", record, [volume])

    def monitor_consensus(self, record, halves):
        """Write one iteration of the refinement that a classification without poses starts with."""
        for half, volume in enumerate(halves, 1):
            self.write_model(f"consensus_it{record.number:03d}_half{half}", record, [volume])

    def monitor_averages(self, record, averages):
        """Write one iteration of a 2D classification, averages (K, d, d)."""
        self.write_averages(f"run_it{record.number:03d}", record, averages)

    def write_averages(self, name, record, averages):
        """Averages of the classes (K, d, d), and the STAR file of what the iteration assumed."""
        io.write_stack(averages, self.folder / f"{name}_classes.mrcs", self.particles.pixel_size)
        references = [f"{k + 1:06d}@{name}_classes.mrcs" for k in range(len(averages))]
        io.write_star(self._model_tables(record, references, ndim=2), self.folder / f"{name}_model.star")

    def write_model(self, name, record, volumes, *, scale=None):
        """Volumes of the classes, and the STAR file of what the iteration assumed.

        Parameters
        ----------
        name : str
            Such as ``run_it003``.
        record : bayes.Iteration
        volumes : sequence of Volume
        scale : ndarray (n,), optional
            Of each particle's group, for the table of groups.
        """
        references = [f"{name}_class{k + 1:03d}.mrc" for k in range(len(volumes))]
        for file, volume in zip(references, volumes):
            io.write_volume(volume, self.folder / file)
        tables = self._model_tables(record, references)
        if scale is not None:
            _, first, count = np.unique(scale_groups(self.particles), return_index=True, return_counts=True)
            number = np.array(self.group_numbers)[first]
            names = [self.group_names[place] for place in first]
            tables["model_groups"] = _table(
                {"rlnGroupNumber": number, "rlnGroupName": names, "rlnGroupNrParticles": count,
                 "rlnGroupScaleCorrection": scale[first]}
            )  # fmt: skip
        io.write_star(tables, self.folder / f"{name}_model.star")

    @property
    def group_numbers(self):
        """Of each particle's scale group, as text: the file's own, or counted from 1."""
        metadata = self.particles.metadata
        if metadata is not None and "rlnGroupNumber" in metadata:
            return metadata["rlnGroupNumber"].astype(str).to_list()
        return [str(group + 1) for group in scale_groups(self.particles)]

    @property
    def group_names(self):
        """Of each particle's scale group: what the file calls it."""
        metadata = self.particles.metadata
        for column in GROUP_COLUMNS:
            if metadata is not None and column in metadata:
                return metadata[column].astype(str).to_list()
        return [f"optics_{group + 1}" for group in self.particles.optics_group]

    def _model_tables(self, record, references, *, ndim=3):
        size_px, pixel = self.particles.size_px, self.particles.pixel_size
        shells = np.arange(size_px // 2 + 1)
        frequency = shells / (size_px * pixel)
        angstrom = np.divide(1.0, frequency, out=np.full(len(shells), 999.0), where=shells > 0)
        general = {
            "rlnReferenceDimensionality": ndim, "rlnDataDimensionality": 2, "rlnOriginalImageSize": size_px,
            "rlnCurrentResolution": record.resolution, "rlnCurrentImageSize": 2 * record.max_shell,
            "rlnPaddingFactor": 2, "rlnPixelSize": pixel, "rlnNrClasses": len(references),
            "rlnSigmaOffsetsAngst": record.sigma_offset, "rlnAveragePmax": record.pmax,
            "rlnPsiStep": record.step, "cryonbEntropy": record.entropy, "cryonbSeconds": record.seconds,
            "cryonbParticles": record.n_particles, "cryonbLocal": int(record.local),
            "rlnChangesOptimalOrientations": record.angular_change, "rlnChangesOptimalClasses": record.class_change,
        }  # fmt: skip
        correlation = np.atleast_2d(record.correlation)
        occupancy = np.resize(record.occupancy, len(references))
        tables = {
            "model_general": _row(general),
            "model_classes": _table(
                {
                    "rlnReferenceImage": references,
                    "rlnClassDistribution": occupancy / occupancy.sum(),
                    "rlnEstimatedResolution": [self._resolution(correlation, k) for k in range(len(references))],
                }
            ),
        }
        to_relion = 1.0 / size_px**4
        for k in range(len(references)):
            fsc = correlation[min(k, len(correlation) - 1)]
            prior = np.atleast_2d(record.prior)
            columns = {
                "rlnSpectralIndex": shells, "rlnResolution": frequency, "rlnAngstromResolution": angstrom,
                "rlnSsnrMap": record.ssnr[min(k, len(correlation) - 1)],
                "cryonbFsc": fsc, "cryonbPrior": prior[min(k, len(prior) - 1)],
            }  # fmt: skip
            gold = {"rlnGoldStandardFsc": fsc, "rlnReferenceTau2": record.prior[0]} if self.gold_standard else {}
            tables[f"model_class_{k + 1}"] = _table(columns | gold)
        for group, noise in enumerate(record.noise):
            tables[f"model_group_{group + 1}"] = _table(
                {"rlnSpectralIndex": shells, "rlnResolution": frequency, "rlnSigma2Noise": noise * to_relion}
            )
        return tables

    def _resolution(self, correlation, k):
        """Å at which the halves of class k last agree by 0.143."""
        shell = last_shell_above(correlation[min(k, len(correlation) - 1)], 0.143)
        return self.particles.box_size / max(shell, 1)

    def write_particles(self, *, poses, pmax, half=None, label=None, norm=None):
        """``run_data.star``: all columns that came, with what was found.

        Parameters
        ----------
        poses : Poses
        pmax : ndarray (n,)
        half : ndarray (n,) int, optional
        label : ndarray (n,) int, optional
            Class from 0; all in the first by default.
        norm : ndarray (n,), optional
            Factor on each image.
        """
        metadata = pd.DataFrame(index=range(len(poses)))
        if self.particles.metadata is not None:
            metadata = self.particles.metadata.copy()
        label = np.zeros(len(poses), dtype=int) if label is None else label
        metadata["rlnClassNumber"] = (label + 1).astype(str)
        if half is not None:
            metadata["rlnRandomSubset"] = (half + 1).astype(str)
        if norm is not None:  # where norms are fitted, so are the scales of groups
            metadata["rlnNormCorrection"] = number_text(norm)
            metadata["rlnGroupNumber"] = self.group_numbers
        metadata["rlnMaxValueProbDistribution"] = number_text(pmax)
        io.write_particles(replace(self.particles, poses=poses, metadata=metadata), self.folder / "run_data.star")

    def write_summary(self, numbers):
        """``summary.json``."""
        with replacing(self.folder / "summary.json") as beside:
            beside.write_text(summary_text(numbers), encoding="utf-8")


def summary_text(numbers):
    """The summary as JSON text; what is not finite becomes null.

    Parameters
    ----------
    numbers : dict
    """
    plain = {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in numbers.items()
    }
    return json.dumps(plain, indent=2) + "\n"


def _row(values):
    return pd.DataFrame([{name: _text(value) for name, value in values.items()}])


def _table(columns):
    return pd.DataFrame({name: [_text(value) for value in column] for name, column in columns.items()})


def _text(value):
    if isinstance(value, (str, int, np.integer)):
        return str(value)
    return f"{value:.6f}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.6e}"
