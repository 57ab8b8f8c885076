"""One self-contained HTML page from a finished tour: table, figures and movies inside the file."""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Picture", "Row", "Section", "embed_file", "embed_figure", "write_report"]


@dataclass(frozen=True)
class Row:
    """A line of the summary table; ``tone`` is "", "good" or "warn"."""

    what: str
    found: str
    reference: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Picture:
    """An image as base64 text, with its caption; ``kind`` is "png" or "gif"."""

    data: str
    caption: str
    kind: str = "png"


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph and its pictures."""

    title: str
    text: str
    pictures: tuple[Picture, ...]


def embed_figure(figure, caption, path):
    """Save a matplotlib figure as PNG at ``path`` and return it as a `Picture`; the figure is closed.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    caption : str
    path : path-like
    """
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    Path(path).write_bytes(buffer.getvalue())
    return Picture(base64.b64encode(buffer.getvalue()).decode("ascii"), caption)


def embed_file(path, caption):
    """An image file as a `Picture` with its ``caption``; the kind is the ending of ``path``."""
    path = Path(path)
    return Picture(base64.b64encode(path.read_bytes()).decode("ascii"), caption, path.suffix.lstrip("."))


def write_report(path, **content):
    """Fill ``report.html`` and write it beside, then rename.

    Parameters
    ----------
    path : path-like
    **content
        ``title``, ``lead``, ``reference_heading``, ``rows``, ``unchecked``, ``sections``, ``timings``,
        ``command`` and ``versions`` of the template.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html").render(**content)
    path = Path(path)
    beside = path.with_name(path.name + ".part")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, path)
