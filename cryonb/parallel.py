"""The same map-reduce over particle chunks in one process, in threads, or on a Dask cluster; and checkpoints.

A stage gives a function of one chunk that returns sufficient statistics, a *tree* of arrays and numbers
(dict, tuple, list or dataclass, nested as you like). The trees add up in the order of the chunks, in double
precision, so that the result does not depend on who computed them.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pickle
import time
import zipfile
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

__all__ = [
    "Checkpoint", "add_trees", "chunk_slices", "fingerprint", "load_checkpoint", "map_reduce", "one_blas_thread",
    "save_checkpoint", "with_one_blas_thread",
]  # fmt: skip

_RETRIES = 3


def chunk_slices(n, size):
    """Consecutive slices of at most ``size`` that cover ``range(n)``.

    Parameters
    ----------
    n : int ≥ 0
        Number of particles.
    size : int ≥ 1
        Particles per chunk.

    Returns
    -------
    list of slice

    Examples
    --------
    >>> chunk_slices(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if n < 0 or size < 1:
        raise ValueError(f"expected n ≥ 0 particles in chunks of size ≥ 1, got n = {n}, size = {size}")
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where and how often `map_reduce` saves its partial sum.

    Parameters
    ----------
    path : path
        One file; written beside and renamed, so that it is never half there.
    key : str or JSON-like value
        What identifies the job (its settings and input); not empty, for a sum resumed by another job would be of both.
        A checkpoint with another key, of other chunks, or of a function with another name is refused.
    every : float
        Seconds between two saves, at least.
    keep : bool
        Keep the file after the last chunk (it then still holds the last partial sum).
    """

    path: str | Path
    key: object
    every: float = 5.0
    keep: bool = False

    def __post_init__(self):
        if isinstance(self.key, (str, bytes, dict, list, tuple, type(None))) and not self.key:
            raise ValueError(f"{self.path}: a checkpoint needs a key that identifies the job, got {self.key!r}")


def map_reduce(function, chunks, *, combine=None, workers=1, progress=False, checkpoint=None):
    """Fold ``function(chunk)`` over all chunks, in their order, wherever they are computed.

    Parameters
    ----------
    function : callable
        Takes one chunk, returns a tree (see the module) of sufficient statistics. For a Dask cluster it travels
        to the workers once, with all that a ``functools.partial`` holds.
    chunks : iterable
        For example `chunk_slices`.
    combine : callable (total, item) -> total, optional
        Instead of the sum of trees (`add_trees`); the first total is the first item. With a checkpoint, a total
        must have the structure of an item.
    workers : 1, int, "threads", or dask.distributed.Client
        This process; that many threads; one thread per core; a cluster.
    progress : bool or str
        Show a bar; a string is its label.
    checkpoint : Checkpoint, optional
        Save the partial sum now and then, and resume from it when the file is there.

    Returns
    -------
    The tree, with floating-point leaves in double precision. At most two results per worker wait in memory at a time.

    Raises
    ------
    ValueError
        No chunks, or a checkpoint of another job.
    TypeError
        A checkpoint given by its path alone, which would not tell one job from another.
    Exception
        Whatever ``function`` raised, with a note that names the chunk.

    Notes
    -----
    A Dask worker that dies changes nothing but the time: its chunks are computed again elsewhere.

    Examples
    --------
    >>> data = np.arange(10.0)
    >>> total = map_reduce(lambda c: {"n": c.stop - c.start, "sum": data[c].sum()}, chunk_slices(10, 4))
    >>> total["n"], float(total["sum"])
    (10, 45.0)
    """
    from tqdm.auto import tqdm

    chunks = list(chunks)
    if not chunks:
        raise ValueError("expected at least one chunk, got none")
    fold = add_trees if combine is None else combine
    saver = None if checkpoint is None else _Saver(checkpoint, function, chunks)
    start = 0 if saver is None else saver.start
    bar = tqdm(
        total=len(chunks), initial=start, disable=not progress, desc=progress if isinstance(progress, str) else None
    )
    total = None
    first = True
    results = _ordered_results(function, chunks, start, workers)
    with one_blas_thread():
        try:
            for index, item in results:
                if first and start:
                    total = fold(saver.restore(item), item)
                else:
                    total = fold(total, item) if not (first and combine is not None) else item
                first = False
                if saver is not None:
                    saver.save(index + 1, total)
                bar.update()
        finally:
            results.close()
            bar.close()
    if saver is not None:
        saver.finish()
    return total


def one_blas_thread():
    """A context in which BLAS, of the whole process, has one thread; `with_one_blas_thread` is its decorator.

    Chunks are what runs side by side. Threads of BLAS besides wait for each other by spinning: where another process
    has a core, products of a few hundred rows then take ten times as long.
    """
    return threadpool_limits(limits=1, user_api="blas")


def with_one_blas_thread(function):
    """The function, run in `one_blas_thread`.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
    """

    @functools.wraps(function)
    def limited(*args, **kwargs):
        with one_blas_thread():
            return function(*args, **kwargs)

    return limited


def add_trees(total, item):
    """Sum of two trees, leaf by leaf; arrays of ``total`` are reused where they can hold the sum.

    Parameters
    ----------
    total : tree, or None for an empty sum
        Its double-precision arrays are changed in place.
    item : tree of the same structure
        Left as it is. Strings and None must be equal in both.

    Returns
    -------
    tree; floats in double precision (float32 → float64, complex64 → complex128), integers stay integers.

    Examples
    --------
    >>> total = add_trees(None, {"sum": np.float32([1, 2]), "n": 2})
    >>> add_trees(total, {"sum": np.float32([3, 4]), "n": 1})
    {'sum': array([4., 6.]), 'n': 3}
    """
    if total is None:
        return _map_leaves(_as_total, item)
    return _map_leaves(_add_leaf, total, item)


def save_checkpoint(path, values, *, key=""):
    """Write named values to one file, beside first and then renamed: a reader finds the old file or the new one.

    Parameters
    ----------
    path : path
        The folder is made where missing.
    values : dict of str to ndarray, number, str, None, or JSON-like lists and dicts
    key : str or JSON-like value
        What identifies the job; `load_checkpoint` compares it.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "state.npz"
    >>> save_checkpoint(path, {"iteration": 3, "volume": np.ones(2)}, key="demo")
    >>> state = load_checkpoint(path, key="demo")
    >>> state["iteration"], state["volume"].tolist()
    (3, [1.0, 1.0])
    """
    path = Path(path)
    arrays, plain = {}, {"key": _canonical(key)}
    for name, value in values.items():
        if isinstance(value, (np.ndarray, np.generic, complex)):
            value = np.asarray(value)
            if value.dtype.hasobject:
                raise TypeError(f"checkpoint value {name!r} is an array of Python objects; expected numbers or strings")
            arrays["array:" + name] = value
        else:
            plain["value:" + name] = value
    arrays["plain"] = np.array(json.dumps(plain))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(path, *, key=""):
    """Read what `save_checkpoint` wrote.

    Parameters
    ----------
    path : path
    key : str or JSON-like value
        Must equal the one saved.

    Returns
    -------
    dict, or None where there is no such file.

    Raises
    ------
    ValueError
        The file is damaged, or belongs to another job.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            plain = json.loads(str(stored["plain"]))
            values = {name[6:]: stored[name] for name in stored.files if name.startswith("array:")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); delete it to start afresh") from error
    saved_key = plain.pop("key")
    if saved_key != _canonical(key):
        raise ValueError(
            f"{path} is the checkpoint of another job: {_differences(_canonical(key), saved_key)}; "
            "delete it or choose another path"
        )
    values = {name: value[()] if value.ndim == 0 else value for name, value in values.items()}
    return values | {name[6:]: value for name, value in plain.items()}


def fingerprint(*data):
    """A short text that tells data apart, for the key of a checkpoint: the same settings on other images must not meet.

    Parameters
    ----------
    *data
        Arrays, lazy stacks of images (all are read), rotations, numbers, text, None, lists and dataclasses of such.

    Returns
    -------
    str of 16 hexadecimal digits

    Examples
    --------
    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3)), fingerprint(np.arange(3)) == fingerprint(np.arange(4))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for item in data:
        _feed(digest, item)
    return digest.hexdigest()


def _feed(digest, item):
    digest.update(type(item).__name__.encode())
    if isinstance(item, (list, tuple)):
        for member in item:
            _feed(digest, member)
    elif hasattr(item, "as_quat"):
        _feed(digest, item.as_quat())
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            _feed(digest, getattr(item, field.name))
    elif isinstance(item, np.ndarray) and item.dtype != object and item.nbytes < 1 << 24:
        digest.update(str((item.shape, item.dtype)).encode())
        digest.update(np.ascontiguousarray(item).tobytes())
    elif hasattr(item, "shape") and hasattr(item, "__getitem__") and not hasattr(item, "columns") and len(item.shape):
        digest.update(str(item.shape).encode())
        for part in chunk_slices(len(item), 256):
            digest.update(np.ascontiguousarray(item[part]).tobytes())
    elif item is None or isinstance(item, (str, int, float, bool, np.generic)):
        digest.update(repr(item).encode())


class _Saver:
    """Saves partial sums of one job and finds the one to resume from."""

    def __init__(self, checkpoint, function, chunks):
        if not isinstance(checkpoint, Checkpoint):
            raise TypeError(
                f"expected Checkpoint(path, key) with a key that identifies the job (its settings and input), "
                f"got {checkpoint!r}"
            )
        self.settings = checkpoint
        digest = hashlib.sha256(pickle.dumps(chunks, protocol=5)).hexdigest()[:16]
        self.key = {
            "key": self.settings.key, "function": _function_name(function), "chunks": len(chunks), "digest": digest
        }  # fmt: skip
        self.n = len(chunks)
        self.saved = time.monotonic()
        self.state = load_checkpoint(self.settings.path, key=self.key)
        self.start = 0 if self.state is None else self.state["next_chunk"]

    def restore(self, template):
        """The saved partial sum in the structure of a chunk's result (the file holds only the leaves)."""
        leaves = iter([self.state[f"leaf_{i}"] for i in range(self.state["n_leaves"])])
        self.state = None
        return _map_leaves(lambda _: next(leaves), template)

    def save(self, next_chunk, total):
        # the last chunk is not saved: one must remain to give the restored sum its structure
        if next_chunk == self.n or time.monotonic() - self.saved < self.settings.every:
            return
        leaves = []
        _map_leaves(leaves.append, total)
        values = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)}
        save_checkpoint(self.settings.path, values | {"next_chunk": next_chunk, "n_leaves": len(leaves)}, key=self.key)
        self.saved = time.monotonic()

    def finish(self):
        if not self.settings.keep:
            Path(self.settings.path).unlink(missing_ok=True)


