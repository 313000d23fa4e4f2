"""A finished run with made-up answers and grids of known areas: no model, no probe."""

import numpy as np
import pandas as pd
from synthetic import flat, make_grid

from probekit.run.directory import Run
from probekit.tokens import FIGURE_TOKENS, token_positions

COUNTRIES = ["Italy", "Japan", "Peru", "Kenya", "Poland", "France"]
#: Of each split: the layer where exact_answer_last is best, and its area.
PEAKS = {"random": (2, 0.9), "answer": (1, 0.75)}


def made_run(path, n=120, layers=4, wrap="{}", tokens=FIGURE_TOKENS):
    """A run directory as the probe stage leaves it, without activations and controls.

    Parameters
    ----------
    path : Path
    n : int
        Answers in the grids; one more has no exact answer.
    layers : int
    wrap : str
        What is written around every question's city, every response's country.
    tokens : sequence of str
        Of the grids.

    Returns
    -------
    Run
    """
    run, grids = Run(path), {}
    for split, (layer, area) in PEAKS.items():
        true = flat(0.6, layers, list(tokens))
        if "exact_answer_last" in tokens:
            true.loc[min(layer, layers - 1), "exact_answer_last"] = area
        # One seed: the same answers are right in every split.
        grid = make_grid(true, n=n, seed=0, absent={"-8": 1.0} if "-8" in tokens else {})
        p = 0.05 + 0 * grid["auroc"]
        grids[split] = grid.assign(p_value=p / 10, p_corrected=p)
    correct = [*grids["random"]["correct"].to_numpy(), False]
    answers = pd.DataFrame([_answer(i, bool(c), wrap) for i, c in enumerate(correct)])
    answers.loc[n, "exact_answer"] = ""
    extract = run.begin("extract", {"model": "made up"})
    answers.to_parquet(run.path / "answers.parquet")
    extract.finish([run.path / "answers.parquet"], sites=["mlp_out"], n_examples=n + 1)
    probe = run.begin("probe", {})
    probe.finish([run.save_grids(grids)], splits=list(grids))
    return run


def _answer(i, correct, wrap):
    country = wrap.format(COUNTRIES[i % len(COUNTRIES)])
    pieces = ["The", " city", f" number {i}", " is", " in", f" {country}", "."]
    starts = np.cumsum([0, *map(len, pieces)])
    return {
        "id": f"q{i}",
        "question": f"In which country is {wrap.format(f'city number {i}')}?",
        "response": "".join(pieces),
        "correct": correct,
        "n_tokens": len(pieces),
        "exact_answer": country,
        "answer_start": int(starts[5]) + 1,
        "answer_end": int(starts[6]),
        "token_starts": starts[:-1].tolist(),
        "positions": token_positions(len(pieces), (5, 5)),
    }
