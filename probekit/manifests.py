"""The form of a manifest and its seal, what it says of the machine; writing whole files."""

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

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
_FORBIDDEN |= {errno.ENAMETOOLONG}


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
        Instead of an OSError that tells that the disk is full or that nothing may be written there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL | _FORBIDDEN:
            raise
        reason = f"{path} cannot be written: {os.strerror(error.errno)}"
        if error.errno in _FULL:
            places = (Path(path).absolute(), *Path(path).absolute().parents)
            free = shutil.disk_usage(next(p for p in places if p.exists())).free / 1e6
            reason += f", {free:,.1f} MB are free. Make room there"
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
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, content):
    """Write JSON atomically."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
