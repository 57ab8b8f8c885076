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


@on("02_what_the_microscope_does.ipynb")
def test_what_the_microscope_does(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == [
        "defocus (µm)", "astigmatism (µm)", "axis of astigmatism (°)", "amplitude contrast", "voltage (kV)",
    ]  # fmt: skip
    assert lab.execute(page, "print(explorer.result.defocus_u)") == "45000.0"
    assert not complaints(page)


@on("03_at_what_defocus.ipynb")
def test_at_what_defocus(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["defocus (µm)", "astigmatism (µm)", "axis of astigmatism (°)"]
    assert lab.execute(page, "print(panel.result.ctf.defocus_u, panel.result.ctf.defocus_angle)") == "42000.0 180.0"
    assert not complaints(page)


@on("04_where_are_the_particles.ipynb")
def test_where_are_the_particles(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["diameter (Å)", "threshold (log odds)"]
    assert lab.execute(page, "print(view.size.value, view.threshold.value, len(view.result))").startswith("600.0 5.0 ")
    assert not complaints(page)


@on("06_chicken_and_egg.ipynb")
def test_chicken_and_egg(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["iteration", "image"]
    assert lab.execute(page, "print(explorer.iteration.value, explorer.image.value)") == "15 300"
    assert lab.execute(page, "print(np.array_equal(explorer.result[1], by_angle[key][14][299]))") == "True"
    assert not complaints(page)


@on("07_two_d_classes.ipynb")
def test_two_d_classes(lab, page):
    (panel,) = lab.panels(page)
    lab.pictures(panel)
    assert lab.execute(page, "print(chooser.boxes[1].value, len(chooser.chosen))") == "False 4"
    panel.locator(".widget-checkbox", has_text="class 2").locator("input").click()
    page.wait_for_function("() => document.querySelector('.cryonb-panel').innerText.includes('5 classes')")
    assert lab.execute(page, "print(chooser.boxes[1].value, len(chooser.chosen))") == "True 5"
    assert not complaints(page)


@on("08_start_from_nothing.ipynb")
def test_start_from_nothing(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["iteration"]
    assert lab.execute(page, "print(explorer.result is model.iterations[0])") == "True"
    assert not complaints(page)


@on("09_what_does_bayes_buy.ipynb")
def test_what_bayes_buys(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["iteration"]
    assert lab.execute(page, "print(explorer.result is found.iterations[0])") == "True"
    assert not complaints(page)


@on("10_a_minority.ipynb")
def test_a_minority(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["iteration"]
    assert lab.execute(page, "print(explorer.result is result.iterations[0])") == "True"
    assert not complaints(page)


@on("12_how_does_the_ribosome_move.ipynb")
def test_how_the_ribosome_moves(lab, page):
    panel, movie = lab.panels(page)
    pictures = lab.pictures(panel)
    kind = "e => e.tagName + (e.closest('.jupyter-matplotlib') ? ' of the landscape' : '')"
    kinds = [picture.evaluate(kind) for picture in pictures]
    # ipympl lays one canvas over another to draw on and to catch the mouse; nglview's is the plain one
    assert sorted(kinds) == ["CANVAS", "CANVAS of the landscape", "CANVAS of the landscape", "IMG"]
    nglview = pictures[kinds.index("CANVAS")]
    before = lab.settled([nglview])
    assert move_every_slider(lab, panel) == ["step of the path"]
    lab.settled([nglview], changed_from=before)  # another molecule, not only another caption
    assert lab.execute(page, "print(explorer.result[1] is volumes[-1])") == "True"

    last = lab.settled(pictures)
    box = pictures[kinds.index("CANVAS of the landscape")].bounding_box()
    page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + 0.5 * box["height"])
    lab.settled(pictures, changed_from=last)
    assert lab.execute(page, "print(explorer.position.value < 11)") == "True"
    assert move_every_slider(lab, movie) == ["frame"]
    assert lab.execute(page, "print(movie.result[0] == movie.sequence.positions.ravel()[-1])") == "True"
    assert not complaints(page)


@on("12b_one_view_at_a_time.ipynb")
def test_one_view_at_a_time(lab, page):
    (panel,) = lab.panels(page)
    assert move_every_slider(lab, panel) == ["log₁₀ σ / fitted σ"]
    wide = "classic.dense_diffusion_map(squared, 10 * fit.sigma, 3)[1]"
    assert lab.execute(page, f"print(np.array_equal(kernel_panel.result[1], {wide}))") == "True"
    assert not complaints(page)


@on("12c_two_conditions.ipynb")
def test_two_conditions(lab, page):
    (panel,) = lab.panels(page)
    pictures = lab.pictures(panel)
    kinds = [picture.evaluate("e => e.tagName") for picture in pictures]
    assert sorted(kinds) == ["CANVAS", "IMG", "IMG", "IMG"]  # nglview; evidence, landscape, average
    nglview = [pictures[kinds.index("CANVAS")]]
    before = lab.settled(nglview)
    assert move_every_slider(lab, panel) == ["smoothness λ (step)", "state"]
    lab.settled(nglview, changed_from=before)  # another molecule, not only another caption
    assert lab.execute(page, "print(turner.result[0] is scan.landscapes[-1], turner.result[2] is volumes[-1])") == (
        "True True"
    )
    assert not complaints(page)


@on("12d_two_motions.ipynb")
def test_two_motions(lab, page):
    (panel,) = lab.panels(page)
    pictures = lab.pictures(panel)
    kind = "e => e.tagName + (e.closest('.jupyter-matplotlib') ? ' of the landscape' : '')"
    kinds = [picture.evaluate(kind) for picture in pictures]
    assert sorted(kinds) == ["CANVAS", "CANVAS of the landscape", "CANVAS of the landscape"]
    before = lab.settled([pictures[kinds.index("CANVAS")]])
    assert move_every_slider(lab, panel) == ["step of the path"]
    lab.settled([pictures[kinds.index("CANVAS")]], changed_from=before)
    last = lab.settled(pictures)
    box = pictures[kinds.index("CANVAS of the landscape")].bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.6 * box["height"])
    lab.settled(pictures, changed_from=last)
    assert lab.execute(page, "print(explorer.position.value < 8, explorer.result[0].shape)") == "True (2,)"
    assert not complaints(page)


@on("13_where_do_the_atoms_go.ipynb")
def test_where_the_atoms_go(lab, page):
    ensemble, residues = lab.panels(page)
    kind = "e => e.tagName + (e.closest('.jupyter-matplotlib') ? ' to click on' : '')"
    for panel, canvases in ((ensemble, 1), (residues, 2)):
        kinds = [picture.evaluate(kind) for picture in lab.pictures(panel)]
        assert sorted(kinds) == ["CANVAS"] + 2 * canvases * ["CANVAS to click on"]
        nglview = [lab.pictures(panel)[kinds.index("CANVAS")]]
        before = lab.settled(nglview)
        assert move_every_slider(lab, panel) == ["residue, from the first", "level (σ)"]
        lab.settled(nglview, changed_from=before)  # other atoms, not only another caption
    assert lab.execute(page, "print(ensemble.result[0], explorer.result[0], explorer.level.value)") == "A 84 A 84 8.0"

    pictures = lab.pictures(residues)
    strip, _, torsions, *_ = [p for p in pictures if p.evaluate(kind) != "CANVAS"]
    last = lab.settled(pictures)
    box = strip.bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    last = lab.settled(pictures, changed_from=last)
    assert lab.execute(page, "print(25 < explorer.residue.value < 60)") == "True"
    residues.locator("select").select_option("after")
    last = lab.settled(pictures, changed_from=last)
    phi, psi = map(float, lab.execute(page, "print(*explorer._scores[1].torsions[9, :2])").split())
    place = (
        "f = explorer.torsions.figure; x, y = f.axes[0].transData.transform((%f, %f)) / f.bbox.size; print(x, 1 - y)"
    )
    x, y = map(float, lab.execute(page, place % (phi, psi)).split())
    box = torsions.bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    lab.settled(pictures, changed_from=last)
    near = "a = explorer._scores[1].torsions[explorer.residue.value - 1, :2]; print(abs(a - [%f, %f]).max() < 25)"
    assert lab.execute(page, near % (phi, psi)) == "True"
    assert not complaints(page)


def test_panels_are_drawn_every_time_they_are_opened(lab):
    """One good run proves little: a viewer that is built before it is on the page gets a canvas of 1 × 1 pixels."""
    page = lab.open("panels.ipynb")
    for _ in range(2):
        lab.run_all(page)
        movie, explorer, turned, played = lab.panels(page)
        lab.settled(lab.pictures(movie))
        assert move_every_slider(lab, movie) == ["frame"]
    assert lab.execute(page, "print(movie.result is frames[2])") == "True"
    assert move_every_slider(lab, explorer) == ["number of shadows", "range of angles (°)"]
    assert lab.execute(page, "print(explorer.result.shape, len(explorer.angles))") == "(32, 32) 120"
    assert move_every_slider(lab, turned) == ["smoothness λ (step)", "state"]
    wanted = "scan.landscapes[-1] is turned.result[0], turned.result[1], turned.result[2] is frames[2]"
    assert lab.execute(page, f"print({wanted})") == "True 60.0 True"
    assert move_every_slider(lab, played) == ["frame"]
    assert lab.execute(page, "print(played.frame.value, played.result[1] is played.volumes[-1])") == "15 True"
    button = played.locator("button").first  # plays, from the last frame from the start, and pauses
    button.click()
    page.wait_for_timeout(1500)
    button.click()
    lab.settled(lab.pictures(played))
    assert lab.execute(page, "print(0 < played.frame.value < 15)") == "True"
    assert not complaints(page)
    lab.close(page)
