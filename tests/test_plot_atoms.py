"""Strips along the chain and the Ramachandran plot: what is drawn where."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from cryonb import plot, protein  # noqa: E402
from cryonb.atomic.errors import FEATURES, Evidence, Suspicion  # noqa: E402
from cryonb.atomic.torsions import BackboneScores, ramachandran_score  # noqa: E402


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    """Forty alanines in two chains."""
    chains, numbers = np.repeat(["A", "B"], 20), np.tile(np.arange(1, 21), 2)
    linked = np.tile(np.arange(20) > 0, 2)
    return protein.Residues(chains, numbers, np.full(40, ""), np.full(40, "ALA"), linked, [{} for _ in range(40)])


def test_suspicion_strip_shows_every_residue(rows):
    backbone = np.linspace(0, 1, 40)
    found = Suspicion(rows, backbone, backbone, Evidence(rows, np.zeros((40, len(FEATURES)))))
    ax = plot.suspicion_strip(found, planted=backbone > 0.9)
    assert [bar.get_height() for bar in ax.patches] == backbone.tolist()
    assert len({bar.get_facecolor() for bar in ax.patches}) == 3
    marks = next(line for line in ax.lines if line.get_label() == "planted")
    assert len(marks.get_xdata()) == (backbone > 0.9).sum()
    assert "chains A, B" in ax.get_xlabel() and "P(wrong)" in ax.get_ylabel()


def test_q_strip_draws_what_to_expect(rows):
    ax = plot.q_strip(np.linspace(0.2, 0.7, 40), rows, resolution=3.9)
    expected = next(line for line in ax.lines if line.get_linestyle() == "--").get_ydata()[0]
    assert expected == pytest.approx(0.42695)  # the line of the EMDB's chains at 3.9 Å
    assert "Q-score" in ax.get_ylabel()


def test_ramachandran_counts_and_names_outliers(rows):
    torsions = np.full((40, 3), np.nan)
    torsions[:, :2] = [-63.0, -43.0]
    torsions[5, :2] = [110.0, -60.0]
    torsions[0, 0] = np.nan
    kind = np.zeros(40, dtype=int)
    scores = BackboneScores(rows, torsions, kind, ramachandran_score(kind, torsions[:, 0], torsions[:, 1]))
    ax = plot.ramachandran(scores)
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["38 favoured", "0 allowed", "1 outliers"]
    assert [text.get_text() for text in ax.texts] == ["A 6"]
    assert ax.get_xlabel() == "φ (°)" and ax.get_xlim() == (-180, 180)
