"""The four notebooks, executed in order by papermill, and their parameters."""

import ast
import difflib
import os
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import nbformat
import yaml
from tqdm import tqdm

from probekit.grid import PROTOCOLS
from probekit.lock import directing
from probekit.models import locate_model
from probekit.questions import read_questions
from probekit.report import TEMPLATE, write_report
from probekit.resources import resource, sha256
from probekit.runs import REPORT, STAGES, Run, notebook_name, write_json
from probekit.sites import SITES
from probekit.tokens import TOKENS

# Values that a parameter can take, where there is more to say than its type.
_CHOICES = {
    "site": SITES,
    "split": ("random", "answer", "published"),
    "protocol": PROTOCOLS,
    "measure": ("auroc", "correlation"),
    "token": TOKENS,
}
_LEAST = {
    "limit": 0,
    "seed": 0,
    "max_new_tokens": 1,
    "folds": 2,
    "n_permutations": 0,
    "n_samples": 1,
    "temperature": 0,
}


def notebook_path(stage):
    """Path of a stage's notebook.

    Parameters
    ----------
    stage : {"extract", "probe", "visualize", "interpret"}

    Returns
    -------
    Path
    """
    return resource("notebooks") / notebook_name(stage)


def notebook_parameters(stage):
    """Parameters of a stage's notebook, as its cell tagged ``parameters`` declares them.

    Parameters
    ----------
    stage : {"extract", "probe", "visualize", "interpret"}

    Returns
    -------
    dict of {str: (default, str)}
        Per name the default value, a literal, and what the trailing comment says of it.
    """
    notebook = nbformat.read(notebook_path(stage), as_version=4)
    source = next(
        cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    found = {}
    for line, statement in zip(source.splitlines(), ast.parse(source).body, strict=True):
        comment = line[statement.end_col_offset :].partition("#")[2].strip()
        found[statement.targets[0].id] = (ast.literal_eval(statement.value), comment)
    return found


def describe_parameters():
    """All notebooks' parameters with their defaults and meaning, a line each."""
    lines = {}
    for stage in STAGES:
        for name, (default, comment) in notebook_parameters(stage).items():
            if name != "run_dir":
                lines.setdefault(name, f"  {name} = {default!r}".ljust(28) + f"  {comment}")
    return "\n".join(lines.values())


def read_parameters(pairs=(), file=None):
    """Parameters from the command line and a YAML file; the command line counts more.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Names and values as text; a value is read as what the parameter's default is.
    file : str or Path, optional

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, is not YAML, or is no mapping.
    """
    parameters = {}
    if file is not None:
        try:
            parameters = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"No parameter file {file}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not YAML: {error}") from error
        if not isinstance(parameters, dict) or not all(isinstance(n, str) for n in parameters):
            raise ValueError(
                f"{file} must map parameter names to values, one a line: `limit: 200`."
            )
    known = _known()
    for name, text in pairs:
        default = known.get(name, "")
        try:
            parameters[name] = text if isinstance(default, str) else yaml.safe_load(text)
        except yaml.YAMLError:
            parameters[name] = text
    return parameters


def _known():
    return {
        name: default
        for stage in STAGES
        for name, (default, _) in notebook_parameters(stage).items()
    }


def check_parameters(**parameters):
    """Refuse notebook parameters that can't be right, before any work is done.

    Parameters
    ----------
    **parameters
        Names and values of the notebooks' parameters.

    Returns
    -------
    dict
        The same; whole numbers where the default has a fraction are made so.

    Raises
    ------
    ValueError
        If a name is unknown or a value out of range.
    TypeError
        If a value is not of its default's type.
    """
    known = _known()
    checked = {}
    for name, value in parameters.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"No parameter {name!r}.{hint} There are: {', '.join(sorted(known))}.")
        kind = type(known[name])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise TypeError(
                f"{name} must be {_KIND_NAMES[kind]} such as {known[name]!r}, got {value!r} "
                f"({type(value).__name__})."
            )
        for item in value if isinstance(value, list) else [value]:
            if name in _CHOICES and item not in _CHOICES[name]:
                raise ValueError(
                    f"{name} must be one of {', '.join(_CHOICES[name])}; got {item!r}."
                )
        if name in _LEAST and value < _LEAST[name]:
            raise ValueError(f"{name} must be at least {_LEAST[name]}, got {value}.")
        if name in ("C", "top_p") and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}.")
        if name in ("run_dir", "model", "questions", "split") and not value.strip():
            raise ValueError(f"{name} must not be empty.")
        checked[name] = value
    return checked


_KIND_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    list: "a list",
}


