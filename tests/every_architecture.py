"""A tiny random-weight model of every architecture that `AutoModelForCausalLM` takes.

One mechanism makes them all: the fields of a configuration's class are given small values by name,
and of the default's layers as many are kept as there are kinds. `OVERRIDES` has what that misses.
"""

import dataclasses
import re

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 300

# By field, whatever the architecture: configurations of one library mean one thing by one name.
_SIZES = {
    # vocabulary
    VOCABULARY: """
        vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size
        """,
    # positions
    256: """
        max_position_embeddings n_positions n_ctx max_seq_len context_length
        original_max_position_embeddings max_target_positions max_source_positions
        """,
    # width of the MLP
    64: """
        intermediate_size ffn_dim dim_ff dff d_inner ffn_hidden_size feed_forward_size
        decoder_ffn_dim encoder_ffn_dim intermediate_size_mlp dense_intermediate_size
        attention_hidden_size mamba_d_ssm mlp_dim
        """,
    # width of the stream
    32: """
        hidden_size n_embd d_model emb_dim embedding_size embedding_dim word_embed_proj_dim
        input_embedding_size output_embedding_size lru_width pronunciation_embed_dim
        shape_embed_dim adapter_in_dim adapter_out_dim adapter_input_size
        """,
    # widths of experts and of low-rank projections; heads that choose tokens, so many that no two
    # scores are equal because all heads' were negative
    16: """
        moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
        shared_experts_intermediate_size expert_ffn_hidden_size router_hidden_size
        moe_shared_expert_intermediate_size q_lora_rank kv_lora_rank o_lora_rank adapter_rank
        laurel_rank hc_lowrank hidden_size_per_layer_input mamba_d_head
        mamba_head_dim time_step_rank mamba_dt_rank index_n_heads
        """,
    # width of a head, and windows that are shorter than a prompt
    8: """
        head_dim qk_nope_head_dim v_head_dim qk_rope_head_dim kv_channels d_head dim_head
        attention_head_size swa_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim
        index_head_dim sliding_window sliding_window_size window_size attention_window_size
        local_attention attention_chunk_size index_topk query_pre_attn_scalar state_size
        ssm_state_size mamba_d_state chunk_size mamba_chunk_size block_size rel_extent d_rel
        index_block_size
        """,
    # heads and experts
    4: """
        num_attention_heads n_head n_heads num_heads decoder_attention_heads
        encoder_attention_heads attention_heads num_decoder_attention_heads
        num_encoder_attention_heads swa_num_attention_heads linear_num_value_heads
        linear_num_heads mamba_n_heads mamba_num_heads num_experts n_routed_experts
        num_local_experts moe_num_experts zero_expert_num rotary_dim
        """,
    # layers
    3: """
        num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
        num_encoder_layers num_decoder_layers num_blocks
        """,
    # heads of keys and values, experts a token
    2: """
        num_key_value_heads num_kv_heads swa_num_key_value_heads linear_num_key_heads
        num_experts_per_tok moe_topk moe_k n_group n_groups o_groups n_mamba_heads
        """,
    1: """
        topk_group n_shared_experts num_shared_experts moe_num_shared_experts
        first_k_dense_replace num_dense_layers index_topk_blocks
        """,
}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SMALL = {name: size for size, names in _SIZES.items() for name in names.split()} | _TOKENS
# `generate` would put it at the end of each response that has the longest length.
_SMALL["forced_eos_token_id"] = None

# The fields with one entry a layer that say of which kind it is.
_KINDS = ("layer_types", "mlp_layer_types", "layers_block_type")

