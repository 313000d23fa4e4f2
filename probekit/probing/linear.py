"""Linear probes, and those that have a closed form: difference of means, discriminant, ridge.

Each function fits many probes over the same examples at once, in the precision of X: labels and
sample weights may have a row for every fit, and each fit has examples of both classes.
`probekit.probing.logistic.fit_logistic` is the one that has to iterate.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.linalg import vecdot


@dataclass(frozen=True)
class LinearProbes:
    """Linear probes fitted over the same features, one a row.

    They are kept for centred features. Around a large mean an intercept for the features as they
    are is the small difference of large numbers, which single precision does not hold.
    """

    coef: torch.Tensor  # (fit, feature)
    offset: torch.Tensor  # (fit,), float64, the margin at `mean`
    mean: torch.Tensor  # (feature,), what is taken away from the features
    converged: bool = True  # all of them
    begun: object = field(default=None, repr=False)  # what further fits over the same X can use

    @property
    def intercept(self):
        """Intercept of every probe for features that are not centred, (fit,), float64."""
        return self.offset - self.coef.double() @ self.mean.double()

    def decision_function(self, X):
        """Margin of every example under every probe, (fit, example), float64."""
        X = centred(_tensor(X).to(self.coef.device), self.mean, self.coef.dtype)
        # Where features tell little, margins differ by less than single precision of the offset.
        return (self.coef @ X.T).double().add_(self.offset[:, None])


def fit_mean_difference(X, y, sample_weight=None):
    """Fit probes along the difference of the class means, zero half-way between them."""
    X, y, weight, _ = as_fits(X, y, sample_weight)
    X, mean = _around_mean(X)
    means = [counted @ X / counted.sum(1, keepdim=True) for counted in (weight * ~y, weight * y)]
    coef = means[1] - means[0]
    return LinearProbes(coef, -vecdot(coef.double(), (means[0] + means[1]).double()) / 2, mean)


def fit_discriminant(X, y, sample_weight=None):
    """Fit discriminants, as LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")."""
    X, y, weight, _ = as_fits(X, y, sample_weight)
    X, mean = _around_mean(X)
    coef = X.new_empty(len(y), X.shape[1])
    offset = X.new_empty(len(y), dtype=torch.float64)
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
        middle = (means[0] + means[1]).double() / 2
        offset[fit] = (priors[1] / priors[0]).double().log() - middle @ coef[fit].double()
    return LinearProbes(coef, offset, mean)


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
    X, mean = _around_mean(X)
    target = 2 * y.double() - 1
    coef = X.new_empty(len(y), X.shape[1])
    offset = X.new_empty(len(y), dtype=torch.float64)
    # Fits with the same examples differ only in the right-hand side and share a factor.
    patterns, pattern = torch.unique(weight, dim=0, return_inverse=True)
    for number, count in enumerate(patterns.double()):
        fits = torch.nonzero(pattern == number)[:, 0]
        level = target[fits] @ count / count.sum()
        root = count.sqrt()
        # In double precision: beside a large Gram matrix single precision loses alpha.
        middle = count @ X.double() / count.sum()
        scaled = (X - middle).mul_(root[:, None])
        goal = (target[fits] - level[:, None]) * root
        wide = X.shape[0] < X.shape[1]
        gram = scaled @ scaled.T if wide else scaled.T @ scaled
        gram.diagonal().add_(alpha)
        factor = torch.linalg.cholesky(gram)
        if wide:
            found = torch.cholesky_solve(goal.T, factor).T @ scaled
        else:
            found = torch.cholesky_solve((goal @ scaled).T, factor).T
        coef[fits] = found.to(X.dtype)
        offset[fits] = level - coef[fits].double() @ middle
    return LinearProbes(coef, offset, mean)


def centred(X, mean, dtype):
    """X without its mean, in a precision that may be lower than its own."""
    # The difference first: it is all that a lower precision then has to hold.
    return X.to(mean.dtype).sub(mean).to(dtype)


def _around_mean(X):
    """X centred, and about its mean: what is taken away is known exactly."""
    mean = X.mean(0)
    return X - mean, mean


def as_fits(X, y, sample_weight=None, C=1.0, dtype=None):
    """Tensors X (example, feature), y of bool and weights (fit, example), and C (fit,)."""
    X = _tensor(X)
    dtype = dtype or X.dtype
    weight = torch.ones(1, len(X)) if sample_weight is None else _tensor(sample_weight)
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
