"""The same sums wherever they are computed, and after a kill."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryonb.parallel import (
    Checkpoint,
    add_trees,
    chunk_slices,
    fingerprint,
    load_checkpoint,
    map_reduce,
    save_checkpoint,
)
from cryonb.types import Poses

N, SIZE = 1000, 37


@dataclasses.dataclass(frozen=True)
class Statistics:
    total: np.ndarray
    moments: dict
    count: int
    label: str


def statistics(data, chunk):
    part = data[chunk]
    moments = {"first": part.sum(0), "pair": (float(part.sum()), (part**2).sum())}
    return Statistics(np.exp(1j * part).astype(np.complex64), moments, len(part), "demo")


def summed(data, chunk):
    result = statistics(data, chunk)
    return dataclasses.replace(result, total=result.total.sum(0))


def kill_once(data, flag, chunk):
    """Like `summed`, but the first worker that meets the sixth chunk dies."""
    if chunk.start == 5 * SIZE and not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return summed(data, chunk)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(1).normal(size=(N, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with distributed.Client(cluster) as client:
            yield client


def leaves(result):
    return [result.total, result.moments["first"], *result.moments["pair"], result.count]


def assert_equal(a, b):
    # bit for bit: the order of the sum is fixed
    assert type(a) is type(b) and a.label == b.label
    for one, other in zip(leaves(a), leaves(b)):
        np.testing.assert_array_equal(one, other)


def test_sum_is_right_and_in_double_precision(data):
    result = map_reduce(functools.partial(summed, data), chunk_slices(N, SIZE))
    assert result.count == N and result.label == "demo"
    assert result.total.dtype == np.complex128 and result.moments["first"].dtype == np.float64
    np.testing.assert_allclose(result.moments["first"], data.astype(float).sum(0), atol=1e-4)
    # a float32 running sum of 2²⁴ ones would stop there
    ones = map_reduce(lambda chunk: np.float32([2**24 if chunk.start == 0 else 1]), chunk_slices(9, 1))
    assert ones[0] == 2**24 + 8


@pytest.mark.parametrize("workers", [2, "threads"])
def test_threads_give_the_same_bits(data, workers):
    function = functools.partial(summed, data)
    chunks = chunk_slices(N, SIZE)
    assert_equal(map_reduce(function, chunks), map_reduce(function, chunks, workers=workers))


def blas_threads(chunk):
    """Largest number of threads that a BLAS of this process would use."""
    from threadpoolctl import threadpool_info

    return np.max([pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"])


@pytest.mark.parametrize("workers", [1, 2])
def test_chunks_have_one_blas_thread_and_the_caller_keeps_his(workers):
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=2, user_api="blas"):
        assert map_reduce(blas_threads, range(3), combine=max, workers=workers) == 1
        assert blas_threads(0) == 2


def test_the_scale_of_a_reference_is_found_with_one_blas_thread(few, monkeypatch):
    from threadpoolctl import threadpool_limits

    from cryonb import bayes
    from cryonb.bayes import coarse

    particles, _, reference = few
    seen, scores = [], coarse.global_scores
    monkeypatch.setattr(coarse, "global_scores", lambda *given: (seen.append(blas_threads(0)), scores(*given))[1])
    with threadpool_limits(limits=2, user_api="blas"):
        bayes.classify_3d(particles, reference, n_classes=1, rng=0, n_iterations=1, workers=1, progress=False)
    assert seen and set(seen) == {1}


def test_cluster_gives_the_same_bits_also_when_a_worker_is_killed(data, client, tmp_path):
    chunks = chunk_slices(N, SIZE)
    expected = map_reduce(functools.partial(summed, data), chunks)
    assert_equal(expected, map_reduce(functools.partial(summed, data), chunks, workers=client))
    flag = tmp_path / "killed"
    assert_equal(expected, map_reduce(functools.partial(kill_once, data, str(flag)), chunks, workers=client))
    assert flag.exists()


def test_reconstruction_on_the_cluster(client, monkeypatch):
    from cryonb import reconstruction
    from cryonb.rotations import random_rotations
    from cryonb.types import CTF, Particles, Poses

    monkeypatch.setattr(reconstruction, "CHUNK_BYTES", 4 * 16**2 * 50)  # several chunks
    images = np.random.default_rng(0).normal(size=(200, 16, 16)).astype(np.float32)
    lens = CTF(np.linspace(8e3, 2e4, 200), np.linspace(8e3, 2e4, 200))
    particles = Particles(images, 4.0, lens, Poses(random_rotations(200, rng=0)))
    here = reconstruction.reconstruct(particles, progress=False)
    there = reconstruction.reconstruct(particles, workers=client, progress=False)
    np.testing.assert_array_equal(here.data, there.data)


def test_simulation_on_the_cluster(client, monkeypatch, tmp_path):
    from cryonb import samples, simulate
    from cryonb.simulate import photographs

    monkeypatch.setattr(photographs, "CHUNK", 8)
    kinds = [simulate.Species("blob", 0.8), simulate.Species("junk", 0.2, junk=True)]
    population = simulate.populate(samples.blobs(rng=0), kinds, 30, rng=3)
    imaging = simulate.Imaging(size_px=16, pixel_size=16.0, snr=0.3)
    here, truth = simulate.particles(population, imaging, rng=5, progress=False)
    there, same = simulate.particles(population, imaging, rng=5, workers=client, progress=False)
    np.testing.assert_array_equal(there.images, here.images)
    assert same.scale == truth.scale
    filed, _ = simulate.particles(
        population, imaging, rng=5, workers=client, path=tmp_path / "stack.mrcs", progress=False
    )
    np.testing.assert_array_equal(np.asarray(filed.images), here.images)
    with pytest.raises(ValueError, match="workers must be a number ≥ 1"):
        simulate.particles(population, imaging, rng=5, workers="many", progress=False)


@pytest.fixture(scope="module")
def few():
    """Sixty images of a phantom with 24 px, their poses, and the phantom."""
    from cryonb import samples, simulate

    body = samples.blobs(20, radius=70.0, sigma=10.0, rng=5)
    imaging = simulate.Imaging(24, 10.0, snr=0.5, diameter=190.0, shift_sigma=5.0)
    population = simulate.populate(body, simulate.Species("all"), 60, rng=7)
    particles, truth = simulate.particles(population, imaging, rng=8, progress=False)
    return particles, truth.poses, body.volume(24, 10.0)


@pytest.mark.parametrize("question", ["classify_2d", "classify_3d", "choose_classes", "refine", "initial_model"])
def test_the_engine_on_the_cluster(client, few, question, monkeypatch):
    from cryonb import bayes

    for room in ("expectation", "averages"):
        monkeypatch.setattr(sys.modules[f"cryonb.bayes.{room}"], "CHUNK", 15)  # several chunks
    particles, poses, reference = few
    options = {"rng": 1, "mask_diameter": 190.0, "progress": False}
    arguments, more = {
        "classify_2d": ((particles,), {"n_classes": 2, "n_iterations": 2}),
        "classify_3d": (
            (dataclasses.replace(particles, poses=poses), reference), {"n_classes": 2, "n_iterations": 2}
        ),
        "choose_classes": ((particles, reference), {"most": 2, "tau_fudges": (1.0,)}),
        "refine": ((particles, reference), {}),
        "initial_model": ((particles,), {"n_batches": 3, "batch_size": 40}),
    }[question]  # fmt: skip
    here, there = (
        getattr(bayes, question)(*arguments, workers=workers, **options, **more) for workers in (2, client)
    )  # fmt: skip
    if question == "choose_classes":  # no poses given: refined first
        np.testing.assert_array_equal(here.class_evidence, there.class_evidence)
        here, there = here.classification, there.classification
    assert len(here.iterations) == len(there.iterations)
    for record, other in zip(here.iterations, there.iterations):
        np.testing.assert_array_equal(record.noise, other.noise)
    np.testing.assert_array_equal(here.poses.rotation.as_quat(), there.poses.rotation.as_quat())
    np.testing.assert_array_equal(here.poses.shift, there.poses.shift)
    if question != "refine":
        np.testing.assert_array_equal(here.probability, there.probability)


def test_error_on_the_cluster_names_the_chunk(client):
    with pytest.raises(ZeroDivisionError) as caught:
        map_reduce(_fail_at_three, range(5), workers=client)
    assert caught.value.__notes__ == ["in chunk 3 of 5: 3"]


def _fail_at_three(chunk):
    return 1 // (chunk - 3)


@pytest.mark.parametrize("workers", [1, 2])
def test_error_names_the_chunk(workers):
    with pytest.raises(ZeroDivisionError) as caught:
        map_reduce(_fail_at_three, range(5), workers=workers)
    assert caught.value.__notes__ == ["in chunk 3 of 5: 3"]


def test_few_results_wait_at_a_time():
    lock, alive, most = threading.Lock(), 0, 0

    def function(chunk):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return chunk

    def combine(total, item):
        nonlocal alive
        with lock:
            alive -= 1
        return total + item

    assert map_reduce(function, range(200), combine=combine, workers=2) == 199 * 100
    assert most <= 6  # 2 per thread in the window, and what has been counted but not yet combined


def test_combine_replaces_the_sum():
    assert map_reduce(lambda x: x * x % 7, range(10), combine=max) == 4


def test_trees_keep_their_structure():
    Pair = namedtuple("Pair", "a b")
    item = Pair([1, np.float32(2)], {"x": (None, "name", 1j)})
    total = add_trees(add_trees(None, item), item)
    assert total == Pair([2, 4.0], {"x": (None, "name", 2j)})
    source = np.ones(2, np.float32)
    add_trees(add_trees(None, source), source)
    assert source.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"a": 1}, {"b": 1}, "different structure"),
        ([1], [1, 2], "different structure"),
        ([1], (1,), "different structure"),
        (np.ones(2), np.ones(3), "different shapes"),
        ("a", "b", "different constants"),
    ],
)
def test_trees_that_do_not_fit(one, other, message):
    with pytest.raises(ValueError, match=message):
        add_trees(add_trees(None, one), other)


def test_no_chunks_and_wrong_workers():
    with pytest.raises(ValueError, match="at least one chunk"):
        map_reduce(abs, [])
    for workers in (0, "many", True, 1.5):
        with pytest.raises(ValueError, match="workers must be"):
            map_reduce(abs, [1], workers=workers)
    with pytest.raises(ValueError, match="size ≥ 1"):
        chunk_slices(3, 0)


JOB = """
import functools, os, signal, sys
import numpy as np
from cryonb.parallel import Checkpoint, chunk_slices, map_reduce

