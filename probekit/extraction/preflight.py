"""What a run's answers are good for, before any probe is fitted: what is there, and what to do."""

import html
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd

from probekit import arguments
from probekit.extraction.audit import with_doubts
from probekit.extraction.responses import accepted
from probekit.questions.candidates import read_candidates, unlisted
from probekit.questions.grading import normalize
from probekit.questions.statements import spoken
from probekit.run.directory import Run
from probekit.run.files import sha256

_FEW = 30  # right or wrong answers on which an AUROC can be measured, but not well
_SOME = 0.05  # the share of the answers from which a cause is worth a word
_ALIKE = 0.3  # the share of the commonest exact answer from which it may carry the picture
_N_SHOWN = 5
_WIDTH = 100  # of a terminal

# Doubts that are causes of their own; the others are of labels that a person should read.
_NO_LABEL = {"no exact answer", "cut short", "a refusal"}

# Of a kind: what a response must name, and how a question says so.
_KINDS = {
    "number": ("number", "Answer with a number only: 3 + 4"),
    "date": ("date", "Answer with a date only: when did the war end?"),
    "yes_no": ("yes or no", "Answer with yes or no only: is Oslo in Norway?"),
    "choice": ("option", "Answer with the letter of one option only"),
}
_ELSEWHERE = (
    "To change the questions, a list, the model or the length, give another run directory "
    "(--run-dir): this one keeps its answers."
)


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
def preflight(run, folds=5, seed=0):
    """Say what a run's answers are good for, and what stands in the way of the probes.

    Parameters
    ----------
    run : Run
        With a finished extract stage.
    folds : int
        Those of the probe stage: see `probe_grid`.
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
    >>> import probekit as pk
    >>> found = pk.preflight(pk.Run("data/examples/cities"))
    >>> for count in found.counts:
    ...     print(count)
    300 answers
    245 to be probed: 120 right, 125 wrong
    55 left out, as no exact answer was found in them
    4 cut short
    11 with a doubtful label, of those to be probed
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    folds, seed = arguments.whole("folds", folds, 2), arguments.seed(seed)
    answers, manifest = with_doubts(run.answers()), run.manifest("extract")
    advice = advise(answers, manifest["parameters"], _lists(manifest), folds)
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


def advise(answers, parameters, lists, folds=5):
    """What stands in the way of probes of these answers, and what to do about it, in sentences.

    `answers` are from `with_doubts`, `parameters` those of the extract stage; `lists` are the lists
    of candidates by the names of their files, each None if it can't be read any more, or None where
    it isn't known whether there are any.
    """
    if not len(answers):
        return ["There are no answers. Ask questions first."]
    # What it thinks is no part of a response.
    answers = answers.assign(said=answers["response"].map(spoken))
    there, some = answers["exact_answer"] != "", max(1, _SOME * len(answers))
    nothing = answers["said"].str.strip() == ""
    unfinished = nothing & ~answers["finished"].astype(bool)
    is_empty = nothing & ~unfinished
    refused = answers["doubt"].map(lambda doubt: "a refusal" in doubt.split("; ")) & ~nothing
    cut = answers["doubt"].map(lambda doubt: "cut short" in doubt.split("; ")) | unfinished
    unfound = answers[~there & ~nothing & ~refused & ~cut]
    found = [*_of_number(answers, parameters, folds)]
    if is_empty.sum() >= some:
        found.append(
            f"{_of(is_empty.sum(), 'response')} empty: the model stopped before it answered. Use a "
            "model that was trained to answer questions (often called Instruct or Chat), or look "
            "whether its tokenizer has the right chat template."
        )
    if len(unfound) >= some:
        found += _of_unfound(unfound, lists)
    if refused.sum() >= some:
        found.append(
            f"{_of(refused.sum(), 'response', 'decline')} to answer, such as "
            f"{_quoted(answers['said'][refused].iloc[0])}. Ask for a short answer in the "
            "question itself, leave such questions out, or use another model."
        )
    if cut.sum() >= some:
        found.append(_of_cut(answers[cut], parameters))
    found += _of_alike(answers[there], folds)
    if found:
        found[-1] += f" {_ELSEWHERE}"
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


def _of_number(answers, parameters, folds):
    """Too few answers of a kind: none can be probed, or no AUROC be measured well."""
    correct, there = answers["correct"].astype(bool), answers["exact_answer"] != ""
    if not there.any():
        yield "No response has an exact answer, so no probe can be fitted."
        return

    def asked(which):
        """How many different questions: no fold divides the answers to one."""
        return answers["question"][which].nunique()

    n_asked = asked(there)
    repeated = n_asked < there.sum()
    n_answers = min((there & correct).sum(), (there & ~correct).sum())
    right, wrong = asked(there & correct), asked(there & ~correct)
    fewer = "right" if right < wrong else "wrong"
    n, n_other = sorted((right, wrong))

    def fitted(folds):
        # One fold is left out, or two, and both kinds must be in the others.
        return min(n_answers, n_asked) >= folds and n >= min(folds, 3)

    if n >= _FEW and fitted(folds):
        return
    only = "None" if n == 0 else f"Only {n:,}"
    if repeated:
        has = "has" if n < 2 else "have"
        said = f"{only} of the {n_asked:,} questions {has} a {fewer} answer that can be probed"
        if n == n_asked:
            said = f"The answers with an exact answer are to only {n:,} questions"
    else:
        said = f"{only} of the {n_asked:,} answers with an exact answer "
        said += f"{'is' if n < 2 else 'are'} {fewer}"
    helps = what_helps(fewer, parameters)
    n_unfound = asked(correct == (fewer == "right")) - n
    if n + n_unfound >= _FEW and n_unfound > n:
        of = f"to {n_unfound:,} more questions " if repeated else ""
        more = (
            f"{fewer.capitalize()} answers {of}"
            if repeated
            else f"{n_unfound:,} more {fewer} answers "
        )
        helps = f"{more}lack an exact answer: see to these first."
    elif n > (n + n_other) / 3:
        helps = "Ask more questions."
    if not fitted(folds):
        said += f", so no probe can be fitted: {folds} folds need {folds} right and {folds} wrong "
        said += "ones with an exact answer"
        if repeated:
            said += f", to {folds} questions or more, each kind to {min(folds, 3)} or more"
        said += "."
        most = min(folds - 1, n_answers, n_asked)
        less = next((k for k in range(most, 1, -1) if fitted(k)), None)
        said += f" It can be done with folds={less}, though not well." if less else ""
    else:
        known = f"±{_half_width(n, n_other):.2f}"
        said += f": an AUROC measured on so few is known only to about {known}."
    yield f"{said} {helps}"


def _half_width(n, n_other, area=0.75):
    """Half of an AUROC's 95 % interval, by Hanley and McNeil (1982)."""
    same, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (n - 1) * (same - area**2) + (n_other - 1) * (other - area**2)
    return 1.96 * np.sqrt(spread / (n * n_other))


