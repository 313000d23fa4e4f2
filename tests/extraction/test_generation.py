import functools
import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from architectures import (
    ARCHITECTURES,
    VOCABULARY,
    build,
    plain_activations,
    plain_response,
    relative_error,
)
from transformers import DynamicCache
from transformers.cache_utils import Cache

from probekit.extraction import generation
from probekit.extraction.generation import CachedPrefix, Sampler, common_prefix, generate

STOPS = frozenset(range(0, VOCABULARY, 5))  # many, so that rows end at different times
MAX_NEW = 12
TOLERANCE = 1e-4


def make_prompts(n=17, seed=0):
    """Prompts of different lengths that begin alike; two are all but one token the beginning."""
    random = np.random.default_rng(seed)
    beginning = [5, 6, 7, 8, 9]
    lengths = [1, 1, *random.integers(2, 15, n - 2)]
    return [beginning + random.integers(10, VOCABULARY, k).tolist() for k in lengths]


def language_model(name="llama", stops=STOPS):
    model = build(name)
    return SimpleNamespace(model=model, device=torch.device("cpu"), stop_ids=frozenset(stops))


def answer(lm, prompts, sites, *, max_new_tokens=MAX_NEW, **options):
    responses = list(generate(lm, prompts, sites, max_new_tokens=max_new_tokens, **options))
    assert sorted(r.index for r in responses) == list(range(len(prompts)))
    return sorted(responses, key=lambda r: r.index)


def expected_response(lm, prompt, max_new_tokens=MAX_NEW):
    """What `generate` answers; a response as long as is allowed ended if the next token ends it."""
    token_ids, finished = plain_response(lm.model, prompt, lm.stop_ids, max_new_tokens + 1)
    return token_ids[:max_new_tokens], finished


def check(name, lm, prompts, responses, max_new_tokens=MAX_NEW):
    """Every response against `generate`, every activation against a plain forward pass."""
    for prompt, response in zip(prompts, responses, strict=True):
        expected = expected_response(lm, prompt, max_new_tokens)
        assert (response.token_ids, response.finished) == expected
        check_activations(name, lm, prompt, response)


def check_activations(name, lm, prompt, response):
    plain, logits = plain_activations(lm.model, name, prompt + response.token_ids)
    for site, found in response.activations.items():
        assert found.dtype == torch.float32
        assert relative_error(found, plain[site][len(prompt) - 1 :]) <= TOLERANCE, site
    gained = logits[len(prompt) - 1 : -1].log_softmax(-1)
    expected = gained[range(len(response.token_ids)), response.token_ids].cpu().numpy()
    np.testing.assert_allclose(response.logprobs, expected, atol=1e-3)


def entropies(logits, prompt=(0,)):
    """Of the distributions that the tokens after a prompt were chosen from, in double precision."""
    shares = logits[len(prompt) - 1 : -1].double().softmax(-1)
    return torch.special.entr(shares).sum(-1).cpu().numpy()


@functools.cache
def references(name):
    """Per prompt: response, whether it ended, activations (site: token, layer, feature), logits."""
    lm = language_model(name)
    listed = []
    for prompt in make_prompts():
        token_ids, finished = expected_response(lm, prompt)
        plain = plain_activations(lm.model, name, prompt + token_ids)
        listed.append((token_ids, finished, *plain))
    return listed


# Parity with the unmodified model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_prompts_exercise_what_can_go_wrong(name):
    lengths = [len(token_ids) for token_ids, *_ in references(name)]
    assert len(set(lengths)) >= 3, "rows end at the same time"
    assert len({tuple(token_ids) for token_ids, *_ in references(name)}) >= 8


