"""Fit many logistic regressions over one design matrix at once, and score them by AUROC.

Folds, splits, permutations of the labels, bootstrap weights and values of C are all fits over the
same examples, so they advance together: every iteration is two matrix products for all of them,
``(fits, examples) @ (examples, features)`` and back. Fits are rows, which is the fast layout.

The method is preconditioned nonlinear conjugate gradients. Three things make it quick:

- One preconditioner, M = X' D X + I, serves every fit. D is the curvature of the loss, a mean over
  the fits. It begins at half the value where all of them start, and is renewed when it has halved,
  as it does again and again where the classes can be separated.
- The margins X w + b are carried along, so a line search costs no matrix product and can be
  exact. It searches over the step and the intercept together, which leaves the intercept free of
  penalty and lets the features be centred without changing the problem.
- With fewer examples than features, the solution lies in the span of the examples, and X is
  replaced by the square Cholesky factor of X X'.
"""

from itertools import pairwise

import numpy as np
import torch

from probekit.linear import (
    LinearProbes,
    check_fits,
    fit_discriminant,
    fit_mean_difference,
    fit_ridge,
)

__all__ = [
    "LinearProbes",
    "auroc",
    "fit_discriminant",
    "fit_logistic",
    "fit_mean_difference",
    "fit_ridge",
]


def fit_logistic(
    X,
    y,
    sample_weight=None,
    C=1.0,
    *,
    standardize=False,
    tol=3e-6,
    max_iter=1000,
    dtype=torch.float32,
    device=None,
):
    """Fit L2-regularised logistic regressions that share a design matrix.

    Each fit minimises scikit-learn's objective,
    ``1/2 ||w||^2 + C * sum_i s_i * log(1 + exp(-y_i (x_i . w + b)))`` with y_i = -1 or 1 and a free
    intercept b. The leading dimension of `y`, `sample_weight` and `C` is broadcast: where one of
    them is given once, all fits share it.

    Parameters
    ----------
    X : array or Tensor, shape (examples, features)
    y : array or Tensor of bool or 0/1, shape (examples,) or (fits, examples)
    sample_weight : array or Tensor, shape (examples,) or (fits, examples), optional
        Weights >= 0: 0/1 for membership of a training fold, counts for a bootstrap sample.
    C : float or array, shape (fits,)
        Inverse strength of the penalty.
    standardize : bool
        Divide each feature by its standard deviation in the fit's own (weighted) examples before
        it is penalised, as a StandardScaler fitted on the training fold does. The coefficients
        returned are those of the unscaled features. Slow with thousands of features, as each fit
        has a penalty of its own and the span of the examples cannot take the place of X.
    tol : float
        A fit stops once the objective is estimated to be within ``tol`` of its minimum, as a share
        of the objective. The estimate is half the squared norm of the gradient in the metric of
        the preconditioner.
    max_iter : int
        Fits that take longer are returned as they are, marked as not converged.
    dtype : torch.dtype
        float32, or float64 to check it.
    device : str or torch.device, optional
        By default X's own if it is a Tensor, otherwise the CPU.

    Returns
    -------
    LinearProbes

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, a weight is negative, a label is not 0 or 1, C is
        not positive, or a fit's examples are all of one class.
    """
    X, y, weight, C = check_fits(X, y, sample_weight, C, dtype, device)
    if not bool((C > 0).all()):
        raise ValueError(f"C must be positive, got {float(C.min())}")
    mean = (weight.mean(0, dtype=torch.float64) @ X.double()) / weight.mean(0).double().sum()
    X = (X - mean).to(dtype) if X.dtype == torch.float64 else X.to(dtype) - mean.to(dtype)
    y = y.to(dtype)
    penalty = _fold_variance(X, weight, mean) if standardize else None
    span = None
    if X.shape[0] < X.shape[1] and penalty is None:
        X, span = _in_span(X)

    fits = len(y)
    coef = X.new_zeros(fits, X.shape[1])
    intercept = X.new_zeros(fits)
    converged = torch.zeros(fits, dtype=torch.bool, device=X.device)
    n_iter = 0
    # One preconditioner cannot serve penalties of different orders of magnitude.
    scale = torch.log2(C).round().long()
    for value in scale.unique():
        rows = torch.nonzero(scale == value)[:, 0]
        loss_weight = weight[rows] * C[rows, None]
        fitted = _solve(
            X, y[rows], loss_weight, None if penalty is None else penalty[rows], tol, max_iter
        )
        coef[rows], intercept[rows], converged[rows] = fitted[:3]
        n_iter = max(n_iter, fitted[3])
    if span is not None:
        coef = span(coef)
    intercept = (intercept.double() - coef.double() @ mean).to(dtype)
    return LinearProbes(coef, intercept, converged, n_iter)


