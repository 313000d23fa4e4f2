"""The fits of one cell, and what comes out of them.

Within a cell everything is one more fit over the same activations: the folds, the folds of the
permuted labels, the pairs of folds from which the best cell is chosen without looking at the data
it is then measured on. The solver advances them in two companies, those of the real labels apart,
so that these come out the same to the last bit whatever the null is.
"""

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import expit, logit
from sklearn.base import clone
from threadpoolctl import ThreadpoolController

from probekit.probing.auroc import auroc, training_variance
from probekit.run.activations import explained_damage


def read_cell(activations, layer, token, kept):
    """Activations of one cell, (example, feature), NaN where a response lacks the token."""
    # Whole chunks first, examples after: a store is slow at picking rows.
    cell = activations["activation"].isel(layer=layer, token=token)
    with explained_damage(activations):
        X = cell.transpose("example", "feature").to_numpy()[kept]
    if X.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # what single precision cannot hold is infinite below
            X = X.astype(np.float32)
    infinite = np.isinf(X).any(1)
    missing = np.isnan(X)
    partly = missing.any(1) & ~missing.all(1)
    if infinite.any() or partly.any():
        kind, which = ("infinite", infinite) if infinite.any() else ("NaN", partly)
        layer, token = activations["layer"].values[layer], activations["token"].values[token]
        raise ValueError(
            f"{which.sum()} examples have {kind} activations at layer {layer}, token {token}, the "
            f"first is example {kept[np.flatnonzero(which)[0]]}. Extract them again in float32."
        )
    return X


_lock, _computing = threading.Lock(), []


@contextmanager
def one_thread():
    """BLAS, OpenMP and torch with one thread each; as before once nobody is inside any more.

    Cells are shared out over the cores, where more threads would wait for each other. And sums are
    the same to the last bit on a machine of any number of cores.
    """
    import torch

    with _lock:
        # Each thread of a process has its own number, so each that comes in sets it.
        _computing.append((torch.get_num_threads(), _pools().limit(limits=1)))
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            threads, limits = _computing.pop()
            if not _computing:  # those found by the first that came in
                limits.restore_original_limits()
                torch.set_num_threads(threads)


@cache
def _pools():
    return ThreadpoolController()


@dataclass(frozen=True)
class Fitter:
    """How probes are fitted: many at once by the solver, or one by one by scikit-learn."""

    method: object
    standardize: bool
    device: str

    def __call__(self, X, companies):
        """Fit companies of probes, each without regard to those that come after it.

        Probes of one company depend on each other, within the solver's tolerance: they advance
        together, and are rows of the same products.

        X is (example, feature), and a company is labels and weight (fit, example), and C (fit,).
        For each come margins (fit, example), the last fit's coef (feature,) and intercept, and
        whether all converged.
        """
        if not isinstance(self.method, str):
            for labels, weight, _ in companies:
                yield self._one_by_one(X, labels, weight)
            return
        import torch

        from probekit.probing import linear, logistic

        # A copy in torch's own memory, as sums may depend on where their terms lie in it.
        X, fitted = torch.tensor(X, device=self.device), None
        for labels, weight, C in companies:
            if self.method == "logistic":
                fitted = logistic.fit_logistic(
                    X, labels, weight, C, standardize=self.standardize, begin=fitted
                )
            elif self.method == "ridge":
                fitted = linear.fit_ridge(X, labels, weight, alpha=1 / float(C[0]))
            elif self.method == "discriminant":
                fitted = linear.fit_discriminant(X, labels, weight)
            else:
                fitted = linear.fit_mean_difference(X, labels, weight)
            margin, coef = fitted.decision_function(X).cpu().numpy(), fitted.coef[-1].cpu().numpy()
            yield margin, coef, float(fitted.intercept[-1]), fitted.converged

    def _one_by_one(self, X, labels, weight):
        margin = np.empty(labels.shape)
        for row, (label, used) in enumerate(zip(labels, weight > 0, strict=True)):
            classifier = clone(self.method).fit(X[used], label[used])
            if hasattr(classifier, "decision_function"):
                margin[row] = classifier.decision_function(X)
            else:
                margin[row] = logit(np.clip(classifier.predict_proba(X)[:, 1], 1e-7, 1 - 1e-7))
        coef = np.ravel(getattr(classifier, "coef_", ()))
        if len(coef) != X.shape[1]:
            return margin, np.full(X.shape[1], np.nan), np.nan, True
        return margin, coef, float(np.ravel(classifier.intercept_)[0]), True


