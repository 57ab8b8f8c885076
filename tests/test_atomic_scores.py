"""Scores of models: identities, planted errors found, and numbers of other programs typed in."""

import numpy as np
import pytest

from cryonb import protein, simulate
from cryonb.atomic import clashes, density, maps, scores, torsions
from cryonb.io import read_model, read_volume
from cryonb.types import AtomicModel, Volume


@pytest.fixture(scope="module")
def models(root):
    folder = root.parent / "shared" / "data" / "models"
    if not folder.is_dir():
        pytest.skip("../shared/data/models is not there")
    return folder


@pytest.fixture(scope="module")
def chain(models):
    """1A2K chain B, 196 residues, without what is not protein."""
    model = read_model(models / "bm5" / "1A2K_l_bound.pdb.gz")
    model.structure.remove_ligands_and_waters()
    return model


@pytest.fixture(scope="module")
def simulated(chain):
    return simulate.half_maps(chain, 3.0, rng=0)


def test_ramachandran_tables_are_distributions():
    """The table gives the share of residues in less likely places; its top is 1 and its contours are MolProbity's."""
    table = torsions.ramachandran_table()
    assert table.shape == (6, 180, 180) and np.allclose(table.max(axis=(1, 2)), 1)
    assert torsions.ramachandran_score(0, -63.0, -43.0) > 0.8  # helix
    assert torsions.ramachandran_score(0, 110.0, -60.0) < 0.0005
    assert np.allclose(table[1], table[1][::-1, ::-1], atol=0.02)  # glycine: φ, ψ and −φ, −ψ
    assert np.isnan(torsions.ramachandran_score(0, np.nan, 10.0))


def test_backbone_equals_cctbx(chain):
    """mmtbx.validation of cctbx-base 2025.11 on the same file: 191 residues, 94.764 %, 0.5236 %, three Cβ outliers."""
    found = torsions.ramachandran(chain)
    assert found.scored.sum() == 191
    assert found.percent_favoured == pytest.approx(94.76439790575915)
    assert found.percent_outliers == pytest.approx(0.5235602094240838)
    assert (np.nan_to_num(torsions.cbeta_deviation(chain)) > 0.25).sum() == 3


def test_rotamers_of_good_and_planted_side_chains(chain):
    planted = simulate.plant_errors(chain, rng=3, flips=0, rotamers=0.3, register_shifts=0)
    before, after = torsions.rotamers(chain), torsions.rotamers(planted.model)
    assert after.outlier[planted.rotamer].mean() > before.outlier[planted.rotamer].mean() + 0.1
    assert np.array_equal(after.score[~planted.rotamer], before.score[~planted.rotamer], equal_nan=True)
    # the 0.3 % contour of valine's published table: 48…89°, 152…203°, 277…317°
    inside = [torsions.rotamer_density("VAL", np.array([[chi]]))[0] for chi in (60.0, 176.0, 298.0)]
    level = torsions._levels("VAL")[int(0.003 * torsions.DRAWS)]
    assert min(inside) > level
    edges = [chi for chi in range(360) if torsions.rotamer_density("VAL", np.array([[float(chi)]]))[0] > level]
    starts = [a for a in edges if a - 1 not in edges]
    assert np.abs(np.array(starts) - [48, 152, 277]).max() <= 6


def test_hydrogens_have_their_bonds(chain):
    """Each at its length from its parent, none within 1.4 Å of another atom of the residue's chain, but rotors."""
    xyz, parent, polar, aromatic, _ = clashes.hydrogens(chain)
    length = np.linalg.norm(xyz - chain.coordinates[parent], axis=1)
    elements = chain.elements[parent]
    assert np.allclose(length[(elements == "C") & ~aromatic], 0.97)
    assert np.allclose(length[elements == "N"], 0.86) and np.allclose(length[elements == "O"], 0.84)
    assert polar[elements == "O"].all() and not polar[elements == "C"].any()
    rows = protein.residues(chain)
    helix = [parent.tolist().count(rows.atoms[i]["N"]) for i in range(1, len(rows)) if rows.linked[i]]
    assert set(helix) <= {0, 1}
    assert 0.9 < len(xyz) / len(chain) < 1.15


def test_clashscore_follows_probe(chain):
    """Probe2 with Reduce2 (cctbx-base 2025.11) finds 10.5 on this chain with its cut side chains as alanine."""
    found = clashes.clashes(chain)
    assert found.score == pytest.approx(10.5, rel=0.2)
    assert (found.overlap >= 0.4).all() and found.pairs.shape == (len(found.overlap), 2)
    rows = protein.residues(chain)
    xyz = chain.coordinates
    atoms = list(rows.atoms[40].values())
    far = rows.atoms[120]["CA"]
    xyz[atoms] += xyz[far] - xyz[atoms].mean(axis=0)
    assert clashes.clashes(chain, coordinates=xyz).score > found.score + 3


def test_molprobity_score_is_its_formula():
    assert scores.molprobity_score(10.0, 5.0, 90.0) == pytest.approx(
        0.426 * np.log(11) + 0.33 * np.log(5) + 0.25 * np.log(9) + 0.5
    )


def test_scores_of_truth_and_of_errors(chain, simulated):
    """Every score prefers the true model; the planted flips and rotamers are where the local ones fall."""
    planted = simulate.plant_errors(chain, rng=1)
    good, bad = (scores.summary(m, simulated.mean, 3.0, b_factor=-80) for m in (chain, planted.model))
    assert good.emringer > bad.emringer and good.q > bad.q and good.ifsc > bad.ifsc + 0.02
    assert good.geometry.molprobity < bad.geometry.molprobity
    shifted = planted.register != 0
    drop = good.residue_correlation - bad.residue_correlation
    assert np.nanmean(drop[shifted]) > 0.2 and abs(np.nanmean(drop[(planted.deviation() < 0.01).all(1)])) < 0.1
    assert "MolProbity" in repr(good) and set(good.as_dict()) >= {"q", "emringer", "clashscore", "ifsc"}


