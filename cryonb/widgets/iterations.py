"""A run of the Bayesian engine under the reader's eyes: while it goes on, and iteration by iteration afterwards."""

import numpy as np

from cryonb import plot

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
    result : Iteration, or None before the first
    monitor : callable
        Give it to ``bayes.refine(..., monitor=...)`` or ``classify_3d``: the panel then follows the run.

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
        self.view = picture(880)
        super().__init__([self.iteration], [self.view])

    def monitor(self, record, volumes):
        """Show an iteration that has just ended.

        Parameters
        ----------
        record : Iteration
        volumes : sequence of Volume
        """
        if record.number == 1:
            self.records, self.volumes = [], []  # a new run, or its next stage
        self.records.append(record)
        self.volumes.append([_section(volume) for volume in volumes])
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
        curves = np.atleast_2d(record.correlation)
        frequency = np.arange(curves.shape[1]) / (2 * (curves.shape[1] - 1) * self.pixel_size)
        axes = figure.add_subplot(grid[0, 1])
        for k, curve in enumerate(curves):
            share = f"class {k + 1}: {100 * record.occupancy[k]:.0f} %" if len(curves) > 1 else "half maps"
            plot.spectrum(frequency, curve, ax=axes, label=share)
        axes.set(yscale="linear", ylim=(-0.1, 1.05), ylabel="FSC", title=f"iteration {record.number}")
        axes.legend(fontsize=7)
        if sections is not None:
            below = figure.add_subplot(grid[1, :])
            titles = [f"volume {k + 1}" for k in range(len(sections))]
            plot.images(np.stack(sections), pixel_size=self.pixel_size, ax=below, titles=titles)


def _section(volume):
    return volume.data[volume.size_px // 2]
