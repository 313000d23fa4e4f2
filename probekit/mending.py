"""What an earlier run left in its directory: whose it is, and what of it can be built upon.

A finished run that is damaged is turned back into one that was interrupted and lacks what is
damaged, so that to run it again makes that and nothing else.
"""

import re
from contextlib import contextmanager
from pathlib import Path

from probekit import checks
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


def claim(run, parameters):
    """Refuse a directory that holds another run; else what `record` wrote of this one, or None.

    Parameters
    ----------
    run : Run
    parameters : dict

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
    """
    claimed = _claimed(run, run.path / "run.json")
    theirs = claimed["parameters"] if claimed else parameters
    differing = [name for name in parameters if parameters[name] != theirs.get(name)]
    if differing:
        changes = "; ".join(
            f"{n} was {checks.shown(theirs.get(n))}, now {checks.shown(parameters[n])}"
            for n in differing
        )
        raise ValueError(
            f"{run.path} holds a run with other parameters: {changes}. Give another run "
            "directory, or delete this one."
        )
    return claimed


def record(run, parameters, batch_size, deaths=None):
    """Write down by what a run is made, for whoever continues it.

    Parameters
    ----------
    run : Run
    parameters : dict
    batch_size : int
        It changes the last bits of an activation, so a continued run keeps it if it can.
    deaths : dict, optional
        Of `memory.deaths`, while the run is at work and may be killed.
    """
    content = {"parameters": parameters, "batch_size": batch_size}
    write_json(run.path / "run.json", sealed(content | ({"deaths": deaths} if deaths else {})))


def _claimed(run, path):
    """What is recorded of the run that is in a directory, or None if there is none."""
    no_links(path, run.path)
    try:
        with reading(path):
            claimed = unsealed(parse_json(path.read_text(encoding="utf-8")))
        return _as_recorded(claimed["parameters"], claimed["batch_size"], claimed.get("deaths", {}))
    except FileNotFoundError:
        problem = "is not there"
    except (ValueError, KeyError) as error:
        problem = f"is damaged: {error}"
    try:
        manifest = run.manifest("extract")
        return _as_recorded(manifest["parameters"], manifest["results"]["batch_size"], {})
    except (FileNotFoundError, ValueError, KeyError):
        if problem == "is not there" and not no_links(run.path / "shards", run.path):
            return None
    raise ValueError(
        f"{path} {problem}. It says by what the unfinished run in this directory was begun. Give "
        "another run directory, or delete this one."
    )


def _as_recorded(parameters, batch_size, deaths):
    """What `record` writes, if these are of its kinds: a run may come from somebody else."""
    numbers = [batch_size, *(deaths.values() if isinstance(deaths, dict) else [None])]
    if not isinstance(parameters, dict) or not all(type(n) is int for n in numbers):
        raise ValueError("it does not hold parameters and numbers")
    return {"parameters": parameters, "batch_size": max(1, batch_size), "deaths": deaths}


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
        checks.say(f"{path} is missing or damaged: it is made again.")
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
