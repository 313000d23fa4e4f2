"""Cross-validated probes in every cell of layers x tokens, with intervals and a null."""

import numbers
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import numpy as np
import xarray as xr
from joblib import Parallel, cpu_count, delayed
from sklearn.base import clone
from tqdm import tqdm

from probekit import arguments
from probekit.probing.auroc import auroc, interval, measured, standard_error
from probekit.probing.cells import Fitter, fit_cell, read_cell
from probekit.probing.folds import Plan, example_groups, group_counts, held_names
from probekit.run.variables import described
from probekit.tokens import FIGURE_TOKENS

_DIMENSIONS = ("example", "layer", "token", "feature")
METHODS = ("logistic", "ridge", "discriminant", "mean_difference")

# Permutations from which on their largest areas are taken for a sample of a distribution.
_ENOUGH = 10

# Work that takes a core as long as processes to start, some seconds each, in which they load what
# they need: fits x examples x features, at 3 to 6 ns.
_WORTH_STARTING = 1.5e9


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
    scheduler=None,
    progress=True,
):
    """Train an error-detection probe in every (layer, token) cell and say how far to trust it.

    Parameters
    ----------
    activations : Dataset
        ``activation(example, layer, token, feature)`` with `correct`, and `exact_answer` and `id`
        if there, on `example`; from `Run.activations`. Examples whose `exact_answer` is empty are
        left out.
    split : str
        ``"random"``: stratified folds. ``"answer"``: no exact answer is both in training and test
        folds, and questions to which a held-out answer would be right train nothing;
        `held_out_splits` says whether there are enough. ``"gold"``: the same for accepted answers.
        ``"group"``: groups of questions are kept together, if the question file has them. Or the
        name of any other coordinate on `example`, whose values are kept together.
    protocol : {"cross-validated", "published"}
        ``"published"`` is one split of all answers, 80 % to train and 20 % to test, after which
        those without an exact answer are left out (stratified where the test answers would
        otherwise be of one class). With
        ``method=sklearn.linear_model.LogisticRegression()`` it is the published recipe to the
        letter: that stops after 100 iterations, short of the optimum in nearly all cells.
    folds : int
        Number of folds; `protocol="published"` ignores it.
    C : float or sequence of float
        Inverse strength of the L2 penalty, from 1e-6 to 1e6. Of several, the best is chosen inside
        the training folds.
    seed : int
        Random seed of the folds, the permutations, and a classifier without a `random_state`.
    method : str or scikit-learn classifier
        ``"logistic"``, ``"ridge"`` (with penalty 1 / `C`), ``"discriminant"`` (linear, shrunk
        covariance) or ``"mean_difference"``. Or any classifier: it is cloned and fitted at least
        `folds` x (1 + `n_permutations`) times in every cell, which may take long.
    standardize : bool
        Scale every feature by its standard deviation in the training folds. For the logistic
        regression only.
    n_permutations : int
        How often the labels are permuted and everything is fitted again, for the null; at most
        10,000. From ten on, p-values follow from the distribution of the permuted grids' largest
        areas; below, they are counted, and 1 / (1 + n_permutations) is the smallest. Nothing but
        the null and its p-values depends on it.
    n_jobs : int, optional
        Processes to fit in, at most one per core; -1 for one per core. By default, a small grid is
        fitted in this process, and so is any on a device other than the CPU; others get one
        process per core. The result does not depend on it.
    device : str
        Where the fits are computed, as torch names it.
    scheduler : str or distributed.Client, optional
        Address of a Dask scheduler, or a client of it, whose workers then fit the cells. They read
        activations that are not in memory from the store, so they must see its file system; those
        in memory are sent. Only on a network that you trust, see `probekit.cluster`.
    progress : bool
        Show a bar.

    Returns
    -------
    Dataset
        Over (layer, token): `auroc` of the out-of-fold P(error), with its 95 % interval
        `auroc_low` and `auroc_high` for these probes on other such answers; `training_error`, the
        part of its standard error that comes from which answers the probes were trained on;
        `auroc_common`, on the answers that have all of the figure's tokens; `p_value` of the cell
        alone, and `p_corrected` for having looked at the whole grid; `n_examples`, `n_errors`.

        ``score(example, layer, token)`` is P(error) out of fold. It is ``expit(slope * log_odds +
        offset)``, by Platt's map of the cell: `slope` is positive, so that the areas are those of
        the log-odds, from which what a fit knows of the error rate in its training folds is taken
        off (`prior`, for the probe of all examples). ``log_odds_without(other, example, layer,
        token)`` are of fits that lacked one more fold, which intervals are made of.

        ``coef(layer, token, feature)`` and `intercept` of a probe fitted on all examples.
        ``fold(example)``; ``training(left_out, example)``, who may train what a fold tests.
        ``null_auroc(layer, token, permutation)``, and the permuted grids' log-odds, summed:
        `null_by_layer`, `null_by_token`, with their labels `null_wrong`. ``same_token(token,
        other_token)``, the share of answers in which two columns are one token.

        The attributes `best_layer` and `best_token` are those of the highest `auroc`. `best_auroc`,
        `best_auroc_low` and `best_auroc_high` are not of that cell: the best is chosen for each
        fold on the answers of the others, and measured on that fold (`best_auroc_is` says so).
        `n_groups`, `n_single_groups` and `largest_group`
        tell how many answers are kept together; `n_left_out` and `n_left_out_errors` have no exact
        answer; `n_below_chance` cells have their whole interval below 0.5.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a value cannot be used, there are too few examples of a class, or too few groups, for
        the folds; or if a process that fits was killed.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> grid = pk.probe_grid(run.activations(), split="answer", progress=False)
    >>> grid["auroc"].to_pandas().round(2)
    token  last_q  exact_answer_first    -1
    layer
    6        0.60                0.56  0.65
    15       0.76                0.65  0.67
    24       0.62                0.68  0.61
    >>> grid["p_corrected"].to_pandas().round(3)
    token  last_q  exact_answer_first     -1
    layer
    6       0.232               0.839  0.116
    15      0.004               0.298  0.049
    24      0.266               0.194  0.205
    """
    arguments.text("split", split, such_as="random")
    arguments.one_of("protocol", protocol, ("cross-validated", "published"))
    folds, seed = arguments.whole("folds", folds, 2), arguments.seed(seed)
    C = arguments.penalty(C)
    classifier = _classifier(method, seed)
    n_permutations = arguments.whole("n_permutations", n_permutations, 0, 10_000)
    standardize = arguments.flag("standardize", standardize)
    arguments.flag("progress", progress)
    here = arguments.absent(scheduler)
    device = (
        arguments.device(device) if here else arguments.text("device", device, such_as="cuda:0")
    )
    if n_jobs is not None:
        all_cores = isinstance(n_jobs, numbers.Integral) and n_jobs == -1  # as joblib has it
        n_jobs = cpu_count() if all_cores else arguments.whole("n_jobs", n_jobs, 1)
    examples, kept = _usable(activations)
    wrong = ~examples["correct"].to_numpy().astype(bool)
    groups = example_groups(examples, split)
    names = held_names(examples, split)
    among = activations.sizes["example"], kept
    plan = Plan.make(wrong, groups, protocol, folds, C, seed, n_permutations, names, among, split)
    cells = list(np.ndindex(activations.sizes["layer"], activations.sizes["token"]))
    fitter = Fitter(classifier, standardize, device)
    null = _Null(plan, len(examples["layer"]), len(examples["token"]))
    if here:
        n_jobs = _processes(n_jobs, len(cells), activations.sizes["feature"], plan, fitter)
        results = _fit_here(activations, cells, kept, plan, fitter, n_jobs, null, progress)
    else:
        from probekit.cluster import connected
        from probekit.probing.workers import fit_cells

        with connected(scheduler) as client:
            results = fit_cells(client, activations, cells, kept, plan, fitter, null, progress)
    out = np.setdiff1d(np.arange(activations.sizes["example"]), kept)
    grid = _assemble(examples, results, null, plan)
    grid["same_token"] = ("token", "other_token"), _same_tokens(activations, kept)
    grid = grid.assign_coords(other_token=grid["token"].to_numpy()).assign_attrs(
        {name: activations.attrs.get(name, "unknown") for name in ("model", "revision", "site")}
        | {name: activations.attrs[name] for name in ("questions",) if name in activations.attrs},
        split=split,
        protocol=protocol,
        folds=folds if protocol == "cross-validated" else 1,
        C=C.tolist() if len(C) > 1 else float(C[0]),
        seed=seed,
        method=method if isinstance(method, str) else repr(method),
        standardize=int(standardize),
        n_permutations=n_permutations,
        n_left_out=len(out),
        n_left_out_errors=int((~activations["correct"].to_numpy()[out].astype(bool)).sum()),
        **group_counts(np.arange(len(wrong)) if groups is None else groups),
    )
    return described(grid)