@pytest.mark.parametrize("batch_size", [1, 7, 32])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_pass_equals_generate_and_a_plain_forward_pass(name, batch_size):
    prompts, sites = make_prompts(), tuple(ARCHITECTURES[name].paths)
    responses = answer(language_model(name), prompts, sites, batch_size=batch_size)
    for prompt, response, reference in zip(prompts, responses, references(name), strict=True):
        token_ids, finished, plain, logits = reference
        assert response.token_ids == token_ids
        assert response.finished == finished
        assert set(response.activations) == set(sites)
        for site in sites:
            expected = plain[site][len(prompt) - 1 :]
            assert relative_error(response.activations[site], expected) <= TOLERANCE, site
        gained = logits[len(prompt) - 1 : -1].log_softmax(-1)
        expected = gained[range(len(token_ids)), token_ids].numpy()
        np.testing.assert_allclose(response.logprobs, expected, atol=1e-3)
    share = logits[len(prompt) - 1 : -1].double().softmax(-1)
    expected = torch.special.entr(share).sum(-1).cpu().numpy()
    np.testing.assert_allclose(response.entropies, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3"])
def test_resid_post_is_what_transformers_calls_hidden_states(name):
    prompt = make_prompts()[5]
    (response,) = answer(language_model(name), [prompt], ["resid_post"], batch_size=1)
    with torch.no_grad():
        states = build(name)(
            torch.tensor([prompt + response.token_ids]), output_hidden_states=True
        ).hidden_states
    # The first is the embedding's, the last comes after the final norm.
    expected = torch.stack([h[0] for h in states[1:-1]], dim=1)[len(prompt) - 1 :]
    assert relative_error(response.activations["resid_post"][:, :-1], expected) <= TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 7])
def test_each_token_is_told_once_when_it_is_chosen_in_no_more_passes(batch_size):
    lm, prompts, sites = language_model(), make_prompts(), ("mlp_out", "resid_post")
    passes, told = [], {i: [] for i in range(len(prompts))}
    generation.examined(lm, prompts, range(len(prompts)))
    hook = lm.model.register_forward_hook(lambda *_: passes.append(1))
    silent = answer(lm, prompts, sites, batch_size=batch_size)
    n_passes = len(passes)

    def keep(index, token_ids, read):
        told[index].append((token_ids, read, len(passes)))

    responses = answer(lm, prompts, sites, batch_size=batch_size, on_token=keep)
    hook.remove()
    assert len(passes) == 2 * n_passes
    for response, before in zip(responses, silent, strict=True):
        assert response.token_ids == before.token_ids
        steps = told[response.index]
        assert [ids for ids, *_ in steps] == [
            response.token_ids[: i + 1] for i in range(len(response.token_ids))
        ]
        for site in sites:
            for i, (_, read, _) in enumerate(steps):
                torch.testing.assert_close(
                    read[site], response.activations[site][i], rtol=0, atol=0
                )
        # While it is made, not afterwards: a pass lies between any two.
        assert [*np.unique([at for *_, at in steps])] == [at for *_, at in steps]


# Corners


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_prompts_without_a_common_beginning(name, batch_size):
    prompts = [[i + 10, *prompt] for i, prompt in enumerate(make_prompts(9))]
    assert common_prefix(prompts) == 0
    lm = language_model(name)
    check(name, lm, prompts, answer(lm, prompts, ["mlp_out"], batch_size=batch_size))


def test_one_prompt():
    prompts, lm = make_prompts()[:1], language_model()
    check("llama", lm, prompts, answer(lm, prompts, ["mlp_out"], batch_size=32))


def test_a_prompt_of_one_token():
    lm = language_model()
    check("llama", lm, [[77]], answer(lm, [[77]], ["resid_post"], batch_size=2))


@pytest.mark.parametrize("batch_size", [1, 3, 6])
def test_prompts_of_one_length(batch_size):
    lm, prompts = language_model(), [p[:6] for p in make_prompts(6)]
    assert {len(p) for p in prompts} == {6}
    check("llama", lm, prompts, answer(lm, prompts, ["attn_out"], batch_size=batch_size))


def test_the_same_prompt_twice_gives_the_same():
    lm, prompt = language_model(), make_prompts()[4]
    first, second = answer(lm, [prompt, prompt], ["mlp_out"], batch_size=2)
    assert first.token_ids == second.token_ids
    torch.testing.assert_close(first.activations, second.activations)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_an_empty_response_still_has_the_prompts_last_token(batch_size):
    prompts = make_prompts()
    (begun, _) = plain_response(build("llama"), prompts[3], frozenset(), 1)
    lm = language_model(stops=begun)
    responses = answer(lm, prompts, ["mlp_out", "resid_post"], batch_size=batch_size)
    check("llama", lm, prompts, responses)
    assert responses[3].token_ids == []
    assert responses[3].finished
    assert responses[3].logprobs.shape == responses[3].entropies.shape == (0,)
    assert responses[3].activations["mlp_out"].shape == (1, 3, 32)


