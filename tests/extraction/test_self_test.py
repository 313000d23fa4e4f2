"""Faults that the self-test has to find, put into models that have none."""

import copy
import dataclasses
from types import SimpleNamespace

import accelerate
import pytest
import torch
from architectures import ARCHITECTURES, build
from every_architecture import build as build_any
from tiny import STOPS, save_tiny_model, write_questions
from torch import nn

import probekit as pk
from probekit.extraction import generation, one_pass, self_test
from probekit.extraction.generation import OWN, SHARED, WHOLE, examined, generate
from probekit.extraction.sites import SITES, Recorder
from probekit.extraction.workers import check_models

PROMPTS = [[5, 6, 7, 8, *range(20, 34)], [5, 6, 7, 8, 40, 41], [5, 6, 7, 8, 50]]


def language_model(name="llama", dtype=torch.float32):
    model = copy.deepcopy(build(name)).to(dtype)
    return SimpleNamespace(model=model, device=torch.device("cpu"), stop_ids=frozenset([2]))


def results(lm):
    checks = examined(lm, PROMPTS).checks
    return {(row.check, row.of): row.passed for row in checks.itertuples()}


@pytest.fixture
def tiny(tmp_path):
    save_tiny_model(tmp_path / "model", STOPS)
    return pk.load_model(tmp_path / "model")


# Models without fault


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_models_without_fault_pass_in_every_precision(name, dtype):
    lm = language_model(name, dtype)
    found = examined(lm, PROMPTS)
    assert found.way == SHARED
    assert found.wrong == {}
    assert found.checks["passed"].all()
    assert {*found.checks["of"]} - {SHARED} == {*ARCHITECTURES[name].paths}
    found.refuse(tuple(ARCHITECTURES[name].paths))


def test_a_model_is_examined_once():
    lm, passes = language_model(), []
    lm.model.register_forward_hook(lambda *given: passes.append(1))
    examined(lm, PROMPTS)
    before = len(passes)
    assert 5 < before < 25
    assert examined(lm, PROMPTS[:1]) is examined(lm)
    assert len(passes) == before


@pytest.mark.parametrize("prompts", [[[7]], [[7, 8]], [[7] * 30, [7, 8]], [[3, 4, 5]] * 4])
def test_any_prompts_will_do(prompts):
    found = examined(language_model(), prompts)
    assert found.way == SHARED
    assert found.checks["passed"].all()


def test_tokens_that_are_never_said_are_no_fault():
    lm = language_model()
    head = lm.model.lm_head
    head.register_forward_hook(
        lambda *given: given[2].index_fill(-1, torch.tensor([3]), -torch.inf)
    )
    found = examined(lm, PROMPTS)
    assert found.way == SHARED
    assert found.checks["passed"].all()


@pytest.mark.parametrize("larger", [1, 30, 1000])
def test_a_stream_that_is_large_beside_what_is_added_is_no_fault(larger):
    lm = language_model(dtype=torch.bfloat16)
    with torch.no_grad():
        lm.model.model.embed_tokens.weight *= larger
        for block in lm.model.model.layers:
            block.self_attn.o_proj.weight *= 0.1
            block.mlp.down_proj.weight *= 0.1
    assert examined(lm, PROMPTS).wrong == {}


def test_what_a_model_pads_texts_with_is_not_read():
    lm = SimpleNamespace(model=build_any("reformer"), device=torch.device("cpu"), stop_ids={0})
    prompt = [7, *range(20, 90)]  # Reformer pads texts of more than 64 tokens
    sizes = {"max_new_tokens": 3, "batch_size": 1, "stop_ids": [0]}
    (site,) = [
        s for s in SITES if s in {*examined(lm, PROMPTS).checks["of"]} - {*examined(lm).wrong}
    ]
    (response,) = generate(lm, [prompt], [site], **sizes)
    with Recorder(lm.model, [site], whole=True) as recorder, torch.no_grad():
        self_test.plain(lm, [*prompt, *response.token_ids])
    theirs = recorder.latest(site)[0].transpose(0, 1)
    assert len(theirs) == len(prompt) + len(response.token_ids)
    torch.testing.assert_close(response.activations[site][0], theirs[len(prompt) - 1])


