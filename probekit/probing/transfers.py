"""Detectors of one run on the answers of another: whether what they read holds elsewhere.

A detector that reads which answers are hard, or how a question is worded, has a high AUROC on
questions like its own and none on others. One that reads that an answer is wrong has both.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr

from probekit import arguments
from probekit.probing.auroc import (
    auroc_influence,
    cluster_sums,
    critical,
    independent_pairs,
    interval,
    measured,
)
from probekit.probing.baselines import against_control, gain_over_controls, rival_of
from probekit.probing.cells import Fitter, one_thread, read_cell
from probekit.probing.folds import example_groups
from probekit.probing.grid import METHODS
from probekit.questions.grading import normalize
from probekit.run.directory import Run

_ORIGIN = ("model", "revision", "site")
_BLOCKS = 20  # of the training run's answers, left out in turn
_RIVALS = 25  # cells that might have been chosen, at most, in which fits are made again
_LEAST = 10  # right answers, and wrong ones, below which nothing is measured
_ENDS = ("", "_low", "_high")
_TOGETHER = ("", "_low_simultaneous", "_high_simultaneous")


@arguments.plainly()
def transfer(runs, *, split=None, cell=None):
    """Test the detector of each run on the answers of every other.

    Parameters
    ----------
    runs : sequence of Run
        At least two with activations and probes, of which at least two are of the same model,
        revision and site. Probes can't read the activations of another.
    split : str, optional
        Of which of each run's grids the diagonal and the controls are. By default the strictest
        that the run has, as in `Run.detector`.
    cell : "chosen" or (int, str), optional
        One cell in place of all: a layer and a token that were named beforehand, or ``"chosen"``,
        the cell with the highest AUROC in the training run's grid, chosen without the other runs.

    Returns
    -------
    Dataset
        Over (train, test), names of runs. `auroc` of the mean log-odds of the training run's
        probes, fitted on all its answers, in detecting the wrong answers of the other run; with
        its 95 % interval `auroc_low` and `auroc_high`, and `training_error`, the part of its
        standard error that comes from which answers the probes were trained on. `gain`,
        `gain_low` and `gain_high`: the same less the AUROC of the tested run's own controls
        together, on the same answers; less that of the best one where they are not joined, as with
        two folds. `auroc_low_simultaneous` and so on are ends of intervals that hold for all pairs
        of different runs together (Bonferroni's), NaN on the diagonal; `above_chance`,
        `below_chance` and `above_controls`: whether these say so, False on the diagonal. `summary`
        has these intervals.
        `n_examples`, `n_errors`, `n_cells`. `n_shared` answers of the tested run are left out, as
        the training run has their question.

        `cosine` of the two runs' probes: the correlation of their outputs within runs, averaged
        over the cells. 1 where both read the same direction, 0 where what one reads tells nothing
        of what the other does.

        On the diagonal is the run's own cross-validated detector, or the cell's out-of-fold AUROC.
        Of a chosen cell that is too high, as it was chosen for it; off the diagonal it is not.

        `reason` says why a pair has no number. The attribute `summary` says in words what
        transfers.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If there are fewer than two runs, no two of them can be compared, none has the cell, or a
        run's probes are not linear or were left out.
    FileNotFoundError
        If a run has no activations or no probes.

    Warns
    -----
    UserWarning
        If fewer than 10 right or 10 wrong answers are left to test on: that pair is NaN.

    Notes
    -----
    The interval counts that the tested answers are a sample, by groups that belong together, and
    that so are those that the probes were trained on. A direction that was fitted to nothing has
    an AUROC on other answers that differs from 0.5 by more than the former. So the probes are
    fitted again without each of 20 random groups of the training run's answers (delete-a-group
    jackknife; Kott, Journal of Official Statistics 2001). How far that moves the area varies with
    the tested answers as well, and this part is counted once. Degrees of freedom are Welch and
    Satterthwaite's. Of probes that were fitted to shuffled labels, 93 to 98 % of the intervals
    hold 0.5, in simulations and on activations of a model. Of a chosen cell, the error that comes
    from training is no smaller than the mean over the cells that might have been chosen as well:
    those whose interval reaches its AUROC, or 25 of them. Together, intervals are at
    1 - 0.05 / pairs (Bonferroni).

    The cosine is Mahalanobis', with the covariance of the activations pooled within runs.

    Examples
    --------
    >>> import probekit as pk
    >>> runs = [pk.Run(f"data/examples/{name}") for name in ("cities", "products")]
    >>> transfers = pk.transfer(runs)
    >>> transfers["auroc"].to_pandas().round(2)
    test      cities  products
    train
    cities      0.73      0.48
    products    0.44      0.93
    >>> print(transfers.attrs["summary"])
    Nothing transfers, as far as this can tell. Of 2 pairs of different runs, none
    is above chance, by intervals that hold for all of them together. The highest is
    cities on products 0.48 [0.15, 0.83]; no interval reaches above 0.83. Of these,
    none is above the tested run's own controls.
    """
    runs = _several(runs)
    if split is not None:
        arguments.text("split", split, such_as="random")
    cell = _named(cell)
    sides = [_Side.of(run, split) for run in runs]
    pairs = {(s, t): _obstacle(sides[s], sides[t]) for s, t in np.ndindex(len(runs), len(runs))}
    if not any(not why for (s, t), why in pairs.items() if s != t):
        raise ValueError(
            "No two of the runs can be compared: "
            + " ".join(sorted({why for why in pairs.values() if why})[:3])
            + " Their grids can be: pk.small_multiples, and pk.check_claims of each."
        )
    for side in sides:
        side.choose(cell)
    if not any(side.cells for side in sides):
        raise ValueError(
            f"No run has a probe at layer {cell[0]}, token {arguments.shown(cell[1])}."
        )
    outputs = _Outputs(sides, [pair for pair, why in pairs.items() if not why and len({*pair}) > 1])
    for at in sorted({at for side in sides for at in (*side.cells, *side.rivals)}):
        outputs.take(at)
    names = _distinct([run.name for run in runs])
    return _assembled(sides, pairs, outputs, names, cell)


def _several(runs):
    """At least two runs, as a list."""
    found = arguments.items(runs)
    if found is None:
        raise TypeError(f"runs must be a list of at least two Runs; got {arguments.shown(runs)}.")
    for run in found:
        arguments.instance("Each of runs", run, Run, 'such as Run("data/runs/cities")')
    if len(found) < 2:
        raise ValueError(f"runs must be at least two Runs to be compared, got {len(found)}.")
    return found


def _named(cell):
    """A cell as it is asked for: None, "chosen", or layer and token."""
    if cell is None or (isinstance(cell, str) and cell == "chosen"):
        return cell
    pair = arguments.items(cell)
    if pair is None or len(pair) != 2:
        error = ValueError if pair is not None or isinstance(cell, str) else TypeError
        raise error(
            'cell must be "chosen", or a layer and a token such as (13, "exact_answer_last"); got '
            f"{arguments.shown(cell)}."
        )
    return arguments.whole("The cell's layer", pair[0]), arguments.text("The cell's token", pair[1])


def _distinct(names):
    """Names of runs as they may be shown, with a number where one is there twice."""
    found = []
    for name in (arguments.visible(name, 100) for name in names):
        number, new = 1, name
        while new in found:
            number += 1
            new = f"{name} ({number})"
        found.append(new)
    return found


@dataclass
class _Side:
    """A run as one that trains and as one that is tested on."""

    name: str
    origin: tuple
    grid: xr.Dataset
    detector: object
    controls: xr.Dataset | None
    activations: xr.Dataset
    kept: np.ndarray  # which of its answers are in the grid
    wrong: np.ndarray
    groups: np.ndarray | None
    questions: np.ndarray  # (example,), normalized
    fitter: Fitter
    blocks: np.ndarray  # (block, example), who is trained on without each block
    cells: tuple = ()  # (layer, token) of the probes that are asked for
    rivals: tuple = ()  # of a chosen one those that might have been chosen as well

    @classmethod
    def of(cls, run, split):
        """Read a run; refuse one whose probes can't be used or fitted again."""
        detector = run.detector(split)
        split = detector.origin["split"]
        grid = run.grid(split)
        method = grid.attrs.get("method")
        if method not in METHODS:
            raise ValueError(
                f"The probes of {run.path} are of method={arguments.shown(method)}, and only "
                f"those of {', '.join(METHODS)} are kept. Probe it again with one of these."
            )
        if "coef" not in grid:
            raise ValueError(
                f"{run.path} has no probes: it is an example run, whose coefficients were left "
                "out to keep it small. Make a run of your own with `probekit run`."
            )
        activations = run.activations(grid.attrs["site"])
        kept = np.flatnonzero(activations["exact_answer"].to_numpy() != "")
        if not np.array_equal(activations["id"].to_numpy()[kept].astype(str), grid["id"]):
            raise ValueError(
                f"The grid of {run.path} is of other answers than its activations. Run its probe "
                "stage again."
            )
        try:
            controls = run.controls(split)
        except FileNotFoundError:
            controls = None
        groups = example_groups(grid, split)
        n = grid.sizes["example"]
        return cls(
            name=run.name,
            origin=tuple(grid.attrs.get(each, "unknown") for each in _ORIGIN),
            grid=grid,
            detector=detector,
            controls=controls,
            activations=activations,
            kept=kept,
            wrong=~grid["correct"].to_numpy().astype(bool),
            groups=groups,
            questions=np.array([normalize(each) for each in grid["question"].to_numpy()], object),
            fitter=Fitter(method, bool(grid.attrs.get("standardize", 0)), "cpu"),
            blocks=_blocks(np.arange(n) if groups is None else groups),
        )

    def choose(self, cell):
        """Which cells' probes are asked for, of those that there are."""
        area = self.grid["auroc"].transpose("layer", "token")
        tokens = [str(token) for token in area["token"].to_numpy()]
        there = [(int(area["layer"][i]), tokens[j]) for i, j in np.argwhere(area.notnull().data)]
        if cell == "chosen":
            areas = area.to_numpy()[area.notnull().data]
            best = int(areas.argmax())
            high = self.grid["auroc_high"].transpose("layer", "token").to_numpy()
            near = np.flatnonzero(high[area.notnull().data] >= areas[best])
            near = near[np.argsort(-areas[near], kind="stable")]
            near = near[np.unique(np.linspace(0, len(near) - 1, _RIVALS).astype(int))]
            self.rivals = tuple(there[i] for i in near if i != best)
            there = [there[best]]
        self.cells = tuple(at for at in there if cell in (None, "chosen", at))

    def has(self, at):
        """Whether its answers have activations at a layer and token."""
        return at[0] in self.activations["layer"].to_numpy() and at[1] in self._tokens()

    def read(self, at):
        """Activations of a cell, (example, feature), single precision."""
        layer = self.activations["layer"].to_numpy().tolist().index(at[0])
        X = read_cell(self.activations, layer, self._tokens().index(at[1]), self.kept)
        return X.astype(np.float32) if X.dtype == np.float16 else X

    def probe(self, at):
        """Coefficients of a cell's probe, and its intercept without what it knows of error rates.

        None where the grid has none.
        """
        tokens = [str(token) for token in self.grid["token"].to_numpy()]
        if at[0] not in self.grid["layer"].to_numpy() or at[1] not in tokens:
            return None
        one = self.grid.sel(layer=at[0]).isel(token=tokens.index(at[1]))
        coef, offset = one["coef"].to_numpy().astype(float), float(one["intercept"] - one["prior"])
        return (coef, offset) if np.isfinite(coef).all() and np.isfinite(offset) else None

    def _tokens(self):
        return [str(token) for token in self.activations["token"].to_numpy()]


