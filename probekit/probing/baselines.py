"""Baselines that need no activations, and what the probes add to all of them together.

A probe that beats chance may have read which answer was given, how hard the question is, or how
unsure the model was of its words. Each control detects errors from one of these alone, on the same
examples and folds as the grid; the last one from all of them.
"""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import logit
from scipy.stats import rankdata
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from probekit import arguments
from probekit.probing.auroc import (
    auroc,
    critical,
    independent_pairs,
    interval,
    measured,
    out_of_fold,
    standard_error,
)
from probekit.probing.cells import one_thread
from probekit.probing.folds import example_groups
from probekit.probing.simultaneous import largest_error, widened
from probekit.questions.grading import normalize
from probekit.run.variables import described

#: What each control is, in a few words and in a sentence. Those of chance come last.
CONTROLS = {
    "answer": (
        "how often the answer is wrong elsewhere",
        "How often this answer was wrong in the training folds, no network at all.",
    ),
    "question": (
        "the question's words",
        "Logistic regression on the question's words (TF-IDF).",
    ),
    "question_characters": (
        "the question's characters",
        "Logistic regression on the question's characters, two to four in a row (TF-IDF).",
    ),
    "response": (
        "the response's words",
        "Logistic regression on the response's words and pairs of words (TF-IDF).",
    ),
    "form": (
        "the response's form",
        "The same without the exact answer: a mask stands in its place.",
    ),
    "position": (
        "where the exact answer stands",
        "Where the exact answer begins in the response: whichever of early and late goes with "
        "errors.",
    ),
    "length": (
        "the response's length",
        "Tokens of the response: whichever of long and short goes with errors.",
    ),
    "logprob_mean": (
        "the response's mean log-probability",
        "Low mean log-probability of the response's tokens.",
    ),
    "logprob_min": (
        "the response's least log-probability",
        "Low log-probability of the response's least likely token.",
    ),
    "answer_logprob_mean": (
        "the exact answer's mean log-probability",
        "Low mean log-probability of the exact answer's tokens.",
    ),
    "answer_logprob_min": (
        "the exact answer's least log-probability",
        "Low log-probability of the exact answer's least likely token.",
    ),
    "answer_entropy_mean": (
        "the exact answer's mean entropy",
        "High mean entropy of the model's distribution at the exact answer's tokens.",
    ),
    "answer_entropy_max": (
        "the exact answer's highest entropy",
        "High entropy of the model's distribution at one of the exact answer's tokens.",
    ),
    "p_true": (
        "the model's own P(True)",
        "Low probability that the model gives to its own answer being true.",
    ),
    "outputs": (
        "all numbers of the output",
        "Logistic regression on log-probabilities, entropies, length and position together.",
    ),
    "all": (
        "all controls together",
        "Logistic regression on the scores of all of these, by fits that lacked the tested fold.",
    ),
    "random_features": (
        "random numbers",
        "A logistic regression on random numbers in place of activations.",
    ),
    "shuffled_labels": (
        "permuted labels, all cells",
        "The probes on permuted labels: mean and middle 95 % over cells.",
    ),
    "shuffled_best": (
        "permuted labels, best cell",
        "The best cell on permuted labels: mean and middle 95 % of whole grids.",
    ),
}

CHANCE = ("random_features", "shuffled_labels", "shuffled_best")

# Columns of the answers that say how sure the model was, with nothing to train: a low value, or a
# high one, predicts an error.
_OUTPUTS = {
    **dict.fromkeys(("logprob_mean", "logprob_min", "answer_logprob_mean"), -1),
    **dict.fromkeys(("answer_logprob_min", "p_true"), -1),
    **dict.fromkeys(("answer_entropy_mean", "answer_entropy_max"), 1),
}

# What a grid says of how it was made.
_ATTRIBUTES = ("split", "protocol", "folds", "seed")


