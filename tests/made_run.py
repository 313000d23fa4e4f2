"""Runs with made-up answers: with grids of known areas and no probe, or with activations only."""

import numpy as np
import pandas as pd
import xarray as xr
from synthetic import flat, make_grid, with_training

from probekit import detector
from probekit.extraction.store import ActivationStore
from probekit.run.directory import Run
from probekit.tokens import FIGURE_TOKENS, TOKENS, token_positions

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
    files = [run.save_grids(grids), run.save_detectors({s: _pooled(g) for s, g in grids.items()})]
    probe.finish(files, splits=list(grids))
    return run


def _pooled(grid):
    """A detector of made-up scores, which has no probes."""
    one = xr.ones_like(grid["auroc"])
    return detector(with_training(grid).assign(slope=one, offset=0 * one))


def asked_run(path, given, wrong, layers=2, features=4, **columns):
    """A run directory as the extract stage leaves it; errors show in the last layer.

    Parameters
    ----------
    path : Path
    given : sequence of str
        The exact answers.
    wrong : sequence of bool
    layers, features : int
    **columns
        Further columns of the answers, such as `group`.
    """
    run, n, random = Run(path), len(given), np.random.default_rng(0)
    rows = [_answer(i, not w, "{}", a) for i, (a, w) in enumerate(zip(given, wrong, strict=True))]
    answers = pd.DataFrame(rows).assign(answer=given, **columns)
    answers["logprob_mean"] = random.normal(size=n)
    X = random.normal(size=(n, layers, len(TOKENS), features)).astype(np.float16)
    X[np.asarray(wrong), -1, 1:6, 0] += 2
    extract = run.begin("extract", {"model": "made up", "n_questions": n})
    answers.to_parquet(run.path / "answers.parquet")
    about = {"model": "made up", "revision": "0", "site": "mlp_out"}
    store = ActivationStore(run.path / "activations.zarr", n, n, about)
    store.write(range(n), X)
    store.name_coordinates(answers, ["id", "question", "exact_answer", "answer", *columns])
    made = [run.path / "answers.parquet", run.path / "activations.zarr"]
    counts = {"n_examples": n, "n_correct": int(answers["correct"].sum())}
    extract.finish(made, sites=["mlp_out"], **counts)
    return run


def _answer(i, correct, wrap, country=None):
    country = country or wrap.format(COUNTRIES[i % len(COUNTRIES)])
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
