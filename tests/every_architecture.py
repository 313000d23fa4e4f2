"""A tiny random-weight model of every architecture that `AutoModelForCausalLM` takes.

One mechanism makes them all: the fields of a configuration's class are given small values by name,
and of the default's layers as many are kept as there are kinds. `OVERRIDES` has what that misses.
"""

import dataclasses

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 300

# By field, whatever the architecture: configurations of one library mean one thing by one name.
SMALL = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
} | {
    name: size
    for size, names in {
        # vocabulary
        VOCABULARY: """vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size
            shape_vocab_size""",
        # positions
        256: """max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length
            original_max_position_embeddings max_target_positions max_source_positions""",
        # width of the MLP
        64: """intermediate_size ffn_dim dim_ff dff d_inner ffn_hidden_size feed_forward_size
            decoder_ffn_dim encoder_ffn_dim intermediate_size_mlp dense_intermediate_size
            attention_hidden_size mamba_d_ssm mlp_dim""",
        # width of the stream
        32: """hidden_size n_embd d_model emb_dim embedding_size embedding_dim word_embed_proj_dim
            input_embedding_size output_embedding_size lru_width backbone_hidden_size
            pronunciation_embed_dim shape_embed_dim adapter_in_dim adapter_out_dim
            adapter_input_size""",
        # widths of experts and of low-rank projections
        16: """moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
            shared_experts_intermediate_size expert_ffn_hidden_size
            moe_shared_expert_intermediate_size q_lora_rank kv_lora_rank o_lora_rank
            router_hidden_size adapter_rank gated_norm_rank laurel_rank hc_lowrank
            hidden_size_per_layer_input mamba_d_head mamba_head_dim mamba_headdim
            time_step_rank mamba_dt_rank""",
        # width of a head, and windows that are shorter than a prompt
        8: """head_dim qk_nope_head_dim v_head_dim qk_rope_head_dim kv_channels d_head dim_head
            attention_head_size swa_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
            index_head_dim sliding_window sliding_window_size window_size attention_window_size
            local_attention attention_chunk_size index_topk query_pre_attn_scalar state_size
            ssm_state_size mamba_d_state chunk_size mamba_chunk_size block_size rel_extent d_rel
            keep_window_size index_block_size""",
        # heads and experts
        4: """num_attention_heads n_head n_heads num_heads decoder_attention_heads
            encoder_attention_heads attention_heads num_decoder_attention_heads
            num_encoder_attention_heads swa_num_attention_heads linear_num_value_heads
            linear_num_heads index_n_heads mamba_n_heads mamba_num_heads num_experts
            n_routed_experts num_local_experts moe_num_experts zero_expert_num rotary_dim""",
        # layers
        3: """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
            num_encoder_layers num_decoder_layers num_blocks""",
        # heads of keys and values, experts a token
        2: """num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads
            num_query_groups num_experts_per_tok num_experts_per_token moe_topk moe_k n_group
            num_expert_group n_groups o_groups n_mamba_heads""",
        1: """topk_group n_shared_experts num_shared_experts moe_num_shared_experts
            first_k_dense_replace num_dense_layers index_topk_blocks""",
    }.items()
    for name in names.split()
}

LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")

_GEMMA_4 = {"global_head_dim": 16}
_HYBRID_MLA = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
_QWEN4_EXP = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}

# What the defaults leave open or have in a shape of their own; a part's are given under its name.
OVERRIDES = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_config": {"hidden_size_global": 64},
        "decoder_config": {"hidden_size_global": 64},
        "global_config": {"hidden_size": 64},
        "encoder_hash_byte_group_vocab": 50,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}
    },
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note": {"text_config": _HYBRID_MLA},
    "dots3_note_text": _HYBRID_MLA,
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4": {"text_config": _GEMMA_4},
    "gemma4_text": _GEMMA_4,
    "gemma4_unified": {"text_config": _GEMMA_4},
    "gemma4_unified_text": _GEMMA_4,
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    # Mamba and attention, each with experts and without.
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _QWEN4_EXP},
    "qwen4_exp_text": _QWEN4_EXP,
    "reformer": {
        "axial_pos_shape": (16, 16),
        "axial_pos_embds_dim": (16, 16),
        "attn_layers": ["local", "lsh", "local"],
    },
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}

NOT_BUILT = {
    "gemma3n": "its image encoder needs the packages timm and Pillow",
    "gemma4_assistant": "drafts for a larger model, whose keys and values it reads",
    "gemma4_unified_assistant": "drafts for a larger model, whose keys and values it reads",
    "musicgen": "generates sound: four codebooks at a time",
    "musicgen_melody": "generates sound: four codebooks at a time",
}


def model_types():
    """Each model type that the installed transformers' `AutoModelForCausalLM` takes."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _one_of_each(lists):
    """The first of each kind of layer, in the default's order: three layers at least."""
    chosen = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    chosen += chosen[-1:] * (3 - len(chosen))
    return dict(zip(lists, map(list, zip(*chosen, strict=True)), strict=True))


def _shrunk(config, default, overrides):
    """A small configuration of the class, its parts' configurations small as well."""
    options = {}
    fields = {field.name: vars(default).get(field.name) for field in dataclasses.fields(config)}
    for name, value in fields.items():
        override = overrides.get(name)
        if isinstance(value, transformers.PreTrainedConfig):
            options[name] = _shrunk(type(value), value, override or {})
        elif override is None and name in SMALL and value is not None:
            options[name] = SMALL[name]
    # Latent attention has keys and values for each head.
    if fields.get("kv_lora_rank") and fields.get("num_key_value_heads"):
        options["num_key_value_heads"] = options["num_attention_heads"]
    if lists := {name: fields[name] for name in LISTS if fields.get(name)}:
        options |= _one_of_each(lists)
    options |= {
        name: value
        for name, value in overrides.items()
        if name not in options or not isinstance(options[name], transformers.PreTrainedConfig)
    }
    for name in LISTS:
        if options.get(name):
            options["num_hidden_layers"] = len(options[name])
    if "is_decoder" in fields:
        options["is_decoder"] = True
    return config(**options)


def build(model_type):
    """A model in evaluation mode whose responses vary; the same weights every time."""
    config = transformers.CONFIG_MAPPING[model_type]
    config = _shrunk(config, config(), OVERRIDES.get(model_type, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not any(
                part in name for part in ("A_log", "conv", "time_mix")
            ):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
