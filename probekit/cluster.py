"""Work on a Dask cluster: its workers take shards of questions and blocks of cells.

A task is a pure function of its arguments, so one whose worker dies is done again by another, and
what comes out is what one process alone would give. Workers load the model themselves, once each,
as `load_model` would there. They need this package, the model, and the driver's file system: they
write activations beside the run's store, from where the driver moves whole files into it, and read
the cells of a grid from it. The driver alone writes what says that something is finished.

Dask sends tasks and results as pickles and runs what it is sent: whoever reaches its ports can run
code on the driver, the scheduler and the workers. Use it on a network that you trust, or with
certificates: a ``tls://`` address and `distributed.Security`.
"""

import itertools
import queue
import re
import shutil
import sys
import time
import uuid
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from probekit import checks
from probekit.cells import read_cell
from probekit.models import LanguageModel
from probekit.store import ActivationStore
from probekit.worker import (
    CODE,
    StoredActivations,
    answer,
    checked,
    describe_model,
    fit,
    largest_batch,
)

try:
    import distributed
    from distributed.scheduler import KilledWorker
except ImportError:  # the extra is optional; `connected` says so
    distributed = None

_CONNECTING = 10  # seconds to wait for the scheduler
_APPEARING = 30  # and for its first worker
_PATIENCE = 300  # and for another when none is left
_LARGEST_BLOCK = 16  # cells that are lost at most when a worker dies


@contextmanager
def connected(scheduler):
    """Connect to a scheduler that has workers.

    Parameters
    ----------
    scheduler : str or distributed.Client
        An address; or a client, which is left open.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ValueError
        If Dask is not installed, nothing answers at the address, or there are no workers.
    """
    if distributed is None:
        raise ValueError(
            "scheduler= needs Dask, which is not installed. Install it: "
            'pip install "probekit-notebooks[cluster]"'
        )
    if isinstance(scheduler, distributed.Client):
        if scheduler.asynchronous or scheduler.status != "running":
            raise ValueError(
                f"scheduler: the client is {'asynchronous' if scheduler.asynchronous else 'closed'}"
                ". Give one that is open and synchronous, or an address."
            )
        _await_worker(scheduler)
        yield scheduler
        return
    if not isinstance(scheduler, str):
        raise TypeError(
            "scheduler must be an address such as 'tcp://127.0.0.1:8786' or a distributed.Client, "
            f"got {checks.shown(scheduler)}."
        )
    start = (
        "Start one with `dask scheduler`, which prints its address, and workers with `dask worker "
        "ADDRESS`."
    )
    # Before Dask is asked: a client that failed leaves a thread behind, which the next trips over.
    if not re.fullmatch(r"(\w+://)?[^\s/]+:\d{1,5}/?|inproc://\S+", scheduler):
        raise ValueError(
            f"No Dask scheduler answers at {checks.shown(scheduler)} (an address has a port, such "
            f"as tcp://127.0.0.1:8786). {start}"
        )
    try:
        client = distributed.Client(scheduler, timeout=_CONNECTING, set_as_default=False)
    except (OSError, ValueError, TypeError, OverflowError, AssertionError) as error:
        reason = str(error)[:200]  # an address of any length is in it
        raise ValueError(
            f"No Dask scheduler answers at {checks.shown(scheduler)} ({reason}). {start}"
        ) from error
    try:
        _await_worker(client)
        yield client
    finally:
        client.close()


def _await_worker(client):
    try:
        client.wait_for_workers(1, timeout=_APPEARING)
    except TimeoutError as error:
        raise ValueError(
            f"The scheduler at {client.scheduler.address} has no worker after {_APPEARING} s. "
            f"Start some: dask worker {client.scheduler.address} --nworkers 1 --nthreads 1"
        ) from error


