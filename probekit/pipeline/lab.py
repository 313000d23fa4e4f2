"""Copies of the notebooks to open and change: those that come with probekit stay as they are."""

import ast
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

from probekit import arguments
from probekit.pipeline.example import open_run
from probekit.pipeline.parameters import (
    PLACES,
    check_parameters,
    notebook_parameters,
    notebook_path,
)
from probekit.run.directory import read_record
from probekit.run.files import reading, replacing
from probekit.run.manifest import NOTEBOOKS

#: Folder of the copies that JupyterLab is opened on, where it is called. Not in the run: that may
#: come from somebody else, and a kernel imports what lies beside its notebook.
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
        A run, whose directory and parameters are filled in. By default the notebooks are as they
        come.
    options : sequence of str
        JupyterLab's own, such as "--no-browser".
    """
    folder = Path.cwd() / COPIES
    if run_dir is None:
        texts = _as_they_come()
    else:
        run = open_run(run_dir)
        folder /= run.name
        texts = _filled(run, folder)
        _check_same_run(folder, texts)
    kept = [name for name, text in texts.items() if not _is_free(folder / name, text)]
    for name in texts.keys() - {*kept}:
        _write(folder / name, texts[name])
    arguments.say(f"Copies of the notebooks, for you to change: {folder}")
    if kept:
        arguments.say(
            f"Kept as they are there: {arguments.listed(kept)}. To get one as new, delete it and "
            "open this again."
        )
    _become(_command(folder, options))


def _command(folder, options):
    """The command of JupyterLab; the token that it asks for by default stays on."""
    root = Path.cwd()
    opened = f"/lab/tree/{quote(folder.relative_to(root).as_posix())}"
    place = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url={opened}"]
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


def _check_same_run(folder, texts):
    """Refuse copies that were made for another run of the same name."""
    for name, text in texts.items():
        path = folder / name
        if path.is_file() and _run_dir(path.read_bytes().decode(errors="replace")) != _run_dir(
            text
        ):
            raise ValueError(
                f"{path} is of another run directory. Rename or delete {folder}, then open this "
                "again; or open what is there, by `probekit lab` without a run."
            )


def _run_dir(text):
    """The line of a notebook's text that sets the run directory."""
    found = re.search(r'"run_dir = .*', text)
    return found and found[0]


def _filled(run, folder):
    """The notebooks' texts with a run's directory and parameters, by file name."""
    return {notebook_path(stage).name: _filled_one(run, stage, folder) for stage in NOTEBOOKS}


def _filled_one(run, stage, folder):
    notebook = json.loads(notebook_path(stage).read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    values, lines = _values(run, stage, folder), "".join(cell["source"]).splitlines()
    for i, statement in enumerate(ast.parse("\n".join(lines)).body):
        name, value = statement.targets[0].id, statement.value
        if name in values and values[name] != ast.literal_eval(value):
            line = lines[i]
            lines[i] = line[: value.col_offset] + repr(values[name]) + line[value.end_col_offset :]
    cell["source"] = "\n".join(lines).splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _values(run, stage, folder):
    """Parameters that a run's stage was made with, for its notebook in a folder.

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
    if "run_dirs" in declared and not found:
        # This run is not what it compares: it stays as it comes, from one folder further down.
        return {
            "run_dir": f"../{declared['run_dir'][0]}",
            "run_dirs": [f"../{path}" for path in declared["run_dirs"][0]],
        }
    # Relative where it can be: a copy of the whole project is then opened on its own run.
    inside = run.path.is_relative_to(Path.cwd())
    return found | {"run_dir": os.path.relpath(run.path, folder) if inside else str(run.path)}


def _from_here(name, value):
    """A path that holds wherever the kernel is; anything else is as it was."""
    is_path = name in _PATHS and isinstance(value, str) and os.path.exists(value)
    return os.path.abspath(value) if is_path and (os.sep in value or "." in value) else value
