"""Several samples a question: which one to give, and of what kind a question's errors are.

What chooses never sees a label: samples are put together by their exact answers, and a sample's
P(error) is by probes that no sample of its question has trained. Which answer is right is looked up
afterwards.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from probekit import arguments
from probekit.probing.auroc import (
    auroc,
    cluster_sums,
    critical,
    independent_pairs,
    interval,
    measured,
    standard_error,
)
from probekit.probing.detection import pooled_scores
from probekit.probing.simultaneous import largest_error, widened
from probekit.run.directory import Run

#: Ways to choose one of a question's samples, in words. None but the last sees a label.
WAYS = {
    "detector": "the sample with the lowest P(error)",
    "detector_majority": "the answer whose samples have the most 1 - P(error) together",
    "controls": "the sample that all controls together, without the network, trust most",
    "greedy": "the answer at temperature 0",
    "majority": "the answer that most samples give",
    "likeliest": "the sample with the highest mean log-probability",
    "random": "a sample drawn at random",
    "oracle": "a right sample, if there is one",  # "greedy" is none of the samples
}

#: Types of questions by their samples, in the order in which the rules are tried. After the first
#: rule, shares are of the samples that have an exact answer.
TYPES = {
    "no answer": "at least half of the samples have no exact answer",
    "consistently right": "all that have one give the same words, which are right",
    "consistently wrong": "all that have one give the same words, which are wrong",
    "mostly right": "more than half give the same words, which are right",
    "mostly wrong": "more than half give the same words, which are wrong",
    "competing answers": "no answer has more than half, and two have two thirds or more together",
    "many answers": "any other",
}

_HOW = "Make one: probekit run -p n_samples 8 -p temperature 1."


@dataclass(frozen=True, repr=False)
class Choice:
    """How good each way to choose one of a question's samples is. Made by `choose_answers`."""

    ways: pd.DataFrame
    """One row a way of `WAYS`: `accuracy` with `low` and `high`; `gain`, the detector's accuracy
    less this one's, paired by question, with `gain_low`, `gain_high` and those that hold for all
    rows at once, `gain_low_simultaneous` and `gain_high_simultaneous`; `n_questions`."""
    aurocs: pd.DataFrame
    """One row a score, of the detector and of each control: AUROC of errors `within` questions,
    over pairs of samples of the same question, averaged over the `n_mixed` questions that have a
    right and a wrong one; and `pooled` over all pairs; each with `_low` and `_high`."""
    questions: pd.DataFrame
    """One row a question: `n_samples`, `n_right`, and the accuracy of each way."""
    left_out: dict
    """Why a way has no row, by its name."""

    @property
    def sentences(self):
        """What follows, in words."""
        return _in_words(self)

    def __repr__(self):
        return " ".join(self.sentences)


def choose_answers(run, greedy=None):
    """Choose one of each question's samples, by the detector and by other ways.

    Where several samples are as good by a way, its accuracy is what drawing one of them gives on
    average. A sample without an exact answer has no P(error): the detector takes one only where
    no sample of the question has one. For the majority samples without an exact answer are no
    answer, unless no sample has one.

    Parameters
    ----------
    run : Run
        With several samples a question (``n_samples``), and a finished probe stage.
    greedy : Run, optional
        Of the same model and questions at temperature 0; its answers are the way "greedy".

    Returns
    -------
    Choice

    Raises
    ------
    TypeError
        If an argument is no run.
    ValueError
        If the run has one sample a question, its folds tear a question's samples apart, or
        `greedy` is of another model or lacks questions.
    FileNotFoundError
        If a stage of the run is not finished.

    Notes
    -----
    Intervals are over questions, with Student's t. The pooled AUROC counts pairs of samples of two
    questions too: a score that only knows how hard a question is has one above 0.5, but one of
    0.5 within questions, and can choose nothing.

    Examples
    --------
    >>> import probekit as pk
    >>> choice = pk.choose_answers(pk.Run("data/examples/samples"))
    >>> choice.ways[["accuracy", "low", "high"]].round(2)
                       accuracy   low  high
    way
    detector               0.36  0.31  0.42
    detector_majority      0.38  0.33  0.44
    controls               0.41  0.36  0.47
    majority               0.38  0.32  0.43
    likeliest              0.30  0.24  0.35
    random                 0.22  0.19  0.25
    oracle                 0.53  0.47  0.59
    >>> print(choice.sentences[0])
    Of 300 questions 157 have right and wrong samples; only there does it matter
    which one is given.
    """
    samples, _ = _samples(run)
    left_out, scores = {}, _scores(run, samples)
    samples["control"] = scores.get("all", np.nan)
    rows = {name: _chosen(group) for name, group in samples.groupby("question", sort=False)}
    chosen = pd.DataFrame.from_dict(rows, orient="index").rename_axis("question")
    if "all" not in scores:
        left_out["controls"] = "the run's folds are too few for a control of all together"
        del chosen["controls"]
    if greedy is None:
        left_out["greedy"] = "no run of the same questions at temperature 0 was given"
    else:
        chosen["greedy"] = _greedy(run, greedy, list(chosen.index))
    chosen = chosen[[way for way in WAYS if way in chosen]]
    units = samples.drop_duplicates("question").set_index("question")["unit"]
    counts = samples.groupby("question", sort=False)["correct"].agg(n_samples="size", n_right="sum")
    return Choice(
        _table(chosen, units.loc[chosen.index].to_numpy()),
        _aurocs(scores, samples),
        counts.join(chosen),
        left_out,
    )


