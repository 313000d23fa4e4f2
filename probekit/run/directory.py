"""A run directory: where its files are, what is finished, and whether that is still so.

No file is read that is not as its stage left it.
"""

import io
import json
import os
import shutil
import stat
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import xarray as xr

from probekit import arguments
from probekit.run import lock
from probekit.run.files import (
    TEMPORARY,
    DamagedError,
    explained,
    files_below,
    no_links,
    parse_json,
    reading,
    replacing,
    sha256,
    write_json,
)
from probekit.run.manifest import (
    NOTEBOOKS,
    REPORT,
    check_json,
    checked,
    environment,
    fingerprint,
    is_plain,
    is_word,
    notebook_name,
    recorded,
    same_file,
    sealed,
)
from probekit.run.variables import described

# A grid is always read whole, so each array is one block: nothing is gained by smaller ones, and
# compression loses by them. Level 1 takes a third off and no time that is noticed; higher levels
# take hardly more off.
_STORAGE = {"zlib": True, "complevel": 1, "fletcher32": True}


def netcdf(grids, shuffle=True):
    """Datasets as one netCDF file, a group each.

    In memory, since HDF5 can take the process down with it when the disk is full.
    """
    file = io.BytesIO()
    for split, grid in grids.items():
        texts = {n: v.astype(object) for n, v in grid.variables.items() if v.dtype.kind in "TUO"}
        encoding = {
            n: {**_STORAGE, "shuffle": shuffle, "chunksizes": v.shape}
            for n, v in grid.variables.items()
            if v.dtype.kind in "fiub" and v.size and v.ndim and n not in grid.dims
        }
        # As arrays of bytes: netCDF's own strings are neither compressed nor checked.
        encoding |= {n: {**_STORAGE, "dtype": "S1"} for n, v in texts.items() if v.ndim and v.size}
        grid.assign(texts).to_netcdf(
            file, mode="a", group=split, engine="h5netcdf", encoding=encoding
        )
    return file.getvalue()


# Deflate, shuffle and fletcher32, which HDF5 has built in; others are code that a file may name.
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_LARGEST_RATIO = 1100  # deflate's own is 1032


def read_grid(content, split):
    """Read a dataset of a file that `netcdf` made."""
    try:
        with h5py.File(io.BytesIO(content)) as file:
            _check_contained(file, len(content))
        grid = xr.load_dataset(io.BytesIO(content), group=split, engine="h5netcdf")
    except (OSError, LookupError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"it is not as it was written: {error}.") from error
    texts = {n: v.astype(str) for n, v in grid.variables.items() if v.dtype.kind == "O"}
    grid = grid.assign(texts)
    _check_form(grid)
    return described(grid)


def _check_contained(file, size):
    """Refuse what makes HDF5 read another file, run a plugin, or fill the memory."""
    claimed = 0
    for split in file:
        members = _member(file, split)
        if not isinstance(members, h5py.Group):
            raise ValueError(f"it holds {split!r}, which is no split.")
        for name in members:
            array = _member(members, name)
            if not isinstance(array, h5py.Dataset):
                raise ValueError(f"{name!r} of {split!r} is not an array.")
            made = array.id.get_create_plist()
            filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
            if array.external or array.is_virtual or not filters <= _FILTERS:
                raise ValueError(
                    f"{name!r} of {split!r} is kept in another file or in a form that probekit "
                    "does not write, so it is not read."
                )
            claimed += array.size * array.dtype.itemsize
    if claimed > _LARGEST_RATIO * size:
        raise ValueError(
            f"its {size:,} bytes claim to hold {claimed:,}, which they can't, so it is not read."
        )


def _member(group, name):
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link to another place or file, so it is not read.")
    return group[name]


