"""The example run fits today's formats, and is what a user without a run gets."""

import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest
import xarray as xr
from scipy.special import logit
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.pipeline import example
from probekit.pipeline.parameters import notebook_path
from probekit.run.directory import Run
from probekit.run.files import sha256, write_json
from probekit.run.manifest import STAGES

build = Path(__file__).parents[2] / "data" / "build_example.py"
make_example = runpy.run_path(str(build))["make_example"]

SPLITS = ["random", "answer", "published"]


@pytest.fixture(scope="module")
def shipped(repository):
    return Run(repository / "data" / "example")


# The example in the repository


def test_it_is_finished_and_whole(shipped):
    for stage in STAGES:
        for name, record in shipped.manifest(stage)["outputs"].items():
            path = shipped.path / name
            assert (path.stat().st_size, sha256(path)) == (record["bytes"], record["sha256"])
    listed = {name for stage in STAGES for name in shipped.manifest(stage)["outputs"]}
    found = {
        path.relative_to(shipped.path).as_posix()
        for path in shipped.path.rglob("*")
        if path.is_file() and path.parent.name != "manifests"
    }
    assert found == listed, "nothing is there that no manifest knows of"


def test_it_is_small_and_says_nothing_of_where_it_was_made(shipped):
    files = [path for path in shipped.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    for path in shipped.path.glob("manifests/*"):
        assert not re.search(r'"(/|[A-Za-z]:\\|~)', path.read_text()), path


def test_it_is_the_default_run_with_its_figures(shipped):
    answers = shipped.answers()
    questions = pk.read_questions("cities")
    assert answers["id"].tolist() == questions["id"].tolist()
    assert shipped.manifest("extract")["parameters"]["model"] == "smollm2"
    assert shipped.manifest("probe")["results"]["splits"] == SPLITS
    for name in ("heatmap", "splits", "controls", "gain"):
        assert (shipped.path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("split", SPLITS)
def test_its_rounded_scores_still_give_its_areas(shipped, split):
    grid = shipped.grid(split)
    wrong = ~grid["correct"].to_numpy()
    for layer, token in [(0, "exact_answer_last"), (15, "exact_answer_first"), (29, "-1")]:
        cell = grid.sel(layer=layer, token=token)
        score = cell["score"].to_numpy()
        scored = ~np.isnan(score)
        assert scored.sum() == cell["n_examples"]
        area = roc_auc_score(wrong[scored], score[scored])
        assert area == pytest.approx(float(cell["auroc"]), abs=0.005)


def test_what_was_left_out_is_named(shipped):
    with pytest.raises(FileNotFoundError, match=r"activations\.zarr .*this run is an example"):
        shipped.activations()
    with pytest.raises(ValueError, match=r"has no probes to load.*example run"):
        pk.load_probe(shipped, 15, "exact_answer_first")
    assert "coef" in shipped.grid().attrs["left_out"]


@pytest.fixture(scope="module")
def executed(tmp_path_factory, forked_kernels):
    """Folder in which visualize and interpret were run, as they stand, with no run of one's own."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "notebooks").mkdir()
    for stage in STAGES[2:]:
        path = notebook_path(stage)
        output = str(root / path.name)
        papermill.execute_notebook(
            str(path),
            output,
            cwd=str(root / "notebooks"),
            kernel_name="python3",
            progress_bar=False,
        )
    return root


def test_visualize_and_interpret_run_on_it(executed, shipped):
    run = Run(executed / "data" / "runs" / "example")
    assert (run.path / "figures" / "heatmap.svg").exists()
    assert not (executed / "data" / "runs" / "cities").exists()
    for stage in STAGES[2:]:
        assert run.manifest(stage)["parameters"]["seed"] == 0
        assert "left_out" not in run.manifest(stage), "made here"
    notebook = (executed / "04_interpret.ipynb").read_text()
    assert (
        "This is the example run, as it is in ../data/runs/example: answers of smollm2" in notebook
    )
    assert "copied to ../data/runs/example" in (executed / "03_visualize.ipynb").read_text()
    # What was found on the run itself holds for the example, as far as the claims go.
    ours, theirs = (pd.read_csv(r.path / "claims.csv") for r in (run, shipped))
    assert ours["verdict"].tolist() == theirs["verdict"].tolist()


# Opening


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty checkout, in its notebook folder."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return tmp_path


def test_a_run_that_is_there_is_opened(here, capsys):
    manifests = here / "data/runs/cities/manifests"
    manifests.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no finished stage of a run\. Make it"):
        pk.open_run("../data/runs/cities")
    (manifests / "extract.json").write_text("{}")
    for path in ("../data/runs/cities", here / "data/runs/cities"):
        assert pk.open_run(path).path == here / "data/runs/cities"
    assert capsys.readouterr().out == ""
    assert not (here / "data/runs/example").exists()


def test_the_default_run_that_is_not_there_is_the_example(here, capsys, shipped):
    run = pk.open_run("../data/runs/cities")
    assert run.path == here / "data/runs/example"
    said = capsys.readouterr().out
    assert "There is no run of your own in ../data/runs/cities yet" in said
    assert "This is the example run, copied to ../data/runs/example: answers of smollm2" in said
    xr.testing.assert_identical(run.grid(), shipped.grid())
    assert [path.name for path in (here / "data/runs").iterdir()] == ["example"]


def test_a_copy_is_kept_with_what_was_made_in_it(here, capsys):
    first = pk.open_run()
    assert first.path == here / "notebooks/data/runs/example"
    first.write_text("notes.txt", "mine")
    assert pk.open_run().path == first.path
    assert "as it is in data/runs/example" in capsys.readouterr().out
    assert (first.path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("path", ["../data/runs/capitals", "cities", "/nowhere/cities"])
def test_a_run_that_was_asked_for_by_name_and_is_not_there(here, path):
    with pytest.raises(FileNotFoundError) as error:
        pk.open_run(path)
    assert f"There is no run directory {Run(path).path}" in str(error.value)
    assert f"probekit run --run-dir {path}" in str(error.value)
    assert not (here / "data").exists()


def test_a_place_that_cannot_be_written_to(here):
    (here / "data").write_text("a file")
    with pytest.raises(
        ValueError, match=r"can't be copied to .*Change to a directory that you can"
    ):
        pk.open_run("../data/runs/cities")


def test_two_notebooks_that_open_it_at_once(here, capsys, monkeypatch):
    target = here / "notebooks/data/runs/example"
    copyfile = shutil.copyfile

    def overtaken(source, copy):
        copyfile(source, copy)
        if not target.exists():
            shutil.copytree(example.resource("data/example"), target, copy_function=copyfile)

    monkeypatch.setattr(example.shutil, "copyfile", overtaken)
    assert pk.open_run().grid().sizes["layer"] == 30
    assert "as it is in" in capsys.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == ["example"]


# Making


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small run, and an example made of it."""
    root = tmp_path_factory.mktemp("making")
    run = Run(root / "run")
    questions = root / "elsewhere" / "questions.csv"
    questions.parent.mkdir()
    questions.write_text("q")
    stage = run.begin("extract", {"model": "tiny", "n_questions": 40}, inputs=[questions])
    pd.DataFrame({"id": ["a"]}).to_parquet(run.path / "answers.parquet")
    store = run.write_text("activations.zarr/c/0", "activations").parents[1]
    stage.finish([run.path / "answers.parquet", store], sites=["mlp_out"])
    stage = run.begin("probe", {}, inputs=[run.path / "manifests/extract.json"])
    grids = {split: _grid(seed) for seed, split in enumerate(SPLITS)}
    controls = {split: _grid(9) for split in SPLITS[:2]}
    files = [run.save_grids(grids), run.save_grids(controls, "controls.nc")]
    detectors = {split: pk.detector(grids[split]) for split in SPLITS[:2]}
    stage.finish([*files, run.save_detectors(detectors)], splits=SPLITS)
    figures = [run.write_text(f"figures/heatmap.{s}", s) for s in ("png", "svg")]
    run.begin("visualize", {}).finish(figures)
    texts = [run.write_text(name, name) for name in ("description.md", "claims.csv")]
    run.begin("interpret", {}).finish(texts, summary="flat")
    return run, make_example(run, root / "example")


def _grid(seed):
    random = np.random.default_rng(seed)
    cell = ("layer", "token")
    # As spread as an unscaled probe's: some cannot be told from 0 or 1.
    score = 1 / (1 + np.exp(-random.normal(0, 15, (40, 2, 3))))
    score[0, 1, 2], score[1, 0, 0], score[2, 0, 0] = np.nan, 0, 1
    without = random.normal(0, 10, (3, 40, 2, 3)).astype(np.float32)
    without[:, 0, 1, 2] = np.nan
    null = random.normal(size=(19, 40))
    return xr.Dataset(
        {
            "auroc": (cell, random.random((2, 3))),
            "score": (("example", *cell), score),
            "slope": (cell, random.uniform(0.5, 2, (2, 3))),
            "offset": (cell, random.normal(size=(2, 3))),
            "log_odds_without": (("other", "example", *cell), without),
            "fold": ("example", np.arange(40) % 4),
            "null_by_layer": (("layer", "permutation", "example"), np.stack([null] * 2)),
            "null_by_token": (("token", "permutation", "example"), np.stack([null] * 3)),
            "null_wrong": (("permutation", "example"), null > 0),
            "coef": ((*cell, "feature"), random.random((2, 3, 5))),
            "intercept": (cell, random.random((2, 3))),
            "prior": (cell, random.random((2, 3))),
        },
        coords={
            "layer": [0, 1],
            "token": ["last_q", "-2", "-1"],
            "id": ("example", [f"q{i}" for i in range(40)]),
            "correct": ("example", np.arange(40) % 3 > 0),
        },
        attrs={"split": "random", "folds": 4},
    )


def test_everything_but_probes_and_last_digits_is_kept(made):
    run, small = made
    for split in SPLITS:
        before, after = run.grid(split), small.grid(split)
        xr.testing.assert_identical(before["auroc"], after["auroc"])
        left_out = {"coef", "null_by_layer", "null_by_token", "null_wrong"}
        assert set(before) - set(after) == left_out
        assert set(after) <= set(before)
        score, rounded = before["score"].to_numpy(), after["score"].to_numpy()
        assert rounded.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(rounded), np.isnan(score))
        np.testing.assert_array_equal(rounded[1:3, 0, 0], [0, 1])
        # Single precision has no more digits near 1. Half a step is at most 1/45 of the spread.
        inner = (score > 1e-6) & (score < 0.999)
        finite = (score > 0) & (score < 1)
        spread = np.nanstd(np.where(finite, logit(np.where(finite, score, 0.5)), np.nan), 0)
        error = np.abs(logit(np.where(inner, rounded, 0.5)) - logit(np.where(inner, score, 0.5)))
        assert (error <= spread / 45 + 1e-3).all()
        assert error.max() > 0.01, "they are rounded"
        exact = before["log_odds_without"].to_numpy() * before["slope"].to_numpy()
        without = after["log_odds_without"].to_numpy() * before["slope"].to_numpy()
        np.testing.assert_array_equal(np.isnan(without), np.isnan(exact))
        assert (np.nan_to_num(np.abs(without - exact)) <= spread / 4 + 1e-3).all()
        assert (np.diff(rounded[np.argsort(score[:, 0, 1]), 0, 1]) >= 0).all(), "the same order"
    xr.testing.assert_identical(run.controls("answer"), small.controls("answer"))
    assert small.answers().equals(run.answers())
    for split in SPLITS[:2]:
        before, after = run.detector(split), small.detector(split)
        assert str(before) == str(after)
        xr.testing.assert_identical(before.p_error, after.p_error)
        assert (before.probes is None, after.probes is None) == (False, True)


def test_manifests_tell_what_is_there_and_what_is_not(made):
    run, small = made
    extract = small.manifest("extract")
    assert list(extract["outputs"]) == ["answers.parquet"]
    assert extract["left_out"] == ["activations.zarr"]
    assert extract["inputs"] == {
        "questions.csv": sha256(run.path.parent / "elsewhere/questions.csv")
    }
    assert small.manifest("visualize")["left_out"] == ["figures/heatmap.svg"]
    detectors = {
        f"detector/{split}/detector.{suffix}"
        for split in SPLITS[:2]
        for suffix in ("json", "safetensors")
    }
    assert small.manifest("probe")["outputs"].keys() == {"grid.nc", "controls.nc", *detectors}
    assert small.manifest("probe")["left_out"] == []
    assert small.manifest("interpret")["results"] == {"summary": "flat"}
    assert not (small.path / "run.json").exists(), "a run into it is not refused"
    assert run.manifest("extract").keys() == extract.keys() - {"left_out"}, "the run is as it was"


def test_an_unfinished_or_damaged_run_makes_no_example(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished extract stage"):
        make_example(Run(tmp_path / "none"), tmp_path / "example")
    run, _ = made
    damaged = Run(shutil.copytree(run.path, tmp_path / "damaged"))
    (damaged.path / "answers.parquet").write_bytes(b"spoilt")
    with pytest.raises(ValueError, match="is damaged"):
        make_example(damaged, tmp_path / "example")
    assert not (tmp_path / "example").exists()


def test_an_example_is_made_anew_over_an_old_one(made, tmp_path):
    run, small = made
    again = Run(shutil.copytree(small.path, tmp_path / "example"))
    write_json(again.manifest_path("extract"), {"old": True})
    make_example(run, again.path)
    assert again.manifest("extract") == small.manifest("extract")


# The small examples


SMALL = ["cities", "products", "samples"]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_example_is_whole_and_small(name, repository):
    small = Run(repository / "data" / "examples" / name)
    listed = set()
    for stage in STAGES[:2]:
        for output, record in small.manifest(stage)["outputs"].items():
            listed.add(output)
            assert sha256(small.path / output) == record["sha256"]
        assert not re.search(r'"(/\w|[A-Za-z]:\\|~)', small.manifest_path(stage).read_text())
    files = [path for path in small.path.rglob("*") if path.is_file()]
    found = {path.relative_to(small.path).as_posix() for path in files}
    assert found == listed | {"manifests/extract.json", "manifests/probe.json"}
    assert sum(path.stat().st_size for path in files) < 4_500_000
    assert small.grid("random").sizes["example"] > 100


@pytest.mark.parametrize("name", ["cities", "products"])
def test_a_small_example_s_probes_are_those_of_its_activations(name, repository):
    """Its coefficients are the optimum of scikit-learn's logistic regression, near enough."""
    small = Run(repository / "data" / "examples" / name)
    grid, activations = small.grid("random"), small.activations()
    ids = grid["id"].to_numpy()
    X = activations.set_xindex("id").sel(id=ids).sel(layer=15, token="last_q")
    X = X["activation"].to_numpy().astype(float)
    cell = grid.sel(layer=15, token="last_q")
    wrong = ~grid["correct"].to_numpy()
    from sklearn.linear_model import LogisticRegression

    reference = LogisticRegression(tol=1e-8, max_iter=10_000).fit(X, wrong)
    ours = X @ cell["coef"].to_numpy() + float(cell["intercept"])
    assert np.corrcoef(ours, reference.decision_function(X))[0, 1] > 0.999


def test_a_path_named_after_a_small_example_gets_a_copy_of_it(tmp_path, capsys):
    run = pk.open_run(tmp_path / "example-products")
    assert "copied to" in capsys.readouterr().out
    assert run.activations().sizes["layer"] == 3
    assert pk.open_run(tmp_path / "example-products").path == run.path
    for name in ("example-", "example-..", "example-nothing", "cities"):
        with pytest.raises(FileNotFoundError, match="There is no run directory"):
            pk.open_run(tmp_path / name)
