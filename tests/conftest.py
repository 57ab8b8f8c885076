"""What the tests share: where the real data lie, and a small simulated ribosome."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes run tests side by side

# they hold no doctests, and two modules of one name cannot be imported for them
collect_ignore_glob = ["conftest.py", "*/conftest.py"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root():
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """Real data that only the developers have; tests that read them skip elsewhere."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.exists():
        pytest.skip("the developers' folder of real data is not here")
    return folder


def pytest_collection_modifyitems(items):
    """The longest file first: with a process for each file, the last ones are then short."""
    items.sort(key=lambda item: "browser" not in item.path.parts)
