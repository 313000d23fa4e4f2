import os
import signal
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from joblib import cpu_count
from scipy.special import logit
from scipy.stats import binom
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from probekit import findings, held_out_splits, probe_grid
from probekit.probing import grid as grid_module
from probekit.probing.auroc import auroc_influence, interval, standard_error
from probekit.probing.cells import Fitter
from probekit.probing.folds import Plan
from probekit.probing.grid import _processes, largest_tail

TOKENS = ["last_q", "-2", "-1"]
QUICK = {"n_permutations": 0, "progress": False, "n_jobs": 1}


def make_activations(seed=0, n=120, features=6, strength=1.2, share_wrong=0.4):
    """Signal in layer 1 at token -1, some in layer 0; token -2 is missing from every third."""
    random = np.random.default_rng(seed)
    wrong = random.random(n) < share_wrong
    X = random.normal(size=(n, 2, 3, features))
    X[:, 1, 2, 0] += strength * wrong
    X[:, 0, 0, 1] += 0.5 * strength * wrong
    X[::3, :, 1] = np.nan
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X.astype(np.float32))},
        coords={
            "layer": [4, 9],
            "token": np.array(TOKENS, dtype=np.dtypes.StringDType()),
            "id": ("example", np.array([f"q{i}" for i in range(n)], dtype=object)),
            "exact_answer": ("example", np.array([f"a{i % 17}" for i in range(n)], dtype=object)),
            "correct": ("example", ~wrong),
        },
        attrs={"model": "tiny", "revision": "r1", "site": "mlp_out"},
    )


def reference(X, wrong, train, C=1.0, standardize=False):
    """scikit-learn's probe of one training set, at convergence."""
    probe = LogisticRegression(C=C, tol=1e-9, max_iter=10_000)
    if standardize:
        probe = make_pipeline(StandardScaler(), probe)
    return probe.fit(X[train], wrong[train])


def log_odds(probe, X, train_labels):
    """A probe's margins without what it knows of the error rate in training."""
    return probe.decision_function(X) - logit(train_labels.mean())


def out_of_fold(X, wrong, fold, **options):
    """Log-odds of each example by the probe that was not trained on its fold; NaN stays NaN."""
    present = ~np.isnan(X[:, 0])
    score = np.full(len(X), np.nan)
    for k in np.unique(fold):
        test, train = present & (fold == k), present & (fold != k)
        score[test] = log_odds(reference(X, wrong, train, **options), X[test], wrong[train])
    return score


def uncalibrated(grid):
    """The log-odds that a grid's P(error) was made of, (example, layer, token)."""
    odds = (logit(grid["score"]) - grid["offset"]) / grid["slope"]
    return odds.transpose("example", "layer", "token").to_numpy()


def cells(grid):
    return [(i, j) for i in range(grid.sizes["layer"]) for j in range(grid.sizes["token"])]


# Against scikit-learn


@pytest.mark.parametrize(
    "options", [{}, {"C": 0.05}, {"standardize": True, "C": 0.3}, {"folds": 3, "seed": 7}], ids=str
)
def test_scores_are_scikit_learns_on_the_same_folds(options):
    activations = make_activations()
    grid = probe_grid(activations, **QUICK | options)
    assert sorted(set(grid["fold"].to_numpy())) == list(range(options.get("folds", 5)))
    fitted = {name: options[name] for name in ("C", "standardize") if name in options}
    wrong = ~activations["correct"].to_numpy()
    for i, j in cells(grid):
        X = activations["activation"].to_numpy()[:, i, j]
        expected = out_of_fold(X, wrong, grid["fold"].to_numpy(), **fitted)
        found = uncalibrated(grid)[:, i, j]
        np.testing.assert_allclose(found, expected, atol=0.02)
        present = ~np.isnan(expected)
        area = roc_auc_score(wrong[present], found[present])
        assert grid["auroc"].to_numpy()[i, j] == pytest.approx(area, abs=1e-6)
        assert area == pytest.approx(roc_auc_score(wrong[present], expected[present]), abs=5e-3)
        assert grid["n_examples"].to_numpy()[i, j] == present.sum()
        assert grid["n_errors"].to_numpy()[i, j] == wrong[present].sum()
    assert grid["converged"].all()


def test_coefficients_are_of_a_probe_fitted_on_all_examples():
    activations = make_activations()
    grid = probe_grid(activations, **QUICK, C=0.5)
    wrong = ~activations["correct"].to_numpy()
    for i, j in cells(grid):
        X = activations["activation"].to_numpy()[:, i, j]
        expected = reference(X, wrong, ~np.isnan(X[:, 0]), C=0.5)
        np.testing.assert_allclose(grid["coef"].to_numpy()[i, j], expected.coef_[0], atol=5e-3)
        np.testing.assert_allclose(
            grid["intercept"].to_numpy()[i, j], expected.intercept_, atol=5e-3
        )