def _blocks(groups):
    """Who is trained on without each of some random blocks of groups, (block, example).

    The largest groups come first, each into the block with the fewest answers.
    """
    random = np.random.default_rng(0)
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n = min(_BLOCKS, len(sizes))
    block, filled = np.empty(len(sizes), int), np.zeros(n, int)
    order = random.permutation(len(sizes))
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        block[group] = filled.argmin()
        filled[block[group]] += sizes[group]
    return block[groups] != np.arange(n)[:, None]


def _obstacle(train, test):
    """Why the probes of a run can't read another's activations; nothing if they can."""
    for what, here, there in zip(_ORIGIN, train.origin, test.origin, strict=True):
        if here != there:
            return (
                f"{train.name} is of {what} {arguments.shown(here)} and {test.name} of "
                f"{arguments.shown(there)}: a probe reads the activations of its own model only."
            )
    sizes = [side.activations.sizes["feature"] for side in (train, test)]
    if sizes[0] != sizes[1]:
        names = f"{train.name} and {test.name}"
        return f"The activations of {names} have {sizes[0]} and {sizes[1]} features."
    return ""


class _Outputs:
    """Log-odds of each run's probes on the other runs, summed up cell by cell.

    A run's activations may be larger than memory, those of a cell are not.
    """

    def __init__(self, sides, pairs):
        self.sides = sides
        self.pairs = pairs
        shape = {(s, t): (1 + len(sides[s].blocks), len(sides[t].wrong)) for s, t in pairs}
        self.total = {pair: np.zeros(size) for pair, size in shape.items()}
        self.count = {pair: np.zeros(size[1], int) for pair, size in shape.items()}
        self.n_cells = dict.fromkeys(pairs, 0)
        self.cosines = {pair: [] for pair in pairs}
        self.rivals = {pair: [] for pair in pairs}  # their `_trained`

    @one_thread()
    def take(self, at):
        """Add a cell, (layer, token)."""
        X = {}

        def read(side):
            if side not in X:
                X[side] = self.sides[side].read(at)
            return X[side]

        for s, side in enumerate(self.sides):
            tested = [t for a, t in self.pairs if a == s and self.sides[t].has(at)]
            asked = at in side.cells
            if not (asked or at in side.rivals) or not tested:
                continue
            coef, offset = side.probe(at)
            refitted = _refitted(side, read(s), coef)
            for t in tested:
                there = ~np.isnan(read(t)[:, 0])
                x = read(t)[there]
                own = x.astype(float) @ coef + offset
                log_odds = np.vstack([own, refitted(x)])
                if not asked:
                    self.rivals[s, t].append(_trained_on(log_odds, side, self.sides[t], there))
                    continue
                self.total[s, t][:, there] += log_odds
                self.count[s, t] += there
                self.n_cells[s, t] += 1
                other = self.sides[t].probe(at)
                if other is not None:
                    self.cosines[s, t].append(_cosine([read(s), read(t)], coef, other[0]))

    def log_odds(self, pair):
        """Mean log-odds, (1 + block, example): of the probes, and of those without each block."""
        count = self.count[pair]
        return self.total[pair] / np.where(count, count, np.nan)


