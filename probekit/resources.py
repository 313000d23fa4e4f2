"""Files: where those that come with probekit are, and reading, hashing and parsing any.

In a checkout they lie beside the package, at the top level; an installed wheel carries a copy
inside it.
"""

import hashlib
import json
import os
from contextlib import contextmanager
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(relative):
    """Path of a file or folder that comes with probekit.

    Parameters
    ----------
    relative : str
        Path as in the repository, such as ``"notebooks"`` or ``"data/questions"``.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If neither the checkout nor the installed package has it.
    """
    for root in (_PACKAGE.parent, _PACKAGE / "shipped"):
        if (root / relative).exists():
            return root / relative
    raise FileNotFoundError(
        f"probekit was installed without {relative!r}. Install it from a checkout or from the "
        "probekit-notebooks wheel."
    )


@contextmanager
def reading(path):
    """Say in a sentence that a file could not be read: it may be whole all the same.

    Parameters
    ----------
    path : Path
        What is read in the block.

    Raises
    ------
    OSError
        With that sentence and no number. "Not found" passes: that is an answer.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        if error.errno is None:  # said already, or a parser's own
            raise
        raise OSError(
            f"{path} could not be read: {os.strerror(error.errno)}. That does not say that it is "
            "damaged, and nothing was changed: see to it that it can be read, then try again."
        ) from error


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text):
    """What a JSON text holds.

    Parameters
    ----------
    text : str

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is not JSON, or nested more deeply than Python can read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
