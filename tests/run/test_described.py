"""What a run gives, found by id, named in words, and one cell of it for one's own classifier."""

import shutil

import numpy as np
import pytest
import xarray as xr
from IPython.lib.pretty import pretty
from made_run import asked_run
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict, cross_val_score

import probekit as pk
from probekit.probing.detection import detector
from probekit.run.variables import described


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with activations, grid and controls; every ninth answer has no exact answer."""
    random = np.random.default_rng(0)
    given = [f"answer {i % 40}" if i % 9 else "" for i in range(160)]
    folder, wrong = tmp_path_factory.mktemp("described") / "run", random.random(160) < 0.4
    run = asked_run(folder, given, wrong, exact_answer=given)
    grid = pk.probe_grid(run.activations(), n_permutations=1, n_jobs=1, progress=False)
    controls = pk.controls(run.answers(), grid)
    stage = run.begin("probe", {})
    files = [
        run.save_grids({"random": grid}),
        run.save_grids({"random": controls}, "controls.nc"),
        run.save_detectors({"random": detector(grid)}),
    ]
    stage.finish(files, splits=["random"])
    return run, grid, controls


def test_examples_are_found_by_id_in_the_run_and_out_of_it(run):
    run, grid, controls = run
    name = str(grid["id"].to_numpy()[7])
    for dataset in (grid, run.grid(), controls, run.controls(), run.activations()):
        place = dataset["id"].to_numpy().tolist().index(name)
        assert dataset.sel(id=name).identical(dataset.isel(example=place))
        # Those of another order, as numpy would have them.
        some = dataset["id"].to_numpy()[[5, 2]]
        assert (
            dataset.sel(id=some)
            .drop_indexes("id")
            .identical(dataset.isel(example=[5, 2]).drop_indexes("id"))
        )


def test_what_is_read_is_what_was_made(run):
    run, grid, controls = run
    xr.testing.assert_allclose(run.grid(), grid)
    for read, made in ((run.grid(), grid), (run.controls(), controls)):
        for name in made.variables:
            assert read[name].attrs.keys() >= made[name].attrs.keys(), name
        assert set(read.xindexes) == set(made.xindexes)
        assert described(read).identical(read)
    assert run.activations().encoding["source"].endswith("activations.zarr")


def test_variables_have_names_in_words(run):
    run, grid, controls = run
    gain, differ = pk.gain_over_controls(grid, controls), pk.difference(grid, grid)
    for dataset in (grid, controls, gain, differ, run.activations()):
        for name in dataset.data_vars:
            assert dataset[name].attrs["long_name"], name
    assert grid["n_examples"].attrs["units"] == "answers"
    assert "n_examples" in grid["auroc_common"].attrs  # what was there stays
    assert "Not the AUROC of best_layer and best_token" in run.grid().attrs["best_auroc_is"]


def test_one_cell_for_ones_own_classifier(run):
    run = run[0]
    X, y, ids = run.cell(1, "exact_answer_last")
    whole = run.activations().sel(layer=1, token="exact_answer_last")
    there = (whole["exact_answer"] != "") & whole["activation"].notnull().all("feature")
    assert 100 < there.sum() < 160
    assert ids.tolist() == whole["id"].to_numpy()[there].tolist()
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, whole["activation"].to_numpy()[there].astype(np.float32))
    assert (y == ~whole["correct"].to_numpy()[there]).all()

    cell = run.grid().sel(id=ids).sel(layer=1, token="exact_answer_last")
    folds = PredefinedSplit(cell["fold"])
    probe = LogisticRegression(max_iter=1000, tol=1e-8)
    by_fold = cross_val_score(probe, X, y, cv=folds, scoring="roc_auc")
    # The same fits: their scores in each fold have the same order.
    grids = [
        roc_auc_score(y[f], cell["score"].to_numpy()[f])
        for f in cell["fold"].to_numpy() == np.arange(5)[:, None]
    ]
    np.testing.assert_allclose(by_fold, grids, atol=1e-6)
    # The grid pools them, with what a fit knows of its training folds' error rate taken off.
    log_odds = cross_val_predict(probe, X, y, cv=folds, method="decision_function")
    for fold in range(5):
        rate = y[cell["fold"] != fold].mean()
        log_odds[cell["fold"] == fold] -= np.log(rate / (1 - rate))
    assert roc_auc_score(y, log_odds) == pytest.approx(cell["auroc"].item(), abs=1e-3)
    assert by_fold.mean() == pytest.approx(cell["auroc"].item(), abs=0.03)


def test_a_response_that_lacks_the_token_is_left_out_of_the_cell(run, monkeypatch):
    run = run[0]
    whole, ids = run.activations().load(), run.cell(1, "-8")[2]
    lacks = whole["id"] == ids[3]
    whole["activation"] = whole["activation"].where(~(lacks & (whole["token"] == "-8")))
    monkeypatch.setattr(type(run), "activations", lambda *_: whole)
    assert run.cell(1, "-8")[2].tolist() == [*ids[:3], *ids[4:]]
    assert run.cell(1, "-7")[2].tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("probe", "site"),
    [(None, None), ({}, None), ({"probe_site": "resid_post"}, "resid_post")],
)
def test_a_cell_is_of_the_site_that_was_probed(run, probe, site, tmp_path, monkeypatch):
    run, asked = pk.Run(shutil.copytree(run[0].path, tmp_path / "run")), []
    run.manifest_path("probe").unlink(missing_ok=True)
    if probe is not None:
        run.begin("probe", probe).finish([])
    whole = run.activations()
    monkeypatch.setattr(type(run), "activations", lambda _, site: asked.append(site) or whole)
    run.cell(1, "-7")
    run.cell(1, "-7", "mlp_out")
    assert asked == [site, "mlp_out"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"layer": 9, "token": "-1"}, r"Unknown layer 9\."),
        ({"layer": 1, "token": "-9"}, r"Unknown token '-9'\."),
        ({"layer": 1, "token": "-1", "site": "attn_out"}, r"site"),
    ],
)
def test_a_cell_that_is_not_there(run, wanted, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run[0].cell(**wanted)


def test_names_say_what_they_mean_and_are_tuples_still():
    for names in (pk.TOKENS, pk.SITES):
        assert isinstance(names, tuple)
        assert names == tuple(names)
        assert repr(names) == repr(tuple(names))
        lines = pretty(names).splitlines()
        assert [line.split()[0] for line in lines] == list(names)
        assert all(len(line.split()) > 3 for line in lines)
    assert pk.TOKENS[-8:] == tuple(str(i) for i in range(-8, 0))
    assert "-3  " in pretty(pk.TOKENS)
    assert "token 3 from the end" in pretty(pk.TOKENS)
