"""The fits of one cell: which there are, and what comes out of them.

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
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split
from threadpoolctl import ThreadpoolController

from probekit.mending import explained_damage
from probekit.roc import auroc, training_variance

_ALIKE = 8  # groups of about the same size, between which labels are permuted

_NO_FOLD = -1  # marks the examples that are trained on only, in the published protocol


@dataclass(frozen=True)
class Plan:
    """Which fits every cell needs: labellings, and what each fit is trained and tested on.

    The first labelling is the real one; the others are its permutations. Labels and folds are the
    same in all cells, so that the cells of a permutation depend on each other as the real ones do.
    """

    wrong: np.ndarray  # (labelling, example)
    fold: np.ndarray  # (labelling, example)
    n_folds: int
    C: np.ndarray
    groups: np.ndarray | None  # (example,)
    choose: bool  # whether pairs of folds are left out too, to choose a cell or C honestly

    @classmethod
    def make(cls, wrong, groups, protocol, folds, C, seed, n_permutations):
        """Divide examples into folds, and permute their labels.

        Parameters
        ----------
        wrong : array of bool, (example,)
        groups : array of int, (example,), or None
            What the folds keep together.
        protocol, folds, seed, n_permutations
            As for `probe_grid`.
        C : array of float

        Returns
        -------
        Plan

        Raises
        ------
        ValueError
            If there are too few examples of a class, or too few groups.
        """
        published = protocol == "published"
        _check_counts(wrong, groups, 2 if published else folds)
        random = np.random.default_rng(seed)
        make_folds = _one_split if published else _folds
        labellings, fold = [wrong], [make_folds(wrong, groups, folds, seed)]
        for _ in range(100 * n_permutations):
            if len(labellings) > n_permutations:
                break
            labels = _permuted(wrong, groups, random)
            try:
                _check_counts(labels, groups, 2 if published else folds)
                fold.append(make_folds(labels, groups, folds, seed))
            except ValueError:
                continue  # labels that can't be divided into folds would have been refused
            labellings.append(labels)
        n_folds = 1 if published else folds
        if len(C) > 1 and n_folds < 3:
            given = 'protocol="published"' if published else f"folds={folds}"
            raise ValueError(
                f"{given} takes one value of C, got {len(C)}: to choose one inside the training "
                "folds takes at least 3 folds."
            )
        return cls(np.array(labellings), np.array(fold), n_folds, C, groups, choose=n_folds > 2)

    def fits(self):
        """Per fit: labelling, folds left out (one, or two to choose by), and number of C.

        Those of the real labels come first, and are the same whatever the others are.
        """
        listed = []
        for labelling in range(len(self.wrong)):
            left_out = [(k, k) for k in range(self.n_folds)]
            if self.choose and (labelling == 0 or len(self.C) > 1):
                left_out += [(j, k) for k in range(self.n_folds) for j in range(k)]
            listed += [(labelling, *pair, c) for pair in left_out for c in range(len(self.C))]
        return np.array(listed)

    def rows(self):
        """Where each fit is in `fits`: by labelling, folds left out in either order, and C.

        Returns
        -------
        array of int, (labelling, fold, fold, C)
            -1 where there is no such fit.
        """
        rows = np.full((len(self.wrong), self.n_folds, self.n_folds, len(self.C)), -1)
        labelling, j, k, c = self.fits().T
        rows[labelling, j, k, c] = rows[labelling, k, j, c] = np.arange(len(labelling))
        return rows


def _check_counts(wrong, groups, folds):
    """Refuse what can't be divided into folds, and say what to do."""
    advice = "Use fewer folds, more questions, or another question file."
    for name, count in (("wrong", wrong.sum()), ("right", (~wrong).sum())):
        if count < folds:
            raise ValueError(
                f"{folds} folds need at least {folds} {name} answers with an exact answer, got "
                f"{count} of {len(wrong)}. {advice}"
            )
    if groups is not None and len(np.unique(groups)) < folds:
        raise ValueError(
            f"{folds} folds need at least {folds} different groups of answers, got "
            f"{len(np.unique(groups))}. {advice}"
        )