def run_pipeline(run_dir=None, *, stages=STAGES, progress=True, **parameters):
    """Execute the notebooks in order; those whose inputs have not changed are left alone.

    Parameters
    ----------
    run_dir : str or Path, optional
        By default ``data/runs/`` and the name of the question file.
    stages : sequence of str
    progress : bool
        Show a bar for the run and one for the long loop inside a notebook.
    **parameters
        Of any of the notebooks.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, TypeError
        If a parameter is wrong, or a notebook fails: the message names the notebook, the cell and
        the error. ValueError too if another process is writing into the run directory.
    """
    parameters = check_parameters(**parameters)
    questions = parameters.get("questions", _known()["questions"])
    run = Run(run_dir if run_dir is not None else default_run_dir(questions))
    if "extract" in stages:
        # What is wrong with them is known at once, not when a kernel has started.
        columns = {
            n: parameters[f"{n}_column"]
            for n in ("question", "answers")
            if f"{n}_column" in parameters
        }
        read_questions(questions, limit=parameters.get("limit", 0), **columns)
        locate_model(parameters.get("model", _known()["model"]))
    with (
        directing(run.path),
        tqdm(total=len(stages), desc="probekit", unit="stage", disable=not progress) as bar,
    ):
        for stage in stages:
            bar.set_description(stage)
            _run_stage(run, stage, parameters, progress)
            bar.update()
        if set(stages) == set(STAGES):
            _update_report(run)
    _print_summary(run)
    return run


def default_run_dir(questions):
    """Folder of a run that is named after its questions.

    Parameters
    ----------
    questions : str
        As the notebook's parameter: a name, a path or a data set of the hub.

    Returns
    -------
    Path
        In ``data/runs``, whatever the name: no slash or leading dot is left of it.
    """
    name = re.sub(r"[^\w.-]+", "_", Path(questions).stem)
    return Path("data", "runs", name.lstrip(".") or "questions")


def _run_stage(run, stage, given, progress):
    """Execute one notebook unless it is current, and see that it finished."""
    declared = notebook_parameters(stage)
    parameters = {name: given.get(name, default) for name, (default, _) in declared.items()}
    parameters["run_dir"] = str(run.path)
    notebook = notebook_path(stage)
    key = {"parameters": parameters, "notebook": sha256(notebook)}
    record, output = run.pipeline_record(stage), run.executed_notebook(stage)
    if output.exists() and run.is_current(stage, record, key):
        tqdm.write(f"{stage}: nothing has changed, not run again")
        return
    # A stage that is refused leaves the notebook of the last one that finished as it is.
    unfinished = output.with_suffix(".unfinished.ipynb")
    _execute(notebook, unfinished, parameters, progress)
    run.manifest(stage)
    unfinished.replace(output)
    write_json(record, key | {"manifest": sha256(run._manifest_path(stage))})


def _update_report(run):
    """Write the report, unless it is that of these very stages."""
    key = {"template": sha256(TEMPLATE)}
    record = run.pipeline_record(REPORT)
    if not run.is_current(REPORT, record, key):
        write_report(run)
        write_json(record, key | {"manifest": sha256(run._manifest_path(REPORT))})


def _execute(notebook, output, parameters, progress):
    # papermill is slow to import and warns of its own dependencies when it is.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import papermill
        from papermill.exceptions import PapermillExecutionError

    with _inner_bar(progress) as shown:
        try:
            papermill.execute_notebook(
                str(notebook),
                # papermill takes the path for a format string.
                str(output).replace("{", "{{").replace("}", "}}"),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                stdout_file=shown,
                stderr_file=shown,
                # Of a progress bar's many states the executed notebook keeps the last.
                coalesce_streams=True,
                # Not on the user's screen that a kernel talks over the loopback interface.
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except PapermillExecutionError as error:
            raise ValueError(
                f"{notebook.name}, cell {error.cell_index + 1}: {error.ename}: {error.evalue}\n"
                f"The notebook as far as it got: {output}"
            ) from error


@contextmanager
def _inner_bar(progress):
    """A line on the screen that repeats the kernel's own progress bar, below the run's."""
    with tqdm(bar_format="{desc}", position=1, leave=False, disable=not progress) as bar:
        yield _Repeater(bar)


class _Repeater:
    """What papermill writes a kernel's output to: shows the latest state of a progress bar."""

    def __init__(self, bar):
        self.bar = bar

    def write(self, text):
        states = [part for part in text.replace("\n", "\r").split("\r") if "%|" in part]
        if states:
            self.bar.set_description_str(states[-1])

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        """Nothing is held back."""


def _print_summary(run):
    figure = run.path / "figures" / "heatmap.png"
    if (run.path / "report.html").exists():
        print(f"Report:    {_short(run.path / 'report.html')}")
    print(f"Figure:    {_short(figure)}")
    print(f"Notebooks: {_short(run.path / 'notebooks')}")
    print(run.manifest("interpret")["results"]["summary"], file=sys.stdout)


def _short(path):
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
