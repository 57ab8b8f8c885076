"""RELION's own numbers, typed in, and RELION's programs where they are installed.

The numbers come from RELION 3.1.3 (Debian package ``relion``), on the files that `write_files` makes:

    relion_project --i volume.mrc --o plain --ang particles.star --angpix 5
    relion_project --i volume.mrc --o seen --ang particles.star --angpix 5 --ctf
    relion_reconstruct --i many.star --o found.mrc --ctf

``benchmarks/relion_conventions.py`` does the same with a ribosome at 64 pixels.
"""

import shutil
import subprocess

import numpy as np
import pytest

from cryonb import ctf as ctf_room
from cryonb import io
from cryonb.projection import project
from cryonb.reconstruction import reconstruct
from cryonb.resolution import fourier_shell_correlation
from cryonb.rotations import from_relion_angles, point_group
from cryonb.types import CTF, Particles, Poses, Volume

SIZE_PX, PIXEL_SIZE = 20, 5.0

# rot, tilt, psi in degrees, origin x, y in Å; defocus U, V in Å and angle in degrees
VIEWS = np.array([[0, 0, 0, 0, 0], [90, 0, 0, 0, 0], [30, 50, -70, 7.5, -4.0], [200, 120, 10, -6.0, 11.0]])
LENSES = np.array([[12000, 12000, 0], [15000, 15000, 0], [18000, 14000, 25], [9000, 7000, -60]], dtype=float)

# rows 6, 8, 10, 12 and columns 5, 8, 10, 13, 15 of each image, less its mean
ROWS, COLUMNS = [6, 8, 10, 12], [5, 8, 10, 13, 15]
PLAIN = [
    [[-0.5490, -0.0327, 0.8155, 0.2385, -0.3085], [-0.5247, 0.8407, 3.3926, 2.5732, 0.5163],
     [-0.3791, 1.2350, 3.7774, 4.1611, 1.1811], [0.0635, 2.5348, 2.7450, 2.2830, 0.5031]],
    [[-0.3956, 1.4712, 2.6586, 0.5016, -0.4063], [-0.1610, 3.4968, 5.0112, 1.3565, -0.2053],
     [-0.0620, 3.3926, 3.7774, 2.0721, 0.4336], [-0.3654, 0.8407, 1.2350, 2.8187, 1.1417]],
    [[-0.4940, 0.4962, 0.6301, -0.4622, -0.5379], [-0.2220, 1.2739, 1.6082, -0.2435, -0.5064],
     [1.2495, 1.8396, 2.6500, 0.4385, -0.4009], [2.6844, 3.0948, 4.5094, 1.1796, -0.3021]],
    [[-0.5221, 0.5425, 2.3653, 2.7976, 1.2783], [-0.4900, 0.5359, 1.8702, 4.5805, 2.6514],
     [-0.4098, 1.4159, 1.8270, 2.7956, 1.5514], [-0.4785, 0.4286, 0.4060, 0.2815, -0.0344]],
]  # fmt: skip
SEEN = [
    [[-0.0834, -0.1945, 0.0469, -0.3495, -0.2480], [-0.1462, -0.0506, 1.1902, 0.5886, -0.1698],
     [-0.2528, -0.2887, 0.9379, 1.5440, 0.1101], [-0.1391, 0.8227, 0.3961, 0.5345, -0.1267]],
    [[-0.3065, 0.1386, 0.9035, -0.1746, -0.2540], [-0.4219, 1.3275, 2.1634, -0.0830, -0.4532],
     [-0.2877, 1.2800, 1.1214, 0.3436, -0.1615], [-0.2719, -0.0700, -0.2959, 1.3173, 0.4880]],
    [[-0.2668, 0.3279, 0.3826, -0.2379, -0.0728], [-0.4578, 0.3011, 0.5805, -0.4063, -0.1277],
     [0.3227, -0.0259, 0.7568, -0.2662, -0.2315], [1.2737, 0.8298, 2.0447, 0.1721, -0.3288]],
    [[-0.0974, -0.1340, 0.4312, 0.4796, 0.0494], [-0.1113, -0.1488, -0.0429, 1.4941, 0.6958],
     [-0.1249, 0.5990, 0.3126, 0.6685, 0.2793], [-0.1288, 0.1061, -0.0744, -0.1805, -0.1495]],
]  # fmt: skip


# the reconstruction less its mean: x = 7 … 15 at z = 9, y = 10; and z = 6 … 14 at y = 9, x = 11
FOUND_X = [-0.001, -0.002, 0.003, 0.075, 0.541, 0.971, 0.537, 0.080, 0.004]
FOUND_Z = [-0.002, 0.018, 0.149, 0.290, 0.150, 0.018, 0.015, 0.070, 0.017]


