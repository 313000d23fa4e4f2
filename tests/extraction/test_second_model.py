"""A second real model, Gemma 3 270M, from its weights to its heatmap: ``make check-models``.

Its tokenizer, its blocks (norms after attention and MLP), its window of attention and its prompts
(it was never taught to chat) are not those of the default model. Nothing of it is shipped or
needed elsewhere, so these tests are left out, in CI too, unless they are asked for.
"""

from pathlib import Path

import pytest
import torch
from architectures import plain_activations, relative_error
from test_generation import TOLERANCE, answer, expected_response

import probekit as pk
from probekit.extraction.generation import SHARED
from probekit.extraction.identity import locate_model
from probekit.extraction.sites import decoder_blocks

REPOSITORY = Path(__file__).parents[2]
WEIGHTS = REPOSITORY / ".models" / "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PICTURES = REPOSITORY / "tests" / "artefacts" / "gemma"
N_QUESTIONS, N_COMPARED = 200, 24
MAX_NEW = 32
FLOAT16 = 1e-3  # what storing numbers in float16 makes of them

pytestmark = pytest.mark.second_model


@pytest.fixture(scope="module")
def gemma():
    if not WEIGHTS.is_file():
        pytest.skip("no weights: make check-models")
    assert locate_model(WEIGHTS)[2] == SHA256
    return pk.load_model(WEIGHTS)


@pytest.fixture(scope="module")
def questions():
    return pk.read_questions("cities", limit=N_QUESTIONS)


@pytest.fixture(scope="module")
def run(gemma, questions, tmp_path_factory):
    """All questions answered, and read at all sites."""
    run = pk.Run(tmp_path_factory.mktemp("runs") / "gemma")
    return pk.extract(gemma, questions, run, pk.SITES, max_new_tokens=MAX_NEW, progress=False)


@pytest.fixture(scope="module")
def compared(gemma, questions):
    """Prompts, responses with the activations of all tokens, and the plain model's activations."""
    prompts = [gemma.tokenize(gemma.prompt(q)) for q in questions["question"][:N_COMPARED]]
    responses = answer(gemma, prompts, pk.SITES, max_new_tokens=MAX_NEW, batch_size=8)
    assert len({len(r.token_ids) for r in responses}) > 3, "rows end at the same time"
    plain = [
        plain_activations(gemma.model, "gemma3", prompt + response.token_ids)[0]
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return prompts, responses, plain


def test_it_passes_the_self_test(gemma):
    checks = pk.check_model(gemma)
    print(checks.to_string())
    assert checks["passed"].all()
    assert set(checks["of"]) == {*pk.SITES, SHARED}


def test_it_is_asked_without_a_chat_template(gemma):
    prompt = gemma.prompt("Where?")
    assert prompt == "<bos>Q: Where?\nA:"
    pieces = ["<bos>", "Q", ":", "▁Where", "?", "\n", "A", ":"]
    assert gemma.tokenizer.convert_ids_to_tokens(gemma.tokenize(prompt)) == pieces
    ends = gemma.tokenizer.convert_tokens_to_ids(["<eos>", "\n", "\n\n"])
    assert gemma.stop_ids.issuperset(ends)


def test_responses_are_those_of_generate(gemma, compared, run):
    prompts, responses, _ = compared
    told = run.answers()["response"][:N_COMPARED]
    for prompt, response, text in zip(prompts, responses, told, strict=True):
        expected = expected_response(gemma, prompt, MAX_NEW)
        assert (response.token_ids, response.finished) == expected
        assert text == gemma.tokenizer.decode(response.token_ids)


@pytest.mark.parametrize("site", pk.SITES)
def test_activations_are_those_of_a_plain_forward_pass(site, compared, run):
    """Of all tokens while it answers, and of two in the store."""
    worst, worst_stored = 0.0, 0.0
    stored = run.activations(site)["activation"].sel(token=["last_q", "-1"])
    for prompt, response, plain, kept in zip(*compared, stored[:N_COMPARED], strict=True):
        expected = plain[site][len(prompt) - 1 :]
        worst = max(worst, relative_error(response.activations[site], expected))
        kept = torch.from_numpy(kept.transpose("token", ...).values).float()
        worst_stored = max(worst_stored, relative_error(kept, expected[[0, -1]]))
    print(f"largest relative error at {site}: {worst:.1e}, stored {worst_stored:.1e}")
    assert worst <= TOLERANCE
    assert worst_stored <= FLOAT16


def test_its_blocks_add_up(gemma, compared):
    """What attention and MLP give goes through a norm before it is added."""
    worst = 0.0
    for response in compared[1]:
        at = response.activations
        for layer, block in enumerate(decoder_blocks(gemma.model)):
            with torch.no_grad():
                down = block.mlp.down_proj(at["mlp_act"][:, layer])
                attention = block.post_attention_layernorm(at["attn_out"][:, layer])
                mlp = block.post_feedforward_layernorm(at["mlp_out"][:, layer])
            worst = max(worst, relative_error(at["mlp_out"][:, layer], down))
            if layer:
                before, after = (at["resid_post"][:, i] for i in (layer - 1, layer))
                worst = max(worst, relative_error(before + attention + mlp, after))
    assert worst <= TOLERANCE


def test_its_heatmaps(run):
    """Drawn for a person to look at, beside what is measured without activations."""
    answers = run.answers()
    named, right = answers["exact_answer"] != "", answers["correct"]
    print(f"{named.sum()} of {len(answers)} answers name a country, {right.sum()} are right")
    # 129 and 114 on one machine: another one's rounding changes a few, a damaged model all.
    assert 110 <= named.sum() <= 150
    assert 95 <= right.sum() <= 130
    for site in pk.SITES:
        grid = pk.probe_grid(run.activations(site), n_jobs=1, progress=False)
        chart = pk.heatmap(grid, title=f"Gemma 3 270M, {site}")
        (picture,) = pk.save_chart(chart, PICTURES / f"{site}.png")
        controls = pk.control_table(pk.controls(answers, grid))
        print(f"{site}: {pk.findings(grid).summary}", picture, sep="\n")
        print(controls[["auroc", "auroc_low", "auroc_high"]].round(2).to_string())
        # The last token of the question, before a word is said, in the middle of the network.
        assert grid["auroc"].sel(token="last_q", layer=slice(6, 12)).mean() > 0.65
