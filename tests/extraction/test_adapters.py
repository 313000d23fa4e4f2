import contextlib
import json
import os
import re
import shutil
import sys
import time
import warnings

import pytest
import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from tiny import save_tiny_model, tiny_sizes, write_questions
from transformers import AutoModelForCausalLM, AutoTokenizer, GptOssConfig, GptOssForCausalLM

from probekit import Run, arguments, extract, load_model, read_questions
from probekit.extraction.identity import locate_model

ATTENTION = ["q_proj", "v_proj"]
MLP = ["up_proj", "down_proj"]
IDS = torch.tensor([[1, 50, 7, 120, 33, 200, 2]])


@contextlib.contextmanager
def calm():
    """What peft warns of when it is called as in its own documentation."""
    with warnings.catch_warnings(action="ignore"):
        yield


@calm()
def train(base, folder, config, vocabulary=None):
    """Save an adapter whose weights are all random, as if training had changed them."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            change = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.1 * change
    adapted.save_pretrained(folder)
    return folder


def logits(model):
    with torch.inference_mode():
        return model.eval()(IDS).logits


@calm()
def unmerged(base, folder, vocabulary=None):
    """peft's own model, in which the adapter stays apart from the base."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if vocabulary:
        model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return PeftModel.from_pretrained(model, folder)