class _Null:
    """Log-odds of permuted labels, summed over the layers and over the tokens as cells come in.

    They are rounded so that sums do not depend on the order, which is that of the workers.
    """

    def __init__(self, plan, layers, tokens):
        shape = len(plan.wrong) - 1, plan.wrong.shape[1]
        self.by_layer = np.zeros((layers, *shape))
        self.by_token = np.zeros((tokens, *shape))

    def take(self, cell, result):
        """Add what a cell, (layer, token), has of it; the result keeps only the rest."""
        log_odds = result.pop("null")
        self.by_layer[cell[0]] += log_odds
        self.by_token[cell[1]] += log_odds
        return result


def _fit_here(activations, cells, kept, plan, fitter, n_jobs, null, progress):
    """Fit the probes of the cells in processes of this machine."""
    jobs = (
        delayed(fit_cell)(read_cell(activations, layer, token, kept), plan, fitter)
        for layer, token in cells
    )
    parallel = Parallel(n_jobs, return_as="generator", pre_dispatch="2*n_jobs", max_nbytes=None)
    with tqdm(total=len(cells), desc="Probing", unit="cell", disable=not progress) as bar:
        results = []
        try:
            for cell, result in zip(cells, parallel(jobs), strict=True):
                results.append(null.take(cell, result))
                bar.update()
        except BrokenProcessPool as error:
            raise ValueError(
                f"One of {n_jobs} processes that fit probes was killed, with {len(results)} of "
                f"{len(cells)} cells finished. Most often memory ran out: use fewer processes, "
                f"with n_jobs={max(1, n_jobs // 2)}, or for the notebooks with the environment "
                f"variable LOKY_MAX_CPU_COUNT={max(1, n_jobs // 2)}."
            ) from error
    return results