def _refitted(side, X, coef):
    """Log-odds of a cell's probes without each block, as a function: (block, example)."""
    import torch

    present = ~np.isnan(X[:, 0])
    wrong, weight = side.wrong[present], side.blocks[:, present].astype(np.float32)
    labels = np.broadcast_to(wrong, weight.shape)
    X = torch.tensor(X[present])
    C = np.atleast_1d(side.grid.attrs["C"]).astype(float)
    if len(C) > 1:  # which one the cell's probe has, isn't kept
        everything = np.ones((1, len(wrong)), np.float32)
        fits = [side.fitter.probes(X, wrong[None], everything, c[None]).coef[0] for c in C]
        C = C[[np.argmin([np.square(fit.numpy() - coef).sum() for fit in fits])]]
    possible = (labels & (weight > 0)).any(1) & (~labels & (weight > 0)).any(1)
    if not possible.all():  # no jackknife, so no interval
        return lambda x: np.full((len(weight), len(x)), np.nan)
    probes = side.fitter.probes(X, labels, weight, C)
    prior = side.fitter.prior(labels, weight)[:, None]
    return lambda x: probes.decision_function(x).numpy() - prior


def _cosine(activations, a, b):
    """Correlation of two probes' outputs within runs."""
    total = np.zeros((2, 2))
    for X in activations:
        out = X[~np.isnan(X[:, 0])].astype(float) @ np.array([a, b]).T
        out = out - out.mean(0)
        total += out.T @ out
    scale = np.sqrt(total[0, 0] * total[1, 1])
    return total[0, 1] / scale if scale > 0 else np.nan


