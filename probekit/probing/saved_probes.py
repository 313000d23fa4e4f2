"""A probe of a finished run, as a scikit-learn classifier.

It is built from the coefficients in the grid's file, so nothing has to be unpickled. It was fitted
on all examples of the run, and calibrated on their out-of-fold scores, as the grid's P(error) is.
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
        Which of the run's grids. The probe is fitted on all examples, so splits differ only in its
        calibration, and where C was chosen in their folds.

    Returns
    -------
    SavedProbe
        A scikit-learn classifier that is fitted: `fit` leaves it as it is, and so does `clone`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the run has no such split, layer, token or probe.
    FileNotFoundError
        If the run has no finished probe stage.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> probe = pk.load_probe(run, layer=15, token="exact_answer_first")
    >>> X, wrong, ids = run.cell(15, "exact_answer_first")
    >>> probe.predict_proba(X[:4])[:, 1].round(2)
    array([0.16, 0.25, 0.94, 0.85])
    >>> wrong[:4]
    array([False, False,  True,  True])
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    layer = arguments.whole("layer", layer)
    arguments.text("token", token, such_as="-1")
    arguments.text("split", split, such_as="random")
    grid = run.grid(split)
    if "coef" not in grid:
        raise ValueError(
            f"{run.path} has no probes to load: it is an example run, and its coefficients were "
            "left out to keep it small. Make a run of your own with `probekit run`, or with the "
            "notebooks 01 and 02."
        )
    layers = grid["layer"].to_numpy().tolist()
    tokens = [str(value) for value in grid["token"].to_numpy()]
    for name, given, have in (("layer", layer, layers), ("token", token, tokens)):
        if given not in have:
            raise ValueError(
                f"The grid has no {name} {arguments.shown(given)}. It has: "
                f"{arguments.listed(have)}."
            )
    cell = grid.isel(layer=layers.index(layer), token=tokens.index(token))
    coef, intercept = cell["coef"].to_numpy(), float(cell["intercept"])
    if np.isfinite(cell["auroc"]) and np.isnan(coef).all():
        raise ValueError(
            f"The grid's file has no coefficients of method={grid.attrs.get('method')!r}: only "
            "linear probes are kept. Fit a classifier on run.activations() instead."
        )
    if not np.isfinite(coef).all() or not np.isfinite(intercept):
        raise ValueError(
            f"Layer {layer}, token {token} has no probe: too few wrong or too few right answers "
            "have this token to train without each fold. Take another cell."
        )
    if "slope" in grid:  # older runs have no calibration
        slope, offset, prior = (float(cell[name]) for name in ("slope", "offset", "prior"))
        coef, intercept = slope * coef.astype(float), slope * (intercept - prior) + offset
    source = f"{grid.attrs.get('site', 'the')} activations at layer {layer}, token {token}"
    return SavedProbe(coef, intercept, source)


class SavedProbe(ClassifierMixin, BaseEstimator):
    """A fitted linear probe with scikit-learn's interface; the positive class is a wrong answer."""

    def __init__(self, coef, intercept, source="activations"):
        # As given: scikit-learn's clone compares them by identity.
        self.coef = coef
        self.intercept = intercept
        self.source = source
        # All else that scikit-learn's fitted linear classifiers have.
        self.classes_ = np.array([False, True])
        self.coef_ = np.asarray(coef, dtype=float)[None]
        self.intercept_ = np.array([intercept], dtype=float)
        self.n_features_in_ = len(coef)

    def fit(self, X, y=None):
        """Do nothing: the probe is fitted. For pipelines, which fit their last step."""
        return self

    def decision_function(self, X):
        """Calibrated log-odds that each answer is wrong."""
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
