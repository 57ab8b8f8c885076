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


def test_ramachandran_moves_go_the_short_way_round(rows):
    here, there = np.full((40, 3), 180.0), np.full((40, 3), 180.0)
    here[:, :2] = there[:, :2] = [-63.0, -43.0]
    here[5, :2], there[5, :2] = [-70.0, 170.0], [-70.0, -150.0]
    kind = np.zeros(40, dtype=int)
    scores = [BackboneScores(rows, x, kind, ramachandran_score(kind, x[:, 0], x[:, 1])) for x in (here, there)]
    ax = plot.ramachandran_moves(*scores)
    assert "1 residues turned by over 25°" in (ax.get_title(), ax.get_title(loc="left"))
    arrows = [(text.xyann, text.xy) for text in ax.texts]
    assert [tuple(map(float, end)) for pair in arrows for end in pair] == [
        (-70.0, 170.0), (-70.0, 210.0), (-70.0, -190.0), (-70.0, -150.0),
    ]  # fmt: skip
    fewer = BackboneScores(protein.Residues(*(x[:3] for x in vars(rows).values())), here[:3], kind[:3], kind[:3])
    with pytest.raises(ValueError, match="same residues, got 40 and 3"):
        plot.ramachandran_moves(scores[0], fewer)


def test_spread_strip_shows_spread_and_error(rows):
    ax = plot.spread_strip(np.linspace(0, 2, 40), rows, error=np.ones(40))
    assert [bar.get_height() for bar in ax.patches] == np.linspace(0, 2, 40).tolist()
    assert ax.lines[0].get_ydata().tolist() == [1] * 40 and "Å" in ax.get_ylabel()


def test_models_are_drawn_in_the_plane_of_the_residue():
    """The Cα is the middle; the density drawn is the map's there; no bond grows in the plane."""
    from cryonb import projection, simulate
    from cryonb.atomic import fragment_library

    model = fragment_library().model("1ubi")
    volume = projection.model_density(model, simulate.box_around(model, 2.0), b_factors=model.b_factors + 80)
    ax = plot.model_in_map([model, model], volume, 20, labels=["one", "two"], radius=6)
    assert "Asp A 21" in (ax.get_title(), ax.get_title(loc="left"))
    x, y = ax.lines[-1].get_data()
    assert np.hypot(x, y)[np.isfinite(x)].min() < 1e-6
    assert np.nanmax(np.hypot(np.diff(x)[::3], np.diff(y)[::3])) < 2.0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