def _assembled(sides, pairs, outputs, names, cell):
    """All pairs' numbers as a Dataset, and what they say."""
    measures = {}
    for (s, t), why in pairs.items():
        if s == t:
            measures[s, t] = _own(sides[s], cell)
        elif why:
            measures[s, t] = {"reason": why}
        elif not outputs.n_cells[s, t]:
            measures[s, t] = {"reason": f"{names[s]} has no probe of a cell that {names[t]} has."}
        else:
            scores, rivals = outputs.log_odds((s, t)), outputs.rivals[s, t]
            measures[s, t] = _tested(sides[s], sides[t], scores, rivals, names[s], names[t])
            cosines = np.array(outputs.cosines[s, t])
            measures[s, t] |= {
                "n_cells": outputs.n_cells[s, t],
                "cosine": np.nanmean(cosines) if (~np.isnan(cosines)).any() else np.nan,
            }
    _judge({pair: found for pair, found in measures.items() if pair[0] != pair[1]})
    shape = len(sides), len(sides)
    empty = dict.fromkeys(_NUMBERS, np.nan) | dict.fromkeys(_COUNTS, 0)
    empty |= dict.fromkeys(_VERDICTS, False) | {"reason": ""}
    variables = {}
    for name, default in empty.items():
        values = [measures[pair].get(name, default) for pair in np.ndindex(shape)]
        variables[name] = ("train", "test"), np.array(values).reshape(shape)
    coords = {"train": names, "test": names}
    coords["split"] = "test", [str(side.grid.attrs["split"]) for side in sides]
    if cell is not None:
        first = [side.cells[0] if side.cells else (-1, "") for side in sides]
        coords |= {"layer": ("train", [at[0] for at in first])}
        coords |= {"token": ("train", [at[1] for at in first])}
    found = xr.Dataset(variables, coords)
    which = {None: "all", "chosen": "chosen"}.get(cell, str(cell))
    return found.assign_attrs(cell=which, summary=_in_words(found))


