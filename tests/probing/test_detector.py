"""The whole grid as one detector: against plain means, saved and loaded, and in simulations."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nightly import is_nightly, most, quarter
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from probekit import Run, detector, probe_grid
from probekit.probing.calibration import Calibration, reliability
from probekit.probing.detection import FILES, _calibrated, _highest_rate, load_detector

TOKENS = ["last_q", "-2", "-1"]
QUICK = {"n_permutations": 19, "progress": False, "n_jobs": 1}


def made(seed, n=150, groups=0, where=(), strength=0.0, layers=3, features=6):
    """Activations with a signal in some cells, (layer, token); answers of groups are alike."""
    random = np.random.default_rng(seed)
    shape = (layers, len(TOKENS), features)
    X = random.normal(size=(n, *shape))
    answer = np.arange(n)
    wrong = random.random(n) < 0.45
    if groups:
        answer = random.integers(groups, size=n)
        wrong = random.random(n) < random.beta(1.2, 1.2, size=groups)[answer]
        X += random.normal(size=(groups, *shape))[answer]
    for cell in where:
        X[wrong, *cell, 0] += strength
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X.astype(np.float32))},
        coords={
            "layer": range(layers),
            "token": TOKENS,
            "id": ("example", [f"q{i}" for i in range(n)]),
            "exact_answer": ("example", [f"a{i}" for i in answer]),
            "correct": ("example", ~wrong),
        },
        attrs={"model": "tiny", "revision": "1", "site": "mlp_out"},
    )


EVERYWHERE = [(i, j) for i in range(3) for j in range(3)]


@pytest.fixture(scope="module")
def activations():
    activations = made(1, where=EVERYWHERE, strength=0.7)
    activations["activation"][::4, :, 1] = np.nan
    return activations


@pytest.fixture(scope="module")
def grid(activations):
    return probe_grid(activations, **QUICK)


@pytest.fixture(scope="module")
def whole(grid):
    return detector(grid)


def reference(activations, fold, cells):
    """Mean over cells of scikit-learn's out-of-fold log-odds, less the training error rate's."""
    wrong = ~activations["correct"].to_numpy()
    X = activations["activation"].to_numpy()
    odds = np.full((len(wrong), len(cells)), np.nan)
    for c, (i, j) in enumerate(cells):
        there = ~np.isnan(X[:, i, j, 0])
        for k in range(5):
            train, test = there & (fold != k), there & (fold == k)
            probe = LogisticRegression(tol=1e-9, max_iter=10_000).fit(X[train, i, j], wrong[train])
            odds[test, c] = probe.decision_function(X[test, i, j]) - logit(wrong[train].mean())
    return np.nanmean(odds, 1), (~np.isnan(odds)).sum(1)


def test_it_is_the_mean_of_scikit_learns_log_odds(activations, grid, whole):
    expected, n_cells = reference(activations, grid["fold"].to_numpy(), EVERYWHERE)
    np.testing.assert_allclose(whole.log_odds, expected, atol=0.02)
    np.testing.assert_array_equal(whole.n_cells, n_cells)
    assert {*n_cells} == {6, 9}
    wrong = ~activations["correct"].to_numpy()
    area = roc_auc_score(wrong, whole.log_odds)
    assert whole.auroc == pytest.approx(area, abs=1e-9)
    assert area == pytest.approx(roc_auc_score(wrong, expected), abs=3e-3)
    assert whole.auroc_low < area < whole.auroc_high
    assert whole.auroc > float(grid["auroc"].max())
    assert whole.p_value < 1e-4


def test_named_tokens_and_layers_are_pooled_alone(activations, grid, whole):
    fold = grid["fold"].to_numpy()
    by_token = detector(grid, tokens=["last_q", "-1"])
    expected, _ = reference(activations, fold, [(i, j) for i in range(3) for j in (0, 2)])
    np.testing.assert_allclose(by_token.log_odds, expected, atol=0.02)
    by_layer = detector(grid, layers=[1])
    np.testing.assert_allclose(
        by_layer.log_odds, reference(activations, fold, [(1, j) for j in range(3)])[0], atol=0.02
    )
    assert by_layer.auroc == pytest.approx(whole.by_layer["auroc"][1], abs=1e-12)
    assert by_layer.auroc_low == pytest.approx(whole.by_layer["auroc_low"][1], abs=1e-12)
    assert by_layer.p_value == pytest.approx(whole.by_layer["p_value"][1], rel=1e-9)
    column = whole.by_token.set_index("token")
    assert column["n_examples"]["-2"] == (np.arange(150) % 4 > 0).sum()
    one = detector(grid, tokens=["-1"])
    assert column.loc["-1", ["auroc", "p_value"]].tolist() == [one.auroc, one.p_value]
    both = detector(grid, tokens=["-1"], layers=[1])
    assert both.auroc == pytest.approx(float(grid["auroc"].sel(layer=1)[2]), abs=1e-9)
    assert np.isnan(both.p_value), "of permuted grids only whole layers and tokens are kept"


def test_a_token_that_no_response_has_takes_nothing_from_the_others(activations):
    lacking = activations.copy(deep=True)
    lacking["activation"][:, :, 1] = np.nan
    found = detector(probe_grid(lacking, **QUICK))
    without = detector(probe_grid(lacking.isel(token=[0, 2]), **QUICK))
    assert found.auroc == without.auroc
    assert found.p_value == pytest.approx(without.p_value)
    assert np.isfinite(found.by_layer["p_value"]).all()
    assert np.isnan(found.by_token.loc[1, ["auroc", "p_value"]].astype(float)).all()


@pytest.mark.parametrize("n_permutations", [0, 4])
def test_few_permutations_are_counted(activations, n_permutations):
    found = detector(probe_grid(activations, **QUICK | {"n_permutations": n_permutations}))
    expected = np.nan if not n_permutations else 1 / (1 + n_permutations)
    np.testing.assert_equal(found.p_value, expected)


def test_a_folds_labels_have_no_part_in_its_p_error(grid):
    """Other labels in fold 0 change every other fold's map, and not that of fold 0."""
    random = np.random.default_rng(0)
    variants = random.normal(size=(5, grid.sizes["example"])) * 3
    wrong = ~grid["correct"].to_numpy()
    fold = grid["fold"].to_numpy()
    other = np.where(fold == 0, ~wrong, wrong)
    one, two = (_calibrated(grid, variants, labels)[0] for labels in (wrong, other))
    np.testing.assert_array_equal(one[fold == 0], two[fold == 0])
    assert (one[fold != 0] != two[fold != 0]).all()


