"""The notebooks, executed in order by papermill: the four of the figure, or those asked for."""

import io
import logging
import os
import re
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from probekit import arguments
from probekit.extraction.corrections import read_corrections
from probekit.extraction.identity import locate_model
from probekit.extraction.preflight import preflight
from probekit.pipeline.example import open_run
from probekit.pipeline.parameters import (
    PLACES,
    check_parameters,
    defaults,
    notebook_parameters,
    notebook_path,
)
from probekit.pipeline.report import TEMPLATE, write_report
from probekit.questions.table import read_questions
from probekit.run.directory import Run, read_record, replaced
from probekit.run.files import explained, no_links, sha256, write_json
from probekit.run.lock import directing
from probekit.run.manifest import BEYOND, NOTEBOOKS, REPORT, STAGES


def run_pipeline(run_dir=None, *, stages=STAGES, progress=True, dry_run=False, **parameters):
    """Execute the notebooks in order; those whose inputs have not changed are left alone.

    Parameters
    ----------
    run_dir : str or Path, optional
        By default ``data/runs/`` and the name of the question file; of the notebooks beyond the
        figure alone, what they have as their default.
    stages : sequence of str
        Names of notebooks, such as "probe" or "transfer". By default the four of the figure.
    progress : bool
        Show a bar for the run and one for the long loop inside a notebook.
    dry_run : bool
        Only say which notebooks would be executed, and why: nothing is run or written.
    **parameters
        Of any of the notebooks.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, TypeError
        If a parameter is wrong, another process is writing into the run directory, a notebook
        fails (the message names it, the cell and the error), or the report can't be made.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.run_pipeline("data/runs/new", questions="capitals", dry_run=True)
    extract: not finished, would be run
    probe: not finished, would be run
    visualize: not finished, would be run
    interpret: not finished, would be run
    This was a dry run: nothing was run, and nothing was written.
    """
    parameters = check_parameters(**parameters)
    wanted = arguments.texts("stages", stages)
    for stage in wanted:
        arguments.one_of("A stage", stage, NOTEBOOKS)
    if not wanted:
        raise ValueError(f"There is no stage to run. Give some of {', '.join(NOTEBOOKS)}.")
    stages = [stage for stage in NOTEBOOKS if stage in wanted]
    arguments.flag("progress", progress)
    arguments.flag("dry_run", dry_run)
    if run_dir is None:
        run_dir = _default_of(stages, parameters.get("questions", defaults()["questions"]))
    run = Run(run_dir)
    example = not run.path.exists() and not {*stages}.intersection(STAGES) and _needs_a_run(stages)
    if example and dry_run:
        arguments.say(
            f"{run_dir} is not there. An example of that name, if there is one, would be copied."
        )
    elif example:
        run = open_run(run_dir)
    # What is wrong is known at once, not when a kernel has started or the next stage begins.
    for needed in {_NEEDS[stage] for stage in stages if stage in _NEEDS}.difference(stages):
        if not (example and dry_run):
            run.manifest(needed)
    if "transfer" in stages:
        others = parameters.get("run_dirs") or _beside_notebooks(defaults()["run_dirs"])
        there = Run if dry_run else open_run
        parameters["run_dirs"] = [str(there(path).path) for path in others]
    if "probe" in stages and not (example and dry_run):
        parameters["probe_site"] = _probe_site(run, stages, defaults() | parameters)
    files = _check_extract(run, stages, defaults() | parameters) if "extract" in stages else ()
    if dry_run:
        _say_what_would_run(run, stages, parameters, files)
        return run
    with (
        directing(run.path),
        tqdm(total=len(stages), desc="probekit", unit="stage", disable=not progress) as bar,
    ):
        for stage in stages:
            bar.set_description(stage)
            reason = _outdated(run, stage, parameters, files)
            if reason is None:
                arguments.say(f"{stage}: nothing has changed, not run again")
            else:
                if reason != "not finished":
                    arguments.say(f"{stage}: {reason}, run again")
                if lost := _replaced(run, stage, parameters):
                    arguments.say(f"{stage}: this replaces {lost} (--run-dir)")
                _run_stage(run, stage, parameters, progress)
                if stage == "extract":
                    used = defaults() | parameters
                    found = preflight(run, folds=used["folds"], seed=used["seed"])
                    arguments.say(found, longest=10_000)
            bar.update()
        no_report = _update_report(run) if stages == list(STAGES) else None
    if "interpret" in stages:
        if not no_report and (run.path / "report.html").exists():
            arguments.say(f"Report:    {_short(run.path / 'report.html')}")
        arguments.say(f"Figure:    {_short(run.path / 'figures' / 'heatmap.png')}")
        arguments.say(f"Notebooks: {_short(run.path / 'notebooks')}")
        arguments.say(run.manifest("interpret")["results"].get("summary", ""))
    if no_report:  # only now, as the figure is finished
        raise no_report
    for stage in (stage for stage in stages if stage in BEYOND):
        arguments.say(f"Notebook:  {_short(run.executed_notebook(stage))}")
        arguments.say(run.manifest(stage)["results"].get("summary", ""))
    return run


