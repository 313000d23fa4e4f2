"""Linear probes, and those that have a closed form: difference of means, discriminant, ridge.

Each function fits many probes over the same examples at once: labels and sample weights may have a
row for every fit. `probekit.probing.logistic.fit_logistic` is the one that has to iterate.
"""

from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class LinearProbes:
    """Linear probes fitted over the same features, one a row."""

    coef: torch.Tensor
    intercept: torch.Tensor
    converged: torch.Tensor
    n_iter: int
    begun: object = field(default=None, repr=False, compare=False)

    def decision_function(self, X):
        """Margin of every example under every probe, shape (fits, examples)."""
        X = _tensor(X, self.coef.device).to(self.coef.dtype)
        return torch.addmm(self.intercept[:, None], self.coef, X.T)


def fit_mean_difference(X, y, sample_weight=None, *, dtype=torch.float32, device=None):
    """Fit probes along the difference of the class means, zero half-way between them."""
    X, y, weight, _ = check_fits(X, y, sample_weight, 1.0, dtype, device)
    X = X.to(dtype)
    means = [_means(X, weight * label) for label in (~y, y)]
    coef = means[1] - means[0]
    return _closed_form(coef, -(coef * (means[0] + means[1])).sum(1) / 2)


def fit_discriminant(
    X, y, sample_weight=None, *, shrinkage="auto", dtype=torch.float32, device=None
):
    """Fit linear discriminants, as scikit-learn's LinearDiscriminantAnalysis(solver="lsqr")."""
    if shrinkage != "auto" and not (isinstance(shrinkage, int | float) and 0 <= shrinkage <= 1):
        raise ValueError(f'shrinkage must be "auto" or from 0 to 1, got {shrinkage!r}')
    X, y, weight, _ = check_fits(X, y, sample_weight, 1.0, dtype, device)
    mean = X.mean(0, dtype=torch.float64)
    X = (X - mean).to(dtype)
    coef = X.new_empty(len(y), X.shape[1])
    intercept = X.new_empty(len(y))
    for fit, (label, count) in enumerate(zip(y, weight, strict=True)):
        means, priors, within = [], [], 0.0
        for rows in (~label, label):
            chosen = X[rows & (count > 0)]
            share = count[rows & (count > 0)]
            means.append(share @ chosen / share.sum())
            priors.append(share.sum() / count.sum())
            within = within + priors[-1] * _shrunk(chosen - means[-1], share, shrinkage)
        factor, failed = torch.linalg.cholesky_ex(within)
        if bool(failed):
            raise ValueError(
                f"the covariance of fit {fit} is singular with shrinkage={shrinkage}: "
                f'{int((count > 0).sum())} examples, {X.shape[1]} features. Use shrinkage="auto".'
            )
        coef[fit] = torch.cholesky_solve((means[1] - means[0])[:, None], factor)[:, 0]
        middle = (means[0] + means[1]) / 2 + mean.to(dtype)
        intercept[fit] = (priors[1] / priors[0]).log() - middle @ coef[fit]
    return _closed_form(coef, intercept)


def fit_ridge(X, y, sample_weight=None, alpha=1.0, *, dtype=torch.float32, device=None):
    """Fit ridge regressions of labels -1 and 1, as scikit-learn's RidgeClassifier(alpha)."""
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    X, y, weight, _ = check_fits(X, y, sample_weight, 1.0, dtype, device)
    X = X.to(dtype)
    target = 2 * y.to(dtype) - 1
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
    return _closed_form(coef, intercept)


def check_fits(X, y, sample_weight, C, dtype, device):
    """Tensors X (examples, features), y and weights (fits, examples) and C (fits,)."""
    X = _tensor(X, device)
    if X.ndim != 2:
        raise ValueError(f"X must have shape (examples, features), got {tuple(X.shape)}")
    if not X.is_floating_point():
        X = X.to(dtype)
    # The extremes show a NaN or an infinity at a fraction of the cost of looking at every element.
    if X.numel() and not bool(torch.isfinite(torch.stack(X.aminmax())).all()):
        bad = torch.nonzero(~torch.isfinite(X))
        if len(bad):
            example, feature = bad[0].tolist()
            raise ValueError(
                f"X has {len(bad)} values that are not finite, the first at example {example}, "
                f"feature {feature}. Leave out the examples that lack this activation."
            )
    examples = len(X)
    y = _tensor(y, X.device)
    if sample_weight is None:
        weight = X.new_ones(1, examples, dtype=dtype)
    else:
        weight = _tensor(sample_weight, X.device).to(dtype)
    y, weight = torch.atleast_2d(y), torch.atleast_2d(weight)
    C = torch.atleast_1d(_tensor(C, X.device).to(dtype))
    for name, rows in (("y", y), ("sample_weight", weight)):
        if rows.ndim != 2 or rows.shape[1] != examples:
            raise ValueError(
                f"{name} must have shape ({examples},) or (fits, {examples}), as X has {examples} "
                f"examples; got {tuple(rows.shape)}"
            )
    counts = {len(y), len(weight), len(C)} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"y is given for {len(y)} fits, sample_weight for {len(weight)} and C for {len(C)}; "
            "each must be given once or for every fit"
        )
    fits = counts.pop() if counts else 1
    if y.dtype != torch.bool:
        if not bool(((y == 0) | (y == 1)).all()):
            raise ValueError(f"y must be boolean or 0 and 1, got values such as {y.unique()[:5]}")
        y = y == 1
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError("sample_weight must be finite and >= 0")
    positive = (weight * y).sum(1).expand(fits)
    negative = (weight * ~y).sum(1).expand(fits)
    one_class = torch.nonzero((positive == 0) | (negative == 0))[:, 0].tolist()
    if one_class:
        raise ValueError(
            f"{len(one_class)} of {fits} fits have examples of one class only, the first is fit "
            f"{one_class[0]}. Use fewer or stratified folds, or more examples."
        )
    return X, y.expand(fits, -1), weight.expand(fits, -1), C.expand(fits)


def _tensor(values, device):
    if not isinstance(values, torch.Tensor):
        # torch takes no read-only arrays, which memory-mapped and broadcast ones are.
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return values.to(device)


def _closed_form(coef, intercept):
    converged = torch.ones(len(coef), dtype=torch.bool, device=coef.device)
    return LinearProbes(coef, intercept, converged, 0)


def _means(X, weight):
    return weight @ X / weight.sum(1, keepdim=True)


def _shrunk(X, count, shrinkage):
    """Covariance of a class's centred examples, shrunk towards a multiple of the identity."""
    total = count.sum()
    covariance = (X * count[:, None]).T @ X / total
    features = X.shape[1]
    if shrinkage == "auto":
        # Ledoit and Wolf (2004), with unit variances as scikit-learn does for discriminants.
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
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * covariance.trace() / features)
    return shrunk
