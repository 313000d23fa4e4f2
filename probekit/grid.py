"""Cross-validated probes in every cell of layers x tokens, with intervals and a null.

Within a cell everything is one more fit over the same activations: the folds, the folds of the
permuted labels, the pairs of folds from which the best cell is chosen without looking at the data
it is then measured on. The solver advances them together.
"""

import os
from dataclasses import dataclass

import numpy as np
import xarray as xr
from joblib import Parallel, delayed
from scipy.sparse import block_array, coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split
from tqdm import tqdm

from probekit.answers import normalize
from probekit.roc import auroc, auroc_influence, interval, standard_error, training_variance

#: What may stand for `protocol`.
PROTOCOLS = ("cross-validated", "published")

_ALIKE = 8  # groups of about the same size, between which labels are permuted

#: What may stand for `method`, besides a scikit-learn classifier.
METHODS = ("logistic", "ridge", "discriminant", "mean_difference")

_NO_FOLD = -1  # marks the examples that are trained on only, in the published protocol


def probe_grid(
    activations,
    *,
    split="random",
    protocol="cross-validated",
    folds=5,
    C=1.0,
    seed=0,
    method="logistic",
    standardize=False,
    n_permutations=19,
    n_jobs=None,
    device="cpu",
    progress=True,
):
    """Train an error-detection probe in every (layer, token) cell and say how far to trust it.

    Parameters
    ----------
    activations : Dataset
        ``activation(example, layer, token, feature)`` with `correct`, and `exact_answer` and `id`
        if there, on `example`; from `Run.activations`. Examples without an exact answer are left
        out of the grid.
    split : str
        ``"random"``: stratified folds. ``"answer"``: no exact answer is both in training and test
        folds. Or the name of any other coordinate on `example`, whose values are kept together.
    protocol : {"cross-validated", "published"}
        ``"published"`` is one stratified split of 80 % to train and 20 % to test on.
    folds : int
        Number of folds; `protocol="published"` does without.
    C : float or sequence of float
        Inverse strength of the L2 penalty. Of several, the best is chosen inside the training
        folds.
    seed : int
        Of the folds and the permutations.
    method : str or scikit-learn classifier
        ``"logistic"``, ``"ridge"``, ``"discriminant"`` (linear, shrunk covariance) or
        ``"mean_difference"``; or any classifier, which is cloned and fitted for each fit: mind that
        there are `folds` times (1 + `n_permutations`) and more in every cell. `C` is of the
        logistic regression, and 1 / `C` the ridge's penalty.
    standardize : bool
        Of the logistic regression: scale every feature by its standard deviation in the training
        folds.
    n_permutations : int
        Times that the labels are permuted and everything is fitted again, for the null. A p-value
        can't be below 1 / (1 + n_permutations) after correction.
    n_jobs : int, optional
        Processes; by default one a core, and one on a device other than the CPU.
    device : str
        Where the fits are computed, as torch names it.
    progress : bool
        Show a bar.

    Returns
    -------
    Dataset
        Over (layer, token): `auroc` of the out-of-fold P(error), with a 95 % interval
        `auroc_low` and `auroc_high` for the area of these probes on any number of such answers;
        `training_error`, the part of its standard error that comes from the answers being those
        that the probes were trained on; `p_value` of the cell on its own and `p_corrected` for
        having looked at the whole grid; `n_examples`, `n_errors`. `score(example, layer, token)`,
        the out-of-fold P(error). `coef(layer, token, feature)` and `intercept`: a probe fitted on
        all examples. `fold(example)`. `null_auroc(layer, token, permutation)`. `best_auroc` with
        interval: the best cell's, chosen and measured on different data.

    Raises
    ------
    ValueError
        If there are too few examples of a class, or too few groups, for the folds, or a value
        cannot be used.
    """
    _check(split, protocol, folds, C, n_permutations, method)
    examples, kept = _usable(activations)
    wrong = ~examples["correct"].to_numpy().astype(bool)
    groups = example_groups(examples, split)
    C = np.atleast_1d(np.asarray(C, dtype=float))
    plan = _Plan.make(wrong, groups, protocol, folds, C, seed, n_permutations)
    layers, tokens = activations.sizes["layer"], activations.sizes["token"]
    cells = [(layer, token) for layer in range(layers) for token in range(tokens)]
    fitter = _Fitter(method, standardize, device)
    jobs = (
        delayed(_fit_cell)(_read_cell(activations, layer, token, kept), plan, fitter)
        for layer, token in cells
    )
    n_jobs = n_jobs or (os.cpu_count() if device == "cpu" else 1)
    parallel = Parallel(n_jobs, return_as="generator", pre_dispatch="2*n_jobs", max_nbytes=None)
    results = list(
        tqdm(parallel(jobs), total=len(cells), desc="Probing", unit="cell", disable=not progress)
    )
    return _assemble(examples, results, plan, groups).assign_attrs(
        {name: activations.attrs.get(name, "unknown") for name in ("model", "revision", "site")},
        split=split,
        protocol=protocol,
        folds=folds if protocol == "cross-validated" else 1,
        C=C.tolist() if len(C) > 1 else float(C[0]),
        seed=seed,
        method=method if isinstance(method, str) else repr(method),
        standardize=int(standardize),
        n_permutations=n_permutations,
    )


