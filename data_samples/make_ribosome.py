"""Make ``ribosome_6zu5.npz``, the coarse-grained 80S ribosome, from the mmCIF file of PDB entry 6ZU5.

    python data_samples/make_ribosome.py 6zu5.cif.gz

What is done and why stands in ``README.md`` beside this file. The same input gives the same bytes.
"""

import argparse
import hashlib
import json
from pathlib import Path

import gemmi
import numpy as np
from scipy.spatial import cKDTree

FOLDER = Path(__file__).resolve().parent
PARTS = ("60S", "40S body", "40S head", "60S P stalk", "60S L1 stalk", "factor")
KINDS = ("protein backbone", "side chain", "ribose-phosphate", "base", "modelled")
BACKBONE = {"N", "CA", "C", "O", "OXT"}
NOT_RIBOSOME = {"LNN"}  # chain of the hibernation factor Lso2, left out

HEAD_RNA = (844, 1267)  # 18S rRNA above hinge 1: E. coli 927–1390, found by the motifs AAUUGACGG and UACACACCGCC
HEAD_PROTEINS = "SD0 SF0 SP0 SQ0 SR0 SS0 ST0 SU0 SZ0 SDD SK0 SCC SGG".split()
H28_STRANDS = ((844, 850), (1261, 1267))  # regular part of the neck, E. coli 927–933 / 1384–1390
H28_HINGE = (843, 1268)  # G926 : C1391 of E. coli, hinge 1 of Mohan et al. 2014
H44 = (1284, 1360)  # E. coli 1407–1497
BRIDGE_B3 = (1294, 1347)  # E. coli 1417 / 1484
DECODING_SITE = (1355, 1356)  # A1492, A1493 of E. coli, by the motif AAGUCGUAAC
SARCIN_RICIN = (2410, 2423)  # E. coli 2653–2667, by the motif AGUACGAGAGGAAC
STALKS = {"60S P stalk": (943, 1016), "60S L1 stalk": (1909, 1973)}  # 25S rRNA that the entry leaves unmodelled

FACTOR_DALTON = 95_000  # eEF2 of yeast 93 kDa
DALTON_PER_RESIDUE, ELECTRONS_PER_DALTON = 110.0, 0.535  # of a mean protein
PROTEIN_VOLUME, RNA_VOLUME = 1.21, 0.93  # Å³ per Da: partial specific volumes 0.73 and 0.56 cm³/g
DALTON_PER_NUCLEOTIDE, ELECTRONS_PER_NUCLEOTIDE = 324.0, 165.0
CLEARANCE = 4.5  # Å between a modelled pseudo-atom and the nearest one of the entry


def read_beads(path):
    """Two pseudo-atoms per residue: weight (electrons), centre, and the sigma that keeps its second moment."""
    model = gemmi.read_structure(str(path))[0]
    beads = []
    for chain in model:
        if chain.name in NOT_RIBOSOME:
            continue
        for residue in chain.get_polymer():
            nucleotide = residue.find_atom("C1'", "*") is not None
            groups = ([], [])
            for atom in residue:
                if atom.element.name == "H":
                    continue
                backbone = ("'" in atom.name or "P" in atom.name) if nucleotide else atom.name in BACKBONE
                groups[0 if backbone else 1].append(atom)
            for second, atoms in enumerate(groups):
                if atoms:
                    beads.append((chain.name, residue.seqid.num, 2 * nucleotide + second, *_bead(atoms)))
    chain, residue, kind, position, weight, sigma = zip(*beads)
    return {
        "chain": np.array(chain), "residue": np.array(residue), "kind": np.array(kind),
        "position": np.array(position), "weight": np.array(weight), "sigma": np.array(sigma),
    }  # fmt: skip


def _bead(atoms):
    position = np.array([atom.pos.tolist() for atom in atoms])
    electrons = np.array([atom.element.atomic_number for atom in atoms], dtype=float)
    centre = np.average(position, axis=0, weights=electrons)
    spread = np.average(((position - centre) ** 2).sum(1), weights=electrons) / 3
    thermal = np.average([atom.b_iso for atom in atoms], weights=electrons) / (8 * np.pi**2)
    return centre, electrons.sum(), np.sqrt(spread + thermal)


