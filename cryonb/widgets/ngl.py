"""nglview in JupyterLab 4, in one place: the shim, a scene as a plain dict, and the view of a scene.

nglview 4.0.1 asks the browser for front end 4.0 but ships 3.1.5, and then draws nothing; `nglview` here tells it
the version that is really installed before its first import. Two more traps that are dealt with below:
``center()`` on a density gives a camera of NaNs (``autoView`` without a selection does not), and every call that
nglview archives sends all earlier ones to the browser again (calls with ``fire_once`` do not).
"""

import json
import sys
from io import BytesIO, StringIO
from pathlib import Path
from types import ModuleType

import numpy as np

__all__ = [
    "density_scene", "encode_map", "encode_model", "front_end_version", "look_at", "model_scene", "nglview",
    "set_level", "show_frame", "view",
]  # fmt: skip

COLORS = ("#7aa6c2", "#e0975a", "#6dae8c", "#c18bb0")
STEPS = 127  # grey levels of a map sent to the browser, a byte per voxel


def front_end_version():
    """Version of nglview's front end that JupyterLab will load, read from the installed extension.

    Returns
    -------
    str, or None where the extension is not installed.
    """
    from jupyter_core.paths import jupyter_path

    for folder in jupyter_path("labextensions"):
        package = Path(folder) / "nglview-js-widgets" / "package.json"
        if package.exists():
            return json.loads(package.read_text())["version"]
    return None


def nglview():
    """The ``nglview`` module, speaking the version of its installed front end.

    Raises
    ------
    RuntimeError
        When nglview was imported before, with another version: nothing would be drawn.
    """
    installed = front_end_version()
    loaded = sys.modules.get("nglview._frontend")
    if loaded is None and installed is not None:
        loaded = ModuleType("nglview._frontend")
        loaded.__frontend_version__ = installed
        sys.modules["nglview._frontend"] = loaded
    import nglview as module

    if installed is not None and loaded.__frontend_version__ != installed:
        raise RuntimeError(
            f"nglview was imported before cryonb.widgets and asks for front end {loaded.__frontend_version__}, but "
            f"{installed} is installed: restart the kernel and import cryonb.widgets first"
        )
    return module


