"""Baselines that need no activations, and what the probes add to the best of them.

A probe that beats chance may have read which answer was given, how hard the question is, or how
unsure the model was of its words. Each control detects errors from one of these alone, on the same
examples and folds as the grid.
"""

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from probekit import arguments
from probekit.probing.auroc import (
    auroc,
    auroc_influence,
    critical,
    interval,
    n_clusters,
    standard_error,
    training_variance,
)
from probekit.probing.cells import one_thread
from probekit.probing.folds import example_groups
from probekit.questions.grading import normalize

#: What each control is, in a sentence. Those of chance come last and never count as the best.
CONTROLS = {
    "answer": "How often this answer was wrong in the training folds, no network at all.",
    "question": "Logistic regression on the question's words (TF-IDF).",
    "length": "Tokens of the response: whichever of long and short goes with errors.",
    "logprob_mean": "Low mean log-probability of the response's tokens.",
    "logprob_min": "Low log-probability of the response's least likely token.",
    "answer_logprob_mean": "Low mean log-probability of the exact answer's tokens.",
    "answer_logprob_min": "Low log-probability of the exact answer's least likely token.",
    "p_true": "Low probability that the model gives to its own answer being true.",
    "random_features": "A logistic regression on random numbers in place of activations.",
    "shuffled_labels": "The probes on permuted labels: mean and middle 95 % over cells.",
    "shuffled_best": "The best cell on permuted labels: mean and middle 95 % of whole grids.",
}

CHANCE = ("random_features", "shuffled_labels", "shuffled_best")

# Columns of the answers of which a low value predicts an error, with nothing to train.
_OUTPUTS = ("logprob_mean", "logprob_min", "answer_logprob_mean", "answer_logprob_min", "p_true")

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
        `auroc_high`, `training_error` as in a grid, `n_examples`, `description`, and `chance`,
        which is true of controls that know nothing.
        ``score(control, example)``: higher means more likely wrong; out of fold, if the control is
        trained. NaN where an example was not tested or lacks what the control reads, and for
        shuffled labels, whose areas are the grid's own null. `control_table` shows it.

    Raises
    ------
    TypeError
        If they are no answers and no grid.
    ValueError
        If answers and grid are of different runs, or the grid lacks a variable or attribute.
    """
    answers = _matched(answers, grid)
    wrong = ~grid["correct"].to_numpy().astype(bool)
    fold = grid["fold"].to_numpy()
    groups = example_groups(grid, grid.attrs["split"])
    names = answers["answer" if "answer" in answers else "exact_answer"]
    answer = np.array([normalize(each) for each in names], dtype=object)
    question = answers["question"].to_numpy(str)
    random = np.random.default_rng(grid.attrs["seed"])
    noise = random.standard_normal((len(wrong), grid.sizes["feature"]), dtype=np.float32)
    C = float(np.max(grid.attrs["C"]))
    learned = {
        "answer": lambda train: _answer_rate(answer, wrong, train),
        "question": lambda train: _question_words(question, wrong, train),
        "random_features": lambda train: _logistic(noise, wrong, train, C),
    }
    scores, training = {}, {}
    for name, predict in learned.items():
        scores[name], training[name] = _cross_validated(predict, fold, wrong, groups)
    length = np.where(fold >= 0, answers["n_tokens"], np.nan)
    # The direction comes from the same examples, which flatters this control by a little. Taken
    # from the training folds it is worse than chance where there is next to nothing to learn: what
    # the other folds lean to, the tested one leans against.
    scores["length"] = length if auroc(length, wrong) >= 0.5 else -length
    for name in _OUTPUTS:
        if name in answers:
            scores[name] = np.where(fold >= 0, -answers[name].to_numpy(float), np.nan)
    null = _shuffled(grid)
    scores |= dict.fromkeys(null, np.full(len(wrong), np.nan))
    names = [name for name in CONTROLS if name in scores]
    score = np.array([scores[name] for name in names])
    variance = np.array([training.get(name, 0.0) for name in names])
    area, influence = auroc_influence(score, wrong)
    error = np.sqrt(standard_error(influence, groups) ** 2 + variance)
    low, high = interval(area, error, n_units=n_clusters(influence, groups))
    n = (~np.isnan(score)).sum(-1)
    for name, areas in null.items():
        i = names.index(name)
        area[i], n[i] = areas.mean(), (fold >= 0).sum()
        low[i], high[i] = np.quantile(areas, (0.025, 0.975))
    return xr.Dataset(
        {
            "auroc": ("control", area),
            "auroc_low": ("control", low),
            "auroc_high": ("control", high),
            "training_error": ("control", np.sqrt(variance)),
            "n_examples": ("control", n),
            "chance": ("control", [name in CHANCE for name in names]),
            "description": ("control", np.array([CONTROLS[n] for n in names], object)),
            "score": (("control", "example"), score),
        },
        coords={"control": np.array(names, object)}
        | {name: grid[name] for name in ("id", "correct", "fold")},
        attrs={name: grid.attrs[name] for name in _ATTRIBUTES},
    )


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
    """
    columns = ["auroc", "auroc_low", "auroc_high", "n_examples", "description"]
    check_controls(controls, [*columns, "chance"])
    table = controls[[*columns, "chance"]].to_dataframe()
    table = table.sort_values(["chance", "auroc"], ascending=[True, False], kind="stable")
    return table[columns]