def test_a_folds_map_is_of_fits_that_lacked_it(grid):
    """Variants are taken by fold: of an example of fold j, the one without fold k as well."""
    fold = grid["fold"].to_numpy()
    wrong = ~grid["correct"].to_numpy()
    random = np.random.default_rng(0)
    without = {(j, k): random.normal(size=len(fold)) for j in range(5) for k in range(5)}
    variants = np.array(
        [[without[f, (f + step) % 5][i] for i, f in enumerate(fold)] for step in range(5)]
    )
    found, _ = _calibrated(grid, variants, wrong)
    for k in range(5):
        rest = fold != k
        inner = np.array([without[f, k][i] for i, f in enumerate(fold)])
        fitted = Calibration.better(inner[rest], wrong[rest], fold[rest])
        np.testing.assert_allclose(found[fold == k], fitted(variants[0][fold == k]))


@pytest.mark.parametrize("folds", [2, 3])
def test_few_folds(activations, folds):
    found = detector(probe_grid(activations, folds=folds, **QUICK))
    assert found.auroc_low < found.auroc < found.auroc_high
    assert np.isfinite(found.p_error).all()


# P(error)


def test_platt_is_logistic_regression_on_platts_targets():
    random = np.random.default_rng(0)
    wrong = random.random(300) < 0.3
    odds = 5 * random.normal(size=300) + 4 * wrong + 7
    fitted = Calibration.platt(odds, wrong)
    target = np.where(wrong, (wrong.sum() + 1) / (wrong.sum() + 2), 1 / ((~wrong).sum() + 2))
    twice = np.tile(odds, 2)[:, None]
    plain = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        twice, [1] * 300 + [0] * 300, np.concatenate([target, 1 - target])
    )
    assert fitted.slope == pytest.approx(plain.coef_[0, 0], rel=1e-3)
    np.testing.assert_allclose(fitted(odds), plain.predict_proba(odds[:, None])[:, 1], atol=1e-4)


