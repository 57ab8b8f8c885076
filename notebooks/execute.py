"""Run notebooks top to bottom and make their pictures small, so that a page stays under 400 kB.

    python notebooks/execute.py notebooks/01*.ipynb [--out FOLDER]

A notebook is replaced only when all its cells ran; with ``--out`` the result goes to that folder instead. Nothing of
the machine, the clock or the widgets' state is kept.
"""

import argparse
import base64
import io
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

COLORS = 256  # fewer show as bands in colour bars
TIMEOUT = 300  # seconds a cell
LIVE = "application/vnd.jupyter.widget-view+json"  # points at a model that ends with the kernel


def reduce_png(encoded):
    """A base64 PNG with at most `COLORS` colours on white, or the same where that is no smaller."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    buffer = io.BytesIO()
    # maximum coverage: rare colours, those of a colour bar, keep their place in the palette
    page.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3).save(buffer, format="PNG", optimize=True)
    reduced = base64.b64encode(buffer.getvalue()).decode()
    return min(reduced, encoded, key=len)


def execute(path, folder):
    """Run one notebook where it stands and write it to ``folder``, beside first and then renamed."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIMEOUT, record_timing=False, store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop(LIVE, None)
            if "image/png" in data:
                data["image/png"] = reduce_png(data["image/png"])
    beside = folder / f"{path.name}.part"
    nbformat.write(notebook, beside)
    os.replace(beside, folder / path.name)
    print(f"{folder / path.name}: {(folder / path.name).stat().st_size / 1000:.0f} kB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the results; by default each notebook is replaced")
    options = parser.parse_args()
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    for path in options.notebooks:
        execute(path, options.out or path.parent)


if __name__ == "__main__":
    main()
