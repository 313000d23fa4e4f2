"""Example runs, small enough to come with probekit.

``data/example`` is the default run without its activations. Those in ``data/examples`` are of fewer
cells and have activations and probes too, for the notebooks beyond the figure.
"""

import shutil
import tempfile
from pathlib import Path

from probekit import arguments
from probekit.pipeline.parameters import notebook_parameters
from probekit.run.directory import Run
from probekit.run.files import no_links, resource
from probekit.run.manifest import STAGES, is_word


def open_run(path=None):
    """Open a run; where there is none yet, a copy of the example run.

    Parameters
    ----------
    path : str or Path, optional
        A run directory. By default the example run, copied to ``data/runs/example`` unless a copy
        is there. If this is the notebooks' default directory and there is no run in it yet, the
        example is opened too, from beside it, and a printed line says so. Where there is nothing,
        a path whose last part is ``example-`` and the name of a small example ("cities",
        "products", "samples") gets a copy of that.

    Returns
    -------
    Run

    Raises
    ------
    FileNotFoundError, ValueError
        If any other directory is not there or has no finished stage, or no example can be copied.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.open_run("data/runs/example-cities")
    This is an example run, copied to data/runs/example-cities: answers of smollm2
    to 300 questions, of a few cells.
    >>> run
    Run('.../data/runs/example-cities')  # finished: extract, probe
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
    if small := _small_example(run.path.name):
        return _copied(path, small)
    if str(path) != default:
        raise FileNotFoundError(f"There is no run directory {run.path}. {how}")
    arguments.say(f"There is no run of your own in {path} yet: notebooks 01 and 02 make one.")
    return _copied(Path(path).with_name("example"))


def _small_example(name):
    """Where the small example is that a run directory is named after; None if none is."""
    kind, _, which = name.partition("-")
    found = resource("data/examples") / which
    return found if kind == "example" and is_word(which) and found.is_dir() else None


def _copied(path, source=None):
    """An example run at a path, copied there unless there is something."""
    run = Run(path)
    try:
        whole = source or resource("data/example")
        fresh = not run.path.exists() and _copy(whole, run.path)
    except OSError as error:
        raise ValueError(
            f"The example run can't be copied to {run.path}: {error.strerror or error}. Change to "
            "a directory that you can write to, or give the path of a run."
        ) from error
    made_of = run.manifest("extract")["parameters"]
    state = "copied to" if fresh else "as it is in"
    left_out = "of a few cells" if source else "without activations"
    arguments.say(
        f"This is {'an' if source else 'the'} example run, {state} {path}: answers of "
        f"{made_of['model']} to {made_of['n_questions']:,} questions, {left_out}."
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
