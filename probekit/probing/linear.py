"""Linear probes, and those that have a closed form: difference of means, discriminant, ridge.

Each function fits many probes over the same examples at once, in the precision of X: labels and
sample weights may have a row for every fit, and each fit has examples of both classes.
`probekit.probing.logistic.fit_logistic` is the one that has to iterate.
"""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class LinearProbes:
    """Linear probes fitted over the same features, one a row."""

    coef: torch.Tensor  # (fit, feature)
    intercept: torch.Tensor  # (fit,)
    converged: bool = True  # all of them
    begun: object = field(default=None, repr=False)  # what further fits over the same X can use

    def decision_function(self, X):
        """Margin of every example under every probe, (fit, example)."""
        X = _tensor(X).to(self.coef)
        return torch.addmm(self.intercept[:, None], self.coef, X.T)


def fit_mean_difference(X, y, sample_weight=None):
    """Fit probes along the difference of the class means, zero half-way between them."""
    X, y, weight, _ = as_fits(X, y, sample_weight)
    means = [counted @ X / counted.sum(1, keepdim=True) for counted in (weight * ~y, weight * y)]
    coef = means[1] - means[0]
    return LinearProbes(coef, -(coef * (means[0] + means[1])).sum(1) / 2)


def fit_discriminant(X, y, sample_weight=None):
    """Fit discriminants, as LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")."""
    X, y, weight, _ = as_fits(X, y, sample_weight)
    mean = X.mean(0, dtype=torch.float64)
    X = (X - mean).to(X.dtype)
    coef = X.new_empty(len(y), X.shape[1])
    intercept = X.new_empty(len(y))
    for fit, (label, count) in enumerate(zip(y, weight, strict=True)):
        means, priors, within = [], [], 0.0
        for rows in (~label, label):
            chosen = X[rows & (count > 0)]
            share = count[rows & (count > 0)]
            means.append(share @ chosen / share.sum())
            priors.append(share.sum() / count.sum())
            within = within + priors[-1] * _shrunk(chosen - means[-1], share)
        factor, failed = torch.linalg.cholesky_ex(within)
        if bool(failed):
            raise ValueError(
                "A cell's activations have a singular covariance, as where they are the same in "
                'all examples, so method="discriminant" cannot be fitted. Leave that layer or '
                'token out, or use another method, such as "logistic".'
            )
        coef[fit] = torch.cholesky_solve((means[1] - means[0])[:, None], factor)[:, 0]
        middle = (means[0] + means[1]) / 2 + mean.to(X.dtype)
        intercept[fit] = (priors[1] / priors[0]).log() - middle @ coef[fit]
    return LinearProbes(coef, intercept)


def _shrunk(X, count):
    """Covariance of a class's centred examples, shrunk towards a multiple of the identity.

    By Ledoit and Wolf (2004), with unit variances as scikit-learn does for discriminants.
    """
    total, features = count.sum(), X.shape[1]
    covariance = (X * count[:, None]).T @ X / total
    scale = covariance.diagonal().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    unit = covariance / scale / scale[:, None]
    level = unit.diagonal().mean()
    norm = (X / scale).square().sum(1)
    spread = unit.square().sum()
    noise = (count @ norm.square() / total - spread) / (features * total)
    distance = (spread - 2 * level * unit.trace() + features * level**2) / features
    share = (noise.clamp_max(distance) / distance).nan_to_num(0.0)
    shrunk = (1 - share) * unit
    shrunk.diagonal().add_(share * level)
    return shrunk * scale * scale[:, None]


def fit_ridge(X, y, sample_weight=None, alpha=1.0):
    """Fit ridge regressions of labels -1 and 1, as scikit-learn's RidgeClassifier(alpha)."""
    X, y, weight, _ = as_fits(X, y, sample_weight)
    target = 2 * y.to(X.dtype) - 1
    coef = X.new_empty(len(y), X.shape[1])
    intercept = X.new_empty(len(y))
    # Fits with the same examples differ only in the right-hand side and share a factor.
    patterns, pattern = torch.unique(weight, dim=0, return_inverse=True)
    for number, count in enumerate(patterns):
        fits = torch.nonzero(pattern == number)[:, 0]
        mean = count @ X / count.sum()
        offset = target[fits] @ count / count.sum()
        root = count.sqrt()
        scaled = (X - mean) * root[:, None]
        goal = (target[fits] - offset[:, None]) * root
        wide = X.shape[0] < X.shape[1]
        gram = scaled @ scaled.T if wide else scaled.T @ scaled
        gram.diagonal().add_(alpha)
        factor = torch.linalg.cholesky(gram)
        if wide:
            coef[fits] = torch.cholesky_solve(goal.T, factor).T @ scaled
        else:
            coef[fits] = torch.cholesky_solve((goal @ scaled).T, factor).T
        intercept[fits] = offset - coef[fits] @ mean
    return LinearProbes(coef, intercept)


def as_fits(X, y, sample_weight=None, C=1.0, dtype=None):
    """Tensors X (example, feature), y of bool and weights (fit, example), and C (fit,)."""
    X = _tensor(X)
    dtype = dtype or X.dtype
    weight = X.new_ones(1, len(X)) if sample_weight is None else _tensor(sample_weight)
    y = torch.atleast_2d(_tensor(y).to(X.device, torch.bool))
    weight = torch.atleast_2d(weight.to(X.device, dtype))
    C = torch.atleast_1d(_tensor(C).to(X.device, dtype))
    fits = max(len(y), len(weight), len(C))
    return X, y.expand(fits, -1), weight.expand(fits, -1), C.expand(fits)


def _tensor(values):
    if isinstance(values, torch.Tensor):
        return values
    # torch takes no read-only arrays, which memory-mapped and broadcast ones are.
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))