@one_thread()
def controls(answers, grid):
    """Detect wrong answers without looking at activations, on a grid's examples and folds.

    Parameters
    ----------
    answers : DataFrame
        From `Run.answers`.
    grid : Dataset
        From `probe_grid` or `Run.grid`, of the same run.

    Returns
    -------
    Dataset
        Over `control`: `auroc` of detecting wrong answers, with its 95 % interval `auroc_low` and
        `auroc_high`, `training_error` as in a grid, `n_examples`, `label`, `description`, and
        `chance`, which is true of controls that know nothing. The control ``"all"`` is a logistic
        regression on the scores of all others, nested so that no label scores its own example; it
        takes at least three folds.
        ``score(control, example)``: higher means more likely wrong; out of fold, if the control is
        trained. NaN where an example was not tested or lacks what the control reads, and for
        shuffled labels, whose areas are the grid's own null. ``score_without(other, control,
        example)`` is by fits that lacked one more fold. `control_table` shows it.

    Raises
    ------
    TypeError
        If they are no answers and no grid.
    ValueError
        If answers and grid are of different runs, or the grid lacks a variable or attribute.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> controls = pk.controls(run.answers(), run.grid("answer"))
    >>> table = pk.control_table(controls)
    >>> table[["auroc", "auroc_low", "auroc_high"]].head(3).round(2)
              auroc  auroc_low  auroc_high
    control
    all        0.77       0.67        0.84
    outputs    0.76       0.67        0.83
    response   0.75       0.60        0.85
    """
    answers = _matched(answers, grid)
    wrong = ~grid["correct"].to_numpy().astype(bool)
    groups = example_groups(grid, grid.attrs["split"])
    folds = _Folds(grid, wrong)
    scores = {name: folds.fitted(predict) for name, predict in _learned(answers, grid).items()}
    numbers = {
        name: sign * answers[name].to_numpy(float)
        for name, sign in _OUTPUTS.items()
        if name in answers
    }
    # The direction comes from the same examples, which flatters these by a little. Taken from the
    # training folds it is worse than chance where there is next to nothing to learn: what the
    # other folds lean to, the tested one leans against.
    for name, values in (("length", answers["n_tokens"]), ("position", _begins(answers))):
        values = np.where(folds.tested, np.asarray(values, float), np.nan)
        numbers[name] = values if auroc(values, wrong) >= 0.5 else -values
    outputs = np.array(list(numbers.values())).T
    scores["outputs"] = folds.fitted(lambda train: _standardised(outputs, outputs, wrong, train))
    scores |= {name: folds.constant(values) for name, values in numbers.items()}
    if folds.n > 2:
        known = [score for name, score in scores.items() if name not in CHANCE]
        scores["all"] = folds.stacked(known)
    null = _shuffled(grid)
    scores |= dict.fromkeys(null, folds.constant(np.full(len(wrong), np.nan)))
    names = [name for name in CONTROLS if name in scores]
    variants = np.array([folds.variants(scores[name]) for name in names])
    area, units, n_units = measured(variants, wrong, groups)
    error, tested = (
        standard_error(units),
        standard_error(measured(variants[:, :1], wrong, groups)[1]),
    )
    there = ~np.isnan(variants[:, 0])
    n_pairs = independent_pairs(there, wrong, groups)
    low, high = interval(area, error, n_units=n_units, n_pairs=n_pairs)
    n = there.sum(-1)
    for name, areas in null.items():
        i = names.index(name)
        area[i], n[i] = areas.mean(), folds.tested.sum()
        low[i], high[i] = np.quantile(areas, (0.025, 0.975))
    found = xr.Dataset(
        {
            "auroc": ("control", area),
            "auroc_low": ("control", low),
            "auroc_high": ("control", high),
            "training_error": ("control", np.sqrt(np.maximum(error**2 - tested**2, 0))),
            "n_examples": ("control", n),
            "chance": ("control", [name in CHANCE for name in names]),
            "label": ("control", np.array([CONTROLS[n][0] for n in names], object)),
            "description": ("control", np.array([CONTROLS[n][1] for n in names], object)),
            "score": (("control", "example"), variants[:, 0]),
        },
        coords={"control": np.array(names, object)}
        | {name: grid[name] for name in ("id", "correct", "fold")},
        attrs={name: grid.attrs[name] for name in _ATTRIBUTES},
    )
    if variants.shape[1] > 1:
        others = np.moveaxis(variants[:, 1:], 1, 0).astype(np.float32)
        found["score_without"] = (("other", "control", "example"), others)
    return described(found)


