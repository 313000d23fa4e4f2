"""Answers and activations in memory are those of a run."""

import importlib

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tiny import write_questions

from probekit import Run, extract, load_model, read_questions

one_pass = importlib.import_module("probekit.extraction.one_pass")

OPTIONS = {"max_new_tokens": 10, "batch_size": 4}
GRADES = ["correct", "graded"]


@pytest.fixture(scope="module")
def lm(stopping_model_dir):
    return load_model(stopping_model_dir)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return read_questions(write_questions(tmp_path_factory.mktemp("q") / "50", 50))


@pytest.fixture
def in_a_run(lm, tmp_path, monkeypatch):
    """Answers and activations of an ordinary run, of one class too."""
    monkeypatch.setattr(one_pass, "check_two_classes", lambda *_: None)
    numbers = iter(range(9))

    def made(questions, **options):
        run = Run(tmp_path / str(next(numbers)))
        site = options.get("site", "mlp_out")
        extract(lm, questions, run, progress=False, **OPTIONS | options)
        return run.answers(), run.activations(site).load()

    return made


@pytest.mark.parametrize("n", [1, 3, 50])
def test_in_memory_everything_is_as_in_a_run(lm, questions, in_a_run, n, monkeypatch):
    monkeypatch.setattr(one_pass, "SHARD", 20)
    expected, stored = in_a_run(questions.head(n))
    answers, activations = lm.answer(questions.head(n), **OPTIONS)
    pd.testing.assert_frame_equal(answers, expected)
    xr.testing.assert_identical(activations, stored)
    assert activations["activation"].dtype == stored["activation"].dtype
    assert {k: v.dtype for k, v in activations.coords.items()} == {
        k: v.dtype for k, v in stored.coords.items()
    }
    assert activations.sizes["example"] == n
    assert np.isfinite(activations["activation"].sel(token="last_q")).all()


def test_few_questions_are_answered_as_among_many(lm, questions):
    answers, activations = lm.answer(questions, **OPTIONS)
    some, read = lm.answer(questions.iloc[[7, 30, 4]], **OPTIONS)
    among = answers.iloc[[7, 30, 4]].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, among, rtol=1e-3, atol=1e-3)
    xr.testing.assert_allclose(read, activations.isel(example=[7, 30, 4]), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "options",
    [{"site": "resid_post"}, {"temperature": 1.5, "top_p": 0.9, "seed": 3}, {"max_new_tokens": 4}],
    ids=lambda options: next(iter(options)),
)
def test_options_mean_what_they_mean_in_a_run(lm, questions, in_a_run, options):
    expected, stored = in_a_run(questions.head(8), **options)
    answers, activations = lm.answer(questions.head(8), **OPTIONS | options)
    pd.testing.assert_frame_equal(answers, expected)
    xr.testing.assert_identical(activations, stored)
    plain, _ = lm.answer(questions.head(8), **OPTIONS)
    assert answers["response"].equals(plain["response"]) == ("site" in options)


def test_values_beyond_float16_are_kept_in_float32(lm, questions, in_a_run, monkeypatch):
    """In the second shard only, so that the first is widened."""
    monkeypatch.setattr(one_pass, "SHARD", 4)
    real = one_pass.answer_shard

    def larger(lm, shard, *args, **options):
        rows, activations, batch_size = real(lm, shard, *args, **options)
        if shard.members.start:
            activations = {s: v.astype(np.float32) * 1e5 for s, v in activations.items()}
        return rows, activations, batch_size

    monkeypatch.setattr(one_pass, "answer_shard", larger)
    _, stored = in_a_run(questions.head(8))
    _, activations = lm.answer(questions.head(8), **OPTIONS)
    assert activations["activation"].dtype == np.float32
    assert np.nanmax(np.abs(activations["activation"])) > 65504
    xr.testing.assert_identical(activations, stored)


def test_questions_may_be_texts(lm, questions, monkeypatch):
    """No answer is accepted: so there are no grades, and the model copies its exact answers."""
    monkeypatch.setattr(lm.model.config, "max_position_embeddings", 1024)
    asked = questions["question"].tolist()[:5]
    answers, activations = lm.answer(asked, **OPTIONS)
    table = questions.head(5).assign(candidates=None, answers=[["Per"]] * 5)
    expected, stored = lm.answer(table, **OPTIONS)
    assert answers["question"].tolist() == asked
    assert answers["id"].tolist() == activations["id"].to_numpy().tolist()
    assert answers["id"].is_unique
    assert not {*GRADES} & {*answers}
    assert "correct" not in activations.coords
    same = [name for name in answers if name not in ("id", "accepted", "doubt")]
    pd.testing.assert_frame_equal(answers[same], expected[same])
    np.testing.assert_array_equal(activations["activation"], stored["activation"])


def test_an_answer_is_found_among_candidates_though_none_is_accepted(lm, questions):
    """A question without an accepted answer takes the grades away and changes nothing else."""
    asked = questions.head(12)
    expected, stored = lm.answer(asked, **OPTIONS)
    assert expected["exact_answer"].ne("").any()
    some = asked.assign(answers=[[], *asked["answers"][1:]])
    answers, activations = lm.answer(some, **OPTIONS)
    assert [*expected.drop(columns=GRADES)] == [*answers]
    same = [name for name in answers if name not in ("accepted", "doubt")]
    pd.testing.assert_frame_equal(answers[same], expected[same])
    same = ["correct", "accepted"]
    xr.testing.assert_identical(activations.drop_vars("accepted"), stored.drop_vars(same))


def test_nothing_is_written(lm, questions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lm.answer(questions.head(2), **OPTIONS)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"questions": "Where is Oslo?"}, TypeError, r"list of texts such as \['Where is Oslo"),
        ({"questions": [3]}, TypeError, "Each of questions must be text"),
        ({"questions": []}, ValueError, "no questions"),
        ({"questions": ["Where is Oslo?", " "]}, ValueError, "row 2.*question is empty"),
        ({"questions": pd.DataFrame({"question": ["Oslo?"]})}, ValueError, "read_questions"),
        ({"site": ["mlp_out"]}, TypeError, "site must be"),
        ({"site": "mlp"}, ValueError, "no site 'mlp'"),
        ({"max_new_tokens": 600}, ValueError, "more than the model's context"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens must be"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"temperature": -1}, ValueError, "temperature must be"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_what_cannot_be_used_is_refused(lm, given, error, message):
    given = {"questions": ["Where is Oslo?"]} | OPTIONS | given
    with pytest.raises(error, match=message):
        lm.answer(given.pop("questions"), **given)


def test_a_model_without_weights_is_refused(stopping_model_dir):
    lm = load_model(stopping_model_dir, weights=False)
    with pytest.raises(ValueError, match="loaded with weights=False"):
        lm.answer(["Where is Oslo?"])