@pytest.mark.parametrize(
    ("options", "room"),
    [
        ({}, 512),
        ({"original_max_position_embeddings": 48, "rope_type": "longrope"}, 48),
        ({"original_max_position_embeddings": 48, "rope_type": "dynamic"}, 48),
        ({"original_max_position_embeddings": 48, "rope_type": "yarn"}, 512),
    ],
)
def test_texts_end_before_a_model_computes_in_another_way(tiny, options, room):
    tiny.model.config.rope_parameters = options
    assert one_pass._context(tiny) == room


# State that rows can't share


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fault", ["position_ids", "attention_mask"])
def test_positions_and_masks_that_are_ignored_are_noticed(fault, dtype):
    lm = language_model(dtype=dtype)
    original = lm.model.model.forward

    def forward(*args, **kwargs):  # as BART's decoders do with positions
        return original(*args, **kwargs | {fault: None})

    lm.model.model.forward = forward
    assert examined(lm, PROMPTS).way == WHOLE
    passed = results(lm)
    assert not passed["answers", SHARED]
    assert passed["answers", WHOLE]


def test_state_that_is_no_part_of_the_cache_is_noticed():
    class Mixed(nn.Module):
        """Adds a mean of all that this text has shown so far, which it keeps to itself."""

        def __init__(self, block):
            super().__init__()
            self.block, self.total, self.n = block, 0, 0

        def forward(self, hidden_states, past_key_values=None, **kwargs):
            if past_key_values is None or hidden_states.shape[1] > 1:
                self.total, self.n = 0, 0
            hidden_states = self.block(hidden_states, past_key_values=past_key_values, **kwargs)
            sums = self.total + hidden_states.cumsum(1)
            self.total, n = sums[:, -1:], torch.arange(hidden_states.shape[1])[:, None]
            self.n += hidden_states.shape[1]
            return hidden_states + sums / (self.n - hidden_states.shape[1] + 1 + n)

    lm = language_model()
    lm.model.model.layers[1] = Mixed(lm.model.model.layers[1])
    assert examined(lm, PROMPTS).way == WHOLE


def test_a_state_that_can_not_be_handed_on_does_without_the_shared_prefix(monkeypatch):
    lm, read = language_model(), generation._repeated

    def forgetful(cache, n):
        cache = read(cache, n)
        for layer in cache.layers:
            layer.keys = layer.keys * 0
        return cache

    monkeypatch.setattr(generation, "_repeated", forgetful)
    assert examined(lm, PROMPTS).way == OWN
    responses = generate(lm, PROMPTS, ["mlp_out"], max_new_tokens=4, batch_size=2)
    for response in responses:
        ids = [*PROMPTS[response.index], *response.token_ids]
        logits = self_test.plain(lm, ids).logits[0, len(PROMPTS[response.index]) - 1 : -1]
        assert response.token_ids == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["noise", "sees what follows", "error"])
def test_a_model_that_no_way_is_right_for_is_refused_in_a_sentence(fault, dtype):
    lm = language_model(dtype=dtype)
    block, original = lm.model.model.layers[1], lm.model.model.layers[1].forward

    def forward(hidden_states, *args, **kwargs):
        given = original(hidden_states, *args, **kwargs)
        if fault == "noise":
            return given + torch.randn_like(given)
        if fault == "sees what follows":
            return given + given.roll(-1, 1)
        if given.shape[1] != len(PROMPTS[0]):
            raise IndexError("index 1 is out of range\nsecond line")
        return given

    block.forward = forward
    with pytest.raises(ValueError, match="LlamaForCausalLM can't be used") as refusal:
        list(generate(lm, PROMPTS, ["resid_post"], max_new_tokens=4, batch_size=2))
    message = str(refusal.value)
    assert "check_model" in message
    assert "another model" in message
    assert ("dtype=torch.float32" in message) == (dtype is torch.bfloat16)
    assert "\n" not in message
    assert "IndexError" in message if fault == "error" else "differs by" in message