def test_of_several_c_the_best_is_chosen_inside_the_training_folds():
    # More features than there are examples to learn them from: the penalty matters.
    activations = make_activations(n=60, features=30, strength=1.0)
    choices = [1e-4, 1e-2, 1.0]
    grid = probe_grid(activations, **QUICK, C=choices, folds=4)
    wrong, fold = ~activations["correct"].to_numpy(), grid["fold"].to_numpy()
    chosen = []
    for i, j in [(0, 0), (0, 2), (1, 0), (1, 2)]:
        X = activations["activation"].to_numpy()[:, i, j]
        for k in range(4):
            areas = []
            for C in choices:
                inner = np.full(len(X), np.nan)
                for other in set(range(4)) - {k}:
                    train, test = (fold != k) & (fold != other), fold == other
                    inner[test] = reference(X, wrong, train, C=C).decision_function(X[test])
                areas.append(roc_auc_score(wrong[fold != k], inner[fold != k]))
            if np.sort(areas)[-1] - np.sort(areas)[-2] < 0.02:
                continue  # too close to call
            C = choices[int(np.argmax(areas))]
            chosen.append(C)
            probe = reference(X, wrong, fold != k, C=C)
            expected = log_odds(probe, X[fold == k], wrong[fold != k])
            np.testing.assert_allclose(uncalibrated(grid)[fold == k, i, j], expected, atol=0.05)
    assert len(chosen) >= 6
    assert len(set(chosen)) > 1, "else nothing was chosen"
    assert grid.attrs["C"] == choices


def test_the_best_cell_is_chosen_and_measured_on_different_data():
    activations = make_activations(n=80, strength=0.6).isel(token=[0, 2])
    grid = probe_grid(activations, **QUICK, folds=4)
    wrong, fold = ~activations["correct"].to_numpy(), grid["fold"].to_numpy()
    X = activations["activation"].to_numpy()
    honest = np.full(len(X), np.nan)
    for k in range(4):
        areas = {}
        for cell in cells(grid):
            inner = np.full(len(X), np.nan)
            for other in set(range(4)) - {k}:
                test = fold == other
                probe = reference(X[:, *cell], wrong, (fold != k) & ~test)
                inner[test] = probe.decision_function(X[:, *cell][test])
            areas[cell] = roc_auc_score(wrong[fold != k], inner[fold != k])
        best = max(areas, key=areas.get)
        probe = reference(X[:, *best], wrong, fold != k)
        honest[fold == k] = log_odds(probe, X[:, *best][fold == k], wrong[fold != k])
    expected = roc_auc_score(wrong, honest)
    assert grid.attrs["best_auroc"] == pytest.approx(expected, abs=5e-3)
    assert grid.attrs["best_auroc_low"] < expected < grid.attrs["best_auroc_high"]
    best = grid["auroc"].where(grid["auroc"] == grid["auroc"].max(), drop=True)
    assert grid.attrs["best_layer"] == int(best["layer"][0])
    assert grid.attrs["best_token"] == str(best["token"].to_numpy()[0])


def test_noise_has_no_honest_best():
    """The greatest of many areas of noise looks good; the one chosen on other data does not."""
    best, honest = [], []
    for seed in range(8):
        grid = probe_grid(make_activations(seed, n=80, strength=0), **QUICK)
        best.append(float(grid["auroc"].max()))
        honest.append(grid.attrs["best_auroc"])
    assert np.mean(best) > 0.55
    assert np.mean(honest) < 0.53


def test_intervals_are_those_of_the_scores_and_of_their_training():
    activations = make_activations()
    for split in ("random", "answer"):
        grid = probe_grid(activations, split=split, **QUICK)
        score = np.moveaxis(grid["score"].to_numpy(), 0, -1)
        area, influence = auroc_influence(score, ~activations["correct"].to_numpy())
        groups = None if split == "random" else activations["exact_answer"].to_numpy().astype(str)
        sampling = standard_error(influence, groups)
        training = grid["training_error"].to_numpy()
        n_units = np.inf if groups is None else len(np.unique(groups))
        low, high = interval(area, np.hypot(sampling, training), n_units=n_units)
        np.testing.assert_allclose(grid["auroc_low"], low, atol=1e-5)
        np.testing.assert_allclose(grid["auroc_high"], high, atol=1e-5)
        assert ((training > 0) & (training < 2 * sampling)).all()
        assert ((grid["auroc_low"] < grid["auroc"]) & (grid["auroc"] < grid["auroc_high"])).all()


def test_half_precision_gives_the_same():
    activations = make_activations()
    half = activations.astype(np.float16)
    np.testing.assert_allclose(
        probe_grid(half, **QUICK)["auroc"], probe_grid(activations, **QUICK)["auroc"], atol=0.01
    )


# The same to the last bit, whatever is fitted beside it, and where

NULL = ["p_value", "p_corrected", "null_auroc", "null_by_layer", "null_by_token", "null_wrong"]


