"""The manifest of a stage, which says what it made and from what.

Every stage ends by writing its manifest, and begins by taking the old one away, so a stage that
died looks unfinished. Files are written beside their place and moved into it, so none is ever
half there. The manifest has the hash of each, and one of itself.
"""

import hashlib
import json
import platform
import re
import stat
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np

from probekit import arguments
from probekit.run.files import files_below, reading, sha256

#: The four stages, in order; each is a notebook.
STAGES = ("extract", "probe", "visualize", "interpret")

#: Beyond the figure: notebooks too, each run when it is asked for.
BEYOND = ("transfer", "choose", "intervene")

#: All notebooks, in the order of their numbers.
NOTEBOOKS = (*STAGES, *BEYOND)

#: What a whole run ends with; it has a manifest too.
REPORT = "report"

# Those that a result depends on.
_PACKAGES = ["probekit-notebooks", "torch", "transformers", "scikit-learn", "numpy", "pandas"]
_PACKAGES += ["xarray", "zarr", "altair", "papermill"]


def notebook_name(stage):
    """File name of a stage's notebook, such as ``02_probe.ipynb``."""
    arguments.one_of("stage", stage, NOTEBOOKS)
    return f"{NOTEBOOKS.index(stage) + 1:02d}_{stage}.ipynb"


def environment():
    """Versions, git commit and machine that a result depends on."""
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
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    git += ["describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


# Most names are of this form; a hostile manifest may list a hundred thousand.
_SIMPLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def is_plain(name):
    """Whether a name leads to something inside a folder: relative, not empty, with no ``..``."""
    if isinstance(name, str) and _SIMPLE.fullmatch(name):
        return True
    if not isinstance(name, str) or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in name):
        return False
    parts = Path(name).parts
    # No file system has longer names; asking for one is an error, not a file that is not there.
    longest = max((len(part.encode()) for part in parts), default=0)
    return 0 < longest < 256 and not Path(name).is_absolute() and ".." not in parts


def is_word(name):
    """Whether a name is plain and of one part."""
    if isinstance(name, str) and _SIMPLE.fullmatch(name):
        return True
    return is_plain(name) and len(Path(name).parts) == 1 and not {"/", "\\"} & {*name}


def checked(manifest):
    """The manifest, if it is of the form that a stage writes.

    A run directory may come from somebody else, and what a manifest lists is compared, and taken
    away where it is damaged: so nothing outside the directory may be on the list.
    """
    if not isinstance(manifest, dict):
        raise ValueError(f"it holds {type(manifest).__name__}, not a manifest")
    for name in ("parameters", "inputs", "outputs", "results"):
        if not isinstance(manifest.get(name), dict):
            raise ValueError(f"it has no {name}")
    for name, digest in manifest["inputs"].items():
        if not (is_plain(name) or Path(name).is_absolute()) or not isinstance(digest, str):
            raise ValueError(f"it lists {name!r} as an input, which is not a file with a hash")
    for name, record in manifest["outputs"].items():
        if not is_plain(name):
            raise ValueError(f"it lists {name!r}, which is not a file of the run")
        known = record if isinstance(record, dict) else {}
        if not isinstance(known.get("bytes"), int) or not isinstance(known.get("sha256"), str):
            raise ValueError(f"it lists {name!r} without its size and hash")
    lists = {name: manifest["results"].get(name, []) for name in ("sites", "splits")}
    for name, names in (lists | {"left_out": manifest.get("left_out", [])}).items():
        # Sites and splits become names of folders and of groups in a file.
        plain = is_plain if name == "left_out" else is_word
        if not isinstance(names, list) or not all(map(plain, names)):
            raise ValueError(f"its {name} are not a list of names")
    return unsealed(manifest)


def sealed(content):
    """A dict with a hash of all else that is in it."""
    content = {name: value for name, value in content.items() if name != "seal"}
    return content | {"seal": _hash(content)}


def unsealed(content):
    """The dict that was sealed."""
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


#: Shards of more bytes are not read in full only to see whether they are as they were.
LARGE = 1 << 20


def check_json(name, values):
    """Refuse what a manifest can't hold."""
    arguments.instance(name, values, dict, "such as {'seed': 0}")
    for key, value in values.items():
        kind = f", a numpy {type(value).__name__}" if isinstance(value, np.generic) else ""
        expected = (
            f"{name} must be what JSON can hold: text, finite numbers of Python, True, False, "
            f"None, lists and dicts of them; {arguments.shown(key)} is "
            f"{arguments.shown(value)}{kind}."
        )
        try:
            json.dumps({key: value}, allow_nan=False)
        except TypeError as error:
            raise TypeError(expected) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(expected) from error


def recorded(outputs, root):
    """What a manifest says of each file of some outputs, by its name below the run directory."""
    files = [file for path in outputs for file in (files_below(path) if path.is_dir() else [path])]
    found = {}
    for file in files:
        with reading(file):
            record = {"bytes": file.stat().st_size, "sha256": sha256(file)}
            if file.name == "zarr.json":
                # A few hundred bytes without which gigabytes can't be read: they are kept here too.
                record["text"] = file.read_bytes().decode()
        found[str(file.relative_to(root))] = record
    return found


def same_file(path, record, thorough=True):
    """Whether a file is as a manifest records it; an OSError where that can't be read."""
    try:
        with reading(path):
            found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != record["bytes"]:
        return False
    large = "/activation/c/" in path.as_posix() and record["bytes"] > LARGE
    return (large and not thorough) or sha256(path) == record["sha256"]
