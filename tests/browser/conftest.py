"""JupyterLab in headless Chromium: one server and one browser for all tests of this folder."""

import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import nbformat
import numpy as np
import pytest
from PIL import Image

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    # otherwise outputs that are scrolled out of sight are taken off the page
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
KERNEL = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
REAL_SIZE_PX = 50
DRAWN = 0.005  # a picture has ink on more than this fraction of its pixels


def chromium():
    """The browser's path, or None."""
    named = os.environ.get("CHROMIUM")
    return named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def lab(tmp_path_factory, root):
    """A `Lab` on a copy of the notebooks without their outputs, with settings and directories of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[test]'")
    browser = chromium()
    if browser is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium), so no notebook is seen in a browser")
    folder = tmp_path_factory.mktemp("lab")
    _copy_notebooks(root, folder / "root")
    server, url, token = _start_server(folder)
    try:
        with playwright.sync_playwright() as player:
            context = player.chromium.launch_persistent_context(
                tempfile.mkdtemp(dir=folder), executable_path=browser, headless=True, args=FLAGS,
                viewport={"width": 1200, "height": 1100},
            )  # fmt: skip
            yield Lab(context, url, token)
            context.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(15)


PANELS = [
    "import numpy as np\nfrom cryonb import manifold, samples, widgets",
    "frames = [samples.rotor().volume(32, 6.0, angle=degrees) for degrees in (0, 60, 120)]\n"
    "movie = widgets.DensityMovie(frames, level=0.25 * float(frames[0].data.max()))\nmovie",
    "explorer = widgets.BackProjection(frames[0].data.sum(axis=0), pixel_size=6.0)\nexplorer",
    "edges, rng = np.linspace(-90, 90, 31), np.random.default_rng(0)\n"
    "seen = rng.choice([-40, 40], 400, p=[0.7, 0.3]) + 25 * rng.standard_normal(400)\n"
    "scan = manifold.scan_smoothness(-0.5 * ((seen[:, None] - (edges[1:] + edges[:-1]) / 2) / 20) ** 2, edges)\n"
    "averages = np.array([frame.data.sum(axis=0) for frame in frames])\n"
    "turned = widgets.LandscapeSmoothness(scan, frames, [-60, 0, 60], averages=averages)\nturned",
    "from types import SimpleNamespace\n"
    "found = SimpleNamespace(landscape=scan.landscapes[scan.best], nodes=np.array([-60.0, 0.0, 60.0]),\n"
    "                        volumes=frames, effective_particles=np.array([90.0, 20.0, 60.0]))\n"
    "played = widgets.LandscapeMovie(found)\nplayed",
]
"""Cells of a notebook with the widgets that no whole-run notebook has."""


def _copy_notebooks(root, target):
    target.mkdir()
    small = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in PANELS])
    small.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(small, target / "panels.ipynb")
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, target / path.name)


def _start_server(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    settings = folder / "settings"
    settings.mkdir()
    (settings / "overrides.json").write_text(json.dumps(SETTINGS))
    own = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "user-settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython",
    }  # fmt: skip
    environment = dict(os.environ, **{name: str(folder / place) for name, place in own.items()})
    log = (folder / "server.log").open("w")
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'root'}",
        "--LabApp.expose_app_in_browser=True", f"--LabServerApp.app_settings_dir={settings}",
    ]  # fmt: skip
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"JupyterLab did not start: {(folder / 'server.log').read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{url}/api?token={token}", timeout=2)
            return server, url, token
        except OSError:
            time.sleep(0.1)


class Lab:
    """What a reader does in JupyterLab: open a notebook, run it, move a slider, look."""

    def __init__(self, context, url, token):
        self.context, self.url, self.token = context, url, token

    def open(self, name):
        """The page of a notebook whose kernel is idle; ``page.errors`` collects what the console complains about."""
        page = self.context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.goto(f"{self.url}/lab/tree/{name}?token={self.token}&reset")
        page.wait_for_selector(".jp-NotebookPanel .jp-Notebook", timeout=90_000)
        page.wait_for_function(
            "async () => {const w = window.jupyterapp?.shell.currentWidget; if (!w?.sessionContext) return false;"
            "await w.context.ready; await w.sessionContext.ready;"
            "return w.sessionContext.session?.kernel?.status === 'idle'}",
            timeout=60_000,
        )
        return page

    def run_all(self, page):
        """Run every cell; fails with the traceback of a cell that raises."""
        ran = page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        traceback = page.locator("[data-mime-type='application/vnd.jupyter.stderr']")
        assert ran, f"a cell raised: {traceback.last.inner_text() if traceback.count() else 'see the server'}"

    def execute(self, page, code):
        """What a line of code prints in the notebook's kernel."""
        return page.evaluate(
            "async code => {const future = " + KERNEL + ".requestExecute({code}); let out = '';"
            "future.onIOPub = m => {out += m.content.text ?? m.content.evalue ?? ''}; await future.done; return out}",
            code,
        ).strip()

    def panels(self, page):
        """The cryonb widgets of the page."""
        return page.locator(".cryonb-panel").all()

    def sliders(self, panel):
        """(label, handle) of every slider that a reader can see; nglview hides some of its own."""
        found = []
        for one in panel.locator(".widget-slider").all():
            label = one.locator(".widget-label").first
            if one.is_visible() and label.count() and label.inner_text():
                found.append((label.inner_text(), one.locator(".noUi-handle").first))
        return found

    def pictures(self, panel, timeout=40):
        """Every canvas and image of a panel, each of real size and with something drawn on it.

        Tiny canvases are not left out: a canvas of 1 × 1 is a viewer that was built before it was on the page.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = panel.locator("canvas, img").all()
            boxes = [one.bounding_box() for one in found]
            natural = [
                one.evaluate("e => Math.min(e.naturalWidth ?? e.width, e.naturalHeight ?? e.height)") for one in found
            ]
            real = [
                box is not None and min(box["width"], box["height"], size) > REAL_SIZE_PX
                for box, size in zip(boxes, natural, strict=True)
            ]
            inks = [ink(one.screenshot()) if good else 0 for one, good in zip(found, real, strict=True)]
            if found and all(amount > DRAWN for amount in inks):
                return found
            assert time.monotonic() < deadline, f"pictures not drawn: boxes {boxes}, ink {inks}"
            panel.page.wait_for_timeout(250)

    def settled(self, pictures, *, changed_from=None, timeout=30):
        """Screenshots once two successive ones agree, and at least one differs from ``changed_from``."""
        deadline, last = time.monotonic() + timeout, None
        while True:
            now = [one.screenshot() for one in pictures]
            if now == last and (changed_from is None or now != changed_from):
                return now
            assert time.monotonic() < deadline, "the pictures did not settle, or did not change"
            last = now
            pictures[0].page.wait_for_timeout(200)

    def close(self, page):
        """Stop the kernel and close the page."""
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()


def ink(png):
    """Fraction of a picture's pixels that differ from its corner."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return float((np.abs(pixels - pixels[2, 2]).max(-1) > 12).mean())
