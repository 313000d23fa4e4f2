import json
import logging
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from nbclient.exceptions import DeadKernelError
from small_disk import small_disk
from test_report import finished_run
from tiny import write_questions

import probekit as pk
from probekit.__main__ import main
from probekit.pipeline import notebooks, parameters
from probekit.run.directory import Run
from probekit.run.files import write_json
from probekit.run.manifest import NOTEBOOKS, STAGES, fingerprint

GOOD = "id,question,answers\na,What is one?,1\nb,What is two?,2\n"

# What is wrong, the parameter file or question file that has it, and what the user must be told.
BAD_QUESTIONS = {
    "empty file": (b"", "is empty"),
    "header only": (b"question,answers\n", "has no questions"),
    "column missing": (b"question,solution\nWhat?,1\n", "answers"),
    "empty question": (b"question,answers\nWhat?,1\n ,2\n", "row 2"),
    "no accepted answer": (b"question,answers\nWhat?,\n", "row 1"),
    "duplicate ids": (b"id,question,answers\na,What?,1\na,Who?,2\n", "repeat: a"),
    "not UTF-8": (b"question,answers\nWhere is K\x81ln?,1\n", "UTF-8"),
}
BAD_PARAMETERS = {
    "unknown model": (("model", "/no/such/folder"), "No folder '/no/such/folder'"),
    "unknown parameter": (("limits", "10"), "Did you mean 'limit'?"),
    "wrong in the second notebook": (("folds", "1"), "folds must be a whole number of at least 2"),
    "wrong in the third": (("measure", "r2"), "measure must be one of auroc, correlation"),
    "missing question file": (("questions", "no/such.csv"), "does not exist"),
    "unknown shipped file": (("questions", "towns"), "cities"),
}