def test_what_goes_the_wrong_way_is_made_flat():
    random = np.random.default_rng(0)
    wrong = random.random(200) < 0.3
    odds = random.normal(size=200) - 2 * wrong
    fitted = Calibration.platt(odds, wrong)
    assert fitted.slope > 0
    np.testing.assert_allclose(fitted(odds), wrong.mean(), atol=0.01)
    assert (np.argsort(fitted(odds)) == np.argsort(odds)).all()
    same = Calibration.platt(np.ones(200), wrong)
    assert same(1.0) == pytest.approx(wrong.mean(), abs=0.01)


def test_a_step_is_calibrated_by_isotonic_regression():
    random = np.random.default_rng(0)
    odds = random.uniform(-6, 6, 3000)
    wrong = random.random(3000) < np.select([odds < -3, odds < 3], [0.05, 0.5], 0.55)
    part = np.arange(3000) % 5
    assert Calibration.better(odds, wrong, part).points is not None
    smooth = random.random(3000) < 1 / (1 + np.exp(-odds / 2))
    assert Calibration.better(odds, smooth, part).points is None


def test_reliability_is_that_of_its_definition():
    p = np.repeat([0.1, 0.4, 0.9], 100)
    wrong = np.concatenate([np.arange(100) < k for k in (20, 40, 80)])
    found = reliability(p, wrong, bins=3)
    assert found["ece"] == pytest.approx((0.1 + 0 + 0.1) / 3)
    assert found["brier"] == pytest.approx(np.mean((p - wrong) ** 2))
    assert found["brier_base"] == pytest.approx(140 / 300 * 160 / 300)


def test_p_error_is_calibrated_and_better_than_the_base_rate(whole):
    assert whole.ece < 0.12
    assert whole.brier < 0.8 * whole.brier_base


# The threshold


def scored(seed, n, groups=0):
    """What `threshold` needs of a detector; and the true error rate below any threshold."""
    random = np.random.default_rng(seed)
    if groups:
        answer = random.integers(groups, size=n)
        centre = random.normal(-1, 1.5, groups)[answer]
    else:
        answer, centre = None, -1
    p = 1 / (1 + np.exp(-(centre + random.normal(0, 1.5, n))))
    # P(error) is off, in the dangerous direction: the guarantee must not lean on it.
    wrong = random.random(n) < np.minimum(1.2 * p + 0.02, 1)
    coords = {"correct": ("example", ~wrong)}
    return xr.DataArray(p, coords, ("example",)), answer


def guaranteed(p_error, groups, **options):
    from probekit.probing.detection import Detector

    return Detector.threshold(SimpleNamespace(p_error=p_error, groups=groups), **options)


@pytest.mark.parametrize("groups", [0, 60])
def test_the_guarantee_holds_as_often_as_it_says(groups):
    draw, _ = scored(10**6, 400_000, groups and 20_000)
    p, wrong = draw.to_numpy(), ~draw["correct"].to_numpy()
    n_trials, broken, answered = quarter(800), 0, []
    for seed in range(n_trials):
        found = guaranteed(*scored(seed, 400, groups), error_rate=0.2, confidence=0.9)
        answered.append(found.answered)
        if found.answered:
            broken += wrong[p <= found.p_error].mean() > 0.2
    assert broken <= most(n_trials, 0.1)
    assert np.mean(answered) > 0.25, "else it is kept by answering nothing"


def test_no_threshold_is_said():
    p_error, groups = scored(0, 400)
    found = guaranteed(p_error, groups, error_rate=0.001)
    assert np.isnan(found.p_error)
    assert found.answered == 0
    assert str(found).startswith("No threshold on P(error) has an error rate of at most 0.1% with")
    kept = guaranteed(p_error, groups)
    assert f"{kept.answered:.0%} are answered" in str(kept)
    below = p_error.to_numpy() <= kept.p_error
    assert kept.error_rate == pytest.approx(np.mean(~p_error["correct"].to_numpy()[below]))
    assert kept.error_rate < kept.bound <= 0.2


