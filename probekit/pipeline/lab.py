"""Copies of the notebooks to open and change: those that come with probekit stay as they are."""

import ast
import json
import os
import sys
from pathlib import Path

from probekit import arguments
from probekit.pipeline.example import open_run
from probekit.pipeline.parameters import (
    PLACES,
    check_parameters,
    notebook_parameters,
    notebook_path,
)
from probekit.run.directory import read_record
from probekit.run.files import no_links, reading, replacing
from probekit.run.manifest import NOTEBOOKS

#: Folder of the copies that JupyterLab is opened on: in the run directory, or where it is called.
COPIES = "notebooks-to-edit"

# Parameters that may be paths, as they are from where the run was made.
_PATHS = ("model", "judge", "questions", "corrections")


def copy_notebooks(folder):
    """Copy the notebooks into a folder; where it has others of their names, nothing is copied."""
    folder = Path(os.path.abspath(os.path.expanduser(arguments.path("The folder", folder))))
    texts = _as_they_come()
    if others := [name for name, text in texts.items() if not _is_free(folder / name, text)]:
        raise ValueError(
            f"{folder} has other files of these names: {arguments.listed(others)}. They are left "
            "as they are, and nothing was copied. Give another folder."
        )
    for name, text in texts.items():
        _write(folder / name, text)
    arguments.say(f"The notebooks were copied to {folder}")


def open_lab(run_dir=None, options=()):
    """Open JupyterLab on copies of the notebooks, for this machine only, in place of this process.

    Copies that are there are kept as they are.

    Parameters
    ----------
    run_dir : str or Path, optional
        A run, whose parameters are filled in; the copies are inside it. By default the notebooks
        are as they come, and the copies in the folder where this is called.
    options : sequence of str
        JupyterLab's own, such as "--no-browser".
    """
    run = None if run_dir is None else open_run(run_dir)
    root = Path.cwd() if run is None else run.path
    texts = _as_they_come() if run is None else _filled(run)
    kept = []
    for name, text in texts.items():
        # A run may come from somebody else, with links in it.
        no_links(root / COPIES / name, root)
        if not _is_free(root / COPIES / name, text):
            kept.append(name)
        elif run is None:
            _write(root / COPIES / name, text)
        else:
            run.write_text(f"{COPIES}/{name}", text)
    arguments.say(f"Copies of the notebooks, for you to change: {root / COPIES}")
    if kept:
        arguments.say(
            f"Kept as they are there: {arguments.listed(kept)}. To get one as new, delete it and "
            "open this again."
        )
    _become(_command(root, options))


def _command(root, options):
    """The command of JupyterLab; the token that it asks for by default stays on."""
    place = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url=/lab/tree/{COPIES}"]
    # It counts before what a configuration file says, and JupyterLab refuses a second one.
    return [sys.executable, "-m", "jupyterlab", *place, *options, "--ip=127.0.0.1"]


def _become(command):
    sys.stdout.flush()
    # Not as a child: Ctrl-C, which JupyterLab answers with a question, is its own.
    os.execv(command[0], command)  # noqa: S606


def _as_they_come():
    paths = map(notebook_path, NOTEBOOKS)
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def _is_free(path, text):
    """Whether there is nothing at a path, or the very same."""
    if not os.path.lexists(path):
        return True
    with reading(path):
        return path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode()


def _write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _filled(run):
    """The notebooks' texts with a run's directory and parameters, by file name."""
    return {notebook_path(stage).name: _filled_one(run, stage) for stage in NOTEBOOKS}


def _filled_one(run, stage):
    notebook = json.loads(notebook_path(stage).read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    values, lines = _values(run, stage), "".join(cell["source"]).splitlines()
    for i, statement in enumerate(ast.parse("\n".join(lines)).body):
        name, value = statement.targets[0].id, statement.value
        if name in values and values[name] != ast.literal_eval(value):
            line = lines[i]
            lines[i] = line[: value.col_offset] + repr(values[name]) + line[value.end_col_offset :]
    cell["source"] = "\n".join(lines).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _values(run, stage):
    """Parameters that a run's stage was made with, for its notebook in the folder of the copies.

    They become code, and a run may come from somebody else: so they are as strictly checked as
    those that are given to the command.
    """
    declared, name = notebook_parameters(stage), notebook_path(stage).name
    made = run.manifest(stage)["parameters"] if run.manifest_path(stage).exists() else {}
    recorded = (read_record(run.pipeline_record(stage)) or {}).get("parameters")
    recorded = recorded if isinstance(recorded, dict) else {}
    if stage != "extract":
        # A stage may have been run again by hand since the pipeline recorded what it ran.
        before = recorded | made
    else:
        # Its manifest has the questions' hash and the judge's own name for itself.
        before = {n: v for n, v in made.items() if n not in ("questions", "judge")} | recorded
        if made and not recorded:
            arguments.say(
                f"{name}: it is not recorded where the run's questions are from. Fill in what "
                "differs from the default."
            )
    before = {n: v for n, v in before.items() if n in declared and n not in (*PLACES, "run_dir")}
    try:
        found = check_parameters(**{n: _from_here(n, v) for n, v in before.items()})
    except (ValueError, TypeError) as error:
        arguments.say(f"{name} has its default parameters. What the run recorded is wrong: {error}")
        found = {}
    if "run_dirs" in declared and "run_dirs" not in found:
        found["run_dirs"] = [f"../../{Path(path).name}" for path in declared["run_dirs"][0]]
    # From the folder of the copies, so that a copy of the whole run is opened on itself.
    return found | {"run_dir": ".."}


def _from_here(name, value):
    """A path that holds wherever the kernel is; anything else is as it was."""
    is_path = name in _PATHS and isinstance(value, str) and os.path.exists(value)
    return os.path.abspath(value) if is_path and (os.sep in value or "." in value) else value