def fails(capsys, run_dir, *arguments):
    """Run the command in this process; what it says, once it has failed and left nothing."""
    assert main(["run", "--run-dir", str(run_dir), *arguments]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert not list(run_dir.rglob("*.json")), "something that looks finished was written"
    return said


@pytest.mark.parametrize("case", BAD_QUESTIONS)
def test_bad_question_file(case, tmp_path, capsys):
    content, expected = BAD_QUESTIONS[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert expected in fails(capsys, tmp_path / "run", "-p", "questions", str(path))


@pytest.mark.parametrize("case", BAD_PARAMETERS)
def test_bad_parameter(case, tmp_path, capsys):
    (name, value), expected = BAD_PARAMETERS[case]
    assert expected in fails(capsys, tmp_path / "run", "-p", name, value)


def test_no_scheduler_at_the_address(tmp_path, capsys, monkeypatch):
    cluster = pytest.importorskip("probekit.cluster")
    monkeypatch.setattr(cluster, "_CONNECTING", 0.5)
    said = fails(capsys, tmp_path / "run", "-p", "scheduler", "tcp://127.0.0.1:9")
    assert "No Dask scheduler answers at 'tcp://127.0.0.1:9'" in said
    assert not (tmp_path / "run").exists(), "no notebook was begun"


def test_a_mistake_ends_without_traceback_and_with_an_exit_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "probekit", "run", "--run-dir", tmp_path / "r", "-p", "site", "x"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("probekit: site must be one of")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


def test_parameters_are_read_with_their_defaults_and_meaning():
    declared = parameters.notebook_parameters("extract")
    assert declared["model"][0] == "smollm2"
    assert declared["limit"] == (0, "number of questions; 0 asks all")
    for stage in STAGES:
        assert all(meaning for _, meaning in parameters.notebook_parameters(stage).values())


def test_values_from_the_command_line_become_what_their_defaults_are(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("limit: 5\nC: 2\nquestions: capitals\n")
    read = parameters.read_parameters([("limit", "7"), ("p_true", "true"), ("model", "7")], path)
    assert read == {"limit": 7, "C": 2, "questions": "capitals", "p_true": True, "model": "7"}
    checked = parameters.check_parameters(**read)
    assert isinstance(checked["C"], float)


# A pipeline of four small notebooks, so that skipping and failing are seen in seconds.

CELLS = """
from probekit import Run
run = Run(run_dir)
inputs = [run.path / "manifests" / f"{before}.json"] if before else []
stage = run.begin(name, {"x": x}, inputs=inputs)
assert x < 10, "x is too large"
if x == 6:
    import os
    os.kill(os.getpid(), 9)
if x == 8:
    run.path.rename(run.path.with_name("elsewhere"))
if x == 7:
    run.write_text("large.txt", "x" * 10**6)
(run.path / f"{name}.txt").write_text(str(x))
if x != 5:
    stage.finish([run.path / f"{name}.txt"], summary="best cell", splits=["random"])
"""


@pytest.fixture
def small_notebooks(tmp_path, monkeypatch, forked_kernels):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    declared_defaults = parameters.defaults()
    for i, name in enumerate(NOTEBOOKS):
        before = STAGES[i - 1] if 0 < i < 4 else "" if i == 0 else "probe"
        declared = 'run_dir = "../r/s"  # folder\nx = 1  # number\ndevice = ""  # place'
        tagged = nbformat.v4.new_code_cell(declared)
        tagged.metadata["tags"] = ["parameters"]
        setting = nbformat.v4.new_code_cell(f"name, before = {name!r}, {before!r}")
        cells = [tagged, setting, nbformat.v4.new_code_cell(CELLS)]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        metadata["language_info"] = {"name": "python"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, folder / f"{i + 1:02d}_{name}.ipynb")
    monkeypatch.setattr(parameters, "resource", lambda relative: tmp_path / relative)
    for module in (parameters, notebooks):
        monkeypatch.setattr(module, "defaults", lambda: declared_defaults | {"x": 1})
    monkeypatch.setitem(parameters._MAY_BE, "x", lambda _, value: value)
    return folder


def finished(run):
    return [stage for stage in STAGES if (run.path / "manifests" / f"{stage}.json").exists()]


def test_stages_run_once_and_again_only_if_something_changed(small_notebooks, tmp_path, capsys):
    run = Run(tmp_path / "a {run} folder")
    stages = STAGES[2:]

    def go(**parameters):
        notebooks.run_pipeline(run.path, stages=stages, progress=False, **parameters)
        made = [run.notebooks / f"{STAGES.index(s) + 1:02d}_{s}.ipynb" for s in stages]
        return [path.stat().st_mtime_ns for path in made], capsys.readouterr().out

    run.begin("probe", {}).finish([])
    first, said = go()
    assert "best cell" in said
    second, said = go()
    assert second == first
    assert said.count("not run again") == 2
    assert go(device="cpu")[0] == first, "done elsewhere it would be the same"
    # Another input: everything after it runs again.
    run.begin("probe", {}).finish([], note="made anew")
    third, _ = go()
    assert third[0] > first[0]
    assert third[1] > first[1]
    # A lost output: its stage runs again; so does one that is given another parameter.
    (run.path / "interpret.txt").unlink()
    fourth, _ = go()
    assert fourth[0] == third[0]
    assert fourth[1] > third[1]
    stages = STAGES[3:]
    fifth, _ = go(x=2)
    assert fifth[0] > fourth[1]
    manifest = json.loads((run.path / "manifests" / "interpret.json").read_text())
    assert manifest["parameters"] == {"x": 2}


def state(folder):
    """All that is in a folder, and when each file and folder was last changed."""
    return {p: (p.lstat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


def test_a_dry_run_says_what_would_be_run_and_why_and_writes_nothing(
    small_notebooks, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = Run("r")

    def dry(*arguments):
        before = state(tmp_path)
        assert main(["run", "--dry-run", "--run-dir", "r", *arguments]) == 0
        assert state(tmp_path) == before
        *said, last = capsys.readouterr().out.splitlines()
        assert "nothing was written" in last
        return said

    assert dry() == [f"{stage}: not finished, would be run" for stage in STAGES]
    assert dry("--notebook", "choose") == [
        "r is not there. An example of that name, if there is one, would be copied.",
        "choose: not finished, would be run",
    ]
    assert dry("--notebook", "transfer")[-1] == "transfer: not finished, would be run"
    run.begin("extract", {}).finish([])
    notebooks.run_pipeline(run.path, stages=STAGES[1:], progress=False)
    capsys.readouterr()
    given = [part for stage in STAGES[1:] for part in ("--notebook", stage)]
    left = "nothing has changed, would be left alone"
    assert dry(*given) == [f"{stage}: {left}" for stage in STAGES[1:]]
    assert dry(*given, "-p", "x", "2")[:2] == [
        "probe: x was 1, now 2, would be run again",
        "probe: this would replace the grid of x=1. To keep both, give this run another folder "
        "(--run-dir)",
    ]
    (run.path / "probe.txt").unlink()
    assert dry(*given) == [
        "probe: probe.txt is missing or damaged, would be run again",
        "visualize: would be run again if the probe stage's files change",
        "interpret: would be run again if the probe stage's files change",
    ]
    assert main(["run", "--run-dir", "r", *given, "-p", "x", "2"]) == 0
    said = capsys.readouterr().out
    assert "probe: x was 1, now 2, run again\nprobe: this replaces the grid of x=1." in said
    assert said.endswith("best cell\n")
    # A mistake is refused as in a real run, and what somebody else wrote is not believed.
    assert main(["run", "--dry-run", "--run-dir", "r", "-p", "folds", "1"]) == 1
    record = json.loads(run.pipeline_record("probe").read_text())
    write_json(run.pipeline_record("probe"), record | {"parameters": ["\x1b[2J"]})
    capsys.readouterr()
    assert dry(*given)[0] == (
        "probe: manifests/.probe.pipeline.json is missing or damaged, would be run again"
    )


def test_a_notebook_beyond_the_figure_is_run_alone_and_no_report_is_made(
    small_notebooks, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = Run("r/s")  # where the notebooks say, as it is from here
    run.begin("probe", {}).finish([])
    assert main(["run", "--notebook", "choose", "--notebook", "intervene"]) == 0
    said = capsys.readouterr().out
    assert said.count("best cell") == 2
    assert "06_choose.ipynb" in said
    assert [s for s in NOTEBOOKS if run.manifest_path(s).exists()] == [
        "probe",
        "choose",
        "intervene",
    ]
    assert not (run.path / "report.html").exists()
    assert main(["run", "--notebook", "choose"]) == 0
    assert "choose: nothing has changed, not run again" in capsys.readouterr().out
    # The figure's own are not run because of it, nor without what they need.
    said = fails(capsys, tmp_path / "new", "--notebook", "choose")
    assert "There is no run directory" in said
    assert main(["run", "--notebook", "chose"]) == 1
    assert "Did you mean 'choose'?" in capsys.readouterr().err


def test_a_list_of_run_directories_is_given_by_repeating_it_or_in_a_file(tmp_path):
    pairs = [("run_dirs", "a"), ("seed", "3"), ("run_dirs", "b, c")]
    assert parameters.read_parameters(pairs) == {"run_dirs": ["a", "b, c"], "seed": 3}
    path = tmp_path / "params.yaml"
    path.write_text("run_dirs: [a, 7]\n")
    assert parameters.read_parameters([], path) == {"run_dirs": ["a", "7"]}
    for text in ("run_dirs: [[a], b]", "run_dirs: {a: b}", "run_dirs: a", "run_dirs: []"):
        path.write_text(text)
        with pytest.raises((ValueError, TypeError), match="run_dirs"):
            parameters.check_parameters(**parameters.read_parameters([], path))


def test_the_first_failure_stops_the_run_and_names_notebook_cell_and_error(
    small_notebooks, tmp_path
):
    run = Run(tmp_path / "run")
    run.begin("extract", {}).finish([])
    with pytest.raises(
        ValueError, match=r"02_probe\.ipynb, cell \d+: AssertionError: x is too"
    ) as e:
        notebooks.run_pipeline(run.path, stages=STAGES[1:], progress=False, x=11)
    assert len(str(e.value).splitlines()) <= 3
    assert finished(run) == ["extract"]


def test_a_notebook_that_ends_without_a_manifest_has_failed(small_notebooks, tmp_path):
    run = Run(tmp_path / "run")
    run.begin("extract", {}).finish([])
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        notebooks.run_pipeline(run.path, stages=STAGES[1:], progress=False, x=5)


def test_what_is_damaged_is_named_and_its_stage_alone_is_run_again(
    small_notebooks, tmp_path, capsys
):
    run, stages = Run(tmp_path / "run"), STAGES[2:]
    run.begin("probe", {}).finish([])

    def go():
        notebooks.run_pipeline(run.path, stages=stages, progress=False)
        return capsys.readouterr().out

    go()
    for name, why in {
        "interpret.txt": "interpret.txt is missing or damaged",
        "notebooks/04_interpret.ipynb": "executed notebook changed",
        "manifests/interpret.json": "manifests/interpret.json is damaged",
        "manifests/.interpret.pipeline.json": "manifests/.interpret.pipeline.json is missing or",
    }.items():
        path = run.path / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"?")
        said = go()
        assert f"interpret: {why}" in said
        assert "visualize: nothing has changed" in said
        assert path.read_bytes()[-1:] == whole[-1:]
        assert "interpret: nothing has changed" in go()


def test_a_kernel_that_is_killed(small_notebooks, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("JUPYTER_PATH", raising=False)  # one that is started as a user's is
    run = Run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"01_extract\.ipynb: its kernel died.*kept"):
        notebooks.run_pipeline(
            run.path, stages=["extract"], progress=False, x=6, questions="cities"
        )
    run.begin("probe", {}).finish([])
    # asyncio logs a task that nobody waits for any more, which after Ctrl-C was on the screen.
    for error in DeadKernelError("Kernel died"), ValueError("of somebody else"):
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    logged = [r.exc_info[1] for r in caplog.records if r.name == "asyncio" and r.exc_info]
    assert logged == [error]


def test_a_run_directory_that_is_renamed_meanwhile(small_notebooks, tmp_path):
    run = Run(tmp_path / "run")
    run.begin("probe", {}).finish([])
    go = {"stages": ["visualize"], "progress": False}
    with pytest.raises(ValueError, match="renamed or deleted"):
        notebooks.run_pipeline(run.path, **go, x=8)
    assert not run.path.exists()
    assert not finished(Run(tmp_path / "elsewhere"))[1:], "what was begun there is not finished"
    (tmp_path / "elsewhere").rename(run.path)
    notebooks.run_pipeline(run.path, **go)
    assert finished(run) == ["probe", "visualize"]


@pytest.mark.parametrize("does", ["import time; time.sleep(60)", "raise SystemExit(3)"])
def test_a_kernel_that_does_not_answer(does, small_notebooks, tmp_path, monkeypatch, capfd):
    """A busy machine; a kernel that dies as it starts, as where a package of its is broken."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": [sys.executable, "-c", does], "display_name": "silent"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setattr(notebooks, "_KERNEL_START", 3)
    with pytest.raises(ValueError, match=r"01_extract\.ipynb: its kernel did not start: .*kept"):
        notebooks.run_pipeline(tmp_path / "run", stages=["extract"], progress=False)


def test_a_kernel_that_is_not_installed(small_notebooks, tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(_, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    with pytest.raises(ValueError, match=r"there is none\. Install it .*pip install ipykernel"):
        notebooks.run_pipeline(tmp_path / "run", stages=["extract"], progress=False)


@pytest.mark.parametrize("report", ["a {{ broken", "{{ nothing.of.this }}", "{% include 'x' %}"])
def test_a_template_that_is_wrong(report, tmp_path, monkeypatch):
    """The run is finished all the same, and no stage is run again for the report's sake."""
    run = finished_run(tmp_path / "run")
    template = tmp_path / "report.html.j2"
    template.write_text(report)
    for module in ("probekit.pipeline.report", "probekit.pipeline.notebooks"):
        monkeypatch.setattr(f"{module}.TEMPLATE", template)
    monkeypatch.setattr(notebooks, "_outdated", lambda *_: None)
    with pytest.raises(ValueError, match=r"finished and kept, .*: (Templ|Undef|TypeE).*"):
        notebooks.run_pipeline(run.path, progress=False, questions="cities")
    assert finished(run) == list(STAGES)


def test_a_long_hostile_error_of_a_notebook_is_cut(small_notebooks, tmp_path):
    run = Run(tmp_path / "run")
    run.begin("probe", {}).finish([])
    path = small_notebooks / "03_visualize.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].source = "raise ValueError('\\x1b[2J\\u202e' * 10**6)"
    nbformat.write(notebook, path)
    with pytest.raises(ValueError, match=r"ValueError: \\x1b\[2J.* characters left out") as e:
        notebooks.run_pipeline(run.path, stages=["visualize"], progress=False)
    assert len(str(e.value)) < 2500
    assert "\x1b" not in str(e.value)
    assert "The notebook as far as it got" in str(e.value)


def test_a_full_disk(small_notebooks, tmp_path, require):
    with small_disk(tmp_path / "disk", 200) as disk:
        require(disk, "a file system can't be mounted here")
        run = Run(disk.path / "run")
        run.begin("probe", {}).finish([])
        full = "cannot be written: No space left on device"
        with pytest.raises(ValueError, match=rf"03_\S+, cell 4: ValueError: \S+large\.txt {full}"):
            notebooks.run_pipeline(run.path, stages=["visualize"], progress=False, x=7)
        disk.fill()
        with pytest.raises(ValueError, match=full):
            notebooks.run_pipeline(run.path, stages=["visualize"], progress=False)
        assert finished(run) == ["probe"]
        disk.grow(400)
        notebooks.run_pipeline(run.path, stages=["visualize"], progress=False)
        assert finished(run) == ["probe", "visualize"]


def test_corrections_run_the_extract_stage_again(stopping_model_dir, tmp_path, capsys):
    """Others, changed ones and none; what is said of the question file is said once each time."""
    source = write_questions(tmp_path / "q", 12)
    pd.read_csv(source).to_csv(source, index=False, sep=";")
    run, path = Run(tmp_path / "run"), tmp_path / "corrections.csv"
    given = {"model": str(stopping_model_dir), "questions": str(source), "device": "cpu"}
    given |= {"max_new_tokens": 10, "folds": 2, "stages": ["extract"], "progress": False}

    def go(corrections):
        notebooks.run_pipeline(run.path, **given, corrections=corrections)
        said = capsys.readouterr().out
        assert said.count("semicolons") == 1
        manifest = run.manifest("extract")
        return manifest["results"]["n_corrected"], fingerprint(manifest), said

    _, own, said = go("")
    assert "\n".join(pk.preflight(run).counts) in said, "what stands in the way of the probes"
    one, *others = run.answers().head(3).itertuples()
    path.write_text(f"id,correct\n{one.id},{not one.correct}\n")
    n, corrected, said = go(str(path))
    assert n == 1
    assert corrected != own, "the later stages run again"
    assert f"extract: corrections was '', now {str(path)!r}"[:60] in said
    assert "1 corrected by hand" in said
    again = go(str(path))[2]
    assert "not run again" in again
    assert "to be probed" not in again
    # The run and its questions copied elsewhere: the record's absolute paths are of no account.
    moved = shutil.copytree(source.parent, tmp_path / "there") / source.name
    there = {"questions": str(moved), "dry_run": True}
    copied = shutil.copytree(run.path, tmp_path / "copy")
    notebooks.run_pipeline(copied, **given | there, corrections=str(path))
    assert "extract: nothing has changed" in capsys.readouterr().out
    path.write_text(path.read_text() + "".join(f"{o.id},{not o.correct}\n" for o in others))
    n, changed, said = go(str(path))
    assert n == 3
    assert changed != corrected
    assert "corrections.csv has changed" in said
    path.write_text("id,correct\nnobody,true\n")
    with pytest.raises(ValueError, match="'nobody'"):
        go(str(path))
    executed = nbformat.read(run.executed_notebook("extract"), as_version=4)
    shown = [str(cell.get("outputs")) for cell in executed.cells]
    assert any("3 corrected by hand" in output for output in shown)
    assert any("no exact answer" in output for output in shown)
    assert str(shown).count("semicolons") == 1