def encode_map(volume):
    """A volume as the bytes of an MRC file of mode 0 (one byte per voxel), the origin at the box centre.

    Parameters
    ----------
    volume : Volume

    Returns
    -------
    tuple (bytes, float): the file, and the density of one grey level.

    Notes
    -----
    Good for looking at, not for measuring: densities are rounded to 1/127 of the largest.

    Examples
    --------
    >>> from cryonb.types import Volume
    >>> content, level = encode_map(Volume(np.eye(4)[..., None] * np.ones(4), 2.0))
    >>> len(content), content[208:212], round(1 / level)
    (1088, b'MAP ', 127)
    """
    d, box = volume.size_px, volume.box_size
    level = float(np.abs(volume.data).max()) / STEPS or 1.0
    data = np.rint(volume.data / level).astype(np.int8)
    header = np.zeros(256, dtype="<i4")
    as_float = header.view("<f4")
    start = -(d // 2)
    header[0:10] = d, d, d, 0, start, start, start, d, d, d
    as_float[10:16] = box, box, box, 90, 90, 90
    header[16:19] = 1, 2, 3
    as_float[19:22] = data.min(), data.max(), data.mean()
    header[22], header[27] = 1, 20140
    as_float[54] = data.std()
    content = bytearray(header.tobytes())
    content[208:216] = b"MAP DD\x00\x00"
    return bytes(content) + data.tobytes(), level


def density_scene(volumes, *, level, color=COLORS[0], shown=0, size_px=(420, 360)):
    """Frames of a density movie, or one volume, as a plain dict that `view` turns into an nglview.

    Parameters
    ----------
    volumes : sequence of Volume
    level : float
        Density at which every frame's surface is drawn.
    color : str or sequence of str
        One for all frames, or one each; hexadecimal.
    shown : int
        The frame seen at first.
    size_px : (int, int)
        Width and height on the page.

    Returns
    -------
    dict with ``components`` (a list of ``map``, ``isolevel``, ``color``, ``visible``) and ``size_px``
    """
    colors = [color] * len(volumes) if isinstance(color, str) else list(color)
    if len(colors) != len(volumes):
        raise ValueError(f"expected one colour or {len(volumes)}, one for each volume, got {len(colors)}")
    components = []
    for index, volume in enumerate(volumes):
        content, step = encode_map(volume)
        components.append({"map": content, "isolevel": level / step, "color": colors[index], "visible": index == shown})
    return {"components": components, "size_px": tuple(size_px)}


def encode_model(model, centre):
    """An atomic model as the text of an mmCIF file, moved so that ``centre`` is the origin, as in `encode_map`.

    Parameters
    ----------
    model : AtomicModel
    centre : ndarray (3,)
        Å.

    Returns
    -------
    str
    """
    import gemmi

    structure = model.structure.clone()
    for site in structure[0].all():
        site.atom.pos = site.atom.pos - gemmi.Position(*map(float, centre))
    structure.setup_entities()
    return structure.make_mmcif_document().as_string()


def model_scene(volume, models, *, level, colors, radius=8.0, size_px=(420, 360)):
    """Models as sticks in a map drawn as a mesh around the place that is looked at; a plain dict for `view`.

    Parameters
    ----------
    volume : Volume
    models : sequence of AtomicModel
        In the frame of the volume's origin.
    level : float
        Density of the mesh.
    colors : sequence of str
        Of the carbon atoms of each model; hexadecimal.
    radius : float
        Å around the middle of the view: the map is drawn to there, and nothing in front of or behind it.
    size_px : (int, int)

    Returns
    -------
    dict, as `density_scene` gives; component 0 is the map, the models follow.
    """
    if len(colors) != len(models):
        raise ValueError(f"expected a colour for each of {len(models)} models, got {len(colors)}")
    content, step = encode_map(volume)
    centre = volume.origin + volume.size_px // 2 * volume.voxel_size
    components = [{"map": content, "isolevel": level / step, "color": "#8a8a8a", "visible": True, "radius": radius}]
    for model, color in zip(models, colors):
        components.append({"model": encode_model(model, centre), "color": color, "visible": True})
    share = min(1.0, radius / (np.sqrt(0.75) * volume.box_size))  # of the scene's radius, the box's half diagonal
    return {"components": components, "size_px": tuple(size_px), "step": step, "slab": share}


def look_at(ngl_view, component, selection):
    """Move the camera of a `view` to some atoms of one component; ``selection`` in NGL's words, such as ``12-16:A``."""
    ngl_view._remote_call(
        "autoView", target="compList", args=[selection, 0], kwargs={"component_index": component}, fire_once=True
    )


def set_level(ngl_view, scene, level):
    """Draw the map of a `model_scene` at another density."""
    ngl_view._remote_call(
        "setParameters", target="Representation", fire_once=True,
        kwargs={"component_index": 0, "repr_index": 0, "isolevel": level / scene["step"]},
    )  # fmt: skip


def view(scene):
    """An nglview of a `density_scene` or `model_scene`; everything is loaded, what is ``visible`` is seen.

    The size is fixed in pixels: a view that asks its parent, before it is on the page, gets a canvas of 1 × 1.
    """
    width, height = (f"{pixels}px" for pixels in scene["size_px"])
    ngl_view = nglview().NGLWidget(width=width, height=height)
    ngl_view.layout.width, ngl_view.layout.height = width, height
    with ngl_view.hold_sync():  # nglview's archive of calls goes to the browser once, not once per call
        ngl_view.camera = "orthographic"
        if "slab" in scene:  # NGL counts from 0, the front of the scene, to 100, its back
            front, back = 50 - 50 * scene["slab"], 50 + 50 * scene["slab"]
            ngl_view.stage.set_parameters(clip_near=front, clip_far=back, fog_near=50, fog_far=2 * back - 50)
        else:
            ngl_view.stage.set_parameters(fog_near=60, fog_far=160)
        for index, component in enumerate(scene["components"]):
            if "model" in component:
                ngl_view.add_component(StringIO(component["model"]), ext="cif", default_representation=False)
                ngl_view.add_representation("licorice", component=index, color=component["color"], radius=0.16)
            else:
                mesh = {"contour": True, "box_size": component["radius"]} if "radius" in component else {"smooth": 1}
                ngl_view.add_component(BytesIO(component["map"]), ext="mrc", default_representation=False)
                ngl_view.add_representation(
                    "surface", component=index, isolevel_type="value", isolevel=component["isolevel"],
                    color=component["color"], use_worker=False, **mesh,
                )  # fmt: skip
            ngl_view._remote_call(
                "setVisibility", target="compList", args=[component["visible"]], kwargs={"component_index": index}
            )
        ngl_view._remote_call("autoView", target="compList", args=[0], kwargs={"component_index": 0})
        ngl_view.control.spin([0, 1, 0], np.pi)  # NGL looks from −z; `cryonb.plot.surface` from +z, x to the right
        ngl_view.control.zoom(0.2)
    return ngl_view


def show_frame(ngl_view, shown):
    """Make frame number ``shown`` of a `view`, or those of a set of numbers, the visible ones."""
    seen = {shown} if isinstance(shown, int) else set(shown)
    for index in range(len(ngl_view._ngl_component_ids)):
        ngl_view._remote_call(
            "setVisibility", target="compList", args=[index in seen], kwargs={"component_index": index}, fire_once=True
        )
