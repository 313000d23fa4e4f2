"""Files: where those that come with probekit are, the hash that identifies any, and reading JSON.

In a checkout they lie beside the package, at the top level; an installed wheel carries a copy
inside it.
"""

import hashlib
import json
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


def sha256(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
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