def _check_form(grid):
    """Refuse a dataset, of a grid or of its controls, that the functions on these could not use."""
    cell = ("layer", "token")
    over = ("control",) if "control" in grid.dims else cell
    # The dimensions of each variable, and numpy's kinds of what it holds.
    form = dict.fromkeys(("auroc", "auroc_low", "auroc_high", "p_value", "intercept"), (over, "f"))
    form |= {name: ((name,), "iu" if name == "layer" else "TUO") for name in over}
    form |= {"n_examples": (over, "iu"), "coef": ((*cell, "feature"), "f")}
    form["score"] = (("example", *cell) if over == cell else ("control", "example"), "f")
    for name in ("auroc", *over):
        if name not in grid.variables:
            raise ValueError(f"it has no {name!r}.")
    for name, (dims, kinds) in form.items():
        if name in grid.variables and (
            grid[name].dims != dims or grid[name].dtype.kind not in kinds
        ):
            raise ValueError(
                f"its {name!r} holds {arguments.held(grid[name].dtype)} over "
                f"({', '.join(grid[name].dims)}), and should be over ({', '.join(dims)})."
            )
    for name in over:
        if not grid.indexes[name].is_unique:
            raise ValueError(f"it has a {name} twice.")


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
            What else to record: values that JSON can hold.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If an output is not there or not in the run directory, JSON can't hold a result, or the
            run directory was renamed or deleted since the stage began.
        """
        check_json("results", results)
        lock.check_place(self.run.path)
        outputs = arguments.paths("outputs", outputs)
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
            "outputs": recorded(outputs, self.run.path),
            "results": results,
            "environment": environment(),
            "started": datetime.fromtimestamp(self.started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - self.started, 2),
        }
        write_json(self.run.manifest_path(self.name), sealed(manifest))
        lock.release(self.run.path)
        return manifest


class Run:
    """A run directory.

    Parameters
    ----------
    path : str or Path
        Made when something is first written there.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> run
    Run('.../data/examples/cities')  # finished: extract, probe
    >>> print(pk.headline(run))
    Wrong answers can be told from right ones in 8 of 9 cells, and by all cells
    together (AUROC 0.84 [0.77, 0.89], where 0.5 is chance). But all controls
    together, without the network, reach 0.83; with answers held out 0.73 [0.58,
    0.84] is left, not shown to be more than the controls.
    """

    def __init__(self, path):
        path = arguments.path("The run directory", path)
        # Not pathlib's own, which fail where a user or a link leads nowhere or a name is too long.
        self.path = Path(os.path.realpath(os.path.expanduser(path)))
        if os.path.exists(self.path) and not self.path.is_dir():
            raise ValueError(f"The run directory {self.path} is a file. Give a folder's path.")

    def __repr__(self):
        finished = ", ".join(filter(self._is_finished, NOTEBOOKS))
        return f"Run({str(self.path)!r})" + (f"  # finished: {finished}" if finished else "")

    def _is_finished(self, stage):
        try:
            return self.manifest_path(stage).is_file()
        except (ValueError, OSError):  # a link that leads elsewhere, or nobody may look
            return False

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
        folder = self._inside(name)
        if not no_links(folder, self.path):
            lock.occupy(self.path)
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

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> run.answers()[["id", "exact_answer", "correct"]].head(3)
                    id                  exact_answer  correct
        0  cities-0001                       England     True
        1  cities-0002                        Indian     True
        2  cities-0003  Democratic Republic of Congo    False
        """
        path, content = self._content("answers.parquet", "extract")
        try:
            return pd.read_parquet(io.BytesIO(content))
        except (ValueError, OSError) as error:
            raise _damaged(path, error, "extract") from error

    @arguments.plainly()
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

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> activations = run.activations()
        >>> dict(activations.sizes)
        {'example': 300, 'layer': 3, 'token': 3, 'feature': 576}
        >>> activations["token"].to_numpy().tolist()
        ['last_q', 'exact_answer_first', '-1']
        """
        if site is not None:
            arguments.text("site", site, such_as="mlp_out")
        sites = self.manifest("extract")["results"].get("sites")
        if not sites:
            raise _damaged(self.manifest_path("extract"), "it names no site", "extract")
        site = site or sites[0]
        _check_there(self.path, "site", site, sites)
        path = self._intact(store_name(site, sites), "extract")
        from probekit.run.activations import read_store  # zarr takes a while to import

        ids = pd.read_parquet(self._intact("answers.parquet", "extract"), columns=["id"])["id"]
        try:
            return read_store(path, ids)
        except DamagedError as error:
            raise _damaged(path, error, "extract") from error

    @arguments.plainly()
    def cell(self, layer, token, site=None):
        """Activations and labels of one cell, as scikit-learn takes them.

        Of the examples of the grid that have the token: those with an exact answer.

        Parameters
        ----------
        layer : int
        token : str
            One of `TOKENS`.
        site : str, optional
            By default the one that the grid is of; before the probe stage, the run's first.

        Returns
        -------
        X : array of float32, shape (example, feature)
        y : array of bool, shape (example,)
            Whether the answer is wrong.
        ids : array of str, shape (example,)

        Examples
        --------
        A classifier of one's own, on the grid's folds:

        >>> import probekit as pk
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.model_selection import PredefinedSplit, cross_val_score
        >>> run = pk.Run("data/examples/cities")
        >>> X, y, ids = run.cell(15, "exact_answer_first")
        >>> X.shape
        (245, 576)
        >>> folds = PredefinedSplit(run.grid().sel(id=ids)["fold"])
        >>> probe = LogisticRegression(max_iter=1000)
        >>> scores = cross_val_score(probe, X, y, cv=folds, scoring="roc_auc")
        >>> print(scores.mean().round(2))
        0.84

        The grid's AUROC pools the folds' scores, so the mean of theirs differs a little.
        """
        if site is None and self.manifest_path("probe").exists():
            # Runs from before there was a choice don't name it: they are of the first.
            site = self.manifest("probe")["parameters"].get("probe_site")
        dataset = self.activations(site)
        place = []
        for kind, label in (("layer", layer), ("token", token)):
            have = dataset[kind].to_numpy().tolist()
            place.append(have.index(*arguments.labels(kind, [label], have)))
        from probekit.run.activations import explained_damage

        with explained_damage(dataset):
            X = dataset["activation"].isel(layer=place[0], token=place[1]).to_numpy()
        there = ~np.isnan(X).any(1) & (dataset["exact_answer"].to_numpy() != "")
        dataset = dataset.isel(example=there)
        ids = dataset["id"].to_numpy().astype(str)
        return X[there].astype(np.float32), ~dataset["correct"].to_numpy().astype(bool), ids

    def grid(self, split="random"):
        """Grid of probes that the probe stage fitted.

        Parameters
        ----------
        split : str
            ``"random"``, ``"answer"``, ``"published"`` or another that was asked for.

        Returns
        -------
        Dataset

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> run.grid("answer")["auroc"].to_pandas().round(2)
        token  last_q  exact_answer_first    -1
        layer
        6        0.60                0.56  0.65
        15       0.76                0.65  0.67
        24       0.62                0.68  0.61
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

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> pk.control_table(run.controls())[["auroc", "n_examples"]].head(3).round(2)
                  auroc  n_examples
        control
        all        0.83         245
        response   0.81         245
        outputs    0.79         245
        """
        return self._load("controls.nc", split)

    @arguments.plainly()
    def detector(self, split=None):
        """Detector that the probe stage made of a split's whole grid.

        Parameters
        ----------
        split : str, optional
            By default the strictest there is: answers held out, else groups, else random folds.

        Returns
        -------
        Detector

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> run.detector("random")
        Detector of 9 cells: AUROC 0.84 [0.77, 0.89], p = 9.9e-07; against all controls
        together +0.01 [-0.05, +0.07]; joining them +0.02 [-0.01, +0.04]; ECE 0.07,
        Brier 0.169 (0.250)
        >>> run.detector("answer")
        Detector of 9 cells: AUROC 0.73 [0.58, 0.84], p = 0.0014; against all controls
        together -0.04 [-0.18, +0.10]; joining them +0.00 [-0.05, +0.05]; ECE 0.06,
        Brier 0.212 (0.250)
        """
        from probekit.probing.detection import FILES, load_detector

        folder = self._intact("detector", "probe")
        if not folder.is_dir():
            raise _damaged(folder, "it is not a folder", "probe")
        with reading(folder):
            there = sorted(path.name for path in folder.iterdir())
        if split is None:
            split = next((name for name in ("answer", "group") if name in there), "random")
        arguments.text("split", split, such_as="random")
        _check_there(folder, "detector of split", split, there)
        contents = []
        for name in FILES:
            path = self._inside(f"detector/{split}/{name}")
            if no_links(path, self.path) is None or not path.is_file():
                raise _damaged(path.parent, f"it has no file {name}", "probe")
            with reading(path):
                contents.append(path.read_bytes())
        try:
            return load_detector(*contents)
        except ValueError as error:
            raise _damaged(folder / split, error, "probe") from error

    @arguments.plainly()
    def _load(self, name, split):
        arguments.text("split", split, such_as="random")
        path, content = self._content(name, "probe")
        splits = self.manifest("probe")["results"].get("splits", [split])
        _check_there(path, "split", split, splits)
        try:
            return read_grid(content, split)
        except ValueError as error:
            raise _damaged(path, error, "probe") from error

    def save_grids(self, grids, name="grid.nc", **storage):
        """Save datasets of the probe stage into one file.

        Parameters
        ----------
        grids : dict of {str: Dataset}
            Per split, as `grid` or `controls` will be asked for it.
        name : {"grid.nc", "controls.nc"}
        **storage
            Keyword arguments of `netcdf`.

        Returns
        -------
        Path
        """
        path = self._inside(name)
        _check_per_split("grids", grids, xr.Dataset)
        lock.occupy(self.path)
        with replacing(path) as temporary:
            temporary.write_bytes(netcdf(grids, **storage))
        return path

    def save_detectors(self, detectors):
        """Save detectors of the probe stage, in place of those that are there.

        Parameters
        ----------
        detectors : dict of {str: Detector}
            Per split, as `detector` will be asked for it.

        Returns
        -------
        Path
        """
        from probekit.probing.detection import Detector

        _check_per_split("detectors", detectors, Detector)
        lock.occupy(self.path)
        folder = self._inside("detector")
        if folder.exists():
            with explained(folder):
                shutil.rmtree(folder)  # those of splits that this run no longer has
        for split, detector in detectors.items():
            detector.save(self._inside(f"detector/{split}"))
        return folder

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
        arguments.text(f"The content of {name}", text, empty=True)
        lock.occupy(self.path)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def _inside(self, name):
        """Path of a file of the run; refuses a name or a link that leads out of its directory."""
        if not is_plain(name):
            raise ValueError(
                f"{arguments.shown(name)} is not the name of a file in the run directory "
                f"{self.path}. Give one such as 'description.md'."
            )
        no_links(self.path / name, self.path)
        return self.path / name

    def _content(self, name, stage):
        """Path and bytes of a file that a stage made: so no parser opens a file by itself."""
        path = self._intact(name, stage)
        with reading(path):
            return path, path.read_bytes()

    @arguments.plainly()
    def _intact(self, name, stage):
        """Path of what a stage made, if it is as the stage left it.

        A shard that was deleted would read as missing tokens, and nothing in the store guards its
        labels' types and shapes; so files are compared with the manifest before they are read.
        """
        manifest = self.manifest(stage)
        path = self._inside(name)
        found = no_links(path, self.path)
        if not found and name in manifest.get("left_out", ()):
            raise FileNotFoundError(
                f"{path} is not there: this run is an example, which is kept small. Make a run of "
                "your own: probekit run, or the notebooks 01 and 02."
            )
        if not found:
            raise FileNotFoundError(f"{path} is not there. {_again(stage)}")
        if stat.S_ISDIR(found.st_mode):
            files_below(path)
        records = {n: r for n, r in manifest["outputs"].items() if Path(n).parts[0] == name}
        for output, record in records.items():
            if not same_file(self._inside(output), record, thorough=False):
                problem = f"{self.path / output} is not as the {stage} stage left it"
                raise _damaged(path, problem, stage)
        if not records:
            raise ValueError(f"{path} is not what the {stage} stage made. {_again(stage)}")
        return path

    # Stages

    @arguments.plainly()
    def manifest(self, stage):
        """What a finished stage recorded of itself.

        Parameters
        ----------
        stage : {"extract", "probe", "visualize", "interpret", "transfer", "choose", "intervene"}

        Returns
        -------
        dict

        Raises
        ------
        FileNotFoundError
            If the stage is not finished.

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> run.manifest("extract")["results"]
        {'sites': ['mlp_out'], 'n_examples': 300, 'n_correct': 120,
        'n_without_exact_answer': 55}
        """
        path = self.manifest_path(stage)
        try:
            with reading(path):
                content = parse_json(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("schema_version", 1) == 1:
                return checked(content)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(
                f"{self.path} holds no finished {stage} stage. Run the {stage} stage first: "
                "probekit run, or its notebook."
            ) from None
        except (ValueError, IsADirectoryError) as error:
            raise _damaged(path, error, stage) from error
        raise ValueError(
            f"{path} was written by a later version of probekit. Update probekit, or give another "
            "run directory."
        )

    @arguments.plainly()
    def results(self, stage):
        """What a finished stage recorded as its results, if what it read is still the same.

        Parameters
        ----------
        stage : str
            As for `manifest`.

        Returns
        -------
        dict or None
            None if the stage is not finished, or its inputs in the run directory have changed.

        Examples
        --------
        None, as notebook 7 was not run here:

        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> run.results("intervene") is None
        True
        """
        if not no_links(self.manifest_path(stage), self.path):
            return None
        manifest = self.manifest(stage)
        for name, digest in manifest["inputs"].items():
            try:
                if not Path(name).is_absolute() and self._digest(self._inside(name)) != digest:
                    return None
            except (FileNotFoundError, DamagedError):
                return None
        return manifest["results"]

    def manifest_path(self, stage):
        """Path of a stage's manifest, or the report's: it is there once the stage is finished."""
        if not isinstance(stage, str) or stage != REPORT:
            arguments.one_of("stage", stage, NOTEBOOKS)
        return self._inside(f"manifests/{stage}.json")

    def pipeline_record(self, stage):
        """Path of what the pipeline ran a stage with, so that it knows whether that has changed."""
        return self._inside(f"manifests/.{self.manifest_path(stage).stem}.pipeline.json")

    def executed_notebook(self, stage):
        """Path of a stage's notebook as the pipeline executed it."""
        return self._inside(f"{self.notebooks.name}/{notebook_name(stage)}")

    @arguments.plainly()
    def begin(self, stage, parameters, inputs=()):
        """Start a stage: from here on it is unfinished until `Stage.finish`.

        Until then no other process can write into the run directory.

        Parameters
        ----------
        stage : str
            As for `manifest`.
        parameters : dict
            What was asked for: values that JSON can hold.
        inputs : sequence of Path
            Files whose contents decide the result; their hashes are recorded now.

        Returns
        -------
        Stage

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            If another process is writing into the directory (the message says which), nothing
            can be written there, an input is missing or damaged, or JSON can't hold a parameter.
        """
        manifest = self.manifest_path(stage)
        check_json("parameters", parameters)
        hashes = {self._label(p): self._digest(p) for p in arguments.paths("inputs", inputs)}
        lock.hold(self.path)
        if replaced := self._replaced(stage, parameters):
            # On stderr, which a report leaves out: it is of this moment, not of the result.
            arguments.say(f"This replaces {replaced}.", file=sys.stderr)
        # What a killed process had begun to write; nobody else is writing now.
        with explained(self.path):
            for folder, _, files in os.walk(self.path):
                for stray in (Path(folder, file) for file in files):
                    if TEMPORARY.fullmatch(stray.relative_to(self.path).as_posix()):
                        stray.unlink()
            manifest.unlink(missing_ok=True)
        return Stage(self, stage, parameters, hashes)

    def _replaced(self, stage, parameters):
        """What a finished stage made with other parameters than these; None if nothing."""
        try:
            before = self.manifest(stage)["parameters"]
        except (FileNotFoundError, ValueError):
            return None
        return replaced(stage, before, parameters)

    def _label(self, path):
        """A path as manifests hold it: relative to the run directory if it is inside."""
        path = Path(path).resolve()
        return str(path.relative_to(self.path) if path.is_relative_to(self.path) else path)

    def _digest(self, path):
        """SHA-256 of a file; of a manifest, that of what it says but for times and versions."""
        here = Path(os.path.abspath(path))
        if here.is_relative_to(self.path):
            no_links(here, self.path)
        for stage in (*NOTEBOOKS, REPORT):
            if here.resolve() == self.path / "manifests" / f"{stage}.json":
                return fingerprint(self.manifest(stage))
        try:
            with reading(path):
                is_file = stat.S_ISREG(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            is_file = False
        if not is_file:
            raise FileNotFoundError(f"There is no file {path}, and an input is a file.")
        return sha256(path)

    def outdated(self, stage, key, thorough=False, files=()):
        """Why a stage has to be run again; an OSError if a file can't be read, so nobody knows.

        Parameters
        ----------
        stage : str
        key : dict
            What the pipeline would run it with now; `pipeline_record` has what it did run it with.
        thorough : bool
            Read large shards of activations too. They carry their own checksums, so it is enough
            to compare their sizes where nothing is going to be made of them.
        files : sequence of Path
            Question files that the stage reads. What is in them decides, not where they are.

        Returns
        -------
        str or None
            None if it is finished as the pipeline recorded it, with its files as it left them.
        """
        path, record = self.manifest_path(stage), self.pipeline_record(stage)
        check_json("key", key)
        try:
            manifest = self.manifest(stage)
        except FileNotFoundError:
            return "not finished"
        except DamagedError:
            return f"{self._label(path)} is damaged"
        recorded = {"parameters": {}} | (read_record(record) or {"parameters": None})
        if not isinstance(recorded["parameters"], dict):
            return f"{self._label(record)} is missing or damaged"
        # As JSON gives it back: no tuples.
        key = json.loads(json.dumps({"parameters": {}} | key)) | {"manifest": sha256(path)}
        outside = {n: d for n, d in manifest["inputs"].items() if Path(n).is_absolute()}
        files = [f for f in files if Path(self._label(f)).is_absolute()]
        moved = files and _by_content(outside) == _by_content({f: sha256(f) for f in files})
        # Earlier versions recorded where the run was. Nothing is made anew for having been moved.
        for name in ("run_dir", *(["questions"] if moved else [])):
            key["parameters"].pop(name, None)
            recorded["parameters"].pop(name, None)
        if changes := _changes(recorded.pop("parameters"), key.pop("parameters")):
            more = [f"{len(changes) - 5:,} more changed"] if len(changes) > 5 else []
            return "; ".join([*changes[:5], *more])
        differing = [name for name in {**key, **recorded} if key.get(name) != recorded.get(name)]
        if differing:
            return f"{' and '.join(differing)} changed"
        for name, digest in manifest["inputs"].items():
            try:
                if not (moved and name in outside) and self._digest(self.path / name) != digest:
                    return f"{name} has changed"
            except (FileNotFoundError, DamagedError):
                return f"{name} is missing or damaged"
        for name, output in manifest["outputs"].items():
            if not same_file(self._inside(name), output, thorough):
                return f"{name} is missing or damaged"
        return None


def read_record(path):
    """What the pipeline recorded of a stage; None if that is missing or damaged."""
    try:
        with reading(path):
            return dict(parse_json(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, TypeError):
        return None


# What is lost when a stage is run again with other parameters.
_MADE = {"probe": "the grid", "visualize": "the figures", "interpret": "the description"}


def replaced(stage, before, now):
    """What a stage made with other parameters, by name, than it would now; None if nothing."""
    differing = {n: v for n, v in before.items() if n in now and now[n] != v}
    if not differing:
        return None
    made_with = ", ".join(f"{n}={_in_words(v)}" for n, v in differing.items())
    return (
        f"{_MADE.get(stage, 'the results')} of {made_with}. To keep both, give this run another "
        "folder"
    )


def _in_words(value):
    """A parameter's value; of a list, what is in it."""
    if isinstance(value, list):
        return f"[{arguments.listed(map(arguments.shown, value))}]"
    return arguments.shown(value)


def _changes(before, now):
    """What is said of each parameter that is another than it was."""
    said = []
    for name in {**now, **before}:
        if name not in before:
            said.append(f"{name} is a new parameter")
        elif name not in now:
            said.append(f"{arguments.visible(name, 100)} is a parameter no more")
        elif before[name] != now[name]:
            was, new = map(_in_words, (before[name], now[name]))
            said.append(f"{name} was {was}, now {new}")
    return said


def _by_content(files):
    """What decides in files outside the run: their formats and hashes, not where they are."""
    return sorted((Path(name).suffix, digest) for name, digest in files.items())


def store_name(site, sites):
    """Name of the store that holds one site of a run's sites."""
    return "activations.zarr" if site == sites[0] else f"activations_{site}.zarr"


def _check_per_split(name, given, kind):
    """Refuse what is not a dict of split to an object of a class, or is empty."""
    of_splits = isinstance(given, dict) and given
    if not of_splits or not all(isinstance(each, kind) for each in given.values()):
        raise TypeError(
            f"{name} must be a dict of a {kind.__name__} per split, such as "
            f"{{'random': {name[:-1]}}}; got {arguments.shown(given)}."
        )
    for split in given:
        arguments.text("The name of a split", split, such_as="random")
        if not is_word(split):
            raise ValueError(
                f"{arguments.shown(split)} can't be the name of a split. Give a word such as "
                "'random'."
            )


def _check_there(path, kind, name, names):
    if name not in names:
        have = arguments.listed(names)
        raise ValueError(f"{path} has no {kind} {arguments.shown(name)}. It has: {have}.")


def _damaged(path, problem, stage):
    return DamagedError(f"{path} is damaged: {str(problem).rstrip('.')}. {_again(stage)}")


def _again(stage):
    return f"Run the {stage} stage again: probekit run, or its notebook."