def auroc(score, y, sample_weight=None):
    """Area under the ROC curve along the last axis: P(score of a positive > score of a negative).

    Equal scores count one half. Leading axes are broadcast.

    Parameters
    ----------
    score : array, shape (..., examples)
        NaN leaves an example out.
    y : array of bool or 0/1, shape (..., examples)
        True for the positive class.
    sample_weight : array, shape (..., examples), optional

    Returns
    -------
    ndarray of float64, shape (...)
        NaN where one class has no example or no weight.
    """
    score, y = np.asarray(score), np.asarray(y, dtype=bool)
    order = np.argsort(score, axis=-1, kind="stable")
    ranked = np.take_along_axis(score, order, axis=-1)
    weight = ~np.isnan(score)
    if sample_weight is not None:
        weight = np.where(weight, sample_weight, 0.0)

    def sort(values):
        shape = np.broadcast_shapes(values.shape, order.shape)
        return np.take_along_axis(
            np.broadcast_to(values, shape), np.broadcast_to(order, shape), axis=-1
        )

    positive, negative = sort(weight * y), sort(weight * ~y)
    # Weight of the negatives up to and including each place in the ranking, and before it.
    through = np.cumsum(negative, axis=-1, dtype=np.float64)
    before = through - negative
    tied = ranked[..., 1:] == ranked[..., :-1]
    if tied.any():
        place = np.arange(ranked.shape[-1])
        new = np.concatenate([np.ones_like(tied[..., :1]), ~tied], axis=-1)
        last = np.concatenate([~tied, np.ones_like(tied[..., :1])], axis=-1)
        first_of = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
        last_of = np.flip(
            np.minimum.accumulate(np.flip(np.where(last, place, place[-1]), -1), axis=-1), -1
        )
        shape = before.shape
        before = np.take_along_axis(before, np.broadcast_to(first_of, shape), axis=-1)
        through = np.take_along_axis(through, np.broadcast_to(last_of, shape), axis=-1)
    wins = (positive * (before + through)).sum(-1) / 2
    pairs = positive.sum(-1, dtype=np.float64) * negative.sum(-1, dtype=np.float64)
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)


def _fold_variance(X, weight, mean):
    """Variance of each feature in each fit's examples, shape (fits, features).

    X is centred, `mean` is what was taken away. A feature that does not vary in a fit has the
    coefficient 0 whatever its penalty; its mean square, or 1, stands in for the variance.
    """
    eps = torch.finfo(X.dtype).eps
    total = weight.sum(1, keepdim=True)
    square = weight @ X.square() / total
    variance = square - (weight @ X / total).square()
    # Differences this small are rounding in the sums, and below, in the centring.
    variance = torch.where(variance <= len(X) * eps * square, square, variance)
    constant = (X.abs().amax(0) <= 10 * eps * mean.abs()) | (variance == 0)
    return torch.where(constant, torch.ones_like(variance), variance)