def _learned(answers, grid):
    """Controls that are trained: functions from which examples train to scores of all."""
    wrong = ~grid["correct"].to_numpy().astype(bool)
    names = answers["answer" if "answer" in answers else "exact_answer"]
    answer = np.array([normalize(each) for each in names], dtype=object)
    noise = np.random.default_rng(grid.attrs["seed"]).standard_normal(
        (len(wrong), grid.sizes["feature"]), dtype=np.float32
    )
    C = float(np.max(grid.attrs["C"]))
    # Every character counts: digits and signs are the words of a sum.
    words = {"token_pattern": r"\w+|[^\w\s]", "sublinear_tf": True}
    texts = {
        "question": (answers["question"], words),
        "question_characters": (
            answers["question"],
            {"analyzer": "char_wb", "ngram_range": (2, 4), "sublinear_tf": True},
        ),
    }
    if "response" in answers:
        texts["response"] = answers["response"], words | {"ngram_range": (1, 2)}
        if "answer_start" in answers:
            texts["form"] = _masked(answers), words | {"ngram_range": (1, 2)}
    learned = {"answer": lambda train: _answer_rate(answer, wrong, train)}
    for name, (text, options) in texts.items():
        # How often words occur is no label, so all texts may be counted at once.
        matrix = TfidfVectorizer(**options).fit_transform(text.to_numpy(str))
        learned[name] = lambda train, X=matrix: _text(X, wrong, train)
    learned["random_features"] = lambda train: _logistic(noise, wrong, train, C)
    return learned


def _masked(answers):
    """Responses with a mask in place of the exact answer."""
    rows = zip(answers["response"], answers["answer_start"], answers["answer_end"], strict=True)
    masked = [f"{text[: max(a, 0)]} ANSWER {text[max(b, 0) :]}" for text, a, b in rows]
    return pd.Series(masked)


def _begins(answers):
    """Where the exact answer begins, in characters of the response; NaN if that isn't known."""
    if "answer_start" not in answers:
        return np.full(len(answers), np.nan)
    start = answers["answer_start"].to_numpy(float)
    return np.where(start < 0, np.nan, start)