_NUMBERS = tuple(f"{name}{end}" for name in ("auroc", "gain") for end in _ENDS)
_NUMBERS += ("training_error", "cosine")
_NUMBERS += tuple(f"{name}{end}" for name in ("auroc", "gain") for end in _TOGETHER[1:])
_COUNTS = ("n_examples", "n_errors", "n_cells", "n_shared")
_VERDICTS = ("above_chance", "below_chance", "above_controls")


def _own(side, cell):
    """What is on the diagonal: the run's own detector or cell, cross-validated."""
    if cell is None:
        names = (*_NUMBERS[:6], "n_examples", "n_errors")
        found = {name: getattr(side.detector, name) for name in names}
        return found | {"n_cells": int(side.detector.cells.sum()), "cosine": 1.0}
    if not side.cells:
        return {"reason": f"{side.name} has no probe of this cell."}
    (layer, token), grid = side.cells[0], side.grid
    tokens = [str(each) for each in grid["token"].to_numpy()]
    one = grid.sel(layer=[layer]).isel(token=[tokens.index(token)])
    names = [*_NUMBERS[:3], "training_error", "n_examples", "n_errors"]
    found = {name: one[name].item() for name in names}
    if side.controls is not None:
        gain = gain_over_controls(one, side.controls)
        found |= {f"gain{end}": gain[f"gain{end}"].item() for end in _ENDS}
    return found | {"n_cells": 1, "cosine": 1.0}


