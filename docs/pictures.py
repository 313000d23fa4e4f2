"""What the figures of *Read a heatmap* show: two drawings, and four small computations."""

import html

import numpy as np
import pandas as pd
from IPython.display import HTML
from scipy.stats import norm, rankdata

import probekit as pk
from probekit.probing.auroc import (
    auroc,
    auroc_influence,
    independent_pairs,
    interval,
    standard_error,
)

# Drawn in the page's own text colour, so that it can be read on white and on black. The rules of
# a drawing within a page hold for the whole page, hence the class.
_STYLE = """
.places { width: 100%; min-width: 560px; max-width: 660px; display: block; margin: auto }
.places .text { fill: currentColor; font-size: 13px }
.places .code { font-family: monospace }
.places .middle { text-anchor: middle }
.places .faint { opacity: .65 }
.places .line { stroke: currentColor; fill: none }
.places .pale { stroke-opacity: .35 }
.places .answer { fill: #0072b2; fill-opacity: .3 }
.places .site { fill: #d55e00; stroke: currentColor }
.places .head { fill: currentColor }
"""
_ROW, _TOP = 24, 38


def places(answer):
    """Draw a response token by token with its named tokens, beside a block with its sites.

    `answer` is a row of `Run.answers`.
    """
    ends = [*answer.token_starts[1:], len(answer.response)]
    pieces = [
        answer.response[a:b].replace(" ", "·")
        for a, b in zip(answer.token_starts, ends, strict=True)
    ]
    named = {}
    for name, position in zip(pk.TOKENS, answer.positions, strict=True):
        named.setdefault(int(position), []).append(name)
    first, last = (
        int(answer.positions[pk.TOKENS.index(f"exact_answer_{end}")]) for end in ("first", "last")
    )
    pieces = dict(enumerate([r"\n", *pieces], -1))  # the prompt ends with a new line
    parts = [
        _text(70, 16, "One response, token by token"),
        _text(0, _TOP + 14, "prompt", "faint"),
        _text(0, _TOP + _ROW + 20, "response", "faint"),
    ]
    for i, piece in pieces.items():
        y = _TOP + (i + 1) * _ROW + (6 if i >= 0 else 0)
        kind = "line answer" if first <= i <= last else "line" if i in named else "line pale"
        parts += [
            f'<rect class="{kind}" x="70" y="{y}" width="92" height="{_ROW - 4}" rx="3"/>',
            _text(116, y + 14, piece, "code middle" if i in named else "code middle faint"),
            _text(170, y + 14, ", ".join(named.get(i, [])), "code"),
        ]
    names = "; ".join(
        f"{pieces[i].strip('·')}: {', '.join(named[i])}" for i in pieces if i in named
    )
    label = (
        f"Left: the tokens of the response {answer.response!r} with their names. {names}. "
        "Right: a transformer block, from top to bottom. attn_out is what attention adds to the "
        "residual stream, mlp_act what enters the down-projection of the MLP, mlp_out what the "
        "MLP adds, and resid_post the stream after the block."
    )
    label = html.escape(label, quote=True)
    return HTML(
        f'<svg class="places" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 {y + _ROW}" '
        f'role="img" aria-label="{label}"><style>{_STYLE}</style>{"".join(parts)}'
        f'<g transform="translate(20)">{"".join(_block())}</g></svg>'
    )


def _block():
    """A transformer block: its residual stream at x = 420, its branches at x = 530."""

    def box(y, text):
        return f'<rect class="line" x="462" y="{y}" width="136" height="26" rx="3"/>' + _text(
            530, y + 17, text, "middle"
        )

    def site(x, y, name):
        return f'<circle class="site" cx="{x}" cy="{y}" r="6"/>' + _text(
            x + 14, y + 5, name, "code"
        )

    def sum_of(y):
        return (
            f'<circle class="line" cx="420" cy="{y}" r="8"/>'
            f'<path class="line" d="M414,{y}h12M420,{y - 6}v12"/>'
        )

    def head(x, y):
        return f'<path class="head" d="M{x - 4},{y - 8}h8l-4,8z"/>'

    stream = "M420,38V167M420,183V404M420,420V470"
    attention = "M420,56H530V64M530,90V98M530,124V175H428"
    mlp = "M420,208H530V216M530,242V262M530,288V330M530,356V412H428"
    return [
        _text(410, 16, "One block of the model"),
        f'<path class="line" d="{stream}{attention}{mlp}"/>',
        '<rect class="line pale" x="452" y="252" width="156" height="114" rx="5"/>',
        _text(462, 313, "MLP", "faint"),
        '<g transform="rotate(-90 408 296)">'
        + _text(408, 296, "residual stream", "middle faint")
        + "</g>",
        box(64, "norm"),
        box(98, "attention"),
        box(216, "norm"),
        box(262, "up, activation"),
        box(330, "down-projection"),
        *(head(530, y) for y in (64, 98, 216, 262, 330)),
        head(420, 476),
        sum_of(175),
        sum_of(412),
        site(530, 150, "attn_out"),
        site(530, 309, "mlp_act"),
        site(530, 386, "mlp_out"),
        site(420, 440, "resid_post"),
    ]