@cache
def correlated(n=150, features=40):
    """Features whose sizes span four orders of magnitude, as activations' do: slow to converge."""
    activations = make_activations(n=n, features=features, strength=0.5)
    random = np.random.default_rng(3)
    mixing = random.normal(size=(features, features)) * np.logspace(1, -3, features)
    X = activations["activation"].to_numpy() @ mixing.astype(np.float32)
    return activations.assign(activation=(activations["activation"].dims, X))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": "answer", "folds": 3},
        {"C": [1e-3, 1.0, 100.0], "folds": 3},
        {"standardize": True},
        {"protocol": "published"},
        {"method": "ridge"},
        {"method": "discriminant"},
        {"method": "mean_difference"},
        {"method": SGDClassifier(loss="log_loss", max_iter=3, tol=None)},
        {"n": 30, "features": 80, "folds": 2},  # fitted in the span of the examples
    ],
    ids=str,
)
def test_the_real_labels_are_fitted_as_if_there_were_no_others(options):
    sizes = {name: options[name] for name in ("n", "features") if name in options}
    options = {name: value for name, value in options.items() if name not in sizes}
    activations = correlated(**sizes)
    alone = probe_grid(activations, **QUICK | options)
    assert not np.isnan(alone["auroc"]).any()
    for n_permutations in (1, 9):
        grid = probe_grid(activations, **QUICK | options | {"n_permutations": n_permutations})
        ignored = {"n_permutations": n_permutations}
        expected = alone.drop_vars(NULL).assign_attrs(ignored)
        xr.testing.assert_identical(grid.drop_vars(NULL), expected)
        assert grid.sizes["permutation"] == n_permutations


def test_a_permutation_that_a_rare_token_cannot_do_takes_no_area_away():
    """Of ten answers that have a token, permuted labels may leave a fold's others of one class."""
    activations = make_activations(n=60)
    wrong, fold = ~activations["correct"].to_numpy(), probe_grid(activations, **QUICK)["fold"]
    have = [np.flatnonzero((fold == k) & (wrong == w))[0] for k in range(5) for w in (0, 1)]
    activations["activation"][np.setdiff1d(range(60), have), :, 0] = np.nan
    alone = probe_grid(activations, **QUICK)
    grid = probe_grid(activations, **QUICK | {"n_permutations": 40})
    assert np.isnan(grid["null_auroc"][0, 0]).any(), "else nothing is tested"
    assert not np.isnan(alone["auroc"]).any()
    np.testing.assert_array_equal(grid["auroc"], alone["auroc"])
    assert (grid["p_corrected"] <= 1).all()
    one = probe_grid(activations.isel(token=[0]), **QUICK | {"n_permutations": 40})
    assert np.isfinite(one["p_corrected"]).all()


def test_a_cell_is_the_same_in_any_company_and_process():
    activations, options = correlated(), QUICK | {"n_permutations": 3}
    grid = probe_grid(activations, **options)
    other = activations.isel(layer=[1, 0], token=[2, 0])
    expected = grid.isel(layer=[1, 0], token=[2, 0])
    for n_jobs in (1, 2):
        some = probe_grid(other, **options | {"n_jobs": n_jobs})
        for name in ("auroc", "auroc_low", "training_error", "score", "coef", "null_auroc"):
            xr.testing.assert_identical(some[name].drop_attrs(), expected[name].drop_attrs())


