import numpy as np
import pytest
import torch
from nightly import quarter
from scipy.special import expit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probekit.probing.linear import fit_discriminant, fit_mean_difference, fit_ridge
from probekit.probing.logistic import fit_logistic

TIGHT = {"tol": 1e-10, "dtype": torch.float64, "max_iter": 2000}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_cell(rng, n=300, d=40, signal=1.0, scale=None):
    """Correlated features around a large mean, and noisy labels of a planted direction."""
    mixing = rng.normal(size=(d, d)) * np.logspace(0, -2, d)
    X = rng.normal(size=(n, d)) @ mixing + 3 * rng.normal(size=d)
    if scale is not None:
        X = X * scale
    margin = X @ (signal * rng.normal(size=d))
    y = rng.random(n) < 1 / (1 + np.exp(-(margin - margin.mean()) / margin.std()))
    return X, y


def make_folds(X, y, folds=5):
    train = np.ones((folds, len(y)), dtype=bool)
    for k, (_, test) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=0).split(X, y)):
        train[k, test] = False
    return train


def reference(X, y, C=1.0, sample_weight=None):
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=500)
    return model.fit(np.asarray(X, dtype=np.float64), y, sample_weight=sample_weight)


def objective(coef, intercept, X, y, weight, C):
    """scikit-learn's objective in float64, written out apart from the solver's own."""
    coef, intercept = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    margin = coef @ np.asarray(X, np.float64).T + intercept[:, None]
    loss = np.logaddexp(0, np.where(y, -margin, margin))
    return 0.5 * (coef**2).sum(1) + C * (weight * loss).sum(1)


def out_of_fold(probes, X, train):
    score = np.asarray(probes.decision_function(X))
    return np.where(~train, score, 0).sum(0)


def reference_out_of_fold(X, y, train, C=1.0):
    score, objectives = np.empty(len(y)), []
    for rows in train:
        model = reference(X[rows], y[rows], C)
        score[~rows] = model.decision_function(np.asarray(X[~rows], np.float64))
        objectives.append(objective(model.coef_, model.intercept_, X, y, rows, C)[0])
    return score, np.array(objectives)