def error_types(run):
    """Say of each question of what type its samples are, and how well errors of each are detected.

    A question is of the first type whose rule fits, so types exclude each other and cover all
    questions; after Orgad et al. (arXiv 2410.02707, section 5), whose types leave gaps. Answers
    are the same if their exact answers are, normalised.

    Parameters
    ----------
    run : Run
        As for `choose_answers`.

    Returns
    -------
    types : DataFrame
        One row a type: `n_questions`, `share` with `share_low` and `share_high` (Clopper and
        Pearson's), `n_wrong` (scored wrong samples), and `auroc` with `auroc_low`, `auroc_high`:
        of these wrong samples against all right ones; `rule` or, where no AUROC can be had,
        `reason`.
    questions : DataFrame
        One row a question: `question`, `type`, `n_samples`, `n_right`, `n_answers` (different
        exact answers), `largest` (share of the most frequent one, of those that have one) and
        `entropy` of their shares, in nats.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        As for `choose_answers`.

    Examples
    --------
    >>> import probekit as pk
    >>> types, questions = pk.error_types(pk.Run("data/examples/samples"))
    >>> types[["n_questions", "share", "auroc"]].round(2)
                        n_questions  share  auroc
    type
    no answer                    47   0.16   0.79
    consistently right           12   0.04    NaN
    consistently wrong            2   0.01   0.55
    mostly right                 58   0.19   0.77
    mostly wrong                  9   0.03   0.72
    competing answers            25   0.08   0.75
    many answers                147   0.49   0.81
    """
    samples, variants = _samples(run)
    questions = pd.DataFrame(
        [_typed(name, group) for name, group in samples.groupby("question", sort=False)]
    ).set_index("question")
    samples["type"] = questions["type"].loc[samples["question"]].to_numpy()
    return _by_type(samples, questions, variants), questions


# A run's samples


def _samples(run):
    """Samples of a run, one row each, and the detector's scores (variant, sample)."""
    arguments.instance("run", run, Run, 'such as Run("data/runs/samples")')
    answers = run.answers()
    if "sample" not in answers or answers["sample"].max() < 1:
        raise ValueError(
            f"{run.path} has one answer to each question, so there is nothing to choose. {_HOW}"
        )
    samples = pd.DataFrame(
        {
            "id": answers["id"].astype(str),
            "question": answers["id"].astype(str).str.rpartition("/")[0],
            "text": answers["question"],
            "correct": answers["correct"].astype(bool),
            "answer": answers["answer"].where(answers["exact_answer"] != "", "").fillna(""),
            "logprob": answers["logprob_mean"].astype(float),
        }
    )
    # Questions that belong together, or are asked twice, count as one for the intervals.
    group = answers["group"].astype(str) if "group" in answers else ""
    unit = samples["text"].where(group == "", group) if "group" in answers else samples["text"]
    samples["unit"] = pd.factorize(unit)[0]
    grid, p_error = run.grid("random"), run.detector("random").p_error.to_numpy()
    place = pd.Index(grid["id"].to_numpy().astype(str)).get_indexer(samples["id"])
    scored = place >= 0
    fold = pd.Series(grid["fold"].to_numpy()[place[scored]])
    torn = fold.groupby(samples["text"].to_numpy()[scored]).nunique().max() > 1
    if torn:
        raise ValueError(
            f"The folds of {run.path} have samples of one question on both sides, so a question's "
            "P(error) is not out of fold. Run its probe stage again with this version."
        )
    samples["p_error"] = np.where(scored, p_error[place], np.nan)
    return samples, np.where(scored, pooled_scores(grid)[:, place], np.nan)