def _folds(wrong, groups, folds, seed):
    if groups is None:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.empty(len(wrong), dtype=int)
    for k, (_, test) in enumerate(splitter.split(wrong, wrong, groups)):
        fold[test] = k
    for k in range(folds):
        if len(np.unique(wrong[fold != k])) < 2:
            raise ValueError(
                f"Without fold {k}, all answers are of one class: one group holds nearly all of "
                "the others. Use fewer folds or a random split."
            )
    return fold


def _one_split(wrong, groups, folds, seed):
    """80 % to train on and 20 % to test on; with groups, the first of five grouped folds."""
    fold = np.full(len(wrong), _NO_FOLD)
    if groups is None:
        everything = np.arange(len(wrong))
        test = train_test_split(everything, test_size=0.2, stratify=wrong, random_state=seed)[1]
    else:
        test = np.flatnonzero(_folds(wrong, groups, 5, seed) == 0)
    fold[test] = 0
    return fold


def _permuted(wrong, groups, random):
    """Labels that have nothing to do with the activations but are as alike within groups.

    Each group gets the labels of another of about its size, some of them twice if that is smaller:
    groups that are mostly right or mostly wrong stay so, which widens the null as it should. From
    a group of any size, a large one would often get the single label of a small one, which makes
    the null too wide.
    """
    if groups is None:
        return random.permutation(wrong)
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    members.sort(key=len)
    permuted = np.empty_like(wrong)
    for alike in np.array_split(np.arange(len(members)), max(1, len(members) // _ALIKE)):
        for receiver, donor in zip(alike, random.permutation(alike), strict=True):
            labels, size = random.permutation(wrong[members[donor]]), len(members[receiver])
            permuted[members[receiver]] = np.resize(labels, size)
    return permuted


def read_cell(activations, layer, token, kept):
    """Activations of one cell, (example, feature), NaN where a response lacks the token."""
    # Whole chunks first, examples after: a store is slow at picking rows.
    cell = activations["activation"].isel(layer=layer, token=token)
    with explained_damage(activations):
        X = cell.transpose("example", "feature").to_numpy()[kept]
    infinite = np.isinf(X).any(1)
    missing = np.isnan(X)
    partly = missing.any(1) & ~missing.all(1)
    if infinite.any() or partly.any():
        kind, which = ("infinite", infinite) if infinite.any() else ("NaN", partly)
        place = f"layer {layer}, token {activations['token'].to_numpy()[token]!s}"
        raise ValueError(
            f"{which.sum()} examples have {kind} activations at {place}, the first is example "
            f"{kept[np.flatnonzero(which)[0]]}. Extract them again in float32."
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

        Parameters
        ----------
        X : array of float32, (example, feature)
        companies : list of (labels, weight, C)
            Each with a row for every fit; labels and weights are over the examples.

        Yields
        ------
        margin : array, (fit, example)
        coef : array, (feature,), and intercept: float
            Of the company's last fit; NaN if it is not linear.
        converged : bool
        """
        if not isinstance(self.method, str):
            for labels, weight, _ in companies:
                yield self._one_by_one(X, labels, weight)
            return
        import torch

        from probekit import probes as solver

        # A copy in torch's own memory, as sums may depend on where their terms lie in it.
        X = torch.tensor(X, device=self.device)
        options = {"device": self.device}
        for labels, weight, C in companies:
            if self.method == "logistic":
                options |= {"C": C, "standardize": self.standardize}
            elif self.method == "ridge":
                options["alpha"] = 1 / float(C[0])
            fitted = getattr(solver, f"fit_{self.method}")(X, labels, weight, **options)
            if self.method == "logistic":
                options["begin"] = fitted
            margin = fitted.decision_function(X).cpu().numpy()
            coef, intercept = fitted.coef[-1].cpu().numpy(), float(fitted.intercept[-1])
            yield margin, coef, intercept, bool(fitted.converged.all())

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
    """All fits of one cell.

    Returns
    -------
    dict
        `score` (example,), `auroc` (labelling,), `choosing` (fold,): the area without a fold's
        data, `training_variance`, `coef`, `intercept`, `converged`. Only further elements of
        `auroc` depend on the permutations.
    """
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
    possible = _both_classes(labels, train)
    real = fits[:, 0] == 0
    if not possible[real].all():
        return cell
    # A permutation that leaves a fold of this cell one class only has no area here.
    null = ~real & ~np.isin(fits[:, 0], fits[~possible, 0])
    weight, C = train.astype(np.float32), plan.C[fits[:, 3]]
    everything = np.ones((1, len(X)), np.float32)
    companies = [
        (
            np.vstack([labels[real], wrong[:1]]),
            np.vstack([weight[real], everything]),
            np.append(C[real], plan.C[0]),
        )
    ]
    if null.any():
        companies.append((labels[null], weight[null], C[null]))
    fitted = fitter(X, companies)
    found, coef, intercept, cell["converged"] = next(fitted)
    margin = np.full(labels.shape, np.nan, found.dtype)
    margin[real] = found[:-1]
    for found, *_ in fitted:
        margin[null] = found
    rows = plan.rows()

    def scores(rows):
        # In single precision all P(error) above a log-odds of 17 are 1, and tie.
        return np.where(rows < 0, np.nan, margin[rows, np.arange(len(X))].astype(float))

    choosing, chosen_C = _choices(rows, scores, wrong, fold)
    labelling = np.arange(len(wrong))[:, None]
    C_of_fold = np.take_along_axis(chosen_C, np.maximum(fold, 0), 1)
    score = scores(np.where(fold < 0, -1, rows[labelling, fold, fold, C_of_fold]))
    cell["auroc"], cell["choosing"] = auroc(score, wrong), choosing[0]
    cell["score"][present] = expit(score[0])
    groups = None if plan.groups is None else plan.groups[present]
    if plan.n_folds == 1:
        cell["training_variance"] = 0.0  # trained and tested on different examples
    else:
        without = scores(_without_another_fold(rows[0], fold[0], C_of_fold[0]))
        cell["training_variance"] = training_variance(without, wrong[0], groups)
    if len(plan.C) > 1:
        C = plan.C[np.bincount(chosen_C[0]).argmax()]
        _, coef, intercept, _ = next(fitter(X, [(wrong[:1], everything, np.array([C]))]))
    cell["coef"], cell["intercept"] = coef.astype(np.float32), np.float32(intercept)
    return cell


def _both_classes(labels, train):
    return (labels & train).any(1) & (~labels & train).any(1)


def _choices(rows, scores, wrong, fold):
    """Best area that can be had without each fold's data, and the number of the C that gives it.

    Parameters
    ----------
    rows : array of int, (labelling, fold, fold, C)
    scores : callable
        Margins of examples by the fits in given rows, NaN for -1.
    wrong, fold : array, (labelling, example)

    Returns
    -------
    area : array, (labelling, fold)
    chosen : array of int, (labelling, fold)
    """
    n_folds = rows.shape[1]
    if n_folds == 1:
        return np.full((len(wrong), 1), np.nan), np.zeros((len(wrong), 1), int)
    pairs = np.where(np.eye(n_folds, dtype=bool)[:, :, None], -1, rows)
    # Few labellings have pairs, and there is nothing to rank in the others.
    paired = np.flatnonzero((pairs >= 0).any((1, 2, 3)))
    areas = np.full((len(wrong), n_folds, rows.shape[3]), np.nan)
    for k, c in np.ndindex(areas.shape[1:]):
        without = pairs[paired[:, None], fold[paired], k, c]
        areas[paired, k, c] = auroc(scores(without), wrong[paired])
    areas = np.where(np.isnan(areas), -np.inf, areas)
    best = areas.max(-1)
    return np.where(np.isinf(best), np.nan, best), areas.argmax(-1)


def _without_another_fold(rows, fold, C):
    """Fits without each example's own fold and one more, (folds - 1, example).

    With two folds there is no other that can be left out, and the row is of their plain fits.

    Parameters
    ----------
    rows : array of int, (fold, fold, C)
    fold, C : array of int, (example,)
    """
    n_folds = len(rows)
    steps = np.arange(1, n_folds)[:, None] if n_folds > 2 else np.zeros((1, 1), int)
    return rows[fold, (fold + steps) % n_folds, C]
