"""Turn the smoothness of a landscape and go through its states: which of them hang on λ?"""

import ipywidgets
import numpy as np

from cryonb import plot

from .ngl import density_scene, show_frame, view
from .panel import Panel, picture, slider

__all__ = ["LandscapeSmoothness"]


class LandscapeSmoothness(Panel):
    """The landscape of one λ beside the evidence of all, and the volume of a state along the coordinate.

    Parameters
    ----------
    scan : SmoothnessScan
        Of `manifold.scan_smoothness`.
    volumes : sequence of Volume
        Along the coordinate.
    positions : ndarray (m,)
        Coordinate of each volume, increasing.
    marginal : EnergyLandscape, optional
        Of all λ together (`manifold.deconvolve_landscape`), drawn beside the one of this λ.
    averages : ndarray (m, d, d), optional
        An observed image for each volume: a class average of the particles there.
    truth : EnergyLandscape, optional
    level : float, optional
        Density of the surface.

    Attributes
    ----------
    smoothness : IntSlider
        Which λ, from rough to smooth; starts at the most probable one.
    state : IntSlider
        Which volume, counted from 0; starts at the deepest well.
    ngl_view : NGLWidget
    result : tuple (EnergyLandscape, float, Volume)
        The landscape of this λ, the coordinate of the state, and its volume.
    """

    def __init__(self, scan, volumes, positions, *, marginal=None, averages=None, truth=None, level=None):
        self.scan, self.volumes, self.positions = scan, list(volumes), np.asarray(positions, dtype=float)
        if len(self.volumes) != len(self.positions):
            raise ValueError(f"expected a position for each of {len(self.volumes)} volumes, got {len(self.positions)}")
        if averages is not None and len(averages) != len(self.volumes):
            raise ValueError(f"expected an average for each of {len(self.volumes)} volumes, got {len(averages)}")
        self.marginal, self.averages, self.truth = marginal, averages, truth
        self._limits = None if averages is None else tuple(np.quantile(averages, [0.002, 0.998]))
        deepest = scan.landscapes[scan.best]
        start = int(np.argmin(np.abs(self.positions - deepest.centers[0][np.nanargmin(deepest.energy_kt)])))
        self.smoothness = slider("smoothness λ (step)", scan.best, 0, len(scan.smoothness) - 1, 1)
        self.state = slider("state", start, 0, len(self.volumes) - 1, 1)
        self.caption = ipywidgets.HTML()
        self.curve, self.energy, self.average = picture(345), picture(400), picture(250)
        level = plot.default_level(self.volumes[0]) if level is None else level
        self.ngl_view = view(density_scene(self.volumes, level=level, shown=start, size_px=(360, 320)))
        beneath = [self.ngl_view] if averages is None else [self.ngl_view, self.average]
        above = ipywidgets.HBox([self.curve, self.energy])
        super().__init__([self.smoothness, self.state], [self.caption, above, ipywidgets.HBox(beneath)])

    def _refresh(self):
        landscape, x = self.scan.landscapes[self.smoothness.value], float(self.positions[self.state.value])
        self.result = landscape, x, self.volumes[self.state.value]
        energy = self._energy_at(landscape, x)
        share = 100 * self.scan.weight[self.smoothness.value]
        self.caption.value = (
            f"{landscape.gauge[0]}: <b>{x:.1f}</b>, free energy {energy:.1f} kT at "
            f"λ = {self.scan.smoothness[self.smoothness.value]:.1e}, which has {share:.0f} % of the evidence"
        )
        self.draw(self.curve, self._draw_evidence, width=4.0, height=2.9)
        self.draw(self.energy, self._draw_landscape, width=4.8, height=2.9)
        show_frame(self.ngl_view, self.state.value)
        if self.averages is not None:
            self.draw(self.average, self._draw_average, width=2.6, height=2.7)

    @staticmethod
    def _energy_at(landscape, x):
        seen = np.isfinite(landscape.energy_kt)
        return float(np.interp(x, landscape.centers[0][seen], landscape.energy_kt[seen]))

    def _draw_evidence(self, figure):
        plot.smoothness_evidence(self.scan, shown=self.smoothness.value, ax=figure.subplots())

    def _draw_landscape(self, figure):
        landscape, x, _ = self.result
        ax = figure.subplots()
        plot.landscape(landscape, ax=ax, truth=self.truth, label="this λ")
        heights = [np.nanmax(landscape.energy_kt)]
        if self.marginal is not None:
            plot.landscape(self.marginal, ax=ax, band=False, label="all λ")
            heights.append(np.nanmax(self.marginal.energy_kt))
        ax.plot(x, self._energy_at(landscape, x), "o", ms=9, color="#D55E00", zorder=5)
        edges = landscape.edges[0]
        ax.set(xlim=(edges[0], edges[-1]), ylim=(-0.5, min(max(heights) + 1.5, 12.0)))

    def _draw_average(self, figure):
        chosen = self.averages[self.state.value][None]
        plot.images(
            chosen, pixel_size=self.volumes[0].voxel_size, ax=figure.subplots(), limits=self._limits,
            titles=["average of the particles here"],
        )  # fmt: skip