def _scores(run, samples):
    """Scores of error, out of fold, of the detector and of the controls that know something."""
    controls, scores = run.controls("random"), {"detector": samples["p_error"].to_numpy()}
    place = pd.Index(controls["id"].to_numpy().astype(str)).get_indexer(samples["id"])
    for name in controls["control"].to_numpy():
        one = controls.sel(control=name)
        if not bool(one["chance"]) and bool(one["auroc"].notnull()):
            scores[str(name)] = np.where(place >= 0, one["score"].to_numpy()[place], np.nan)
    return scores


# Choosing


def _chosen(group):
    """Expected accuracy of each way that needs no other run, for one question."""
    correct, p = group["correct"].to_numpy(float), group["p_error"].to_numpy()
    control = group["control"].to_numpy(float)
    answer, logprob = group["answer"].to_numpy(), group["logprob"].to_numpy()
    scored = ~np.isnan(p)
    trust = np.where(scored, 1 - p, 0)
    return {
        "detector": _best(correct, -p, scored),
        "detector_majority": _voted(correct, answer, trust) if scored.any() else correct.mean(),
        "controls": _best(correct, -control, ~np.isnan(control)),
        "majority": _voted(correct, answer, np.ones(len(p))),
        "likeliest": _best(correct, logprob, ~np.isnan(logprob)),  # none of an empty response
        "random": correct.mean(),
        "oracle": correct.max(),
    }


def _best(correct, score, allowed):
    """Accuracy of the samples with the highest score, on average over those that tie."""
    if not allowed.any():
        return correct.mean()
    return correct[allowed & (score == score[allowed].max())].mean()


def _voted(correct, answer, weight):
    """Accuracy of the answer with the most weight, on average over answers that tie."""
    given = answer != ""
    if not given.any():
        return correct.mean()
    which = np.unique(answer[given], return_inverse=True)[1]
    votes = np.bincount(which, weight[given])
    right = np.bincount(which, correct[given]) / np.bincount(which)
    return right[np.isclose(votes, votes.max())].mean()


def _greedy(run, greedy, names):
    """Whether the answers at temperature 0 are right, for these questions."""
    arguments.instance("greedy", greedy, Run, 'such as Run("data/runs/cities")')
    here, there = (each.manifest("extract")["parameters"] for each in (run, greedy))
    if there.get("n_samples", 1) != 1 or there.get("temperature", 0) != 0:
        raise ValueError(f"greedy must be a run at temperature 0; {greedy.path} is none.")
    for what in ("model", "revision"):
        if here.get(what) != there.get(what):
            raise ValueError(
                f"{greedy.path} is of {what} {arguments.shown(there.get(what))}, and {run.path} "
                f"of {arguments.shown(here.get(what))}. Give runs of the same model."
            )
    answers = greedy.answers().set_index("id")
    asked = run.answers()
    texts = dict(
        zip(asked["id"].astype(str).str.rpartition("/")[0], asked["question"], strict=True)
    )
    lacking = [n for n in names if n not in answers.index or answers["question"][n] != texts[n]]
    if lacking:
        raise ValueError(
            f"{greedy.path} lacks {len(lacking)} of the {len(names)} questions of {run.path}, such "
            f"as {arguments.shown(texts[lacking[0]])}. Run it with the same question file."
        )
    return answers["correct"].loc[names].to_numpy(float)


