"""The picking widget without a browser, and its pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from cryonb import picking, plot
from cryonb.types import Micrograph
from cryonb.widgets import PickingView

PLACES = [(60, 60), (150, 100), (230, 180), (70, 190)]


@pytest.fixture(scope="module")
def micrograph():
    y, x = np.mgrid[:240, :300]
    data = np.random.default_rng(0).normal(size=(240, 300))
    for px, py in PLACES:
        data -= 4 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / 50)
    return Micrograph(data, 5.0)


def test_the_view_returns_what_the_picker_returns(micrograph):
    view = PickingView(micrograph, 100.0)
    expected = picking.ClickPicker(100.0).pick(micrograph, threshold=0.0)
    np.testing.assert_allclose(view.result.centres, expected.centres)
    view.threshold.value = 1.0
    np.testing.assert_allclose(view.result.centres, picking.ClickPicker(100.0).pick(micrograph, threshold=1.0).centres)
    view.click(60, 60, True)
    view.click(20, 120, False)
    assert view.picker.n_clicks == 2 and "2 clicks" in view.caption.value
    view.size.value = 110.0
    assert view.result.diameter == 110.0 and view.picker.n_clicks == 2
    view.forget()
    assert view.clicks == []
    with pytest.raises(ValueError, match="outside"):
        view.click(5000, 3, True)


def test_a_mouse_click_and_the_wheel_arrive(micrograph):
    view = PickingView(micrograph, 100.0)
    event = type("Event", (), {"inaxes": view.axes, "button": 3, "xdata": 33.0, "ydata": 44.0})()
    view._on_click(event)
    assert view.clicks == [(33.0, 44.0, False)]
    before = np.ptp(view.axes.get_xlim())
    event.button = "up"
    view._on_scroll(event)
    assert np.ptp(view.axes.get_xlim()) == pytest.approx(0.8 * before)
    view.click(60, 60, True)
    assert np.ptp(view.axes.get_xlim()) == pytest.approx(0.8 * before)


def test_pictures_show_right_and_wrong(micrograph):
    found = picking.pick_blobs(micrograph, 100.0, threshold=2)
    score = picking.score_picks(found, PLACES)
    ax = plot.picks(micrograph, found, score=score)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        f"right: {score.hit.sum()}", f"wrong: {(~score.hit).sum()}",
    ]  # fmt: skip
    assert plot.picks(micrograph, found).get_title(loc="left") + ax.get_title() == f"{len(found)} picks"
    ax = plot.precision_recall({"blobs": score})
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("recall", "precision")
    np.testing.assert_allclose(ax.lines[0].get_xdata(), score.curve[:, 1])
    plt.close("all")
