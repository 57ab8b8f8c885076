"""Atoms on a grid: against gemmi, against finite differences, and half maps of the promised resolution."""

import gemmi
import numpy as np
import pytest
import scipy.ndimage

from cryonb import projection, protein, resolution, simulate
from cryonb.atomic import density
from cryonb.types import AtomicModel, Volume


def peptide(count=12, b=25.0, seed=0):
    """A random coil of alanine-like residues with a γ atom; not a protein, but one in every array."""
    rng = np.random.default_rng(seed)
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number in range(count):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "SER", gemmi.SeqId(str(number + 1))
        start = np.array([3.8 * (number % 4), 3.8 * (number // 4), 0.3 * number])
        for name, element, offset in [
            ("N", "N", (-1.4, 0.2, 0)), ("CA", "C", (0, 0, 0)), ("C", "C", (1.2, 0.8, 0)),
            ("O", "O", (1.2, 2.0, 0)), ("CB", "C", (0, -0.8, 1.2)), ("OG", "O", (1.1, -1.5, 1.6)),
        ]:  # fmt: skip
            atom = gemmi.Atom()
            atom.name, atom.element, atom.b_iso, atom.occ = name, gemmi.Element(element), b, 1.0
            atom.pos = gemmi.Position(*(start + offset + rng.normal(0, 0.1, 3)))
            residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    return AtomicModel(structure)


def test_density_equals_gemmi():
    """The same five Gaussians, the same blur and its removal, by another program."""
    model = peptide()
    like = simulate.box_around(model, 1.0, margin=8)
    ours = projection.model_density(model, like, resolution=3.0)
    structure = model.structure.clone()
    for site in structure[0].all():
        site.atom.pos = gemmi.Position(*(np.array(site.atom.pos.tolist()) - like.origin))
    structure.cell = gemmi.UnitCell(*[like.box_size] * 3, 90, 90, 90)
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min, calculator.blur, calculator.grid.unit_cell = 3.0, 79.0, structure.cell
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(*[like.size_px] * 3)
    calculator.put_model_density_on_grid(structure[0])
    theirs = np.array(calculator.grid.array).transpose(2, 1, 0)
    blurred = projection.low_pass(Volume(theirs, 1.0), 3.0, b_factor=-79.0)
    assert np.abs(blurred.data - ours.data).max() < 0.01 * ours.data.max()
    assert np.corrcoef(blurred.data.ravel(), ours.data.ravel())[0, 1] > 0.9999


def test_blur_for_the_grid_is_taken_off_again():
    """A coarse and a fine grid give the same band-limited density at their common points."""
    model = peptide(4, b=5.0)
    fine = projection.model_density(model, Volume(np.zeros((80,) * 3), 0.5, (-14, -18, -18)), resolution=4.0)
    coarse = projection.model_density(model, Volume(np.zeros((40,) * 3), 1.0, (-14, -18, -18)), resolution=4.0)
    assert np.abs(fine.data[::2, ::2, ::2] - coarse.data).max() < 0.01 * coarse.data.max()


def test_box_is_checked():
    model = peptide(4)
    with pytest.raises(ValueError, match="no atom lies inside the box"):
        projection.model_density(model, Volume(np.zeros((8,) * 3), 1.0, (500, 0, 0)))
    with pytest.raises(ValueError, match="beyond the grid's 4 Å"):
        projection.model_density(model, Volume(np.zeros((8,) * 3), 2.0, (-8, -8, -8)), resolution=3.0)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_equal_finite_differences(masked):
    """Coordinates, B, voxel size and origin, each along a random direction."""
    model, rng = peptide(), np.random.default_rng(1)
    maps = simulate.half_maps(model, 3.0, rng=2)
    volume = density.prepare_map(maps.mean, 3.0, b_factor=-50)
    mask = maps.mask > 0.5 if masked else None
    base = {
        "coordinates": model.coordinates + rng.normal(0, 0.4, (len(model), 3)),
        "b_factors": model.b_factors + rng.uniform(0, 30, len(model)),
        "voxel_size": volume.voxel_size,
        "origin": volume.origin,
    }

    def correlate(**changed):
        return density.map_correlation(volume, elements=model.elements, resolution=3.0, mask=mask, **(base | changed))

    exact = correlate()
    for name, step in [("coordinates", 1e-3), ("b_factors", 1e-2), ("voxel_size", 1e-4), ("origin", 1e-3)]:
        along = rng.normal(size=np.shape(base[name]))
        up, down = (correlate(**{name: base[name] + sign * step * along}).value for sign in (1, -1))
        slope = float((getattr(exact, name) * along).sum())
        assert (up - down) / (2 * step) == pytest.approx(slope, rel=2e-3), name


def test_sampling_between_voxels():
    rng = np.random.default_rng(0)
    volume = Volume(rng.normal(size=(12, 12, 12)), 1.5, (3, -2, 7))
    points = volume.origin + rng.uniform(2, 8, (40, 3)) * volume.voxel_size
    voxels = ((points - volume.origin) / volume.voxel_size)[:, ::-1].T
    for order in (1, 3):
        values, slopes = density.sample(volume, points, order=order, gradient=True)
        expected = scipy.ndimage.map_coordinates(volume.data.astype(float), voxels, order=order, mode="mirror")
        assert np.allclose(values, expected, atol=1e-6)
        moved = [density.sample(volume, points + sign * np.eye(3)[1] * 1e-4, order=order) for sign in (1, -1)]
        assert np.allclose((moved[0] - moved[1]) / 2e-4, slopes[:, 1], atol=1e-4)
    corner = volume.origin + 11 * volume.voxel_size
    assert density.sample(volume, corner) == pytest.approx(float(volume.data[-1, -1, -1]))
    assert density.sample(volume, corner + 1.0) == 0
    with pytest.raises(ValueError, match="order must be 1"):
        density.sample(volume, points, order=2)


@pytest.mark.parametrize("wanted", [3.0, 4.5])
def test_half_maps_end_where_they_say(wanted):
    """The FSC of the masked halves crosses 0.143 at the resolution, to half a shell and the noise of a shell."""
    model = peptide(16)
    crossed = []
    for seed in range(4):
        maps = simulate.half_maps(model, wanted, rng=seed, voxel_size=1.0)
        curve = resolution.fourier_shell_correlation(maps.half_1, maps.half_2, mask=maps.mask)
        nearest = int(round(maps.clean.box_size / wanted))
        crossed.append(np.mean(curve.correlation[nearest - 1 : nearest + 2]))
    assert np.mean(crossed) == pytest.approx(0.143, abs=0.06)
    again = simulate.half_maps(model, wanted, rng=3, voxel_size=1.0)
    assert (again.half_1.data == maps.half_1.data).all()
    with pytest.raises(ValueError, match="beyond the 6 Å of voxels"):
        simulate.half_maps(model, wanted, rng=0, voxel_size=3.0)


def test_torsions_and_links():
    """A known turn, a chain break, an alternate location and a missing atom."""
    model = peptide(5)
    rows = protein.residues(model)
    assert rows.names.tolist() == ["SER"] * 5 and rows.index("OG").min() >= 0 and rows.index("CG").max() == -1
    chi = rows.chi(model.coordinates)[:, 0]
    atoms, xyz = rows.atoms[2], model.coordinates
    xyz[atoms["OG"]] = protein.rotate_about(xyz[atoms["OG"]], xyz[atoms["CA"]], xyz[atoms["CB"]], 40.0)
    turned = rows.chi(protein.with_atoms(model, coordinates=xyz).coordinates)[:, 0]
    assert (turned[2] - chi[2]) % 360 == pytest.approx(40) and np.isnan(rows.chi(xyz)[:, 1]).all()
    structure = model.structure.clone()
    structure[0]["A"][1][0].altloc, structure[0]["A"][1][0].occ = "A", 0.4
    other = structure[0]["A"][1][0].clone()
    other.altloc, other.occ = "B", 0.6
    structure[0]["A"][1].add_atom(other)
    structure[0]["A"][3].remove_atom("C", "\0", gemmi.Element("C"))
    rows = protein.residues(AtomicModel(structure))
    assert rows.atoms[1]["N"] == 12 and rows.index("C")[3] == -1 and not rows.linked[4]
    with pytest.raises(TypeError, match="must be an AtomicModel"):
        protein.residues(structure)
    with pytest.raises(ValueError, match="finite and have shape"):
        protein.with_atoms(model, b_factors=np.ones(3))
