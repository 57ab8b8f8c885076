"""Walk through an energy landscape: click on it, or slide along the path, and see the molecule there."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from cryonb import plot

from .canvas import clickable_canvas
from .ngl import density_scene, show_frame, view
from .panel import Panel, picture, slider

__all__ = ["LandscapeExplorer"]


class LandscapeExplorer(Panel):
    """A landscape to click on, the volume at that point, and the average of the particles that are there.

    Parameters
    ----------
    landscape : EnergyLandscape
        Over one coordinate.
    volumes : sequence of Volume
        Along that coordinate.
    positions : ndarray (m,)
        Coordinate of each volume, increasing.
    averages : ndarray (m, d, d), optional
        An observed image for each volume: a class average of the particles there.
    truth : EnergyLandscape or ndarray, optional
        Drawn beside the estimate.
    level : float, optional
        Density of the surface.
    pixel_size : float, optional
        Å, of the averages; the volumes' by default.

    Attributes
    ----------
    position : IntSlider
        Which volume, counted from 0.
    canvas : ipympl canvas
        Of the landscape; a click moves the slider to the nearest volume.
    ngl_view : NGLWidget
    result : tuple (float, Volume)
        The coordinate that is shown, and its volume.
    """

    def __init__(self, landscape, volumes, positions, *, averages=None, truth=None, level=None, pixel_size=None):
        self.landscape, self.volumes, self.positions = landscape, list(volumes), np.asarray(positions, dtype=float)
        if len(self.volumes) != len(self.positions):
            raise ValueError(f"expected a position for each of {len(self.volumes)} volumes, got {len(self.positions)}")
        if averages is not None and len(averages) != len(self.volumes):
            raise ValueError(f"expected an average for each of {len(self.volumes)} volumes, got {len(averages)}")
        self.averages, self.pixel_size = averages, pixel_size or self.volumes[0].voxel_size
        self._limits = None if averages is None else tuple(np.quantile(averages, [0.002, 0.998]))
        level = plot.default_level(self.volumes[0]) if level is None else level
        start = int(np.argmin(np.abs(self.positions - landscape.centers[0][np.nanargmin(landscape.energy_kt)])))
        self.position = slider("step of the path", start, 0, len(self.volumes) - 1, 1)
        self.caption = ipywidgets.HTML()
        self.scene = density_scene(self.volumes, level=level, shown=start, size_px=(360, 320))
        self.ngl_view = view(self.scene)
        self.average = picture(250)
        self.canvas, self._marker = self._landscape_canvas(truth)
        beneath = [self.ngl_view] if averages is None else [self.ngl_view, self.average]
        super().__init__([self.position], [self.caption, self.canvas, ipywidgets.HBox(beneath)])

    def _landscape_canvas(self, truth):
        with plt.style.context(plot.STYLE):
            figure = Figure(figsize=(6.2, 2.9))
            canvas = clickable_canvas(figure, self._clicked)
            ax = figure.subplots()
            plot.landscape(self.landscape, ax=ax, truth=truth)
            edges = self.landscape.edges[0]
            margin = 0.05 * (edges[-1] - edges[0])
            ax.set(xlim=(edges[0] - margin, edges[-1] + margin), ylim=(-0.5, np.nanmax(self.landscape.energy_kt) + 1.5))
            (marker,) = ax.plot([], [], "o", ms=9, color="#D55E00", zorder=5)
        return canvas, marker

    def _clicked(self, event):
        if event.xdata is not None:
            self.position.value = int(np.argmin(np.abs(self.positions - event.xdata)))

    def _refresh(self):
        index = self.position.value
        x = float(self.positions[index])
        self.result = x, self.volumes[index]
        (centers,) = self.landscape.centers
        seen = np.isfinite(self.landscape.energy_kt)
        energy = np.interp(x, centers[seen], self.landscape.energy_kt[seen])
        self.caption.value = f"{self.landscape.gauge[0]}: <b>{x:.1f}</b>, free energy {energy:.1f} kT"
        self._marker.set_data([x], [energy])
        self.canvas.draw_idle()
        show_frame(self.ngl_view, index)
        if self.averages is not None:
            self.draw(self.average, self._average_figure, width=2.6, height=2.7)

    def _average_figure(self, figure):
        plot.images(
            self.averages[self.position.value][None],
            pixel_size=self.pixel_size,
            ax=figure.subplots(),
            titles=["average of the particles here"],
            limits=self._limits,
        )