def test_all_responses_empty():
    lm, prompts = language_model(stops=range(VOCABULARY)), make_prompts(9)
    responses = answer(lm, prompts, ["mlp_out"], batch_size=4)
    assert all(r.token_ids == [] and r.finished for r in responses)
    check("llama", lm, prompts, responses)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 40])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_without_a_stop_responses_are_as_long_as_allowed(max_new_tokens, batch_size):
    lm, prompts = language_model(stops=()), make_prompts(7)
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    responses = answer(lm, prompts, ["mlp_out"], **options)
    assert all(len(r.token_ids) == max_new_tokens and not r.finished for r in responses)
    check("llama", lm, prompts, responses, max_new_tokens)


def test_a_batch_may_be_larger_than_what_is_asked():
    lm, prompts = language_model(), make_prompts(3)
    check("llama", lm, prompts, answer(lm, prompts, ["mlp_act"], batch_size=100))


def test_a_prefix_computed_before_serves_some_of_the_prompts():
    lm, prompts = language_model("mistral"), make_prompts()
    prefix = CachedPrefix(lm, prompts)
    assert prefix.length == 5
    responses = answer(lm, prompts[8:], ["mlp_out"], batch_size=4, prefix=prefix)
    check("mistral", lm, prompts[8:], responses)
    # It is left as it was: the next prompts find the same.
    responses = answer(lm, prompts[:8], ["mlp_out"], batch_size=4, prefix=prefix)
    check("mistral", lm, prompts[:8], responses)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_sampled_tokens_go_to_the_rows_they_were_drawn_for(batch_size):
    def draw(logprobs, indices, steps):
        assert logprobs.shape == (len(indices), VOCABULARY)
        # Row i says token 100 + 10 i + its step, and stops (token 0) after 3 + i of them.
        drawn = [
            100 + 10 * i + step if step < 3 + i else 0
            for i, step in zip(indices, steps, strict=True)
        ]
        return torch.tensor(drawn)

    lm, prompts = language_model("gemma2", stops=[0]), make_prompts(6)
    responses = answer(lm, prompts, ["mlp_out"], batch_size=batch_size, sample=draw)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        assert response.token_ids == [100 + 10 * i + step for step in range(3 + i)]
        assert response.finished
        check_activations("gemma2", lm, prompt, response)


def test_keys_and_values_are_free_when_the_last_response_is_there(monkeypatch):
    made = []

    class Rows(generation._Rows):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr(generation, "_Rows", Rows)
    # Python's collector counts objects, not bytes, and would come gigabytes too late.
    gc.collect()
    gc.disable()
    try:
        answer(language_model(), make_prompts(), ["mlp_out"], batch_size=4)
        (rows,) = made
        assert rows() is None
    finally:
        gc.enable()


def test_room_for_keys_and_values_is_one_piece_on_each_layers_device():
    # "meta" stands for another device: a model may be spread over several.
    read = DynamicCache()
    for i, device in enumerate(["cpu", "meta", "cpu", "meta"]):
        keys, values = (torch.zeros(2, 3, 4, size, device=device) for size in (5 + i, 6))
        read.update(keys, values, i)
    rows = generation._Rows(capacity=7, longest_prompt=4, max_new_tokens=8, total=7)
    rows.cache = Cache(layers=[generation._AlignedLayer(rows) for _ in read.layers])
    rows._allocate(read)
    pieces = {}
    for ours, theirs in zip(rows.cache.layers, read.layers, strict=True):
        for kept, like in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            assert kept.device == like.device
            assert kept.shape == (7, 3, 12, like.shape[3])
            pieces.setdefault(kept.device.type, []).append(kept)
    used = [kept.untyped_storage().data_ptr() for kept in pieces["cpu"]]
    assert len(set(used)) == 1
    for i, kept in enumerate(pieces["cpu"]):
        kept.fill_(i)  # None lies over another.
    assert [kept.unique().tolist() for kept in pieces["cpu"]] == [[0], [1], [2], [3]]


def test_no_hook_is_left_on_the_model_even_when_the_caller_stops_early():
    def hooks():
        return [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in lm.model.modules()]

    lm = language_model()
    before = hooks()  # transformers leaves some of its own
    responses = generate(lm, make_prompts(), ["mlp_out", "mlp_act"], max_new_tokens=4, batch_size=2)
    next(responses)
    assert hooks() != before
    responses.close()
    assert hooks() == before


