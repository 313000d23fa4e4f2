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
from scipy.special import logit
from sklearn.base import clone
from threadpoolctl import ThreadpoolController

from probekit.probing.auroc import (
    auroc,
    independent_pairs,
    measured,
    null_distance,
    standard_error,
)
from probekit.probing.calibration import Calibration
from probekit.run.activations import explained_damage


def read_cell(activations, layer, token, kept):
    """Activations of one cell, (example, feature), NaN where a response lacks the token."""
    # Whole chunks first, examples after: a store is slow at picking rows.
    cell = activations["activation"].isel(layer=layer, token=token)
    with explained_damage(activations):
        X = cell.transpose("example", "feature").to_numpy()[kept]
    # The solver centres in double precision and goes on in single, which holds no more than this.
    with np.errstate(invalid="ignore"):
        infinite = (np.abs(X) > np.finfo(np.float32).max).any(1)
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
        For each come log-odds (fit, example), without what each fit knows of the error rate of its
        training examples; the last fit's coef (feature,), intercept and that knowledge; and whether
        all converged.
        """
        if not isinstance(self.method, str):
            for labels, weight, _ in companies:
                margin, coef, intercept = self._one_by_one(X, labels, weight)
                prior = self.prior(labels, weight)
                yield margin - prior[:, None], coef, intercept, float(prior[-1]), True
            return
        import torch

        # A copy in torch's own memory, as sums may depend on where their terms lie in it.
        X, fitted = torch.tensor(X, device=self.device), None
        for labels, weight, C in companies:
            fitted = self.probes(X, labels, weight, C, begin=fitted)
            margin, coef = fitted.decision_function(X).cpu().numpy(), fitted.coef[-1].cpu().numpy()
            prior = self.prior(labels, weight)
            last = float(fitted.intercept[-1]), float(prior[-1])
            yield margin - prior[:, None], coef, *last, fitted.converged

    def probes(self, X, labels, weight, C, begin=None):
        """Linear probes of one company, by the solver; `begin` are earlier ones over the same X."""
        from probekit.probing import linear, logistic

        if self.method == "logistic":
            return logistic.fit_logistic(
                X, labels, weight, C, standardize=self.standardize, begin=begin
            )
        if self.method == "ridge":
            return linear.fit_ridge(X, labels, weight, alpha=1 / float(C[0]))
        if self.method == "discriminant":
            return linear.fit_discriminant(X, labels, weight)
        return linear.fit_mean_difference(X, labels, weight)

    def prior(self, labels, weight):
        """What each fit's margins hold of the error rate in its training folds, (fit,).

        It is lowest where the tested fold has most errors: across folds it ranks the wrong way
        round, and noise would have an AUROC of 0.41 to 0.47 where error rates differ by answer.
        """
        rate = (labels * weight).sum(1) / weight.sum(1)
        if self.method == "ridge":
            return 2 * rate - 1
        if self.method == "mean_difference" or not (
            isinstance(self.method, str) or hasattr(self.method, "predict_proba")
        ):
            return np.zeros(len(rate))
        return logit(rate)

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
            return margin, np.full(X.shape[1], np.nan), np.nan
        return margin, coef, float(np.ravel(classifier.intercept_)[0])


@one_thread()
def fit_cell(X, plan, fitter):
    """All fits of one cell, and what comes of them.

    X is (example, feature). The result has `log_odds` and `score` (example,), `without` (folds - 1,
    example), the log-odds of fits that lacked one more fold, and `null` (permutation, example).
    """
    present = ~np.isnan(X[:, 0])
    n, features = len(X), X.shape[1]
    n_permutations = len(plan.wrong) - 1
    cell = dict.fromkeys(_NUMBERS, np.nan) | {
        "log_odds": np.full(n, np.nan),
        "score": np.full(n, np.nan),
        "without": np.full((plan.n_others, n), np.nan, np.float32),
        "null": np.zeros((n_permutations, n), np.float32),
        "null_auroc": np.full(n_permutations, np.nan),
        "distance": np.full(1 + n_permutations, np.nan),
        "choosing": np.full(plan.n_folds, np.nan),
        "coef": np.full(features, np.nan, np.float32),
        "converged": True,
    }
    X, wrong, fold = X[present], plan.wrong[:, present], plan.fold[:, present]
    if X.dtype == np.float16:
        X = X.astype(np.float32)
    fits = plan.fits()
    labels = wrong[fits[:, 0]]
    training = plan.training[..., present]  # (labelling, fold, example)
    train = training[fits[:, 0], fits[:, 1]] & training[fits[:, 0], fits[:, 2]]
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
    found, coef, intercept, prior, cell["converged"] = next(fitted)
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
    log_odds = scores(np.where(fold < 0, -1, rows[labelling, fold, fold, C_of_fold]))
    # Without each example's own fold and one more, (folds - 1, example). Of two folds there is no
    # other that can be left out, and the row is of their plain fits.
    steps = np.arange(1, plan.n_folds)[:, None] if plan.n_folds > 2 else np.array([[0]])
    another = (fold[0] + steps[: plan.n_others]) % plan.n_folds
    without = scores(rows[0][fold[0], another, C_of_fold[0]])
    cell["null_auroc"], cell["choosing"] = auroc(log_odds[1:], wrong[1:]), choosing[0]
    cell["null"][:, present] = rounded(np.nan_to_num(log_odds[1:]))
    cell["log_odds"][present], cell["without"][:, present] = log_odds[0], rounded(without)
    groups = None if plan.groups is None else plan.groups[present]
    cell["distance"] = null_distance(log_odds, wrong, groups)
    variants = np.vstack([log_odds[:1], cell["without"][:, present]])
    cell["auroc"], units, cell["n_units"] = measured(variants, wrong[0], groups)
    cell["error"] = standard_error(units)
    _, tested, _ = measured(variants[:1], wrong[0], groups)
    cell["training_error"] = np.sqrt(max(cell["error"] ** 2 - standard_error(tested) ** 2, 0))
    scored = ~np.isnan(log_odds[0])
    cell["n_pairs"] = independent_pairs(scored, wrong[0], groups)
    if 0 < wrong[0][scored].sum() < scored.sum():
        calibration = Calibration.platt(log_odds[0][scored], wrong[0][scored])
        cell["slope"], cell["offset"] = calibration.slope, calibration.offset
        cell["score"][present] = calibration(log_odds[0])
    if len(plan.C) > 1:
        C = plan.C[np.bincount(chosen_C[0]).argmax()]
        _, coef, intercept, prior, _ = next(fitter(X, [(wrong[:1], everything, np.array([C]))]))
    cell["coef"], cell["intercept"], cell["prior"] = coef.astype(np.float32), intercept, prior
    return cell


# What a cell has one number of.
_NUMBERS = ("auroc", "error", "training_error", "n_units", "n_pairs", "slope", "offset")
_NUMBERS += ("intercept", "prior")


def rounded(values):
    """Values in single precision with 10 bits of mantissa, of which the last 13 are zero.

    That is exact to a thousandth, compresses well, and sums of many of them in double precision
    are the same in any order.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


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