class Workers:
    """A cluster's workers, each with the model loaded.

    Parameters
    ----------
    client : distributed.Client
    lm : LanguageModel
        From `load_model`; its weights are not used.
    judge : callable or LanguageModel, optional
        As for `extract`.

    Attributes
    ----------
    dtype, device : str
        Of the model at the workers.
    """

    def __init__(self, client, lm, judge=None):
        self.client = client
        models = [lm, judge] if isinstance(judge, LanguageModel) else [lm]
        if not all(model.request for model in models):
            raise ValueError(
                "Workers load the model themselves, and this one was not loaded by load_model. "
                "Save it with save_pretrained() into a folder that they see, and load that."
            )
        self.models = [(model.request, model.revision) for model in models]
        self.judge = None if isinstance(judge, LanguageModel) else judge
        # On each of them, so that a worker that can't is noticed now.
        tasks = [(worker, (self.models,)) for worker in client.nthreads()]
        loaded = [
            found for _, found in _results(client, describe_model, tasks, pinned=True, at_once=1)
        ]
        dtypes, devices = (sorted(set(found)) for found in zip(*loaded, strict=True))
        if len(dtypes) > 1:
            raise ValueError(
                f"The workers hold the model in different precisions: {', '.join(dtypes)}. Give "
                "one to load_model(..., dtype=...)."
            )
        self.dtypes, self.device = dtypes[0], ", ".join(devices)
        self.dtype = self.dtypes.partition(" ")[0]

    def fitting_batch(self, *sizes):
        """The batch size that fits every worker's memory; sizes as for `shards.fitting_batch`."""
        tasks = [(worker, (self.models, *sizes)) for worker in self.client.nthreads()]
        return min(
            fit for _, fit in _results(self.client, largest_batch, tasks, pinned=True, at_once=1)
        )

    def answers(self, shards, stores, batch_size, tally, folder):
        """Answer shards and put their activations into the stores.

        Parameters
        ----------
        shards : dict of {int: Shard}
        stores : dict of {str: ActivationStore}
            Per site.
        batch_size : int
        tally : Tally
        folder : Path
            Where workers may write meanwhile, on the file system of the stores.

        Yields
        ------
        number : int
        rows : DataFrame
            In the order in which they are finished.
        batch_size : int
            The one asked for, or what memory allowed.
        """
        counted = {None: tally.state}  # None: what was there before

        def count(number, *state):
            # A shard that is done again counts anew when it has got further than before.
            counted[number] = max(counted.get(number, (0, 0)), state)
            tally.state = tuple(map(sum, zip(*counted.values(), strict=True)))
            tally.bar.refresh()

        # Of this driver only: what a task of one that was killed still writes is never looked at.
        folder = folder / f"by-workers-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        first = next(iter(stores.values()))
        frame = (first.n_examples, first.shard_size)
        topic = f"probekit-{folder.name}"
        smallest = batch_size

        def tasks():
            for number, shard in shards.items():
                where = (str(folder), frame, topic, number)
                yield number, (self.models, self.dtypes, self.judge, shard, smallest, *where)

        try:
            for number, (rows, batch_size, written) in _results(
                self.client, answer, tasks(), tally.bar, at_once=1, topic=topic, on_event=count
            ):
                smallest = min(smallest, batch_size)
                count(number, len(rows), int(rows["correct"].sum()))
                for site, store in stores.items():
                    store.adopt(shards[number].members, ActivationStore(written / site, *frame, {}))
                yield number, rows, smallest
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def fit_cells(client, activations, cells, kept, plan, fitter, progress):
    """Fit the probes of many cells.

    Parameters
    ----------
    client : distributed.Client
    activations : Dataset
        If it is still on disk, the workers read their cells from there; else they are sent.
    cells : list of (int, int)
        Layers and tokens, counted from 0.
    kept : array of int, (example,)
        Which examples are used.
    plan : Plan
    fitter : Fitter
    progress : bool

    Returns
    -------
    list of dict
        Of `fit_cell`, in the order of the cells.
    """
    threads = sum(client.nthreads().values())
    size = int(np.clip(len(cells) // (4 * threads), 1, _LARGEST_BLOCK))
    blocks = {i: cells[i : i + size] for i in range(0, len(cells), size)}
    stored = StoredActivations.of(activations, kept)
    fitted = {}

    def tasks():
        for start, block in blocks.items():
            # Not those in memory at once: each is sent when its turn comes.
            sent = stored or [read_cell(activations, *cell, kept) for cell in block]
            yield start, (sent, block, plan, fitter)

    with tqdm(total=len(cells), desc="Probing", unit="cell", disable=not progress) as bar:
        for start, results in _results(client, fit, tasks(), bar=bar):
            fitted[start] = results
            bar.update(len(results))
    return [result for start in blocks for result in fitted[start]]


def _results(
    client, function, tasks, bar=None, *, pinned=False, at_once=None, topic=None, on_event=None
):
    """Names of tasks and their results, as they are finished; few are under way at a time.

    Parameters
    ----------
    tasks : iterable of (name, arguments)
    bar : tqdm, optional
        That shows when no worker is there.
    pinned : bool
        Names are workers' addresses, and a task goes to its worker while that is there.
    at_once : int, optional
        Tasks that a worker can do at a time; by default as many as it has threads.
    topic : str, optional
        Of messages that the tasks send, for `on_event`, which is called in this thread.
    """
    tasks, under_way, arrived = iter(tasks), {}, queue.Queue()
    if topic:
        client.subscribe_topic(topic, lambda event: arrived.put(event[1]))
    try:
        while True:
            for name, arguments in _next_few(tasks, client, len(under_way), at_once):
                at = {"workers": [name], "allow_other_workers": True} if pinned else {}
                key = f"{function.__name__}-{uuid.uuid4().hex}"
                future = client.submit(checked, CODE, function, *arguments, key=key, **at)
                under_way[future.key] = name, future
                future.add_done_callback(arrived.put)
            if not under_way:
                return
            item = _arrival(client, arrived, bar)
            if isinstance(item, distributed.Future):
                name, future = under_way.pop(item.key)
                result = _result(client, future)
                del item, future  # its result is dropped at the worker
                yield name, result
            else:
                on_event(*item)
    finally:
        # After an error or Ctrl-C: what waits is not begun, what runs stops at its next answer.
        if under_way and client.status == "running":
            client.cancel([future for _, future in under_way.values()], force=True)
        if topic:
            client.unsubscribe_topic(topic)


def _next_few(tasks, client, n_under_way, at_once):
    """Tasks to begin: two a thread keep all busy, and no more arguments are held than need be."""
    room = sum(min(n, at_once or n) for n in client.nthreads().values())
    yield from itertools.islice(tasks, max(0, (2 * room or 1) - n_under_way))


def _arrival(client, arrived, bar=None):
    """The next future that is done, or message; meanwhile see that there is still a cluster."""
    bar = tqdm(disable=True) if bar is None else bar
    before, since = getattr(bar, "postfix", None), None  # a bar that is not shown has none
    while True:
        try:
            item = arrived.get(timeout=2)
        except queue.Empty:
            item = None
        if item is not None or (client.status == "running" and client.nthreads()):
            if since is not None:
                bar.set_postfix_str(before or "")
            if item is not None:
                return item
            since = None
        elif client.status == "running" and since is None:
            since = time.monotonic()
            # On the bar, which is all that shows of a notebook's output while it is executed.
            bar.set_postfix_str(f"NO WORKER IS LEFT, waiting {_PATIENCE // 60:.0f} minutes for one")
            checks.say(
                f"No worker is left at {client.scheduler.address}. Waiting {_PATIENCE // 60:.0f} "
                "minutes for another; Ctrl-C stops.",
                file=sys.stderr,
            )
        elif since is not None and time.monotonic() - since > _PATIENCE:
            raise ValueError(
                f"No worker has been at {client.scheduler.address} for {_PATIENCE // 60:.0f} "
                "minutes. What is finished is kept; start workers (dask worker "
                f"{client.scheduler.address} --nworkers 1 --nthreads 1), then run the same again."
            )


def _result(client, future):
    try:
        return future.result()
    except KilledWorker as error:
        raise ValueError(
            f"Workers died over the same task ({error.allowed_failures + 1} in a row), the last "
            f"at {error.last_worker.address}: most often they run out of memory, see their logs. "
            "What is finished is kept; run it again with a smaller batch_size or larger workers."
        ) from error
    except distributed.client.FutureCancelledError as error:
        raise ValueError(
            f"Lost the scheduler at {client.scheduler.address} ({error.reason}), or someone "
            "cancelled the task. What is finished is kept; run it again to go on."
        ) from error
    except ModuleNotFoundError as error:
        raise ValueError(
            f"A worker lacks the package {error.name}: install the same versions there as here."
        ) from error
    except (AttributeError, ImportError) as error:
        if "probekit" not in str(error):
            raise
        raise ValueError(
            f"A worker has another version of probekit than this process ({error}). Install the "
            "same on both, and start the worker again."
        ) from error
