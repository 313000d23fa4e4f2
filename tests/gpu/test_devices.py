"""Everything that computes on a GPU, on one that is made up: nothing is left on the CPU."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from architectures import ARCHITECTURES, relative_error
from elsewhere import METHODS, elsewhere, move
from test_generation import TOLERANCE, answer, language_model, make_prompts
from tiny import write_questions

from probekit import Run, extract, load_model, read_questions
from probekit.extraction.generation import Sampler
from probekit.extraction.models import LanguageModel
from probekit.extraction.sites import decoder_blocks
from probekit.probing.cells import Fitter

GPU = torch.device("cuda:0")


def test_what_the_stand_in_notices():
    with elsewhere():
        there = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=GPU)
        assert (there @ there).device == GPU
        there[[0, 1], [1, 0]] = there[:, 0] * 2
        assert there.tolist() == [[1.0, 2.0], [6.0, 4.0]]
        assert (there.cpu().numpy() == [[1, 2], [6, 4]]).all()
        assert (there + torch.tensor(1.0)).sum().item() == 17
        for mixed in (
            lambda: there + torch.ones(2),
            lambda: there @ torch.ones(2, 2),
            lambda: torch.isin(there, torch.ones(2)),
            lambda: there + there.to("cuda:1"),
            lambda: there.__setitem__([0, 1], torch.ones(2, 2)),
        ):
            with pytest.raises(RuntimeError, match="takes tensors of"):
                mixed()
        with pytest.raises(TypeError, match="no array"):
            there.numpy()


def on_gpus(lm, spread=False):
    """The same model there; its last block on another GPU if it is spread, as accelerate does."""
    model = copy.deepcopy(lm.model)
    blocks = decoder_blocks(model)
    path = next(name for name, module in model.named_modules() if module is blocks)
    last = f"{path}.{len(blocks) - 1}"
    other = torch.device("cuda:1") if spread else GPU
    move(model, lambda name: other if f"{name}.".startswith(f"{last}.") else GPU)
    if spread:
        for name, module in model.named_modules():
            if name == last or (name and not f"{name}.".startswith(f"{path}.")):
                device = other if name == last else GPU
                add_hook_to_module(module, AlignDevicesHook(execution_device=device))
        add_hook_to_module(model, AlignDevicesHook(execution_device=GPU, io_same_device=True))
    return SimpleNamespace(model=model, device=GPU, stop_ids=lm.stop_ids)


@pytest.mark.parametrize(
    ("name", "drawn", "spread"),
    [
        ("llama", False, False),
        ("llama", True, True),
        ("gemma3", False, True),
        ("falcon", True, False),
    ],
)
def test_answers_are_the_same(name, drawn, spread):
    sample = Sampler(1.0, 0.9, 0) if drawn else None
    lm, prompts, sites = language_model(name), make_prompts(), tuple(ARCHITECTURES[name].paths)
    expected = answer(lm, prompts, sites, batch_size=5, sample=sample)
    with elsewhere():
        found = answer(on_gpus(lm, spread), prompts, sites, batch_size=5, sample=sample)
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids == other.token_ids
        for site in sites:
            assert one.activations[site].device == GPU
            error = relative_error(one.activations[site].inner, other.activations[site])
            assert error <= TOLERANCE


def test_a_stop_list_that_is_left_on_the_cpu_is_noticed():
    """The tests above would fail if anything were."""
    lm, prompts = language_model(), make_prompts(3)
    with elsewhere():
        there = on_gpus(lm)
        there.device = torch.device("cpu")
        with pytest.raises(ValueError, match=r"takes tensors of \['cpu', 'cuda:0'\]"):
            answer(there, prompts, (), batch_size=2)


def test_a_run_is_the_same(stopping_model_dir, tmp_path):
    """Grades, exact answers that the model copies, P(True), a judge, the store."""
    lm = load_model(stopping_model_dir, device="cpu")
    # No table goes by it, and the prompts to copy by are long in this tokenizer.
    lm.model.config.max_position_embeddings = 1024
    questions = read_questions(write_questions(tmp_path / "q", 12))
    questions["candidates"] = [None, *questions["candidates"][1:]]
    options = {"max_new_tokens": 10, "batch_size": 4, "p_true": True, "progress": False}
    # The model's own verdicts might all be the same.
    options["judge"] = is_even
    extract(lm, questions, Run(tmp_path / "here"), **options)
    with elsewhere():
        model = on_gpus(lm).model
        there = LanguageModel(model, lm.tokenizer, lm.name, lm.revision, lm.request)
        assert there.device == GPU
        extract(there, questions, Run(tmp_path / "there"), **options)
    here, there = Run(tmp_path / "here"), Run(tmp_path / "there")
    pd.testing.assert_frame_equal(there.answers(), here.answers())
    xr.testing.assert_allclose(there.activations(), here.activations(), rtol=2e-3, atol=1e-4)
    assert there.manifest("extract")["results"]["device"] == "cuda:0"


def is_even(question, response, answers):
    return len(response) % 2 == 0


@pytest.mark.parametrize("shape", [(200, 40), (60, 100)], ids=["long", "wide"])
@pytest.mark.parametrize(("method", "standardize"), METHODS)
def test_probes_are_the_same(method, standardize, shape):
    random = np.random.default_rng(0)
    X = random.standard_normal(shape).astype(np.float32)
    labels = np.stack([X[:, 0] + random.standard_normal(len(X)) > 0] * 2)
    labels[1] = random.permutation(labels[1])
    weight = (random.random(labels.shape) < 0.8).astype(np.float32)
    companies = [(labels, weight, np.array([1.0, 100.0])), (labels, weight[::-1], np.ones(2))]
    expected = list(Fitter(method, standardize, "cpu")(X, companies))
    with elsewhere():
        found = list(Fitter(method, standardize, GPU)(X, companies))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
        assert one[2:] == other[2:]
