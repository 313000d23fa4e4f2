"""The form of a manifest, what it says of the machine, and writing so that none is half there."""

import json
import os
import platform
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
    if not isinstance(name, str) or "\0" in name:
        return False
    parts = Path(name).parts
    return bool(parts) and not Path(name).is_absolute() and ".." not in parts


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
        if not isinstance(record, dict) or not {"bytes", "sha256"} <= set(record):
            raise ValueError(f"it lists {name!r} without its size and hash")
    return manifest


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
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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