class _Folds:
    """The folds of a grid: what is learned from some of them, and scored in the others.

    Scores of a control are by the folds that were left out: an array over (fold, fold, example),
    with the fits that lacked one fold on the diagonal.
    """

    def __init__(self, grid, wrong):
        self.wrong = wrong
        self.fold = grid["fold"].to_numpy()
        self.tested = self.fold >= 0
        self.n = len(np.unique(self.fold[self.tested]))
        training = self.fold != np.arange(self.n)[:, None]
        if "training" in grid:
            training = grid["training"].transpose("left_out", "example").to_numpy().astype(bool)
        self.training = training

    def trains(self, *left_out):
        """Which examples train a fit that lacks some folds, (example,)."""
        return self.training[list(left_out)].all(0)

    def fitted(self, predict):
        """Scores by what is learned without each fold, and without each two."""
        scores = np.full((self.n, self.n, len(self.fold)), np.nan)
        for k in range(self.n):
            for j in range(k + 1):
                train = self.trains(j, k)
                # Without two folds, all others may be of one class.
                both = len(np.unique(self.wrong[train])) == 2
                scores[j, k] = scores[k, j] = predict(train) if both else 0.0
        return scores

    def constant(self, values):
        """Scores that nothing was learned for."""
        shape = self.n, self.n, len(self.fold)
        return np.broadcast_to(np.where(self.tested, values, np.nan), shape)

    def variants(self, scores):
        """Each example by the fit without its fold, then by those that also lacked another.

        That is (variant, example), as `measured` takes it.
        """
        fold, example = np.maximum(self.fold, 0), np.arange(len(self.fold))
        steps = range(max(self.n, 1)) if self.n != 2 else (0, 0)
        rows = [scores[fold, (fold + step) % self.n, example] for step in steps]
        return np.where(self.tested, rows, np.nan)

    def apart(self, variants):
        """Scores (fold, fold, example) of `variants`, each where its example's fold is left out.

        Of the others it holds nothing: no fit that saw an example is asked for its score.
        """
        scores = np.full((self.n, self.n, len(self.fold)), np.nan)
        for k in range(self.n):
            tested = self.fold == k
            for step in range(self.n):
                scores[k, (k + step) % self.n, tested] = variants[step, tested]
        return scores

    def stacked(self, known):
        """Scores by all of some controls together: a logistic regression on their scores.

        To score fold k, it learns from the training examples' scores by fits that lacked their
        own fold and k. Without another fold j as well, it learns without those of j; that their
        scores are by fits that had j is an approximation, else three folds had to be left out.
        """
        known = np.array(known)  # (control, fold, fold, example)
        fold, example = np.maximum(self.fold, 0), np.arange(len(self.fold))
        scores = np.full(known.shape[1:], np.nan)
        for k in range(self.n):
            inner = known[:, fold, k, example].T  # (example, control)
            for j in range(self.n):
                scores[k, j] = _standardised(inner, known[:, k, j].T, self.wrong, self.trains(j, k))
        return scores


def control_table(controls):
    """The controls as a table for reading, the best first.

    Parameters
    ----------
    controls : Dataset
        From `controls`.

    Returns
    -------
    DataFrame
        A row per control: `auroc`, `auroc_low`, `auroc_high`, `n_examples`, `description`. Those
        that know nothing stand at the end.

    Raises
    ------
    TypeError
        If it is not from `controls`.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> table = pk.control_table(run.controls())
    >>> table[["auroc", "auroc_low", "auroc_high"]].head(4).round(2)
              auroc  auroc_low  auroc_high
    control
    all        0.83       0.76        0.88
    response   0.81       0.73        0.86
    outputs    0.79       0.73        0.85
    form       0.77       0.70        0.84
    """
    columns = ["auroc", "auroc_low", "auroc_high", "n_examples", "description"]
    check_controls(controls, [*columns, "chance"])
    table = controls[[*columns, "chance"]].to_dataframe()
    table = table.sort_values(["chance", "auroc"], ascending=[True, False], kind="stable")
    return table[columns]


def best_control(controls):
    """Name of the single control with the highest AUROC, of those that know something."""
    single = ~controls["chance"] & (controls["control"] != "all")
    known = controls["auroc"].where(single)
    if not bool(known.notnull().any()):
        raise ValueError("No control has an AUROC: none can score both right and wrong answers.")
    return str(controls["control"].to_numpy()[int(known.argmax("control"))])