def test_groups_that_are_alike_are_worth_less():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    wrong = np.repeat(random.random(20) < 0.3, 10)
    members = np.arange(200)
    alone = _highest_rate(wrong, None, members, 0.95)
    together = _highest_rate(wrong, groups, members, 0.95)
    # All of a group are right or wrong together: it is worth one answer.
    one_each = _highest_rate(wrong[::10], None, members[:20], 0.95)
    assert alone < one_each < together < one_each + 0.05


# Saved


@pytest.fixture
def saved(whole, tmp_path):
    whole.save(tmp_path)
    return tmp_path


CHILD = """
import sys, numpy as np, xarray as xr
from probekit.probing.detection import load_detector
from pathlib import Path
folder = Path(sys.argv[1])
found = load_detector(*((folder / name).read_bytes() for name in {files!r}))
activations = xr.open_dataset(folder / "activations.nc", engine="h5netcdf")
np.save(folder / "child.npy", [found(activations).to_numpy(), found.p_error.to_numpy()])
"""


def test_a_new_process_gives_the_same_scores(saved, whole, activations):
    plain = activations.assign_coords(token=np.array(TOKENS, object))
    plain.to_netcdf(saved / "activations.nc", engine="h5netcdf")
    subprocess.run([sys.executable, "-c", CHILD.format(files=FILES), saved], check=True)
    new, own = np.load(saved / "child.npy")
    np.testing.assert_allclose(new, whole(activations), rtol=0, atol=1e-12)
    np.testing.assert_allclose(own, whole.p_error, rtol=0, atol=1e-12)


def test_all_of_it_comes_back(saved, whole):
    found = load_detector(*((saved / name).read_bytes() for name in FILES))
    assert repr(found) == repr(whole)
    for name in ("auroc", "auroc_low", "p_value", "gain", "ece", "n_errors", "origin", "tokens"):
        np.testing.assert_equal(getattr(found, name), getattr(whole, name))
    pd.testing.assert_frame_equal(found.by_layer, whole.by_layer, check_dtype=False)
    pd.testing.assert_frame_equal(found.by_token, whole.by_token, check_dtype=False)
    assert str(found.threshold()) == str(whole.threshold())
    for name in ("id", "correct"):
        np.testing.assert_array_equal(found.p_error[name], whole.p_error[name])


def test_new_answers_are_scored_by_the_probes_of_all(whole, activations, grid):
    new = made(2, n=40, where=EVERYWHERE, strength=0.7)
    new["activation"][:5] = np.nan
    odds = np.mean(
        [
            new["activation"].to_numpy()[:, i, j] @ grid["coef"].to_numpy()[i, j]
            + float(grid["intercept"][i, j] - grid["prior"][i, j])
            for i, j in EVERYWHERE
        ],
        axis=0,
    )
    found = whole(new)
    assert np.isnan(found[:5]).all()
    np.testing.assert_allclose(found[5:], whole.calibration(odds[5:]), atol=1e-6)
    assert roc_auc_score(~new["correct"][5:], found[5:]) > 0.8


def test_predict_asks_the_model_and_scores_what_it_answers(whole):
    new = made(3, n=4)
    answers = pd.DataFrame(
        {"id": ["a", "b", "c", "d"], "question": "Q?", "response": "R.", "exact_answer": "R"}
    )
    asked = {}

    def answer(questions, **options):
        asked.update(options, questions=questions)
        return answers, new

    lm = SimpleNamespace(answer=answer, name="tiny", revision="1")
    found = whole.predict(lm, ["Q?"] * 4, max_new_tokens=5)
    assert asked == {"questions": ["Q?"] * 4, "site": "mlp_out", "max_new_tokens": 5}
    assert list(found) == ["id", "question", "response", "exact_answer", "p_error"]
    np.testing.assert_array_equal(found["p_error"], whole(new))
    asked.clear()
    with pytest.raises(ValueError, match="lm is of model 'vast', and the detector is of 'tiny'"):
        whole.predict(SimpleNamespace(answer=answer, name="vast", revision="1"), ["Q?"])
    assert not asked, "no question is asked in vain"


