"""The house itself: layers, docstrings, pins, data registry, and nothing of this or that machine."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

LAYERS = [
    ["fourier", "rotations"],
    ["types"],
    ["io", "ctf", "projection", "filters", "alignment", "parallel", "protein"],
    [
        "samples",
        "simulate",
        "motion",
        "defocus",
        "picking",
        "bayes",
        "reconstruction",
        "resolution",
        "manifold",
        "atomic",
    ],
    ["plot"],
    ["widgets"],
    ["jobs", "tour"],
    ["__main__"],
]
ROOM_LAYER = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
STAGES = 3
FIRST_LAYER_WITH = {"matplotlib": 4, "ipywidgets": 5, "nglview": 5, "IPython": 5}


def rooms(root):
    """Every module of the package with its room."""
    for path in sorted((root / "cryonb").rglob("*.py")):
        parts = path.relative_to(root / "cryonb").with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts[0]


def dotted_name(root, path):
    """cryonb/bayes/polar.py is cryonb.bayes.polar."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imported(path, package):
    """Absolute dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def arrows(root):
    for path, room in rooms(root):
        package = ("cryonb", *path.relative_to(root / "cryonb").parts[:-1])
        for name in imported(path, package):
            yield path.name, room, name


def test_layers_only_point_down(root):
    wrong = set()
    for file, room, name in arrows(root):
        parts = name.split(".")
        if parts[0] != "cryonb" or len(parts) < 2 or parts[1] not in ROOM_LAYER or parts[1] == room:
            continue
        if ROOM_LAYER[parts[1]] >= ROOM_LAYER[room]:
            wrong.add(f"{room} ({file}) → {parts[1]}")
    assert not wrong, wrong


def test_drawing_stays_in_the_top_layers(root):
    wrong = {
        f"{room} ({file}) imports {name}"
        for file, room, name in arrows(root)
        if ROOM_LAYER[room] < FIRST_LAYER_WITH.get(name.split(".")[0], 0)
    }
    assert not wrong, wrong


def test_every_room_has_a_layer(root):
    assert {room for _, room in rooms(root)} <= set(ROOM_LAYER)


def test_every_room_and_public_name_explains_itself(root):
    missing = []
    for path, room in rooms(root):
        dotted = dotted_name(root, path)
        if room == "__main__":
            continue
        module = importlib.import_module(dotted)
        if not (module.__doc__ or "").strip():
            missing.append(dotted)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and not (thing.__doc__ or "").strip():
                missing.append(f"{dotted}.{name}")
    assert not missing, missing


def test_public_functions_are_documented_with_their_parameters(root):
    """Every parameter of a public function stands in its docstring or in that of the function it refers to."""
    bare = []
    for path, room in rooms(root):
        if ROOM_LAYER[room] > STAGES:
            continue
        dotted = dotted_name(root, path)
        module = importlib.import_module(dotted)
        for name in getattr(module, "__all__", ()):
            function = getattr(module, name)
            if inspect.isfunction(function) and "as in `" not in (function.__doc__ or "").lower():
                for parameter in inspect.signature(function).parameters:
                    if not re.search(rf"\b{parameter}\b", function.__doc__ or ""):
                        bare.append(f"{dotted}.{name}({parameter})")
    assert not bare, bare


def test_conda_environment_equals_pyproject(root):
    """conda-forge's names differ for two packages; every pin is the same."""
    conda_name = {"matplotlib": "matplotlib-base", "dask": "dask-core"}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = {f"python {project['requires-python']}"}
    for group in [project["dependencies"], *project["optional-dependencies"].values()]:
        for requirement in group:
            name, pin = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
            wanted.add(f"{conda_name.get(name, name)} {pin}")
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert set(environment["dependencies"]) == wanted


def test_constraints_fit_pyproject_and_name_no_host(root):
    text = (root / "constraints.txt").read_text()
    pinned = {line.split("==")[0].lower() for line in text.splitlines()}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for group in [project["dependencies"], *project["optional-dependencies"].values()]:
        for requirement in group:
            assert re.match(r"[\w.-]+", requirement).group().lower() in pinned
    assert "://" not in text and " @ " not in text


def test_import_is_light():
    """The nouns and the operations load neither pandas, scikit-learn, matplotlib nor dask."""
    code = "import sys, cryonb; cryonb.Volume; cryonb.io; cryonb.parallel; print([m for m in {!r} if m in sys.modules])"
    heavy = ["pandas", "sklearn", "matplotlib", "dask", "distributed", "gemmi", "starfile", "IPython"]
    shown = subprocess.run([sys.executable, "-c", code.format(heavy)], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def tracked(root):
    if not (root / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the repository is not known")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in listing.split("\0") if name and (root / name).exists()]


def test_no_large_files(root):
    files = tracked(root)
    assert not [path.name for path in files if path.stat().st_size > 5_000_000]
    samples = sum(path.stat().st_size for path in files if path.is_relative_to(root / "data_samples"))
    assert samples < 10_000_000


def test_nothing_of_one_machine_is_committed(root):
    machine = re.compile(rb"/(?:home|root|Users|work|tmp)/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
    texts = {".py", ".md", ".toml", ".yml", ".txt", ".ipynb", ".html", ".star", ".json", ".css"}
    found = [path.name for path in tracked(root) if path.suffix in texts and machine.search(path.read_bytes())]
    assert not found, found