def _check(split, protocol, folds, C, n_permutations, method):
    known = method in METHODS if isinstance(method, str) else hasattr(method, "fit")
    if not known:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}, or a scikit-learn classifier; got "
            f"{method!r}."
        )
    if not isinstance(split, str):
        raise TypeError(f'split must be "random", "answer" or a coordinate\'s name, got {split!r}.')
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    if isinstance(folds, bool) or not isinstance(folds, (int, np.integer)) or folds < 2:
        raise ValueError(f"folds must be a whole number of at least 2, got {folds!r}.")
    try:
        positive = np.asarray(C, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"C must be a number or several, got {C!r}.") from None
    if not positive.size or not np.all((positive > 0) & np.isfinite(positive)):
        raise ValueError(f"C must be positive and finite, got {C!r}.")
    if (
        isinstance(n_permutations, bool)
        or not isinstance(n_permutations, (int, np.integer))
        or n_permutations < 0
    ):
        raise ValueError(
            f"n_permutations must be a whole number from 0 up, got {n_permutations!r}."
        )


def _usable(activations):
    """The examples that count, without their activations, and which those are."""
    if not isinstance(activations, xr.Dataset) or "activation" not in activations:
        raise TypeError(
            "activations must be a Dataset with `activation(example, layer, token, feature)`, "
            f"such as Run.activations() gives; got {type(activations).__name__}."
        )
    missing = [d for d in ("example", "layer", "token", "feature") if d not in activations.dims]
    if missing or "correct" not in activations.coords:
        lacking = ", ".join(
            [*missing, *(["correct"] if "correct" not in activations.coords else [])]
        )
        raise ValueError(f"The activations lack {lacking}.")
    if activations["correct"].dtype != bool:
        raise ValueError(
            f"`correct` must be boolean, got {activations['correct'].dtype}. Convert it: "
            "activations.assign_coords(correct=activations.correct.astype(bool))."
        )
    kept = np.arange(activations.sizes["example"])
    if "exact_answer" in activations.coords:
        kept = np.flatnonzero(activations["exact_answer"].to_numpy() != "")
    return activations.drop_vars("activation").isel(example=kept), kept


