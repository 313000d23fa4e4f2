"""The form of a manifest and its seal, what it says of the machine; writing whole files."""

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from probekit.resources import reading

_PACKAGES = [
    "probekit-notebooks",
    "torch",
    "transformers",
    "scikit-learn",
    "numpy",
    "pandas",
    "xarray",
    "zarr",
    "altair",
    "papermill",
]


def environment():
    """Versions, git commit and machine that a result depends on.

    Returns
    -------
    dict
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "git_commit": _git_commit(),
    }


def _git_commit():
    """Commit of the checkout that the package runs from, with ``+`` if it has been changed."""
    here = Path(__file__).resolve().parent
    git = ("git", "-C", str(here))
    try:
        done = subprocess.run(  # noqa: S603
            [*git, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class DamagedError(ValueError):
    """A file is not as it was written: nothing is lost by making it again."""


def no_links(path, root):
    """Refuse a path that leads through a link, or to what is neither a file nor a folder.

    A run directory may come from somebody else. What a link in it leads to is not theirs to have
    read, written or deleted, and a pipe in a file's place would be waited for without end.

    Parameters
    ----------
    path : Path
        Below `root`.
    root : Path
        The run directory. It and its parents may be links.

    Returns
    -------
    os.stat_result or None
        Of the path; None if it is not there.

    Raises
    ------
    ValueError
    OSError
        If that could not be seen, as of `reading`.
    """
    here, found = Path(root), None
    parts = Path(path).relative_to(root).parts
    if ".." in parts:
        raise ValueError(f"{path} leads out of {root}.")
    for part in parts:
        here /= part
        try:
            with reading(here):
                found = os.lstat(here)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(found.st_mode):
            raise ValueError(
                f"{here} is a symbolic link, and none is followed inside {root}, since what it "
                "leads to may be somebody else's. Put the file or folder itself there. To keep a "
                "run elsewhere, make the whole run directory a link."
            )
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            raise ValueError(
                f"{here} is neither a file nor a folder, but a pipe, a socket or a device, so it "
                "is not used. Delete it."
            )
    return found


def files_below(folder):
    """All files below a folder, sorted; refuses what `no_links` refuses."""
    found = []
    with reading(folder):
        for place, folders, files in os.walk(folder, onerror=_raise):
            for name in (*folders, *files):
                no_links(Path(place, name), place)
            found += [Path(place, name) for name in files]
    return sorted(found)


def _raise(error):
    raise error


def is_plain(name):
    """Whether a name leads to something inside a folder: relative, not empty, with no ``..``."""
    if not isinstance(name, str) or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name):
        return False
    parts = Path(name).parts
    # No file system has longer names; asking for one is an error, not a file that is not there.
    longest = max((len(part.encode()) for part in parts), default=0)
    return 0 < longest < 256 and not Path(name).is_absolute() and ".." not in parts


def checked(manifest):
    """The manifest, if it is of the form that a stage writes.

    A run directory may come from somebody else, and what a manifest lists is compared, and taken
    away where it is damaged: so nothing outside the directory may be on the list.
    """
    if not isinstance(manifest, dict):
        raise ValueError(f"it holds {type(manifest).__name__}, no manifest")
    for name in ("parameters", "inputs", "outputs", "results"):
        if not isinstance(manifest.get(name), dict):
            raise ValueError(f"it has no {name}")
    for name, record in manifest["outputs"].items():
        if not is_plain(name):
            raise ValueError(f"it lists {name!r}, which is no file of the run")
        kinds = {"bytes": int, "sha256": str}
        if not isinstance(record, dict) or not all(
            isinstance(record.get(field), kind) for field, kind in kinds.items()
        ):
            raise ValueError(f"it lists {name!r} without its size and hash")
    lists = {name: manifest["results"].get(name, []) for name in ("sites", "splits")}
    for name, names in (lists | {"left_out": manifest.get("left_out", [])}).items():
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"its {name} are no list of names")
    return unsealed(manifest)


def sealed(content):
    """A dict with a hash of all else that is in it."""
    content = {name: value for name, value in content.items() if name != "seal"}
    return content | {"seal": _hash(content)}


def unsealed(content):
    """The dict that was sealed.

    Raises
    ------
    ValueError
        If it is another.
    """
    if not isinstance(content, dict) or content != sealed(content):
        raise ValueError("it does not hold what was written")
    return {name: value for name, value in content.items() if name != "seal"}


def fingerprint(manifest):
    """Hash of what a stage did: of all that its manifest says but when, how long and by what.

    A stage that is run again and makes the same is the same input to the next one.
    """
    incidental = ("started", "seconds", "environment", "seal")
    return _hash({name: value for name, value in manifest.items() if name not in incidental})


def _hash(content):
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_FORBIDDEN |= {errno.ENAMETOOLONG, errno.ELOOP}
# Of the disk, its server or this process's open files; the same may succeed the next time.
_FAILED = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY}


@contextmanager
def explained(path):
    """Say in a sentence why a file can't be written, and what to do.

    Parameters
    ----------
    path : Path
        What is written in the block.

    Raises
    ------
    ValueError
        Instead of an OSError that tells that the disk is full or failed, that nothing may be
        written there, or that the folder is gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL | _FORBIDDEN | _FAILED | {errno.ENOENT}:
            raise
        reason = f"{path} cannot be written: {os.strerror(error.errno)}"
        if error.errno in _FULL:
            places = (Path(path).absolute(), *Path(path).absolute().parents)
            free = shutil.disk_usage(next(p for p in places if p.exists())).free / 1e6
            reason += f", {free:,.1f} MB are free. Make room there"
        elif error.errno in _FAILED:
            reason += ". See to it that the disk and its server are well"
        elif error.errno == errno.ENOENT:
            reason += ". Its folder was renamed or deleted meanwhile: put it back"
        else:
            reason += ". See to it that you may write there, or choose another folder"
        raise ValueError(f"{reason}, then run the same again: what is finished is kept.") from error


@contextmanager
def replacing(path):
    """Write a file beside its place, and move it there when it is complete.

    Parameters
    ----------
    path : Path

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    ValueError
        If that can't be done, as of `explained`.
    """
    path = Path(path)
    with explained(path), _beside(path) as temporary:
        yield temporary


@contextmanager
def _beside(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(*paths):
    """Let files, and the names that folders hold, outlast a power cut.

    A file's name is its folder's, so a new file is safe when both are.
    """
    if os.name == "nt":  # has no such call for folders
        return
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            # Some file systems of networks and phones can't do it with folders.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def write_json(path, content):
    """Write JSON atomically."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
