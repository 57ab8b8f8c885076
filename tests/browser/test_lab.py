"""The notebooks as a reader meets them: run whole in JupyterLab, every slider moved, every picture looked at."""

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture
def page(lab, request):
    """A notebook of which every cell has run without an error."""
    opened = lab.open(request.param)
    lab.run_all(opened)
    yield opened
    lab.close(opened)


def on(notebook):
    return pytest.mark.parametrize("page", [notebook], indirect=True, ids=[notebook.removesuffix(".ipynb")])


def move_every_slider(lab, panel):
    """Press keys on each slider and wait for the pictures to change; gives the labels of the sliders."""
    before = lab.settled(lab.pictures(panel))
    labels = []
    for label, handle in lab.sliders(panel):
        key = "Home" if handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax") else "End"
        handle.focus()
        handle.press(key)
        before = lab.settled(lab.pictures(panel), changed_from=before)
        labels.append(label)
    return labels


def complaints(page):
    """What the console says, less what a fresh JupyterLab says without any notebook."""
    return [text for text in page.errors if "ydoc" not in text and "404" not in text]


@on("01_image_formation.ipynb")
def test_image_formation(lab, page):
    lens, image = lab.panels(page)
    assert move_every_slider(lab, lens) == [
        "defocus (µm)", "astigmatism (µm)", "axis of astigmatism (°)", "amplitude contrast", "voltage (kV)",
    ]  # fmt: skip
    assert lab.execute(page, "print(lens_panel.result.voltage_kv, lens_panel.defocus.value)") == "100.0 4.0"
    assert move_every_slider(lab, image) == ["rot (°)", "tilt (°)", "defocus (µm)", "signal-to-noise ratio"]
    assert lab.execute(page, "print(8 < image_panel.result.snr < 12)") == "True"
    assert not complaints(page)


@on("05_shadows_to_volume.ipynb")
def test_back_projection(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["number of shadows", "range of angles (°)"]
    assert lab.execute(page, "print(explorer.result.shape, len(explorer.angles))") == "(65, 65) 120"
    assert not complaints(page)