def test_a_run_hands_out_its_detectors(grid, activations, tmp_path):
    run = Run(tmp_path / "run")
    stage = run.begin("probe", {})
    grids = {"random": grid, "answer": probe_grid(made(4, groups=25), split="answer", **QUICK)}
    files = [run.save_grids(grids)]
    run.save_detectors({"group": detector(grid)})
    files.append(run.save_detectors({name: detector(each) for name, each in grids.items()}))
    stage.finish(files, splits=list(grids))
    assert run.detector().origin["split"] == "answer", "the strictest there is"
    assert run.detector("random").auroc == detector(grid).auroc
    with pytest.raises(ValueError, match="no detector of split 'group'"):
        run.detector("group")
    path = run.path / "detector" / "random" / FILES[1]
    path.write_text(path.read_text().replace("tiny", "vast"))
    with pytest.raises(ValueError, match="not as the probe stage left it"):
        run.detector("random")


# Refused


def test_grids_that_it_cannot_be_made_of(grid, activations):
    with pytest.raises(TypeError, match="xarray Dataset"):
        detector([1])
    published = probe_grid(activations, protocol="published", **QUICK)
    with pytest.raises(ValueError, match="cross-validated grid"):
        detector(published)
    with pytest.raises(ValueError, match="cross-validated grid"):
        detector(grid.drop_vars("log_odds_without"))
    with pytest.raises(ValueError, match="-3"):
        detector(grid, tokens=["-3"])
    with pytest.raises(ValueError, match="7"):
        detector(grid, layers=[7])
    nothing = grid.assign(auroc=grid["auroc"] * np.nan)
    with pytest.raises(ValueError, match="None of these cells has a probe"):
        detector(nothing)


def test_activations_of_another_model_are_refused(whole, activations):
    with pytest.raises(ValueError, match="of model 'vast', and the detector is of 'tiny'"):
        whole(activations.assign_attrs(model="vast"))
    small = replace(whole, probes=None)
    with pytest.raises(ValueError, match="no probes"):
        small(activations)
    with pytest.raises(ValueError, match="lack -2 of"):
        whole(activations.isel(token=[0, 2]))
    with pytest.raises(TypeError, match="activations must be a Dataset"):
        whole([1])


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.update(format=2),
        lambda about: about.pop("ids"),
        lambda about: about.update(ids=["q0"]),
        lambda about: about.update(tokens=["last_q"]),
        lambda about: about.update(auroc="0.9"),
        lambda about: about.update(calibration=[1]),
        lambda about: about.update(by_layer={"layer": [0]}),
        lambda about: about.update(origin=[]),
    ],
)
def test_damaged_files_are_refused(saved, change):
    tensors, about = ((saved / name).read_bytes() for name in FILES)
    said = json.loads(about)
    change(said)
    with pytest.raises(ValueError, match=r"it is|its"):
        load_detector(tensors, json.dumps(said).encode())
    with pytest.raises(ValueError, match="it is"):
        load_detector(tensors[:-100], about)


# Simulations


def simulated(seeds, **options):
    split = "answer" if options.get("groups") else "random"
    return [detector(probe_grid(made(s, **options), split=split, **QUICK)) for s in seeds]


@pytest.mark.parametrize(
    ("n", "groups"), [(120, 0), (300, 0), (120, 24), (300, 32), (900, 97)], ids=str
)
def test_noise_is_covered_and_seldom_significant(n, groups):
    if n == 900 and not is_nightly():
        n, groups = 600, 64
    seeds = range(quarter(160 if n < 600 else 80))
    found = simulated(seeds, n=n, groups=groups)
    covered = [each.auroc_low <= 0.5 <= each.auroc_high for each in found]
    assert len(found) - sum(covered) <= most(len(found), 0.05)
    assert sum(each.p_value <= 0.05 for each in found) <= most(len(found), 0.05)
    assert abs(np.mean([each.auroc for each in found]) - 0.5) < 0.02


@pytest.mark.parametrize(
    ("where", "strength"),
    [([(1, 1)], 1.5), ([(1, j) for j in range(3)], 0.9), (EVERYWHERE, 0.5)],
    ids=["one cell", "a layer", "all cells"],
)
def test_a_planted_signal_is_found(where, strength):
    found = simulated(range(quarter(40)), n=300, where=where, strength=strength)
    assert all(each.p_value < 0.05 for each in found)
    assert np.mean([each.auroc_low > 0.5 for each in found]) == 1
    if len(where) == 9:
        best = [each.by_layer["auroc"].max() for each in found]
        assert np.mean([each.auroc for each in found]) > np.mean(best)