def label_parts(beads):
    """Index into `PARTS` of each pseudo-atom of the entry: 60S, 40S body or 40S head."""
    chain, residue = beads["chain"], beads["residue"]
    small = np.char.startswith(chain, "S")
    in_head = np.isin(chain, HEAD_PROTEINS) | ((chain == "S60") & (residue >= HEAD_RNA[0]) & (residue <= HEAD_RNA[1]))
    return np.where(small, np.where(in_head, 2, 1), 0)


def sugars(beads, chain, numbers):
    """Ribose-phosphate centres of nucleotides, in the order of ``numbers``."""
    found = (beads["chain"] == chain) & (beads["kind"] == 2)
    place = {number: position for number, position in zip(beads["residue"][found], beads["position"][found])}
    return np.array([place[number] for number in numbers])


def helix_axis(strands):
    """Direction of a helix from points along its strands: second differences point at the axis (Kahn 1989)."""
    direction = np.zeros(3)
    along = strands[0][-1] - strands[0][0]
    for strand in strands:
        inward = strand[:-2] - 2 * strand[1:-1] + strand[2:]
        crossed = np.cross(inward[:-1], inward[1:]).sum(0)
        direction += crossed * np.sign(crossed @ along)
    return direction / np.linalg.norm(direction)


def find_axes(beads, part):
    """Ratchet and swivel: a unit vector and a point each, from contacts and from the neck's helix."""
    position = beads["position"]
    large, body = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
    distance, nearest = cKDTree(position[large]).query(position[body], distance_upper_bound=8.0)
    touching = np.isfinite(distance)
    contacts = (position[body[touching]] + position[large[nearest[touching]]]) / 2
    chain, residue = beads["chain"][body[touching]], beads["residue"][body[touching]]
    on_h44 = (chain == "S60") & (residue >= H44[0]) & (residue <= H44[1])
    ratchet = np.linalg.svd(contacts - contacts.mean(0))[2][2]  # normal of the interface
    mass = {name: _mean(beads, part == index) for index, name in enumerate(PARTS[:3])}
    ratchet = ratchet * np.sign(ratchet @ (mass["40S body"] - mass["60S"]))  # from the 60S towards the 40S
    five, three = (sugars(beads, "S60", range(first, last + 1)) for first, last in H28_STRANDS)
    swivel = helix_axis([five, three[::-1]])
    hinge = sugars(beads, "S60", H28_HINGE).mean(0)
    l1 = sugars(beads, "L50", (STALKS["60S L1 stalk"][0] - 1, STALKS["60S L1 stalk"][1] + 1)).mean(0)
    face = _mean(beads, np.isin(beads["chain"], ["SS0"])) - hinge  # uS13: the head's side towards the 60S
    swivel = swivel * np.sign(np.cross(swivel, face) @ (l1 - hinge))  # positive turns it towards the E site
    return {"ratchet": (ratchet, contacts[on_h44].mean(0)), "swivel": (swivel, hinge)}, contacts


def _mean(beads, chosen):
    return np.average(beads["position"][chosen], axis=0, weights=beads["weight"][chosen])


def lattice(low, high, step, seed):
    """Points of a cubic lattice, each moved a little, so that no lattice planes show in projections."""
    grid = np.meshgrid(*(np.arange(a, b, step) for a, b in zip(low, high)), indexing="ij")
    points = np.stack([axis.ravel() for axis in grid], axis=1)
    return points + np.random.default_rng(seed).uniform(-0.3, 0.3, points.shape) * step


def build_factor(beads, occupied):
    """Residue-sized pseudo-atoms in the free space nearest to the line from the sarcin–ricin loop to the A site."""
    tree = cKDTree(occupied)
    loop = sugars(beads, "L50", range(SARCIN_RICIN[0], SARCIN_RICIN[1] + 1)).mean(0)
    site = sugars(beads, "S60", DECODING_SITE).mean(0)
    step = (PROTEIN_VOLUME * DALTON_PER_RESIDUE) ** (1 / 3)
    points = lattice(np.minimum(loop, site) - 60, np.maximum(loop, site) + 60, step, seed=6205)
    points = points[tree.query(points)[0] > CLEARANCE]
    along = np.clip((points - loop) @ (site - loop) / ((site - loop) @ (site - loop)), 0, 1)
    from_line = np.linalg.norm(points - loop - along[:, None] * (site - loop), axis=1)
    count = round(FACTOR_DALTON / DALTON_PER_RESIDUE)
    reachable = _connected(points, from_line, 1.6 * step)
    return points[reachable[:count]], DALTON_PER_RESIDUE * ELECTRONS_PER_DALTON, step / 2