# Numbers that are none


@pytest.mark.parametrize("sample", [None, Sampler(1.0, 0.9, 0)], ids=["likeliest", "drawn"])
@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda row: row[7:8].fill_(torch.nan),
        lambda row: row[7:8].fill_(torch.inf),
        lambda row: row.fill_(-torch.inf),
    ],
    ids=["nan", "inf", "all -inf"],
)
def test_the_first_logits_that_are_not_finite_end_it(monkeypatch, spoil, at, sample):
    lm, passes, original = language_model(stops=()), [], generation._forward

    def spoilt(lm, ids, *arguments):
        logits = original(lm, ids, *arguments).clone()
        passes.append(len(passes))
        if passes[-1] == at + 1:  # after the common beginning
            spoil(logits[1])
        return logits

    prompts = [p[:6] for p in make_prompts(3)]
    generation.examined(lm, prompts)
    monkeypatch.setattr(generation, "_forward", spoilt)
    names = ["first", "second", "third"]
    with pytest.raises(ValueError, match=rf"float32 at question 'second', {at} tokens into"):
        answer(lm, prompts, [], batch_size=3, sample=sample, names=[*reversed(names)])
    assert len(passes) == at + 2


def test_tokens_that_are_never_said_may_have_logits_of_minus_infinity(monkeypatch):
    lm, prompts, original = language_model(), make_prompts(5), generation._forward
    expected = answer(lm, prompts, [], batch_size=5)
    never = min(set(range(1, VOCABULARY)) - {i for r in expected for i in r.token_ids})

    def masked(*arguments):
        logits = original(*arguments).clone()
        logits[:, never] = -torch.inf
        return logits

    monkeypatch.setattr(generation, "_forward", masked)
    found = answer(lm, prompts, [], batch_size=5)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]


@pytest.mark.parametrize("temperature", [0, 0.5, 3])
@pytest.mark.parametrize(
    "change",
    [
        lambda row: row,
        lambda row: row.index_fill_(0, torch.arange(2, VOCABULARY, 2), -torch.inf),
        lambda row: row.index_fill_(0, torch.arange(2, VOCABULARY), -torch.inf),  # two are left
        lambda row: row.zero_(),
        lambda row: row.add_(1e4),
        lambda row: row.mul_(1e6),
        lambda row: row.fill_(-120).index_fill_(0, torch.tensor([9]), 0),
    ],
    ids=["as they are", "half", "two", "all alike", "far from 0", "certain", "beyond float32"],
)
def test_entropies_are_of_all_that_could_be_said(monkeypatch, change, temperature):
    """At temperature 1, whatever tokens are drawn at, and without what can't be said."""
    lm, original, seen = language_model(stops=()), generation._forward, {}
    prompts = make_prompts(5)
    generation.examined(lm, prompts)
    sampler = Sampler(temperature, 0.9, 0) if temperature else None

    def changed(*arguments):
        logits = original(*arguments).clone()
        for row in logits:
            change(row)
        return logits

    def keep(logits, indices, steps):
        for row, key in zip(logits, zip(indices, steps, strict=True), strict=True):
            seen[key] = row.clone()
        return sampler(logits, indices, steps) if sampler else logits.argmax(-1)

    monkeypatch.setattr(generation, "_forward", changed)
    for response in answer(lm, prompts, [], batch_size=3, sample=keep):
        assert len(response.entropies) == len(response.token_ids) == MAX_NEW
        logits = torch.stack([seen[response.index, step] for step in range(MAX_NEW + 1)])
        np.testing.assert_allclose(response.entropies, entropies(logits), rtol=1e-5, atol=1e-6)
        assert response.entropies.dtype == np.float32


# The common beginning


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[1, 2, 3]], 2),
        ([[1]], 0),
        ([[1, 2, 3], [1, 2, 4]], 2),
        ([[1, 2, 3], [1, 2, 3, 4]], 2),
        ([[1, 2, 3], [1, 2, 3]], 2),
        ([[1, 2], [2, 2]], 0),
        ([[1, 9, 3], [1, 2, 3], [1, 9, 4]], 1),
        ([[5], [5, 6]], 0),
    ],
)
def test_common_prefix_leaves_a_token_of_every_prompt(prompts, expected):
    assert common_prefix(prompts) == expected
