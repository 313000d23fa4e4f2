"""Files: where those that come with probekit are, and reading, hashing and parsing any.

In a checkout they lie beside the package, at the top level; an installed wheel carries a copy
inside it.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path


def resource(relative):
    """Path of a file or folder that comes with probekit."""
    package = Path(__file__).resolve().parents[1]
    for root in (package.parent, package / "shipped"):
        if (root / relative).exists():
            return root / relative
    raise FileNotFoundError(
        f"probekit was installed without {relative!r}. Install it from a checkout or from the "
        "probekit-notebooks wheel."
    )


@contextmanager
def reading(path):
    """Say in a sentence that a file could not be read: it may be whole all the same."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        if error.errno is None:  # said already, or a parser's own
            raise
        raise OSError(
            f"{path} could not be read: {os.strerror(error.errno)}. It may be whole all the same, "
            "and nothing was changed. Make sure that it can be read, then try again."
        ) from error


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text):
    """What a JSON text holds."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class DamagedError(ValueError):
    """A file is not as it was written: nothing is lost by making it again."""


def no_links(path, root):
    """Refuse a path that leads through a link, or to what is neither a file nor a folder.

    A run directory may come from somebody else. What a link in it leads to is not theirs to have
    read, written or deleted, and a pipe in a file's place would be waited for without end. The
    result is the file's status, or None if it is not there.
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
                f"{here} is a symbolic link, and none is followed inside {root}, since it may "
                "lead to somebody else's files. Put the file or folder itself there. To keep a "
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


# Error numbers of a full disk, of a place that is not to be written to, and of a disk, a server or
# open files that failed: there the same may succeed the next time.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_FORBIDDEN |= {errno.ENAMETOOLONG, errno.ELOOP}
_FAILED = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBUSY}


@contextmanager
def explained(path):
    """Say in a sentence why a file can't be written, and what to do."""
    try:
        yield
    except OSError as error:
        gone = isinstance(error, FileNotFoundError) and not os.path.isdir(Path(path).parent)
        if not gone and error.errno not in _FULL | _FORBIDDEN | _FAILED:
            raise
        why = "its folder was renamed or deleted" if gone else os.strerror(error.errno)
        if gone:
            remedy = "Put it back"
        elif error.errno in _FULL:
            places = (Path(path).absolute(), *Path(path).absolute().parents)
            free = shutil.disk_usage(next(p for p in places if p.exists())).free / 1e6
            why += f", {free:,.1f} MB are free"
            remedy = "Make room there"
        elif error.errno in _FAILED:
            remedy = "Check the disk and its server"
        else:
            remedy = "Make sure that you may write there, or choose another folder"
        raise ValueError(
            f"{path} cannot be written: {why}. {remedy}, then run the same again: what is "
            "finished is kept."
        ) from error


#: What `replacing` leaves where it is killed, as a path in the run directory.
TEMPORARY = re.compile(
    r"(.+/)?\.[^/]+\.probekit-\w{8}\.part"
    # Earlier versions named them less plainly, so only of files that are a run's.
    r"|((manifests|shards|figures)/)?\.("
    r"(answers|\d{5}-[0-9a-f]{64})\.parquet|(grid|controls)\.nc|description\.md|claims\.csv"
    r"|report\.html|(run|\.?(extract|probe|visualize|interpret|report)(\.pipeline)?)\.json"
    r"|(heatmap|splits|gain|layers)\.(json|svg|png|pdf|html)"
    r")\.[a-z0-9_]{8}\.part"
)


@contextmanager
def replacing(path):
    """Write a file beside its place, and move it there when it is complete.

    A link in its place is replaced, not followed, and so is a file that has other names too.
    """
    path = Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(".part", f".{path.name}.probekit-", path.parent)
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
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
