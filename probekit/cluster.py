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

import hashlib
import itertools
import queue
import re
import socket
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from probekit import arguments

try:
    import distributed
    from distributed.scheduler import KilledWorker
except ImportError:  # the extra is optional; `connected` says so
    distributed = None

_CONNECTING = 10  # seconds to wait for the scheduler
_APPEARING = 30  # and for its first worker
_PATIENCE = 300  # and for another when none is left


@contextmanager
def connected(scheduler):
    """Connect to a scheduler that has workers."""
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
            f"got {arguments.shown(scheduler)}."
        )
    try:
        # Before Dask is asked: a client that failed leaves a thread, which the next trips over.
        if not re.fullmatch(r"(\w+://)?[^\s/]+:\d{1,5}/?|inproc://\S+", scheduler):
            raise ValueError("an address has a port, such as tcp://127.0.0.1:8786")
        client = distributed.Client(scheduler, timeout=_CONNECTING, set_as_default=False)
    except (OSError, ValueError, TypeError, OverflowError, AssertionError) as error:
        reason = str(error)[:200]  # an address of any length is in it
        raise ValueError(
            f"No Dask scheduler answers at {arguments.shown(scheduler)} ({reason}). Start one with "
            "`dask scheduler`, which prints its address, and workers with `dask worker ADDRESS`."
        ) from error
    try:
        _await_worker(client)
        yield client
    finally:
        client.close()


def _await_worker(client):
    address = client.scheduler.address
    try:
        client.wait_for_workers(1, timeout=_APPEARING)
    except TimeoutError as error:
        raise ValueError(
            f"The scheduler at {address} has no worker after {_APPEARING} s. Start some: dask "
            f"worker {address} --nworkers 1 --nthreads 1"
        ) from error


def completed(
    client, function, tasks, bar=None, *, pinned=False, at_once=None, topic=None, on_event=None
):
    """Names of tasks and their results, as they are finished; few are under way at a time.

    `tasks` are pairs of a name and arguments. What workers send to the `topic` goes to `on_event`.
    """
    tasks, under_way, arrived = iter(tasks), {}, queue.Queue()
    bar = tqdm(disable=True) if bar is None else bar
    if topic:
        client.subscribe_topic(topic, lambda event: arrived.put(event[1]))
    try:
        while True:
            # Two tasks a thread keep all busy, and no more arguments are held than need be.
            room = 2 * sum(min(n, at_once or n) for n in client.nthreads().values()) or 1
            for name, given in itertools.islice(tasks, max(0, room - len(under_way))):
                at = {"workers": [name], "allow_other_workers": True} if pinned else {}
                key = f"{function.__name__}-{uuid.uuid4().hex}"
                future = client.submit(checked, CODE, function, *given, key=key, **at)
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


def _arrival(client, arrived, bar):
    """The next future that is done, or message; meanwhile see that there is still a cluster."""
    address, minutes = client.scheduler.address, f"{_PATIENCE // 60:.0f} minutes"
    before, since = getattr(bar, "postfix", None), None  # a bar that is not shown has none
    while True:
        item = None
        with suppress(queue.Empty):
            item = arrived.get(timeout=2)
        if item is not None or (client.status == "running" and client.nthreads()):
            if since is not None:
                bar.set_postfix_str(before or "")
            if item is not None:
                return item
            since = None
        elif client.status == "running" and since is None:
            since = time.monotonic()
            # On the bar, which is all that shows of a notebook's output while it is executed.
            bar.set_postfix_str(f"NO WORKER IS LEFT, waiting {minutes} for one")
            left = f"No worker is left at {address}. Waiting {minutes} for another; Ctrl-C stops."
            arguments.say(left, file=sys.stderr)
        elif since is not None and time.monotonic() - since > _PATIENCE:
            raise ValueError(
                f"No worker has been at {address} for {minutes}. What is finished is kept; start "
                f"workers (dask worker {address} --nworkers 1 --nthreads 1), then run the same "
                "again."
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


def _describe_code():
    """Versions of what decides which numbers come out, and a hash of this package's code."""
    package = Path(__file__).parent
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    # Of the version alone a change that nobody has committed would not be seen, nor a commit.
    found = {"the source code of probekit": f"SHA-256 {source.hexdigest()[:12]}"}
    packages = "probekit-notebooks torch transformers tokenizers numpy scipy scikit-learn zarr"
    for name in packages.split():
        try:
            # Builds for other devices, 2.13.0+cu126 and 2.13.0+cpu, are the same version.
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


#: Found when the process starts: files may be others by the time that a task comes.
CODE = _describe_code()


def checked(driver, function, *given):
    """Do a task, if this worker has the driver's code: other code may give other numbers."""
    differing = [
        f"{name} is {CODE.get(name)}, the driver's {expected}"
        for name, expected in driver.items()
        if CODE.get(name) != expected
    ]
    if differing:
        raise ValueError(
            f"Worker {this_worker().address} on {socket.gethostname()} has other code than the "
            f"driver: {'; '.join(differing)}. Install the same on both, and start the worker again."
        )
    return function(*given)


@contextmanager
def unwatched():
    """Without Dask's profiler, which looks into each thread every 10 ms: a sixth of the time."""
    worker = this_worker()
    profiler = worker.periodic_callbacks.get("profile")
    if profiler is None or not profiler.is_running():  # switched off, or another thread did this
        yield
        return
    worker.loop.add_callback(profiler.stop)
    try:
        yield
    finally:
        worker.loop.add_callback(lambda: profiler.is_running() or profiler.start())


def this_worker():
    """The Dask worker that this task runs at."""
    from distributed import get_worker

    return get_worker()


class Stop:
    """Whether the task of this thread was cancelled."""

    def __init__(self):
        self.worker = this_worker()
        self.key = self.worker.get_current_task()

    def check(self):
        """Raise RuntimeError if it was."""
        task = self.worker.state.tasks.get(self.key)
        if task is None or task.state == "cancelled":
            raise RuntimeError("The driver cancelled the task.")
