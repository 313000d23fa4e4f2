import numpy as np
import pytest
import torch

from probekit import load_model
from probekit.extraction.generation import Sampler, generate


@pytest.fixture(scope="module")
def tiny(tiny_model_dir):
    return load_model(str(tiny_model_dir))


def draws(sampler, probabilities, n=4000):
    logits = torch.tensor(probabilities).log()[None].repeat(n, 1)
    return torch.bincount(sampler(logits, list(range(n)), [0] * n), minlength=3).numpy() / n


def test_tokens_are_drawn_as_often_as_they_are_likely():
    found = draws(Sampler(temperature=1.0, top_p=1.0, seed=0), [0.5, 0.3, 0.2])
    # Three standard errors of a share of 4,000 draws are below 0.024.
    assert np.abs(found - [0.5, 0.3, 0.2]).max() < 0.024


def test_temperature_sharpens():
    found = draws(Sampler(temperature=0.5, top_p=1.0, seed=0), [0.5, 0.3, 0.2])
    squares = np.array([0.25, 0.09, 0.04])
    assert np.abs(found - squares / squares.sum()).max() < 0.024


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    found = draws(Sampler(temperature=1.0, top_p=0.75, seed=0), [0.5, 0.3, 0.2])
    assert found[2] == 0
    assert abs(found[0] - 0.5 / 0.8) < 0.024
    assert draws(Sampler(temperature=1.0, top_p=0.01, seed=0), [0.3, 0.5, 0.2])[1] == 1


def test_a_response_depends_on_seed_and_question_and_not_on_the_batch(tiny):
    prompts = [tiny.tokenize(tiny.prompt(f"Question {i}?")) for i in range(9)]

    def sampled(batch_size, seed=3, first=0, chosen=prompts):
        sampler = Sampler(temperature=1.5, top_p=0.95, seed=seed, first=first)
        options = {"max_new_tokens": 8, "batch_size": batch_size, "sample": sampler}
        made = generate(tiny, chosen, (), **options)
        return {r.index: r.token_ids for r in made}

    alone = sampled(1)
    assert sampled(4) == alone
    assert sampled(9) == alone
    assert sampled(9, seed=4) != alone
    shifted = sampled(3, first=5, chosen=prompts[5:])
    assert [shifted[i] for i in range(4)] == [alone[i] for i in range(5, 9)]