@pytest.mark.parametrize("method", ["logistic", SGDClassifier(max_iter=20, tol=None)], ids=str)
def test_threads_and_the_global_generator_make_no_difference(method):
    """Nor does a grid change them, even when it fails."""
    activations, grids, before = correlated(400, 200), [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            np.random.seed(threads)
            state = np.random.get_state()[1].copy()
            grids.append(probe_grid(activations, **QUICK, method=method))
            damaged = activations.copy(deep=True)
            damaged["activation"][0, 1, 2, 0] = np.inf
            with pytest.raises(ValueError, match="infinite"):
                probe_grid(damaged, **QUICK, method=method)
            assert torch.get_num_threads() == threads
            np.testing.assert_array_equal(np.random.get_state()[1], state)
    finally:
        torch.set_num_threads(before)
    xr.testing.assert_identical(*grids)


# Processes that are killed


class Killed(LogisticRegression):
    """Its process is killed while it is fitted, as for want of memory."""

    def fit(self, X, y):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told_in_a_sentence_and_the_next_grid_goes_on():
    with pytest.raises(ValueError, match=r"processes .* killed, with 0 of 6 cells.*memory.*n_jobs"):
        probe_grid(make_activations(), **QUICK | {"n_jobs": 2}, method=Killed())
    assert probe_grid(make_activations(), **QUICK | {"n_jobs": 2}).sizes["layer"] == 2


def processes(n_jobs, cells=30, examples=700, features=448, **options):
    """How many processes a grid of so many cells is fitted in."""
    options = {"method": "logistic", "device": "cpu", "n_permutations": 19} | options
    wrong = np.arange(examples) % 2 == 0
    C, n = np.array([1.0]), options["n_permutations"]
    plan = Plan.make(wrong, None, "cross-validated", 5, C, 0, n)
    fitter = Fitter(options["method"], False, options["device"])
    return _processes(n_jobs, cells, features, plan, fitter)


def test_a_small_grid_is_fitted_in_this_process(monkeypatch):
    """Processes that are started take longer than it, but the user may ask for them."""
    for cores in ("2", "16"):
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", cores)
        most = cpu_count()
        assert processes(None) == 1
        assert processes(2) == min(2, most)
        assert processes(None, cells=450) == most
        assert processes(None, examples=5000, features=4096) == most
        assert processes(None, cells=450, n_permutations=0, examples=100) == 1
        # How long these take isn't told by the sizes.
        assert processes(None, method="ridge") == most
        assert processes(None, method=DecisionTreeClassifier()) == most
        assert processes(None, cells=450, device="cuda") == 1


def test_the_default_starts_no_process_for_a_small_grid(monkeypatch):
    started = []
    monkeypatch.setattr(grid_module, "Parallel", lambda n, **_: started.append(n) or list)
    monkeypatch.setattr(grid_module, "delayed", lambda function: function)
    options = {name: value for name, value in QUICK.items() if name != "n_jobs"}
    small = probe_grid(make_activations(), **options)
    assert started == [1]
    monkeypatch.undo()
    xr.testing.assert_identical(small, probe_grid(make_activations(), **options, n_jobs=2))


def test_processes_are_no_more_than_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert processes(None, cells=4500) == processes(64) == 1


# What it is made of


def test_names_and_attributes_come_along():
    activations = make_activations()
    before = activations.copy(deep=True)
    grid = probe_grid(activations, **QUICK)
    xr.testing.assert_identical(activations, before)
    assert grid["auroc"].dims == ("layer", "token")
    assert grid["score"].dims == ("example", "layer", "token")
    assert grid["coef"].dims == ("layer", "token", "feature")
    assert grid["intercept"].dims == ("layer", "token")
    assert grid["layer"].to_numpy().tolist() == [4, 9]
    assert grid["token"].to_numpy().tolist() == TOKENS
    assert grid["id"].to_numpy().tolist() == activations["id"].to_numpy().tolist()
    np.testing.assert_array_equal(grid["correct"], activations["correct"])
    expected = {
        "model": "tiny",
        "revision": "r1",
        "site": "mlp_out",
        "split": "random",
        "protocol": "cross-validated",
        "folds": 5,
        "C": 1.0,
        "seed": 0,
    }
    assert expected.items() <= grid.attrs.items()
    assert np.isnan(grid["p_value"]).all(), "no permutations, no p-values"


def test_the_seed_decides():
    activations = make_activations(n=60)
    options = QUICK | {"n_permutations": 2}
    grids = [probe_grid(activations, **options, seed=seed) for seed in (3, 3, 4)]
    xr.testing.assert_identical(grids[0], grids[1])
    assert (grids[0]["fold"] != grids[2]["fold"]).any()


def test_examples_without_an_exact_answer_are_left_out():
    activations = make_activations()
    answers = activations["exact_answer"].to_numpy().copy()
    answers[5::7] = ""
    activations = activations.assign_coords(exact_answer=("example", answers))
    grid = probe_grid(activations, **QUICK)
    kept = activations.isel(example=np.flatnonzero(answers != ""))
    assert grid.sizes["example"] == len(kept["id"]) < 120
    assert grid.attrs["n_left_out"] == (answers == "").sum()
    without = ~activations["correct"].to_numpy() & (answers == "")
    assert grid.attrs["n_left_out_errors"] == without.sum() > 0
    none = {"n_left_out": 0, "n_left_out_errors": 0}
    xr.testing.assert_identical(grid.assign_attrs(none), probe_grid(kept, **QUICK))


def test_a_token_that_no_response_has():
    activations = make_activations()
    activations["activation"][:, 1, 1] = np.nan
    grid = probe_grid(activations, **QUICK | {"n_permutations": 3})
    nothing = grid.isel(layer=1, token=1)
    assert nothing["n_examples"] == nothing["n_errors"] == 0
    for name in ("auroc", "auroc_low", "auroc_high", "p_value", "p_corrected", "intercept"):
        assert np.isnan(nothing[name]), name
        assert np.isfinite(grid[name].isel(layer=0)).all(), name
    assert np.isnan(nothing["score"]).all()
    assert np.isnan(nothing["coef"]).all()


def test_no_token_at_all():
    activations = make_activations(n=40)
    activations["activation"][:] = np.nan
    grid = probe_grid(activations, **QUICK | {"n_permutations": 3})
    assert np.isnan(grid["auroc"]).all()
    assert np.isnan(grid["p_corrected"]).all()
    assert "best_auroc" not in grid.attrs


def test_a_token_that_only_right_answers_have():
    activations = make_activations()
    wrong = np.flatnonzero(~activations["correct"].to_numpy())
    activations["activation"][wrong, 0, 1] = np.nan
    grid = probe_grid(activations, **QUICK)
    assert np.isnan(grid["auroc"][0, 1])
    assert grid["n_examples"][0, 1] == 0
    assert np.isfinite(grid["auroc"][1, 1])


def test_constant_features_know_nothing():
    activations = make_activations()
    activations["activation"][:, 0, 0] = 3.0
    for options in ({}, {"standardize": True}):
        grid = probe_grid(activations, **QUICK | options)
        assert 0.3 < grid["auroc"][0, 0] < 0.6
        assert np.isfinite(grid["coef"]).all()


# Splits


def sides(grid, groups):
    """Per group, the folds that its examples are in."""
    fold = grid["fold"].to_numpy()
    return {group: set(fold[groups == group]) for group in np.unique(groups)}


def test_no_answer_is_on_both_sides():
    activations = make_activations()
    grid = probe_grid(activations, split="answer", **QUICK)
    answers = activations["exact_answer"].to_numpy().astype(str)
    assert all(len(folds) == 1 for folds in sides(grid, answers).values())
    assert len(set(grid["fold"].to_numpy())) == 5
    # Unlike in a random split:
    random = probe_grid(activations, **QUICK)
    assert any(len(folds) > 1 for folds in sides(random, answers).values())


def test_ways_to_write_an_answer_are_one_answer():
    names = np.array(["Italy", "italy.", "the Italy", "Peru", "PERU", "Łódź", "lodz", "Oslo"] * 15)
    activations = make_activations().assign_coords(exact_answer=("example", names.astype(object)))
    grid = probe_grid(activations, split="answer", folds=3, **QUICK)
    meant = np.array([["italy", "peru", "lodz", "oslo"][i] for i in (0, 0, 0, 1, 1, 2, 2, 3)] * 15)
    assert all(len(folds) == 1 for folds in sides(grid, meant).values())


def test_the_canonical_answer_decides_where_there_is_one():
    """ "Indian" and "India" are one answer."""
    country = np.array([["India", "Italy", "Peru", "Oslo"][i % 4] for i in range(120)], object)
    activations = make_activations().assign_coords(answer=("example", country))
    grid = probe_grid(activations, split="answer", folds=3, **QUICK)
    assert all(len(folds) == 1 for folds in sides(grid, country.astype(str)).values())


def test_any_coordinate_may_split():
    region = np.arange(120) % 11
    activations = make_activations().assign_coords(region=("example", region))
    grid = probe_grid(activations, split="region", **QUICK)
    assert all(len(folds) == 1 for folds in sides(grid, region).values())
    assert grid.attrs["split"] == "region"


@pytest.mark.parametrize("split", ["random", "answer"])
def test_the_same_question_is_never_on_both_sides(split):
    """Several samples of one question; by answer, whatever either joins is kept together."""
    question = np.array([f"question {i // 3}?" for i in range(120)], object)
    activations = make_activations().assign_coords(question=("example", question))
    answers = np.array([f"a{i // 5}" for i in range(120)], object)
    activations = activations.assign_coords(exact_answer=("example", answers))
    grid = probe_grid(activations, split=split, **QUICK)
    assert all(len(folds) == 1 for folds in sides(grid, question.astype(str)).values())
    if split == "answer":
        assert all(len(folds) == 1 for folds in sides(grid, answers.astype(str)).values())


@pytest.mark.parametrize("method", ["logistic", LogisticRegression()], ids=str)
def test_the_published_protocol_is_one_split_of_all_answers(method):
    """Those without an exact answer are divided with the others, and left out afterwards."""
    every = make_activations(n=150).isel(token=[0, 2])
    answers = every["exact_answer"].to_numpy().copy()
    answers[::5] = ""
    every = every.assign_coords(exact_answer=("example", answers))
    grid = probe_grid(every, protocol="published", seed=42, method=method, **QUICK)
    sides = train_test_split(np.arange(150), test_size=0.2, random_state=42)
    kept = np.flatnonzero(answers != "")
    activations = every.isel(example=kept)
    wrong = ~activations["correct"].to_numpy()
    train, test = (np.flatnonzero(np.isin(kept, side)) for side in sides)
    fold = grid["fold"].to_numpy()
    assert set(np.flatnonzero(fold == 0)) == set(test)
    assert set(np.flatnonzero(fold == -1)) == set(train)
    assert (grid["n_examples"] == len(test)).all()
    assert np.isnan(grid["score"][train]).all()
    for i, j in cells(grid):
        X = activations["activation"].to_numpy()[:, i, j]
        expected = log_odds(reference(X, wrong, train), X[test], wrong[train])
        np.testing.assert_allclose(uncalibrated(grid)[test, i, j], expected, atol=0.02)
        area = roc_auc_score(wrong[test], expected)
        assert grid["auroc"].to_numpy()[i, j] == pytest.approx(area, abs=0.01)
    assert (grid["training_error"] == 0).all(), "trained and tested on different examples"
    assert grid.attrs["folds"] == 1
    assert grid.attrs["protocol"] == "published"


def test_the_published_protocol_with_answers_held_out():
    activations = make_activations()
    grid = probe_grid(activations, protocol="published", split="answer", **QUICK)
    answers = activations["exact_answer"].to_numpy().astype(str)
    assert all(len(folds) == 1 for folds in sides(grid, answers).values())
    assert 12 <= (grid["fold"] == 0).sum() <= 36


def test_columns_that_are_the_same_token_are_counted():
    activations = make_activations()
    X = activations["activation"].to_numpy()
    X[:60, :, 2] = X[:60, :, 1]  # every third of these lacks both
    grid = probe_grid(activations, **QUICK)
    share = grid["same_token"].sel(token="-1", other_token="-2")
    assert float(share) == pytest.approx(40 / 80)
    assert float(grid["same_token"].sel(token="last_q", other_token="-1")) == 0
    assert (np.diag(grid["same_token"]) == 1).all()


def test_areas_on_the_answers_that_have_all_tokens():
    activations = make_activations()
    grid = probe_grid(activations, **QUICK)
    there = np.arange(120) % 3 > 0
    wrong = ~activations["correct"].to_numpy()
    assert grid["auroc_common"].attrs["n_examples"] == there.sum()
    for i, j in cells(grid):
        score = grid["score"].to_numpy()[there, i, j]
        expected = roc_auc_score(wrong[there], score)
        assert float(grid["auroc_common"][i, j]) == pytest.approx(expected)


# The null


def test_planted_signal_has_the_smallest_p_value():
    grid = probe_grid(make_activations(strength=2.0), **QUICK | {"n_permutations": 19})
    assert grid["auroc"].sel(layer=9)[2] > 0.8
    assert grid["p_corrected"][1, 2] < 1 / 20, "by the distribution of the 19"
    # All cells share one null: 6 cells of 19 permutations.
    assert grid["p_value"][1, 2] <= 1 / (1 + 6 * 19)
    assert (grid["p_value"] <= grid["p_corrected"] + 1e-12).all()
    assert grid["null_auroc"].shape == (2, 3, 19)
    assert abs(float(grid["null_auroc"].mean()) - 0.5) < 0.05


@pytest.mark.parametrize("cells", [1, 20, 400])
@pytest.mark.parametrize("n_permutations", [19, 99])
def test_the_tail_of_the_largest_raises_no_more_alarms_than_it_says(cells, n_permutations):
    """Areas of permuted grids are close to normal: the largest of so many, half in common."""
    random = np.random.default_rng(0)
    p = []
    for _ in range(1500):
        shared = random.normal(size=(n_permutations + 1, 1))
        z = (shared + random.normal(size=(n_permutations + 1, cells))).max(1)
        p.append(float(largest_tail(z[0], z[1:])))
    for level in (0.05, 0.01, 0.002):
        assert np.mean(np.array(p) <= level) <= binom.ppf(0.995, 1500, level) / 1500
    # Far beyond all of them it is far below 1 in so many.
    assert largest_tail(z[1:].max() + 8 * z[1:].std(), z[1:]) < 1e-3


@pytest.mark.parametrize("split", ["random", "answer"])
def test_noise_has_no_small_p_value(split):
    options = QUICK | {"n_permutations": 19}
    grids = [
        probe_grid(make_activations(seed, n=60, strength=0), split=split, folds=3, **options)
        for seed in range(6)
    ]
    smallest = [float(grid["p_corrected"].min()) for grid in grids]
    assert sum(p <= 0.05 for p in smallest) <= 2
    assert np.mean([grid["p_value"] for grid in grids]) > 0.3


def test_the_order_of_the_dimensions_does_not_matter():
    activations = make_activations(n=40)
    other = activations.transpose("feature", "token", "example", "layer")
    xr.testing.assert_identical(probe_grid(activations, **QUICK), probe_grid(other, **QUICK))


# Refused


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"split": "fold"}, ValueError, r'"random", "answer" or .*id, exact_answer, correct.*fold'),
        ({"split": "layer"}, ValueError, "got 'layer'"),
        ({"split": None}, TypeError, "split must be text such as 'random', got None"),
        ({"protocol": "paper"}, ValueError, "one of cross-validated, published; got 'paper'"),
        ({"folds": 1}, ValueError, "folds must be a whole number of at least 2, got 1"),
        ({"folds": 2.5}, TypeError, "got 2.5"),
        ({"folds": True}, TypeError, "got True"),
        ({"folds": "5"}, TypeError, "got '5'"),
        ({"C": 0}, ValueError, "C must be a number from 1e-06 to 1,000,000, got 0"),
        ({"C": [1.0, -1.0]}, ValueError, "got -1.0"),
        ({"C": float("nan")}, ValueError, "got nan"),
        ({"C": float("inf")}, ValueError, "got inf"),
        ({"C": []}, ValueError, "got none"),
        ({"C": "strong"}, TypeError, "C must be a number .*, got 'strong'"),
        ({"n_permutations": -1}, ValueError, "from 0 to 10,000, got -1"),
        ({"n_permutations": 1.5}, TypeError, "got 1.5"),
        ({"C": [1.0, 2.0], "protocol": "published"}, ValueError, "takes one value of C"),
        ({"folds": 100}, ValueError, r"100 folds need at least 100 wrong answers.*got \d+ of 120"),
        (
            {"folds": 20, "split": "answer"},
            ValueError,
            "20 folds need at least 20 .*groups.*got 17",
        ),
    ],
    ids=str,
)
def test_values_that_cannot_be_used(options, kind, message):
    with pytest.raises(kind, match=message):
        probe_grid(make_activations(), **QUICK | options)