def _table(chosen, units):
    """Accuracies, and the detector's gains over each, with intervals over units of questions."""
    values = chosen.to_numpy()
    gains = values[:, [chosen.columns.get_loc("detector")]] - values
    n_units = len(np.unique(units))
    accuracy, error, _ = _mean(values, units)
    gain, gain_error, influence = _mean(gains, units)
    reach = critical(n_units=n_units)
    others = chosen.columns != "detector"
    all_at_once = np.nan
    if n_units > 1:
        all_at_once = largest_error(influence[others], 0.05) * widened(n_units)
    # No gain over itself; and where all questions gain as much, none of them says how much varies.
    nothing = np.where(others & ((gain_error > 1e-12) | (gain == 0)), 1.0, np.nan)
    low, high = _ends(accuracy, reach * error, n_units)
    return pd.DataFrame(
        {
            "accuracy": accuracy,
            "low": low,
            "high": high,
            "gain": np.where(others, gain, np.nan),
            "gain_low": (gain - reach * gain_error) * nothing,
            "gain_high": (gain + reach * gain_error) * nothing,
            "gain_low_simultaneous": (gain - all_at_once * gain_error) * nothing,
            "gain_high_simultaneous": (gain + all_at_once * gain_error) * nothing,
            "n_questions": len(chosen),
            "description": [WAYS[way] for way in chosen.columns],
        },
        index=chosen.columns.rename("way"),
    )


def _ends(value, half, n):
    """Ends of an interval of a share; where no error shows, what `n` independent ones bound.

    If the share were A, all n would be right with a probability of A^n.
    """
    low, high = np.clip(value - half, 0, 1), np.clip(value + half, 0, 1)
    bound, sure = 0.025 ** (1 / max(n, 1)), half < 1e-12
    low = np.where(sure & (value > 1 - 1e-9), bound, low)
    return low, np.where(sure & (value < 1e-9), 1 - bound, high)


def _mean(values, units):
    """Means over questions of (question, column), their errors, and influences (column, unit)."""
    mean = values.mean(0)
    influence = cluster_sums((values - mean).T / len(values), units)
    n = influence.shape[1]
    return mean, standard_error(influence) * np.sqrt(n / max(n - 1, 1)), influence


# Within questions


