"""A run directory: where its files are, what is finished, and whether that is still so.

No file is read that is not as its stage left it.
"""

import json
import os
from pathlib import Path

import pandas as pd
import xarray as xr

from probekit import checks, lock
from probekit.grid_files import netcdf, read_grid
from probekit.manifests import (
    DamagedError,
    checked,
    explained,
    fingerprint,
    is_plain,
    replacing,
)
from probekit.resources import parse_json, reading, sha256
from probekit.stages import Stage, check_json, same_file

#: The four stages, in order; each is a notebook.
STAGES = ("extract", "probe", "visualize", "interpret")
#: What a whole run ends with; it has a manifest too.
REPORT = "report"


class Run:
    """A run directory.

    Parameters
    ----------
    path : str or Path
        Made when something is first written there.
    """

    def __init__(self, path):
        path = checks.path("The run directory", path)
        # Not pathlib's own, which fail where a user or a link leads nowhere or a name is too long.
        self.path = Path(os.path.realpath(os.path.expanduser(path)))
        if os.path.exists(self.path) and not self.path.is_dir():
            raise ValueError(f"The run directory {self.path} is a file. Give a folder's path.")

    def __repr__(self):
        return f"Run({str(self.path)!r})"

    @property
    def name(self):
        """Last part of the path."""
        return self.path.name

    @property
    def figures(self):
        """Folder of the figures; made if it isn't there."""
        return self._folder("figures")

    @property
    def notebooks(self):
        """Folder of the executed notebooks; made if it isn't there."""
        return self._folder("notebooks")

    def _folder(self, name):
        folder = self.path / name
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    # What the stages made

    def answers(self):
        """Questions, responses and grades.

        Returns
        -------
        DataFrame
            One row an example, in the order of the question file.
        """
        return pd.read_parquet(self._intact("answers.parquet", "extract"))

    def activations(self, site=None):
        """Activations of the named tokens, read from disk only where they are used.

        Parameters
        ----------
        site : str, optional
            By default the run's first site.

        Returns
        -------
        Dataset
            ``activation(example, layer, token, feature)``; NaN where a response has no such token.
        """
        if site is not None:
            checks.text("site", site, such_as="mlp_out")
        sites = self.manifest("extract")["results"].get("sites")
        if not sites:
            raise ValueError(
                f"{self.manifest_path('extract')} is damaged: it names no site. {_again('extract')}"
            )
        site = site or sites[0]
        if site not in sites:
            raise ValueError(
                f"{self.path} has no site {checks.shown(site)}. It has: {', '.join(sites)}."
            )
        path = self._intact(store_name(site, sites), "extract")
        from probekit.store import read_store  # zarr takes a while to import

        ids = pd.read_parquet(self._intact("answers.parquet", "extract"), columns=["id"])["id"]
        try:
            return read_store(path, ids)
        except DamagedError as error:
            raise DamagedError(f"{path} is damaged: {error} {_again('extract')}") from error

    def grid(self, split="random"):
        """Grid of probes that the probe stage fitted.

        Parameters
        ----------
        split : str
            ``"random"``, ``"answer"``, ``"published"`` or whatever else was asked for.

        Returns
        -------
        Dataset
        """
        return self._load("grid.nc", split)

    def controls(self, split="random"):
        """Baselines on the same folds as the grid of a split.

        Parameters
        ----------
        split : str

        Returns
        -------
        Dataset
        """
        return self._load("controls.nc", split)

    def _load(self, name, split):
        checks.text("split", split, such_as="random")
        path = self._intact(name, "probe")
        splits = self.manifest("probe")["results"].get("splits", [split])
        if split not in splits:
            raise ValueError(
                f"{path} has no split {checks.shown(split)}. It has: {', '.join(splits)}."
            )
        try:
            return read_grid(path, split)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}. {_again('probe')}") from error

    def save_grids(self, grids, name="grid.nc", **storage):
        """Save datasets of the probe stage into one file.

        Parameters
        ----------
        grids : dict of {str: Dataset}
            Per split, as `grid` or `controls` will be asked for it.
        name : {"grid.nc", "controls.nc"}
        **storage
            Of `netcdf`.

        Returns
        -------
        Path
        """
        path = self._inside(name)
        of_splits = isinstance(grids, dict) and grids
        if not of_splits or not all(isinstance(grid, xr.Dataset) for grid in grids.values()):
            raise TypeError(
                "grids must be a dict of a Dataset per split, such as {'random': grid}; got "
                f"{checks.shown(grids)}."
            )
        for split in grids:
            checks.text("The name of a split", split, such_as="random")
        with replacing(path) as temporary:
            temporary.write_bytes(netcdf(grids, **storage))
        return path

    def write_text(self, name, text):
        """Write a text file into the run directory.

        Parameters
        ----------
        name : str
        text : str

        Returns
        -------
        Path
        """
        path = self._inside(name)
        checks.text(f"The content of {name}", text, empty=True)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def _inside(self, name):
        """Path of a file of the run; refuses a name that leads out of its directory."""
        if not is_plain(name):
            raise ValueError(
                f"{checks.shown(name)} is not the name of a file in the run directory {self.path}. "
                "Give one such as 'description.md'."
            )
        return self.path / name

    def _intact(self, name, stage):
        """Path of what a stage made, if it is as the stage left it.

        A shard that was deleted would read as missing tokens, and nothing in the store guards its
        labels' types and shapes; so files are compared with the manifest before they are read.
        """
        manifest = self.manifest(stage)
        path = self.path / name
        if not path.exists() and name in manifest.get("left_out", ()):
            raise FileNotFoundError(
                f"{path} was left out of this run, an example, to keep it small. Make a run of "
                "your own: probekit run, or the notebooks 01 and 02."
            )
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there. {_again(stage)}")
        for output, record in manifest["outputs"].items():
            if Path(output).parts[0] == name and not same_file(
                self.path / output, record, thorough=False
            ):
                raise ValueError(
                    f"{path} is damaged: {self.path / output} is not as the {stage} stage left "
                    f"it. {_again(stage)}"
                )
        return path

    # Stages

    def manifest(self, stage):
        """What a finished stage recorded of itself.

        Parameters
        ----------
        stage : {"extract", "probe", "visualize", "interpret"}

        Returns
        -------
        dict

        Raises
        ------
        FileNotFoundError
            If the stage is not finished.
        """
        path = self.manifest_path(stage)
        try:
            with reading(path):
                return checked(parse_json(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"{self.path} holds no finished {stage} stage. Run the {stage} stage first: "
                "probekit run, or its notebook."
            ) from None
        except (ValueError, IsADirectoryError) as error:
            raise DamagedError(f"{path} is damaged: {error}. {_again(stage)}") from error

    def manifest_path(self, stage):
        """Path of a stage's manifest, or the report's: it is there once the stage is finished."""
        if not isinstance(stage, str) or stage != REPORT:
            checks.one_of("stage", stage, STAGES)
        return self.path / "manifests" / f"{stage}.json"

    def pipeline_record(self, stage):
        """Path of what the pipeline ran a stage with, so that it knows whether that has changed."""
        return self.manifest_path(stage).with_name(f".{stage}.pipeline.json")

    def executed_notebook(self, stage):
        """Path of a stage's notebook as the pipeline executed it."""
        return self.notebooks / notebook_name(stage)

    def begin(self, stage, parameters, inputs=()):
        """Start a stage: from here on it is unfinished until `Stage.finish`.

        Until then no other process can write into the run directory.

        Parameters
        ----------
        stage : {"extract", "probe", "visualize", "interpret"}
        parameters : dict
            What was asked for, as JSON can hold it.
        inputs : sequence of Path
            Files whose contents decide the result; their hashes are recorded now.

        Returns
        -------
        Stage

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If another process is writing into the directory: the message says which. If nothing
            can be written there, an input is not there or a damaged manifest, or JSON can't hold a
            parameter.
        """
        manifest = self.manifest_path(stage)
        check_json("parameters", parameters)
        hashes = {self._label(p): self._digest(p) for p in checks.paths("inputs", inputs)}
        lock.hold(self.path)
        # What a killed process had begun to write; nobody else is writing now.
        with explained(self.path):
            for stray in self.path.rglob(".*.part"):
                stray.unlink()
            manifest.unlink(missing_ok=True)
        return Stage(self, stage, parameters, hashes)

    def _label(self, path):
        """A path as manifests hold it: relative to the run directory if it is inside."""
        path = Path(path).resolve()
        return str(path.relative_to(self.path) if path.is_relative_to(self.path) else path)

    def _digest(self, path):
        """SHA-256 of a file; of a manifest, that of what it says but for times and versions."""
        path = Path(path)
        for stage in (*STAGES, REPORT):
            if path.resolve() == self.manifest_path(stage):
                return fingerprint(self.manifest(stage))
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no file {path}, and an input is a file.")
        return sha256(path)

    def outdated(self, stage, record, key, thorough=False):
        """Why a stage has to be run again, if it has to.

        Parameters
        ----------
        stage : str
        record : Path
            Where the pipeline keeps what it ran the stage with.
        key : dict
            What it would run it with now.
        thorough : bool
            Read large shards of activations too. They carry their own checksums, so it is enough
            to compare their sizes where nothing is going to be made of them.

        Returns
        -------
        str or None
            None if it is finished as the pipeline recorded it, with its files as it left them.
        """
        path, record = self.manifest_path(stage), checks.path("record", record)
        check_json("key", key)
        if not path.exists():
            return "not finished"
        try:
            manifest = self.manifest(stage)
        except ValueError:
            return f"{self._label(path)} is damaged"
        try:
            recorded = dict(parse_json(record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return f"{self._label(record)} is missing or damaged"
        # As JSON gives it back: no tuples.
        key = json.loads(json.dumps(key)) | {"manifest": sha256(path)}
        differing = [name for name in {**key, **recorded} if key.get(name) != recorded.get(name)]
        if differing:
            return f"{' and '.join(differing)} changed"
        for name, digest in manifest["inputs"].items():
            try:
                if self._digest(self.path / name) != digest:
                    return f"{name} has changed"
            except (OSError, ValueError):
                return f"{name} is missing or damaged"
        for name, output in manifest["outputs"].items():
            if not same_file(self.path / name, output, thorough):
                return f"{name} is missing or damaged"
        return None


def notebook_name(stage):
    """File name of a stage's notebook, such as ``02_probe.ipynb``."""
    checks.one_of("stage", stage, STAGES)
    return f"{STAGES.index(stage) + 1:02d}_{stage}.ipynb"


def store_name(site, sites):
    """Name of the store that holds one site of a run's sites."""
    return "activations.zarr" if site == sites[0] else f"activations_{site}.zarr"


def _again(stage):
    return f"Run the {stage} stage again: probekit run, or its notebook."
