"""What a worker of a cluster does: load a model once, answer a shard, fit a block of cells."""

import hashlib
import socket
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_limits

from probekit.cells import fit_cell, read_cell
from probekit.models import load_model
from probekit.shards import Tally, answer_shard, fitting_batch
from probekit.store import ActivationStore

# What decides what numbers come out, besides this package.
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "zarr")


def _describe_code():
    """What this process computes with, in words: of this package the code itself."""
    package = Path(__file__).parent
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    found = {}
    for name in ("probekit-notebooks", *_PACKAGES):
        try:
            # Builds for other devices, 2.13.0+cu126 and 2.13.0+cpu, are the same version.
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    # Of the version alone a change that nobody has committed would not be seen, nor a commit.
    return found | {"the source code of probekit": f"SHA-256 {source.hexdigest()[:12]}"}


#: Of this process, from when it began: files may be others by the time that a task comes.
CODE = _describe_code()


def checked(driver, function, *arguments):
    """Do a task, if this worker has the driver's code: another one's numbers may be others."""
    differing = [
        f"{name} is {CODE.get(name)}, the driver's {expected}"
        for name, expected in driver.items()
        if CODE.get(name) != expected
    ]
    if differing:
        raise ValueError(
            f"Worker {_worker().address} on {socket.gethostname()} works with other code than the "
            f"driver: {'; '.join(differing)}. Install the same on both, and start the worker again."
        )
    return function(*arguments)


_one_at_a_time = threading.Lock()  # a model's hooks are for one batch
_loaded = []  # (request, revision), LanguageModel


def _models(wanted):
    """The models of this process, loaded when they are first asked for."""
    # Those of another run go first: two large ones may not fit.
    _loaded[:] = [each for each in _loaded if each[0] in wanted]
    for key in wanted:
        if key not in [there for there, _ in _loaded]:
            request, revision = key
            try:
                lm = load_model(**request)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"Worker {socket.gethostname()}: {error}") from error
            if lm.revision != revision:
                raise ValueError(
                    f"Worker {socket.gethostname()} has another {lm.name}: revision {lm.revision}, "
                    f"the driver's is {revision}."
                )
            _loaded.append((key, lm))
    return [next(lm for there, lm in _loaded if there == key) for key in wanted]


@contextmanager
def _alone():
    """One at a time in this process, with all of its threads and no more."""
    with _one_at_a_time, _unwatched():
        threads, before = _worker().state.nthreads, torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                yield
        finally:
            torch.set_num_threads(before)  # a worker may be a thread of somebody's session


@contextmanager
def _unwatched():
    """Without Dask's profiler, which looks into each thread every 10 ms: a sixth of the time."""
    worker = _worker()
    profiler = worker.periodic_callbacks.get("profile")
    if profiler is None or not profiler.is_running():  # switched off, or another thread did this
        yield
        return
    worker.loop.add_callback(profiler.stop)
    try:
        yield
    finally:
        worker.loop.add_callback(lambda: profiler.is_running() or profiler.start())


def describe_model(models):
    """Precisions of some models, which are loaded, and the device of the first."""
    with _alone():
        loaded = _models(models)
        return precisions(loaded), str(loaded[0].device)


def precisions(models):
    """In what precision each of some models computes, as text."""
    return " and ".join(str(lm.model.dtype) for lm in models)


def largest_batch(models, *sizes):
    """The batch size that fits this worker's memory."""
    with _alone():
        return fitting_batch(_models(models)[0], *sizes)


def answer(models, dtypes, judge, shard, batch_size, folder, frame, topic, number):
    """Answer one shard and write its activations; return its rows and where they are."""
    folder = _seen(folder)
    with _alone():
        lm, *referee = loaded = _models(models)
        if precisions(loaded) != dtypes:  # a worker that came later
            raise ValueError(
                f"Worker {_worker().address} on {socket.gethostname()} holds the model in "
                f"{precisions(loaded)}, the others in {dtypes}. Give one to load_model(..., "
                "dtype=...)."
            )
        tally = _RemoteTally(topic, number)
        answered = answer_shard(lm, shard, batch_size, *(referee or [judge]), tally)
    # A folder of this attempt: nobody else writes there, whatever the scheduler believes.
    written = _seen(folder) / uuid.uuid4().hex
    for site, values in answered.activations.items():
        written.mkdir(exist_ok=True)
        ActivationStore(written / site, *frame, {}).write(shard.members, values)
    return answered.rows, answered.batch_size, written


def _seen(folder):
    """The driver's folder, which goes away with the driver."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Worker {socket.gethostname()} does not see {folder.parent}. Workers write "
            "activations into the run directory: put it on a file system that all of them share."
        )
    return folder


def _worker():
    from distributed import get_worker

    return get_worker()


class _RemoteTally(Tally):
    """Tells the driver now and then how far a shard is, and stops when it is not wanted."""

    def __init__(self, topic, number):
        super().__init__()
        self.topic, self.number, self.stop = topic, number, _Stop()

    def add(self, correct):
        self.stop.check()
        super().add(correct)
        if self.n % 8 == 0:
            self.stop.worker.log_event(self.topic, [self.number, *map(int, self.state)])


class _Stop:
    """Whether the task of this thread was cancelled."""

    def __init__(self):
        self.worker = _worker()
        self.key = self.worker.get_current_task()

    def check(self):
        task = self.worker.state.tasks.get(self.key)
        if task is None or task.state == "cancelled":
            raise RuntimeError("The driver cancelled the task.")


def fit(cells, block, plan, fitter):
    """Fit the cells of a block, given their activations or where those are."""
    stop = _Stop()
    stored = isinstance(cells, StoredActivations)
    if stored:
        cells.check()
    results = []
    with _unwatched():
        for cell in block if stored else cells:
            stop.check()
            X = cells.read(*cell) if stored else cell
            results.append(fit_cell(X, plan, fitter))
    return results


@dataclass(frozen=True)
class StoredActivations:
    """Activations on disk, to be read by another process that sees the same file system."""

    activations: xr.Dataset
    source: str
    files: dict
    kept: np.ndarray

    @classmethod
    def of(cls, activations, kept):
        """None of activations that are in memory, or that nobody knows the file of."""
        source = activations.encoding.get("source")
        array = activations["activation"].variable
        if array._in_memory or array.chunks or not source or not Path(source).exists():
            return None
        lazy = activations[["activation"]].reset_coords(drop=True)
        lazy = lazy.drop_vars([n for n, c in lazy.coords.items() if "example" in c.dims])
        return cls(lazy, str(source), _sizes(source), kept)

    def read(self, layer, token):
        """Activations of one cell, as `read_cell` gives them."""
        return read_cell(self.activations, layer, token, self.kept)

    def check(self):
        """Refuse files that are not those that the driver sees."""
        # A shard that is not there would read as missing tokens.
        if _sizes(self.source) != self.files:
            raise FileNotFoundError(
                f"Worker {socket.gethostname()} does not see {self.source} as the driver does. "
                "Workers need the driver's file system; or read the activations into memory "
                "first, to have them sent: activations.load()."
            )


def _sizes(source):
    source = Path(source)
    files = source.rglob("activation/**/*") if source.is_dir() else [source]
    return {str(path.relative_to(source)): path.stat().st_size for path in files if path.is_file()}