def example_groups(examples, split):
    """Which examples a split keeps together.

    Parameters
    ----------
    examples : Dataset
        Activations, or a grid.
    split : str
        As for `probe_grid`.

    Returns
    -------
    array of int, (example,), or None for a random split of different questions

    Notes
    -----
    The same question is never on both sides, whatever the split: samples of it, and exact
    duplicates, stay together.
    """
    questions = examples["question"].to_numpy().astype(str) if "question" in examples.coords else []
    repeated = len(np.unique(questions)) < len(questions)
    if split == "random":
        return np.unique(questions, return_inverse=True)[1] if repeated else None
    if split == "answer":
        name = "answer" if "answer" in examples.coords else "exact_answer"
        if name not in examples.coords:
            raise ValueError('split="answer" needs the coordinate exact_answer on example.')
        values = [normalize(answer) for answer in examples[name].to_numpy()]
    elif split in examples.coords and examples[split].dims == ("example",):
        values = examples[split].to_numpy().astype(str)
    else:
        per_example = [n for n, c in examples.coords.items() if c.dims == ("example",)]
        raise ValueError(
            f'split must be "random", "answer" or a coordinate on example '
            f"({', '.join(map(str, per_example))}); got {split!r}."
        )
    groups = np.unique(values, return_inverse=True)[1]
    return _joined(groups, questions) if repeated else groups


def _joined(groups, questions):
    """Groups that also keep equal questions together: what either joins, joined."""
    questions = np.unique(questions, return_inverse=True)[1]
    shape = (groups.max() + 1, questions.max() + 1)
    links = coo_array((np.ones(len(groups)), (groups, questions)), shape=shape)
    both = block_array([[None, links], [links.T, None]])
    return connected_components(both, directed=False)[1][groups]


@dataclass(frozen=True)
class _Plan:
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
        if published and len(C) > 1:
            raise ValueError('protocol="published" takes one value of C.')
        n_folds = 1 if published else folds
        return cls(np.array(labellings), np.array(fold), n_folds, C, groups, choose=n_folds > 2)

    def fits(self):
        """Per fit: labelling, folds left out (one, or two to choose by), and number of C."""
        listed = []
        for labelling in range(len(self.wrong)):
            left_out = [(k, k) for k in range(self.n_folds)]
            if self.choose and (labelling == 0 or len(self.C) > 1):
                left_out += [(j, k) for k in range(self.n_folds) for j in range(k)]
            listed += [(labelling, *pair, c) for pair in left_out for c in range(len(self.C))]
        return np.array(listed)


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


def _read_cell(activations, layer, token, kept):
    """Activations of one cell, (example, feature), NaN where a response lacks the token."""
    # Whole chunks first, examples after: a store is slow at picking rows.
    X = activations["activation"].isel(layer=layer, token=token).to_numpy()[kept]
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


@dataclass(frozen=True)
class _Fitter:
    """How probes are fitted: many at once by the solver, or one by one by scikit-learn."""

    method: object
    standardize: bool
    device: str

    def __call__(self, X, labels, weight, C):
        """Fit to each row of labels and weights.

        Returns
        -------
        margin : array, (fit, example)
        coef : array, (feature,), and intercept: float
            Of the last fit; NaN if it is not linear.
        converged : bool
        """
        if not isinstance(self.method, str):
            return self._one_by_one(X, labels, weight)
        import torch

        from probekit import probes as solver

        torch.set_num_threads(1)
        options = {"device": self.device}
        if self.method == "logistic":
            options |= {"C": C, "standardize": self.standardize}
        elif self.method == "ridge":
            options["alpha"] = 1 / float(C[0])
        fitted = getattr(solver, f"fit_{self.method}")(X, labels, weight, **options)
        margin = fitted.decision_function(X).cpu().numpy()
        coef, intercept = fitted.coef[-1].cpu().numpy(), float(fitted.intercept[-1])
        return margin, coef, intercept, bool(fitted.converged.all())

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