def _text(x, y, text, kind=""):
    return f'<text class="text {kind}" x="{x}" y="{y}">{html.escape(text)}</text>'


def by_position(answers):
    """Detect wrong answers by whether a token is before, in or after the exact answer.

    One row for each of the last eight tokens: its name, the AUROC and its 95 % interval, and the
    shares of wrong and of right answers in which it is not yet after the exact answer.
    """
    wrong = ~answers["correct"].to_numpy()
    first, last, *tokens = (
        answers["positions"].map(lambda p, i=i: p[i]).to_numpy()
        for i in map(pk.TOKENS.index, ("exact_answer_first", "exact_answer_last", *_LAST))
    )
    rows = []
    for name, token in zip(_LAST, tokens, strict=True):
        score = np.where(token < 0, np.nan, (token <= last) + 1.0 * (token < first))
        rows.append(
            {"token": name}
            | _measured(score, wrong)
            | {"of_wrong": (score[wrong] > 0).mean(), "of_right": (score[~wrong] > 0).mean()}
        )
    return pd.DataFrame(rows)


_LAST = [str(-k) for k in range(8, 0, -1)]


def _measured(score, wrong):
    """AUROC with its interval, of scores without training."""
    area, influence = auroc_influence(score, wrong)
    pairs = independent_pairs(~np.isnan(score), wrong)
    low, high = interval(area, standard_error(influence), n_pairs=pairs)
    return {"auroc": float(area), "low": float(low), "high": float(high)}


def mislabelled(shares, n=20_000, seed=0):
    """AUROC against a grader that errs in a share of the answers.

    Half of n answers are wrong. A detector's score is normal, with an AUROC of 0.8, and the grader
    errs at random; or the score is whether the answer has a certain word, which has nothing to do
    with being right, and the grader takes all answers with that word for wrong.
    """
    random = np.random.default_rng(seed)
    wrong = np.arange(n) % 2 == 0
    score = random.normal(size=n) + wrong * np.sqrt(2) * norm.ppf(0.8)
    order, coin = random.random(n), random.random(n)
    rows = []
    for share in shares:
        flipped = wrong ^ (coin < share)
        word = order < 2 * share  # half of these answers are right, and graded wrong
        rows.append({"share": share, "auroc": float(auroc(score, flipped)), "mistakes": RANDOM})
        rows.append(
            {"share": share, "auroc": float(auroc(1.0 * word, wrong | word)), "mistakes": WORD}
        )
    return pd.DataFrame(rows)


RANDOM, WORD = "at random, a real detector", "by a word, a probe of that word"


def shuffled(grid, n, draws=1000, seed=0):
    """AUROCs (draw, layer, token) of n answers' scores when their labels are shuffled."""
    random = np.random.default_rng(seed)
    scores = grid["score"].sel(token=list(pk.FIGURE_TOKENS)).transpose("layer", "token", "example")
    chosen = random.permutation(scores.sizes["example"])[:n]
    ranks = rankdata(scores.to_numpy()[..., chosen], axis=-1)
    wrong = random.permuted(np.tile(np.arange(n) % 2 == 0, (draws, 1)), axis=1)
    n_wrong = (n + 1) // 2
    above = np.einsum("dn,ltn->dlt", wrong.astype(float), ranks, optimize=True)
    return (above - n_wrong * (n_wrong + 1) / 2) / (n_wrong * (n - n_wrong))


def shuffled_grid(grid, n):
    """One such draw, as a grid to be drawn."""
    own = grid[["auroc"]].sel(token=list(pk.FIGURE_TOKENS))
    return own.assign(auroc=(("layer", "token"), shuffled(grid, n, draws=1)[0]))


def chance(grid, sizes=(30, 100, 300, 965)):
    """What one cell and the best of all reach with shuffled labels: mean and middle 95 %."""
    rows = []
    for n in sizes:
        areas = shuffled(grid, n)
        areas = areas.reshape(len(areas), -1)
        for cells, values in (("one cell", areas), ("the best of 420", areas.max(1))):
            low, high = np.quantile(values, [0.025, 0.975])
            rows.append({"n": n, "cells": cells, "auroc": values.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def samples(grid, layer, token, sizes=(30, 100, 300, 965), draws=20, seed=0):
    """AUROCs of one cell on random samples of n answers, each with its 95 % interval."""
    random = np.random.default_rng(seed)
    score = grid["score"].sel(layer=layer, token=token).to_numpy()
    wrong = ~grid["correct"].to_numpy().astype(bool)
    rows = []
    for n in sizes:
        for draw in range(draws) if n < len(wrong) else [draws // 2]:  # there is one of all
            chosen = random.permutation(len(wrong))[:n]
            rows.append({"n": n, "draw": draw} | _measured(score[chosen], wrong[chosen]))
    return pd.DataFrame(rows)