def function(chunk):
    if kill and chunk.start == 600:
        os.kill(os.getpid(), signal.SIGKILL)
    if not kill and chunk.start < 500:
        raise RuntimeError("computed again")
    rows = np.random.default_rng(chunk.start).normal(size=(3, chunk.stop - chunk.start)).astype(np.float32)
    return {"sum": rows.sum(1), "n": chunk.stop - chunk.start, "square": float((rows**2).sum())}

path, kill = sys.argv[1], sys.argv[2] == "kill"
checkpoint = Checkpoint(path, key={"job": "demo"}, every=0)
result = map_reduce(function, chunk_slices(1000, 50), checkpoint=checkpoint)
print(repr([*result["sum"].tolist(), result["n"], result["square"]]))
"""


def test_killed_job_resumes_to_the_same_numbers(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    path = tmp_path / "sum.npz"
    killed = subprocess.run([sys.executable, script, path, "kill"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL and path.exists()
    resumed = subprocess.run([sys.executable, script, path, "resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    rows = [np.random.default_rng(s).normal(size=(3, 50)).astype(np.float32) for s in range(0, 1000, 50)]
    sums = map_reduce(lambda i: rows[i].sum(1), range(20)).tolist()
    square = map_reduce(lambda i: float((rows[i] ** 2).sum()), range(20))
    assert resumed.stdout.strip() == repr([*sums, 1000, square])
    assert list(tmp_path.iterdir()) == [script]  # nothing left beside it


def interrupted(path, function, *, key="demo", stop=6):
    """Leave a checkpoint behind as a killed run does."""

    @functools.wraps(function)
    def failing(chunk):
        if chunk == stop:
            raise KeyboardInterrupt
        return function(chunk)

    with pytest.raises(KeyboardInterrupt):
        map_reduce(failing, range(10), checkpoint=Checkpoint(path, key=key, every=0))


def test_checkpoint_of_another_job_is_refused(tmp_path):
    path = tmp_path / "sum.npz"
    interrupted(path, float, key="first")
    with pytest.raises(ValueError, match=r"checkpoint of another job.*key \(first, not second\)"):
        map_reduce(float, range(10), checkpoint=Checkpoint(path, key="second"))
    with pytest.raises(ValueError, match="checkpoint of another job"):
        map_reduce(float, range(11), checkpoint=Checkpoint(path, key="first"))
    assert map_reduce(float, range(10), checkpoint=Checkpoint(path, key="first", keep=True)) == 45
    assert path.exists()


def square(i):
    return i * i


def test_the_sum_of_another_function_is_not_resumed(tmp_path):
    path = tmp_path / "sum.npz"
    interrupted(path, float, key="one key for both")
    with pytest.raises(ValueError, match="checkpoint of another job.*float, not .*square"):
        map_reduce(square, range(10), checkpoint=Checkpoint(path, key="one key for both"))
    # A function may travel with its arguments: what those are is for the key to say.
    power = functools.partial(pow, exp=2)
    interrupted(path.with_name("power.npz"), functools.update_wrapper(lambda i: power(i), pow), key="squares")
    assert map_reduce(power, range(10), checkpoint=Checkpoint(path.with_name("power.npz"), key="squares")) == 285


def test_a_checkpoint_needs_a_key(tmp_path):
    with pytest.raises(TypeError, match=r"expected Checkpoint\(path, key\) .* got .*sum\.npz"):
        map_reduce(float, range(10), checkpoint=tmp_path / "sum.npz")
    with pytest.raises(TypeError, match="key"):
        Checkpoint(tmp_path / "sum.npz")
    for empty in ("", None, {}):
        with pytest.raises(ValueError, match=r"sum\.npz: a checkpoint needs a key"):
            Checkpoint(tmp_path / "sum.npz", key=empty)


def test_checkpoint_of_dataclass_trees(data, tmp_path):
    path = tmp_path / "sum.npz"
    chunks = chunk_slices(N, SIZE)

    def function(i):
        return summed(data, chunks[i])

    interrupted(path, function)
    result = map_reduce(function, range(10), checkpoint=Checkpoint(path, key="demo"))
    assert_equal(result, map_reduce(lambda i: summed(data, chunks[i]), range(10)))


def test_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "sum.npz"
    interrupted(path, float)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="sum.npz is not a readable checkpoint"):
        map_reduce(float, range(10), checkpoint=Checkpoint(path, key="demo"))


def test_saved_values_come_back(tmp_path):
    path = tmp_path / "deep" / "state.npz"
    values = {"volume": np.arange(8.0).reshape(2, 2, 2), "name": "röntgen", "n": 3, "z": 1j, "x": np.float32(0.5),
              "settings": {"classes": [1, 2], "prior": None}, "flags": np.array([True, False])}  # fmt: skip
    assert load_checkpoint(path, key="k") is None
    save_checkpoint(path, values, key="k")
    loaded = load_checkpoint(path, key="k")
    assert loaded.keys() == values.keys()
    for name, value in values.items():
        np.testing.assert_array_equal(loaded[name], value)
    with pytest.raises(ValueError, match="another job"):
        load_checkpoint(path, key="other")
    with pytest.raises(TypeError, match="array of Python objects"):
        save_checkpoint(path, {"bad": np.array([{}])})
    assert [p.name for p in path.parent.iterdir()] == ["state.npz"]


def test_a_fingerprint_tells_data_apart(tmp_path):
    from cryonb import io

    images = np.random.default_rng(0).standard_normal((40, 8, 8)).astype(np.float32)
    poses = Poses(Rotation.random(40, rng=0))
    io.write_stack(images, tmp_path / "a.mrcs", 2.0)
    lazy = io.read_stack(tmp_path / "a.mrcs")
    assert fingerprint(lazy, poses) == fingerprint(io.read_stack(tmp_path / "a.mrcs"), poses)
    others = [fingerprint(lazy[1:], poses), fingerprint(lazy, Poses(Rotation.random(40, rng=1)))]
    io.write_stack(images + 1, tmp_path / "b.mrcs", 2.0)
    others += [fingerprint(io.read_stack(tmp_path / "b.mrcs"), poses), fingerprint(lazy, None)]
    assert len({fingerprint(lazy, poses), *others}) == 5
