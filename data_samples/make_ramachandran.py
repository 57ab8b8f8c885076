"""Write cryonb/atomic/ramachandran.npz: the six Ramachandran distributions of MolProbity on their own grid.

    PYTHON data_samples/make_ramachandran.py cryonb/atomic/ramachandran.npz

PYTHON is an interpreter with `cctbx-base` (BSD-3-Clause-LBNL), which has the Top8000 tables compiled in. They hold, at
φ and ψ of −179°, −177°, … 179°, the share of well-determined residues that lie in less likely places (Lovell et al.,
Proteins 50:437 (2003); Chen et al., Acta Cryst. D 66:12 (2010)); between the cells the program is linear. They are kept
as 10,000 · (log10 share + 6) in 16 bits, 0 for none, which is exact to 1.2e-4 of a value.
"""

import sys

import numpy as np


def main():
    from mmtbx.rotamer.ramachandran_eval import RamachandranEval, aminoAcids_8000

    table, axis = RamachandranEval(), np.arange(180) * 2 - 179.0
    share = np.array([[[table.evaluate(kind, (phi, psi)) for psi in axis] for phi in axis] for kind in aminoAcids_8000])
    code = np.clip(np.rint((np.log10(np.maximum(share, 1e-6)) + 6) * 10_000), 0, 60_000).astype(np.uint16)
    np.savez_compressed(sys.argv[1], code=np.where(share > 1e-6, code, 0))


if __name__ == "__main__":
    main()