@pytest.mark.parametrize(
    ("correct", "message"),
    [(True, "are right, so.*harder questions"), (False, "are wrong, so.*easier questions")],
)
def test_one_class(correct, message):
    activations = make_activations()
    activations = activations.assign_coords(correct=("example", np.full(120, correct)))
    with pytest.raises(ValueError, match=f"All 120 answers .*{message}") as refused:
        probe_grid(activations, **QUICK)
    assert "folds" not in str(refused.value), "they are not the cause"


@pytest.mark.parametrize(
    ("n_wrong", "options", "advice", "works"),
    [
        (3, {"folds": 5}, "Use folds=3, or ask harder questions", {"folds": 3}),
        (97, {"folds": 5}, "Use folds=3, or ask easier questions", {"folds": 3}),
        (1, {"folds": 5}, "Ask harder questions", None),
        (1, {"protocol": "published"}, r'protocol="published" needs at least 2 .*Ask harder', None),
    ],
)
def test_fewer_folds_are_advised_where_they_help(n_wrong, options, advice, works):
    activations = make_activations(n=100).isel(token=[0])
    activations = activations.assign_coords(correct=("example", np.arange(100) >= n_wrong))
    with pytest.raises(ValueError, match=advice) as refused:
        probe_grid(activations, **QUICK | options)
    if works is None:
        assert "folds=" not in str(refused.value)
    else:
        probe_grid(activations, **QUICK | works)


