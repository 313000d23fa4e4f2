"""The whole grid as one detector: nothing is picked, so nothing has to be corrected for picking.

The log-odds of all cells are averaged into one number an answer. It is calibrated into P(error),
can be held against the controls, saved, and given to answers that the run has not seen.
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import logit
from scipy.stats import beta, t

from probekit import arguments
from probekit.probing.auroc import (
    cluster_sums,
    independent_pairs,
    interval,
    measured,
    null_distance,
    standard_error,
)
from probekit.probing.calibration import Calibration, reliability
from probekit.probing.folds import example_groups
from probekit.run.files import explained, parse_json, replacing

FILES = "detector.safetensors", "detector.json"
# What of a grid says where its detector may be used and what it was made of.
_ORIGIN = ("model", "revision", "site", "split", "protocol", "folds", "C", "seed", "method")


def detector(grid, controls=None, *, tokens=None, layers=None):
    """Make one detector of all cells of a grid: the mean of their out-of-fold log-odds.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`, cross-validated.
    controls : Dataset, optional
        From `controls`, of this grid: what the detector has to beat.
    tokens : sequence of str, optional
        Only the cells of these tokens, named before looking at the grid. All by default.
    layers : sequence of int, optional
        Only the cells of these layers, likewise.

    Returns
    -------
    Detector

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the grid is of one split into training and test, is of an older version, lacks a token
        or layer, or has no probe in any of the cells.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> detector = pk.detector(run.grid("answer"), run.controls("answer"))
    >>> detector
    Detector of 9 cells: AUROC 0.73 [0.58, 0.84], p = 0.0014; against all controls
    together -0.04 [-0.18, +0.10]; joining them +0.00 [-0.05, +0.05]; ECE 0.06,
    Brier 0.212 (0.250)
    >>> detector.by_layer[["layer", "auroc", "auroc_low", "auroc_high"]].round(2)
       layer  auroc  auroc_low  auroc_high
    0      6   0.60       0.42        0.76
    1     15   0.71       0.56        0.83
    2     24   0.70       0.55        0.82
    """
    arguments.grid(grid, ("score", "auroc", "correct", "fold", "id"), ("split", "folds"))
    if grid.sizes.get("other", 0) < 1 or "slope" not in grid:
        raise ValueError(
            "A detector takes a cross-validated grid of this version, with `log_odds_without`. "
            "Make it with pk.probe_grid(activations); a grid of the published protocol or "
            "of an older version has too little to measure it by."
        )
    there = [str(token) for token in grid["token"].to_numpy()]
    wanted = None if tokens is None else arguments.labels("token", tokens, there)
    rows = grid["layer"].to_numpy().tolist()
    band = None if layers is None else arguments.labels("layer", layers, rows)
    columns = np.isin(there, wanted) if wanted is not None else np.ones(len(there), bool)
    chosen = np.isin(rows, band) if band is not None else np.ones(len(rows), bool)
    pooled = _Pooled(grid)
    cells = chosen[:, None] & columns & pooled.usable
    if not cells.any():
        raise ValueError("None of these cells has a probe, so there is nothing to pool.")
    variants, n_cells = pooled.mean(cells)
    measures = pooled.measures(variants)
    p_error, final = _calibrated(grid, variants, pooled.wrong)
    gain = dict.fromkeys(_OVER_CONTROLS, np.nan)
    if controls is not None:
        from probekit.probing.baselines import gain_of_scores

        gain |= gain_of_scores(variants, grid, controls)
    scored = ~np.isnan(p_error)
    quality = reliability(p_error[scored], pooled.wrong[scored])
    of_example = {n: c for n, c in grid.coords.items() if c.dims == ("example",)}
    probes = {name: grid[name].to_numpy() for name in _PROBES if name in grid}
    return Detector(
        **measures,
        **gain,
        **quality,
        p_value=pooled.p_value(variants[0], chosen, columns),
        p_error=xr.DataArray(p_error, of_example, ("example",)),
        log_odds=xr.DataArray(variants[0], of_example, ("example",)),
        n_cells=xr.DataArray(n_cells, of_example, ("example",)),
        by_layer=pooled.table("layer", rows, chosen, columns),
        by_token=pooled.table("token", there, chosen, columns),
        calibration=final,
        groups=pooled.groups,
        cells=cells,
        layers=np.array(rows),
        tokens=tuple(there),
        probes=probes if "coef" in probes else None,
        origin={name: _plain(grid.attrs[name]) for name in _ORIGIN if name in grid.attrs},
    )


def pooled_scores(grid):
    """Mean log-odds of all cells, (variant, example), as `measured` takes them."""
    pooled = _Pooled(grid)
    return pooled.mean(pooled.usable)[0]


class _Pooled:
    """A grid's log-odds, to be averaged over cells and measured."""

    def __init__(self, grid):
        self.grid = grid
        self.wrong = ~grid["correct"].to_numpy().astype(bool)
        self.groups = example_groups(grid, grid.attrs["split"])
        self.usable = grid["auroc"].transpose("layer", "token").notnull().to_numpy()
        score = grid["score"].transpose("layer", "token", "example").to_numpy()
        slope, offset = (grid[n].to_numpy()[..., None] for n in ("slope", "offset"))
        # Of a P(error) so near 1 that doubles can't tell, the largest log-odds that they can.
        edge = 1 - np.finfo(float).epsneg
        own = (logit(np.clip(score, 1 - edge, edge)) - offset) / slope
        others = grid["log_odds_without"].transpose("layer", "token", "other", "example")
        self.log_odds = np.concatenate([own[:, :, None], others.to_numpy()], 2)

    def mean(self, cells):
        """Mean log-odds over cells (layer, token): (variant, example), and of how many cells."""
        chosen = self.log_odds[cells]
        n_cells = (~np.isnan(chosen[:, 0])).sum(0)
        with np.errstate(invalid="ignore"):
            return np.nansum(chosen, 0) / np.where(n_cells, n_cells, np.nan), n_cells

    def measures(self, variants):
        """Area with its interval, and the number of answers."""
        area, units, n_units = measured(variants, self.wrong, self.groups)
        scored = ~np.isnan(variants[0])
        n_pairs = independent_pairs(scored, self.wrong, self.groups)
        low, high = interval(area, standard_error(units), n_units=n_units, n_pairs=n_pairs)
        return {
            "auroc": float(area),
            "auroc_low": float(low),
            "auroc_high": float(high),
            "n_examples": int(scored.sum()),
            "n_errors": int((scored & self.wrong).sum()),
        }

    def p_value(self, own, layers, tokens):
        """P-value of pooled log-odds (example,), from the permuted grids pooled in the same way.

        Their `null_distance` is close to normal: how far the real one lies from their mean, in
        their standard deviations, has Student's t distribution. Below ten permutations they are
        counted.
        Only whole layers or whole tokens are kept of the permuted grids; else it is NaN, as in an
        example run, which keeps none of them.
        """
        if "null_by_token" not in self.grid:
            return np.nan
        if layers.all():
            kept = self.grid["null_by_token"].transpose("token", "permutation", "example")
            null = kept.to_numpy()[tokens].sum(0)
        elif tokens.all():
            kept = self.grid["null_by_layer"].transpose("layer", "permutation", "example")
            null = kept.to_numpy()[layers].sum(0)
        else:
            return np.nan
        cells = layers[:, None] & tokens & self.usable
        n_cells = (~np.isnan(self.log_odds[cells][:, 0])).sum(0)
        null = null / np.where(n_cells, n_cells, np.nan)
        labels = self.grid["null_wrong"].transpose("permutation", "example").to_numpy().astype(bool)
        z = null_distance(null, labels, self.groups)
        z = z[~np.isnan(z)]
        n, own = len(z), null_distance(own, self.wrong, self.groups)
        if n < 10 or not z.std() > 0:
            return float((1 + (z >= own).sum()) / (1 + n)) if n else np.nan
        return float(t.sf((own - z.mean()) / (z.std(ddof=1) * np.sqrt(1 + 1 / n)), n - 1))

    def table(self, dimension, names, layers, tokens):
        """The same for each layer over some tokens, or for each token over some layers."""
        rows = []
        for i, name in enumerate(names):
            one = np.arange(len(names)) == i
            chosen = (layers & one, tokens) if dimension == "layer" else (layers, tokens & one)
            cells = chosen[0][:, None] & chosen[1] & self.usable
            row = {dimension: name}
            if cells.any():
                variants, _ = self.mean(cells)
                row |= self.measures(variants) | {"p_value": self.p_value(variants[0], *chosen)}
            rows.append(row)
        columns = [dimension, "auroc", "auroc_low", "auroc_high", "p_value", "n_examples"]
        return pd.DataFrame(rows).reindex(columns=columns)


def _calibrated(grid, variants, wrong):
    """P(error) of each answer by a map that its fold had no part in, and the map for new answers.

    For a fold, the map is fitted on the other folds' answers, scored by fits that lacked this fold
    as well as their own; whether Platt's or isotonic is decided among these answers.
    """
    fold = grid["fold"].to_numpy()
    n_folds = variants.shape[0] if grid.attrs["folds"] > 2 else 2
    p_error = np.full(len(wrong), np.nan)
    scored = ~np.isnan(variants[0])
    for k in range(n_folds):
        rest = scored & (fold != k)
        if n_folds == 2:  # no fit lacks both folds: those of the other fold have seen this one
            inner = variants[0]
        else:
            # Of an example of fold j, the fit that also lacks fold k is the (k - j)-th other.
            other = (k - fold) % n_folds
            inner = variants[np.where(fold == k, 0, other), np.arange(len(wrong))]
        fit = Calibration.better if n_folds > 2 else lambda x, y, _: Calibration.platt(x, y)
        tested = scored & (fold == k)
        p_error[tested] = fit(inner[rest], wrong[rest], fold[rest])(variants[0][tested])
    return p_error, Calibration.better(variants[0][scored], wrong[scored], fold[scored])


@dataclass(frozen=True)
class Threshold:
    """A threshold on P(error), and what it guarantees."""

    p_error: float
    """Answer if P(error) is at most this; NaN if no threshold has the guarantee."""
    answered: float
    """Share of the run's answers that are given then."""
    error_rate: float
    """Share of these that are wrong."""
    bound: float
    """Upper confidence bound of that share."""
    target: float
    confidence: float

    def __str__(self):
        wanted = f"an error rate of at most {percent(self.target)}"
        if np.isnan(self.p_error):
            return (
                f"No threshold on P(error) has {wanted} with {percent(self.confidence)} confidence."
            )
        return (
            f"Answer if P(error) is at most {self.p_error:.2f}: {wanted}, with "
            f"{percent(self.confidence)} confidence. {self.answered:.0%} are answered, and "
            f"{self.error_rate:.0%} of these are wrong."
        )


def percent(share):
    """A share that somebody chose, to the digits that were chosen: 12.5%, not 12%."""
    return f"{100 * share:.6g}%"


@dataclass(frozen=True, repr=False)
class Detector:
    """The cells of a grid as one detector of wrong answers. Made by `detector`."""

    auroc: float
    """Of detecting wrong answers, out of fold."""
    auroc_low: float
    auroc_high: float
    """Its 95 % interval, which counts the sampling of the answers and the training."""
    p_value: float
    """Against the permuted grids, pooled in the same way."""
    n_examples: int
    n_errors: int
    p_error: xr.DataArray
    """Calibrated P(error), (example,), by fits and a map that the answer's fold had no part in."""
    log_odds: xr.DataArray
    """Mean log-odds of the cells, (example,), out of fold."""
    n_cells: xr.DataArray
    """Over how many cells, (example,): those whose token the response has."""
    gain: float
    gain_low: float
    gain_high: float
    """AUROC less that of all controls together, with its 95 % interval; NaN without controls."""
    absorbed: float
    """Share of the signal that the controls have as well."""
    added: float
    added_low: float
    added_high: float
    """AUROC of all controls with the detector, less that of the controls alone, with its 95 %
    interval: what the network adds. NaN without at least three folds."""
    ece: float
    """Expected calibration error: mean distance of P(error) and the share of errors, in tenths."""
    brier: float
    brier_base: float
    """Brier score of P(error), and of the error rate in its place."""
    by_layer: pd.DataFrame
    by_token: pd.DataFrame
    """The same measures for the cells of each layer, and of each token."""
    calibration: Calibration
    groups: np.ndarray | None
    cells: np.ndarray
    layers: np.ndarray
    tokens: tuple
    probes: dict | None
    origin: dict

    def __repr__(self):
        text = (
            f"Detector of {int(self.cells.sum())} cells: AUROC {self.auroc:.2f} "
            f"[{self.auroc_low:.2f}, {self.auroc_high:.2f}]"
        )
        if np.isfinite(self.p_value):
            text += f", p = {self.p_value:.2g}"
        if np.isfinite(self.gain):
            text += f"; against all controls together {_signed(self, 'gain')}"
        if np.isfinite(self.added):
            text += f"; joining them {_signed(self, 'added')}"
        return f"{text}; ECE {self.ece:.2f}, Brier {self.brier:.3f} ({self.brier_base:.3f})"

    def threshold(self, error_rate=0.2, confidence=0.95):
        """Find how high P(error) may be for the answers below it to be mostly right, guaranteed.

        Parameters
        ----------
        error_rate : float
            Highest share of wrong answers among those that are given.
        confidence : float

        Returns
        -------
        Threshold
            Prints as a sentence. For answers like those that were tested on: with random folds,
            new questions with the same answers.

        Notes
        -----
        Thresholds that give 10 %, 15 %, ... of the answers are tested in this order, each by an
        upper bound of its error rate, until the first fails; and so from 25 % and from 50 % on,
        each with a third of the risk. So the level holds for all together (fixed-sequence testing
        with several starts; Angelopoulos et al., *Learn then Test*, 2021). The bound is
        Clopper and Pearson's, with groups of answers on as many answers as they are worth (Korn
        and Graubard, Survey Methodology 1998).

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> detector = run.detector("random")
        >>> print(detector.threshold(0.2))
        No threshold on P(error) has an error rate of at most 20% with 95% confidence.
        >>> print(detector.threshold(0.4))
        Answer if P(error) is at most 0.67: an error rate of at most 40%, with 95%
        confidence. 60% are answered, and 29% of these are wrong.
        """
        arguments.number("error_rate", error_rate, 0, 1)
        arguments.number("confidence", confidence, 0.5, 1)
        wrong = ~self.p_error["correct"].to_numpy().astype(bool)
        p = self.p_error.to_numpy()
        scored = np.flatnonzero(~np.isnan(p))
        order = scored[np.argsort(p[scored], kind="stable")]
        best = (np.nan, 0.0, np.nan, np.nan)
        starts = (10, 25, 50)
        each = 1 - (1 - confidence) / len(starts)
        for start in starts:
            for share in range(start, 101, 5):
                limit = p[order[int(np.ceil(share / 100 * len(order))) - 1]]
                given = order[p[order] <= limit]  # with all that tie
                bound = _highest_rate(wrong[given], self.groups, given, each)
                if bound > error_rate:
                    break
                found = limit, len(given) / len(order), wrong[given].mean(), bound
                best = max(best, found, key=lambda b: b[1])
        return Threshold(*map(float, best), float(error_rate), float(confidence))

    def __call__(self, activations):
        """P(error) of new answers from their activations, NaN where they have no token of it.

        Parameters
        ----------
        activations : Dataset
            ``activation(example, layer, token, feature)``, of the same model and site.

        Returns
        -------
        DataArray
            Over example.
        """
        log_odds, _ = self._log_odds(activations)
        coords = {n: c for n, c in activations.coords.items() if c.dims == ("example",)}
        return xr.DataArray(self.calibration(log_odds), coords, ("example",))

    def _log_odds(self, activations):
        """Mean log-odds of the cells, (example,), and of how many."""
        dims = {"example", "layer", "token", "feature"}
        given = activations.get("activation") if isinstance(activations, xr.Dataset) else None
        if given is None or {*given.dims} != dims:
            raise TypeError(
                "activations must be a Dataset with `activation(example, layer, token, feature)`; "
                f"got {arguments.shown(activations)}."
            )
        array = activations["activation"]
        self._check("The activations are", activations.attrs)
        total = np.zeros(array.sizes["example"])
        n_cells = np.zeros(array.sizes["example"], int)
        lacking = {*self.tokens} - {str(token) for token in array["token"].to_numpy()}
        lacking |= {*self.layers.tolist()} - {*array["layer"].to_numpy().tolist()}
        if lacking:
            raise ValueError(
                f"The activations lack {arguments.listed(sorted(map(str, lacking)))} of the "
                "detector's layers and tokens."
            )
        array = array.assign_coords(token=[str(token) for token in array["token"].to_numpy()])
        coef, intercept, prior = (self.probes[n] for n in _PROBES)
        if array.sizes["feature"] != coef.shape[2]:
            raise ValueError(
                f"The activations have {array.sizes['feature']} features, but the detector's "
                f"probes take {coef.shape[2]}. Give it activations of the same model and site."
            )
        for i, j in zip(*np.nonzero(self.cells), strict=True):
            cell = array.sel(layer=self.layers[i], token=self.tokens[j])
            X = cell.transpose("example", "feature").to_numpy().astype(float)
            there = ~np.isnan(X[:, 0])
            total[there] += X[there] @ coef[i, j].astype(float) + intercept[i, j] - prior[i, j]
            n_cells += there
        with np.errstate(invalid="ignore"):
            return total / np.where(n_cells, n_cells, np.nan), n_cells

    def _check(self, what, given):
        """Refuse what is of another model or site; or anything, if there are no probes."""
        if self.probes is None:
            raise ValueError(
                "This detector has no probes: it is of an example run, whose coefficients were "
                "left out to keep it small. Make one from a run of your own."
            )
        for name in ("model", "revision", "site"):
            here, there = given.get(name), self.origin.get(name)
            if None not in (here, there) and here != there:
                raise ValueError(
                    f"{what} of {name} {arguments.shown(here)}, and the detector is of "
                    f"{arguments.shown(there)}. It can't read others."
                )

    def predict(self, lm, questions, **options):
        """Ask a model new questions, and say how likely each of its answers is wrong.

        Parameters
        ----------
        lm : LanguageModel
            The model that the detector was made with, from `load_model`.
        questions : DataFrame or sequence of str
            From `read_questions`; or questions alone, whose answers nobody knows.
        **options
            Such as `max_new_tokens`; as for `extract`.

        Returns
        -------
        DataFrame
            `question`, `response`, `exact_answer` and `p_error`, and `correct` where accepted
            answers are known. NaN where the response has none of the detector's tokens.

        Examples
        --------
        >>> import probekit as pk
        >>> run = pk.Run("data/examples/cities")
        >>> lm = pk.load_model_of(run)
        >>> asked = pk.read_questions("capitals", limit=3)
        >>> predicted = run.detector().predict(lm, asked)
        >>> predicted[["exact_answer", "correct", "p_error"]].round(2)
          exact_answer  correct  p_error
        0       KADAMA    False     0.69
        1        Dhaka     True     0.16
        2   Phnom Penh     True     0.11
        """
        if not (hasattr(lm, "answer") and hasattr(lm, "revision")):
            raise TypeError(
                f"lm must be a LanguageModel, from load_model; got {arguments.shown(lm)}."
            )
        self._check("lm is", {"model": lm.name, "revision": lm.revision})
        answers, activations = lm.answer(
            questions, site=self.origin.get("site", "mlp_out"), **options
        )
        p_error = self(activations).to_numpy()
        shown = ["id", "question", "response", "exact_answer", "correct"]
        return answers[[n for n in shown if n in answers]].assign(p_error=p_error)

    def save(self, folder):
        """Save it: arrays as safetensors, the rest as JSON.

        Parameters
        ----------
        folder : path
            Made if it is not there.

        Returns
        -------
        list of Path
        """
        from safetensors.numpy import save

        folder = arguments.path("folder", folder)
        if folder.is_file():
            raise ValueError(f"{folder} is a file. Give a folder's path.")
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
        arrays = {"cells": self.cells, "layers": self.layers, **(self.probes or {})}
        of_example = ("p_error", "log_odds", "n_cells")
        arrays |= {name: getattr(self, name).to_numpy() for name in of_example}
        arrays["correct"] = self.p_error["correct"].to_numpy()
        if self.groups is not None:
            arrays["groups"] = self.groups
        if self.calibration.points is not None:
            arrays["points"] = self.calibration.points
        about = {
            "format": 1,
            **{name: getattr(self, name) for name in _NUMBERS},
            "calibration": [self.calibration.slope, self.calibration.offset],
            "tokens": list(self.tokens),
            "ids": self.p_error["id"].to_numpy().astype(str).tolist(),
            "by_layer": self.by_layer.to_dict("list"),
            "by_token": self.by_token.to_dict("list"),
            "origin": self.origin,
        }
        contents = (
            save({name: np.ascontiguousarray(array) for name, array in arrays.items()}),
            json.dumps(_without_nan(about), allow_nan=False).encode(),
        )
        paths = [folder / name for name in FILES]
        for path, content in zip(paths, contents, strict=True):
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        return paths


def load_detector(tensors, about):
    """A detector from the contents of its two files, as bytes; nothing of it is run.

    Raises
    ------
    ValueError
        If they are not what `Detector.save` wrote.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays, said = load(tensors), parse_json(about.decode())
        if said["format"] != 1:
            raise ValueError("it is of a later version of probekit")
        ids, tokens = [np.array([*map(str, said[name])], object) for name in ("ids", "tokens")]
        layers, cells, n = arrays["layers"], arrays["cells"], len(ids)
        if layers.ndim != 1 or layers.dtype.kind not in "iu":
            raise ValueError("its layers are not whole numbers")
        over = {name: arrays[name].shape for name in arrays.keys() & {*_OF_CELLS, *_OF_EXAMPLES}}
        wanted = {name: (len(layers), len(tokens)) if name in _OF_CELLS else (n,) for name in over}
        if over != wanted or not {"cells", "correct", *_SCORES} <= {*over}:
            raise ValueError("its arrays are not over its cells and answers")
        probes = {name: arrays[name] for name in _PROBES} if "coef" in arrays else None
        if probes and (probes["coef"].ndim != 3 or probes["coef"].shape[:2] != cells.shape):
            raise ValueError("its probes are not over its cells")
        points, platt = arrays.get("points"), said["calibration"]
        flat = points is not None and (points.ndim != 2 or len(points) != 2 or not points.size)
        if flat or len(platt) != 2:
            raise ValueError("its calibration is not a map")
        if not all(map(str.isprintable, tokens)):
            raise ValueError("its tokens are no names")
        numbers = {name: _number(said[name]) for name in _NUMBERS}
        slope, offset = map(_number, platt)
        tables = {
            f"by_{kind}": pd.DataFrame(said[f"by_{kind}"])[[kind, *_MEASURES]].astype(
                dict.fromkeys(_MEASURES, float)
            )
            for kind in ("layer", "token")
        }
        for name, table in tables.items():
            if not {*table[name[3:]]} <= {*(layers.tolist() if name == "by_layer" else tokens)}:
                raise ValueError("its tables are not of its layers and tokens")
        if not isinstance(said["origin"], dict):
            raise ValueError("its origin is of another form")
        origin = {name: said["origin"][name] for name in _ORIGIN if name in said["origin"]}
        if not all(isinstance(value, (str, int, float, list)) for value in origin.values()):
            raise ValueError("its origin is of another form")
        if not isinstance(origin.get("split", ""), str):
            raise ValueError("its split is no name")
        tables["by_layer"] = tables["by_layer"].astype({"layer": int})
    except _OF_OTHER_FORM as error:
        raise ValueError(f"it is not what Detector.save writes: {error!r}") from error
    except SafetensorError as error:
        raise ValueError(f"it is not what Detector.save writes: {error}") from error
    coords = {"id": ("example", ids), "correct": ("example", arrays["correct"].astype(bool))}
    return Detector(
        **numbers,
        **{name: xr.DataArray(arrays[name], coords, ("example",)) for name in _SCORES},
        **tables,
        calibration=Calibration(slope, offset, points),
        groups=arrays.get("groups"),
        cells=cells.astype(bool),
        layers=layers,
        tokens=tuple(tokens),
        probes=probes,
        origin=origin,
    )


# What is saved of a detector besides its tables: numbers, and arrays over cells and answers.
_MEASURES = ("auroc", "auroc_low", "auroc_high", "p_value", "n_examples")
_OVER_CONTROLS = ("gain", "gain_low", "gain_high", "absorbed", "added", "added_low", "added_high")
_NUMBERS = (*_MEASURES, "n_errors", *_OVER_CONTROLS, "ece", "brier", "brier_base")
_SCORES = ("p_error", "log_odds", "n_cells")
_PROBES = ("coef", "intercept", "prior")
_OF_CELLS = ("cells", "intercept", "prior")
_OF_EXAMPLES = ("correct", "groups", *_SCORES)
# What reading files of another form raises, besides a ValueError.
_OF_OTHER_FORM = (LookupError, TypeError, AttributeError, ArithmeticError, UnicodeDecodeError)


def _number(value):
    """A number of a JSON file, where NaN is null."""
    if not (value is None or isinstance(value, (int, float))):
        raise TypeError(f"{arguments.shown(value)} is not a number")
    return np.nan if value is None or not np.isfinite(float(value)) else value


def _highest_rate(wrong, groups, members, confidence):
    """Upper confidence bound of the share of wrong ones, where groups are alike inside."""
    n, k = len(wrong), wrong.sum()
    worth = n
    if groups is not None:
        errors = cluster_sums(wrong - wrong.mean(), groups[members])
        n_groups = len(errors)
        plain = n * wrong.mean() * (1 - wrong.mean())
        if n_groups < 2:
            return 1.0
        if plain > 0:
            # How many times as uncertain as independent answers; never less than those.
            design = max((errors**2).sum() * n_groups / (n_groups - 1) / plain, 1.0)
            worth = n / design * (t.ppf(confidence, n - 1) / t.ppf(confidence, n_groups - 1)) ** 2
        else:
            worth = n_groups
    found = k * worth / n
    return float(beta.ppf(confidence, found + 1, worth - found)) if found < worth else 1.0


def _signed(detector, name):
    """A difference with its interval, in words; what rounds to 0 has no minus."""
    values = (getattr(detector, name + end) for end in ("", "_low", "_high"))
    value, low, high = (f"{v:+.2f}".replace("-0.00", "+0.00") for v in values)
    return f"{value} [{low}, {high}]"


def _plain(value):
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _without_nan(value):
    """The same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    value = _plain(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value