def _processes(n_jobs, n_cells, features, plan, fitter):
    """How many processes to fit in: as many as asked for, or as pay off; at most one a core."""
    cores = cpu_count()  # those that this process may use
    if n_jobs is not None:
        return min(n_jobs, cores)
    if str(fitter.device) != "cpu":
        return 1
    # Sizes alone do not tell how long scikit-learn takes, or a fit that has a covariance.
    if fitter.method not in ("logistic", "mean_difference"):
        return cores
    work = n_cells * len(plan.fits()) * plan.wrong.shape[1] * features
    return cores if work * (1 - 1 / cores) > _WORTH_STARTING else 1


def _classifier(method, seed):
    """The name of a method, or a classifier whose randomness is the seed's, not numpy's."""
    if isinstance(method, str):
        return arguments.one_of("method", method, METHODS)
    if (
        isinstance(method, type)
        or not (hasattr(method, "fit") and hasattr(method, "get_params"))
        or not (hasattr(method, "decision_function") or hasattr(method, "predict_proba"))
    ):
        raise TypeError(
            f"method must be one of {', '.join(METHODS)}, or a scikit-learn classifier such as "
            f"LogisticRegression(); got {arguments.shown(method)}."
        )
    free = {
        name: seed
        for name, value in method.get_params().items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    return clone(method).set_params(**free)


def _usable(activations):
    """The examples that count, without their activations, and which those are."""
    if not isinstance(activations, xr.Dataset) or "activation" not in activations:
        raise TypeError(
            "activations must be a Dataset with `activation(example, layer, token, feature)`, "
            f"such as Run.activations() gives; got {arguments.shown(activations)}."
        )
    missing = [f"the dimension {d}" for d in _DIMENSIONS if d not in activations.dims]
    missing += [] if "correct" in activations.coords else ["the coordinate correct"]
    if missing:
        raise ValueError(
            f"The activations lack {', '.join(missing)}. Take them from Run.activations()."
        )
    empty = [str(dimension) for dimension, size in activations.sizes.items() if not size]
    if empty:
        raise ValueError(f"The activations are empty: they have no {', '.join(empty)}.")
    for name, dims in (("activation", _DIMENSIONS), ("correct", _DIMENSIONS[:1])):
        if set(activations[name].dims) != set(dims):
            raise ValueError(
                f"`{name}` must be over ({', '.join(dims)}), it is over "
                f"({arguments.listed(activations[name].dims)})."
            )
    held = {name: activations[name].dtype for name in ("activation", "correct")}
    if held["activation"].kind not in "fiu":
        raise ValueError(
            f"The activations must be numbers, they are {arguments.held(held['activation'])}."
        )
    if held["correct"].kind != "b":
        raise ValueError(
            f"`correct` must hold True and False, it holds {arguments.held(held['correct'])}. "
            "Convert it: activations.assign_coords(correct=activations.correct.astype(bool))."
        )
    kept = np.arange(activations.sizes["example"])
    if "exact_answer" in activations.coords:
        kept = np.flatnonzero(activations["exact_answer"].to_numpy() != "")
    return activations.drop_vars("activation").isel(example=kept), kept


def _assemble(examples, results, null, plan):
    """Put the cells together and do what takes the whole grid: correction and choice."""
    layers, tokens = examples.sizes["layer"], examples.sizes["token"]
    wrong = plan.wrong[0]

    def stack(name):
        values = np.array([result.pop(name) for result in results])
        return values.reshape(layers, tokens, *values.shape[1:])

    area = stack("auroc")
    n_pairs = np.nan_to_num(stack("n_pairs"))
    low, high = interval(area, stack("error"), n_units=stack("n_units"), n_pairs=n_pairs)
    log_odds, without = stack("log_odds"), stack("without")
    null_auroc = stack("null_auroc")
    scored = ~np.isnan(log_odds)
    p_value, p_corrected = _p_values(stack("distance"))
    on_common, n_common = _on_common(examples, log_odds, wrong)
    cell = ("layer", "token")
    coords = {n: c for n, c in examples.coords.items() if {"example", *cell}.issuperset(c.dims)}
    best = _best(area, stack("choosing"), log_odds, without, plan, examples)
    numbers = ("training_error", "converged", "slope", "offset", "intercept", "prior")
    grid = xr.Dataset(
        {
            "auroc": (cell, area),
            "auroc_low": (cell, low),
            "auroc_high": (cell, high),
            "p_value": (cell, p_value),
            "p_corrected": (cell, p_corrected),
            "n_examples": (cell, scored.sum(-1)),
            "n_errors": (cell, (scored & wrong).sum(-1)),
            "auroc_common": (cell, on_common, {"n_examples": n_common}),
            **{name: (cell, stack(name)) for name in numbers},
            "score": (("example", *cell), np.moveaxis(stack("score"), -1, 0)),
            "coef": ((*cell, "feature"), stack("coef")),
            "fold": ("example", plan.fold[0]),
            "training": (("left_out", "example"), plan.training[0]),
            "null_auroc": ((*cell, "permutation"), null_auroc),
            "null_by_layer": (("layer", "permutation", "example"), null.by_layer.astype("f4")),
            "null_by_token": (("token", "permutation", "example"), null.by_token.astype("f4")),
            "null_wrong": (("permutation", "example"), plan.wrong[1:]),
        },
        coords=coords,
        attrs=best | {"n_below_chance": int((high < 0.5).sum())},
    )
    if plan.n_others:
        others = np.moveaxis(without, (2, 3), (0, 1))
        grid["log_odds_without"] = (("other", "example", *cell), others)
    return grid


def _same_tokens(activations, kept):
    """In which share of the answers that have both two tokens are the same: (token, token).

    Where a response is short, its third last token may be the exact answer's first. They have the
    same activations then, of which one layer is looked at.
    """
    middle = activations.sizes["layer"] // 2
    columns = [
        read_cell(activations, middle, token, kept).astype(float)
        for token in range(activations.sizes["token"])
    ]
    # Vectors that are equal, and no others, have the same product with a random one.
    random = np.random.default_rng(0).normal(size=activations.sizes["feature"])
    mark = np.array([X @ random for X in columns])  # (token, example)
    there = ~np.isnan(mark)
    both = (there[:, None] & there).sum(-1)
    same = (mark[:, None] == mark).sum(-1)
    return np.divide(same, both, out=np.full(same.shape, np.nan), where=both > 0)


def _on_common(examples, log_odds, wrong):
    """Areas on the examples that have all of the figure's tokens, and how many these are.

    Tokens that only long responses have are measured on those, and would be compared with the
    others all the same.
    """
    drawn = np.array([str(token) in FIGURE_TOKENS for token in examples["token"].to_numpy()])
    there = ~np.isnan(log_odds)
    # A token that no example has, or that has no probes, can't be asked for.
    drawn &= there.any((0, 2))
    both = there[:, drawn].all((0, 1)) if drawn.any() else np.zeros(len(wrong), bool)
    area = auroc(np.where(both, log_odds, np.nan), wrong)
    return np.where(drawn, area, np.nan), int(both.sum())


def _p_values(z):
    """P-values of each cell alone, and for having looked at all of them.

    Corrected: how often the largest of a permuted grid reaches a cell (Westfall and Young 1993),
    from ten of them on by `largest_tail`. Alone: how often any cell of the permuted grids does, as
    all share one null.

    `z` (layer, token, labelling) from `null_distance`, so that cells of different size, and
    labellings of different balance, compare; each p-value (layer, token).
    """
    z, null = z[..., 0], z[..., 1:]
    empty = np.isnan(z)
    # A permutation may leave a cell, or all of few cells, without both classes in every fold.
    null = null[..., ~np.isnan(null).all((0, 1))]
    if not null.shape[-1]:
        return np.full(z.shape, np.nan), np.full(z.shape, np.nan)
    largest = np.nanmax(null, axis=(0, 1))
    pool = np.sort(null[~np.isnan(null)])
    reached = len(pool) - np.searchsorted(pool, z, side="left")
    alone = (1 + reached) / (1 + len(pool))
    if len(largest) < _ENOUGH or not largest.std() > 0:
        corrected = (1 + (largest >= z[..., None]).sum(-1)) / (1 + len(largest))
    else:
        corrected = largest_tail(z, largest)
    alone = np.minimum(alone, corrected)
    return np.where(empty, np.nan, alone), np.where(empty, np.nan, corrected)


def largest_tail(z, largest):
    """Chance that the largest of one more permuted grid reaches z, given those of some.

    A count of few is coarse: which cells pass changes with the draw, and none can be below 1 in so
    many. Largest values of many cells are close to a Gumbel
    distribution, of which these are a sample: how far one more lies from their mean, in their
    standard deviations, has a distribution that depends on their number alone, and is drawn. It
    allows for how uncertain so few make both.
    """
    drawn = _gumbel_distances(len(largest))
    distance = np.where(np.isnan(z), 0, z - largest.mean()) / largest.std()
    reached = len(drawn) - np.searchsorted(drawn, distance)
    return (1 + reached) / (1 + len(drawn))


@cache
def _gumbel_distances(n, draws=20_000):
    """Distances of one more from the mean of n, in their standard deviations, in order."""
    random = np.random.default_rng(0)
    sample = random.gumbel(size=(draws, n))
    return np.sort((random.gumbel(size=draws) - sample.mean(1)) / sample.std(1))


def _best(area, choosing, log_odds, without, plan, examples):
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
    honest = np.full((1 + without.shape[2], log_odds.shape[-1]), np.nan)
    for k in range(plan.n_folds):
        # Chosen by fits and examples that had nothing of fold k.
        chosen = np.unravel_index(np.nanargmax(choosing[..., k]), area.shape)
        tested = plan.fold[0] == k
        honest[0, tested] = log_odds[chosen][tested]
        honest[1:, tested] = without[chosen][:, tested]
    value, units, n_units = measured(honest, plan.wrong[0], plan.groups)
    low, high = interval(value, standard_error(units), n_units=n_units)
    best |= {"best_auroc": float(value), "best_auroc_low": float(low)}
    return best | {"best_auroc_high": float(high)}
