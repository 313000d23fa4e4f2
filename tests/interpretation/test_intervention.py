"""Interventions: against a plain forward pass, with a direction planted, and with none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tiny import write_questions

import probekit as pk
from probekit.extraction.generation import said_logprobs
from probekit.extraction.sites import SITES, Recorder, decoder_blocks
from probekit.extraction.steering import Steering
from probekit.interpretation import intervention
from probekit.interpretation.intervention import _Directions, _holm


@pytest.fixture(scope="module")
def lm(stopping_model_dir):
    return pk.load_model(stopping_model_dir)


@pytest.fixture(scope="module")
def run(lm, tmp_path_factory):
    """A probed run of the tiny model, of two sites' first."""
    folder = tmp_path_factory.mktemp("intervened")
    questions = pk.read_questions(write_questions(folder / "q", 60))
    run = pk.Run(folder / "run")
    pk.extract(lm, questions, run, site="resid_post", max_new_tokens=10, progress=False)
    return probed(run)


def probed(run, change=lambda grid: grid):
    activations = run.activations().load()
    grid = pk.probe_grid(activations, folds=2, n_permutations=1, n_jobs=1, progress=False)
    stage = run.begin("probe", {})
    files = [run.save_grids({"random": change(grid)})]
    stage.finish(files, splits=["random"])
    return run


def go(lm, run, **options):
    options = {"layer": 2, "token": "last_q", "n_questions": 0, "progress": False} | options
    return pk.intervene(lm, run, **options)


# The hooks


@pytest.mark.parametrize("site", SITES)
def test_what_is_changed_is_what_is_read_and_all_that_is_changed(lm, site):
    ids = torch.tensor([lm.tokenize(lm.prompt("In which country is Palermo?"))])
    with torch.inference_mode(), Recorder(lm.model, SITES, whole=True) as recorder:
        plain = lm.model(ids).logits
        before = {name: recorder.latest(name) for name in SITES}

        def change(x):
            return torch.cat([x[:, :-1], 2 * x[:, -1:] + 1], 1)

        with Steering(lm.model, site, 1, change):
            # Recorders before and after see the activations as they were and as they are.
            with Recorder(lm.model, SITES, whole=True) as after:
                changed = lm.model(ids).logits
            found = {name: after.latest(name) for name in SITES}
        again = lm.model(ids).logits
    expected = before[site][:, 1, -1] * 2 + 1  # (row, layer, token, feature)
    torch.testing.assert_close(found[site][:, 1, -1], expected)
    torch.testing.assert_close(found[site][:, 1, :-1], before[site][:, 1, :-1])
    for name in SITES:  # no earlier block, no earlier position
        torch.testing.assert_close(found[name][:, 0], before[name][:, 0])
    assert not torch.equal(changed[:, -1], plain[:, -1])
    torch.testing.assert_close(changed[:, :-1], plain[:, :-1])
    assert torch.equal(again, plain), "the hooks are gone"


def test_hooks_are_gone_after_an_exception(lm):
    ids = torch.tensor([lm.tokenize(lm.prompt("Where?"))])
    with torch.inference_mode():
        plain = lm.model(ids).logits
        with pytest.raises(ZeroDivisionError), Steering(lm.model, "mlp_out", 0, lambda x: x + 9):
            1 / 0  # noqa: B018
        assert torch.equal(lm.model(ids).logits, plain)


def test_log_probabilities_are_those_of_one_plain_pass_each(lm):
    """By hand: the whole text, no cache, and a block's output replaced."""
    prompt, said = lm.tokenize(lm.prompt("Where is Lyon?")), [40, 41, 42]
    steps = torch.randn(40, 32, generator=torch.Generator().manual_seed(0))

    def change(first, stop):
        return Steering(
            lm.model,
            "resid_post",
            1,
            lambda x: x + steps[first:stop, None].expand(-1, x.shape[1], -1),
        )

    found = said_logprobs(lm, prompt[:-1], [*prompt[-1:], 7, *said], 3, 40, change)
    text, start = [*prompt, 7, *said], len(prompt) - 1
    for row in (0, 33, 39):

        def replace(module, args, output, row=row):
            first = output[0] if isinstance(output, tuple) else output
            first[:, start:] += steps[row]
            return output

        handle = decoder_blocks(lm.model)[1].register_forward_hook(replace)
        with torch.inference_mode():
            logits = lm.model(torch.tensor([text])).logits[0].log_softmax(-1)
        handle.remove()
        expected = [logits[len(text) - 4 + i, token] for i, token in enumerate(said)]
        torch.testing.assert_close(found[row], torch.stack(expected), atol=2e-5, rtol=1e-4)


