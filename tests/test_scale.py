"""Many questions, many different answers; and the fewest tokens and layers that there can be.

``make nightly`` takes 20,000 questions instead of 1,000.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from made_run import made_run
from nightly import is_nightly

import probekit as pk

TESTS = Path(__file__).parent
QUICK = {"n_permutations": 1, "n_jobs": 1, "progress": False}
MB_MORE = 100  # for ten times the questions


def measured(n, folder, model):
    """What scale_child.py prints for so many questions."""
    command = [sys.executable, TESTS / "scale_child.py", str(n), folder / str(n), model]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


@pytest.mark.timeout(3600)
def test_many_questions_take_time_in_proportion_and_little_more_memory(
    stopping_model_dir, tmp_path, require
):
    require(Path("/proc/self/status").exists(), "the peak of memory is read from /proc")
    n = 20_000 if is_nightly() else 1_000
    few, many = (measured(size, tmp_path, stopping_model_dir) for size in (n // 10, n))
    assert many["n"] == n
    assert many["examples"] > 5 * few["examples"]
    for stage in ("extract", "probe"):
        (seconds, mb), (seconds_of_few, mb_of_few) = many["stages"][stage], few["stages"][stage]
        # The first batch or cell costs more, so few questions may take more than a tenth.
        assert seconds < 15 * seconds_of_few, stage
        assert mb < mb_of_few + MB_MORE, stage


def test_five_thousand_different_answers_held_out():
    n, layers = 5_000, 2
    random = np.random.default_rng(0)
    wrong = random.random(n) < 0.4
    tokens = ["last_q", "exact_answer_last"]
    X = random.standard_normal((n, layers, len(tokens), 8), dtype=np.float32)
    X[wrong, 1, 1, :3] += 0.8
    names = {
        "id": [f"q{i}" for i in range(n)],
        "question": [f"Where is town {i}?" for i in range(n)],
        "exact_answer": [f"country {i}" for i in range(n)],
        "correct": ~wrong,
    }
    activations = xr.Dataset(
        {"activation": (("example", "layer", "token", "feature"), X)},
        coords={"layer": range(layers), "token": tokens}
        | {name: ("example", values) for name, values in names.items()},
        attrs={"model": "made up", "site": "mlp_out"},
    )
    answers = activations.drop_vars("activation").drop_dims(["layer", "token"])
    answers = answers.to_dataframe().reset_index(drop=True).assign(n_tokens=8)
    grid = pk.probe_grid(activations, split="answer", **QUICK)
    controls = pk.controls(answers, grid)
    assert float(grid["auroc"][1, 1]) > 0.75
    assert abs(float(controls["auroc"].sel(control="answer")) - 0.5) < 1e-9  # none is seen twice
    assert float(pk.gain_over_controls(grid, controls)["gain_low"][1, 1]) > 0.2
    assert "5000" in pk.findings(grid).summary
    assert "5000 answers" in pk.describe(grid, controls=controls)


def interpreted(run):
    """What notebooks 03 and 04 make of a run's grids."""
    grid, held_out = run.grid("random"), run.grid("answer")
    charts = [
        pk.heatmap(grid),
        pk.heatmap(grid, measure="correlation"),
        pk.compare_splits({"Random folds": grid, "Answers held out": held_out}),
        pk.by_layer(held_out),
        pk.by_token(held_out),
    ]
    for chart in charts:
        assert pk.static(chart).data
    findings, claims = pk.findings(grid), pk.check_claims(grid)
    description = pk.describe(grid, held_out=held_out)
    assert pk.explore(run) is not None
    return findings, description, claims


@pytest.mark.parametrize(
    ("layers", "tokens"), [(4, ["exact_answer_last"]), (1, pk.FIGURE_TOKENS), (1, ["last_q"])]
)
def test_one_token_or_one_layer_is_drawn_and_described(tmp_path, layers, tokens):
    run = made_run(tmp_path / "run", layers=layers, tokens=tokens)
    findings, description, claims = interpreted(run)
    assert "layer" in findings.summary
    assert "nan" not in (description + findings.summary).lower().split()
    # A single cell is not the highest of some, and so not likely to be too high by chance.
    assert ("The only cell is" in description) == (layers == len(tokens) == 1)
    assert set(claims["verdict"]) <= {"supported", "contradicted", "undecided", "not testable"}
