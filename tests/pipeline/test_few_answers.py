"""Notebooks 02 to 04 on few different answers: what can be drawn is, and what can't is said."""

import nbformat
import numpy as np
import pytest
from made_run import asked_run

import probekit as pk
from probekit.pipeline.parameters import notebook_path

N = 90
NO_HOLDING_OUT = "Answers can't be held out in 5 folds"
IDENTITY = "can't be ruled out by holding answers out that the probes read which answer was given"
# Per file: its answers, how many folds, and the splits that are drawn beside random folds.
FILES = {
    "yes and no": (["yes", "no"], 5, set()),
    "three labels": (["entailment", "neutral", "contradiction"], 3, {"answer"}),
    "letters": (list("ABCD"), 5, set()),
    "letters, grouped": (list("ABCD"), 5, {"group"}),
    "countries, grouped": ([f"country {i}" for i in range(30)], 5, {"answer", "group"}),
}


def execute(stage, run, **parameters):
    """Run a notebook's cells in this process, which is quicker than a kernel; gives its names."""
    names = {}
    for cell in nbformat.read(notebook_path(stage), as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)  # noqa: S102
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"run_dir": str(run.path)} | parameters
    return names


@pytest.fixture(autouse=True)
def one_format(monkeypatch):
    """Figures as PNG only; the other four formats take most of the time."""
    save = pk.save_chart
    monkeypatch.setattr(pk, "save_chart", lambda chart, path: save(chart, f"{path}.png"))


def few(path, names, **columns):
    random = np.random.default_rng(1)
    wrong = random.random(N) < 0.4
    return asked_run(path, [names[i % len(names)] for i in range(N)], wrong, **columns)


@pytest.mark.parametrize("file", FILES)
def test_the_notebooks_draw_what_can_be_drawn_and_say_what_cannot(file, tmp_path, capsys):
    names, folds, held_out = FILES[file]
    columns = {"group": [f"group {i % 12}" for i in range(N)]} if "grouped" in file else {}
    run = few(tmp_path / "run", names, **columns)

    execute("probe", run, folds=folds, n_permutations=1)
    said = capsys.readouterr().out
    assert set(run.manifest("probe")["results"]["splits"]) == {"random", "published"} | held_out
    for split in {"random"} | held_out:
        assert np.isfinite(run.grid(split)["auroc"]).any()
        assert np.isfinite(run.controls(split)["auroc"].sel(control="answer"))
    assert (NO_HOLDING_OUT in said) == ("answer" not in held_out)
    assert all(name in said for name in names) or "answer" in held_out

    execute("visualize", run)
    assert (NO_HOLDING_OUT in capsys.readouterr().out) == ("answer" not in held_out)
    for figure in ("heatmap", "splits", "gain", "layers"):
        assert (run.figures / f"{figure}.png").stat().st_size > 1000

    explorer = execute("interpret", run)["pk"].explore(run)
    text = (run.path / "description.md").read_text()
    if "answer" in held_out:
        assert "**Held-out answers** (split: answer)" in text
        assert IDENTITY not in text
    else:
        assert IDENTITY in text
        assert f"only {len(names)} different answers" in text
        assert "how often the answer is wrong elsewhere" in text, "the controls are told"
    assert ("**Held-out groups of questions** (split: group)" in text) == (held_out == {"group"})
    assert (run.path / "claims.csv").stat().st_size > 1000
    assert set(explorer.splits) == {"random", "published"} | held_out
    for split in explorer.splits:
        explorer.open(run, split)
        assert "AUROC" in explorer.numbers()


def test_errors_that_share_an_answer_are_told_as_the_reason(tmp_path, capsys):
    given = ["x"] * 6 + [f"a{i}" for i in range(N - 6)]
    run = asked_run(tmp_path / "run", given, np.isin(np.arange(N), [0, 1, 2, 3, 4, 50]))
    execute("probe", run, n_permutations=0)
    assert "without folds" in capsys.readouterr().out
    execute("visualize", run)
    assert "all answers are of one class" in capsys.readouterr().out
    execute("interpret", run)
    assert "nothing is stated" in (run.path / "description.md").read_text(), "6 are too few"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("answer", "at least 5 different groups of answers, got 2"),
        ("group", "no question has a group"),
    ],
)
def test_a_split_that_was_asked_for_is_refused_before_any_work(split, message, tmp_path):
    run = few(tmp_path / "run", ["yes", "no"], group=[""] * N)
    with pytest.raises(ValueError, match=message):
        execute("probe", run, split=split)


def test_four_questions_lose_the_published_protocol_only(tmp_path, capsys):
    questions = [f"Where is town {i % 4}?" for i in range(N)]
    run = few(tmp_path / "run", [f"country {i}" for i in range(30)], question=questions)
    execute("probe", run, folds=4, n_permutations=0)
    said = capsys.readouterr().out
    assert "The published protocol is left out." in said
    assert "at least 5 different questions, got 4" in said
    splits = run.manifest("probe")["results"]["splits"]
    assert "random" in splits
    assert "published" not in splits
    for stage in ("visualize", "interpret"):
        execute(stage, run)
    with pytest.raises(ValueError, match="tests on a fifth"):
        execute("probe", run, split="published", folds=4, n_permutations=0)


def test_the_split_that_was_asked_for_comes_first(tmp_path):
    run = few(tmp_path / "run", ["yes", "no"], group=[f"g{i // 9}" for i in range(N)])
    execute("probe", run, split="group", n_permutations=0)
    assert run.manifest("probe")["results"]["splits"][0] == "group"
    names = execute("visualize", run)
    assert names["grid"].attrs["split"] == "group"
    # No group is on both sides, and the groups are what the intervals count.
    grid = run.grid("group")
    folds = grid["fold"].groupby(grid["group"]).map(lambda fold: fold.max() - fold.min())
    assert (folds == 0).all()
    assert folds.size == 10


def test_a_run_from_before_there_were_groups_still_opens(tmp_path):
    run = few(tmp_path / "run", ["Italy", "Peru", "Kenya", "Japan", "Chad", "Fiji"])
    assert "group" not in run.activations().coords
    splits = pk.held_out_splits(run.activations())
    assert splits == {"answer": ""}


def test_questions_without_a_group_are_groups_of_their_own(tmp_path):
    run = few(tmp_path / "run", ["yes", "no"], group=["", "", "odd"] * (N // 3))
    grid = pk.probe_grid(run.activations(), split="group", n_permutations=0, progress=False)
    fold = grid["fold"].to_numpy()
    odd = grid["group"].to_numpy() == "odd"
    assert len(set(fold[odd])) == 1
    assert len(set(fold[~odd])) == 5
