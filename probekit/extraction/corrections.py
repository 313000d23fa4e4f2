"""A person's corrections of labels: verdicts and exact answers in place of the model's own."""

import hashlib
import os

import pandas as pd

from probekit import arguments
from probekit.questions.grading import examine, normalize
from probekit.questions.table import _read, _text
from probekit.tokens import answer_tokens, decode_with_offsets, token_positions

#: In the column ``exact_answer``: the response has none.
NONE = "-"

_COLUMNS = ("id", "correct", "exact_answer")
_VERDICTS = dict.fromkeys(("true", "1", "right", "yes"), True)
_VERDICTS |= dict.fromkeys(("false", "0", "wrong", "no"), False)


def read_corrections(source, ids, name="corrections"):
    """Read a person's labels of some answers, whose `ids` are known; none if there is no source.

    Gives the columns ``id``, ``correct`` (True, False or None) and ``exact_answer``: empty where
    it stays as it is, `NONE` where there is none.
    """
    if arguments.absent(source):
        return pd.DataFrame({column: pd.Series(dtype=object) for column in _COLUMNS})
    if isinstance(source, pd.DataFrame):
        table, called = source, f"The DataFrame of {name}"
    elif not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"{name} must be the path of a CSV file or a DataFrame, got {arguments.shown(source)}."
        )
    else:
        path = arguments.path(name, source)
        if not path.is_file():
            raise FileNotFoundError(f"{name}: there is no file {arguments.shown(str(path), 200)}.")
        if path.suffix.lower() != ".csv":
            shown = arguments.shown(str(path), 200)
            raise ValueError(f"{name}: {shown} must be a file that ends in .csv.")
        table, called = _read(path, _COLUMNS), path.name
    have = [str(column) for column in table.columns]
    given = [column for column in _COLUMNS if column in have]
    if "id" not in given or len(given) < 2 or any(have.count(column) > 1 for column in given):
        raise ValueError(
            f"{called} needs the columns id and correct, exact_answer or both, each once. Columns "
            f"found: {arguments.listed(have) or 'none'}."
        )
    columns = {c: [_text((v, [])) for v in table[c]] if c in given else "" for c in _COLUMNS}
    read = pd.DataFrame(columns, dtype=object)
    for what, which in (
        ("more than once", read["id"].duplicated()),
        ("that the run does not ask", ~read["id"].isin([*ids])),
    ):
        if which.any():
            listed = arguments.listed(map(repr, read["id"][which].unique()), 5)
            raise ValueError(f"{called} has ids {what}: {listed}.")
    for row in read.itertuples():
        if row.correct and row.correct.lower() not in _VERDICTS:
            raise ValueError(
                f"{called}, id {arguments.shown(row.id)}: correct is "
                f"{arguments.shown(row.correct)}. Write true or false, or leave it empty."
            )
    verdicts = [_VERDICTS.get(verdict.lower()) for verdict in read["correct"]]
    return read.assign(correct=pd.Series(verdicts, dtype=object))


def digest(corrections):
    """Hash of what corrections say, or None if there are none."""
    if not len(corrections):
        return None
    return hashlib.sha256(corrections.to_json(orient="values").encode()).hexdigest()


def correct_answers(lm, answers, questions, corrections):
    """Answers as a person corrected them, all but the log-probabilities of other exact answers.

    ``graded`` keeps the grader's verdict, ``corrected`` says where anything was changed. Who was
    looked at by a person is no longer in doubt. The answers are in the order of the questions.
    """
    answers = answers.assign(graded=answers["correct"], corrected=False)
    place = {identity: i for i, identity in enumerate(answers["id"])}
    for given in corrections.itertuples():
        if given.correct is None and not given.exact_answer:
            continue
        i = place[given.id]
        row, changes = answers.loc[i], {}
        if given.correct is not None:
            changes["correct"] = given.correct
        # One that is left as it was may stand in several places: it is where the model has it.
        if given.exact_answer and given.exact_answer != (row["exact_answer"].strip() or NONE):
            changes |= _exact_answer(lm, row, questions.iloc[i], given.exact_answer)
        changed = any(value != row[name] for name, value in changes.items() if name != "positions")
        answers.at[i, "corrected"] = changed
        if "doubt" in answers:
            changes["doubt"] = ""
        for name, value in changes.items():
            answers.at[i, name] = value
    return answers


def _exact_answer(lm, row, asked, exact_answer):
    """What changes in a row of the answers with another exact answer."""
    from probekit.extraction.asking import find_copy  # with torch

    token_ids = list(row["token_ids"])
    text, span, tokens, name = row["response"], (-1, -1), None, ""
    if exact_answer == NONE:
        exact_answer = ""
    else:
        span = find_copy(exact_answer, text)
        _, offsets = decode_with_offsets(lm.tokenizer, token_ids)
        tokens = answer_tokens(lm.tokenizer, token_ids, offsets, span)
        if tokens is None:
            raise ValueError(
                f"corrections, id {arguments.shown(row['id'])}: the exact answer "
                f"{arguments.shown(exact_answer)} is not in the response, in whole words: "
                f"{arguments.visible(repr(text), 300)}. Write it as it stands there, or "
                f"{NONE!r} for none. All answers are kept."
            )
        exact_answer = text[slice(*span)]
        if asked["kind"] == "text":
            name = asked["candidates"] and asked["candidates"].canonical(exact_answer)
        else:
            how = (asked["answers"], asked["question"], None, asked["kind"], asked["choices"])
            name = examine(exact_answer, *how).name
    return {
        "exact_answer": exact_answer,
        "answer": name or normalize(exact_answer),
        "answer_start": span[0],
        "answer_end": span[1],
        "positions": token_positions(len(token_ids), tokens),
    }