def test_q_score_of_one_gaussian_is_one():
    """An atom drawn as a Gaussian of 0.6 Å scores 1; a flat map gives none; upside down −1."""
    import gemmi

    line = "ATOM      1  CA  ALA A   1      10.000  10.000  10.000  1.00 20.00           C"
    model = AtomicModel(gemmi.read_pdb_string(line))
    axis = np.arange(80) * 0.25 - 10
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    gaussian = np.exp(-(x**2 + y**2 + z**2) / (2 * 0.36))
    assert maps.q_score(model, Volume(gaussian, 0.25))[0] > 0.999
    assert maps.q_score(model, Volume(-gaussian, 0.25))[0] < -0.999
    assert np.isnan(maps.q_score(model, Volume(np.ones((80,) * 3), 0.25))[0])


def test_q_scores_are_the_published_ones(models):
    """EMD-30342 and 7CEC, 553 residues (0.981 when written)."""
    folder = models / "emd30342_7cec"
    volume = read_volume(folder / "emd_30342_chainA.mrc.gz", pad=True)
    model = read_model(folder / "7cec_A.cif")
    rows = protein.residues(model)
    ours = maps.residue_mean(maps.q_score(model, volume), rows, model.elements)
    told = {}
    for line in (folder / "published_qscores_7cec_A.txt").read_text().splitlines():
        cells = line.split("\t")
        if len(cells) > 5 and cells[0] == "A" and cells[2].isdigit() and cells[5]:
            told[int(cells[2])] = float(cells[5])
    both = np.array([(q, told[n]) for q, n in zip(ours, rows.numbers) if n in told])
    assert len(both) > 500 and np.corrcoef(both.T)[0, 1] > 0.95


def test_emringer_counts(chain, simulated):
    """A true model in its own map peaks at rotamers; turned by 60° it does not; the formula by hand at one level."""
    seen = density.prepare_map(simulated.mean, 3.0, b_factor=-80)
    found = maps.emringer(chain, seen)
    assert found.score > 3
    top = found.peak_value > found.thresholds[0]
    inside = (np.isin(found.peak_angle // 5, [*range(7, 19), *range(31, 43), *range(55, 67)]) & top).sum()
    expected = (inside - 39 / 72 * top.sum()) / np.sqrt(39 / 72 * 33 / 72 * top.sum())
    assert found.z[0] == pytest.approx(expected)
    rng = np.random.default_rng(0)
    noise = maps.emringer(chain, seen.with_data(rng.normal(size=seen.data.shape)))
    assert abs(noise.score) < 1.5


def test_ifsc_of_truth_and_of_the_other_half(chain, simulated):
    one = scores.ifsc(chain, simulated.clean, 3.0)
    work, free = scores.ifsc(chain, simulated.half_1, 3.0), scores.ifsc(chain, simulated.half_2, 3.0)
    assert one > 0.98 and abs(work - free) < 0.02 and work < one
    with pytest.raises(ValueError, match="no shell between"):
        scores.ifsc(chain, simulated.half_1, 30.0)


def test_no_protein_is_an_error(chain):
    import gemmi

    water = AtomicModel(
        gemmi.read_pdb_string("HETATM    1  O   HOH A   1       8.0     8.0     8.0    1.00 20.00           O")
    )
    with pytest.raises(ValueError, match="no amino acids"):
        scores.geometry(water)
    with pytest.raises(ValueError, match="no amino acids"):
        simulate.plant_errors(water, rng=0)


def test_planted_errors_are_written_down(chain):
    """What the log says is what moved, and nothing else did."""
    planted = simulate.plant_errors(chain, rng=5)
    n = len(planted.residues)
    assert planted.flipped.sum() == round(0.06 * n) and planted.rotamer.sum() == round(0.12 * n)
    assert 16 <= (planted.register != 0).sum() <= 32
    deviation = planted.deviation()
    assert (deviation[planted.flipped, 0] > 1.5).all() and (deviation[planted.register != 0, 0] > 2.5).all()
    assert (deviation[planted.rotamer, 1] > 1.0).all()
    kinds = np.array(planted.kinds())
    after_flip = np.roll(planted.flipped, 1)
    assert np.nanmax(deviation[(kinds == "") & ~after_flip]) < 1e-9
    ca = planted.residues.index("CA")
    row = np.flatnonzero(planted.register == planted.register[planted.register != 0][0])[4]
    there = chain.coordinates[ca[row + planted.register[row]]]
    assert np.linalg.norm(planted.model.coordinates[ca[row]] - there) < 1e-6
    again = simulate.plant_errors(chain, rng=5).model.coordinates
    assert (again == planted.model.coordinates).all()
    hinged = simulate.plant_errors(chain, rng=5, flips=0, rotamers=0, register_shifts=0, hinge=20.0)
    bonds = np.linalg.norm(np.diff(hinged.model.coordinates[ca], axis=0), axis=1)
    assert np.allclose(bonds, np.linalg.norm(np.diff(chain.coordinates[ca], axis=0), axis=1))
    assert 0.5 < np.sqrt((hinged.deviation()[:, 0] ** 2).mean()) < 20
    shaken = simulate.shake(chain, 1.0, rng=0, correlation=4.0).coordinates - chain.coordinates
    assert np.sqrt((shaken**2).sum(1).mean()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="flips must be a share"):
        simulate.plant_errors(chain, rng=0, flips=2)
