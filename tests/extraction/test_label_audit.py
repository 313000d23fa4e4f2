"""Labels in doubt, samples to label, and what wrong labels do to an AUROC."""

import numpy as np
import pandas as pd
import pytest
from made_run import made_run
from sklearn.metrics import roc_auc_score

from probekit import Run, audit, grader_error
from probekit.questions.grading import examine


def finished(path, answers, parameters=None, inputs=()):
    """A run whose extract stage left these answers."""
    run = Run(path)
    stage = run.begin("extract", parameters or {}, inputs=inputs)
    answers.to_parquet(run.path / "answers.parquet")
    stage.finish([run.path / "answers.parquet"], sites=["mlp_out"])
    return run


def row(name, response, accepted, copied, finished=True):
    """An answer as the extract stage writes it, with what the grader says of it."""
    start = response.find(copied) if copied else -1
    end = start + len(copied)
    question = "Who was it?"
    how = {"candidates": None, "kind": "text", "choices": None, "finished": finished}
    found = (start, end) if copied else None
    answer = examine(response, accepted.split("|"), question, **how, copied=found)
    return {
        "id": name,
        "question": question,
        "response": response,
        "exact_answer": copied,
        "answer_start": start,
        "answer_end": end if copied else -1,
        "accepted": accepted,
        "correct": answer.correct,
        "kind": "text",
        "doubt": answer.doubt,
        "finished": finished,
    }


ANSWERS = pd.DataFrame(
    [
        row("fine", "It was Rembrandt.", "Rembrandt", "Rembrandt"),
        row("refusal", "I'm sorry, I don't know.", "Rembrandt", ""),
        row("nothing", "It was painted long ago.", "Rembrandt", ""),
        row("close", "It was Vincent Gogh.", "Vincent van Gogh", "Vincent Gogh"),
        row("elsewhere", "It was Bol, and Rembrandt was his teacher.", "Rembrandt", "Bol"),
        row("cut", "It was Ferdinand", "Rembrandt", "Ferdinand", finished=False),
        row("wrong", "It was Monet.", "Rembrandt", "Monet"),
        row("elsewhere too", "Bol, not like Rembrandt himself.", "Rembrandt", "Bol"),
    ]
)
EXPECTED = {
    "elsewhere": "an accepted answer stands elsewhere",
    "elsewhere too": "an accepted answer stands elsewhere",
    "close": "close to an accepted answer",
    "nothing": "no exact answer",
    "cut": "cut short",
    "refusal": "a refusal",
}


@pytest.mark.parametrize("lacking", [[], ["doubt"], ["doubt", "kind"]])
def test_the_likeliest_mistakes_come_first(lacking, tmp_path):
    """Also in a run from before doubts were stored."""
    table = audit(finished(tmp_path / "run", ANSWERS.drop(columns=lacking)))
    assert dict(zip(table["id"], table["doubt"], strict=True)) == EXPECTED
    assert table["id"].tolist() == list(EXPECTED)
    columns = ["question", "response", "exact_answer", "accepted", "correct", "kind", "doubt"]
    assert table.columns.tolist() == ["id", *columns]
    assert set(table["kind"]) == {"text"}


def test_a_run_without_accepted_answers_can_be_audited(tmp_path):
    table = audit(made_run(tmp_path / "run"))
    assert table["doubt"].tolist() == ["no exact answer"]


def test_a_run_of_an_earlier_version_is_doubted_as_it_was_graded(repository):
    run = Run(repository / "data" / "example")
    table = audit(run)
    elsewhere = table[table["doubt"] == "an accepted answer stands elsewhere"]
    assert 0 < len(elsewhere) < 30
    assert elsewhere.index.tolist() == list(range(len(elsewhere))), "they come first"
    assert not elsewhere["correct"].any()
    none = (run.answers()["exact_answer"] == "").sum()
    assert none <= len(table) < none + 60