# Seconds that a kernel may take to answer for the first time: Jupyter's 60 are too few for a busy
# machine or a file system on a network.
_KERNEL_START = 300

# The stage that makes what another reads.
_NEEDS = {"probe": "extract"} | dict.fromkeys(
    ("visualize", "interpret", "choose", "intervene"), "probe"
)


def _short(path):
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _say_what_would_run(run, stages, parameters, files):
    """Say of each stage whether it would be executed, and why."""
    again = []
    for stage in stages:
        reason = _outdated(run, stage, parameters, files)
        if reason == "not finished":
            arguments.say(f"{stage}: not finished, would be run")
        elif reason:
            arguments.say(f"{stage}: {reason}, would be run again")
        elif _NEEDS.get(stage) in again:
            arguments.say(
                f"{stage}: would be run again if the {_NEEDS[stage]} stage's files change"
            )
        else:
            arguments.say(f"{stage}: nothing has changed, would be left alone")
        if reason or _NEEDS.get(stage) in again:
            again.append(stage)
        if lost := _replaced(run, stage, parameters):
            arguments.say(f"{stage}: this would replace {lost} (--run-dir)")
        if stage == "extract" and reason and (run.path / "run.json").exists():
            arguments.say(
                "extract: the answers that are there would be kept. If they would be others with "
                "these parameters, the stage refuses, and another folder is needed (--run-dir)"
            )
    arguments.say("This was a dry run: nothing was run, and nothing was written.")


def _replaced(run, stage, given):
    """What a stage made with other parameters than these; None if nothing.

    Not so the extract stage: it keeps its answers, and refuses where they would be others.
    """
    if stage == "extract" or not run.manifest_path(stage).exists():
        return None
    before = (read_record(run.pipeline_record(stage)) or {}).get("parameters")
    now = _to_execute(run, stage, given)[1]["parameters"]
    return replaced(stage, before, now) if isinstance(before, dict) else None


