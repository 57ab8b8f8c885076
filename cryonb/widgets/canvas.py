"""A matplotlib canvas that a panel can hold and a reader can click on."""

import matplotlib

__all__ = ["clickable_canvas"]


def clickable_canvas(figure, on_click):
    """An ipympl canvas of a ``Figure`` that pyplot knows nothing of: it appears where it is put and nowhere else.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Drawn already, or later.
    on_click : callable
        Gets matplotlib's ``button_press_event``.

    Returns
    -------
    ipympl Canvas, a widget
    """
    before = matplotlib.get_backend()
    from ipympl.backend_nbagg import Canvas, FigureManager

    if matplotlib.get_backend() != before:  # ipympl makes itself the backend of all figures when it is imported
        matplotlib.use(before)
    canvas = Canvas(figure)
    FigureManager(canvas, 0)
    canvas.toolbar_visible = canvas.header_visible = canvas.footer_visible = canvas.resizable = False
    canvas.mpl_connect("button_press_event", on_click)
    return canvas