def _connected(points, order_by, reach):
    """Indices in increasing ``order_by``, of those linked to the first through neighbours within ``reach``."""
    from scipy.sparse.csgraph import connected_components

    near = np.flatnonzero(order_by < 45)
    group = connected_components(cKDTree(points[near]).sparse_distance_matrix(cKDTree(points[near]), reach))[1]
    near = near[group == np.bincount(group).argmax()]
    return near[np.argsort(order_by[near])]


def build_stalk(beads, occupied, gap):
    """The nucleotides of a gap as a 2:1:1 ellipsoid that continues the stem on both sides of the gap."""
    first, last = gap
    count = last - first + 1
    root = sugars(beads, "L50", (first - 1, last + 1)).mean(0)
    inner = sugars(beads, "L50", (first - 6, last + 6)).mean(0)
    outward = (root - inner) / np.linalg.norm(root - inner)
    step = (RNA_VOLUME * DALTON_PER_NUCLEOTIDE / 2) ** (1 / 3)  # two pseudo-atoms per nucleotide
    volume = count * RNA_VOLUME * DALTON_PER_NUCLEOTIDE
    radius = (volume / (2 * 4 / 3 * np.pi)) ** (1 / 3)
    centre = root + outward * 2 * radius
    points = lattice(centre - 3 * radius, centre + 3 * radius, step, seed=first)
    offset = points - centre
    along = offset @ outward
    inside = (along / 2) ** 2 + (offset**2).sum(1) - along**2
    inside[cKDTree(occupied).query(points)[0] < CLEARANCE] = np.inf
    return points[np.argsort(inside)[: 2 * count]], ELECTRONS_PER_NUCLEOTIDE / 2, step / 2


def standard_frame(beads, part, axes):
    """Rotation and origin of the stored frame: x from 40S to 60S, y towards the head, origin at the mean."""
    x = -axes["ratchet"][0]
    up = _mean(beads, part == 2) - _mean(beads, part == 1)
    y = up - (up @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)]), _mean(beads, part <= 2)


def assemble(path):
    """Everything that the file holds, in the standard frame, and the contacts for the printed checks."""
    beads = read_beads(path)
    part = label_parts(beads)
    axes, contacts = find_axes(beads, part)
    extra = []
    occupied = beads["position"]
    for name, gap in STALKS.items():
        extra.append((PARTS.index(name), *build_stalk(beads, occupied, gap)))
        occupied = np.concatenate([occupied, extra[-1][1]])
    extra.append((PARTS.index("factor"), *build_factor(beads, occupied)))
    turn, origin = standard_frame(beads, part, axes)
    rows = [len(points) for _, points, _, _ in extra]
    columns = {"part": 0, "weight": 2, "sigma": 3}
    tail = {key: np.repeat([row[column] for row in extra], rows) for key, column in columns.items()}
    position = np.concatenate([beads["position"], *(row[1] for row in extra)])
    names = sorted(set(beads["chain"]))
    record = {
        "coordinates": np.round((position - origin) @ turn.T * 100).astype(np.int16),
        "weights": np.round(np.concatenate([beads["weight"], tail["weight"]])).astype(np.uint8),
        "sigma": np.round(np.concatenate([beads["sigma"], tail["sigma"]]) * 50).astype(np.uint8),
        "part": np.concatenate([part, tail["part"]]).astype(np.uint8),
        "kind": np.concatenate([beads["kind"], np.full(sum(rows), 4)]).astype(np.uint8),
        "chain": np.concatenate([np.searchsorted(names, beads["chain"]), np.full(sum(rows), 255)]).astype(np.uint8),
        "residue": np.concatenate([beads["residue"], np.zeros(sum(rows), int)]).astype(np.int16),
        "part_names": np.array(PARTS), "kind_names": np.array(KINDS), "chain_names": np.array(names),
        "coordinate_unit": np.float64(0.01), "sigma_unit": np.float64(0.02),
    }  # fmt: skip
    for name, (direction, point) in axes.items():
        record[f"{name}_axis"], record[f"{name}_point"] = turn @ direction, turn @ (point - origin)
    landmarks = {
        "bridge_b3": sugars(beads, "S60", BRIDGE_B3).mean(0),
        "decoding_site": sugars(beads, "S60", DECODING_SITE).mean(0),
        "sarcin_ricin_loop": sugars(beads, "L50", range(SARCIN_RICIN[0], SARCIN_RICIN[1] + 1)).mean(0),
    }  # fmt: skip
    record.update({name: turn @ (point - origin) for name, point in landmarks.items()})
    return record, (contacts - origin) @ turn.T