def _tested(train, test, scores, rivals, train_name, test_name):
    """Numbers of a pair from log-odds (1 + block, example), and what `_trained` says of rivals."""
    shared = np.isin(test.questions, train.questions)
    scores = np.where(shared, np.nan, scores)
    wrong, scored = test.wrong, ~np.isnan(scores[0])
    n, errors = int(scored.sum()), int((scored & wrong).sum())
    found = {"n_examples": n, "n_errors": errors, "n_shared": int(shared.sum())}
    if min(errors, n - errors) < _LEAST:
        reason = (
            f"{train_name} can't be tested on {test_name}: {n - errors} right and {errors} wrong "
            f"answers are left, and it takes {_LEAST} of each"
        )
        reason += f"; {shared.sum()} are to questions that both have." if shared.any() else "."
        warnings.warn(arguments.visible(reason), stacklevel=5)
        return found | {"reason": reason}
    area, units, n_units = measured(scores[:1], wrong, test.groups)
    trained = _typical(_trained(scores, wrong, test.groups, train.blocks), rivals)
    error, degrees = _together(units, n_units, trained)
    n_pairs = independent_pairs(scored, wrong, test.groups)
    found |= {"auroc": float(area), "training_error": float(np.sqrt(trained[0]))}

    def ends(level):
        return interval(area, error, level, degrees + 1, n_pairs)

    found |= {"auroc_low": float(ends(0.95)[0]), "auroc_high": float(ends(0.95)[1]), "ends": ends}
    if np.isnan(error):
        found["reason"] = (
            f"Without some groups of the answers of {train_name} all others are of one class, so "
            "there is no interval."
        )
    if test.controls is None:
        return found | {"reason": f"{test_name} has no controls, so there is no gain over them."}
    name = rival_of(test.grid, test.controls)
    rival = test.controls["score"].sel(control=name).to_numpy()
    scores = np.where(np.isnan(rival), np.nan, scores)
    gain, units, n_units, _, _ = (
        each[0] for each in against_control(scores[None, :1], test.grid, test.controls, name)
    )
    trained = _typical(_trained(scores, wrong, test.groups, train.blocks), rivals)
    error, degrees = _together(units, n_units, trained)

    def gain_ends(level):
        reach = critical(level, degrees + 1) * error
        return max(gain - reach, -1.0), min(gain + reach, 1.0)

    low, high = gain_ends(0.95)
    found |= {"gain": float(gain), "gain_low": float(low), "gain_high": float(high)}
    return found | {"gain_ends": gain_ends}


def _trained(scores, wrong, groups, blocks):
    """Of the variance of an area: what comes from the training answers, and its degrees of freedom.

    `scores` (1 + block, example). Gives the variance, that before what also comes from the tested
    answers was taken off, and how many blocks there are less one.

    How far a fit without a block moves the area depends on which answers are tested. That part
    is in the sampling of the tested answers already, and would be counted twice: where nothing can
    be read from them, it is all there is.
    """
    area, influence = auroc_influence(scores[1:], wrong)
    n = len(area)
    if n < 2:
        return np.nan, np.nan, 0
    # A block's share of the answers turns what its loss changes into what it contributes. Of n
    # blocks that are equally large, sums of squares are (n - 1) / n of those of differences.
    share = blocks.mean(1) * np.sqrt(n / (n - 1))
    moved = influence - influence.mean(0)
    moved = moved if groups is None else cluster_sums(moved, groups)
    variance = float(np.square(share * (area - area.mean())).sum())
    common = float((share**2 * np.square(moved).sum(1)).sum())
    return max(variance - common, 0.0), variance, n - 1


def _trained_on(log_odds, train, test, there):
    """The same from log-odds of those answers of a run that have a cell."""
    scores = np.full((len(log_odds), len(test.wrong)), np.nan)
    scores[:, there] = log_odds
    scores[:, np.isin(test.questions, train.questions)] = np.nan
    return _trained(scores, test.wrong, test.groups, train.blocks)


