"""Turn the width of the kernel of a diffusion map, and see what becomes of its coordinates."""

import ipywidgets
import numpy as np

from cryonb import plot
from cryonb.manifold import classic

from .panel import Panel, picture, slider

__all__ = ["KernelBandwidth"]


class KernelBandwidth(Panel):
    """The bandwidth of one view's kernel, beside the diffusion coordinates that it gives.

    Parameters
    ----------
    squared : ndarray (n, n)
        Squared distances, for instance of `manifold.classic.double_filtered_distances`.
    color : ndarray (n,), optional
        A value per image.
    label : str
        What ``color`` is, with its unit.

    Attributes
    ----------
    factor : FloatSlider
        Decadic logarithm of the bandwidth over the fitted one.
    fit : Bandwidth
    result : tuple (eigenvalues, coordinates, measure)
        Of `manifold.classic.dense_diffusion_map`.
    """

    def __init__(self, squared, *, color=None, label=""):
        self.squared, self.color, self.label = np.asarray(squared, dtype=float), color, label
        self.fit = classic.fit_bandwidth(self.squared)
        self.factor = slider("log₁₀ σ / fitted σ", 0.0, -1.0, 1.0, 0.1)
        self.curve, self.cloud = picture(385), picture(360)
        super().__init__([self.factor], [ipywidgets.HBox([self.curve, self.cloud])])

    def _refresh(self):
        sigma = self.fit.sigma * 10**self.factor.value
        self.result = classic.dense_diffusion_map(self.squared, sigma, 3)
        self.draw(self.curve, self._bandwidth, width=4.4, height=3.0)
        self.draw(self.cloud, self._coordinates, width=4.2, height=3.0)

    def _bandwidth(self, figure):
        plot.kernel_bandwidth(self.fit, sigma=self.fit.sigma * 10**self.factor.value, ax=figure.subplots())

    def _coordinates(self, figure):
        plot.view_coordinates(self.result[1], color=self.color, label=self.label, ax=figure.subplots())