def _fit_cell(X, plan, fitter):
    """All fits of one cell.

    Returns
    -------
    dict
        `score` (example,), `auroc` (labelling,), `choosing` (fold,): the area without a fold's
        data, `training_variance`, `coef`, `intercept`, `converged`.
    """
    present = ~np.isnan(X[:, 0])
    n, features = len(X), X.shape[1]
    cell = {
        # In single precision all P(error) above a log-odds of 17 are 1, and tie.
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
    if not _both_classes(labels, train).all():
        return cell
    all_labels = np.vstack([labels, wrong[:1]])
    weight = np.vstack([train, np.ones((1, len(X)), bool)]).astype(np.float32)
    C = np.append(plan.C[fits[:, 3]], plan.C[0])
    margin, coef, intercept, cell["converged"] = fitter(X, all_labels, weight, C)
    margin = margin[:-1]
    chosen_C = np.zeros(plan.n_folds, int)
    for labelling in range(len(plan.wrong)):
        score = np.full(len(X), np.nan)
        for k in range(plan.n_folds):
            area, c = _area_without(k, labelling, fits, margin, wrong, fold, plan)
            if labelling == 0:
                cell["choosing"][k], chosen_C[k] = area, c
            row = np.flatnonzero((fits == (labelling, k, k, c)).all(1))[0]
            tested = fold[labelling] == k
            score[tested] = margin[row, tested]
        cell["auroc"][labelling] = auroc(score, wrong[labelling])
        if labelling == 0:
            cell["score"][present] = expit(score)
    groups = None if plan.groups is None else plan.groups[present]
    if plan.n_folds == 1:
        cell["training_variance"] = 0.0  # trained and tested on different examples
    else:
        scores = _scores_without_another_fold(fits, margin, fold[0], chosen_C)
        cell["training_variance"] = training_variance(scores, wrong[0], groups)
    if len(plan.C) > 1:
        C = plan.C[np.bincount(chosen_C).argmax()]
        everything = np.ones((1, len(X)), np.float32)
        _, coef, intercept, _ = fitter(X, wrong[:1], everything, np.array([C]))
    cell["coef"], cell["intercept"] = coef.astype(np.float32), np.float32(intercept)
    return cell


def _both_classes(labels, train):
    return (labels & train).any(1) & (~labels & train).any(1)


def _area_without(k, labelling, fits, margin, wrong, fold, plan):
    """Best area that can be had without fold k's data, and the number of the C that gives it."""
    pairs = (fits[:, 0] == labelling) & (fits[:, 1] != fits[:, 2])
    if not pairs.any():
        return np.nan, 0
    areas = []
    for c in range(len(plan.C)):
        score = np.full(wrong.shape[1], np.nan)
        for j in range(plan.n_folds):
            if j != k:
                low, high = min(j, k), max(j, k)
                row = np.flatnonzero(pairs & (fits[:, 1:] == (low, high, c)).all(1))[0]
                tested = fold[labelling] == j
                score[tested] = margin[row, tested]
        areas.append(auroc(score, wrong[labelling]))
    best = int(np.nanargmax(areas)) if not np.isnan(areas).all() else 0
    return areas[best], best


def _scores_without_another_fold(fits, margin, fold, chosen_C):
    """Margins by fits without each example's own fold and one more, (folds - 1, example).

    With two folds there is no other that can be left out, and the row is of their plain fits.
    """
    n_folds = len(chosen_C)
    rows = {(j, k, c): row for row, (labelling, j, k, c) in enumerate(fits) if labelling == 0}
    scores = np.full((n_folds - 1, len(fold)), np.nan)
    for step in range(1, n_folds):
        for k, c in enumerate(chosen_C):
            other = k if n_folds == 2 else (k + step) % n_folds
            tested = fold == k
            row = rows[min(k, other), max(k, other), c]
            scores[step - 1, tested] = margin[row, tested]
    return scores


def _assemble(examples, results, plan, groups):
    """Put the cells together and do what takes the whole grid: correction and choice."""
    layers, tokens = examples.sizes["layer"], examples.sizes["token"]
    wrong = plan.wrong[0]

    def stack(name):
        values = np.array([result[name] for result in results])
        return values.reshape(layers, tokens, *values.shape[1:])

    score = stack("score")  # (layer, token, example)
    area, influence = auroc_influence(score, wrong)
    training = stack("training_variance")
    low, high = interval(area, np.sqrt(standard_error(influence, groups) ** 2 + training))
    scored = ~np.isnan(score)
    areas = stack("auroc")  # (layer, token, labelling)
    p_value, p_corrected = _p_values(areas, scored, plan.wrong)
    cell = ("layer", "token")
    coords = {
        name: coord
        for name, coord in examples.coords.items()
        if set(coord.dims) <= {"example", "layer", "token"}
    }
    return xr.Dataset(
        {
            "auroc": (cell, area),
            "auroc_low": (cell, low),
            "auroc_high": (cell, high),
            "training_error": (cell, np.sqrt(training)),
            "p_value": (cell, p_value),
            "p_corrected": (cell, p_corrected),
            "n_examples": (cell, scored.sum(-1)),
            "n_errors": (cell, (scored & wrong).sum(-1)),
            "converged": (cell, stack("converged")),
            "score": (("example", *cell), np.moveaxis(score, -1, 0)),
            "coef": ((*cell, "feature"), stack("coef")),
            "intercept": (cell, stack("intercept")),
            "fold": ("example", plan.fold[0]),
            "null_auroc": ((*cell, "permutation"), areas[..., 1:]),
        },
        coords=coords,
        attrs=_best(area, stack("choosing"), score, training, plan, examples),
    )


def _p_values(area, scored, labellings):
    """P-values of each cell alone, and for having looked at all of them.

    Areas are measured in standard errors under the null, so that cells of different size, and
    labellings of different balance, compare. Corrected: how often the largest of a permuted grid
    reaches a cell (Westfall and Young 1993). Alone: how often any cell of the permuted grids does,
    as all share one null.

    Parameters
    ----------
    area : array, (layer, token, labelling)
        The real labelling comes first.
    scored : array of bool, (layer, token, example)
    labellings : array of bool, (labelling, example)
    """
    n_wrong = scored.astype(np.float32) @ labellings.T.astype(np.float32)
    n = scored.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (area - 0.5) / np.sqrt((n + 1) / (12 * n_wrong * (n - n_wrong)))
    z, null = z[..., 0], z[..., 1:]
    empty = np.isnan(z)
    if not null.shape[-1] or empty.all():
        return np.full(z.shape, np.nan), np.full(z.shape, np.nan)
    largest = np.nanmax(null, axis=(0, 1))
    pool = np.sort(null[~np.isnan(null)])
    reached = len(pool) - np.searchsorted(pool, z, side="left")
    alone = (1 + reached) / (1 + len(pool))
    corrected = (1 + (largest >= z[..., None]).sum(-1)) / (1 + len(largest))
    return np.where(empty, np.nan, alone), np.where(empty, np.nan, corrected)


def _best(area, choosing, score, training, plan, examples):
    """The best cell, and its area chosen and measured on different data."""
    if np.isnan(area).all():
        return {}
    layer, token = np.unravel_index(np.nanargmax(area), area.shape)
    best = {
        "best_layer": int(examples["layer"][layer]),
        "best_token": str(examples["token"].to_numpy()[token]),
    }
    if np.isnan(choosing).all():
        return best
    honest, variance = np.full(score.shape[-1], np.nan), []
    for k in range(plan.n_folds):
        # Chosen by fits and examples that had nothing of fold k.
        chosen = np.unravel_index(np.nanargmax(choosing[..., k]), area.shape)
        tested = plan.fold[0] == k
        honest[tested] = score[chosen][tested]
        variance.append(training[chosen])
    value, influence = auroc_influence(honest, plan.wrong[0])
    error = np.sqrt(standard_error(influence, plan.groups) ** 2 + np.mean(variance))
    low, high = interval(value, error)
    names = ("best_auroc", "best_auroc_low", "best_auroc_high")
    return best | dict(zip(names, map(float, (value, low, high)), strict=True))