@one_thread()
def fit_cell(X, plan, fitter):
    """All fits of one cell."""
    present = ~np.isnan(X[:, 0])
    n, features = len(X), X.shape[1]
    cell = {
        "score": np.full(n, np.nan),
        "auroc": np.full(len(plan.wrong), np.nan),
        "choosing": np.full(plan.n_folds, np.nan),
        "training_variance": np.nan,
        "coef": np.full(features, np.nan, np.float32),
        "intercept": np.float32(np.nan),
        "converged": True,
    }
    X, wrong, fold = X[present].astype(np.float32), plan.wrong[:, present], plan.fold[:, present]
    fits = plan.fits()
    labels = wrong[fits[:, 0]]
    test = fold[fits[:, 0]]
    train = (test != fits[:, 1, None]) & (test != fits[:, 2, None])
    possible = (labels & train).any(1) & (~labels & train).any(1)  # both classes to learn from
    real = fits[:, 0] == 0
    if not possible[real].all():
        return cell
    # A permutation that leaves a fold of this cell one class only has no area here.
    null = ~real & ~np.isin(fits[:, 0], fits[~possible, 0])
    weight, C = train.astype(np.float32), plan.C[fits[:, 3]]
    everything = np.ones((1, len(X)), np.float32)
    with_all = np.vstack([weight[real], everything])
    companies = [(np.vstack([labels[real], wrong[:1]]), with_all, np.append(C[real], plan.C[0]))]
    if null.any():
        companies.append((labels[null], weight[null], C[null]))
    fitted = fitter(X, companies)
    found, coef, intercept, cell["converged"] = next(fitted)
    margin = np.full(labels.shape, np.nan, found.dtype)
    margin[real] = found[:-1]
    for found, *_ in fitted:
        margin[null] = found
    rows = plan.rows(fits)

    def scores(rows):
        # In single precision all P(error) above a log-odds of 17 are 1, and tie.
        return np.where(rows < 0, np.nan, margin[rows, np.arange(len(X))].astype(float))

    choosing, chosen_C = _choices(rows, scores, wrong, fold)
    labelling = np.arange(len(wrong))[:, None]
    C_of_fold = np.take_along_axis(chosen_C, np.maximum(fold, 0), 1)
    score = scores(np.where(fold < 0, -1, rows[labelling, fold, fold, C_of_fold]))
    cell["auroc"], cell["choosing"] = auroc(score, wrong), choosing[0]
    cell["score"][present] = expit(score[0])
    if plan.n_folds == 1:
        cell["training_variance"] = 0.0  # trained and tested on different examples
    else:
        groups = None if plan.groups is None else plan.groups[present]
        # Without each example's own fold and one more, (folds - 1, example). Of two folds there is
        # no other that can be left out, and the row is of their plain fits.
        steps = np.arange(1, plan.n_folds)[:, None] if plan.n_folds > 2 else np.array([[0]])
        another = (fold[0] + steps) % plan.n_folds
        without = scores(rows[0][fold[0], another, C_of_fold[0]])
        cell["training_variance"] = training_variance(without, wrong[0], groups)
    if len(plan.C) > 1:
        C = plan.C[np.bincount(chosen_C[0]).argmax()]
        _, coef, intercept, _ = next(fitter(X, [(wrong[:1], everything, np.array([C]))]))
    cell["coef"], cell["intercept"] = coef.astype(np.float32), np.float32(intercept)
    return cell


def _choices(rows, scores, wrong, fold):
    """Best area that can be had without each fold's data, and the number of the C that gives it.

    `rows` (labelling, fold, fold, C), `wrong, fold` (labelling, example); gives `area` (labelling,
    fold), `chosen` (labelling, fold).
    """
    n_folds = rows.shape[1]
    pairs = np.where(np.eye(n_folds, dtype=bool)[:, :, None], -1, rows)
    # Few labellings have pairs, or none, and there is nothing to rank in the others.
    paired = np.flatnonzero((pairs >= 0).any((1, 2, 3)))
    areas = np.full((len(wrong), n_folds, rows.shape[3]), np.nan)
    for k, c in np.ndindex(areas.shape[1:]):
        without = pairs[paired[:, None], fold[paired], k, c]
        areas[paired, k, c] = auroc(scores(without), wrong[paired])
    areas = np.where(np.isnan(areas), -np.inf, areas)
    best = areas.max(-1)
    return np.where(np.isinf(best), np.nan, best), areas.argmax(-1)