def _of_unfound(answers, lists):
    """Responses in which no exact answer was found, though they are neither refused nor cut."""
    for kind, some in answers.groupby("kind", sort=False, dropna=False):
        if kind in _KINDS:
            what, ask = _KINDS[kind]
            yield (
                f"{_of(len(some), 'response', 'name')} no {what}, such as "
                f"{_quoted(some['said'].iloc[0])}. {_left_out(len(some))} Say in the questions "
                f"what the answer must be, as in '{ask}'."
            )
        elif lists:
            yield from _of_unlisted(some, lists)
        else:
            advice = (
                "If the questions have a list of candidates, look whether it has what is answered "
                "here. If not, ask questions that have a short answer."
                if lists is None
                else "Give the question file a column candidates with the name of a list of all "
                "that could be answered, or ask questions that have a short answer."
            )
            yield (
                f"In {len(some):,} of the responses no exact answer was found, such as "
                f"{_quoted(some['said'].iloc[0])}. {_left_out(len(some))} {advice}"
            )


def _of_unlisted(answers, lists):
    """Responses to questions with a list that name nothing of it, and those that take it back."""
    known = [candidates for candidates in lists.values() if candidates is not None]
    names, others, taken_back = Counter(), Counter(), []
    for response, question in answers[["said", "question"]].to_numpy():
        if any(each.names_in(response, question) for each in known):
            taken_back.append(response)
            continue
        other, named = unlisted(response, question)
        listed = {name for name in named if any(each.names_in(name) for each in known)}
        names.update(named - listed)
        others.update({other} - listed - {None})
    which = f"list{'s' * (len(lists) > 1)} {arguments.listed(lists, 3)}"
    if n := len(answers) - len(taken_back):
        often, helped = names, sum(others.values())
        # A list that had {other} would have found these.
        if helped >= n / 5 and all(each.names for each in known):  # none has that already
            often = others
            advice = (
                f"Add a line {{other}} to the list, which finds {helped:,} of them, or the names."
            )
        elif names:
            advice = (
                "Where such a name is an answer, add it to the list, on a line of its own or as an "
                "alias. Where none is, the list is right: these responses answer nothing."
            )
        else:
            advice = "Say in the questions what the answer must be, and that it must be short."
        seen = ", ".join(f"{_short(name, 40)} {_times(c)}" for name, c in often.most_common(3))
        if not seen:
            rest = (said for said in answers["said"] if said not in taken_back)
            seen = f"such as {_quoted(next(rest))}"
        yield (
            f"{_of(n, 'response', 'name')} nothing that is on the {which} ({seen}). {_left_out(n)} "
            f"{advice}"
        )
    if n := len(taken_back):
        yield (
            f"{_of(n, 'response', 'name')} something on the {which}, but not as the answer: it is "
            f"denied, taken back, or one of several, as in {_quoted(taken_back[0])}. "
            f"{_left_out(n)} The list is not the cause. Ask for one short answer in the questions."
        )