def _aurocs(scores, samples):
    """AUROC of errors within questions and over all samples, of each score, with intervals."""
    wrong, unit = ~samples["correct"].to_numpy(), samples["unit"].to_numpy()
    question = pd.factorize(samples["question"])[0]
    rows = {name: _within(score, wrong, question, unit) for name, score in scores.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("score")
    rest = table.drop("detector").sort_values("within", ascending=False, kind="stable")
    return pd.concat([table.loc[["detector"]], rest])


def _within(score, wrong, question, unit):
    """AUROC over the pairs of one question, averaged over questions, and over all pairs."""
    there = ~np.isnan(score)
    score, wrong, question, unit = (each[there] for each in (score, wrong, question, unit))
    area, units, n_units = measured(score[None], wrong, unit)
    n_pairs = independent_pairs(np.ones(len(score), bool), wrong, unit)
    low, high = interval(area, standard_error(units), n_units=n_units, n_pairs=n_pairs)
    found = {"pooled": float(area), "pooled_low": float(low), "pooled_high": float(high)}
    mixed = [
        members
        for members in pd.Series(np.arange(len(score))).groupby(question).indices.values()
        if 0 < wrong[members].sum() < len(members)
    ]
    found |= {"n_mixed": len(mixed)} | dict.fromkeys(
        ("within", "within_low", "within_high"), np.nan
    )
    if len(mixed) > 1:
        areas = [auroc(score[members], wrong[members]) for members in mixed]
        mean, error, sums = _mean(np.array(areas)[:, None], unit[[each[0] for each in mixed]])
        reach = critical(n_units=sums.shape[1]) * error
        pairs = sum(min(wrong[each].sum(), (~wrong[each]).sum()) for each in mixed)
        # Of a score that is the same for all samples of each question, there is no doubt.
        ends = (mean, mean) if np.all(np.array(areas) == 0.5) else _ends(mean, reach, pairs)
        values = map(float, np.ravel([mean, *ends]))
        found |= dict(zip(("within", "within_low", "within_high"), values, strict=True))
    return found


# Types


def _typed(name, group):
    """One question: its type, and what it was told by."""
    counts = group.loc[group["answer"] != "", "answer"].value_counts()
    n, answered = len(group), counts.sum()
    share = counts.to_numpy() / max(answered, 1)
    first, second = [*share[:2], 0.0, 0.0][:2]
    right = False
    if len(counts):
        right = group.loc[group["answer"] == counts.index[0], "correct"].mean() > 0.5
    side = "right" if right else "wrong"
    if 2 * answered <= n:
        kind = "no answer"
    elif first == 1:
        kind = f"consistently {side}"
    elif first > 0.5:
        kind = f"mostly {side}"
    elif first + second >= 2 / 3 - 1e-9:
        kind = "competing answers"
    else:
        kind = "many answers"
    return {
        "question": name,
        "text": group["text"].iloc[0],
        "type": kind,
        "n_samples": n,
        "n_right": int(group["correct"].sum()),
        "n_answers": len(counts),
        "largest": first,
        "entropy": float(-(share * np.log(share)).sum()) if len(share) else np.nan,
    }


def _by_type(samples, questions, variants):
    """How many questions are of each type, and how well its wrong samples are told from right."""
    from scipy.stats import beta

    wrong, unit = ~samples["correct"].to_numpy(), samples["unit"].to_numpy()
    scored = ~np.isnan(variants[0])
    n, rows = len(questions), []
    for kind, rule in TYPES.items():
        k = int((questions["type"] == kind).sum())
        of_kind = (samples["type"] == kind).to_numpy() & wrong
        among = scored & (of_kind | ~wrong)
        row = {
            "type": kind,
            "n_questions": k,
            "share": k / n,
            "share_low": float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0,
            "share_high": float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0,
            "n_wrong": int((scored & of_kind).sum()),
            "rule": rule,
            "reason": "",
        }
        n_units = len(np.unique(unit[scored & of_kind]))
        if row["n_wrong"] == 0:
            row["reason"] = "no wrong sample of it has an exact answer"
        elif n_units < 2:
            row["reason"] = "all its wrong samples are of one question"
        elif not (scored & ~wrong).any():
            row["reason"] = "no sample is right"
        else:
            area, units, counted = measured(variants[:, among], wrong[among], unit[among])
            pairs = independent_pairs(scored[among], wrong[among], unit[among])
            counted = min(float(counted), n_units)
            low, high = interval(area, standard_error(units), n_units=counted, n_pairs=pairs)
            row |= {"auroc": float(area), "auroc_low": float(low), "auroc_high": float(high)}
        rows.append(row)
    columns = ["type", "n_questions", "share", "share_low", "share_high", "n_wrong"]
    columns += ["auroc", "auroc_low", "auroc_high", "rule", "reason"]
    return pd.DataFrame(rows).reindex(columns=columns).set_index("type")


# In words


def _in_words(choice):
    """Whether the detector chooses better than the others, and whether it can."""
    ways, own = choice.ways, choice.ways.loc["detector"]
    n_right, n_samples = choice.questions["n_right"], choice.questions["n_samples"]
    mixed = choice.questions[(n_right > 0) & (n_right < n_samples)]
    n = len(choice.questions)
    said = [
        f"Of {n:,} questions {len(mixed):,} have right and wrong samples; only there does it "
        "matter which one is given.",
        f"The detector's choice is right in {_percent(own['accuracy'], own['low'], own['high'])}, "
        f"and the best possible in {_percent(*ways.loc['oracle', ['accuracy', 'low', 'high']])}.",
    ]
    better, worse, level = [], [], []
    for way in ways.index.drop(["detector", "oracle"]):
        low, high = ways.loc[way, ["gain_low_simultaneous", "gain_high_simultaneous"]]
        side = better if low > 0 else worse if high < 0 else level
        values = ways.loc[way, ["gain", "gain_low", "gain_high"]] * 100
        gain, *ends = (f"{value:+.0f}".replace("-0", "+0") for value in values)
        side.append(f"{WAYS[way]} ({gain} points [{', '.join(ends)}])")
    for side, text in ((better, "better than"), (worse, "worse than")):
        if side:
            said.append(f"It is {text} {_listed(side)}.")
    if level:
        said.append(f"It can't be distinguished from {_listed(level)}.")
    within = choice.aurocs.loc["detector"]
    if np.isfinite(within["within"]):
        values = "{within:.2f} [{within_low:.2f}, {within_high:.2f}]".format(**within)
        knows = "tells" if within["within_low"] > 0.5 else "is not shown to tell"
        said.append(
            f"Within a question it {knows} wrong samples from right ones (AUROC {values}); over "
            f"all samples it has {within['pooled']:.2f}, which also counts how hard the questions "
            "are."
        )
    return said


def _listed(parts):
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _percent(value, low, high):
    return f"{100 * value:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