_HYBRID_MLA = {
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 8,
}
_LLAMA_4 = {
    "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
    "no_rope_layers": [1, 0, 1],
    "interleave_moe_layer_step": 2,
    "floor_scale": 8192,  # from there on, what Llama 4 computes depends on the length of a batch
}
_QWEN4_EXP = {
    "indexer_n_heads": 16,
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
    "cohere": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "cohere2_moe": {"logit_scale": 1.0},
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
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        ],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "partial_rotary_factor": 0.5,
    },
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note": {"text_config": _HYBRID_MLA},
    "dots3_note_text": _HYBRID_MLA,
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    # One as the small Gemmas are (layers that share keys and values), one as the large (experts,
    # values that are the keys).
    "gemma4": {
        "text_config": {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "global_head_dim": 16,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        }
    },
    "gemma4_text": {
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 16,
    },
    "gemma4_unified": {"text_config": {"global_head_dim": 16}},
    "gemma4_unified_text": {"global_head_dim": 16},
    "glm_moe_dsa": {"indexer_types": ["full", "shared", "full"]},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "inkling_text": {"logits_mup_width_multiplier": 1.0},
    # Recurrent with experts and without, and attention.
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 4, "attn_layer_offset": 2},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "llama4": {"text_config": _LLAMA_4},
    "llama4_text": _LLAMA_4,
    "mamba2": {"head_dim": 16},
    "ministral": {"head_dim": 8},
    # Its cache keeps to the window and its masks do not: past the window they disagree.
    "moshi": {"sliding_window": 256},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp": {"text_config": _QWEN4_EXP},
    "qwen4_exp_text": _QWEN4_EXP | {"ple_layer_ids": [1], "ngram_vocab_size_base": 50},
    "reformer": {
        "axial_pos_shape": (16, 16),
        "axial_pos_embds_dim": (16, 16),
        "attn_layers": ["local", "lsh", "local"],
    },
    # The shapes and pronunciations of characters, which it is not given here, outweigh the words.
    "roc_bert": {"concat_input": False, "enable_pronunciation": False, "enable_shape": False},
    "rwkv": {"attention_hidden_size": 32},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "xlm": {"causal": True},
    # Its widths are rounded up to multiples of 64.
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
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


def _shrunk(default, overrides):
    """A small configuration of the default's class, with its parts' small as well."""
    # Not by getattr, which refuses what differs between layers.
    fields = {field.name: vars(default).get(field.name) for field in dataclasses.fields(default)}
    options = {
        name: _SMALL[name]
        for name, value in fields.items()
        if name in _SMALL and (value is not None or name in _TOKENS)
    }
    # Latent attention expands its keys and values to one pair a head.
    if fields.get("kv_lora_rank") and fields.get("num_key_value_heads"):
        options["num_key_value_heads"] = options["num_attention_heads"]
    # Without it BERT and its like are encoders.
    if "is_decoder" in fields:
        options["is_decoder"] = True
    if lists := {name: fields[name] for name in _KINDS if fields.get(name)}:
        options |= _one_of_each(lists)
    options |= overrides
    for name, value in fields.items():
        if isinstance(value, transformers.PreTrainedConfig):
            options[name] = _shrunk(value, overrides.get(name, {}))
    for kinds in (options[name] for name in _KINDS if name in options):
        options["num_hidden_layers"] = len(kinds)
    return type(default)(**options)


def _redraw(model, std):
    """Weights so large that responses vary; what a recurrence needs to be stable is left."""
    embedding = model.get_input_embeddings().weight
    tied = embedding is getattr(model.get_output_embeddings(), "weight", None)
    for name, parameter in model.named_parameters():
        # Of a name, the parameter and its module: LFM2 has its projections in a module `conv`.
        own_name = ".".join(name.split(".")[-2:])
        if parameter.dim() > 1 and not re.search("A_log|conv|time_mix", own_name):
            # A large embedding that is the output's too answers each token with itself.
            spread = 0.1 if tied and parameter is embedding else std
            torch.nn.init.normal_(parameter, std=spread)
            # Activations are positive on average: summed, they would say the same of every text.
            parameter.data -= parameter.mean(dim=-1, keepdim=True)


@torch.no_grad()
def _varies(model):
    """Whether greedy responses differ between prompts and are not one token over and over."""
    ids = torch.tensor([[5, 17, 33, 250, 99, 7], [5, 17, 33, 250, 98, 8], [201, 12, 9, 3, 15, 77]])
    for _ in range(6):
        logits = model(ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.argmax(dim=-1, keepdim=True)], dim=1)
    responses = {tuple(row) for row in ids[:, 6:].tolist()}
    return len(responses) == len(ids) and min(len(set(row)) for row in responses) > 2


# With larger weights a change of one embedding in its last bit changes activations by 1e-4.
_GENTLE = {"qwen3_next": 0.2, "zamba2": 0.2}


def build(model_type):
    """A model in evaluation mode whose responses vary; the same weights every time."""
    default = transformers.CONFIG_MAPPING[model_type]
    config = _shrunk(default(), OVERRIDES.get(model_type, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        # Most vary at the first draw, and some only with a sharper attention.
        for std in (_GENTLE.get(model_type, 0.3), 0.4, 0.5, 0.6):
            for _ in range(10):
                _redraw(model, std)
                if _varies(model):
                    return model
    raise AssertionError(f"{model_type}: whatever its weights, it answers all prompts alike.")