def _function_name(function):
    """Name by which a checkpoint knows a function again; of the function inside for a ``functools.partial``."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", type(function).__qualname__)


def _ordered_results(function, chunks, start, workers):
    """Yield (index, result) in order from chunk ``start`` on."""
    todo = range(start, len(chunks))
    if hasattr(workers, "scatter"):
        return _from_cluster(function, chunks, todo, workers)
    if workers == "threads":
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not isinstance(workers, (int, np.integer)) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f'workers must be a number ≥ 1, "threads" or a dask.distributed.Client, got {workers!r}')
    if workers == 1:
        return ((index, _call(function, index, chunks)) for index in todo)
    return _from_threads(function, chunks, todo, int(workers))


def _from_threads(function, chunks, todo, n_threads):
    pool = ThreadPoolExecutor(n_threads)
    try:
        yield from _window(lambda index: pool.submit(_call, function, index, chunks), todo, 2 * n_threads)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _window(submit, todo, width):
    """Yield results in order with at most ``width`` of them computed or waiting."""
    waiting = deque()
    for index in todo:
        waiting.append((index, submit(index)))
        if len(waiting) == width:
            first, future = waiting.popleft()
            yield first, future.result()
    while waiting:
        first, future = waiting.popleft()
        yield first, future.result()


def _from_cluster(function, chunks, todo, client):
    client.wait_for_workers(1)
    cluster = _Cluster(function, chunks, client)
    width = max(2, 2 * sum(client.nthreads().values()))
    yield from _window(cluster.submit, todo, width)


class _Cluster:
    """The function on the workers, and the chunks that are computed there."""

    def __init__(self, function, chunks, client):
        self.function, self.chunks, self.client = function, chunks, client
        self.spread()

    def spread(self):
        # on every worker, so that one that dies does not take the only copy with it
        self.remote_function = self.client.scatter([self.function], broadcast=True, hash=False)[0]

    def submit(self, index):
        return _RemoteChunk(self, index)

    def submit_once(self, index):
        return self.client.submit(_apply, self.remote_function, self.chunks[index], pure=False, retries=_RETRIES)


class _RemoteChunk:
    """A chunk under computation; sends it again where the cluster lost it."""

    def __init__(self, cluster, index):
        self.cluster, self.index = cluster, index
        self.future = cluster.submit_once(index)

    def result(self):
        from distributed.scheduler import KilledWorker

        for attempt in range(_RETRIES + 1):
            try:
                return self.future.result()
            except (CancelledError, KilledWorker) as error:
                if attempt == _RETRIES:
                    _name_chunk(error, self.index, self.cluster.chunks)
                    raise
                self.cluster.spread()
                self.future = self.cluster.submit_once(self.index)
            except Exception as error:
                _name_chunk(error, self.index, self.cluster.chunks)
                raise


def _apply(function, chunk):
    with one_blas_thread():
        return function(chunk)


def _call(function, index, chunks):
    try:
        return function(chunks[index])
    except Exception as error:
        _name_chunk(error, index, chunks)
        raise


def _name_chunk(error, index, chunks):
    error.add_note(f"in chunk {index} of {len(chunks)}: {repr(chunks[index])[:200]}")


def _map_leaves(function, tree, *others):
    """Apply ``function`` to the leaves of trees of one structure; keep the structure of the first."""
    for other in others:
        if type(other) is not type(tree) and _is_node(tree):
            raise ValueError(
                f"chunks gave trees of different structure: {type(tree).__name__} and {type(other).__name__}"
            )
    if isinstance(tree, dict):
        _check_same([sorted(map(str, t)) for t in (tree, *others)])
        return {name: _map_leaves(function, tree[name], *[other[name] for other in others]) for name in tree}
    if isinstance(tree, (list, tuple)):
        _check_same([len(t) for t in (tree, *others)])
        items = [_map_leaves(function, *group) for group in zip(tree, *others)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if dataclasses.is_dataclass(tree):
        names = [field.name for field in dataclasses.fields(tree)]
        values = {n: _map_leaves(function, getattr(tree, n), *[getattr(o, n) for o in others]) for n in names}
        copy = object.__new__(type(tree))
        for name, value in values.items():
            object.__setattr__(copy, name, value)
        return copy
    return function(tree, *others)


def _is_node(tree):
    return isinstance(tree, (dict, list, tuple)) or dataclasses.is_dataclass(tree)


def _check_same(descriptions):
    if any(description != descriptions[0] for description in descriptions):
        raise ValueError(f"chunks gave trees of different structure: {descriptions[0]} and {descriptions[1]}")


def _double(dtype):
    return np.result_type(dtype, np.float64) if np.issubdtype(dtype, np.inexact) else dtype


def _as_total(leaf):
    if leaf is None or isinstance(leaf, (str, bool, int, float, complex)):
        return leaf
    leaf = np.asarray(leaf)
    total = leaf.astype(_double(leaf.dtype))
    return total if total.ndim else total[()]


def _add_leaf(total, item):
    if total is None or isinstance(total, str):
        if total != item:
            raise ValueError(f"chunks gave different constants: {total!r} and {item!r}")
        return total
    if np.shape(total) != np.shape(item):
        raise ValueError(f"chunks gave arrays of different shapes: {np.shape(total)} and {np.shape(item)}")
    if isinstance(total, np.ndarray) and np.can_cast(np.asarray(item).dtype, total.dtype, "same_kind"):
        return np.add(total, item, out=total)
    return total + item


def _differences(key, saved):
    """Of two canonical keys: what differs, by name where both have names."""
    try:
        now, before = json.loads(key), json.loads(saved)
    except ValueError:
        now = before = None
    if not (isinstance(now, dict) and isinstance(before, dict)):
        return f"expected key {key}, got {saved}"
    names = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
    said = {"data": "other particles, metadata or references", "seed": "another random seed"}
    differ = [said.get(name, f"another {name} ({before.get(name)}, not {now.get(name)})") for name in names]
    return "it has " + ", ".join(differ)


def _canonical(key):
    return key if isinstance(key, str) else json.dumps(key, sort_keys=True, default=str)