@pytest.mark.parametrize(
    ("n_answers", "advice"),
    [(1, "Ask more questions with more different answers"), (4, "Use folds=4, or ask more")],
)
def test_few_different_answers_are_told_as_the_cause(n_answers, advice):
    answers = np.array([f"a{i % n_answers}" for i in range(120)], object)
    activations = make_activations().assign_coords(exact_answer=("example", answers))
    message = f'at least 5 different groups of answers, got {n_answers}.*{advice}.*split="random"'
    with pytest.raises(ValueError, match=message):
        probe_grid(activations, split="answer", **QUICK)
    if n_answers > 1:
        probe_grid(activations, split="answer", **QUICK | {"folds": n_answers})


def test_no_example_with_an_exact_answer():
    activations = make_activations()
    empty = activations.assign_coords(exact_answer=("example", np.full(120, "", object)))
    with pytest.raises(ValueError, match=r"No response has an exact answer.*preflight\(run\)"):
        probe_grid(empty, **QUICK)


@pytest.mark.parametrize("split", ["random", "answer", "gold", "group"])
def test_where_no_response_has_an_exact_answer_no_split_fails_otherwise(split):
    empty = np.full(120, "", object)
    activations = make_activations().assign_coords(
        exact_answer=("example", empty),
        accepted=("example", np.full(120, "Italy", object)),
        group=("example", np.full(120, "towns", object)),
        question=("example", np.full(120, "Where is Oz?", object)),
    )
    with pytest.raises(ValueError, match=r"No response has an exact answer.*preflight\(run\)"):
        probe_grid(activations, split=split, **QUICK)
    with pytest.raises(ValueError, match=r"No response has an exact answer.*preflight\(run\)"):
        held_out_splits(activations, needed=split)


