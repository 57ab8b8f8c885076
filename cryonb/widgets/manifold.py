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
        Over one coordinate or two.
    volumes : sequence of Volume
        Along that coordinate; over two, anywhere on the landscape, for instance along a path.
    positions : ndarray (m,) or (m, 2)
        Coordinate of each volume, increasing, or both coordinates.
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
    result : tuple (float, Volume), or (ndarray (2,), Volume)
        The coordinate that is shown, or both, and its volume.

    Raises
    ------
    ValueError
        Volumes, positions and averages that do not match in number, or positions of another number of coordinates.
    """

    def __init__(self, landscape, volumes, positions, *, averages=None, truth=None, level=None, pixel_size=None):
        self.landscape, self.volumes, self.positions = landscape, list(volumes), np.asarray(positions, dtype=float)
        n_axes = landscape.energy_kt.ndim
        expected = (len(self.volumes),) if n_axes == 1 else (len(self.volumes), n_axes)
        if self.positions.shape != expected:
            raise ValueError(
                f"expected a position for each of {len(self.volumes)} volumes, got shape {self.positions.shape} on a "
                f"landscape over {' and '.join(landscape.gauge)}"
            )
        if averages is not None and len(averages) != len(self.volumes):
            raise ValueError(f"expected an average for each of {len(self.volumes)} volumes, got {len(averages)}")
        self.averages, self.pixel_size = averages, pixel_size or self.volumes[0].voxel_size
        self._limits = None if averages is None else tuple(np.quantile(averages, [0.002, 0.998]))
        level = plot.default_level(self.volumes[0]) if level is None else level
        deepest = np.unravel_index(np.nanargmin(landscape.energy_kt), landscape.energy_kt.shape)
        start = self._nearest([centers[k] for centers, k in zip(landscape.centers, deepest)])
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
            if self.positions.ndim == 1:
                edges = self.landscape.edges[0]
                margin, top = 0.05 * (edges[-1] - edges[0]), np.nanmax(self.landscape.energy_kt)
                ax.set(xlim=(edges[0] - margin, edges[-1] + margin), ylim=(-0.5, top + 1.5))
            else:
                ax.plot(*self.positions.T, ".", ms=4, color="#D55E00")
            (marker,) = ax.plot([], [], "o", ms=9, color="#D55E00", zorder=5)
        return canvas, marker

    def _nearest(self, point):
        """Number of the volume nearest to a point of the landscape, both coordinates in parts of their range."""
        ranges = np.array([edge[-1] - edge[0] for edge in self.landscape.edges])
        away = (self.positions.reshape(len(self.positions), -1) - point) / ranges
        return int(np.argmin((away**2).sum(axis=1)))

    def _clicked(self, event):
        if event.xdata is not None:
            self.position.value = self._nearest([event.xdata, event.ydata][: self.landscape.energy_kt.ndim])

    def _refresh(self):
        index = self.position.value
        x = self.positions[index]
        self.result = (float(x) if x.ndim == 0 else x), self.volumes[index]
        energy = self._energy_at(x)
        says = "not observed" if np.isnan(energy) else f"free energy {energy:.1f} kT"
        where = ", ".join(f"{name}: <b>{value:.1f}</b>" for name, value in zip(self.landscape.gauge, np.atleast_1d(x)))
        self.caption.value = f"{where}, {says}"
        self._marker.set_data([[x], [energy]] if x.ndim == 0 else x[:, None])
        self.canvas.draw_idle()
        show_frame(self.ngl_view, index)
        if self.averages is not None:
            self.draw(self.average, self._average_figure, width=2.6, height=2.7)

    def _energy_at(self, x):
        centers, energy = self.landscape.centers, self.landscape.energy_kt
        if energy.ndim == 1:
            seen = np.isfinite(energy)
            return np.interp(x, centers[0][seen], energy[seen])
        return energy[tuple(int(np.argmin(np.abs(each - value))) for each, value in zip(centers, x))]

    def _average_figure(self, figure):
        plot.images(
            self.averages[self.position.value][None],
            pixel_size=self.pixel_size,
            ax=figure.subplots(),
            titles=["average of the particles here"],
            limits=self._limits,
        )
