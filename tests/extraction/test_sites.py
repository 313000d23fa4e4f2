import pytest
import torch
import transformers
from architectures import ARCHITECTURES, build, site_module
from torch import nn

from probekit.extraction.sites import SITES, Recorder, check_sites, decoder_blocks, find_sites

# Found once and checked by eye; not part of the parity tests, which take longer.
MORE = {
    "bloom": (
        transformers.BloomConfig(vocab_size=300, hidden_size=32, n_layer=3, n_head=4),
        "transformer.h.{}",
        {"attn_out": "self_attention", "mlp_out": "mlp", "mlp_act": "mlp.dense_4h_to_h"},
    ),
    "phi": (
        transformers.PhiConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
        ),
        "model.layers.{}",
        {"attn_out": "self_attn", "mlp_out": "mlp", "mlp_act": "mlp.fc2"},
    ),
    "starcoder2": (
        transformers.Starcoder2Config(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        "model.layers.{}",
        {"attn_out": "self_attn", "mlp_out": "mlp", "mlp_act": "mlp.c_proj"},
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sites_are_the_modules_they_should_be(name):
    model, paths = build(name), ARCHITECTURES[name].paths
    blocks = decoder_blocks(model)
    assert len(blocks) == 3
    for layer, block in enumerate(blocks):
        found = find_sites(block)
        assert set(found) == set(paths)
        for site, (module, side) in found.items():
            assert module is site_module(model, name, site, layer), site
            assert side == ("input" if site == "mlp_act" else "output")


@pytest.mark.parametrize("name", MORE)
def test_more_architectures(name):
    config, path, places = MORE[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    for layer, block in enumerate(decoder_blocks(model)):
        assert block is model.get_submodule(path.format(layer))
        found = find_sites(block)
        assert found.pop("resid_post") == (block, "output")
        assert {s: m for s, (m, _) in found.items()} == {
            site: block.get_submodule(place) for site, place in places.items()
        }


def test_blocks_are_not_mistaken_for_another_list_of_that_length():
    # As many experts as layers, and the list of blocks comes first.
    config = ARCHITECTURES["mixtral"].config(
        **ARCHITECTURES["mixtral"].options | {"num_local_experts": 3}
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert decoder_blocks(model) is model.model.layers


def test_a_model_without_a_list_of_blocks_is_refused():
    model = build("llama")
    broken = nn.Module()
    broken.config, broken.body = model.config, nn.ModuleList(model.model.layers[:2])
    with pytest.raises(ValueError, match="has no list of 3 decoder blocks"):
        decoder_blocks(broken)


@pytest.mark.parametrize(
    ("name", "site", "existing"),
    [
        ("mixtral", "mlp_act", "mlp_out, attn_out, resid_post"),
        ("qwen3-moe", "mlp_act", "mlp_out, attn_out, resid_post"),
        ("opt", "mlp_out", "attn_out, resid_post"),
        ("opt", "mlp_act", "attn_out, resid_post"),
        ("llama", "mlp", "mlp_out, attn_out, resid_post, mlp_act"),
    ],
)
def test_a_missing_site_is_refused_with_those_that_exist(name, site, existing):
    with pytest.raises(ValueError, match=f"no site '{site}' .* It has: {existing}\\."):
        check_sites(build(name), ["resid_post", site])
    with pytest.raises(ValueError, match=existing):
        Recorder(build(name), [site])


def test_a_site_must_be_in_every_block():
    # The first block is dense, the others mixtures of experts.
    config = transformers.Qwen3MoeConfig(
        **ARCHITECTURES["qwen3-moe"].options | {"mlp_only_layers": [0]}
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert "mlp_act" in find_sites(decoder_blocks(model)[0])
    assert "mlp_act" not in find_sites(decoder_blocks(model)[1])
    with pytest.raises(ValueError, match="no site 'mlp_act' in every block"):
        check_sites(model, ["mlp_act"])
    check_sites(model, ["mlp_out"])


@pytest.mark.parametrize("name", ["llama", "falcon", "mixtral"])
def test_the_recorder_keeps_each_rows_last_position(name):
    model, sites = build(name), tuple(ARCHITECTURES[name].paths)
    ids = torch.arange(100, 121).reshape(3, 7)
    with Recorder(model, sites) as recorder, torch.no_grad():
        model(ids)
        batched = {site: recorder.latest(site) for site in sites}
        for row in range(3):
            model(ids[row : row + 1])
            for site in sites:
                assert recorder.latest(site).shape[:2] == (1, 3)
                torch.testing.assert_close(
                    recorder.latest(site)[0], batched[site][row], rtol=1e-4, atol=1e-5
                )


def test_all_sites_are_named():
    assert set(SITES) == set(ARCHITECTURES["llama"].paths)
