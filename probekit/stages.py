"""A stage of a run, and the manifest that says what it made and from what.

Every stage ends by writing its manifest, and begins by taking the old one away, so a stage that
died looks unfinished. Files are written beside their place and moved into it, so none is ever
half there. The manifest has the hash of each, and one of itself.
"""

import json
import stat
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from probekit import checks, lock
from probekit.manifests import environment, files_below, no_links, sealed, write_json
from probekit.resources import reading, sha256

#: Shards of more bytes are not read in full only to see whether they are as they were.
LARGE = 1 << 20


@dataclass
class Stage:
    """A stage that is being run."""

    run: object
    """The `Run` that it is a stage of."""
    name: str
    parameters: dict
    inputs: dict
    started: float = field(default_factory=time.time)

    def finish(self, outputs, **results):
        """Write the manifest: the stage is finished.

        Parameters
        ----------
        outputs : sequence of Path
            Files and folders in the run directory that the stage made.
        **results
            Whatever else should be on record, as JSON can hold it.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If an output is not there or not in the run directory, or JSON can't hold a result. If
            the run directory was renamed or deleted since the stage began.
        """
        check_json("results", results)
        lock.check_place(self.run.path)
        outputs = checks.paths("outputs", outputs)
        for output in outputs:
            if not output.is_relative_to(self.run.path):
                raise ValueError(
                    f"The output {output} is not in the run directory {self.run.path}. Write it "
                    f"there, and give its whole path, such as {self.run.path / 'grid.nc'}."
                )
            if not no_links(output, self.run.path):
                raise FileNotFoundError(
                    f"The output {output} is not there. Write it, then finish the stage."
                )
        manifest = {
            "stage": self.name,
            "parameters": self.parameters,
            "inputs": self.inputs,
            "outputs": {
                str(file.relative_to(self.run.path)): _record(file)
                for output in outputs
                for file in _files(output)
            },
            "results": results,
            "environment": environment(),
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 2),
        }
        path = self.run.manifest_path(self.name)
        write_json(path, sealed(manifest))
        lock.release(self.run.path)
        return manifest


def check_json(name, values):
    """Refuse what a manifest can't hold."""
    checks.instance(name, values, dict, "such as {'seed': 0}")
    for key, value in values.items():
        kind = f", a numpy {type(value).__name__}" if isinstance(value, np.generic) else ""
        expected = (
            f"{name} must be what JSON can hold: text, finite numbers of Python, True, False, "
            f"None, lists and dicts of them; {checks.shown(key)} is {checks.shown(value)}{kind}."
        )
        try:
            json.dumps({key: value}, allow_nan=False)
        except TypeError as error:
            raise TypeError(expected) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(expected) from error


def _files(path):
    return files_below(path) if path.is_dir() else [path]


def _record(file):
    """What a manifest says of a file."""
    with reading(file):
        record = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        if file.name == "zarr.json":
            # A few hundred bytes without which gigabytes can't be read: they are kept here too.
            record["text"] = file.read_bytes().decode()
    return record


def same_file(path, record, thorough=True):
    """Whether a file is as a manifest records it; an OSError where that can't be read.

    Parameters
    ----------
    path : Path
    record : dict
        Its `bytes` and `sha256`.
    thorough : bool
        If not, of large shards of activations the sizes are compared only.

    Returns
    -------
    bool
    """
    try:
        with reading(path):
            found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != record["bytes"]:
        return False
    large = "/activation/c/" in path.as_posix() and record["bytes"] > LARGE
    return (large and not thorough) or sha256(path) == record["sha256"]