@pytest.mark.parametrize(("n", "d"), [(300, 40), (60, 200)])
def test_coefficients_are_those_of_scikit_learn(n, d):
    X, y = make_cell(np.random.default_rng(0), n, d)
    train = make_folds(X, y)
    probes = fit_logistic(X, y, train, **TIGHT)
    assert probes.converged
    for fold, rows in enumerate(train):
        model = reference(X[rows], y[rows])
        np.testing.assert_allclose(probes.coef[fold], model.coef_[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            probes.intercept[fold], model.intercept_[0], rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(("n", "d"), [(300, 40), (60, 200)])
def test_gradient_is_zero_at_the_solution(n, d):
    X, y = make_cell(np.random.default_rng(1), n, d)
    C = 0.7
    probes = fit_logistic(X, y, C=C, **TIGHT)
    coef, intercept = np.asarray(probes.coef[0]), float(probes.intercept[0])
    residual = C * (1 / (1 + np.exp(-(X @ coef + intercept))) - y)
    scale = C * (np.abs(X).sum(0))
    assert np.abs(residual.sum()) < 1e-5 * C * n
    assert (np.abs(coef + residual @ X) < 1e-5 * scale).all()


@pytest.mark.parametrize("n, d", [(1000, 100), (400, 4096)])
def test_agreement_on_synthetic_cells(n, d):
    rng = np.random.default_rng(2)
    cells = 6 if d < 1000 else quarter(4)
    differences, excess = [], []
    for _ in range(cells):
        if d < 1000:
            X, y = make_cell(rng, n, d)
        else:
            X = rng.normal(size=(n, d))
            y = rng.random(n) < 1 / (1 + np.exp(-X[:, :20].sum(1)))
        X = X.astype(np.float32)
        train = make_folds(X, y)
        if d < 1000:
            score, objectives = reference_out_of_fold(X, y, train)
        else:
            score, objectives = reference_out_of_fold_in_span(X, y, train)
        expected = roc_auc_score(y, score)
        default = fit_logistic(X, y, train)
        tight = fit_logistic(X, y, train, tol=1e-7)
        assert default.converged
        assert tight.converged
        differences.append(abs(roc_auc_score(y, out_of_fold(default, X, train)) - expected))
        reached = objective(tight.coef, tight.intercept, X, y, train, 1.0)
        excess.append((reached / objectives - 1).max())
    assert max(differences) <= 0.005
    assert np.median(differences) <= 0.001
    assert max(excess) <= 1e-4


def reference_out_of_fold_in_span(X, y, train):
    """As reference_out_of_fold, over the principal components: d=4096 would take minutes."""
    X = X.astype(np.float64)
    mean = X.mean(0)
    left, singular, _ = np.linalg.svd(X - mean, full_matrices=False)
    components = left * singular
    return reference_out_of_fold(components, y, train)


def test_badly_scaled_features_in_float32():
    rng = np.random.default_rng(3)
    X, y = make_cell(rng, 400, 60, scale=10.0 ** rng.integers(-3, 4, size=60))
    X = X.astype(np.float32)
    train = make_folds(X, y)
    score, objectives = reference_out_of_fold(X, y, train)
    probes = fit_logistic(X, y, train, tol=1e-6)
    assert probes.converged
    reached = objective(probes.coef, probes.intercept, X, y, train, 1.0)
    assert (reached / objectives - 1).max() < 1e-4
    assert roc_auc_score(y, out_of_fold(probes, X, train)) == pytest.approx(
        roc_auc_score(y, score), abs=0.005
    )


def test_weights_are_repeated_rows():
    rng = np.random.default_rng(4)
    X, y = make_cell(rng)
    counts = rng.integers(0, 4, size=(3, len(y)))
    probes = fit_logistic(X, y, counts, **TIGHT)
    for fit, count in enumerate(counts):
        repeated = fit_logistic(np.repeat(X, count, axis=0), np.repeat(y, count), **TIGHT)
        np.testing.assert_allclose(probes.coef[fit], repeated.coef[0], atol=1e-4)
        model = reference(X, y, sample_weight=count)
        np.testing.assert_allclose(probes.coef[fit], model.coef_[0], rtol=1e-3, atol=1e-4)


def test_labels_and_penalties_of_each_fit():
    rng = np.random.default_rng(5)
    X, y = make_cell(rng)
    labels = np.stack([y, *(rng.permutation(y) for _ in range(6))])
    C = 10.0 ** np.arange(-4, 3)
    probes = fit_logistic(X, labels, C=C, **TIGHT)
    assert probes.converged
    for fit in range(len(labels)):
        model = reference(X, labels[fit], C[fit])
        np.testing.assert_allclose(probes.coef[fit], model.coef_[0], rtol=2e-3, atol=2e-4)


def test_rows_do_not_influence_each_other():
    rng = np.random.default_rng(6)
    X, y = make_cell(rng)
    train = make_folds(X, y)
    labels = np.concatenate([np.tile(y, (5, 1)), [rng.permutation(y) for _ in range(20)]])
    many = fit_logistic(X, labels, np.tile(train, (5, 1)), **TIGHT)
    few = fit_logistic(X, y, train, **TIGHT)
    np.testing.assert_allclose(many.coef[:5], few.coef, atol=1e-4)


def test_wide_and_tall_forms_agree():
    rng = np.random.default_rng(7)
    X, y = make_cell(rng, 80, 79)
    # Columns of zeros change nothing but make the matrix wide.
    wide = np.concatenate([X, np.zeros((80, 10))], axis=1)
    tall_probes, wide_probes = fit_logistic(X, y, **TIGHT), fit_logistic(wide, y, **TIGHT)
    np.testing.assert_allclose(wide_probes.coef[:, :79], tall_probes.coef, atol=1e-4)
    np.testing.assert_allclose(wide_probes.coef[:, 79:], 0, atol=1e-8)
    np.testing.assert_allclose(wide_probes.intercept, tall_probes.intercept, atol=1e-3)


@pytest.mark.parametrize(("n", "d"), [(300, 40), (60, 100)])
def test_standardize_is_a_scaler_inside_the_fold(n, d):
    rng = np.random.default_rng(8)
    X, y = make_cell(rng, n, d, scale=10.0 ** rng.integers(-2, 3, size=d))
    train = make_folds(X, y)
    X[:, 3] = 7.0
    X[train[0], 5] = 1.0
    probes = fit_logistic(X, y, train, standardize=True, **TIGHT)
    assert probes.converged
    for fold, rows in enumerate(train):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(solver="newton-cholesky", tol=1e-12)
        ).fit(X[rows], y[rows])
        expected = model.decision_function(X)
        if fold == 0:
            expected = expected - model[-1].coef_[0, 5] * (X[:, 5] - 1)
        np.testing.assert_allclose(probes.decision_function(X)[fold], expected, atol=5e-3)


def test_constant_features_get_no_weight():
    X, y = make_cell(np.random.default_rng(9))
    with_constant = np.concatenate([X, np.full((len(X), 2), 5.0)], axis=1)
    probes = fit_logistic(with_constant, y, **TIGHT)
    np.testing.assert_allclose(probes.coef[:, -2:], 0, atol=1e-8)
    np.testing.assert_allclose(probes.coef[:, :-2], fit_logistic(X, y, **TIGHT).coef, atol=1e-4)
    flat = fit_logistic(np.ones((len(X), 3)), y)
    assert flat.converged
    np.testing.assert_allclose(flat.coef, 0)
    assert float(flat.intercept[0]) == pytest.approx(np.log(y.mean() / (1 - y.mean())), abs=1e-4)


def test_separable_data_with_a_weak_penalty():
    rng = np.random.default_rng(10)
    X = rng.normal(size=(200, 20))
    y = X[:, 0] > 0
    probes = fit_logistic(X, y, C=1e4, tol=1e-8, dtype=torch.float64, max_iter=3000)
    assert probes.converged
    model = reference(X, y, 1e4)
    best = objective(model.coef_, model.intercept_, X, y, np.ones(200), 1e4)
    reached = objective(probes.coef, probes.intercept, X, y, np.ones(200), 1e4)
    assert reached / best - 1 < 1e-4


def test_says_when_it_did_not_converge():
    X, y = make_cell(np.random.default_rng(11))
    labels = np.stack([y, y])
    probes = fit_logistic(X, labels, C=[1.0, 1.0], tol=1e-9, max_iter=2)
    assert not probes.converged
    assert torch.isfinite(probes.coef).all()


def hard_cell(kind, n=400, d=60):
    """Normal features with a weak signal, and what single precision finds hard."""
    rng = np.random.default_rng(20)
    Z = rng.normal(size=(n, d))
    y = rng.random(n) < 1 / (1 + np.exp(-Z @ rng.normal(size=d) / np.sqrt(d)))
    if kind == "small spread around 100":
        return 100 + 1e-4 * Z, y
    if kind == "tiny":
        return 1e-6 * Z, y
    if kind == "scales from 1e-6 to 1e6":
        return Z * 10.0 ** rng.integers(-6, 7, size=d), y
    Z[7] *= 3e4
    if kind == "several outliers":
        Z[50:60] *= 100
    return Z, y


HARD = [
    "small spread around 100",
    "tiny",
    "scales from 1e-6 to 1e6",
    "outlier",
    "several outliers",
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", HARD)
def test_hard_features_in_single_precision(kind, dtype):
    X, y = hard_cell(kind)
    X = X.astype(dtype)
    train = make_folds(X, y)
    probes = fit_logistic(X, y, train)
    assert probes.converged
    assert probes.coef.dtype == torch.float32
    shifted = X.astype(np.float64) - 100 * (kind == "small spread around 100")
    margin = probes.decision_function(X).numpy()
    saved = probes.coef.double().numpy() @ X.T.astype(float) + probes.intercept.numpy()[:, None]
    for fold, rows in enumerate(train):
        best = newton(shifted[rows], y[rows])
        expected = shifted @ best[:-1] + best[-1]
        # One of ten is left out: an outlier's margin is found as well as single precision can.
        spread = np.quantile(expected, 0.9) - np.quantile(expected, 0.1)
        for found in (margin[fold], saved[fold]):
            assert np.quantile(abs(found - expected), 0.9) < 0.02 * spread
    assert roc_auc_score(y, out_of_fold(probes, X, train)) == pytest.approx(
        roc_auc_score(y, newton_out_of_fold(shifted, y, train)), abs=0.002
    )


def newton(X, y):
    """Optimum in double precision, (feature + 1,): scikit-learn stops too early where X is tiny."""
    X = np.column_stack([X, np.ones(len(X))])
    penalty = np.append(np.ones(X.shape[1] - 1), 0)

    def value(w):
        return (penalty * w**2).sum() / 2 + np.logaddexp(0, np.where(y, -1, 1) * (X @ w)).sum()

    w = np.append(np.zeros(X.shape[1] - 1), np.log(y.mean() / (1 - y.mean())))
    for _ in range(200):
        probability = expit(X @ w)
        gradient = X.T @ (probability - y) + penalty * w
        hessian = (X.T * (probability * (1 - probability))) @ X + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        if gradient @ step < 1e-14:
            return w
        while value(w - step) > value(w) - 1e-4 * gradient @ step and abs(step).max() > 1e-15:
            step, gradient = step / 2, gradient / 2
        w = w - step
    raise AssertionError("the reference did not converge")


def newton_out_of_fold(X, y, train):
    score = np.empty(len(y))
    for rows in train:
        w = newton(X[rows], y[rows])
        score[~rows] = X[~rows] @ w[:-1] + w[-1]
    return score


def test_few_examples_with_an_outlier():
    X, y = hard_cell("outlier", 60, 100)
    train = make_folds(X, y)
    probes = fit_logistic(X.astype(np.float32), y, train)
    assert probes.converged
    for fold, rows in enumerate(train):
        best = newton(X[rows], y[rows])
        expected = X @ best[:-1] + best[-1]
        found = probes.decision_function(X)[fold].numpy()
        assert np.quantile(abs(found - expected), 0.9) < 0.05 * expected[rows].std()


@pytest.mark.parametrize("kind", ["ordinary", *HARD])
def test_says_when_iterations_were_too_few(kind):
    X, y = make_cell(np.random.default_rng(21)) if kind == "ordinary" else hard_cell(kind)
    # Of tiny features a single step finds the optimum.
    few = 0 if kind in ("tiny", "small spread around 100") else 1
    assert not fit_logistic(X, y, max_iter=few).converged


def test_further_fits_in_double_precision_are_as_those_alone():
    X, y = hard_cell("several outliers", 900, 200)
    rng = np.random.default_rng(22)
    labels = np.stack([rng.permutation(y) for _ in range(3)])
    first = fit_logistic(X, y)
    more, alone = fit_logistic(X, labels, begin=first), fit_logistic(X, labels)
    assert first.begun.again, "all was done in single precision, so this tests nothing"
    assert first.converged
    assert more.converged
    spread = alone.decision_function(X).std(1)
    error = (more.decision_function(X) - alone.decision_function(X)).abs().quantile(0.9, 1)
    assert (error < 0.03 * spread).all()


@pytest.mark.parametrize("fit", [fit_mean_difference, fit_discriminant, fit_ridge])
def test_closed_forms_around_a_large_mean(fit):
    rng = np.random.default_rng(23)
    Z = rng.normal(size=(300, 20))
    y = rng.random(300) < expit(Z @ rng.normal(size=20) / 3)
    X = (100 + 1e-4 * Z).astype(np.float32)
    expected = fit(X.astype(np.float64) - 100, y).decision_function(X.astype(np.float64) - 100)
    probes = fit(X, y)
    assert probes.coef.dtype == torch.float32
    spread = float(expected.std())
    np.testing.assert_allclose(probes.decision_function(X), expected, atol=1e-3 * spread)
    saved = probes.coef.double() @ torch.from_numpy(X).double().T + probes.intercept[:, None]
    np.testing.assert_allclose(saved, expected, atol=1e-3 * spread)


@pytest.mark.parametrize(("n", "d"), [(150, 40), (30, 100)])
def test_ridge_of_repeated_large_examples(n, d):
    rng = np.random.default_rng(24)
    X, y = make_cell(rng, n, d)
    X, y = np.repeat(X, 2, axis=0).astype(np.float32) * 10_000, np.repeat(y, 2)
    X[:, -1] = X[:, 0]
    probes = fit_ridge(X, y)
    model = RidgeClassifier(solver="svd").fit(X.astype(np.float64), y)
    expected = model.decision_function(X.astype(np.float64))
    np.testing.assert_allclose(probes.decision_function(X)[0], expected, atol=2e-3 * expected.std())


def test_float16_and_tensors_are_taken():
    X, y = make_cell(np.random.default_rng(12))
    half = torch.as_tensor(X, dtype=torch.float16)
    probes = fit_logistic(half, torch.as_tensor(y))
    again = fit_logistic(half.double().numpy(), y)
    assert probes.coef.dtype == torch.float32
    assert probes.intercept.dtype == torch.float64
    np.testing.assert_allclose(probes.coef, again.coef, atol=2e-3)


def test_mean_difference():
    rng = np.random.default_rng(15)
    X, y = make_cell(rng)
    count = rng.integers(0, 3, size=len(y))
    probes = fit_mean_difference(X, y, count)
    repeated, labels = np.repeat(X, count, axis=0), np.repeat(y, count)
    means = repeated[~labels].mean(0), repeated[labels].mean(0)
    np.testing.assert_allclose(probes.coef[0], means[1] - means[0])
    margin = np.asarray(probes.decision_function(np.stack(means)))[0]
    assert margin[0] == pytest.approx(-margin[1])


def test_discriminant_is_scikit_learns():
    rng = np.random.default_rng(16)
    X, y = make_cell(rng)
    count = rng.integers(0, 3, size=len(y))
    probes = fit_discriminant(X, np.stack([y, rng.permutation(y)]), count)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model.fit(np.repeat(X, count, axis=0), np.repeat(y, count))
    np.testing.assert_allclose(probes.coef[0], model.coef_[0], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(probes.intercept[0], model.intercept_[0], rtol=1e-6)


def test_discriminant_of_few_examples():
    X, y = make_cell(np.random.default_rng(17), 30, 50)
    assert torch.isfinite(fit_discriminant(X, y).coef).all()
    with pytest.raises(ValueError, match=r"singular covariance.*another method"):
        fit_discriminant(np.ones_like(X), y)


@pytest.mark.parametrize(("n", "d"), [(300, 40), (60, 100)])
def test_ridge_is_scikit_learns(n, d):
    rng = np.random.default_rng(18)
    X, y = make_cell(rng, n, d)
    train = make_folds(X, y)
    labels = np.concatenate([np.tile(y, (5, 1)), np.tile(rng.permutation(y), (5, 1))])
    probes = fit_ridge(X, labels, np.tile(train, (2, 1)), alpha=2.0)
    for fit in range(10):
        rows = train[fit % 5]
        model = RidgeClassifier(alpha=2.0).fit(X[rows], labels[fit, rows])
        np.testing.assert_allclose(probes.coef[fit], model.coef_.ravel(), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(probes.intercept[fit], np.ravel(model.intercept_)[0], rtol=1e-5)
