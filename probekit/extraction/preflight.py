"""What a run's answers are good for, before any probe is fitted: what is there, and what to do."""

import html
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd

from probekit import arguments
from probekit.extraction.audit import with_doubts
from probekit.extraction.responses import accepted
from probekit.questions.candidates import unlisted
from probekit.questions.grading import normalize
from probekit.run.directory import Run
from probekit.run.files import resource

_FOLDS = 5  # those of the probe stage, each of which needs a right and a wrong answer
_FEW = 30  # right or wrong answers on which an AUROC can be measured, but not well
_SOME = 0.05  # the share of the answers from which a cause is worth a word
_ALIKE = 0.3  # the share of the commonest exact answer from which it may carry the picture
_N_SHOWN = 5
_WIDTH = 100  # of a terminal

# Doubts that are causes of their own; the others are of labels that a person should read.
_NO_LABEL = {"no exact answer", "cut short", "a refusal"}


@dataclass(frozen=True)
class Preflight:
    """What a run's answers are good for; a notebook shows it as HTML, a terminal as text."""

    counts: list
    """How many answers there are, of which kind, each in a few words."""
    examples: pd.DataFrame
    """Some of them: `verdict`, `question`, `response`, `exact_answer`, `accepted`, in words."""
    advice: list
    """What stands in the way of the probes and what to do about it, each in a few sentences."""

    def __repr__(self):
        lines = [*self.counts, ""]
        for row in self.examples.itertuples():
            answer = f"{row.verdict}; exact answer: {row.exact_answer}; accepted: {row.accepted}"
            lines += [row.question, f"    {_short(row.response, _WIDTH - 4)}", f"    ({answer})"]
        for each in self.advice:
            lines += ["", *wrap(each, _WIDTH, initial_indent="- ", subsequent_indent="  ")]
        return arguments.visible("\n".join(lines), longest=100_000)

    def _repr_html_(self):
        def cells(values, tag):
            style = "text-align:left;vertical-align:top;padding:2px 10px"
            return "".join(f"<{tag} style='{style}'>{html.escape(v)}</{tag}>" for v in values)

        names = [name.replace("_", " ") for name in self.examples]
        rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.examples.to_numpy())
        advice = "".join(f"<li>{html.escape(each)}</li>" for each in self.advice)
        # The class keeps JupyterLab from reading "$5 or $6" as a formula.
        return (
            f"<div class='mathjax_ignore'><p>{'<br>'.join(map(html.escape, self.counts))}</p>"
            f"<table><thead><tr>{cells(names, 'th')}</tr></thead><tbody>{rows}</tbody></table>"
            f"<ul>{advice}</ul></div>"
        )


