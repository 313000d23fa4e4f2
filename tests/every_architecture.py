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
        VOCABULARY: "vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size",
        # positions
        256: """max_position_embeddings n_positions n_ctx max_seq_len context_length model_max_length
            original_max_position_embeddings max_target_positions max_source_positions""",
        # width of the MLP
        64: """intermediate_size ffn_dim dim_ff dff d_inner ffn_hidden_size feed_forward_size
            decoder_ffn_dim encoder_ffn_dim intermediate_size_mlp dense_intermediate_size
            attention_hidden_size mamba_d_ssm""",
        # width of the stream
        32: """hidden_size n_embd d_model emb_dim embedding_size embedding_dim word_embed_proj_dim
            input_embedding_size output_embedding_size lru_width backbone_hidden_size
            pronunciation_embed_dim shape_embed_dim""",
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

OVERRIDES = {}

NOT_BUILT = {}


def model_types():
    """Each model type that the installed transformers' `AutoModelForCausalLM` takes."""
    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _one_of_each(default):
    """Lists of the default's kinds of layers: the first of each kind, three layers at least."""
    lists = {name: getattr(default, name, None) for name in LISTS}
    lists = {name: list(kinds) for name, kinds in lists.items() if kinds}
    chosen = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    while lists and len(chosen) < 3:
        chosen.append(chosen[-1])
    return {name: list(kinds) for name, kinds in zip(lists, zip(*chosen, strict=True), strict=True)}


def _shrunk(config, default=None, overrides=None):
    """A small configuration of the class, its parts' configurations small as well."""
    default = default or config()
    options = {}
    for field in dataclasses.fields(config):
        value = getattr(default, field.name, None)
        if isinstance(value, transformers.PreTrainedConfig):
            options[field.name] = _shrunk(type(value), value)
        elif field.name in SMALL and value is not None and not isinstance(value, (list, tuple)):
            options[field.name] = SMALL[field.name]
    names = {field.name for field in dataclasses.fields(config)}
    layers = _one_of_each(default)
    options |= layers
    if layers:
        n_layers = len(next(iter(layers.values())))
        for name in ("num_hidden_layers", "num_layers"):
            if name in names:
                options[name] = n_layers
    if {"bert", "is_decoder"} & names:
        options["is_decoder"] = True
    return config(**(options | (overrides or {})))


def build(model_type):
    """A model in evaluation mode whose responses vary; the same weights every time."""
    config = transformers.CONFIG_MAPPING[model_type]
    config = _shrunk(config, overrides=OVERRIDES.get(model_type))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not any(
                part in name for part in ("A_log", "conv", "time_mix")
            ):
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()