# Directions


def test_a_push_is_read_as_its_dose_and_all_are_as_long(run):
    grid = run.grid()
    cell = {"layer": 1, "token": "last_q"}
    X, _ = intervention._activations(run, grid, "resid_post", cell)
    random = np.random.default_rng(0)
    found = _Directions.of(grid, cell, X, 20, 4.0, random)
    assert (found.read[0] @ found.step[0]) == pytest.approx(4.0)
    lengths = np.linalg.norm(found.step, axis=1)
    np.testing.assert_allclose(lengths, lengths[0])
    # The probe's own direction, and its own scale: standard deviations of what it reads.
    coef = grid["coef"].sel(layer=1, token="last_q").to_numpy()
    assert np.corrcoef(X @ found.read[0], X @ coef)[0, 1] == pytest.approx(1, abs=1e-6)
    assert list(found.kinds[:2]) == ["probe", "random"]
    assert (found.kinds == "permuted").sum() == 5


def test_what_is_erased_can_no_longer_be_read():
    """LEACE: with the classes' difference as the direction, no linear probe finds anything."""
    random = np.random.default_rng(0)
    wrong = random.random(400) < 0.5
    X = random.standard_normal((400, 12)) @ random.standard_normal((12, 12))
    X[wrong] += random.standard_normal(12)
    # Fisher's direction, by plain covariance: what it reads is all that differs in the mean.
    covariance = np.cov(X.T, bias=True)
    coef = np.linalg.solve(covariance, X[wrong].mean(0) - X[~wrong].mean(0))
    read = coef / np.sqrt(coef @ covariance @ coef)
    pattern = covariance @ read
    erased = X - ((X - X.mean(0)) @ read)[:, None] * pattern
    np.testing.assert_allclose(erased[wrong].mean(0), erased[~wrong].mean(0), atol=1e-9)
    before, after = (
        roc_auc_score(wrong, LogisticRegression(C=1e3).fit(A, wrong).decision_function(A))
        for A in (X, erased)
    )
    assert before > 0.8
    assert after < 0.56


# What is found


@pytest.fixture
def planted(lm, run, monkeypatch):
    """The model with a direction that decides for "nya"; the direction, as away from errors."""
    direction = torch.zeros(32)
    direction[5] = 1.0
    head = lm.model.get_output_embeddings().weight
    token = lm.tokenizer("nya", add_special_tokens=False).input_ids[0]
    kept = head[token].detach().clone()
    with torch.no_grad():
        head[token] += 4 * direction
    yield -direction.numpy()
    with torch.no_grad():
        head[token] = kept


def with_coef(run, monkeypatch, coef):
    """The run with other probes in all cells."""
    grid = run.grid()
    grid["coef"] = grid["coef"] * 0 + coef
    monkeypatch.setattr(pk.Run, "grid", lambda *_: grid)


def test_a_planted_direction_is_found(lm, run, planted, monkeypatch):
    with_coef(run, monkeypatch, planted)
    effects = go(lm, run, flips=True)
    push = effects.sel(outcome="push")
    assert float(push["p_value"]) <= 0.05
    assert float(push["effect"]) > 0
    assert float(push["effect_low"]) > 0
    assert effects.attrs["verdict"].startswith("The model uses what the probe reads, as it should")
    with_coef(run, monkeypatch, -planted)
    verdict = go(lm, run, flips=False).attrs["verdict"]
    assert verdict.startswith("The model uses what the probe reads, but in the wrong sense")


