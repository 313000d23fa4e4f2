"""The default model with its real weights, in one file, as loading it takes most of the time."""

import os
import warnings

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, Architecture, plain_activations, relative_error
from nightly import is_nightly
from peft import LoraConfig, get_peft_model
from test_generation import TOLERANCE, answer, expected_response
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

from probekit import Run, detector, extract, load_model, probe_grid, read_questions
from probekit.extraction.asking import judge, p_true, point_to_answers
from probekit.extraction.identity import SHORT_NAMES, locate_model, only_what_is_hashed
from probekit.extraction.models import LanguageModel

pytestmark = pytest.mark.model


def test_the_default_model(smollm2):
    assert smollm2.name == "smollm2"
    assert smollm2.revision == SHORT_NAMES["smollm2"]["sha256"]
    assert isinstance(smollm2, LanguageModel)
    assert smollm2.model.config.num_hidden_layers == 30
    end = smollm2.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in smollm2.stop_ids
    assert smollm2.prompt("Where?").endswith("<|im_start|>assistant\n")
    source, options, digest = locate_model("smollm2")
    assert (digest, options["gguf_file"]) == (smollm2.revision, SHORT_NAMES["smollm2"]["gguf"])
    by_path = locate_model(f"{source}/{options['gguf_file']}")
    assert by_path == (source, options, digest)


@pytest.mark.parametrize("kept", [0, 30, 9836, 983_624, 40_000_000])
def test_a_gguf_file_that_was_cut_off(smollm2, tmp_path, kept):
    folder, options, _ = locate_model("smollm2")
    path = tmp_path / "cut.gguf"
    with open(f"{folder}/{options['gguf_file']}", "rb") as file:
        path.write_bytes(file.read(kept))
    with pytest.raises(ValueError, match=r"cut\.gguf cannot be loaded as a causal language model"):
        load_model(path)


def test_a_gguf_file_is_unpacked_by_nothing_from_the_hub(smollm2, monkeypatch):
    """Where the package kernels is installed, transformers would fetch compiled code from there."""

    def validate_environment(self, **_):  # where it would
        raise ValueError(f"dequantize={self.quantization_config.dequantize}")

    monkeypatch.setattr(GgufHfQuantizer, "validate_environment", validate_environment)
    tokenizer = "probekit.extraction.models.AutoTokenizer.from_pretrained"
    monkeypatch.setattr(tokenizer, lambda *_, **__: None)  # takes ten seconds
    with pytest.raises(ValueError, match="dequantize=True"):
        load_model("smollm2")


def test_a_gguf_file_is_loaded_by_itself(smollm2, tmp_path):
    """What lies beside it is no part of its hash."""
    source, options, digest = locate_model("smollm2")
    path = tmp_path / "model.gguf"
    path.symlink_to(f"{source}/{options['gguf_file']}")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [17]}')
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    folder, options, found = locate_model(path)
    assert found == digest
    with only_what_is_hashed(folder, options) as read:
        assert os.listdir(read) == ["model.gguf"]
    if is_nightly():  # half a minute
        loaded = load_model(path)
        assert loaded.revision == digest
        assert loaded.stop_ids == smollm2.stop_ids


@pytest.mark.skipif(not is_nightly(), reason="half a minute: nightly")
def test_an_adapter_of_the_default_model(smollm2, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    ids = torch.tensor([smollm2.tokenize(smollm2.prompt("Where is Oslo?"))])
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        adapted = get_peft_model(smollm2.model, config).eval()
        adapted.save_pretrained(tmp_path, save_embedding_layers=False)
        expected = adapted(ids).logits
        adapted.unload()
        plain = smollm2.model(ids).logits
    lm = load_model(tmp_path, base="smollm2")
    with torch.inference_mode():
        found = lm.model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert (found - plain).abs().max() > 0.1
    assert lm.revision.endswith(f" on {smollm2.revision}")


# One pass


def city_prompts(lm, n):
    questions = read_questions("cities", limit=n)["question"]
    return [
        lm.tokenizer(lm.prompt(question), add_special_tokens=False).input_ids
        for question in questions
    ]


@pytest.fixture
def one_thread():
    """Two threads on cores that others use too wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_parity_on_the_real_model(smollm2, monkeypatch, one_thread):
    """All sites, every token, of 12 questions, and at night of 50."""
    paths = ARCHITECTURES["llama"].paths
    monkeypatch.setitem(ARCHITECTURES, "smollm2", Architecture(None, {}, paths))
    prompts = city_prompts(smollm2, 50 if is_nightly() else 12)
    size = len(prompts) // 3  # so that rows of batches end and others take their places
    responses = answer(smollm2, prompts, tuple(paths), max_new_tokens=24, batch_size=size)
    assert len({len(r.token_ids) for r in responses}) > 3
    worst = dict.fromkeys(paths, 0.0)
    for prompt, response in zip(prompts, responses, strict=True):
        plain, _ = plain_activations(smollm2.model, "smollm2", prompt + response.token_ids)
        for site in paths:
            error = relative_error(response.activations[site], plain[site][len(prompt) - 1 :])
            worst[site] = max(worst[site], error)
    print("largest relative error", {site: f"{error:.1e}" for site, error in worst.items()})
    assert max(worst.values()) <= TOLERANCE
    for i in range(0, len(prompts), 6):
        expected = expected_response(smollm2, prompts[i], 24)
        assert (responses[i].token_ids, responses[i].finished) == expected


def test_the_real_model_points_to_plain_answers(smollm2):
    asked = {
        "In which country is Kyoto?": ("The city of Kyoto is located in Japan.", "Japan"),
        "Who painted the Mona Lisa?": ("It was painted by Leonardo da Vinci.", "Leonardo da Vinci"),
    }
    responses = [response for response, _ in asked.values()]
    spans = point_to_answers(smollm2, list(asked), responses, 8)
    found = [r[slice(*s)] if s else None for r, s in zip(responses, spans, strict=True)]
    assert found == [answer for _, answer in asked.values()]


def test_the_real_model_gives_probabilities_and_verdicts(smollm2):
    questions = ["What is the capital of France?"] * 2
    responses = ["The capital of France is Paris.", "The capital of France is a banana."]
    likely, unlikely = p_true(smollm2, questions, responses)
    assert 0 < unlikely < 1
    assert 0 < likely < 1
    assert likely != unlikely
    verdicts = judge(smollm2, questions, responses, [["Paris"]] * 2)
    assert all(isinstance(v, bool) for v in verdicts)


def test_a_saved_detector_scores_new_questions(smollm2, tmp_path):
    """What it says of answers given in memory is what it says of a run's own activations."""
    cities = read_questions("cities")
    run = extract(smollm2, cities[:48], Run(tmp_path / "run"), max_new_tokens=40, progress=False)
    activations = run.activations().isel(layer=[10, 15, 20], token=[0, 5, 14])
    grid = probe_grid(activations, n_permutations=0, folds=3, n_jobs=1, progress=False)
    stage = run.begin("probe", {})
    made = [run.save_grids({"random": grid}), run.save_detectors({"random": detector(grid)})]
    stage.finish(made, splits=["random"])
    saved, new = run.detector(), cities[100:150]
    found = saved.predict(smollm2, new, max_new_tokens=40)
    assert found["id"].tolist() == new["id"].tolist()
    assert found["p_error"].between(0, 1).all()
    again = Run(tmp_path / "new")
    extract(smollm2, new, again, max_new_tokens=40, progress=False)
    expected = saved(again.activations().load())
    np.testing.assert_allclose(found["p_error"], expected, atol=1e-6)
    assert found["p_error"].std() > 0.02, "else it says the same of all"