def repeated(n_questions):
    """Right and wrong answers to so few questions, each asked again and again."""
    questions = np.array([f"Where is town {i % n_questions}?" for i in range(120)], object)
    return make_activations().isel(token=[0]).assign_coords(question=("example", questions))


def test_few_questions_are_called_questions():
    activations = repeated(4)
    with pytest.raises(ValueError, match="at least 5 different questions, got 4") as refused:
        probe_grid(activations, **QUICK)
    assert str(refused.value).endswith("Use folds=4, or ask more questions.")
    probe_grid(activations, **QUICK | {"folds": 4})


def test_the_published_protocol_divides_no_question():
    with pytest.raises(ValueError, match=r"a fifth of the answers .* 5 different questions, got 4"):
        probe_grid(repeated(4), protocol="published", **QUICK)
    grid = probe_grid(repeated(5), protocol="published", **QUICK)
    assert (grid["fold"] == 0).sum() == 24


def test_two_folds_are_not_advised_to_whom_chooses_c():
    activations = make_activations(n=100).isel(token=[0])
    few = activations.assign_coords(correct=("example", np.arange(100) >= 2))
    with pytest.raises(ValueError, match="Ask harder") as refused:
        probe_grid(few, **QUICK | {"C": [0.1, 1.0]})
    assert "folds=" not in str(refused.value)
    with pytest.raises(ValueError, match="Use folds=2"):
        probe_grid(few, **QUICK)


def test_one_group_of_nearly_all_errors():
    activations = make_activations()
    wrong = ~activations["correct"].to_numpy()
    answers = np.where(wrong, "one", [f"a{i % 17}" for i in range(120)])
    activations = activations.assign_coords(exact_answer=("example", answers.astype(object)))
    with pytest.raises(
        ValueError, match=r"Without fold \d, all answers .*of 1 group of answers,"
    ) as refused:
        probe_grid(activations, split="answer", **QUICK)
    assert "folds=" not in str(refused.value), "no number of folds divides one group"


def lopsided(shared, alone, n=100):
    """Noise of which `shared` wrong answers are one answer, `alone` others, and all else right."""
    wrong = np.isin(np.arange(n), [*range(shared), *range(50, 50 + alone)])
    answers = np.array(["x"] * shared + [f"a{i}" for i in range(n - shared)], object)
    activations = make_activations(n=n).isel(token=[0, 2])  # which all examples have
    return activations.assign_coords(correct=("example", ~wrong), exact_answer=("example", answers))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("shared", "alone", "refused"),
    [(5, 0, "Without fold \\d,"), (5, 1, "Without folds \\d and \\d,"), (5, 2, None)],
)
def test_errors_that_nearly_all_share_an_answer(shared, alone, refused, flipped):
    """Left out are single folds, and pairs to choose the best cell; one class has no probe."""
    activations = lopsided(shared, alone)
    if flipped:
        activations["correct"] = ~activations["correct"]
    if refused:
        with pytest.raises(ValueError, match=f"{refused} all answers are of one class"):
            probe_grid(activations, split="answer", **QUICK)
    else:
        grid = probe_grid(activations, split="answer", **QUICK | {"n_permutations": 5})
        assert np.isfinite(grid["auroc"]).all()
        assert np.isfinite(grid["null_auroc"]).all()
        assert np.isfinite(grid.attrs["best_auroc"])


