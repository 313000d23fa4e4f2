"""The example run: a finished run without its activations, small enough to come with probekit."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from probekit import arguments
from probekit.pipeline.parameters import notebook_parameters
from probekit.run.directory import Run
from probekit.run.files import (
    no_links,
    replacing,
    resource,
    sha256,
    write_json,
)
from probekit.run.manifest import STAGES, sealed

# Steps of the log-odds of the scores. All scores of a cell lie on a few hundred values then, which
# compress; steps in P(error) itself would merge the many that are near 0 and 1.
_STEPS = 16


def open_run(path=None):
    """Open a run; where there is none yet, a copy of the example run.

    Parameters
    ----------
    path : str or Path, optional
        A run directory. By default the example run, copied to ``data/runs/example``. It is also
        what is opened, and a printed line says so, if this is the notebooks' own default directory
        and not there: the copy is then beside it. A copy that is there is opened as it is.

    Returns
    -------
    Run

    Raises
    ------
    FileNotFoundError
        If it is any other directory and not there, or has no finished stage.
    ValueError
        If the example can't be copied.
    """
    default, _ = notebook_parameters("visualize")["run_dir"]
    if path is None:
        return _copied(Path("data", "runs", "example"))
    run = Run(path)
    how = (
        f"Make it with `probekit run --run-dir {path}`, or look at the example run: open_run() "
        "without a path."
    )
    if run.path.exists():
        if not any(no_links(run.manifest_path(stage), run.path) for stage in STAGES):
            raise FileNotFoundError(f"The folder {run.path} has no finished stage of a run. {how}")
        return run
    if str(path) != default:
        raise FileNotFoundError(f"There is no run directory {run.path}. {how}")
    arguments.say(f"There is no run of your own in {path} yet: notebooks 01 and 02 make one.")
    return _copied(Path(path).with_name("example"))


def _copied(path):
    """The example run at a path, copied there unless there is something."""
    run = Run(path)
    try:
        fresh = not run.path.exists() and _copy(resource("data/example"), run.path)
    except OSError as error:
        raise ValueError(
            f"The example run can't be copied to {run.path}: {error.strerror or error}. Change to "
            "a directory that you can write to, or give the path of a run."
        ) from error
    made_of = run.manifest("extract")["parameters"]
    state = "copied to" if fresh else "as it is in"
    arguments.say(
        f"This is the example run, {state} {path}: answers of {made_of['model']} to "
        f"{made_of['n_questions']:,} questions, without activations."
    )
    return run


def _copy(source, target):
    """Copy a folder so that it is whole or not there; whether this process did it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".example.") as folder:
        part = Path(folder, target.name)
        for file in filter(Path.is_file, source.rglob("*")):
            copy = part / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Contents only: an installed package's files may be read-only.
            shutil.copyfile(file, copy)
        try:
            part.rename(target)
        except OSError:
            # Another notebook was faster.
            if target.is_dir():
                return False
            raise
    return True


def make_example(run, folder):
    """Make an example of a finished run: all but activations, probes, and figures that aren't PNG.

    Scores are rounded to 1/16 in log-odds and to single precision, which moves a cell's AUROC by
    thousandths at most; the areas themselves, with their intervals, are the run's. The manifests
    list what is there, and under ``left_out`` what isn't.
    """
    example = Run(folder)
    manifests = {stage: run.manifest(stage) for stage in STAGES}
    splits = manifests["probe"]["results"]["splits"]
    # As the methods of Run do, this sees that nothing is damaged.
    run.answers()
    for name, stage in {"figures": "visualize", "description.md": "interpret"}.items():
        run._intact(name, stage)
    run._intact("claims.csv", "interpret")
    example.save_grids({split: _small(run.grid(split)) for split in splits}, shuffle=False)
    controls = [split for split in splits if split != "published"]
    example.save_grids({split: run.controls(split) for split in controls}, "controls.nc")
    copied = ["answers.parquet", "description.md", "claims.csv"]
    copied += [name for name in manifests["visualize"]["outputs"] if name.endswith(".png")]
    for name in copied:
        with replacing(example._inside(name)) as temporary:
            shutil.copyfile(run._inside(name), temporary)
    for stage, manifest in manifests.items():
        write_json(example.manifest_path(stage), sealed(_of_example(manifest, example.path)))
    shutil.rmtree(example.path / ".lock")  # its manifests tell now that it is a run
    return example


def _small(grid):
    """A grid without its probes, and with rounded scores."""
    score = expit(np.round(logit(grid["score"]) * _STEPS) / _STEPS).astype(np.float32)
    score.attrs["rounded"] = f"to 1/{_STEPS} in log-odds, and to single precision"
    small = grid.drop_vars(["coef", "intercept"]).assign(score=score)
    return small.assign_attrs(left_out="coef, intercept: probes can't be loaded from the example")


def _of_example(manifest, folder):
    """A run's manifest, of what the example has."""
    outputs = {name: folder / name for name in manifest["outputs"]}
    missing = [Path(name) for name, path in outputs.items() if not path.exists()]
    environment = manifest["environment"]
    return manifest | {
        # Where the files were on the machine of the run is nobody else's concern.
        "inputs": {
            Path(name).name if Path(name).is_absolute() else name: digest
            for name, digest in manifest["inputs"].items()
        },
        "outputs": {
            name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for name, path in outputs.items()
            if path.exists()
        },
        "left_out": sorted(
            {p.parts[0] if p.parts[0].endswith(".zarr") else p.as_posix() for p in missing}
        ),
        "environment": environment | {"platform": environment["platform"].partition("-")[0]},
    }