def _check_extract(run, stages, parameters):
    """Refuse questions, models and a device that can't be used; the questions' files."""
    table = read_questions(
        parameters["questions"],
        question=parameters["question_column"],
        answers=parameters["answers_column"],
        choices=parameters["choices_column"],
        group=parameters["group_column"],
        kind=parameters["kind"] or "kind",
        unanswerable=parameters["unanswerable"],
        limit=parameters["limit"],
    )
    corrections, n_samples = parameters["corrections"], parameters["n_samples"]
    samples = [f"/{i}" for i in range(n_samples)] if n_samples > 1 else [""]
    read_corrections(corrections, [i + sample for i in table["id"] for sample in samples])
    for name in (parameters["model"], parameters["judge"]):
        if name:
            locate_model(name)
    # A run that was begun elsewhere may be finished where its device is not.
    elsewhere = parameters["scheduler"] or run.manifest_path("extract").exists()
    if parameters["device"] not in ("", "auto") and not elsewhere:
        arguments.device(parameters["device"])
    n, folds = len(table) * n_samples, parameters["folds"]
    if "probe" in stages and n < 2 * folds:
        fewer = f" or set folds={n // 2} or less" if n >= 4 else ""
        shown = arguments.shown(folds)
        raise ValueError(
            f"folds={shown} needs at least {shown} right and {shown} wrong answers, but there will "
            f"be {n} in all. Ask more questions{fewer}."
        )
    return [*table.attrs["files"], *([corrections] if corrections else [])]


def _probe_site(run, stages, parameters):
    """The site that is probed, which is one of those that are read: by default the first."""
    if "extract" in stages:
        sites = parameters["site"].split(", ")
        more = f'-p site "{parameters["site"]},{parameters["probe_site"]}"'
        more = f"To read it too, give {more}."
    else:
        sites = run.manifest("extract")["results"].get("sites") or [""]
        more = "To read another, make a run in another folder (--run-dir)."
    site = parameters["probe_site"] or sites[0]
    if site not in sites:
        raise ValueError(
            f"probe_site={arguments.shown(site)} is not read in this run: it has "
            f"{arguments.listed(sites)}. {more}"
        )
    return site


def _needs_a_run(stages):
    return any(stage in _NEEDS for stage in stages)


def _default_of(stages, questions):
    """Run directory of these notebooks where none was given."""
    if not {*stages}.isdisjoint(STAGES):
        return default_run_dir(questions)
    (run_dir, *others) = dict.fromkeys(notebook_parameters(s)["run_dir"][0] for s in stages)
    if others:
        raise ValueError(
            f"The notebooks {arguments.listed(stages)} have different default folders. Run one at "
            "a time, or give the folder of your run."
        )
    return _beside_notebooks([run_dir])[0]


def _beside_notebooks(paths):
    """Paths as a notebook writes them, from the folder that it is in, as they are from here."""
    return [Path(*Path(path).parts[1:]) for path in paths]


def default_run_dir(questions):
    """Folder of a run that is named after its questions."""
    name = re.sub(r"[^\w.-]+", "_", Path(questions).stem)
    return Path("data", "runs", name.lstrip(".") or "questions")


def _outdated(run, stage, given, files=()):
    """Why a stage's notebook has to be executed, or None."""
    _, key = _to_execute(run, stage, given)
    # Not by run.executed_notebook, which makes the folder: here nothing is written.
    output = run.path / "notebooks" / notebook_path(stage).name
    key["executed notebook"] = sha256(output) if no_links(output, run.path) else None
    # Large activations are gone through only where the probe stage is about to read them.
    thorough = stage == "extract" and _outdated(run, "probe", given) is not None
    return run.outdated(stage, key, thorough, files if stage == "extract" else ())


def _to_execute(run, stage, given):
    """A notebook's parameters, and what of it and them decides the result."""
    declared = notebook_parameters(stage)
    parameters = {name: given.get(name, default) for name, (default, _) in declared.items()}
    parameters["run_dir"] = str(run.path)
    decisive = {n: value for n, value in parameters.items() if n not in (*PLACES, "run_dir")}
    key = {"parameters": decisive, "notebook": sha256(notebook_path(stage))}
    intervened = run.manifest_path("intervene")
    if stage == "interpret" and no_links(intervened, run.path):
        key["intervention"] = sha256(intervened)  # its verdict is cited
    return parameters, key


