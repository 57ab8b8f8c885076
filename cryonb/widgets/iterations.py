"""A run of the Bayesian engine under the reader's eyes: while it goes on, and iteration by iteration afterwards."""

import threading
import time
from pathlib import Path

import ipywidgets
import mrcfile
import numpy as np

from cryonb import bayes, io, plot

from .panel import Panel, picture, slider

__all__ = ["Iterations"]


class Iterations(Panel):
    """Resolution and certainty over the iterations; of one of them the FSC, the class shares and the volumes.

    Parameters
    ----------
    records : sequence of Iteration, optional
        Of a run that is over: ``refinement.iterations``.
    volumes : sequence of Volume, optional
        Its last volumes.
    pixel_size : float
        Å.

    Attributes
    ----------
    iteration : slider
        Number of the iteration that is shown.
    curves : menu
        FSC, SSNR, or noise and prior, shell by shell.
    result : Iteration, or None before the first
    monitor : callable
        Give it to ``bayes.refine(..., monitor=...)``, ``classify_3d``, ``classify_2d``: the panel then follows the run.

    Notes
    -----
    `Iterations.of_folder` shows what a command is writing or has written, every iteration with its volumes.

    Examples
    --------
    ::

        panel = widgets.Iterations(pixel_size=particles.pixel_size)
        display(panel)
        bayes.refine(particles, reference, rng=0, monitor=panel.monitor)
    """

    def __init__(self, records=(), *, pixel_size, volumes=None):
        self.records, self.pixel_size = list(records), pixel_size
        self.volumes = [None] * len(self.records)
        if self.records and volumes is not None:
            self.volumes[-1] = [_section(volume) for volume in volumes]
        n = max(len(self.records), 1)
        self.iteration = slider("iteration", n, 1, max(n, 2), 1)
        self.curves = ipywidgets.Dropdown(
            options=["FSC", "SSNR", "noise and prior"], description="curves", style={"description_width": "150px"}
        )
        self.view = picture(880)
        super().__init__([self.iteration, self.curves], [self.view])

    @classmethod
    def of_folder(cls, folder, *, every=None):
        """The run of a command, from its folder.

        Parameters
        ----------
        folder : path
            ``--out`` of ``python -m cryonb refine``, ``classify3d``, ``classify2d`` or ``initial-model``.
        every : float, optional
            Seconds after which the folder is looked at again, until the run has written its ``summary.json``. Without,
            call `update`.

        Returns
        -------
        Iterations
        """
        panel = cls(pixel_size=1.0)
        panel.folder = Path(folder)
        panel.update()
        if every is not None:
            threading.Thread(target=panel._follow, args=(float(every),), daemon=True).start()
        return panel

    def update(self):
        """Look at the folder again, and show an iteration that has come."""
        for record, files in bayes.read_iterations(self.folder)[len(self.records) :]:
            sections = []
            for file in files:
                if file.suffix == ".mrcs":
                    with mrcfile.mmap(file) as stack:
                        self.pixel_size = float(stack.voxel_size.x)
                        sections += list(np.array(stack.data))
                else:
                    volume = io.read_volume(file)
                    self.pixel_size = volume.voxel_size
                    sections.append(_section(volume))
            self._add(record, sections)

    def _follow(self, every):
        while not (self.folder / "summary.json").exists():
            time.sleep(every)
            self.update()

    def monitor(self, record, volumes):
        """Show an iteration that has just ended.

        Parameters
        ----------
        record : Iteration
        volumes : sequence of Volume
        """
        if self.records and record.number <= self.records[-1].number:
            self.records, self.volumes = [], []  # a new run, or its next stage
        self._add(record, [_section(volume) for volume in volumes])

    def _add(self, record, sections):
        self.records.append(record)
        self.volumes.append(sections)
        self.iteration.max = max(len(self.records), 2)
        if self.iteration.value == len(self.records):
            self._refresh()
        self.iteration.value = len(self.records)

    def _refresh(self):
        self.result = self.records[min(self.iteration.value, len(self.records)) - 1] if self.records else None
        self.draw(self.view, self._figure, width=9.2, height=5.2 if self._sections() is not None else 2.9)

    def _sections(self):
        """Central sections of the volumes of the iteration shown, or None."""
        return self.volumes[min(self.iteration.value, len(self.records)) - 1] if self.records else None

    def _figure(self, figure):
        if self.result is None:
            figure.subplots().set_axis_off()
            figure.text(0.5, 0.5, "waiting for the first iteration …", ha="center", color="#666666")
            return
        sections, record = self._sections(), self.result
        grid = figure.add_gridspec(1 if sections is None else 2, 2, width_ratios=[1.35, 1])
        history = plot.iterations(self.records, ax=figure.add_subplot(grid[0, 0]))
        history.axvline(record.number, color="#222222", lw=0.8, ls=":")
        title = f"iteration {record.number}: {record.step:.3g}°, entropy {record.entropy:.1f}, {record.seconds:.0f} s"
        if self.curves.value == "noise and prior":
            axes = plot.shell_spectra(record, pixel_size=self.pixel_size, ax=figure.add_subplot(grid[0, 1]))
            axes.set_title(title)
        else:
            self._draw_curves(record, figure.add_subplot(grid[0, 1]), title)
        if sections is not None:
            below = figure.add_subplot(grid[1, :])
            titles = [f"volume {k + 1}" for k in range(len(sections))]
            plot.images(np.stack(sections), pixel_size=self.pixel_size, ax=below, titles=titles)

    def _draw_curves(self, record, axes, title):
        signal = self.curves.value == "SSNR"
        curves = record.ssnr if signal else np.atleast_2d(record.correlation)
        frequency = np.arange(curves.shape[1]) / (2 * (curves.shape[1] - 1) * self.pixel_size)
        for k, curve in enumerate(curves):
            share = f"class {k + 1}: {100 * record.occupancy[k]:.0f} %" if len(curves) > 1 else "half maps"
            plot.spectrum(frequency, curve, ax=axes, label=share)
        if signal:
            axes.set(yscale="log", ylabel="SSNR", title=title)
        else:
            axes.set(yscale="linear", ylim=(-0.1, 1.05), ylabel="FSC", title=title)
        axes.legend(fontsize=7)


def _section(volume):
    """Of a volume its middle; an average is one already."""
    if isinstance(volume, np.ndarray):
        return volume
    return volume.data[volume.size_px // 2]