@arguments.plainly()
def preflight(run, seed=0):
    """Say what a run's answers are good for, and what stands in the way of the probes.

    Parameters
    ----------
    run : Run
        With a finished extract stage.
    seed : int
        Random seed of the answers that are shown.

    Returns
    -------
    Preflight
        How many answers are right, wrong and neither; five of them, one of each kind if there is
        any (right, wrong, without an exact answer, cut short); and what to do where something
        stands in the way: too few of a kind, a list that lacks what the model answers, responses
        that are empty, refused, cut short or all alike, labels in doubt. A notebook shows it as
        HTML; ``print`` gives plain text.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        If an argument is of another type or out of range, or the extract stage is not finished.

    Examples
    --------
    >>> print(pk.preflight(pk.open_run()))  # doctest: +SKIP
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    seed = arguments.seed(seed)
    answers, manifest = with_doubts(run.answers()), run.manifest("extract")
    advice = advise(answers, manifest["parameters"], manifest["inputs"])
    return Preflight(_counts(answers), _examples(answers, seed), advice)


def _counts(answers):
    there, right = answers["exact_answer"] != "", answers["correct"].astype(bool)
    corrected = answers.get("corrected", pd.Series(False))
    further = {
        "left out, as no exact answer was found in them": ~there,
        "cut short": ~answers["finished"].astype(bool),
        "with a doubtful label, of those to be probed": _in_doubt(answers),
        "corrected by hand": corrected,
    }
    return [
        f"{len(answers):,} answers",
        f"{there.sum():,} to be probed: {(there & right).sum():,} right, "
        f"{(there & ~right).sum():,} wrong",
        *(f"{flags.sum():,} {what}" for what, flags in further.items() if flags.any()),
    ]


def _in_doubt(answers):
    """Which answers with an exact answer have a label that a person should read."""
    doubts = answers["doubt"].map(lambda doubt: bool({*doubt.split("; ")} - {"", *_NO_LABEL}))
    return doubts & (answers["exact_answer"] != "")


def _examples(answers, seed):
    """Some answers at random, one of each kind among them, in the order of the run."""
    there = answers["exact_answer"] != ""
    right = answers["correct"].astype(bool)
    mixed = answers.sample(frac=1, random_state=seed).index
    chosen = []
    for kind in (~answers["finished"], ~there, there & ~right, there & right):
        chosen += [i for i in mixed if kind[i] and i not in chosen][:1]
    chosen += [i for i in mixed if i not in chosen][: max(_N_SHOWN - len(chosen), 0)]
    rows = []
    for row in answers.loc[sorted(chosen)].itertuples():
        verdict = "right" if row.correct else "wrong"
        rows.append(
            {
                "verdict": verdict if row.finished else f"{verdict}, cut short",
                "question": _short(row.question, 160),
                "response": _short(row.response, 160) or "(empty)",
                "exact_answer": _short(row.exact_answer, 60) or "none",
                "accepted": _short(accepted(row.accepted), 60) or "not known",
            }
        )
    return pd.DataFrame(rows)


def _short(text, longest):
    """A text on one line, without its end where it is long."""
    line = arguments.visible(" ".join(str(text).split()), 10_000)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def advise(answers, parameters, files):
    """What stands in the way of probes of these answers, and what to do about it, in sentences.

    `answers` are from `with_doubts`, `parameters` those of the extract stage, `files` the question
    file and the lists of candidates.
    """
    there, some = answers["exact_answer"] != "", max(1, _SOME * len(answers))
    is_empty = answers["response"].str.strip() == ""
    refused = answers["doubt"].map(lambda doubt: "a refusal" in doubt.split("; ")) & ~is_empty
    cut = answers["doubt"].map(lambda doubt: "cut short" in doubt.split("; "))
    unfound = answers[~there & ~is_empty & ~refused & ~cut]
    found = [*_of_number(answers, parameters)]
    if is_empty.sum() >= some:
        found.append(
            f"{_of(is_empty.sum(), 'response')} empty: the model stopped at once. Use a model that "
            "was trained to answer questions (often called Instruct or Chat), or look whether its "
            "tokenizer has the right chat template."
        )
    if len(unfound) >= some:
        found.append(_of_unfound(unfound, files))
    if refused.sum() >= some:
        found.append(
            f"{_of(refused.sum(), 'response', 'decline')} to answer, such as "
            f"{_quoted(answers['response'][refused].iloc[0])}. Ask for a short answer in the "
            "question itself, leave such questions out, or use another model."
        )
    if cut.sum() >= some:
        found.append(_of_cut(answers[cut], parameters))
    found += _of_alike(answers[there])
    doubts = answers["doubt"][_in_doubt(answers)]
    if len(doubts) >= some:
        ((why, _),) = Counter("; ".join(doubts).split("; ")).most_common(1)
        found.append(
            f"{_of(len(doubts), 'label')} in doubt (most often: {why}). Read pk.audit(run), "
            "and put right what is wrong in a CSV file that you give as corrections."
        )
    return found or ["Nothing stands in the way of the probes."]


def what_helps(lacking, parameters):
    """What gives more right answers, or more wrong ones, in a sentence."""
    if lacking == "right":
        return "Ask easier questions or more of them, or use a larger model."
    sampled = ", or take several answers to each question (n_samples=8, temperature=0.8)"
    return (
        "Ask harder questions or more of them, use a smaller model"
        f"{sampled if parameters.get('n_samples', 1) == 1 else ''}."
    )


def _of_number(answers, parameters):
    """Too few answers of a kind: none can be probed, or no AUROC be measured well."""
    correct, there = answers["correct"].astype(bool), answers["exact_answer"] != ""
    right, wrong = int((correct & there).sum()), int((~correct & there).sum())
    fewer = "right" if right < wrong else "wrong"
    n, n_other = sorted((right, wrong))
    if n >= _FEW:
        return
    if not there.any():
        yield "No response has an exact answer, so no probe can be fitted."
        return
    only = "None" if n == 0 else f"Only {n}"
    said = f"{only} of the {n + n_other:,} answers with an exact answer {'is' if n < 2 else 'are'} "
    if n < _FOLDS:
        said += f"{fewer}, so no probe can be fitted: {_FOLDS} folds need {_FOLDS} right and "
        said += f"{_FOLDS} wrong ones with an exact answer."
    else:
        known = f"±{_half_width(n, n_other):.2f}"
        said += f"{fewer}: an AUROC measured on so few is known only to about {known}."
    n_unfound = int((~there & (correct == (fewer == "right"))).sum())
    if n + n_unfound >= _FEW and n_unfound > n:
        said += f" {n_unfound:,} more {fewer} answers lack an exact answer: see to these first."
    elif n > (n + n_other) / 3:
        said += " Ask more questions."
    else:
        said += f" {what_helps(fewer, parameters)}"
    yield said


def _half_width(n, n_other, area=0.75):
    """Half of an AUROC's 95 % interval, by Hanley and McNeil (1982)."""
    same, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n - 1) * (same - area**2) + (n_other - 1) * (other - area**2)
    return 1.96 * np.sqrt(spread / (n * n_other))


