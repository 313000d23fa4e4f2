"""Responses with the named tokens marked, so that the user sees which token each name hit."""

import html
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import xarray as xr

from probekit import arguments
from probekit.run.directory import Run
from probekit.tokens import LAST_PROMPT_TOKEN, TOKENS

#: Lists of examples: which answers, whether the highest P(error) comes first, and that in words.
LISTS = {
    "most confidently wrong": ("wrong", True, "wrong answers, highest P(error) first"),
    "misses": ("wrong", False, "wrong answers, lowest P(error) first"),
    "false alarms": ("right", True, "right answers, highest P(error) first"),
    "all": ("all", True, "all answers, highest P(error) first, those without one last"),
}


def by_id(scores, ids):
    """Scores (example, ...) of some examples, found by their ids; NaN of those that have none."""
    if not isinstance(scores, xr.DataArray) or "id" not in scores.coords:
        raise ValueError(
            "scores must be a DataArray with the coordinate id on example, such as "
            "grid.score.sel(layer=12)."
        )
    index = pd.Index(scores["id"].to_numpy().astype(str))
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        raise ValueError(f"The scores have the id {twice!r} more than once; ids must be unique.")
    rows = index.get_indexer(pd.Index(np.asarray(ids, dtype=object)).astype(str))
    known = xr.DataArray(rows >= 0, dims="example")
    return scores.isel(example=np.maximum(rows, 0)).where(known)


def cell_examples(answers, scores, which="all", search=""):
    """List the examples behind a cell, whose scores are (example)."""
    if which not in LISTS:
        raise ValueError(f"No list {which!r}. The lists are {', '.join(LISTS)}.")
    side, descending, _ = LISTS[which]
    table = answers.assign(p_error=by_id(scores, answers["id"]).to_numpy())
    if side != "all":
        table = table[table["p_error"].notna() & (table["correct"] == (side == "right"))]
    if wanted := search.strip().casefold():
        searched = ["question", "response", "exact_answer", "accepted"]
        texts = table[[name for name in searched if name in table]].astype(str)
        found = [any(wanted in text.casefold() for text in row) for row in texts.to_numpy()]
        table = table[found]
    return table.sort_values("p_error", ascending=not descending, kind="stable")


_STYLE = (
    "border-bottom:2px solid {colour};background:{background};padding:0 1px;margin:0 1px;"
    "display:inline-block;text-align:center;line-height:1.3;vertical-align:top;white-space:pre"
)

_NAME_STYLE = (
    "display:block;font-size:10px;color:var(--jp-ui-font-color1, #444);font-family:sans-serif;"
    "line-height:1.2"
)

# Okabe and Ito's blue and vermilion, as in the charts: right and wrong.
_RIGHT, _WRONG = "0, 114, 178", "213, 94, 0"


@dataclass(frozen=True)
class TokenView:
    """Some responses, token by token; a notebook shows it as HTML, a terminal as text."""

    # Of each response a dict: question, verdict, exact_answer, and tokens: (text, names) each. With
    # scores also p_error, {name: P(error)}, and chosen, the name that a token is coloured by.
    # `accepted` are the accepted answers, with "|" between them. No verdict, and none accepted,
    # where nobody knows. While a response is made, exact_answer is None, and `unscored` the colour
    # of tokens that have no score yet.
    rows: list

    def __repr__(self):
        return "\n\n".join(map(_as_text, self.rows))

    def _repr_html_(self):
        return "".join(map(_as_html, self.rows))


def show_tokens(run, n=5, seed=0, scores=None):
    """Show responses with the token that each name hit.

    Parameters
    ----------
    run : Run
    n : int
        How many responses, drawn at random.
    seed : int
        Random seed.
    scores : DataArray, dims (example, token), optional
        P(error) of one layer's probes, such as ``run.grid().score.sel(layer=12)``, which colours
        the tokens: from blue (0) by white (0.5) to orange (1).

    Returns
    -------
    TokenView
        A notebook shows it as HTML; ``print`` gives plain text.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a number is out of range, or the scores have more than one layer or no ids.

    Examples
    --------
    >>> import probekit as pk
    >>> run = pk.Run("data/examples/cities")
    >>> print(pk.show_tokens(run, n=1))
    In which country is the city of Vijayawada?  (right, exact answer: Indian, accepted: India
    or 3 more)
      prompt  '⏎'                   last_q
           0  'The'                 first_answer
           1  ' city'               second_answer
           2  ' of'
           3  ' Vij'
           4  'aya'
           5  '-'
           6  'W'
           7  'ada'
           8  ' is'
           9  ' located'
          10  ' in'
          11  ' the'                exact_answer_before_first
          12  ' Indian'             exact_answer_first, exact_answer_last, -8
          13  ' state'              exact_answer_after_last, -7
          14  ' of'                 -6
          15  ' Andhra'             -5
          16  ' Pradesh'            -4
          17  ','                   -3
          18  ' India'              -2
          19  '.'                   -1
    """
    arguments.instance("run", run, Run, 'such as Run("data/runs/cities")')
    n, seed = arguments.whole("n", n, 1), arguments.seed(seed)
    if scores is not None:
        such_as = "such as run.grid().score.sel(layer=12)"
        arguments.instance("scores", scores, xr.DataArray, such_as)
        if set(scores.dims) != {"example", "token"}:
            raise ValueError(
                f"scores must be over (example, token), {such_as}; they are over "
                f"({arguments.listed(scores.dims)})."
            )
    answers = run.answers()
    drawn = answers.sample(min(n, len(answers)), random_state=seed).sort_index()
    return token_view(drawn, scores)