def _left_out(n):
    return "It is left out." if n == 1 else "They are left out."


def _lists(manifest):
    """Lists of candidates of a run: as `advise` takes them."""
    found, files = {}, manifest["inputs"]
    for i, (name, digest) in enumerate(files.items()):
        path = Path(name)
        beside = path.parent.name == "candidates"  # it lies where lists do
        with suppress(ValueError, OSError):
            candidates = read_candidates(path.stem, path.parent.parent if beside else None)
            if sha256(candidates.path) == digest:
                found[path.name] = candidates
        if beside and i > 0:  # the first is the question file
            found.setdefault(path.name, None)
    # A table that lost what files it is of has none of them; there may still be corrections.
    is_known = len(files) > bool(manifest["results"].get("corrections"))
    return found if found or is_known else None


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


def _of_alike(answers, folds):
    """One exact answer that is given to many questions."""
    if len(answers) < 2 * folds:
        return
    names = answers["answer" if "answer" in answers else "exact_answer"]
    given = names.map(normalize)
    counts = given.value_counts()
    share = counts.iloc[0] / len(answers)
    # Of two answers one is always given to half of the questions.
    if share < max(_ALIKE, min(1.5 / len(counts), 0.9)):
        return
    alike = given == counts.index[0]
    forms = answers["exact_answer"][alike]
    are = f"are {_quoted(forms.mode().iloc[0])}"
    if forms.map(normalize).nunique() > 1:
        name = _quoted(names[alike].mode().iloc[0])
        are = f"name {name}, in different forms such as {_quoted(forms.mode().iloc[0])}"
    trust = "Trust only what is left with answers held out"
    if len(counts) < folds:
        one = "is only one answer" if len(counts) == 1 else f"are only {len(counts)} answers"
        trust = (
            f"There {one}, which {folds} folds can't hold out: compare with the controls instead"
        )
    yield (
        f"{share:.0%} of the exact answers {are} ({answers['correct'][alike].mean():.0%} of these "
        "are right). Probes may read which answer was given instead of whether it is wrong. "
        f"{trust}, or ask questions whose answers differ more."
    )


def _of(n, noun, verb=None):
    """``1 response is``, ``20 responses are``; or with another verb, ``20 responses name``."""
    one, several = ("is", "are") if verb is None else (f"{verb}s", verb)
    return f"{n:,} {noun} {one}" if n == 1 else f"{n:,} {noun}s {several}"


def _times(n):
    return "once" if n == 1 else f"{n:,} times"


def _quoted(text):
    return repr(_short(text, 80))