def test_one_of_three_labels_is_never_wrong():
    label = np.arange(120) % 3
    activations = make_activations().assign_coords(
        correct=("example", (label == 0) | (np.arange(120) % 2 == 0)),
        exact_answer=("example", np.array(["a", "b", "c"], object)[label]),
    )
    with pytest.raises(
        ValueError, match=r"Without folds .*one class.*of 2 groups.*Use folds=2, or"
    ):
        probe_grid(activations, split="answer", **QUICK | {"folds": 3})
    # With two folds no pair is left out.
    grid = probe_grid(activations, split="answer", **QUICK | {"folds": 2})
    assert np.isfinite(grid["auroc"]).all()


def test_published_few_errors_are_divided_between_both_sides():
    """The plain split would have none to test on."""
    activations = lopsided(6, 0)
    grid = probe_grid(activations, protocol="published", seed=1, **QUICK)
    wrong, tested = ~activations["correct"].to_numpy(), grid["fold"].to_numpy() == 0
    assert tested.sum() == 20
    assert (wrong & tested).sum() == 1


def test_published_test_answers_of_one_class():
    activations = lopsided(2, 0)
    with pytest.raises(ValueError, match=r"20 answers to test on are of one class.*only 2 of 100"):
        probe_grid(activations, protocol="published", **QUICK)


def test_a_token_that_no_wrong_answer_has_takes_nothing_from_the_others():
    activations = make_activations()
    activations["activation"][~activations["correct"].to_numpy(), :, 0] = np.nan
    grid = probe_grid(activations, **QUICK)
    assert np.isnan(grid["auroc"][:, 0]).all()
    assert np.isfinite(grid["auroc"][:, 1:]).all()
    with pytest.raises(ValueError, match="in none do enough wrong and enough right answers"):
        findings(grid.isel(token=[0]), tokens=["last_q"])


def test_labels_that_are_not_boolean():
    activations = make_activations()
    numbers = activations["correct"].to_numpy().astype(float)
    with pytest.raises(ValueError, match=r"must hold True and False, it holds numbers.*astype"):
        probe_grid(activations.assign_coords(correct=("example", numbers)), **QUICK)


def test_things_that_are_no_activations():
    activations = make_activations()
    for other in (activations["activation"], activations["activation"].to_numpy(), None):
        with pytest.raises(TypeError, match="activations must be a Dataset"):
            probe_grid(other, **QUICK)
    with pytest.raises(TypeError, match="activations must be a Dataset with `activation"):
        probe_grid(activations.rename(activation="values"), **QUICK)
    with pytest.raises(ValueError, match=r"lack the dimension layer\."):
        probe_grid(activations.isel(layer=0), **QUICK)
    with pytest.raises(ValueError, match=r"lack the coordinate correct\."):
        probe_grid(activations.drop_vars("correct"), **QUICK)
    with pytest.raises(ValueError, match="needs the coordinate exact_answer"):
        probe_grid(activations.drop_vars("exact_answer"), split="answer", **QUICK)


@pytest.mark.parametrize(
    ("value", "message"), [(np.inf, "1 examples have infinite"), (np.nan, "1 examples have NaN")]
)
def test_damaged_activations(value, message):
    activations = make_activations()
    activations["activation"][8, 1, 2, 3] = value
    with pytest.raises(ValueError, match=f"{message} activations at layer 9, token -1.*example 8"):
        probe_grid(activations, **QUICK)


def test_activations_too_large_for_single_precision():
    activations = make_activations().astype(float)
    activations["activation"][8, 1, 2, 3] = 1e39
    with pytest.raises(ValueError, match=r"infinite activations at layer 9, token -1.*example 8"):
        probe_grid(activations, **QUICK)


# Other ways to fit than the logistic regression


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        ("ridge", RidgeClassifier(alpha=1.0)),
        ("discriminant", LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
        ("mean_difference", None),
    ],
)
def test_methods_of_the_solver_score_as_scikit_learn_does(method, reference):
    activations = planted()
    settings = {"n_permutations": 0, "n_jobs": 1, "progress": False}
    grid = probe_grid(activations, method=method, **settings)
    assert grid.attrs["method"] == method
    assert float(grid["auroc"].sel(layer=1, token="b")) > 0.75
    if reference is not None:
        theirs = probe_grid(activations, method=reference, **settings)
        assert float(np.abs(grid["auroc"] - theirs["auroc"]).max()) < 1e-3


def test_any_classifier_of_scikit_learn_can_be_the_probe():
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    grid = probe_grid(planted(), method=tree, n_permutations=0, n_jobs=1, progress=False)
    assert float(grid["auroc"].sel(layer=1, token="b")) > 0.65
    assert np.isnan(grid["coef"]).all()  # a tree has none
    with pytest.raises(ValueError, match="method must be one of logistic, ridge"):
        probe_grid(planted(), method="svm")


def planted():
    """Noise, with a signal in layer 1, token b."""
    random = np.random.default_rng(5)
    n, features = 120, 6
    X = random.normal(size=(n, 2, 2, features)).astype(np.float32)
    wrong = np.arange(n) % 2 == 0
    X[wrong, 1, 1, :2] += 1
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={"layer": [0, 1], "token": ["a", "b"], "correct": ("example", ~wrong)},
    )