def _of_unfound(answers, files):
    """Responses in which no exact answer was found, though they are neither refused nor cut."""
    lists, n = _lists(files), len(answers)
    kinds = answers["kind"].value_counts()
    if kinds.index[0] != "text":
        what = {"number": "number", "date": "date", "yes_no": "yes or no", "choice": "option"}
        return (
            f"{_of(n, 'response', 'name')} no {what.get(kinds.index[0], 'answer')}, such as "
            f"{_quoted(answers['response'].iloc[0])}. They are left out. Say in the questions what "
            "the answer must be, as in 'Answer with a number only: 3 + 4'."
        )
    if not lists:
        return (
            f"In {n:,} of the responses no exact answer was found, such as "
            f"{_quoted(answers['response'].iloc[0])}. They are left out. Give the question file a "
            "column candidates with the name of a list of all that could be answered, or ask "
            "questions that have a short answer."
        )
    names, others = Counter(), Counter()
    for response, question in answers[["response", "question"]].to_numpy():
        other, named = unlisted(response, question)
        names.update(named)
        others.update([other] if other else [])
    often, helped = names, sum(others.values())
    # A list that had {other} would have found these.
    if helped >= n / 5:
        often = others
        advice = f"Add a line {{other}} to the list, which finds {helped:,} of them, or the names."
    elif names:
        advice = (
            "Where such a name is an answer, add it to the list, on a line of its own or as an "
            "alias. Where none is, the list is right: these responses answer nothing."
        )
    else:
        advice = "Say in the questions what the answer must be, and that it must be short."
    seen = ", ".join(f"{_short(name, 40)} {_times(c)}" for name, c in often.most_common(3))
    seen = seen or f"such as {_quoted(answers['response'].iloc[0])}"
    which = f"list{'s' * (len(lists) > 1)} {arguments.listed(lists, 3)}"
    return (
        f"{_of(n, 'response', 'name')} nothing that is on the {which} ({seen}). They are left out. "
        f"{advice}"
    )


def _lists(files):
    """Names of the files that are lists of candidates."""
    # Their folder is not known of a run that was copied elsewhere. The first is the question file.
    shipped = resource("data/questions/candidates")
    return [
        path.name
        for i, path in enumerate(map(Path, files))
        if path.parent.name == "candidates" or (i > 0 and (shipped / path.name).is_file())
    ]


def _of_cut(answers, parameters):
    """Responses that ended before their answer did."""
    n, most = len(answers), parameters.get("max_new_tokens")
    looping = int(answers["response"].map(_repeats).sum())
    said = f"{_of(n, 'response')} cut short before the answer was complete"
    said += f", at {most} tokens" * bool(most) + "."
    if looping > n / 2:
        return (
            f"{said} {looping:,} of them say the same again and again, which no greater length "
            "ends. Ask for a short answer in the question itself, or use another model."
        )
    more = f"max_new_tokens={2 * most}" if most else "a greater max_new_tokens"
    return f"{said} Extract again with {more}, or ask for a short answer in the question itself."


def _repeats(response):
    """Whether a response ends in what it has said before."""
    text = " ".join(response.split())
    tail = text[-30:]
    return len(tail) == 30 and tail in text[: -len(tail)]


def _of_alike(answers):
    """One exact answer that is given to many questions."""
    if len(answers) < 2 * _FOLDS:
        return
    given = answers["answer" if "answer" in answers else "exact_answer"].map(normalize)
    counts = given.value_counts()
    share = counts.iloc[0] / len(answers)
    # Of two answers one is always given to half of the questions.
    if share < max(_ALIKE, min(1.5 / len(counts), 0.9)):
        return
    name = _quoted(answers["exact_answer"][given == counts.index[0]].mode().iloc[0])
    right = answers["correct"][given == counts.index[0]].mean()
    yield (
        f"{share:.0%} of the exact answers are {name} ({right:.0%} of these are right). Probes may "
        "read which answer was given instead of whether it is wrong. Trust only what is left with "
        "answers held out, or ask questions whose answers differ more."
    )


def _of(n, noun, verb=None):
    """``1 response is``, ``20 responses are``; or with another verb, ``20 responses name``."""
    one, several = ("is", "are") if verb is None else (f"{verb}s", verb)
    return f"{n:,} {noun} {one}" if n == 1 else f"{n:,} {noun}s {several}"


def _times(n):
    return "once" if n == 1 else f"{n:,} times"


def _quoted(text):
    return repr(_short(text, 80))
