"""A person's corrections: taken over into a run, changed and taken back, without new answers."""

import dataclasses
import hashlib
import importlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from architectures import ARCHITECTURES, Architecture, plain_activations
from test_extract import OPTIONS, check_same, files_of
from tiny import write_questions

from probekit import Run, extract, load_model, probe_grid, read_questions
from probekit.extraction.corrections import correct_answers, read_corrections
from probekit.run.manifest import fingerprint
from probekit.tokens import LAST_PROMPT_TOKEN, MISSING, TOKENS

one_pass = importlib.import_module("probekit.extraction.one_pass")
shards = importlib.import_module("probekit.extraction.shards")

SITES = ("mlp_out", "resid_post")


@pytest.fixture(scope="module")
def lm(stopping_model_dir):
    return load_model(stopping_model_dir)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return read_questions(write_questions(tmp_path_factory.mktemp("q") / "24", 24))


@pytest.fixture
def made(lm, questions, tmp_path, monkeypatch):
    """Makes or changes a run of two shards; nothing may be asked a second time."""
    monkeypatch.setattr(one_pass, "SHARD", 16)

    def made(corrections=None, asks=None, folder="run"):
        run = Run(tmp_path / folder)
        asks = not run.path.exists() if asks is None else asks
        with monkeypatch.context() as patched:
            if not asks:
                patched.setattr(one_pass, "answer_shard", answered_again)
            return extract(lm, questions, run, SITES, corrections=corrections, **OPTIONS)

    return made


def answered_again(*arguments, **options):
    raise AssertionError("the model was asked again")