def test_running_out_of_memory_is_no_verdict(monkeypatch):
    lm = language_model()

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generation, "_forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        examined(lm, PROMPTS)
    monkeypatch.undo()
    assert examined(lm, PROMPTS).way == SHARED


# Sites


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_an_mlp_whose_output_is_not_what_is_added_is_noticed(name, layer, dtype):
    lm = language_model(name, dtype)
    block = lm.model.model.layers[layer]
    original = block.forward

    def forward(hidden_states, *args, **kwargs):
        given = original(hidden_states, *args, **kwargs)
        return given + given.roll(1, -1)

    block.forward = forward
    checks = results(lm)
    assert not checks["adds up", "mlp_out"]
    assert checks["adds up", "resid_post"]
    with pytest.raises(ValueError, match=f"can't be read at mlp_out: block {layer} .*resid_post"):
        examined(lm, PROMPTS).refuse(SITES)


def test_an_mlp_that_gives_the_stream_is_noticed():
    # As BLOOM's does, but without saying so by the name of what it takes.
    lm = language_model()
    block = lm.model.model.layers[1]

    class Whole(nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.mlp, self.stream = mlp, None

        def forward(self, x):
            return self.mlp(x) + self.stream

    def forward(hidden_states, **kwargs):
        attended, _ = block.self_attn(block.input_layernorm(hidden_states), **kwargs)
        stream = hidden_states + attended
        block.mlp.stream = stream
        return block.mlp(block.post_attention_layernorm(stream))

    block.mlp, block.forward = Whole(block.mlp), forward
    passed = results(lm)
    assert not passed["adds up", "mlp_out"]
    assert passed["adds up", "attn_out"]
    with pytest.raises(ValueError, match=r"mlp_out: block 1 adds something else .*a difference of"):
        list(generate(lm, PROMPTS, ["mlp_out"], max_new_tokens=2, batch_size=2))
    list(generate(lm, PROMPTS, ["attn_out"], max_new_tokens=2, batch_size=2))


def test_a_last_matrix_that_is_no_down_projection_is_noticed():
    lm = language_model()
    for block in lm.model.model.layers:
        mlp = block.mlp
        mlp.gate = nn.Linear(32, 1)  # behind the down-projection, as a gate of shared experts is
        original = mlp.forward
        mlp.forward = lambda x, mlp=mlp, original=original: original(x) * mlp.gate(x).sigmoid()
    passed = results(lm)
    assert passed["adds up", "mlp_out"]
    assert not passed["adds up", "mlp_act"]


def test_blocks_that_do_not_hand_on_what_they_give_are_noticed():
    lm = language_model()
    lm.model.model.layers[1].register_forward_pre_hook(
        lambda module, args: (args[0] * 0.5 + 1, *args[1:])
    )
    original = lm.model.model.layers[1].forward
    lm.model.model.layers[1].forward = lambda x, **kwargs: original(x + 1, **kwargs)
    assert not results(lm)["adds up", "resid_post"]


def test_a_block_that_runs_twice_is_noticed():
    lm = language_model()
    lm.model.model.layers[2] = lm.model.model.layers[1]
    with pytest.raises(ValueError, match="can't be read at mlp_out"):
        examined(lm, PROMPTS).refuse(["mlp_out"])


# Where it is asked for


def test_check_model_is_a_table(tiny):
    table = pk.check_model(tiny)
    assert list(table) == ["check", "of", "difference", "allowed", "passed", "result"]
    assert table["passed"].all()
    assert (table["result"] == "right").all()
    assert {*table["check"]} == {"adds up", "answers", "activations"}
    table["passed"] = False
    assert pk.check_model(tiny)["passed"].all()
    with pytest.raises(TypeError, match="load_model"):
        pk.check_model("smollm2")


def spoil(lm):
    """Positions in blocks that are off by what the cache has: no way but one is right for it."""
    original = lm.model.model.layers[1].forward
    lm.model.model.layers[1].forward = lambda x, **kwargs: original(x, **kwargs) + torch.randn(32)


def test_a_run_is_refused_before_anything_is_written(tiny, tmp_path):
    spoil(tiny)
    questions = pk.read_questions(write_questions(tmp_path / "q", 8))
    run = pk.Run(tmp_path / "run")
    with pytest.raises(ValueError, match="LlamaForCausalLM can't be used"):
        pk.extract(tiny, questions, run, progress=False)
    assert not (tmp_path / "run" / "shards").exists()
    assert not (tmp_path / "run" / "answers.parquet").exists()


def test_weights_that_are_kept_elsewhere_until_they_are_needed(tiny, tmp_path):
    questions = pk.read_questions(write_questions(tmp_path / "q", 8))
    runs = [pk.Run(tmp_path / name) for name in ("whole", "offloaded")]
    pk.extract(tiny, questions, runs[0], max_new_tokens=6, progress=False)
    offloaded = dataclasses.replace(tiny, model=accelerate.cpu_offload(tiny.model, "cpu"))
    assert offloaded.model.get_input_embeddings().weight.is_meta
    assert offloaded.device == torch.device("cpu")
    generation._EXAMINED.clear()
    pk.extract(offloaded, questions, runs[1], max_new_tokens=6, progress=False)
    one, other = (run.activations().load() for run in runs)
    assert one.equals(other)


def test_a_judge_is_tried_too(tiny, tmp_path):
    judge = pk.load_model(tmp_path / "model")
    spoil(judge)
    questions = pk.read_questions(write_questions(tmp_path / "q", 8))
    with pytest.raises(ValueError, match="can't be used"):
        pk.extract(tiny, questions, pk.Run(tmp_path / "run"), judge=judge, progress=False)
    assert not (tmp_path / "run" / "shards").exists()


def test_workers_say_why_they_can_not(tiny, monkeypatch):
    from probekit.extraction import workers

    class Alone:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

    monkeypatch.setattr(workers, "_alone", Alone)
    monkeypatch.setattr(workers, "_models", lambda models: [tiny])
    assert check_models(["its request"], SITES) is None
    spoil(tiny)
    generation._EXAMINED.clear()
    assert "can't be used" in check_models(["its request"], SITES)


# Not a number


def test_not_a_number_names_the_block_where_it_begins(tmp_path):
    save_tiny_model(tmp_path / "model", STOPS)
    lm = pk.load_model(tmp_path / "model", dtype=torch.float16)
    with torch.no_grad():  # finite numbers whose products are not
        lm.model.model.layers[1].mlp.down_proj.weight.fill_(6e4)
    questions = pk.read_questions(write_questions(tmp_path / "q", 8))
    with pytest.raises(ValueError, match=r"in torch.float16 .*, from decoder block 1 on, so"):
        pk.extract(lm, questions, pk.Run(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run" / "shards").exists()


def test_not_a_number_at_a_later_question_names_the_block(tiny, tmp_path):
    pk.check_model(tiny)  # which is all right
    questions = pk.read_questions(write_questions(tmp_path / "q", 8))
    word = tiny.tokenize(tiny.prompt(questions["question"].iloc[5]))[-8]
    with torch.no_grad():
        tiny.model.model.embed_tokens.weight[word] = torch.nan
    with pytest.raises(ValueError, match=r"at question 'q.*', 0 tokens .* block 0 on"):
        pk.extract(tiny, questions, pk.Run(tmp_path / "run"), progress=False)


def test_not_a_number_that_begins_with_a_response_is_no_fault_of_the_way():
    lm = language_model()
    with torch.no_grad():
        said = self_test.plain(lm, PROMPTS[0]).logits[0, -1].argmax()
        assert said not in PROMPTS[0]
        lm.model.model.embed_tokens.weight[said] = torch.nan
    with pytest.raises(
        ValueError, match=r"NaN or infinity in .* question 0, 1 tokens .* block 0 on"
    ):
        examined(lm, PROMPTS)