def best_control(controls):
    """Name of the control with the highest AUROC, of those that know something."""
    known = controls["auroc"].where(~controls["chance"])
    if not bool(known.notnull().any()):
        raise ValueError("No control has an AUROC: none can score both right and wrong answers.")
    return str(controls["control"].to_numpy()[int(known.argmax("control"))])


def gain_over_controls(grid, controls):
    """How much higher each cell's AUROC is than the best control's.

    Both are measured on the same examples, those that have the cell's token. The best control is
    chosen on the data that it is measured on, which flatters it, so the gain errs on the low side;
    the interval ignores that choice.

    Parameters
    ----------
    grid : Dataset
        From `probe_grid`.
    controls : Dataset
        From `controls`, of this grid.

    Returns
    -------
    Dataset
        Over (layer, token): `gain`, a difference of AUROCs, with its 95 % interval `gain_low` and
        `gain_high`, and `n_examples`; the attribute `control` names the best control.

    Raises
    ------
    TypeError
        If they are no grid and no controls.
    ValueError
        If the controls are of another grid.
    """
    arguments.grid(grid, ("score", "correct", "fold", "id"), ("split",))
    same = ("id", "correct", "fold")
    check_controls(controls, ("auroc", "chance", "score", "training_error", *same))
    if "training_error" not in grid:
        raise ValueError(
            "The grid has no training_error: an older version of probekit made it. Make it again."
        )
    if not all(np.array_equal(grid[name], controls[name]) for name in same):
        raise ValueError(
            "The controls are of another grid: examples, labels or folds differ. Make them from "
            "this one: pk.controls(answers, grid)."
        )
    name = best_control(controls)
    wrong = ~grid["correct"].to_numpy().astype(bool)
    score = grid["score"].transpose("layer", "token", "example").to_numpy()
    rival = controls["score"].sel(control=name).to_numpy()
    both = ~np.isnan(score) & ~np.isnan(rival)
    area, influence = auroc_influence(np.where(both, score, np.nan), wrong)
    rival_area, rival_influence = auroc_influence(np.where(both, rival, np.nan), wrong)
    groups = example_groups(grid, grid.attrs["split"])
    paired = influence - rival_influence
    variance = standard_error(paired, groups) ** 2
    for trained in (grid, controls.sel(control=name)):
        # As if they were independent: what is common to both would cancel.
        variance = variance + trained["training_error"].to_numpy() ** 2
    gain = area - rival_area
    reach = critical(n_units=n_clusters(paired, groups)) * np.sqrt(variance)
    cell = ("layer", "token")
    return xr.Dataset(
        {
            "gain": (cell, gain),
            "gain_low": (cell, np.maximum(gain - reach, -1)),
            "gain_high": (cell, np.minimum(gain + reach, 1)),
            "n_examples": (cell, both.sum(-1)),
        },
        coords={"layer": grid["layer"], "token": grid["token"]},
        attrs={"control": name, "description": CONTROLS[name], "split": grid.attrs["split"]},
    )


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


def _cross_validated(predict, fold, wrong, groups):
    """Scores of each fold's examples by what was learned from the others, and `training_variance`.

    `predict` takes which examples to learn from, and scores them all.
    """
    folds = np.unique(fold[fold >= 0])

    def scored(train):
        # Without two folds, all others may be of one class.
        return predict(train) if len(np.unique(wrong[train])) == 2 else np.zeros(len(wrong))

    score = np.full(len(fold), np.nan)
    for k in folds:
        score[fold == k] = scored(fold != k)[fold == k]
    if len(folds) == 1:
        return score, 0.0
    if len(folds) == 2:
        return score, training_variance(score[None], wrong, groups)
    without_another = np.full((len(folds) - 1, len(fold)), np.nan)
    for k in folds:
        for j in folds[folds < k]:
            both = scored((fold != j) & (fold != k))
            for tested, other in ((j, k), (k, j)):
                row = (other - tested) % len(folds) - 1
                without_another[row, fold == tested] = both[fold == tested]
    return score, training_variance(without_another, wrong, groups)


def _answer_rate(answer, wrong, train):
    """How much more often than the others an answer is wrong; 0 if training never saw it.

    A rate for unseen answers would be the training folds' mean, which is lowest where the tested
    fold has most errors: across folds that ranks the wrong way round.
    """
    excess = pd.Series(wrong[train] - wrong[train].mean()).groupby(answer[train])
    rate = excess.sum() / (excess.count() + 2)  # as if two more were wrong at the mean rate
    return rate.reindex(answer, fill_value=0.0).to_numpy()


def _question_words(question, wrong, train):
    # Every character counts: digits and signs are the words of a sum.
    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)  # noqa: S106
    model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
    margin = model.fit(question[train], wrong[train]).decision_function(question)
    # Less the training folds' error rate, which is lowest where the tested fold's is highest.
    rate = wrong[train].mean()
    return margin - np.log(rate / (1 - rate))


def _logistic(X, wrong, train, C):
    from probekit.probing.logistic import fit_logistic

    return fit_logistic(X, wrong, train, C).decision_function(X).numpy()[0]


def _shuffled(grid):
    """Areas of the grid's permutation null: of all cells, and of the best cell of each grid."""
    if "null_auroc" not in grid or bool(grid["null_auroc"].isnull().all()):
        return {}
    null = grid["null_auroc"].transpose("permutation", "layer", "token").to_numpy()
    found = ~np.isnan(null)
    best = np.where(found, null, -np.inf).max((1, 2))[found.any((1, 2))]
    return {"shuffled_labels": null[found], "shuffled_best": best}