def gain_over_controls(grid, controls):
    """How much higher each cell's AUROC is than that of all controls together.

    Both are measured on the same examples, those that have the cell's token.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`.
    controls : Dataset
        From `controls`, of this grid. If it has no control ``"all"``, as with two folds, the best
        one takes its place; that it was chosen on the same data makes the gain err on the low side.

    Returns
    -------
    Dataset
        Over (layer, token): `gain`, a difference of AUROCs, with its 95 % interval `gain_low` and
        `gain_high`, and those that hold for all cells at once, `gain_low_simultaneous` and
        `gain_high_simultaneous`. `absorbed`: the share of the cell's rank correlation with errors
        that is gone when the controls' scores are partialled out; NaN where the cell has none to
        speak of. `n_examples`. The attribute `control` names the control.

    Raises
    ------
    TypeError
        If they are no grid and no controls.
    ValueError
        If the controls are of another grid.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> left = pk.gain_over_controls(run.grid("answer"), run.controls("answer"))
    >>> left["gain"].to_pandas().round(2)
    token  last_q  exact_answer_first    -1
    layer
    6       -0.17               -0.21 -0.11
    15      -0.00               -0.12 -0.10
    24      -0.15               -0.09 -0.16
    >>> left["gain_low_simultaneous"].to_pandas().round(2)
    token  last_q  exact_answer_first    -1
    layer
    6       -0.36               -0.52 -0.32
    15      -0.18               -0.41 -0.31
    24      -0.36               -0.34 -0.39
    """
    name = rival_of(grid, controls)
    rows = []
    for i in range(grid.sizes["layer"]):  # of all layers at once, the scores would be large
        (scores,) = out_of_fold(grid.isel(layer=[i]))  # (token, variant, example)
        rows.append(against_control(scores, grid, controls, name))
    gain, units, n_units, absorbed, n = map(np.array, zip(*rows, strict=True))
    error = standard_error(units)
    there = ~np.isnan(gain)
    family = largest_error(units[there], 0.05)
    few = max(2.0, n_units[there].astype(float).min(initial=np.inf))
    cell = ("layer", "token")
    ends = {}
    for suffix, reach in (
        ("", critical(n_units=n_units)),
        ("_simultaneous", family * widened(few)),
    ):
        ends["gain_low" + suffix] = (cell, np.maximum(gain - reach * error, -1))
        ends["gain_high" + suffix] = (cell, np.minimum(gain + reach * error, 1))
    found = xr.Dataset(
        {"gain": (cell, gain), **ends, "absorbed": (cell, absorbed), "n_examples": (cell, n)},
        coords={"layer": grid["layer"], "token": grid["token"]},
        attrs={"control": name, "description": CONTROLS[name][1], "split": grid.attrs["split"]},
    )
    return described(found)


def gain_of_scores(variants, grid, controls):
    """The same for one score an answer, (variant, example), as `measured` takes it.

    Gives `gain`, `gain_low`, `gain_high` and `absorbed`. And what the score adds to the controls:
    `added`, with `added_low` and `added_high`, is the AUROC of a logistic regression on the scores
    of all controls and this one, nested as that on the controls is, less the AUROC of that.
    """
    name = rival_of(grid, controls)
    found = {}
    folds = _Folds(grid, ~grid["correct"].to_numpy().astype(bool))
    compared = {"gain": variants}
    if name == "all":
        single = controls.sel(
            control=~controls["chance"].to_numpy() & (controls["control"] != "all").to_numpy()
        )
        known = np.concatenate([single["score"].to_numpy()[None], single["score_without"]])
        known = [folds.apart(known[:, i]) for i in range(known.shape[1])]
        both = folds.stacked([*known, folds.apart(variants)])
        compared["added"] = folds.variants(both)
    for kind, scores in compared.items():
        value, units, n_units, absorbed, _ = (
            each[0] for each in against_control(scores[None], grid, controls, name)
        )
        reach = critical(n_units=n_units) * standard_error(units)
        ends = max(value - reach, -1.0), min(value + reach, 1.0)
        found |= {kind: value, f"{kind}_low": ends[0], f"{kind}_high": ends[1]}
        if kind == "gain":
            found["absorbed"] = absorbed
    return {each: float(value) for each, value in found.items()}


def rival_of(grid, controls):
    """The control to beat; refuses controls of another grid."""
    arguments.grid(grid, ("score", "correct", "fold", "id"), ("split",))
    same = ("id", "correct", "fold")
    check_controls(controls, ("auroc", "chance", "score", *same))
    if not all(np.array_equal(grid[name], controls[name]) for name in same):
        raise ValueError(
            "The controls are of another grid: examples, labels or folds differ. Make them from "
            "this one: pk.controls(answers, grid)."
        )
    everything = controls["auroc"].where(controls["control"] == "all")
    return "all" if bool(everything.notnull().any()) else best_control(controls)


