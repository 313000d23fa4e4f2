"""Responses with the named tokens marked, so that the user sees which token each name hit."""

import html
from dataclasses import dataclass
from itertools import pairwise

from probekit.tokens import LAST_PROMPT_TOKEN, MISSING, TOKENS

_STYLE = (
    "border-bottom:2px solid {colour};padding:0 1px;margin:0 1px;display:inline-block;"
    "text-align:center;line-height:1.3;vertical-align:top;white-space:pre"
)
_NAME_STYLE = "display:block;font-size:9px;color:#555;font-family:sans-serif;line-height:1.2"


@dataclass(frozen=True)
class TokenView:
    """Some responses, token by token; a notebook shows it as HTML, a terminal as text."""

    rows: list
    """Per response a dict: question, verdict, exact_answer, and tokens: (text, names) each."""

    def __repr__(self):
        return "\n\n".join(map(_as_text, self.rows))

    def _repr_html_(self):
        return "".join(map(_as_html, self.rows))


def show_tokens(run, n=5, seed=0):
    """Show responses with the token that each name hit.

    Parameters
    ----------
    run : Run
    n : int
        How many responses, drawn at random.
    seed : int

    Returns
    -------
    TokenView
        The last element of a notebook's cell shows it; ``print`` gives plain text.
    """
    answers = run.answers()
    drawn = answers.sample(min(n, len(answers)), random_state=seed).sort_index()
    return TokenView([_row(answer) for answer in drawn.to_dict("records")])


def _row(answer):
    starts = [*answer["token_starts"], len(answer["response"])]
    texts = [answer["response"][a:b] for a, b in pairwise(starts)]
    named = {}
    for name, position in zip(TOKENS, answer["positions"], strict=True):
        if position != MISSING:
            named.setdefault(position, []).append(name)
    tokens = [("⏎", named.get(LAST_PROMPT_TOKEN, []))]
    tokens += [(text, named.get(i, [])) for i, text in enumerate(texts)]
    return {
        "question": answer["question"],
        "verdict": "right" if answer["correct"] else "wrong",
        "exact_answer": answer["exact_answer"],
        "tokens": tokens,
    }


def _heading(row):
    answer = f"exact answer: {row['exact_answer']}" if row["exact_answer"] else "no exact answer"
    return f"{row['question']}  ({row['verdict']}, {answer})"


def _as_text(row):
    lines = [_heading(row)]
    for i, (text, names) in enumerate(row["tokens"]):
        place = "prompt" if i == 0 else str(i - 1)
        lines.append(f"  {place:>6}  {text!r:<20}  {', '.join(names)}".rstrip())
    return "\n".join(lines)


def _as_html(row):
    spans = []
    for text, names in row["tokens"]:
        # What the model wrote is text, whatever it looks like.
        shown = html.escape(text).replace("\n", "↵") or "∅"
        exact = any(name.startswith("exact_answer_") for name in names)
        colour = "#08519c" if exact else "#9ecae1" if names else "transparent"
        labels = "".join(
            f"<span style='{_NAME_STYLE}'>{html.escape(name)}</span>" for name in names
        )
        spans.append(f"<span style='{_STYLE.format(colour=colour)}'>{shown}{labels}</span>")
    return (
        f"<div style='margin:8px 0'><b>{html.escape(_heading(row))}</b>"
        f"<div style='font-family:monospace'>{''.join(spans)}</div></div>"
    )