def test_a_sample_hides_the_grades(tmp_path):
    run = finished(tmp_path / "run", ANSWERS)
    sample = audit(run, sample=5, seed=1)
    assert len(sample) == 5
    assert set(sample["correct"]) == set(sample["exact_answer"]) == {""}
    assert not {"doubt", "kind"} & {*sample}
    pd.testing.assert_frame_equal(sample, audit(run, sample=5, seed=1))
    seeds = {tuple(audit(run, sample=5, seed=seed)["id"]) for seed in range(5)}
    assert len(seeds) > 1
    assert len(audit(run, sample=100)) == len(ANSWERS)


@pytest.fixture
def noisy(tmp_path):
    """Makes a run in which shares of the labels are wrong: the run, the truth, scores of errors."""

    def noisy(n, a, b, seed=0):
        random = np.random.default_rng(seed)
        graded = random.random(n) < 0.6
        wrong_label = random.random(n) < np.where(graded, b, a)
        truth = graded ^ wrong_label
        score = random.standard_normal(n) + 1.2 * ~truth
        ids = [f"q{i}" for i in range(n)]
        answers = pd.DataFrame({"id": ids, "correct": graded})
        return finished(tmp_path / f"run-{seed}", answers), truth, score

    return noisy


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0.15, 0.05), (0.02, 0.3), (0.3, 0.3)])
def test_the_auroc_without_errors_of_labelling_is_found(a, b, noisy):
    run, truth, score = noisy(40_000, a, b)
    answers = run.answers()
    observed = roc_auc_score(~answers["correct"], score)
    true = roc_auc_score(~truth, score)
    labelled = pd.DataFrame({"id": answers["id"], "correct": truth})
    found = grader_error(run, labelled, auroc=observed)
    assert found["right_among_wrong"] == pytest.approx(a, abs=0.01)
    assert found["wrong_among_right"] == pytest.approx(b, abs=0.01)
    assert found["auroc_true"] == pytest.approx(true, abs=0.012)
    assert found["auroc_low"] <= found["auroc_true"] <= found["auroc_high"]
    if a + b:
        assert true - observed > 0.02, "there is something to put right"


def test_the_intervals_of_a_small_sample_hold_the_truth(noisy):
    """Those of the rate in about 95 of 100 samples, those of the AUROC rather in more."""
    run, truth, score = noisy(1000, 0.15, 0.08)
    answers = run.answers()
    observed, true = (roc_auc_score(~labels, score) for labels in (answers["correct"], truth))
    rate = (answers["correct"] != truth).mean()
    labelled = pd.DataFrame({"id": answers["id"], "correct": truth})
    held = []
    for seed in range(200):
        found = grader_error(run, labelled.sample(60, random_state=seed), auroc=observed)
        assert found["n"] == 60
        holds = found["low"] <= rate <= found["high"]
        held.append((holds, found["auroc_low"] <= true <= found["auroc_high"]))
    rates, areas = np.mean(held, axis=0)
    assert 0.91 <= rates <= 0.99
    assert areas >= 0.94


def test_corrections_do_not_hide_the_graders_errors(tmp_path):
    answers = pd.DataFrame({"id": ["a", "b", "c"], "correct": True, "graded": [True, False, True]})
    sample = pd.DataFrame({"id": ["a", "b"], "correct": ["true", "true"]})
    found = grader_error(finished(tmp_path / "run", answers), sample)
    assert (found["n"], found["errors"]) == (2, 1)
    assert "auroc_true" not in found


def test_what_no_sample_can_tell(tmp_path):
    run = finished(tmp_path / "run", pd.DataFrame({"id": ["a", "b"], "correct": [True, True]}))
    found = grader_error(run, pd.DataFrame({"id": ["a"], "correct": [True]}), auroc=0.7)
    assert np.isnan(found["right_among_wrong"])
    assert np.isnan(found["auroc_true"])
    assert found["auroc_high"] == 1
    with pytest.raises(ValueError, match="Nothing in the sample is labelled"):
        grader_error(run, pd.DataFrame({"id": ["a", "b"], "correct": ["", ""]}))
