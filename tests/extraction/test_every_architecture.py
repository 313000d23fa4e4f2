"""Every decoder architecture of transformers: right, or refused in one sentence before any work.

``python tests/extraction/test_every_architecture.py`` writes the table of the documentation.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pytest
import torch
import transformers
from every_architecture import NOT_BUILT, VOCABULARY, build, model_types

from probekit.extraction.generation import SHARED, examined, generate
from probekit.extraction.self_test import plain
from probekit.extraction.sites import SITES, Recorder

TABLE = Path(__file__).parents[2] / "docs" / "architectures.md"
TOLERANCE = 1e-4
# Those that the users of small models take most, and whose state or windows are special.
ASKED_FOR = [
    "qwen3_5_text",
    "qwen3_next",
    "granitemoehybrid",
    "falcon_h1",
    "llama4_text",
    "gpt_oss",
    "deepseek_v3",
    "gemma3_text",
    "gemma4_text",
]


def prompts():
    """Some that begin alike, of different lengths; two are one token longer than the beginning."""
    random = np.random.default_rng(1)
    lengths = (1, 1, 5, 17, 9, 12, 7, 9, 3)
    return [[7, 8, 9, *random.integers(10, VOCABULARY, n).tolist()] for n in lengths]


def language_model(model):
    return SimpleNamespace(model=model, device=torch.device("cpu"), stop_ids=frozenset())


def verdict(lm):
    """How a model is answered, the sites that can be read, and why it is refused."""
    try:
        found = examined(lm, prompts())
        found.refuse()
        checked = {*found.checks["of"]}
        sites = [site for site in SITES if site in checked and site not in found.wrong]
        if not sites:
            found.refuse(SITES)
    except ValueError as refusal:
        return None, [], str(refusal)
    return found.way, sites, ""


def line(model_type, model, way, sites, refusal):
    """One row of the table."""
    name = type(model).__name__
    if refusal:
        why = refusal.removeprefix(name).split(". ")[0].split(", a diff")[0].strip(" .")
        # A shape is said in parentheses, and further reasons.
        why = why if "of the shape (" in why else why.split(" (")[0]
        return f"| {model_type} | {name} | refused: {why} | |"
    return f"| {model_type} | {name} | {way} | {', '.join(sites)} |"


def check(lm, sites, batch_size):
    """Responses token for token, and activations, against whole texts, alone, without a cache."""

    def choose(logits, indices, steps):
        chosen = logits.argmax(-1)
        # Rows end at different times, so that others take their places.
        ends = [step == 1 + i % 5 for i, step in zip(indices, steps, strict=True)]
        return chosen.masked_fill(torch.tensor(ends), 0)

    asked = prompts()
    sizes = {"max_new_tokens": 10, "batch_size": batch_size, "stop_ids": [0]}
    for response in generate(lm, asked, sites, **sizes, sample=choose):
        prompt, said = asked[response.index], response.token_ids
        with torch.no_grad(), Recorder(lm.model, sites, whole=True) as recorder:
            logits = plain(lm, [*prompt, *said]).logits[0, len(prompt) - 1 :]
        assert said == logits[:-1].argmax(-1).tolist()
        assert len(said) == 1 + response.index % 5 or logits[-1].argmax() == 0
        for site in sites:
            theirs = recorder.latest(site)[0, :, len(prompt) - 1 :].transpose(0, 1)
            error = (response.activations[site] - theirs).norm(dim=-1) / theirs.norm(dim=-1)
            assert error.max() <= TOLERANCE, site


@pytest.mark.parametrize("model_type", model_types())
def test_it_is_right_or_refused_in_a_sentence(model_type):
    if model_type in NOT_BUILT:
        pytest.skip(NOT_BUILT[model_type])
    model = build(model_type)
    lm = language_model(model)
    way, sites, refusal = verdict(lm)
    assert line(model_type, model, way, sites, refusal) in TABLE.read_text().splitlines()
    if refusal:
        assert type(model).__name__ in refusal
        with pytest.raises(ValueError, match=type(model).__name__):
            next(generate(lm, prompts(), ["resid_post"], max_new_tokens=2, batch_size=2))
    else:
        check(lm, sites, batch_size=4)


@pytest.mark.parametrize("model_type", ASKED_FOR)
def test_batches_of_any_size(model_type):
    lm = language_model(build(model_type))
    _, sites, _ = verdict(lm)
    for batch_size in (1, 7, 32):
        check(lm, sites, batch_size)


def test_the_sweep_is_wide():
    built = set(model_types()) - set(NOT_BUILT)
    assert len(built) >= 120
    rows = [row for row in TABLE.read_text().splitlines() if row.startswith("| ")][2:]
    assert len(rows) == len(built)
    assert sum("| refused" in row for row in rows) <= 11
    assert sum(f"| {SHARED} |" in row for row in rows) >= 130


def main():
    rows = []
    for model_type in model_types():
        if model_type not in NOT_BUILT:
            model = build(model_type)
            rows.append(line(model_type, model, *verdict(language_model(model))))
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(
        f"""# Architectures

What probekit does with each decoder architecture of transformers {transformers.__version__}.
Each was tried on a tiny model with random weights, in single precision. Made by
`python tests/extraction/test_every_architecture.py`; the tests compare each row with what
comes out. They also compare the answers and activations of each model that is not refused
with those of the plain model: a whole text, alone, without a cache. Your own model is tried
in the same way before its first question; `pk.check_model(lm)` shows how.

Column *answered by*:

- *shared prefix*: the prompts' common beginning is computed once, rows advance together, and
  a row that ends makes room for another.
- *no shared prefix*: the same, but each prompt is read from its first token.
- *whole texts*: the model keeps a state where rows can't share it, counts positions by itself,
  or has no cache, so the whole text is computed again for each token: right, and slow.

Column *sites*: those that add up in every block. What is read there is what the block adds to
its residual stream (`mlp_out`, `attn_out`), what the MLP's down-projection takes (`mlp_act`),
or what the next block gets (`resid_post`).

- Where a block has a norm after attention or MLP (Gemma 2 to 4, GLM-4, OLMo 2 and 3,
  EXAONE 4), `attn_out` and `mlp_out` lie before that norm, at what the module itself gives;
  the same where a block multiplies what is added by a number (Granite).
- The modules of BLOOM and MPT add the residual stream inside; it is taken off again.
- In a layer of recurrence, `attn_out` is what takes the place of attention.

| model type | class | answered by | sites |
| --- | --- | --- | --- |
"""
        + "\n".join(rows)
        + f"""

Not tried: {"; ".join(f"{name} ({why})" for name, why in sorted(NOT_BUILT.items()))}.
"""
    )


if __name__ == "__main__":
    main()