def against_control(scores, grid, controls, name):
    """Scores (cell, variant, example) against a control: gain, units, n_units, absorbed, n."""
    wrong = ~grid["correct"].to_numpy().astype(bool)
    groups = example_groups(grid, grid.attrs["split"])
    own = controls.sel(control=name)
    rival = own["score"].to_numpy()[None]
    if "score_without" in controls and scores.shape[1] > 1:
        others = own["score_without"].transpose("other", "example").to_numpy()
        rival = np.concatenate([rival, others])
    # A side without fits that lacked one more fold is as if they were all the same.
    n = max(scores.shape[1], len(rival))
    scores = np.concatenate([scores, *[scores[:, :1]] * (n - scores.shape[1])], 1)
    rival = np.concatenate([rival, *[rival[:1]] * (n - len(rival))])
    both = ~np.isnan(scores[:, :1]) & ~np.isnan(rival[:1])
    area, units, n_units = measured(np.where(both, scores, np.nan), wrong, groups)
    rival_area, rival_units, _ = measured(np.where(both, rival, np.nan), wrong, groups)
    known = controls["score"].sel(control=~controls["chance"].to_numpy()).to_numpy()
    absorbed = [_absorbed(each, wrong, known) for each in np.where(both, scores, np.nan)[:, 0]]
    return area - rival_area, units - rival_units, n_units, absorbed, both[:, 0].sum(-1)


def _absorbed(score, wrong, known):
    """Share of the rank correlation of score and error that the controls take away.

    `score` (example,), `known` (control, example). NaN within two standard errors of none.
    """
    there = ~np.isnan(score)
    n = int(there.sum())
    ranks = [
        rankdata(np.where(np.isnan(c), np.nanmean(c), c))
        for c in known[:, there]
        if np.isfinite(c).any()
    ]
    if n < len(ranks) + 3 or not 0 < wrong[there].sum() < n:
        return np.nan
    sides = np.stack([rankdata(score[there]), wrong[there]], 1).astype(float)
    plain = _correlation(sides)
    if not plain > 2 / np.sqrt(n):
        return np.nan
    X = np.column_stack([np.ones(n), *ranks])
    left = sides - X @ np.linalg.lstsq(X, sides, rcond=None)[0]
    return float(np.clip(1 - _correlation(left) / plain, 0, 1))


def _correlation(sides):
    """Correlation of two columns; 0 where one does not vary but for rounding."""
    sides = sides - sides.mean(0)
    spread = np.sqrt((sides**2).sum(0))
    return sides.prod(1).sum() / spread.prod() if (spread > 1e-9).all() else 0.0


def check_controls(controls, variables):
    """Refuse what is not from `controls`, or lacks some of its variables."""
    if not isinstance(controls, xr.Dataset) or "control" not in controls.dims:
        raise TypeError(
            "controls must be from pk.controls(answers, grid) or Run.controls; got "
            f"{arguments.shown(controls)}."
        )
    lacking = [name for name in variables if name not in controls]
    how = "Make them with pk.controls(answers, grid), or take them from Run.controls."
    if lacking:
        raise ValueError(f"The controls lack {', '.join(lacking)}. {how}")
    if not controls.sizes["control"]:
        raise ValueError(f"The controls are empty. {how}")