def test_probes_of_noise_are_found_in_five_per_cent_at_most(lm, run, monkeypatch):
    """Of probes of permuted labels, at an early layer, which is read by all that follow."""
    activations = run.activations().load()
    random, p, said = np.random.default_rng(0), [], 0
    for seed in range(60):
        wrong = random.permutation(activations["correct"].to_numpy())
        X = activations["activation"].sel(layer=0, token="last_q").to_numpy().astype(float)
        coef = LogisticRegression(max_iter=500).fit(X, wrong).coef_[0]
        with_coef(run, monkeypatch, coef)
        effects = go(lm, run, layer=0, n_questions=8, flips=False, seed=seed)
        monkeypatch.undo()
        p.append(float(effects["p_value"][0]))
        said += effects.attrs["verdict"].startswith("The model uses")
    assert said / 60 <= 0.05
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
    assert 0.3 < np.mean(p) < 0.75


def test_every_effect_is_what_its_definition_says(lm, run):
    effects = go(lm, run, n_questions=12, dose=2.0)
    right = effects["right"].sel(change="away") - effects["right"].sel(change="towards")
    own = right.isel(direction=0)
    push = effects.sel(outcome="push")
    assert float(push["effect"]) == pytest.approx(float(own.mean()))
    half = 2.201 * float(own.std(ddof=1)) / np.sqrt(12)
    assert float(push["effect_high"] - push["effect"]) == pytest.approx(half, rel=1e-3)
    random = np.abs(right.mean("question").to_numpy()[effects["kind"].to_numpy() == "random"])
    rank = (1 + (random >= abs(float(own.mean())) - 1e-9).sum()) / 21
    assert float(push["p_value"]) == pytest.approx(rank)
    wrong = effects["wrong"].isel(direction=0, change=2)
    assert np.isnan(wrong.to_numpy()).tolist() == effects["correct"].to_numpy().tolist()
    assert {*effects["outcome"].to_numpy()} == {"push", "erasure", "wrong", "flips", "damage"}


def test_what_is_said_is_borne_out_by_the_interval(lm, run):
    effects = go(lm, run, n_questions=6, flips=False)
    effects["p_value"][:] = 0.04
    effects["every_effect"][0, 0] = 99.0
    for low, high, said in (
        (1, 2, ", as it should:"),
        (-2, -1, ", but in the wrong sense:"),
        (-1, 1, ", but its sense differs between questions:"),
    ):
        effects["effect_low"][0], effects["effect_high"][0] = low, high
        assert said in intervention._verdict(effects)
    effects["p_value"][0] = np.nan
    assert intervention._verdict(effects).startswith("It is not shown")
    one = {"outcome": "wrong"}
    effects["effect"].loc[one] = 5.0
    for low, high, said in (
        (np.nan, np.nan, "was not tested: 2 wrong answers are too few."),
        (-1, 9, "is not shown"),
        (1, 9, "In line with later layers"),
        (-9, -1, "they promote it"),
    ):
        effects["effect_low"].loc[one], effects["effect_high"].loc[one] = low, high
        assert said in intervention._suppression(effects)


def test_a_push_that_overflows_is_refused(lm, run):
    endless = Steering(lm.model, "resid_post", 0, lambda x: x * np.inf)
    with pytest.raises(ValueError, match="smaller dose"), endless:
        go(lm, run, n_questions=2, flips=False)


def test_one_answer_a_question(lm, run, monkeypatch):
    answers = run.answers()
    answers.loc[1:9, "question"] = answers["question"][0]
    monkeypatch.setattr(pk.Run, "answers", lambda _: answers)
    effects = go(lm, run, flips=False)
    asked = answers.set_index("id")["question"].loc[effects["id"].to_numpy()]
    assert asked.is_unique


def test_holm():
    assert _holm([0.01, 0.04, np.nan, 0.03]) == pytest.approx(
        [0.03, 0.06, np.nan, 0.06], nan_ok=True
    )