def three_blobs(*, sharpness=1):
    """A volume without symmetry, from a formula."""
    z, y, x = np.indices((SIZE_PX,) * 3) - SIZE_PX // 2
    data = np.exp(-((x - 2) ** 2 + y**2 + (z + 1) ** 2) * sharpness / 8)
    data += 0.7 * np.exp(-((x + 2) ** 2 + (y - 3) ** 2 + z**2) * sharpness / 6)
    data += 0.5 * np.exp(-(x**2 + (y + 2) ** 2 + (z - 3) ** 2) * sharpness / 5)
    return Volume(data, PIXEL_SIZE)


def few_particles():
    return imaged(three_blobs(), VIEWS, LENSES)


def many_particles(n=200):
    """Views on a spiral, with shifts and defoci from formulas."""
    i = np.arange(n)
    tilt = np.degrees(np.arccos(1 - (2 * i + 1) / n))
    views = np.stack([137.5 * i % 360, tilt, 50.0 * i % 360, 6 * np.sin(i), 6 * np.cos(i)], axis=1)
    lenses = np.stack([9000.0 + 60 * i, 8500.0 + 60 * i, 20.0 * i % 180], axis=1)
    return imaged(three_blobs(sharpness=5), views, lenses)


def imaged(volume, views, lenses):
    poses = Poses(from_relion_angles(views[:, :3]), views[:, 3:])
    lens = CTF(*lenses.T)
    return Particles(ctf_room.apply(project(volume, poses), lens, PIXEL_SIZE), PIXEL_SIZE, lens, poses)


def write_files(folder):
    io.write_volume(three_blobs(), folder / "volume.mrc")
    for name, particles in (("particles", few_particles()), ("many", many_particles())):
        io.write_particles(particles, folder / f"{name}.star", stack_path=folder / f"{name}.mrcs")


def without_mean(images):
    # RELION's mean is 4 % above the volume's: it undoes the interpolation also at zero frequency, which needs none
    return images - images.mean(axis=(1, 2), keepdims=True)


def test_projections_equal_relions_numbers():
    """Angles, origins and the sign and astigmatism of the CTF, all at once, to RELION's single precision."""
    particles = few_particles()
    plain = without_mean(project(three_blobs(), particles.poses))
    seen = without_mean(particles.images)
    largest = 5.0  # PLAIN's
    for images, theirs in ((plain, PLAIN), (seen, SEEN)):
        np.testing.assert_allclose(images[:, ROWS][:, :, COLUMNS], theirs, atol=1e-4 * largest)


def test_reconstruction_equals_relions_numbers():
    found = reconstruct(many_particles(), progress=False)
    data = found.data - found.data.mean()
    np.testing.assert_allclose(data[9, 10, 7:16], FOUND_X, atol=0.02)
    np.testing.assert_allclose(data[6:15, 9, 11], FOUND_Z, atol=0.02)


needs_relion = pytest.mark.skipif(
    not (shutil.which("relion_project") and shutil.which("relion_reconstruct") and shutil.which("relion_refine")),
    reason="RELION is not installed",
)


def relion(folder, *command):
    subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True)


@needs_relion
def test_relion_now_gives_the_same(tmp_path):
    write_files(tmp_path)
    for name, option in (("plain", []), ("seen", ["--ctf"])):
        relion(tmp_path, "relion_project", "--i", "volume.mrc", "--o", name, "--ang", "particles.star",
               "--angpix", PIXEL_SIZE, *option)  # fmt: skip
    relion(tmp_path, "relion_reconstruct", "--i", "many.star", "--o", "found.mrc", "--ctf")
    for name, typed in (("plain", PLAIN), ("seen", SEEN)):
        theirs = without_mean(np.asarray(io.read_stack(tmp_path / f"{name}.mrcs")))
        np.testing.assert_allclose(theirs[:, ROWS][:, :, COLUMNS], typed, atol=1e-4)
    theirs = io.read_volume(tmp_path / "found.mrc")
    ours = reconstruct(io.read_particles(tmp_path / "many.star"), progress=False)
    curve = fourier_shell_correlation(ours, theirs).correlation
    assert curve[: round(0.9 * SIZE_PX / 2) + 1].min() > 0.99


@needs_relion
@pytest.mark.parametrize("symmetry", ["C4", "D3", "T", "O", "I1", "I2"])
def test_point_groups_are_oriented_as_relions(tmp_path, symmetry):
    listing = subprocess.run(
        ["relion_refine", "--sym", symmetry, "--print_symmetry_ops"], cwd=tmp_path, capture_output=True, text=True
    ).stdout.splitlines()
    theirs = [
        [[float(word) for word in listing[row + below].split()] for below in (1, 2, 3)]
        for row, line in enumerate(listing)
        if line.strip().startswith("R(")
    ]
    ours = point_group(symmetry).as_matrix()
    assert len(theirs) == len(ours)
    for matrix in theirs:
        assert np.abs(ours - matrix).max(axis=(1, 2)).min() < 1e-4