def _matched(answers, grid):
    """The grid's rows of the answers, in its order; refuses answers of another run."""
    if not isinstance(answers, pd.DataFrame):
        raise TypeError(
            "answers must be a DataFrame, such as Run.answers() gives; got "
            f"{arguments.shown(answers)}."
        )
    arguments.grid(grid, ("fold", "id", "correct"), (*_ATTRIBUTES, "C"))
    if "feature" not in grid.dims:
        raise ValueError(
            "The grid has no coefficients: it is of an example run, which comes with its controls. "
            "Take those: run.controls()."
        )
    needed = ("id", "question", "correct", "n_tokens", "exact_answer")
    missing = [name for name in needed if name not in answers]
    if missing:
        raise ValueError(
            f"The answers lack {', '.join(missing)} among their columns. Take them from "
            "Run.answers()."
        )
    advice = "Are they of different runs? Take both from the same one: run.answers(), run.grid()."
    index = pd.Index(answers["id"].astype(str))
    if index.has_duplicates:
        twice = index[index.duplicated()][0]
        raise ValueError(f"The answers have the id {twice!r} more than once; ids must be unique.")
    ids = grid["id"].to_numpy().astype(str)
    place = index.get_indexer(ids)
    if (place < 0).any():
        raise ValueError(
            f"{(place < 0).sum()} of the grid's {len(ids)} examples are not among the "
            f"{len(answers)} answers, the first is {arguments.shown(ids[place < 0][0])}. "
            f"{advice}"
        )
    answers = answers.iloc[place].reset_index(drop=True)
    for name in ("correct", "exact_answer"):
        if name in grid.coords:
            differ = answers[name].to_numpy() != grid[name].to_numpy()
            if differ.any():
                raise ValueError(
                    f"Answers and grid disagree about `{name}` of {differ.sum()} of {len(ids)} "
                    f"examples, the first is {arguments.shown(ids[differ][0])}. {advice}"
                )
    return answers


def _answer_rate(answer, wrong, train):
    """How much more often than the others an answer is wrong; 0 if training never saw it.

    A rate for unseen answers would be the training folds' mean, which is lowest where the tested
    fold has most errors: across folds that ranks the wrong way round.
    """
    excess = pd.Series(wrong[train] - wrong[train].mean()).groupby(answer[train])
    rate = excess.sum() / (excess.count() + 2)  # as if two more were wrong at the mean rate
    return rate.reindex(answer, fill_value=0.0).to_numpy()


def _text(X, wrong, train):
    """Log-odds by a logistic regression on words, less those of the training error rate."""
    model = LogisticRegression(C=10.0, solver="liblinear", max_iter=1000, random_state=0)
    margin = model.fit(X[train], wrong[train]).decision_function(X)
    return margin - logit(wrong[train].mean())


def _standardised(X, tested, wrong, train):
    """Log-odds of `tested` (example, number) by a logistic regression on those of X that train."""
    known = np.isfinite(X[train]).sum(0) > 1
    if known.any():
        scale = np.nanstd(X[train][:, known], 0)
        known[known] = scale > 0
    if not known.any() or len(np.unique(wrong[train])) < 2:
        return np.zeros(len(tested))
    mean, scale = np.nanmean(X[train][:, known], 0), scale[scale > 0]

    def prepared(values):
        return np.nan_to_num((values[:, known] - mean) / scale)

    model = LogisticRegression(max_iter=1000).fit(prepared(X[train]), wrong[train])
    return model.decision_function(prepared(tested)) - logit(wrong[train].mean())


def _logistic(X, wrong, train, C):
    from probekit.probing.logistic import fit_logistic

    margin = fit_logistic(X, wrong, train, C).decision_function(X).numpy()[0]
    return margin - logit(wrong[train].mean())


def _shuffled(grid):
    """Areas of the grid's permutation null: of all cells, and of the best cell of each grid."""
    if "null_auroc" not in grid or bool(grid["null_auroc"].isnull().all()):
        return {}
    null = grid["null_auroc"].transpose("permutation", "layer", "token").to_numpy()
    found = ~np.isnan(null)
    best = np.where(found, null, -np.inf).max((1, 2))[found.any((1, 2))]
    return {"shuffled_labels": null[found], "shuffled_best": best}