def test_the_same_seed_gives_the_same(lm, run):
    one, other = (go(lm, run, n_questions=5, flips=False, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one["right"], other["right"])


# Refused


def test_what_can_not_be_used(lm, run, repository, tmp_path):
    with pytest.raises(TypeError, match="lm must be a LanguageModel"):
        go(None, run)
    with pytest.raises(ValueError, match="n_random must be a whole number from 20"):
        go(lm, run, n_random=19)
    with pytest.raises(ValueError, match="layer"):
        go(lm, run, layer=99)
    with pytest.raises(ValueError, match="token"):
        go(lm, run, token="tenth")
    with pytest.raises(ValueError, match="has no probes: it is an example"):
        go(lm, pk.Run(repository / "data" / "example"))
    with pytest.raises(ValueError, match="can't be used with another model"):
        go(lm, pk.Run(repository / "data" / "examples" / "cities"))
    with pytest.raises(FileNotFoundError, match="no finished probe stage"):
        go(lm, pk.Run(tmp_path / "none"))


# What the description says of it


def test_the_description_cites_the_verdict_in_place_of_the_conjecture(run):
    grid = made_grid()
    found = {"verdict": "It is *not* shown.", "suppression": "<b>That</b> is not shown."}
    plain, cited = pk.describe(grid), pk.describe(grid, intervention=found)
    assert "Whether the model uses what a probe reads" in plain
    assert "Tested by intervening" not in plain
    assert "**Tested by intervening.** It is \\*not\\* shown. &lt;b&gt;That&lt;/b&gt; is" in cited
    assert "Whether the model uses" not in cited
    assert "suppress wrong content" not in cited
    for wrong in ({}, {"verdict": 3, "suppression": "x"}, "verdict"):
        with pytest.raises(TypeError, match="intervention must be"):
            pk.describe(grid, intervention=wrong)


def made_grid():
    """A grid in which the last tokens are told apart with depth, so that the conjecture is due."""
    from synthetic import flat, make_grid, with_training

    true = flat(0.6, 12)
    for layer in range(12):
        for token in map(str, range(-8, 0)):
            true.loc[layer, token] = 0.55 + 0.035 * layer
    return with_training(make_grid(true, n=400))


def test_a_model_that_can_not_go_on_from_a_shared_beginning_is_refused(lm, run, monkeypatch):
    """As of recurrence, which reads several tokens after a cache otherwise than one by one."""
    found = SimpleNamespace(way="no shared prefix", refuse=lambda sites: None)
    monkeypatch.setattr(intervention, "examined", lambda *given: found)
    with pytest.raises(ValueError, match=r"is answered by no shared prefix\. Use another model"):
        go(lm, run)


@pytest.mark.parametrize("column", ["kind", "judge"])
def test_flips_are_left_out_where_they_can_not_be_graded_as_the_run_was(
    column, lm, run, monkeypatch
):
    answers, manifest = run.answers(), run.manifest("extract")
    if column == "kind":
        monkeypatch.setattr(pk.Run, "answers", lambda _: answers.assign(kind="choice"))
    else:
        given = manifest | {"parameters": manifest["parameters"] | {"judge": "a judge"}}
        whole = pk.Run.manifest
        monkeypatch.setattr(
            pk.Run, "manifest", lambda self, s: given if s == "extract" else whole(self, s)
        )
    effects = go(lm, run, n_questions=3)
    assert "flips" not in effects["outcome"].to_numpy()
    assert "flipped" not in effects


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_the_right_answer_is_split_as_the_model_splits_it(scheme):
    """Of tokenizers like Llama's and Mistral's, which write a space before a text themselves."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "▁It", "▁is", "▁Norway", "▁Peru", "▁", "Peru", "."]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    said = [1, 2, 3]  # "It is Norway"
    answer = {
        "positions": [0] * len(pk.TOKENS),
        "token_ids": said,
        "token_starts": [0, 2, 5],
        "response": "It is Norway",
        "answer_start": 6,
        "accepted": "Peru|Republic of Peru",
    }
    for name in ("exact_answer_first", "exact_answer_last"):
        answer["positions"][pk.TOKENS.index(name)] = 2
    before, own, right = intervention._texts(SimpleNamespace(tokenizer=tokenizer), answer)
    assert (before, own) == ([1, 2], [3])
    assert [words[i] for i in right] == ["▁Peru"]