def token_view(answers, scores=None, chosen=None):
    """View of given answers, in their order; scores (example, token)."""
    rows = []
    for answer in answers.to_dict("records"):
        starts = [*answer["token_starts"], len(answer["response"])]
        texts = ["⏎", *(answer["response"][a:b] for a, b in pairwise(starts))]
        named = {}
        for name, position in zip(TOKENS, answer["positions"], strict=True):
            named.setdefault(position, []).append(name)
        row = {
            "question": answer["question"],
            "verdict": ("right" if answer["correct"] else "wrong") if "correct" in answer else "",
            "exact_answer": answer["exact_answer"],
            "accepted": answer.get("accepted", ""),  # runs of earlier versions lack it
            "tokens": [(t, named.get(i, [])) for i, t in enumerate(texts, LAST_PROMPT_TOKEN)],
        }
        rows.append(row)
    if scores is not None:
        names = scores["token"].to_numpy().astype(str)
        found = by_id(scores, answers["id"]).transpose("example", "token").to_numpy()
        for row, values in zip(rows, found, strict=True):
            known = {n: float(v) for n, v in zip(names, values, strict=True) if np.isfinite(v)}
            row |= {"p_error": known, "chosen": chosen}
    return TokenView(rows)


def heading(row):
    """The question of a row of a `TokenView`, and what is known of its answer."""
    known = [row["verdict"]] if row["verdict"] else []
    if row["exact_answer"] is not None:
        exact = row["exact_answer"]
        known.append(f"exact answer: {exact}" if exact else "no exact answer")
    if row.get("accepted"):
        known.append(f"accepted: {accepted(row['accepted'])}")
    p = row.get("p_error", {}).get(row.get("chosen"))
    if p is not None:
        known.append(f"P(error) {p:.2f}")
    return f"{row['question']}  ({', '.join(known)})" if known else row["question"]


def accepted(answers):
    """The first of a question's accepted answers, and how many more there are."""
    first, *others = answers.split("|")
    return f"{first} or {len(others)} more" if others else first


def _label(row, name):
    p = row.get("p_error", {}).get(name)
    return name if p is None else f"{name}: {p:.2f}"


def _as_text(row):
    lines = [heading(row)]
    for i, (text, names) in enumerate(row["tokens"], LAST_PROMPT_TOKEN):
        place = "prompt" if i == LAST_PROMPT_TOKEN else str(i)
        labels = ", ".join(_label(row, name) for name in names)
        lines.append(f"  {place:>6}  {text!r:<20}  {labels}".rstrip())
    return arguments.visible("\n".join(lines), longest=100_000)


def _as_html(row):
    # The class keeps JupyterLab from reading "$5 or $6" as a formula.
    return (
        f"<div class='mathjax_ignore' style='margin:8px 0'><b>{html.escape(heading(row))}</b>"
        f"{tokens_as_html(row)}</div>"
    )


def tokens_as_html(row):
    """A row of a `TokenView` without its heading."""
    spans = []
    for text, names in row["tokens"]:
        # What the model wrote is text, whatever it looks like.
        shown = html.escape(text).replace("\n", "↵") or "∅"
        exact = any(name.startswith("exact_answer_") for name in names)
        colour = "#0072b2" if exact else "#808890" if names else "transparent"
        style = _STYLE.format(colour=colour, background=_background(row, names))
        for name in names:
            weight = ";font-weight:bold" if name == row.get("chosen") else ""
            label = html.escape(_label(row, name))
            shown += f"<span style='{_NAME_STYLE}{weight}'>{label}</span>"
        spans.append(f"<span style='{style}'>{shown}</span>")
    return f"<div style='font-family:monospace'>{''.join(spans)}</div>"


def _background(row, names):
    """Colour of P(error) at a token: that of the chosen name, or of the first that has one."""
    known = row.get("p_error", {})
    names = [name for name in names if name in known]
    if not names:
        return row.get("unscored", "transparent")
    p = known[row["chosen"] if row["chosen"] in names else names[0]]
    # Never so strong that the text on it is hard to read.
    return f"rgba({_WRONG if p > 0.5 else _RIGHT}, {1.2 * abs(p - 0.5):.2f})"