def _in_span(X):
    """Square factor R of X X' = R R', and the map from coefficients over R to those over X."""
    gram = X.double() @ X.double().T
    # Centred examples are linearly dependent, so the Gram matrix is singular without this.
    gram.diagonal().add_(1e-12 * gram.diagonal().mean() + torch.finfo(torch.float64).tiny)
    factor = torch.linalg.cholesky(gram)

    def over_features(coef):
        dual = torch.linalg.solve_triangular(factor, coef.double(), upper=False, left=False)
        return (dual @ X.double()).to(X.dtype)

    return factor.to(X.dtype), over_features


def _inverse_hessian(X, curvature, penalty):
    """Inverse of X' diag(curvature) X + diag(penalty), the preconditioner, (features, features)."""
    features = X.shape[1]
    weighted = X * curvature[:, None]
    hessian = X.new_zeros(features, features)
    # Only the lower half is needed: strips of it take 5/8 of the arithmetic.
    edges = [features * k // 4 for k in range(5)]
    for low, high in pairwise(edges):
        torch.mm(weighted[:, low:high].T, X[:, :high], out=hessian[low:high, :high])
    diagonal = hessian.diagonal()
    diagonal.add_(penalty)
    jitter = torch.finfo(X.dtype).eps
    while True:
        # A preconditioner need not be exact; relative jitter keeps it positive definite.
        diagonal.mul_(1 + jitter)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if not bool(failed):
            return torch.cholesky_inverse(factor)
        jitter *= 10


def _solve(X, y, loss_weight, penalty, tol, max_iter):
    """Minimise all fits from zero; returns coef, intercept, converged and the iterations taken.

    X (examples, features) is centred; y and loss_weight = C * sample_weight are (fits, examples);
    penalty (fits, features) multiplies the squared coefficients, None for all ones.
    """
    fits, features = len(y), X.shape[1]
    coef, intercept = X.new_zeros(fits, features), X.new_zeros(fits)
    converged = torch.zeros(fits, dtype=torch.bool, device=X.device)
    log_odds = ((loss_weight * y).sum(1) / (loss_weight * (1 - y)).sum(1)).log()
    # Margins are carried with the sign that makes a wrong answer's positive.
    sign = 1 - 2 * y
    # The fits still running, a row of each tensor for each of them. With an infinite decrement
    # before it, the first direction is the steepest descent.
    run = {
        "fit": torch.arange(fits, device=X.device),
        "sign": sign,
        "loss_weight": loss_weight,
        "penalty": X.new_ones(fits, 1) if penalty is None else penalty,
        "coef": coef.clone(),
        "intercept": log_odds,
        "margin": sign * log_odds[:, None],
        "direction": coef.clone(),
        "gradient": coef.clone(),
        "decrement": torch.full_like(log_odds, torch.inf),
    }
    run["first"], run["second"] = _derivatives(run["margin"], loss_weight)
    shared = None
    for iteration in range(max_iter + 1):
        curvature = run["second"].mean(0)
        if shared is None or bool(curvature.mean() < shared.mean() / 2):
            # Half of it spread evenly: examples that most fits are sure of and one is not would
            # otherwise give that one a curvature far above the preconditioner's.
            shared = (curvature + curvature.mean()) / 2
            if iteration == 0:
                # All fits start where the curvature is greatest, and soon leave.
                shared /= 2
            inverse = _inverse_hessian(X, shared, run["penalty"].mean(0))
            run["decrement"].fill_(torch.inf)
        gradient = run["penalty"] * run["coef"] + (run["sign"] * run["first"]) @ X
        scaled = gradient @ inverse
        decrement = _dot(gradient, scaled)
        done = _gap(run, decrement, shared) <= tol * _objective(run)
        finished = int(done.sum())
        # Dropping rows copies the others, so a few are waited for.
        if iteration == max_iter or 8 * finished >= len(done):
            stop = torch.ones_like(done) if iteration == max_iter else done
            rows = run["fit"][stop]
            coef[rows], intercept[rows] = run["coef"][stop], run["intercept"][stop]
            converged[rows] = done[stop]
            if iteration == max_iter or finished == len(done):
                break
            run = {name: values[~stop] for name, values in run.items()}
            gradient, scaled, decrement = gradient[~stop], scaled[~stop], decrement[~stop]
        # Polak and Ribiere's conjugate direction, or steepest descent where that would climb.
        beta = (decrement - _dot(run["gradient"], scaled)) / run["decrement"]
        direction = beta.clamp_min(0)[:, None] * run["direction"] - scaled
        climbs = _dot(direction, gradient) >= 0
        run["direction"] = torch.where(climbs[:, None], -scaled, direction)
        run["gradient"], run["decrement"] = gradient, decrement
        _line_search(run, X)
    return coef, intercept, converged, iteration


def _line_search(run, X):
    """Move each fit to the minimum along its direction and intercept, in place.

    Newton steps in the two variables. A step that ends in a rise of more than half the slope it
    began with has gone too far, as it may where the loss is nearly flat, and is cut by the secant
    rule.
    """
    sign, loss_weight = run["sign"], run["loss_weight"]
    ahead = (run["direction"] @ X.T) * sign
    shrink = run["penalty"] * run["direction"]
    pull, bend = _dot(run["coef"], shrink), _dot(run["direction"], shrink)
    first, second = run["first"], run["second"]
    step, shift = torch.zeros_like(bend), torch.zeros_like(bend)
    slope, tilt = _dot(first, ahead) + pull, _dot(first, sign)
    for _ in range(4):
        weighted = second * ahead
        bends, mixed, tilts = _dot(weighted, ahead) + bend, _dot(weighted, sign), second.sum(1)
        # The steps along the direction and, across it, in the intercept.
        determinant = bends * tilts - mixed * mixed
        determinant.clamp_min_(torch.finfo(X.dtype).tiny)
        along = (mixed * tilt - tilts * slope) / determinant
        across = (mixed * slope - bends * tilt) / determinant
        start = slope * along + tilt * across
        for attempt in range(6):
            margin = torch.addcmul(run["margin"], (step + along)[:, None], ahead)
            margin.addcmul_((shift + across)[:, None], sign)
            first, second = _derivatives(margin, loss_weight)
            slope = _dot(first, ahead) + pull + (step + along) * bend
            tilt = _dot(first, sign)
            end = slope * along + tilt * across
            too_far = end > -0.5 * start
            # Coefficients and margins have to agree, so no cut after the last look.
            if attempt == 5 or not bool(too_far.any()):
                break
            cut = torch.where(too_far, start / (start - end), torch.ones_like(start))
            along, across, start = cut * along, cut * across, cut * start
        step, shift = step + along, shift + across
        if bool((end.abs() <= -0.1 * start).all()):
            break
    run["coef"] = torch.addcmul(run["coef"], step[:, None], run["direction"])
    run["intercept"] = run["intercept"] + shift
    run["margin"], run["first"], run["second"] = margin, first, second


def _derivatives(margin, loss_weight):
    """First and second derivative of each example's loss with respect to its signed margin."""
    probability = torch.sigmoid(margin)
    first = probability * loss_weight
    return first, torch.addcmul(first, first, probability, value=-1)


def _gap(run, decrement, shared):
    """Estimated distance of each fit's objective from its minimum, (fits,).

    The preconditioner overstates the curvature of a fit whose probabilities are near 0 and 1.
    """
    curvature = run["second"].sum(1)
    overstated = (shared.sum() / curvature).clamp_min(1)
    tilt = _dot(run["sign"], run["first"]).square() / curvature
    return 0.5 * (decrement * overstated + tilt)


def _objective(run):
    """Objective of each fit, (fits,)."""
    loss = _dot(run["loss_weight"], torch.nn.functional.softplus(run["margin"]))
    return 0.5 * _dot(run["penalty"] * run["coef"], run["coef"]) + loss


def _dot(left, right):
    return torch.linalg.vecdot(left, right)
