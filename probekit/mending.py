"""What an earlier run left in its directory: whose it is, and what of it can be built upon.

A finished run that is damaged is turned back into one that was interrupted and lacks what is
damaged, so that to run it again makes that and nothing else.
"""

import re
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from probekit.manifests import (
    DamagedError,
    explained,
    no_links,
    replacing,
    sealed,
    unsealed,
    write_json,
)
from probekit.resources import parse_json, reading
from probekit.stages import same_file

# Nothing else is taken away, whatever a manifest lists: a run may come from somebody else, with
# links in it that lead out of it.
_MENDED = re.compile(r"answers\.parquet|activations\w*\.zarr/(\w+/)?(zarr\.json|c(/\d+)*)")


def claim(run, parameters, batch_size):
    """Refuse a directory that holds another run; else the batch size that the run began with.

    The batch size changes the last bits of an activation, so a resumed run keeps its first one.

    Parameters
    ----------
    run : Run
    parameters : dict
    batch_size : int
        Of a run that begins now.

    Returns
    -------
    int

    Raises
    ------
    ValueError
    """
    path = run.path / "run.json"
    claimed = _claimed(run, path)
    theirs, batch_size = claimed or (parameters, batch_size)
    differing = [name for name in parameters if parameters[name] != theirs.get(name)]
    if differing:
        changes = "; ".join(f"{n} was {theirs.get(n)!r}, now {parameters[n]!r}" for n in differing)
        raise ValueError(
            f"{run.path} holds a run with other parameters: {changes}. Give another run "
            "directory, or delete this one."
        )
    write_json(path, sealed({"parameters": parameters, "batch_size": batch_size}))
    return batch_size


def _claimed(run, path):
    """Parameters and batch size of the run that is in a directory, or None if there is none."""
    no_links(path, run.path)
    try:
        with reading(path):
            return _begun(unsealed(parse_json(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        problem = "is not there"
    except ValueError as error:
        problem = f"is damaged: {error}"
    try:
        manifest = run.manifest("extract")
        return _begun(manifest | {"batch_size": manifest["results"].get("batch_size")})
    except (FileNotFoundError, ValueError):
        if problem == "is not there" and not no_links(run.path / "shards", run.path):
            return None
    raise ValueError(
        f"{path} {problem}. It says by what the unfinished run in this directory was begun. Give "
        "another run directory, or delete this one."
    )


def _begun(record):
    """Parameters and batch size of a run, as they are on record."""
    parameters, batch_size = record.get("parameters"), record.get("batch_size")
    if not isinstance(parameters, dict) or type(batch_size) is not int or batch_size < 1:
        raise ValueError("it has no parameters, or no batch size")
    return parameters, batch_size


def mend(run):
    """Take away what is not as a finished extract stage left it, so that it is made again.

    Small files that describe a store are written again at once, as the manifest has their text.

    Parameters
    ----------
    run : Run

    Returns
    -------
    list of str or None
        What was damaged; None if there is no manifest to tell by.

    Raises
    ------
    ValueError
        If a link is in the place of what a manifest lists.
    OSError
        If something could not be read: it may be whole all the same, so it is left alone.
    """
    try:
        outputs = run.manifest("extract")["outputs"]
    except (FileNotFoundError, DamagedError):
        return None
    for name in outputs:
        no_links(run.path / name, run.path)
    damaged = [name for name, record in outputs.items() if not same_file(run.path / name, record)]
    for name in filter(_MENDED.fullmatch, damaged):
        path = run.path / name
        tqdm.write(f"{path} is missing or damaged: it is made again.")
        if path.name == "zarr.json" and "text" in outputs[name]:
            with replacing(path) as temporary:
                temporary.write_bytes(outputs[name]["text"].encode())
        else:
            with explained(path):
                path.unlink(missing_ok=True)
    return damaged


@contextmanager
def explained_damage(activations):
    """Say what to do where a store finds a checksum of its own that is not right, or no file.

    Parameters
    ----------
    activations : Dataset
        Read from in the block.

    Raises
    ------
    ValueError
    OSError
        If what is there could not be read.
    """
    source = activations.encoding.get("source")
    if source is None or activations["activation"].variable._in_memory:
        yield
        return
    try:
        with reading(source):
            yield
        if activations.encoding.get("shards"):
            from probekit.store import check_shards  # zarr takes a while to import

            # What is not there was read as tokens that the responses lack.
            check_shards(Path(source))
    except ValueError as error:
        raise ValueError(
            f"{source} is damaged: {error} Run the extract stage again, which makes only what is "
            "damaged: probekit run, or its notebook."
        ) from error
