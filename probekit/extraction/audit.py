"""Which labels may be wrong, and what wrong labels do to an AUROC."""

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from probekit import arguments
from probekit.extraction.corrections import read_corrections
from probekit.questions.grading import doubts, stated
from probekit.run.directory import Run

# Why a label may be wrong, as `examine` words it: the most often with reason first.
_REASONS = (
    "an accepted answer stands elsewhere",
    "close to an accepted answer",
    "several answers",
    "an everyday word",
    "no exact answer",
    "cut short",
    "a refusal",
)
_SHOWN = ["id", "question", "response", "exact_answer", "accepted", "correct", "kind", "doubt"]
_TO_LABEL = ["id", "question", "response", "accepted", "correct", "exact_answer"]


@arguments.plainly()
def audit(run, sample=0, seed=0):
    """List the answers whose labels are most likely wrong, or draw a random sample to label.

    A person reads them and writes what is wrong into a CSV file, which `extract` takes as
    ``corrections``. The table itself, saved with ``to_csv``, will do, with the columns ``correct``
    and ``exact_answer`` put right.

    Parameters
    ----------
    run : Run
        With a finished extract stage.
    sample : int
        Draw so many answers at random, doubtful or not, for `grader_error`. The columns ``correct``
        and ``exact_answer`` are then empty, to be filled in by somebody who has not seen the grade.
    seed : int
        Random seed of the sample.

    Returns
    -------
    DataFrame
        Columns ``id``, ``question``, ``response``, ``exact_answer``, ``accepted``, ``correct``,
        ``kind`` and ``doubt``, which says why; the likeliest mistakes first, and answers with the
        same reason in the order of the run. Answers without a doubt are left out, and so are those
        that a person has looked at. A sample has no ``kind`` and no ``doubt``.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If an argument is of another type or out of range, or the extract stage is not finished.

    Examples
    --------
    >>> import probekit as pk
    >>> doubtful = pk.audit(pk.Run("data/example"))
    >>> doubtful["doubt"].value_counts().to_dict()
    {'no exact answer': 225, 'close to an accepted answer': 22, 'an accepted answer
    stands elsewhere': 11, 'no exact answer; cut short': 6, 'cut short': 1}
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    sample, seed = arguments.whole("sample", sample), arguments.seed(seed)
    answers = with_doubts(run.answers())
    if sample:
        drawn = answers.sample(min(sample, len(answers)), random_state=seed).sort_index()
        return drawn.assign(correct="", exact_answer="")[_TO_LABEL].reset_index(drop=True)
    ranks = [min(map(_rank, doubt.split("; "))) for doubt in answers["doubt"]]
    answers = answers.assign(rank=ranks).sort_values("rank", kind="stable")
    return answers.loc[answers["doubt"] != "", _SHOWN].reset_index(drop=True)


def with_doubts(answers):
    """Answers with what the grader doubts of each, also of a run of an earlier version."""
    # Runs from before there were kinds, accepted answers or doubts in the table.
    added = {"kind": "text", "accepted": "", "finished": True, "doubt": None}
    answers = answers.assign(**{name: v for name, v in added.items() if name not in answers})
    rows = answers.itertuples()
    found = [row.doubt if isinstance(row.doubt, str) else _doubt(row) for row in rows]
    return answers.assign(doubt=found)


def _rank(reason):
    return _REASONS.index(reason) if reason in _REASONS else len(_REASONS)


def _doubt(row):
    """What the grader doubts of an answer, as far as an earlier version's table tells."""
    accepted, span = row.accepted.split("|"), None
    if row.exact_answer:
        span = row.answer_start, row.answer_end
    how = {"kind": "text", "is_open": False, "finished": row.finished}  # it had lists mostly
    places = stated(row.response, accepted)
    return doubts(row.response, accepted, places, span, row.correct, **how)


@arguments.plainly()
def grader_error(run, labelled, auroc=None):
    """How often the grader is wrong, and what the AUROC would be without its errors.

    Of the answers labelled wrong a share a is right, of those labelled right a share b is wrong.
    If the score does not depend on the label once the truth is known, an observed AUROC is
    ``A_observed = A_true * (1 - a - b) + (a + b) / 2``, so that errors of labelling draw it
    towards 0.5, and ``A_true = 0.5 + (A_observed - 0.5) / (1 - a - b)``. Where a probe has learnt
    the grader's mistakes too, the observed AUROC is too high instead, which no formula tells.

    Parameters
    ----------
    run : Run
        Its answers are compared as the grader graded them, before any corrections.
    labelled : str, Path or DataFrame
        A random sample with the columns ``id`` and ``correct``, the latter by a person's hand: from
        ``audit(run, sample=50)``. Rows with an empty ``correct`` are passed over.
    auroc : float, optional
        An observed AUROC.

    Returns
    -------
    Series
        ``n``, ``errors``, and the share of errors ``rate`` with its 95 % Wilson interval ``low`` to
        ``high``; ``right_among_wrong`` (a) and ``wrong_among_right`` (b), NaN if none was drawn.
        With `auroc` also ``auroc_true``, ``auroc_low`` and ``auroc_high``, where both shares are at
        an end of their intervals, so that this one is rather too wide.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If an argument is of another type, the extract stage is not finished, the sample cannot be
        read or has ids that the run lacks, or nothing in it is labelled.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> labelled = pk.audit(run, sample=5)
    >>> labelled["correct"] = [True, False, True, False, True]  # what a person says
    >>> found = pk.grader_error(run, labelled)
    >>> found[["n", "errors", "rate", "low", "high"]].astype(float).round(2).to_dict()
    {'n': 5.0, 'errors': 1.0, 'rate': 0.2, 'low': 0.04, 'high': 0.62}
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    if auroc is not None:
        auroc = arguments.number("auroc", auroc, 0, 1)
    answers = run.answers().set_index("id")
    labels = read_corrections(labelled, answers.index, "labelled").set_index("id")["correct"]
    labels = labels.dropna().astype(bool)
    if not len(labels):
        raise ValueError(
            "Nothing in the sample is labelled: its column correct is empty. Write true or false "
            "into every row."
        )
    graded = answers["graded" if "graded" in answers else "correct"].loc[labels.index]
    wrong = graded != labels
    rate, low, high = _share(wrong)
    a, b = _share(wrong[~graded]), _share(wrong[graded])
    found = {"n": len(labels), "errors": int(wrong.sum()), "rate": rate, "low": low, "high": high}
    found |= {"right_among_wrong": a[0], "wrong_among_right": b[0]}
    if auroc is not None:
        # With nothing left of the labels, any AUROC could be behind an observed one.
        kept = [max(1 - x - y, 1e-9) for x, y in zip(a, b, strict=True)]
        true, *ends = np.clip(0.5 + (auroc - 0.5) / np.array(kept), 0, 1)
        found |= {"auroc_true": true, "auroc_low": min(ends), "auroc_high": max(ends)}
    return pd.Series(found, name="grader", dtype=object)


def _share(flags):
    """The share that is true, and the ends of its 95 % interval (Wilson 1927)."""
    if not len(flags):
        return np.nan, 0.0, 1.0
    test = binomtest(int(flags.sum()), len(flags))
    interval = test.proportion_ci(method="wilson")
    return test.statistic, float(interval.low), float(interval.high)
