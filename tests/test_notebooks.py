"""The course's form: one question each, short cells, folded solutions, executed, small, and of no machine.

What the notebooks claim is tested by running them: ``make test`` gives them to nbval.
"""

import ast
import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

HEADINGS = ["Question", "Data", "Method", "Check", "Exercise"]
PATHS = re.compile(r"/(?:home|root|work|Users|tmp)/|[A-Z]:\\\\Users")


def notebooks():
    return sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=notebooks(), ids=lambda path: path.stem)
def notebook(request):
    """A notebook with its path and its code cells."""
    content = nbformat.read(request.param, 4)
    nbformat.validate(content)
    content.path = request.param
    content.code = [cell for cell in content.cells if cell.cell_type == "code"]
    return content


def headings(content, marks):
    text = "\n".join(cell.source for cell in content.cells if cell.cell_type == "markdown")
    return re.findall(rf"^{marks} (.+)$", text, re.MULTILINE)


def test_there_are_the_notebooks_of_this_issue():
    there = {path.name.split("_")[0] for path in notebooks()}
    assert {f"{k:02d}" for k in range(14)} | {"12b", "12c", "12d"} <= there


def test_name_and_title(notebook):
    number = notebook.path.name.split("_")[0]  # a letter marks a further page on the same question
    assert re.fullmatch("(0[0-9]|1[0-3])[bcd]?", number)
    (title,) = headings(notebook, "#")
    assert title.startswith(f"{number} · ")
    verb = title.split(" · ")[1].split()[0]
    assert verb in {"Agree", "Make", "Turn", "See", "Find", "Watch", "Ask", "Sort", "Start", "Measure", "Place"}


def test_question_data_method_check_exercise(notebook):
    assert headings(notebook, "##") == HEADINGS
    assert notebook.cells[0].cell_type == "markdown" and "?" in notebook.cells[0].source


def test_cells_are_few_and_short(notebook):
    assert 20 <= len(notebook.cells) <= 30
    assert max(len(cell.source.splitlines()) for cell in notebook.code) <= 12
    functions = [
        node
        for cell in notebook.code
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert len(functions) <= 3


def test_it_checks_itself_against_a_truth(notebook):
    asserts = sum(
        isinstance(node, ast.Assert) for cell in notebook.code for node in ast.walk(ast.parse(cell.source))
    )  # fmt: skip
    assert asserts >= 5


def test_solutions_are_folded(notebook):
    solutions = [cell for cell in notebook.code if "solution" in cell.metadata.get("tags", [])]
    assert solutions, "the exercise has no solution that is run"
    assert all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions)
    assert notebook.cells[-1] in solutions


def test_executed_in_order_without_errors(notebook):
    assert [cell.execution_count for cell in notebook.code] == list(range(1, len(notebook.code) + 1))
    assert not [out for cell in notebook.code for out in cell.outputs if out.output_type in ("error", "stderr")]


def test_small_and_of_no_machine(notebook):
    assert notebook.path.stat().st_size < 400_000
    assert "widgets" not in notebook.metadata
    assert not PATHS.search(re.sub(r'"image/[a-z]+": "[^"]*"', "", notebook.path.read_text(encoding="utf-8")))
    assert notebook.metadata.kernelspec.name == "python3"


def test_randomness_has_a_seed(notebook):
    source = "\n".join(cell.source for cell in notebook.code)
    assert not re.search(r"default_rng\(\s*\)|np\.random\.(rand|randn|seed|normal|random)\b", source)


def test_no_network(notebook):
    source = "\n".join(cell.source for cell in notebook.code)
    assert not re.search(r"https?://|fetch_emdb|fetch_empiar|urlopen|!pip|%pip", source)


def test_every_widget_is_followed_by_a_still_picture(notebook):
    """A page read without a kernel shows no widget: the next code cell draws the same thing."""
    for cell, following in zip(notebook.code, notebook.code[1:], strict=False):
        if re.search(r"widgets\.[A-Z]", cell.source):
            assert any("image/png" in out.get("data", {}) for out in following.outputs), cell.source


# --- make notebooks -----------------------------------------------------------------------------------------------

EXECUTE = Path(__file__).parent.parent / "notebooks" / "execute.py"
PICTURE = """
from PIL import Image
Image.merge("RGBA", [Image.effect_noise((90, 60), 99) for _ in "RGBA"])
"""


def run_script(folder, source):
    """A notebook of one cell, given to the script that ``make notebooks`` calls."""
    path = folder / "page.ipynb"
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": ""}}), path
    )
    done = subprocess.run([sys.executable, EXECUTE, path], capture_output=True, text=True)
    return done, nbformat.read(path, 4)


def test_notebooks_are_executed_and_their_pictures_reduced(tmp_path):
    pytest.importorskip("nbclient")
    from PIL import Image

    done, notebook = run_script(tmp_path, PICTURE)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page.ipynb"]
    (cell,) = notebook.cells
    assert cell.execution_count == 1 and not cell.metadata
    assert notebook.metadata.language_info == {"name": "python"}
    picture = Image.open(io.BytesIO(base64.b64decode(cell.outputs[0].data["image/png"])))
    assert picture.mode == "P" and len(picture.getcolors()) <= 256


def test_a_notebook_that_fails_stays_as_it_was(tmp_path):
    pytest.importorskip("nbclient")
    done, notebook = run_script(tmp_path, "1 / 0")
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr
    assert notebook.cells[0].execution_count is None
    assert [path.name for path in tmp_path.iterdir()] == ["page.ipynb"]
