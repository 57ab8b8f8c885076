"""Alignment under the reader's eyes: the average and the in-plane angles of the images, iteration by iteration."""

import numpy as np

from cryonb import plot

from .panel import Panel, picture, slider

__all__ = ["Responsibilities"]


class Responsibilities(Panel):
    """The average after each iteration, and how probable each in-plane angle of each image was.

    Parameters
    ----------
    averages : ndarray (m, d, d)
        After each iteration.
    weights : ndarray (m, n, a)
        Responsibilities in each iteration; a row sums to 1.
    angles : ndarray (a,)
        Degrees, increasing evenly.
    pixel_size : float
        Å.
    images : ndarray (n, d, d), optional
        One is shown beside the average.
    truth : ndarray (n,), optional
        True angles in degrees: images are shown in their order.

    Attributes
    ----------
    iteration : slider
        From 1.
    image : slider
        From 1, in the order of ``weights``.
    result : tuple (ndarray (d, d), ndarray (a,))
        The average of the iteration, and the responsibilities of the image in it.
    """

    def __init__(self, averages, weights, angles, *, pixel_size, images=None, truth=None):
        self.averages, self.weights, self.angles = np.asarray(averages), np.asarray(weights), np.asarray(angles)
        m, n, a = self.weights.shape
        wanted = {
            "averages": (self.averages, m),
            "angles": (self.angles, a),
            "images": (images, n),
            "truth": (truth, n),
        }
        for name, (values, length) in wanted.items():
            if values is not None and len(values) != length:
                raise ValueError(f"weights {self.weights.shape} go with {length} {name}, got {len(values)}")
        self.images, self.truth, self.pixel_size = images, truth, pixel_size
        self.iteration = slider("iteration", 1, 1, max(m, 2), 1)
        self.image = slider("image", 1, 1, max(n, 2), 1)
        self.view = picture(880)
        super().__init__([self.iteration, self.image], [self.view])

    def _refresh(self):
        step, row = (
            min(control.value, length) - 1
            for control, length in zip((self.iteration, self.image), self.weights.shape)
        )  # fmt: skip
        self.result = self.averages[step], self.weights[step, row]
        self.draw(self.view, lambda figure: self._figure(figure, step, row), width=9.2, height=3.1)

    def _figure(self, figure, step, row):
        left, middle, right = figure.subplots(1, 3, width_ratios=[0.8, 1, 1.2])
        shown = [self.averages[step]] + ([] if self.images is None else [self.images[row]])
        titles = ["average", f"image {row + 1}"][: len(shown)]
        plot.images(
            np.stack(shown), pixel_size=self.pixel_size, ax=left, titles=titles, columns=1, limits="each"
        )  # fmt: skip
        plot.responsibility(
            self.result[1], self.angles, truth=None if self.truth is None else self.truth[row], ax=middle
        )
        plot.responsibilities(self.weights[step], self.angles, truth=self.truth, ax=right)
        right.set_title(f"iteration {step + 1}")
