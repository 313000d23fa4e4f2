"""One run directory, one writer: locks that the operating system takes back when their holder dies.

There are two of them. Who directs a run holds the first from its first stage to its last; who
writes a stage's files holds the second. For a notebook in JupyterLab that is one process, for
`probekit run` it is the command and its kernels: a kernel knows by its environment that its own
command holds the first. A kernel that outlives its command still holds the second.
"""

import json
import os
import platform
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from probekit import checks
from probekit.manifests import explained
from probekit.resources import parse_json

_DIRECTOR = "PROBEKIT_DIRECTOR"  # the environment variable by which a kernel knows its command
_PATIENCE = 10  # seconds; the kernel of a killed command ends within two

_held = {}  # run directory -> its locks, in this process
_depth = {}  # run directory -> blocks of `writing` that this process is in


@contextmanager
def directing(path):
    """Hold a run directory for this process and the kernels that it starts.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If another process holds it, or it can't be written to.
    """
    mine = path not in _held
    if mine:
        _held[path] = [_acquire(path, "run", 0)]
    before = os.environ.get(_DIRECTOR)
    os.environ[_DIRECTOR] = json.dumps([os.getpid(), str(path)])
    try:
        yield
    finally:
        os.environ.pop(_DIRECTOR)
        if before is not None:
            os.environ[_DIRECTOR] = before
        if mine:
            release(path)


@contextmanager
def writing(path):
    """Hold a run directory while its files are written; may be nested.

    Parameters and errors as of `directing`.
    """
    hold(path)
    _depth[path] = _depth.get(path, 0) + 1
    try:
        yield
    finally:
        _depth[path] -= 1
        release(path)


def hold(path):
    """Hold a run directory until `release`; does nothing if this process holds it.

    Parameters and errors as of `directing`.
    """
    if path in _held:
        return
    if _is_directed(path):
        _held[path] = [_acquire(path, "stage", _PATIENCE)]
        return
    run = _acquire(path, "run", 0)
    try:
        _held[path] = [run, _acquire(path, "stage", 0)]
    except BaseException:
        _let_go(run)
        raise


def release(path):
    """Let go of a run directory, unless a block of `writing` is still in need of it."""
    if not _depth.get(path):
        _depth.pop(path, None)
        for lock in reversed(_held.pop(path, [])):
            _let_go(lock)


def _is_directed(path):
    """Whether the process that holds the directory is the one that started this kernel."""
    try:
        director, directed = parse_json(os.environ[_DIRECTOR])
    except (KeyError, ValueError):
        return False
    return directed == str(path) and _holder(_lock_file(path, "run")).get("pid") == director


def _lock_file(path, name):
    return path / ".lock" / name


def _note(file):
    """Who holds a lock: beside it, as not every system lets others read a locked file."""
    return file.with_name(f"{file.name}.json")


def _holder(file):
    try:
        holder = parse_json(_note(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _acquire(path, name, patience):
    file = _lock_file(path, name)
    lock = FileLock(file, thread_local=False)
    holder = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(" ", "seconds"),
        "command": " ".join(sys.argv)[:200],
    }
    try:
        with explained(path):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience)
            _note(file).write_text(json.dumps(holder), encoding="utf-8")
    except Timeout:
        raise ValueError(_in_use(path, _holder(file))) from None
    except (ValueError, OSError):
        lock.release()
        raise
    return lock


def _let_go(lock):
    _note(Path(lock.lock_file)).unlink(missing_ok=True)
    lock.release()


def _in_use(path, holder):
    if holder:
        pid, host, since, command = (
            checks.visible(holder.get(name, "?"), 200)
            for name in ("pid", "host", "since", "command")
        )
        who = f"process {pid} on {host} since {since} ({command})"
    else:
        who = "another process"
    return (
        f"{path} is being written to by {who}. A run directory has one writer at a time: wait "
        "until that is finished, stop it (in JupyterLab, shut its kernel down), or give another "
        "run directory."
    )