def _typical(trained, rivals):
    """Variance of a chosen cell: no smaller than the mean over those that were nearly chosen.

    A cell of noise is chosen where its fits agree by chance, and so without a part of the answers
    they change less than noise does. (Of such cells, 89 % of the intervals held 0.5 without this.)
    """
    every = np.array([trained, *rivals], float)
    every = every[~np.isnan(every[:, 0])]
    if np.isnan(trained[0]) or every[:, 0].mean() <= trained[0]:
        return trained
    return *every[:, :2].mean(0), trained[2]


def _together(units, n_units, trained):
    """Standard error from both runs' sampling, and its degrees of freedom.

    Those of Welch and Satterthwaite: the square of a variance, over the square of its error.
    """
    variance, whole, blocks = trained
    tested = float(np.square(units).sum())
    if np.isnan(variance):
        return np.nan, np.nan
    spread = tested**2 / (n_units - 1) + whole**2 / blocks
    total = tested + variance
    return np.sqrt(total), total**2 / spread if spread > 0 else np.inf


def _judge(measures):
    """Add to the pairs what holds of all of them together."""
    for ends in ("ends", "gain_ends"):
        what = "auroc" if ends == "ends" else "gain"
        there = [found for found in measures.values() if ends in found]
        for found in there:
            low, high = map(float, found.pop(ends)(1 - 0.05 / len(there)))
            found |= {f"{what}_low_simultaneous": low, f"{what}_high_simultaneous": high}
            if ends == "ends":
                found |= {"above_chance": bool(low > 0.5), "below_chance": bool(high < 0.5)}
            else:
                found["above_controls"] = bool(low > 0)


def _in_words(found):
    """What transfers, in sentences."""
    pairs = [
        found.sel(train=a, test=b) for a in found.train.data for b in found.test.data if a != b
    ]
    judged = [pair for pair in pairs if np.isfinite(pair["auroc_low"])]
    n = len(judged)
    if not n:
        return "No pair of runs could be measured, so nothing is known of transfer."
    above, below, beyond = ([p for p in judged if p[name]] for name in _VERDICTS)
    text = f"{_count(above, n)} above chance, by intervals that hold for all of them together"
    text += f": {_listed(above, 'auroc')}." if above else "."
    if not above:
        reach = max(judged, key=lambda pair: pair["auroc_high_simultaneous"].item())
        text = (
            f"Nothing transfers, as far as this can tell. {text} The highest is {_best(judged)}; "
        )
        text += f"no interval reaches above {reach['auroc_high_simultaneous'].item():.2f}."
    if below:
        text += f" {_count(below)} below chance, where the detector is misleading: "
        text += f"{_listed(below, 'auroc')}."
    compared = [pair for pair in judged if np.isfinite(pair["gain_low"])]
    if compared:
        text += f" {_count(beyond, None if len(compared) == n else len(compared))} above the "
        text += "tested run's own controls"
        text += f": {_listed(beyond, 'gain')}." if beyond else "."
    unmeasured = len(pairs) - n
    if unmeasured:
        text += f" {unmeasured} more could not be measured."
    return text


def _count(some, n=None):
    """``Of 6 pairs of different runs, 2 are``, or ``Of these``; something follows."""
    whole = "Of these" if n is None else f"Of {n} pair{'s' * (n > 1)} of different runs"
    return f"{whole}, {len(some) or 'none'} {'are' if len(some) > 1 else 'is'}"


def _best(pairs):
    return _listed([max(pairs, key=lambda pair: pair["auroc"].item())], "auroc")


def _listed(pairs, name):
    """Pairs with a number and its interval, the highest first, and not all of very many."""
    sign = "+" if name == "gain" else ""
    said = []
    for pair in sorted(pairs, key=lambda pair: -pair[name].item()):
        value, low, high = (format(pair[name + end].item(), f"{sign}.2f") for end in _TOGETHER)
        said.append(f"{pair.train.item()} on {pair.test.item()} {value} [{low}, {high}]")
    more = f"; and {len(said) - 6} more" if len(said) > 6 else ""
    return "; ".join(said[:6]) + more
