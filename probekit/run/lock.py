"""One run directory, one writer: locks that the operating system takes back when their holder dies.

There are two of them. Who directs a run holds the first from its first stage to its last; who
writes a stage's files holds the second. For a notebook in JupyterLab that is one process, for
`probekit run` it is the command and its kernels: a kernel knows by its environment that its own
command holds the first. A kernel that outlives its command still holds the second.
"""

import errno
import json
import os
import platform
import re
import secrets
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from probekit import arguments
from probekit.run.files import TEMPORARY, explained, no_links, parse_json, reading, write_json
from probekit.run.manifest import NOTEBOOKS, REPORT, unsealed

_DIRECTOR = "PROBEKIT_DIRECTOR"  # the environment variable by which a kernel knows its command
_PATIENCE = 10  # seconds; the kernel of a killed command ends within two
_held = {}  # run directory -> its locks, in this process
_depth = {}  # run directory -> blocks of `writing` that this process is in

# A forked child has its parent's variables, not its locks. (filelock closes its files.)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: (_held.clear(), _depth.clear()))

# What systems leave in any folder.
_LITTER = {".DS_Store", ".directory", ".ipynb_checkpoints", "desktop.ini", "Thumbs.db"}
_PART = re.compile(r"\d{5}-[0-9a-f]{64}\.parquet")

# No locks on this file system, most often one of a network.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


def occupy(path):
    """Make a folder that is empty or not there a run directory: from now on it has `.lock/stage`.

    A folder that is a run directory stays one; any other is refused.
    """
    check_place(path)
    mark = _lock_file(path, "stage")
    with explained(path):
        if no_links(mark, path):
            return
        others = [] if _holds_run(path) else sorted(_others(path))
        if others:
            raise ValueError(
                f"The folder {path} holds no run, but {arguments.listed(map(repr, others), 3)}. A "
                "run is not written among other files: give a new or an empty folder."
            )
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _holds_run(path):
    """Whether a folder holds what only a run of probekit has."""
    known = [_lock_file(path, "run")]
    known += [path / "manifests" / f"{stage}.json" for stage in (*NOTEBOOKS, REPORT)]
    if any(no_links(file, path) for file in known):
        return True
    no_links(path / "shards", path)
    if any(_PART.fullmatch(part.name) for part in (path / "shards").glob("*")):
        return True
    try:
        return bool(no_links(path / "run.json", path)) and bool(
            unsealed(parse_json((path / "run.json").read_text(encoding="utf-8")))
        )
    except ValueError:
        return False


def _others(path):
    """Names of what is in a folder, but for what is nobody's and folders of nothing else."""
    for entry in path.iterdir() if path.is_dir() else ():
        ours = entry.name in _LITTER or TEMPORARY.fullmatch(entry.name)
        if not ours and (entry.is_symlink() or not entry.is_dir() or any(_others(entry))):
            yield entry.name


def check_place(path):
    """Refuse to go on if the run directory that this process holds is no longer at its path."""
    for lock, place in _held.get(path, ()):
        found = no_links(Path(lock.lock_file), path)
        if not found or (found.st_dev, found.st_ino) != place:
            raise ValueError(
                f"{path} was renamed or deleted while it was written into, so nothing more is "
                "written. Put it back there, or leave it, then run the same again from its start."
            )


@contextmanager
def directing(path):
    """Hold a run directory for this process and the kernels that it starts."""
    mine = path not in _held
    if mine:
        _held[path] = [_acquire(path, "run", 0)]
    before = os.environ.get(_DIRECTOR)
    token = _holder(_lock_file(path, "run")).get("token")
    os.environ[_DIRECTOR] = json.dumps([token, str(path)])
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
    """Hold a run directory while its files are written; may be nested."""
    hold(path)
    _depth[path] = _depth.get(path, 0) + 1
    try:
        yield
    finally:
        _depth[path] -= 1
        release(path)


def hold(path):
    """Hold a run directory until `release`; does nothing if this process holds it."""
    if path in _held:
        try:
            check_place(path)
        except ValueError:
            if _depth.get(path):
                raise
            release(path)  # the user took it away, and begins anew
        else:
            return
    directed, locks = _is_directed(path), []
    try:
        if not directed:
            locks.append(_acquire(path, "run", 0))
        # Who has this one and not the other is a kernel whose command has just ended.
        locks.append(_acquire(path, "stage", _PATIENCE))
    except BaseException:  # also Ctrl-C in a notebook, whose process goes on
        _held[path] = locks
        release(path)
        raise
    _held[path] = locks


def release(path):
    """Let go of a run directory, unless a block of `writing` still needs it."""
    if _depth.get(path):
        return
    _depth.pop(path, None)
    for lock, _ in reversed(_held.pop(path, [])):
        with suppress(OSError):  # a note is for people; without its lock it says nothing
            _note(Path(lock.lock_file)).unlink(missing_ok=True)
        lock.release()


def _is_directed(path):
    """Whether the process that holds the directory is the one that started this kernel."""
    try:
        director, directed = parse_json(os.environ[_DIRECTOR])
    except (KeyError, ValueError):
        return False
    # A token, not its process's number, which another process may have by now.
    holder = _holder(_lock_file(path, "run"))
    return directed == str(path) and director is not None and holder.get("token") == director


def _lock_file(path, name):
    return path / ".lock" / name


def _note(file):
    """Who holds a lock: beside it, as not every system lets others read a locked file."""
    return file.with_name(f"{file.name}.json")


def _holder(file):
    note = _note(file)
    try:
        with reading(note):
            no_links(note, file.parents[1])
            return dict(parse_json(note.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _acquire(path, name, patience):
    """A lock, and what tells its file from any that comes to be in its place."""
    occupy(path)
    file = _lock_file(path, name)
    # Where there are no locks, filelock's makeshift outlives its holder.
    lock = FileLock(file, thread_local=False, fallback_to_soft=False)
    holder = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(UTC).isoformat(" ", "seconds"),
        "command": " ".join(sys.argv)[:200],
        "token": secrets.token_hex(8),
    }
    try:
        with explained(path):
            found = no_links(file, path)
            no_links(_note(file), path)
            if found and found.st_size:
                raise ValueError(f"{file} is not a lock file: it is not empty. Delete it.")
            lock.acquire(timeout=patience)
            write_json(_note(file), holder)
            found = os.lstat(file)
    except Timeout:
        raise ValueError(_in_use(path, _holder(file))) from None
    except (ValueError, OSError) as error:
        lock.release()
        if getattr(error, "errno", None) not in _NO_LOCKS:
            raise
        raise ValueError(
            f"{path} is on a file system that keeps no locks ({os.strerror(error.errno)}), so two "
            "processes could write into it at once. Give a run directory on a local disk, and "
            "move it when it is finished."
        ) from error
    except BaseException:  # Ctrl-C in a notebook, whose process goes on
        lock.release()
        raise
    return lock, (found.st_dev, found.st_ino)


def _in_use(path, holder):
    known = {name: arguments.visible(value, 200) for name, value in holder.items()}
    pid, host, since, command = (known.get(n, "?") for n in ("pid", "host", "since", "command"))
    who = f"process {pid} on {host} since {since} ({command})" if holder else "another process"
    return (
        f"{path} is being written to by {who}. A run directory has one writer at a time: wait "
        "until that is finished, stop it (in JupyterLab, shut its kernel down), or give another "
        "run directory."
    )
