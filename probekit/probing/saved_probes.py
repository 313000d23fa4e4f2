"""A probe of a finished run, as a scikit-learn classifier.

It is built from the coefficients in the grid's file, so nothing has to be unpickled, and it was
fitted on all examples of the run, not on training folds only.
"""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from probekit import arguments
from probekit.run.directory import Run


@arguments.plainly()
def load_probe(run, layer, token, split="random"):
    """Load the probe of one cell: P(this answer is wrong) from its activations.

    Parameters
    ----------
    run : Run
        With a finished probe stage.
    layer : int
    token : str
        Such as ``"exact_answer_last"``.
    split : str
        Which of the run's grids. The probe is fitted on all examples, so that splits differ only
        where C was chosen in their folds.

    Returns
    -------
    SavedProbe

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the run has no such split, layer or token, the cell had too few examples for a probe, or
        the run is the example, which has no probes.
    FileNotFoundError
        If the run has no finished probe stage.

    Examples
    --------
    >>> probe = pk.load_probe(run, layer=13, token="exact_answer_last")  # doctest: +SKIP
    >>> probe.predict_proba(X)[:, 1]  # P(wrong) of activations (examples, features)
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    layer = arguments.whole("layer", layer)
    arguments.text("token", token, such_as="-1")
    arguments.text("split", split, such_as="random")
    grid = run.grid(split)
    if "coef" not in grid:
        raise ValueError(
            f"{run.path} has no probes to load: this is an example run, whose coefficients were "
            "left out to keep it small. Make a run of your own: probekit run, or the notebooks 01 "
            "and 02."
        )
    layers = [int(value) for value in grid["layer"].to_numpy()]
    tokens = [str(value) for value in grid["token"].to_numpy()]
    if layer not in layers:
        raise ValueError(
            f"The grid has no layer {arguments.shown(layer)}. It has: {arguments.listed(layers)}."
        )
    if token not in tokens:
        raise ValueError(
            f"The grid has no token {arguments.shown(token)}. It has: {arguments.listed(tokens)}."
        )
    cell = grid.isel(layer=layers.index(layer), token=tokens.index(token))
    coef, intercept = cell["coef"].to_numpy(), float(cell["intercept"])
    if np.isfinite(cell["auroc"]) and np.isnan(coef).all():
        raise ValueError(
            f"The grid's file has no coefficients of method={grid.attrs.get('method')!r}: only "
            "linear probes are kept. Fit it on run.activations() instead."
        )
    if not np.isfinite(coef).all() or not np.isfinite(intercept):
        raise ValueError(
            f"Layer {layer}, token {token} has no probe: {int(cell['n_examples'])} scored examples "
            f"have this token, too few of one class for every fold. Take another cell."
        )
    source = f"{grid.attrs.get('site', 'the')} activations at layer {layer}, token {token}"
    return SavedProbe(coef, intercept, source)


class SavedProbe(ClassifierMixin, BaseEstimator):
    """A fitted linear probe with scikit-learn's interface; the positive class is a wrong answer."""

    def __init__(self, coef, intercept, source="activations"):
        # As given: scikit-learn's clone compares them by identity.
        self.coef = coef
        self.intercept = intercept
        self.source = source

    @property
    def classes_(self):
        """Right and wrong, as `predict_proba` orders them."""
        return np.array([False, True])

    @property
    def coef_(self):
        """Coefficients, (1, features)."""
        return np.asarray(self.coef, dtype=float)[None]

    @property
    def intercept_(self):
        """Intercept, (1,)."""
        return np.array([self.intercept], dtype=float)

    @property
    def n_features_in_(self):
        """Number of features that it takes."""
        return len(self.coef)

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y=None):
        """Do nothing: the probe is fitted. For pipelines, which fit their last step."""
        return self

    def decision_function(self, X):
        """Log-odds that each answer is wrong."""
        expected = "X must be numbers of shape (examples, features), got"
        given = X
        try:
            X = np.asarray(X, dtype=float)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{expected} {arguments.shown(given)}.") from error
        if X.ndim != 2:
            got = f"the shape {X.shape}" if X.ndim else arguments.shown(given)
            raise ValueError(f"{expected} {got}.")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but this probe of {self.source} takes "
                f"{self.n_features_in_}. Give it activations of the same model and site."
            )
        bad = ~np.isfinite(X).all(1)
        if bad.any():
            raise ValueError(
                f"{bad.sum()} of {len(X)} examples have activations that are NaN or infinite, the "
                f"first is example {np.flatnonzero(bad)[0]}. A response that lacks the token has "
                "none: leave such examples out."
            )
        return X @ self.coef_[0] + self.intercept

    def predict_proba(self, X):
        """P(right) and P(wrong) of each answer, (examples, 2)."""
        margin = self.decision_function(X)
        # Each from the margin itself, so that neither loses its digits near 1.
        return np.exp(-np.logaddexp(0, np.stack([margin, -margin], axis=1)))

    def predict(self, X):
        """Whether each answer is more likely wrong than right, (examples,) of bool."""
        return self.decision_function(X) > 0