def saved(folder, rows):
    path = folder / "corrections.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def another_answer(row):
    """Another word of a response than its exact answer, somewhere in the middle, or None."""
    words = re.findall(r"(?<!\w)[A-Za-z]+(?!\w)", row.response)
    others = [word for word in words if word != row.exact_answer]
    return others[len(others) // 2] if others else None


def elsewhere(run, n=3):
    """ids and other exact answers of some answers, those that have one first."""
    rows = [row for row in run.answers().itertuples() if another_answer(row)]
    rows = sorted(rows, key=lambda row: not row.exact_answer)[:6]
    return {row.id: another_answer(row) for row in rows[:: max(1, len(rows) // n)][:n]}


def test_changed_labels_change_the_grid_as_if_they_had_been_graded_so(made, tmp_path):
    run = made()
    answers = run.answers()
    assert not answers["corrected"].any()
    expected = run.activations().load()
    ids = answers["id"][answers["exact_answer"] != ""].iloc[[0, 2, 3]].tolist()
    flipped = {i: not c for i, c in zip(answers["id"], answers["correct"], strict=True) if i in ids}
    before = fingerprint(run.manifest("extract"))
    verdicts = ["true" if flipped[i] else "FALSE" for i in ids]
    rows = [{"id": i, "correct": v, "exact_answer": ""} for i, v in zip(ids, verdicts, strict=True)]
    run = made(saved(tmp_path, rows))

    is_flipped = answers["id"].isin(ids).to_numpy()
    correct = answers["correct"].to_numpy() ^ is_flipped
    expected = expected.assign_coords(correct=("example", correct))
    options = {"split": "random", "folds": 2, "n_permutations": 1, "n_jobs": 1, "progress": False}
    grid = probe_grid(run.activations(), **options)
    xr.testing.assert_identical(grid, probe_grid(expected, **options))

    changed = run.answers()
    assert changed["correct"].tolist() == correct.tolist()
    assert changed["corrected"].tolist() == is_flipped.tolist()
    assert changed["graded"].tolist() == answers["correct"].tolist()
    assert not changed.loc[is_flipped, "doubt"].any(), "a person has looked at them"
    manifest = run.manifest("extract")
    assert manifest["results"]["n_corrected"] == 3
    assert any(name.endswith("corrections.csv") for name in manifest["inputs"])
    assert fingerprint(manifest) != before, "so that the later stages run again"


def test_another_exact_answer_is_named_and_measured(made, lm, tmp_path):
    run = made()
    own = {site: run.activations(site)["activation"].to_numpy() for site in SITES}
    others = elsewhere(run, 4)
    have = run.answers().query("exact_answer != ''")["id"]
    dropped = have[~have.isin(others)].iloc[0]
    rows = [{"id": i, "exact_answer": a} for i, a in others.items()]
    run = made(saved(tmp_path, [*rows, {"id": dropped, "exact_answer": "-"}]))

    answers, exact = run.answers(), slice(3, 7)
    assert answers["corrected"].tolist() == answers["id"].isin([*others, dropped]).tolist()
    assert answers["correct"].tolist() == answers["graded"].tolist(), "nobody changed them"
    for row in answers[answers["corrected"]].itertuples():
        at = dict(zip(TOKENS, row.positions, strict=True))
        if row.id == dropped:
            assert row.exact_answer == row.answer == ""
            assert {*row.positions[exact]} == {MISSING}
            assert np.isnan(row.answer_logprob_mean)
            continue
        assert row.exact_answer == others[row.id]
        assert row.response[row.answer_start : row.answer_end] == row.exact_answer
        ids = row.token_ids[at["exact_answer_first"] : at["exact_answer_last"] + 1]
        assert row.exact_answer in lm.tokenizer.decode(ids)
        assert row.answer_logprob_min <= row.answer_logprob_mean <= row.answer_logprob_max <= 0
        assert 0 <= row.answer_entropy_mean <= row.answer_entropy_max <= row.entropy_max + 1e-4
        if len(ids) == row.n_tokens:
            assert row.answer_logprob_mean == pytest.approx(row.logprob_mean, abs=1e-4)
    # All else that is stored is as it was.
    changed = answers["corrected"].to_numpy()
    for site in SITES:
        now = run.activations(site)["activation"].to_numpy()
        np.testing.assert_array_equal(now[~changed], own[site][~changed])
        for rest in (slice(None, 3), slice(7, None)):
            np.testing.assert_array_equal(now[:, :, rest], own[site][:, :, rest])
        assert np.isnan(now[answers["id"] == dropped][:, :, exact]).all()


def test_another_exact_answer_is_read_as_in_a_plain_pass(made, lm, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(None, {}, ARCHITECTURES["llama"].paths))
    run = made()
    others = elsewhere(run)
    run = made(saved(tmp_path, [{"id": i, "exact_answer": a} for i, a in others.items()]))
    values = run.activations("resid_post")["activation"].load().to_numpy()
    checked = 0
    for i, row in enumerate(run.answers().itertuples()):
        if row.id not in others:
            continue
        prompt = lm.tokenizer(row.prompt, add_special_tokens=False).input_ids
        plain, _ = plain_activations(lm.model, "tiny", prompt + list(row.token_ids))
        for t, position in enumerate(row.positions):
            if position != MISSING:
                assert position >= LAST_PROMPT_TOKEN
                expected = plain["resid_post"][len(prompt) + position].numpy()
                np.testing.assert_allclose(values[i, :, t], expected, rtol=2e-3, atol=1e-3)
                checked += 1
    assert checked > 20


def test_entropies_at_another_exact_answer_are_those_of_a_plain_pass(made, lm, tmp_path):
    own = made().answers()
    others = elsewhere(made(), 4)
    answers = made(saved(tmp_path, [{"id": i, "exact_answer": a} for i, a in others.items()]))
    answers, differ = answers.answers(), 0
    for row, before in zip(answers.itertuples(), own.itertuples(), strict=True):
        if row.id not in others:
            continue
        prompt = lm.tokenizer(row.prompt, add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + list(row.token_ids)])
        with torch.inference_mode():
            shares = lm.model(ids).logits[0, len(prompt) - 1 : -1].double().softmax(-1)
        at = dict(zip(TOKENS, row.positions, strict=True))
        entropies = torch.special.entr(shares).sum(-1)
        within = entropies[at["exact_answer_first"] : at["exact_answer_last"] + 1]
        assert row.answer_entropy_mean == pytest.approx(within.mean().item(), abs=1e-4)
        assert row.answer_entropy_max == pytest.approx(within.max().item(), abs=1e-4)
        assert row.entropy_mean == before.entropy_mean
        differ += row.answer_entropy_mean != before.answer_entropy_mean
    assert differ >= 3


def test_a_run_of_an_earlier_version_is_corrected_without_the_columns_that_it_lacks(
    made, lm, tmp_path
):
    run = made()
    expected = run.answers().filter(regex="^(?!.*entropy)")
    for part in (run.path / "shards").glob("*.parquet"):
        rows = pd.read_parquet(part).filter(regex="^(?!.*entropy)")
        content = rows.to_parquet(index=False)
        part.unlink()
        name = f"{part.name[:5]}-{hashlib.sha256(content).hexdigest()}.parquet"
        part.with_name(name).write_bytes(content)
    (run.path / "answers.parquet").unlink()
    pd.testing.assert_frame_equal(made().answers(), expected)
    others = elsewhere(run)
    run = made(saved(tmp_path, [{"id": i, "exact_answer": a} for i, a in others.items()]))
    answers = run.answers()
    assert [*answers] == [*expected]
    moved = answers["id"].isin(others).to_numpy()
    changed = answers["answer_logprob_mean"].ne(expected["answer_logprob_mean"])
    assert changed[moved].sum() >= 2


def test_taken_back_the_run_is_what_it_was_to_the_last_bit(made, tmp_path):
    run = made()
    expected = files_of(run)
    others = elsewhere(run)
    rows = [{"id": i, "correct": "no", "exact_answer": a} for i, a in others.items()]
    run = made(saved(tmp_path, rows))
    once = files_of(run)
    assert once["answers.parquet"] != expected["answers.parquet"]
    made(saved(tmp_path, rows[1:]))
    made(saved(tmp_path, rows))
    again = files_of(run)
    stores = [name for name in once if name.startswith("activations")]
    assert [name for name in stores if once[name] != again[name]] == []
    check_same(made(), expected)


@pytest.mark.parametrize("dies", ["_write_part", "write", "name_coordinates"])
def test_a_run_that_dies_between_goes_on(made, tmp_path, monkeypatch, dies):
    run = made()
    expected = files_of(run)
    rows = [{"id": i, "exact_answer": a} for i, a in elsewhere(run, 4).items()]
    path = saved(tmp_path, rows)
    owner = one_pass._Extraction if dies == "_write_part" else one_pass.ActivationStore
    original, calls = getattr(owner, dies), []

    def dying(*arguments):
        calls.append(1)
        original(*arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, dies, dying)
        with pytest.raises(KeyboardInterrupt):
            made(path)
    assert len(calls) == 2
    assert not run.manifest_path("extract").exists()
    # Without them the model's own are there again, with them they are.
    check_same(made(), expected)
    assert made(path).answers()["corrected"].sum() == 4


def test_what_was_left_as_it_was_is_no_correction(made, tmp_path):
    """The whole table, saved as it is, or a sample that nobody has filled in."""
    run = made()
    expected = run.answers()
    run = made(saved(tmp_path, expected[["id", "correct", "exact_answer"]]))
    columns = [name for name in expected if name != "doubt"]
    pd.testing.assert_frame_equal(run.answers()[columns], expected[columns])
    empty = pd.DataFrame({"id": expected["id"], "correct": None, "exact_answer": ""})
    pd.testing.assert_frame_equal(made(empty).answers(), expected)


def test_an_exact_answer_that_is_not_there_is_refused_and_nothing_is_lost(made, tmp_path):
    run = made()
    expected = files_of(run)
    row = run.answers().iloc[3]
    wrong = saved(tmp_path, [{"id": row["id"], "exact_answer": "Atlantis"}])
    with pytest.raises(ValueError, match="'Atlantis' is not in the response") as error:
        made(wrong)
    assert row["id"] in str(error.value)
    check_same(run, expected)
    # In a new run it is only known when the answer is there.
    with pytest.raises(ValueError, match="'Atlantis' is not in the response"):
        made(wrong, folder="new")
    assert len(list((tmp_path / "new" / "shards").glob("*.parquet"))) == 2


def test_activations_beyond_float16_widen_the_store(made, tmp_path, monkeypatch):
    run = made()
    own = run.activations().load()
    others = elsewhere(run)
    path = saved(tmp_path, [{"id": i, "exact_answer": a} for i, a in others.items()])
    original = shards.generate

    def scaled(*arguments, **options):
        for response in original(*arguments, **options):
            found = {site: 1e6 * values for site, values in response.activations.items()}
            yield dataclasses.replace(response, activations=found)

    monkeypatch.setattr(shards, "generate", scaled)
    now = made(path).activations()["activation"].load()
    changed = own["id"].isin([*others]).to_numpy()
    assert now.dtype == np.float32
    assert np.nanmax(np.abs(now[changed, :, 3:7])) > 65504
    np.testing.assert_array_equal(now[~changed], own["activation"][~changed])
    np.testing.assert_array_equal(now[:, :, 7:], own["activation"][:, :, 7:])
    np.testing.assert_array_equal(made().activations()["activation"], own["activation"])


def test_what_is_kept_of_the_models_own_may_be_damaged(made, tmp_path):
    run = made()
    path = saved(tmp_path, [{"id": i, "exact_answer": a} for i, a in elsewhere(run).items()])
    run = made(path)
    for part in (run.path / "shards").glob("*.parquet"):
        rows = pd.read_parquet(part)
        kept = [name for name in rows if name.startswith("own_activations")]
        for name in kept:
            rows[name] = [None if cell is None else cell[:-4] for cell in rows[name]]
        content = rows.to_parquet(index=False)
        part.unlink()
        name = f"{part.name[:5]}-{hashlib.sha256(content).hexdigest()}.parquet"
        part.with_name(name).write_bytes(content)
    with pytest.raises(ValueError, match=r"not the activations.*Delete it"):
        made()


def test_activations_that_are_made_anew_are_corrected_too(made, tmp_path):
    run = made()
    path = saved(tmp_path, [{"id": i, "exact_answer": a} for i, a in elsewhere(run).items()])
    expected = files_of(made(path))
    (run.path / "activations.zarr" / "activation" / "c" / "0" / "0" / "0" / "0").unlink()
    made(path, asks=True)
    found = files_of(run)
    assert [n for n in expected if n.startswith("activations") and found[n] != expected[n]] == []


@pytest.mark.parametrize(
    ("kind", "response", "given", "exact_answer", "answer"),
    [
        ("text", "It is not in Italy, but in the north of Peru.", "peru", "Peru", "peru"),
        ("number", "There are nine of them, or 12.", "nine", "nine", "9"),
        ("yes_no", "I think no. Yes.", "Yes", "Yes", "yes"),
        ("text", "Italy, I mean Italy.", "-", "", ""),
    ],
)
def test_a_corrected_answer_has_the_name_of_its_kind(
    kind, response, given, exact_answer, answer, lm
):
    token_ids = lm.tokenizer(response, add_special_tokens=False).input_ids
    row = {"id": "a", "response": response, "correct": True, "exact_answer": "Italy"}
    row |= {"answer": "italy", "answer_start": 0, "answer_end": 5, "positions": [MISSING] * 15}
    answers = pd.DataFrame([row | {"token_ids": token_ids, "doubt": "several answers"}])
    asked = {"question": "What?", "answers": ["x"], "candidates": None, "kind": kind}
    asked = pd.DataFrame([asked | {"choices": None}])
    corrections = read_corrections(pd.DataFrame({"id": ["a"], "exact_answer": [given]}), ["a"])
    found = correct_answers(lm, answers, asked, corrections).iloc[0]
    assert (found["exact_answer"], found["answer"]) == (exact_answer, answer)
    assert response[found["answer_start"] : found["answer_end"]] == exact_answer
    assert found["corrected"]
    assert found["correct"], "that is another question"
    assert found["doubt"] == ""


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "q9", "correct": "true"}], "'q9'"),
        ([{"id": "a", "correct": "true"}, {"id": "a", "correct": "false"}], "more than once: 'a'"),
        ([{"id": "a", "correct": "perhaps"}], "correct is 'perhaps'. Write true or false"),
        ([{"id": "a", "right": "true"}], "needs the columns id and correct"),
        ([{"name": "a", "correct": "true"}], "Columns found: name, correct"),
    ],
)
def test_what_cannot_be_meant_is_refused(rows, message, tmp_path):
    for source in (saved(tmp_path, rows), pd.DataFrame(rows)):
        with pytest.raises(ValueError, match=message):
            read_corrections(source, ["a", "b"])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("true", True),
        ("TRUE", True),
        ("1", True),
        (1.0, True),
        (np.True_, True),
        ("Right", True),
        ("yes", True),
        ("false", False),
        (0, False),
        (False, False),
        ("wrong", False),
        ("no", False),
        ("", None),
        (" ", None),
        (None, None),
        (np.nan, None),
    ],
)
def test_verdicts_as_people_and_spreadsheets_write_them(written, expected):
    table = pd.DataFrame({"id": ["a"], "correct": pd.Series([written], dtype=object)})
    assert read_corrections(table, ["a"])["correct"].tolist() == [expected]


def test_a_file_of_a_spreadsheet_is_read(tmp_path):
    path = tmp_path / "corrections.csv"
    path.write_bytes("id;correct;exact_answer;note\na;WRONG;Köln;x\nb;;-;\n".encode("cp1252"))
    rows = read_corrections(path, ["a", "b"]).to_numpy().tolist()
    assert rows == [["a", False, "Köln"], ["b", None, "-"]]
