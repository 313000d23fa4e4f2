import numpy as np
import pytest
import xarray as xr
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from probekit import Run, probe_grid
from probekit.probing.saved_probes import SavedProbe, load_probe

LAYERS, TOKENS = [3, 7], ["first_answer", "-8", "-1"]


@pytest.fixture(scope="module")
def activations():
    """80 answers, 12 features, a signal at layer 7; token -8 is in four answers only."""
    random = np.random.default_rng(5)
    wrong = random.random(80) < 0.4
    X = random.standard_normal((80, 2, 3, 12)).astype(np.float16)
    X[wrong, 1, :, :3] += 1
    X[4:, :, 1] = np.nan
    return xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={
            "layer": LAYERS,
            "token": TOKENS,
            "id": ("example", [f"q{i}" for i in range(80)]),
            "correct": ("example", ~wrong),
        },
        attrs={"site": "mlp_out", "model": "tiny", "revision": "0"},
    )


@pytest.fixture(scope="module")
def run(activations, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run"))
    options = {"n_permutations": 0, "n_jobs": 1, "progress": False}
    grids = {
        "random": probe_grid(activations, **options),
        "scaled": probe_grid(activations, standardize=True, **options),
    }
    stage = run.begin("probe", {})
    run.save_grids(grids)
    stage.finish([run.path / "grid.nc"], splits=list(grids))
    return run


@pytest.fixture(scope="module")
def cell(activations):
    """X and wrong of layer 7, token -1."""
    X = activations["activation"].sel(layer=7, token="-1").to_numpy()
    return X, ~activations["correct"].to_numpy()


def calibrated(run, reference, X, wrong, split="random"):
    """P(wrong) by a reference's margins and the calibration of the run's out-of-fold scores."""
    cell = run.grid(split).sel(layer=7, token="-1")
    odds = reference.decision_function(X) - logit(wrong.mean())
    return expit(float(cell["slope"]) * odds + float(cell["offset"]))


def test_it_equals_scikit_learns_probe_of_the_same_data(run, cell):
    X, wrong = cell
    reference = LogisticRegression(tol=1e-10, max_iter=10_000).fit(X.astype(float), wrong)
    probe = load_probe(run, layer=7, token="-1")
    expected = calibrated(run, reference, X.astype(float), wrong)
    np.testing.assert_allclose(probe.predict_proba(X)[:, 1], expected, atol=2e-3)
    ours, theirs = (p.decision_function(X.astype(float)) for p in (probe, reference))
    assert roc_auc_score(wrong, ours) == pytest.approx(roc_auc_score(wrong, theirs), abs=1e-3)
    agree = np.abs(expected - 0.5) > 0.01
    np.testing.assert_array_equal(probe.predict(X)[agree], (expected > 0.5)[agree])
    np.testing.assert_array_equal(probe.classes_, reference.classes_)
    assert probe.coef_.shape == reference.coef_.shape
    assert probe.intercept_.shape == reference.intercept_.shape
    assert probe.n_features_in_ == reference.n_features_in_


def test_scaling_is_worked_into_the_coefficients(run, cell):
    X, wrong = cell
    X = X.astype(float)
    scaled = X / X.std(0)
    reference = LogisticRegression(tol=1e-10, max_iter=10_000).fit(scaled, wrong)
    probe = load_probe(run, 7, "-1", split="scaled")
    expected = calibrated(run, reference, scaled, wrong, "scaled")
    np.testing.assert_allclose(probe.predict_proba(X)[:, 1], expected, atol=5e-3)


def test_it_is_a_scikit_learn_classifier(run, cell):
    X, wrong = cell
    probe = load_probe(run, 7, "-1")
    copy = clone(probe)
    assert set(copy.get_params()) == {"coef", "intercept", "source"}
    np.testing.assert_array_equal(copy.predict_proba(X), probe.predict_proba(X))
    pipeline = make_pipeline(FunctionTransformer(), probe).fit(X[:5], wrong[:5])
    np.testing.assert_array_equal(pipeline.predict(X), probe.predict(X))
    assert probe.score(X, wrong) > 0.7
    assert probe.source == "mlp_out activations at layer 7, token -1"


def test_far_from_the_boundary_probabilities_keep_their_digits():
    probe = SavedProbe(np.array([1.0]), 0.0)
    probability = probe.predict_proba([[40.0], [-800.0]])
    np.testing.assert_allclose(probability[0], [np.exp(-40), 1])
    np.testing.assert_array_equal(probability[1], [1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, "-1"), "no layer 5. It has: 3, 7"),
        ((7, "last_q"), "no token 'last_q'. It has: first_answer, -8, -1"),
        ((7, "-1", "answer"), "no split 'answer'. It has: random, scaled"),
        ((7, "-8"), "Layer 7, token -8 has no probe: too few wrong or too few right"),
    ],
)
def test_what_the_run_does_not_have_is_named(run, arguments, message):
    with pytest.raises(ValueError) as error:
        load_probe(run, *arguments)
    assert message in str(error.value)


def test_a_probe_that_is_not_linear_is_not_in_the_file(activations, run):
    other = Run(run.path.parent / "trees")
    stage = other.begin("probe", {})
    options = {"n_permutations": 0, "n_jobs": 1, "progress": False}
    tree = DecisionTreeClassifier(max_depth=2)
    other.save_grids({"random": probe_grid(activations, method=tree, **options)})
    stage.finish([other.path / "grid.nc"], splits=["random"])
    with pytest.raises(ValueError, match="only linear probes are kept"):
        load_probe(other, 7, "-1")


def test_a_run_is_asked_for(run, tmp_path):
    with pytest.raises(TypeError, match="run must be a Run"):
        load_probe(str(run.path), 7, "-1")
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        load_probe(Run(tmp_path), 7, "-1")


def test_activations_that_do_not_fit_are_refused(run, cell):
    X = np.array(cell[0])
    probe = load_probe(run, 7, "-1")
    with pytest.raises(ValueError, match="X has 11 features, but this probe of mlp_out"):
        probe.predict_proba(X[:, :11])
    with pytest.raises(ValueError, match=r"shape \(examples, features\), got the shape \(12,\)"):
        probe.predict(X[0])
    X[[4, 9]] = np.nan
    with pytest.raises(ValueError, match=r"2 of 80 examples .* first is example 4"):
        probe.decision_function(X)
    X[[4, 9]] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        probe.predict_proba(X)