@pytest.fixture(scope="module")
def trained(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    return train(tiny_model_dir, folder, LoraConfig(r=4, target_modules=[*ATTENTION, *MLP]))


@pytest.fixture
def adapter(trained, tmp_path):
    """A copy of a LoRA adapter of the tiny model, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "adapter")


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """The tiny model with one matrix for input and output."""
    folder = tmp_path_factory.mktemp("tied")
    save_tiny_model(folder)
    change(folder, "config.json", tie_word_embeddings=True)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def change(folder, file="adapter_config.json", **values):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def spoil(folder, **changed):
    """Take tensors out of the adapter's weights (None), or put others in."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) | changed
    save_file({n: t for n, t in tensors.items() if t is not None}, path, {"format": "pt"})


# What is merged


CONFIGS = {
    "LoRA": LoraConfig(r=4, target_modules=ATTENTION),
    "rsLoRA": LoraConfig(r=4, target_modules=MLP, use_rslora=True, bias="none"),
    "DoRA": LoraConfig(r=4, target_modules=[*ATTENTION, "down_proj"], use_dora=True),
    "all-linear": LoraConfig(r=4, target_modules="all-linear"),
    "pattern": LoraConfig(r=4, target_modules=r"model\.layers\.[02]\..*(q|down)_proj"),
    "layers": LoraConfig(r=4, target_modules=MLP, layers_to_transform=[1]),
    "ranks": LoraConfig(
        r=4,
        target_modules=MLP,
        rank_pattern={r"^model\.layers\.1\.mlp\.up_proj": 2},
        alpha_pattern={"down_proj": 3},
    ),
    "modules to save": LoraConfig(
        r=4, target_modules=ATTENTION, modules_to_save=["embed_tokens", "lm_head"]
    ),
    "norms": LoraConfig(r=4, target_modules=ATTENTION, modules_to_save=["input_layernorm"]),
    "embeddings": LoraConfig(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"]),
    "tokens": LoraConfig(r=4, target_modules=ATTENTION, trainable_token_indices=[7, 33]),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": LoHaConfig(r=4, target_modules=[*ATTENTION, *MLP]),
    "LoKr": LoKrConfig(r=4, target_modules=[*ATTENTION, *MLP]),
}


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_merged_adapter_computes_what_peft_computes(
    kind, is_tied, tiny_model_dir, tied, tmp_path
):
    base = tied if is_tied else tiny_model_dir
    folder = train(base, tmp_path / "adapter", CONFIGS[kind])
    lm = load_model(folder, base=base)
    expected = logits(unmerged(base, folder))
    torch.testing.assert_close(logits(lm.model), expected, atol=1e-5, rtol=1e-5)
    plain = load_model(base)
    assert (logits(plain.model) - expected).abs().max() > 0.01
    assert type(lm.model) is type(plain.model)
    assert [type(m) for m in lm.model.modules()] == [type(m) for m in plain.model.modules()]
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert lm.prompt("Where?") == plain.prompt("Where?")


def test_experts_that_are_one_parameter(tmp_path):
    """A mixture of experts has its down-projections in one parameter, which is no module."""
    folder = tmp_path / "mixture"
    save_tiny_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shutil.rmtree(folder)
    sizes = tiny_sizes(tokenizer) | {"num_local_experts": 4, "head_dim": 8}
    GptOssForCausalLM(GptOssConfig(num_hidden_layers=2, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = LoraConfig(
        r=4, target_modules=ATTENTION, target_parameters=["mlp.experts.gate_up_proj"]
    )
    adapter = train(folder, tmp_path / "adapter", config)
    expected = logits(unmerged(folder, adapter))
    torch.testing.assert_close(
        logits(load_model(adapter, base=folder).model), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("by", ["LoRA", "modules to save"])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("n", [364, 376])
def test_a_vocabulary_of_another_size(by, is_tied, n, tiny_model_dir, tied, tmp_path):
    base = tied if is_tied else tiny_model_dir
    folder = train(base, tmp_path / "adapter", CONFIGS[by], vocabulary=n)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens([f"<new{i}>" for i in range(370, n)])
    tokenizer.save_pretrained(folder)
    if n < 370:
        with pytest.raises(
            ValueError, match=r"has 370 tokens, and the model .* embeddings for 364"
        ):
            load_model(folder, base=base)
        for path in folder.glob("*token*"):
            path.unlink()
        (folder / "chat_template.jinja").unlink()
        with pytest.raises(ValueError, match=r"has 370 tokens"):
            load_model(folder, base=base)
        return
    lm = load_model(folder, base=base)
    torch.testing.assert_close(
        logits(lm.model), logits(unmerged(base, folder, n)), atol=1e-5, rtol=1e-5
    )
    assert lm.tokenize("<new373>") == [373]
    assert lm.model.config.vocab_size == n
    part = "lm_head" if is_tied else "model.embed_tokens"
    spoil(folder, **{f"base_model.model.{part}.weight": None})
    with pytest.raises(ValueError, match=r"number of tokens than its base, and .* only one"):
        load_model(folder, base=base)


# Which model it is


def test_the_revision_is_the_adapters_and_the_bases(adapter, tiny_model_dir, stopping_model_dir):
    lm = load_model(adapter, base=tiny_model_dir)
    own, _, of_base = lm.revision.partition(" on ")
    assert (len(own), of_base) == (64, locate_model(tiny_model_dir)[2])
    on_other = load_model(adapter, base=stopping_model_dir).revision
    assert on_other == f"{own} on {locate_model(stopping_model_dir)[2]}" != lm.revision
    (adapter / "README.md").write_text("Not read.")
    (adapter / "training_args.bin").write_bytes(b"nor this")
    assert load_model(adapter, base=tiny_model_dir).revision == lm.revision
    change(adapter, lora_alpha=9)
    changed = load_model(adapter, base=tiny_model_dir).revision
    spoil(adapter, **{FIRST: load_file(adapter / "adapter_model.safetensors")[FIRST] + 1})
    assert len({lm.revision, changed, load_model(adapter, base=tiny_model_dir).revision}) == 3


def test_another_process_loads_the_same(adapter, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(tiny_model_dir)
    lm = load_model("adapter", base=relative, dtype="bfloat16")
    without = load_model("adapter", base=relative, dtype="bfloat16", weights=False)
    assert (without.revision, without.request) == (lm.revision, lm.request)
    assert next(without.model.parameters()).is_meta
    monkeypatch.chdir("/")
    again = load_model(**lm.request)
    assert (again.revision, again.model.dtype) == (lm.revision, torch.bfloat16)
    torch.testing.assert_close(logits(again.model), logits(lm.model), rtol=0, atol=0)


def test_a_run_says_which_model_it_was(adapter, stopping_model_dir, tmp_path):
    lm = load_model(adapter, base=stopping_model_dir)
    questions = read_questions(write_questions(tmp_path / "questions", 48))
    run = extract(lm, questions, Run(tmp_path / "run"), max_new_tokens=8, progress=False)
    assert run.activations().attrs["revision"] == lm.revision
    assert lm.revision in run.manifest_path("extract").read_text()


# Where the base comes from


@pytest.mark.parametrize("named", ["someone/else", "{base}", "../model", None, 3, "\x1b[2J" * 99])
def test_the_base_is_not_taken_from_the_adapter(adapter, tiny_model_dir, named, monkeypatch):
    if isinstance(named, str):
        named = named.format(base=tiny_model_dir)
    change(adapter, base_model_name_or_path=named)
    for weights in (True, False):
        with pytest.raises(
            ValueError, match=r"holds an adapter .*base=.*merge_and_unload"
        ) as error:
            load_model(adapter, weights=weights)
    shown = arguments.shown(named, 200)
    assert f"It says that this is {shown}, which is not looked for" in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_base_that_is_given_is_taken_whatever_the_adapter_says(adapter, tiny_model_dir):
    expected = logits(load_model(adapter, base=tiny_model_dir).model)
    change(adapter, base_model_name_or_path="someone/else", revision="main")
    found = load_model(adapter, base=tiny_model_dir)
    torch.testing.assert_close(logits(found.model), expected, rtol=0, atol=0)
    assert found.model.name_or_path == str(tiny_model_dir)


def test_only_an_adapter_has_a_base(adapter, tiny_model_dir):
    for name in (tiny_model_dir, "smollm2", "someone/adapter", "no such folder"):
        with pytest.raises(FileNotFoundError, match=r"no folder with adapter_config\.json.*Leave"):
            load_model(name, base=tiny_model_dir)
    with pytest.raises(TypeError, match="No adapter is called 3"):
        load_model(3, base=tiny_model_dir)
    with pytest.raises(TypeError, match="No model is called 3"):
        load_model(adapter, base=3)
    with pytest.raises(ValueError, match="holds an adapter"):
        load_model(adapter, base=adapter)


def test_without_peft(adapter, tiny_model_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft.mapping", None)
    with pytest.raises(ImportError, match=r'pip install "probekit-notebooks\[peft\]"'):
        load_model(adapter, base=tiny_model_dir)


# The tokenizer


def test_an_adapters_own_tokenizer_is_used(adapter, tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = "Taught: {{ messages[0]['content'] }}"
    tokenizer.save_pretrained(adapter)
    auto_map = {"AutoTokenizer": ["someone/else--tokenization.Evil", None]}
    change(adapter, "tokenizer_config.json", auto_map=auto_map)
    lm = load_model(adapter, base=tiny_model_dir, trust_remote_code=True)
    assert lm.prompt("Where?") == "Taught: Where?"
    assert lm.tokenizer.name_or_path == str(adapter)
    plain = load_model(tiny_model_dir)
    assert lm.tokenize("Where is Oslo?") == plain.tokenize("Where is Oslo?")


def test_a_chat_template_alone(adapter, tiny_model_dir):
    (adapter / "chat_template.jinja").write_text("Taught: {{ messages[0]['content'] }}")
    assert load_model(adapter, base=tiny_model_dir).prompt("Where?") == "Taught: Where?"


# What is refused


FIRST = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
SECOND = FIRST.replace("lora_A", "lora_B")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({FIRST: None}, rf"does not fit its base: it lacks {re.escape(FIRST)}\. "),
        ({"base_model.model.else.weight": torch.ones(2)}, r"also holds base_model\.model\.else"),
        ({"base_model.model.lm_head.weight": torch.ones(1, 1)}, "number of tokens than its base"),
        ({"base_model.model.lm_head.weight": torch.ones(370, 1)}, r"in another shape .*lm_head"),
        ({"base_model.model.lm_head.weight": torch.tensor(1.0)}, r"in another shape .*lm_head"),
        ({FIRST: torch.ones(4, 1)}, "has in another shape"),
        ({FIRST: None, SECOND: torch.ones(1)}, "lacks .*, it has in another shape"),
        ({SECOND: torch.full((32, 4), torch.nan)}, "not finite numbers .*0.mlp.down_proj.weight"),
    ],
)
def test_weights_that_do_not_fit(adapter, tiny_model_dir, changed, said):
    spoil(adapter, **changed)
    with pytest.raises(ValueError, match=said):
        load_model(adapter, base=tiny_model_dir)


def test_a_base_of_another_shape(adapter, tmp_path):
    save_tiny_model(tmp_path / "deeper", layers=4)
    with pytest.raises(ValueError, match=r"does not fit its base: it lacks .*layers\.3\..* 5 more"):
        load_model(adapter, base=tmp_path / "deeper")


def test_a_pickle_is_not_read(adapter, tiny_model_dir):
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors.*can run code"):
        load_model(adapter, base=tiny_model_dir)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_link_out_of_the_adapter_is_refused(adapter, tiny_model_dir, name):
    (adapter / name).rename(adapter.parent / name)
    (adapter / name).symlink_to(adapter.parent / name)
    with pytest.raises(ValueError, match=rf"{name} is a link out of"):
        load_model(adapter, base=tiny_model_dir)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_file_that_was_cut_off(adapter, tiny_model_dir, name):
    path = adapter / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"is damaged|cannot be merged"):
        load_model(adapter, base=tiny_model_dir)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
)
def test_what_has_no_weights_to_merge(config, tiny_model_dir, tmp_path):
    folder = train(tiny_model_dir, tmp_path / "adapter", config)
    with pytest.raises(ValueError, match=r"of the kind '\w+', and only LORA.*have no weights"):
        load_model(folder, base=tiny_model_dir)


SLOW = "(.*)" * 8 + r"\1\2\3\4\5\6\7\8j"  # for the module regex too

NOT_MERGED = [
    ({"peft_type": "XLORA"}, "of the kind 'XLORA'"),
    ({"peft_type": ["LORA"]}, "of the kind"),
    ({"peft_type": None}, "of the kind None"),
    ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
    ({"init_lora_weights": "corda", "corda_config": {"cache_file": "evil.pt"}}, "base's own"),
    ({"init_lora_weights": {"a": 1}}, "base's own"),
    ({"layer_replication": [[0, 2], [1, 3]]}, "sets 'layer_replication'"),
    ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, "sets 'megatron_config'"),
    ({"arrow_config": {"top_k": 1}}, "sets 'arrow_config'"),
    ({"invented later": True}, "sets 'invented later'"),
    ({"\x1b[2J": True}, r"sets '\\x1b"),
    ({"target_modules": r"(?:[\w.]+)+!"}, "No `target_modules` passed"),  # for ever in Python's re
    ({"target_modules": SLOW}, "regular expression in target_modules .*timed out"),
    ({"exclude_modules": SLOW}, "regular expression in exclude_modules .*timed out"),
    ({"target_modules": "(("}, "regular expression in target_modules"),
    ({"modules_to_save": [r"(?:[\w.]+)+!"]}, "no name of a module"),
    ({"layers_pattern": r"(\w+)+!", "layers_to_transform": [1]}, "no name of a module"),
    ({"rank_pattern": {r"(\w+)+!": 2}}, "no name of a module"),
    ({"alpha_pattern": {r"(\w+)+!": 2}}, "no name of a module"),
    ({"alpha_pattern": 3}, "no name of a module"),
    ({"modules_to_save": [3]}, "no name of a module"),
    ({"target_modules": []}, "cannot be merged|does not fit"),
    ({"target_modules": 3}, "cannot be merged"),
    ({"target_modules": [["q_proj"]]}, "cannot be merged"),
    ({"target_modules": ["nothing"]}, "cannot be merged"),
    ({"r": 10**12}, "cannot be merged|another shape"),
    ({"r": 0}, "cannot be merged"),
    ({"r": "4"}, "cannot be merged"),
    ({"lora_alpha": "4"}, "cannot be merged"),
    ({"lora_alpha": float("inf")}, "not finite"),
    ({"rank_pattern": {"up_proj": "x"}}, "cannot be merged"),
    ({"trainable_token_indices": [10**9]}, "cannot be merged|does not fit"),
]


@pytest.mark.parametrize(("changed", "said"), NOT_MERGED)
def test_settings_with_which_it_is_not_merged(adapter, tiny_model_dir, changed, said):
    change(adapter, **changed)
    assert "antigravity" not in sys.modules
    began = time.monotonic()
    with pytest.raises(ValueError, match=said) as error:
        load_model(adapter, base=tiny_model_dir)
    assert time.monotonic() - began < 20, "no expression is matched for ever"
    assert "\x1b" not in str(error.value)
    assert "antigravity" not in sys.modules


def test_settings_of_training_make_no_difference(adapter, tiny_model_dir):
    expected = logits(load_model(adapter, base=tiny_model_dir).model)
    change(
        adapter,
        auto_mapping={"base_model_class": "Evil", "parent_library": "antigravity"},
        megatron_core="antigravity",
        corda_config={"cache_file": str(adapter / "evil.pt")},
        runtime_config={"ephemeral_gpu_offload": True},
        lora_dropout=0.5,
        init_lora_weights="eva",
        task_type="SEQ_CLS",
        peft_version="99",
    )
    found = load_model(adapter, base=tiny_model_dir)
    torch.testing.assert_close(logits(found.model), expected, rtol=0, atol=0)
    assert "antigravity" not in sys.modules


def test_nothing_is_merged_into_quantised_weights(adapter, tiny_model_dir, monkeypatch):
    def pack(name, model, loaded):
        numbers = torch.zeros(32, 64, dtype=torch.int8)
        model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(numbers, False)

    monkeypatch.setattr("probekit.extraction.models._check_weights", pack)
    with pytest.raises(ValueError, match=r"base of .* is quantised.*Give the base unquantised"):
        load_model(adapter, base=tiny_model_dir)


def test_weights_that_were_unpacked_are_not_quantised(adapter, tiny_model_dir, monkeypatch):
    """Versions of transformers say of an unpacked GGUF file, too, that it is quantised."""

    def say_so(name, model, loaded):
        model.is_quantized = True

    expected = logits(load_model(adapter, base=tiny_model_dir).model)
    monkeypatch.setattr("probekit.extraction.models._check_weights", say_so)
    found = load_model(adapter, base=tiny_model_dir).model
    torch.testing.assert_close(logits(found), expected, rtol=0, atol=0)
