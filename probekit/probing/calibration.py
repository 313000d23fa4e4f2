"""P(error) from log-odds: calibrated by Platt's sigmoid or by isotonic regression."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression

# The least slope, over log-odds of unit spread: where nothing goes with errors, P(error) hardly
# differs, and still has an order.
_FLATTEST = 1e-3


@dataclass(frozen=True)
class Calibration:
    """A map from log-odds to P(error) that never falls.

    Platt's is ``expit(slope * log_odds + offset)``. An isotonic map has `points` too, log-odds and
    P(error), (2, point), between which it is straight.
    """

    slope: float
    offset: float
    points: np.ndarray | None = None

    @classmethod
    def platt(cls, log_odds, wrong):
        """Fit Platt's map (1999), whose targets keep it finite where the classes are separated.

        The slope is positive: a score that goes the wrong way is made nearly flat, not turned.

        `log_odds` of float and `wrong` of bool, both (example,), without NaN.
        """
        n_wrong, n_right = wrong.sum(), (~wrong).sum()
        target = np.where(wrong, (n_wrong + 1) / (n_wrong + 2), 1 / (n_right + 2))
        centre, spread = log_odds.mean(), log_odds.std()
        spread = spread if spread > 0 else 1.0
        x = (log_odds - centre) / spread

        def loss(map_):
            margin = map_[0] * x + map_[1]
            error = (expit(margin) - target) / len(x)
            value = np.mean(np.logaddexp(0, margin) - target * margin)
            return value, np.array([error @ x, error.sum()])

        base = logit(target.mean())
        slope, offset = minimize(loss, [0.0, base], jac=True, method="BFGS").x
        if slope < _FLATTEST:
            slope, offset = _FLATTEST, base
        return cls(float(slope / spread), float(offset - slope * centre / spread))

    @classmethod
    def isotonic(cls, log_odds, wrong):
        """Fit isotonic regression, whose ends are as far from 0 and 1 as Platt's targets are."""
        limits = 1 / ((~wrong).sum() + 2), (wrong.sum() + 1) / (wrong.sum() + 2)
        fitted = IsotonicRegression(y_min=limits[0], y_max=limits[1], out_of_bounds="clip")
        fitted.fit(log_odds, wrong)
        points = np.array([fitted.X_thresholds_, fitted.y_thresholds_], float)
        return cls(np.nan, np.nan, points)

    @classmethod
    def better(cls, log_odds, wrong, part):
        """Fit the kind with the lower log-loss on parts (example,) that it was not fitted on."""
        parts = [part == p for p in np.unique(part)]
        loss = {}
        for kind in (cls.platt, cls.isotonic):
            p = np.empty(len(wrong))
            for tested in parts:
                p[tested] = kind(log_odds[~tested], wrong[~tested])(log_odds[tested])
            with np.errstate(divide="ignore"):  # certain and wrong is infinitely bad
                loss[kind] = -np.mean(np.log(np.where(wrong, p, 1 - p)))
        return min(loss, key=loss.get)(log_odds, wrong)

    def __call__(self, log_odds):
        """P(error) of log-odds of any shape."""
        if self.points is None:
            return expit(self.slope * log_odds + self.offset)
        return np.interp(log_odds, *self.points)


def reliability(p_error, wrong, bins=10):
    """How far P(error) is from the shares of errors: `ece`, `brier`, and `brier_base`.

    The expected calibration error is over `bins` groups of equally many answers, in the order of
    their P(error); `brier_base` is the Brier score of the error rate in place of P(error).
    """
    groups = np.array_split(np.argsort(p_error, kind="stable"), min(bins, len(wrong)))
    away = [abs(p_error[g].mean() - wrong[g].mean()) * len(g) for g in groups]
    return {
        "ece": float(sum(away) / len(wrong)),
        "brier": float(np.mean((p_error - wrong) ** 2)),
        "brier_base": float(wrong.mean() * (1 - wrong.mean())),
    }