def report(record, contacts):
    """Print the geometry that README.md quotes."""
    position, weight = record["coordinates"] * record["coordinate_unit"], record["weights"].astype(float)
    part, ratchet, swivel = record["part"], record["ratchet_axis"], record["swivel_axis"]
    means = [np.average(position[part == i], axis=0, weights=weight[part == i]) for i in range(len(PARTS))]
    for index, name in enumerate(PARTS):
        count, electrons = (part == index).sum(), weight[part == index].sum()
        print(f"{name:12s} {count:6d} pseudo-atoms {electrons:8.0f} electrons centre {means[index].round(1)}")
    print("ratchet axis", ratchet.round(3), "through", record["ratchet_point"].round(1))
    print("swivel axis ", swivel.round(3), "through", record["swivel_point"].round(1))
    small = np.average(means[1:3], axis=0, weights=[weight[part == 1].sum(), weight[part == 2].sum()])
    print(f"ratchet axis to the line of the subunits' centres {angle_between(-ratchet, means[0] - small):.1f}°")
    print(f"swivel axis to the line from body to head {angle_between(swivel, means[2] - means[1]):.1f}°")
    print(f"swivel axis to ratchet axis {angle_between(swivel, ratchet):.1f}°")
    print(f"bridge B3 from the ratchet axis {levers(record['bridge_b3'], ratchet, record['ratchet_point']):.1f} Å")
    for name, moving, degrees in (("ratchet", (1, 2), 10.0), ("swivel", (2,), 18.0)):
        lever = levers(position[np.isin(part, moving)], record[f"{name}_axis"], record[f"{name}_point"])
        step = lever * np.radians(degrees)
        rms = np.sqrt((step**2).mean())
        print(f"{name} by {degrees:g}° moves pseudo-atoms by {rms:.1f} Å rms, {step.max():.1f} Å at most")
    thickness = np.abs((contacts - contacts.mean(0)) @ ratchet)
    print(f"interface: {len(contacts)} contacts, {thickness.mean():.1f} Å mean distance from their plane")
    factor = position[part == PARTS.index("factor")]
    extent = np.sqrt(np.linalg.eigvalsh(np.cov(factor.T)) * 5)[::-1]
    print(f"factor: {len(factor) * DALTON_PER_RESIDUE / 1000:.0f} kDa, semi-axes {extent.round(0)} Å")
    for name in ("sarcin_ricin_loop", "decoding_site"):
        print(f"factor to {name} {np.linalg.norm(factor - record[name], axis=1).min():.1f} Å")
    radius = np.linalg.norm(position, axis=1).max()
    print(f"extent {np.ptp(position, axis=0).round(0)} Å, farthest {radius:.1f} Å from the centre")


def angle_between(a, b):
    """Degrees."""
    return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))


def levers(points, axis, on_axis):
    """Distance of points from a line, Å."""
    offset = points - on_axis
    return np.linalg.norm(offset - np.multiply.outer(offset @ axis, axis), axis=-1)


def main():
    """Make the file beside this script and enter it in the registry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mmcif", type=Path, help="6zu5.cif or 6zu5.cif.gz")
    record, contacts = assemble(parser.parse_args().mmcif)
    report(record, contacts)
    target, registry = FOLDER / "ribosome_6zu5.npz", FOLDER / "registry.json"
    np.savez_compressed(target, **record)
    entries = json.loads(registry.read_text(encoding="utf-8"))
    entries[target.name]["shape"] = list(record["coordinates"].shape)
    entries[target.name]["sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
    registry.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