def _run_stage(run, stage, given, progress):
    """Execute one notebook, and see that it finished."""
    parameters, key = _to_execute(run, stage, given)
    output = run.executed_notebook(stage)
    # A stage that is refused leaves the notebook of the last one that finished as it is.
    unfinished = output.with_suffix(".unfinished.ipynb")
    if no_links(unfinished, run.path):
        # papermill writes into what is there, and that may have other names elsewhere.
        unfinished.unlink()
    _execute(notebook_path(stage), unfinished, parameters, progress)
    run.manifest(stage)
    key |= {"executed notebook": sha256(unfinished), "manifest": sha256(run.manifest_path(stage))}
    with explained(output):
        unfinished.replace(output)
    write_json(run.pipeline_record(stage), key)


def _update_report(run):
    """Write the report, unless it is that of these very stages; the error, if it can't be made."""
    key = {"template": sha256(TEMPLATE)}
    if run.outdated(REPORT, key):
        try:
            write_report(run)
        except (ValueError, OSError) as error:
            return ValueError(
                f"The run is finished and kept, but no report can be made of it: {error}"
            )
        manifest = sha256(run.manifest_path(REPORT))
        write_json(run.pipeline_record(REPORT), key | {"manifest": manifest})
    return None


def _execute(notebook, output, parameters, progress):
    # papermill is slow to import and warns of its own dependencies when it is.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import papermill
        from jupyter_client.kernelspec import NoSuchKernel
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillException, PapermillExecutionError

    # After Ctrl-C asyncio would log the task that waited for the kernel.
    logging.getLogger("asyncio").addFilter(_is_no_dead_kernel)
    # A line on the screen that repeats the kernel's own progress bar, below the run's.
    with (
        tqdm(bar_format="{desc}", position=1, leave=False, disable=not progress) as bar,
        explained(output),
    ):
        shown = _Repeater(bar)
        try:
            papermill.execute_notebook(
                str(notebook),
                # papermill takes the path for a format string.
                str(output).replace("{", "{{").replace("}", "}}"),
                parameters=parameters,
                kernel_name="python3",
                start_timeout=_KERNEL_START,
                # What it makes is on disk by then; after Ctrl-C it would go on for seconds.
                shutdown_kernel="immediate",
                progress_bar=False,
                stdout_file=shown,
                stderr_file=shown,
                # Of a progress bar's many states the executed notebook keeps the last.
                coalesce_streams=True,
                # Not on the user's screen that a kernel talks over the loopback interface.
                extra_arguments=["--IPKernelApp.log_level=50"],
            )
        except PapermillExecutionError as error:
            # An error message may quote what a model wrote, at any length.
            reason = arguments.visible(f"{error.ename}: {error.evalue}", 1500)
            raise ValueError(
                f"{notebook.name}, cell {error.cell_index + 1}: {reason}\n"
                f"The notebook as far as it got: {output}"
            ) from error
        except DeadKernelError as error:
            raise ValueError(
                f"{notebook.name}: its kernel died, most often because memory ran out. Free some, "
                "then run the same again: what is finished is kept."
            ) from error
        except NoSuchKernel as error:
            raise ValueError(
                f"{notebook.name} needs the Jupyter kernel python3, and there is none. Install it "
                f"where probekit is: {sys.executable} -m pip install ipykernel"
            ) from error
        except (RuntimeError, PapermillException) as error:
            # What jupyter_client raises if a kernel does not answer, or dies before it does.
            raise ValueError(
                f"{notebook.name}: its kernel did not start: {error}. Perhaps the machine is busy "
                "or short of memory. Run the same again: what is finished is kept."
            ) from error


def _is_no_dead_kernel(record):
    return not (record.exc_info and type(record.exc_info[1]).__name__ == "DeadKernelError")


class _Repeater(io.TextIOBase):
    """What papermill writes a kernel's output to: shows the latest state of a progress bar."""

    def __init__(self, bar):
        self.bar = bar

    def write(self, text):
        states = [part for part in text.replace("\n", "\r").split("\r") if "%|" in part]
        if states:
            # It may hold what a model wrote.
            self.bar.set_description_str(arguments.visible(states[-1], 300))
