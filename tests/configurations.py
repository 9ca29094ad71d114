"""Small configurations of the causal language models that transformers builds, with random weights: no downloads.

`SMALL` is taken where a configuration class has the name; a row of `CONFIGURATIONS` says what differs. A row's name is its
model type, or its model type, a slash, and what is special about it.
"""

from typing import Any

import torch

VOCABULARY = 11
SMALL: dict[str, Any] = {
    # sizes, by all their names
    "vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size": 8, "n_embd": 8, "d_model": 8, "embedding_size": 8,
    "input_embedding_size": 8, "output_embedding_size": 8, "word_embed_proj_dim": 8, "hidden_size_per_layer_input": 4, "lru_width": 8,
    "intermediate_size": 12, "ffn_dim": 12, "n_inner": 12, "ffn_hidden_size": 12, "decoder_ffn_dim": 12, "d_inner": 12, "dff": 12,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 1,
    "num_attention_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "decoder_attention_heads": 2, "encoder_attention_heads": 2,
    "num_key_value_heads": 1, "num_kv_heads": 1, "head_dim": 4, "d_head": 4, "rotary_dim": 2,
    "max_position_embeddings": 32, "n_positions": 32, "n_ctx": 32, "sliding_window": 3, "attention_window_size": 3, "block_size": 16,
    # latent attention
    "q_lora_rank": 4, "kv_lora_rank": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "moe_intermediate_size": 6, "shared_expert_intermediate_size": 6, "moe_topk": 2, "moe_k": 2, "n_group": 1, "topk_group": 1,
    # state space and linear attention
    "state_size": 4, "ssm_state_size": 4, "time_step_rank": 2, "conv_kernel": 3, "expand": 2, "n_groups": 1, "chunk_size": 4,
    "mamba_d_state": 4, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_expand": 2, "mamba_d_ssm": 16, "mamba_d_conv": 3,
    "mamba_n_groups": 1, "mamba_dt_rank": 2, "mamba_chunk_size": 4, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
    "linear_key_head_dim": 4, "linear_value_head_dim": 4,
    # no dropout, and tokens inside the vocabulary
    "hidden_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_dropout": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_dropout": 0.0, "embed_dropout": 0.0, "activation_dropout": 0.0,
    "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "is_decoder": True,
}  # fmt: skip
ABSENT = object()
"""For a name in `SMALL` that a class lists and does not take."""

NOTHING: dict[str, Any] = {}
MLA: dict[str, Any] = {"head_dim": 4, "num_key_value_heads": 2}
FAST = ("gemma2", "bloom", "recurrent_gemma", "mamba", "gpt_oss", "mixtral", "roc_bert", "falcon/alibi")
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((
        "afmoe", "apertus", "arcee", "bailing_hybrid", "bamba", "bart", "beam", "bert", "bert-generation", "big_bird", "bigbird_pegasus",
        "biogpt", "bitnet", "blenderbot", "blenderbot-small", "bloom", "camembert", "cohere", "cohere2", "cohere2_moe", "ctrl", "cwm",
        "data2vec-text", "doge", "dots1", "electra", "ernie", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon_h1",
        "falcon_mamba", "flex_olmo", "flint", "gemma", "gemma2", "gemma3_text", "glm", "glm4",
        "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granite_swa", "granitemoe",
        "granitemoe_swa", "granitemoeshared", "helium", "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3",
        "hy_v4", "hyperclovax", "jais2", "jamba", "jetmoe", "kolibri1", "laguna", "lfm3", "llama", "llama4_text", "mamba",
        "marian", "mbart", "megatron-bert", "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "ministral", "ministral3", "mistral",
        "mixtral", "modernbert-decoder", "moshi", "mpt", "mvp", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe",
        "openai-gpt", "opt", "pegasus", "persimmon", "phi", "phi3", "phimoe", "plbart", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text",
        "qwen3_5_text", "qwen3_moe", "qwen3_next", "recurrent_gemma", "rembert", "roberta", "roberta-prelayernorm", "roformer", "rwkv",
        "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "trocr", "vaultgemma", "whisper", "xlm", "xlm-roberta",
        "xlm-roberta-xl",
    ), NOTHING),
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "glm_moe_dsa", "minicpm3", "youtu"), MLA),
    "aria_text": {"moe_num_shared_experts": 1},
    "codegen": {"n_embd": 16, "n_head": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 1e4}, "hidden_size": ABSENT,
        "ffn_config": {"hidden_size": 8, "ffn_hidden_size": 12, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v32": {**MLA, "index_n_heads": 2, "index_head_dim": 4},
    "diffllama": {"num_key_value_heads": 2},
    "falcon": {"head_dim": ABSENT},
    "gemma4_text": {"head_dim": ABSENT},
    "gemma4_unified_text": {"head_dim": ABSENT},
    "granitemoehybrid": {"shared_intermediate_size": 6, "layer_types": ["mamba", "attention"]},
    "lfm2": {"block_auto_adjust_ff_dim": False, "block_ff_dim": 12, "layer_types": ["conv", "full_attention"]},
    "xglm": {},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"], "hybrid_layer_ids": [1], "mamba_ngroups": 1, "n_mamba_heads": 2,
        "mamba_headdim": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 3},
    "kimi_linear": {
        "head_dim": 4, "linear_head_dim": 4, "linear_num_heads": 2, "layer_types": ["linear_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"], "num_key_value_heads": 2,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {**MLA, "ffn_hidden_size": 12, "expert_ffn_hidden_size": 6, "zero_expert_num": 2},
    "mamba2": {"num_heads": 4},
    "nemotron_h": {
        "mamba_num_heads": 2, "mamba_head_dim": 8, "moe_shared_expert_intermediate_size": 6, "layers_block_type": ["mamba", "moe"],
    },
    "prophetnet": {
        "num_hidden_layers": ABSENT, "num_encoder_layers": 1, "num_decoder_layers": 2,
        "num_encoder_attention_heads": 2, "num_decoder_attention_heads": 2,
    },
    "reformer": {
        "axial_pos_embds_dim": (4, 4), "axial_pos_shape": (4, 8), "attention_head_size": 4, "feed_forward_size": 12,
        "attn_layers": ["local", "local"], "local_attn_chunk_length": 4, "head_dim": ABSENT, "num_hidden_layers": ABSENT,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 4, "shape_embed_dim": 4,
    },
    "xlnet": {"max_position_embeddings": ABSENT},
    "xlstm": {"v_head_dim": ABSENT, "embedding_dim": 8, "hidden_size": 8, "head_dim": ABSENT},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    # what is special
    "bloom/untied": {"tie_word_embeddings": False},
    "falcon/alibi": {"head_dim": ABSENT, "alibi": True, "new_decoder_architecture": False},
    "falcon/grouped": {"head_dim": ABSENT, "new_decoder_architecture": True, "num_kv_heads": 1},
    "falcon/sequential": {"head_dim": ABSENT, "parallel_attn": False, "multi_query": False, "bias": True, "num_kv_heads": 2},
    "gemma2/untied": {"tie_word_embeddings": False},
    "gpt2/untied": {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True},
    "gpt_neox/sequential": {"use_parallel_residual": False, "rotary_pct": 1.0},
    "gpt_oss/one-expert": {"num_experts_per_tok": 1},
    "granite/multipliers": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.7, "logits_scaling": 2.0},
    "llama/tied": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "mistral/ungrouped": {"num_key_value_heads": 2},
    "mixtral/one-expert": {"num_experts_per_tok": 1},
    "opt/post-norm": {"do_layer_norm_before": False, "word_embed_proj_dim": 4},
    "phi/grouped": {"num_key_value_heads": 1, "qk_layernorm": True},
    "qwen2/sliding": {"use_sliding_window": True, "max_window_layers": 1},
    "stablelm/parallel": {"use_parallel_residual": True, "qk_layernorm": True, "num_key_value_heads": 2},
    "starcoder2/untied": {"tie_word_embeddings": False},
}  # fmt: skip
NOT_RUN: dict[str, str] = {
    "prophetnet": "its own logits are not finite in float64",
    "reformer": "it differentiates in training mode only, with dropout and random hashes",
}
"""Configurations that transformers itself does not run here, with the reason."""


def build(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """The model of a row, with the kernels that transformers takes by default, and weights far from their small beginnings."""
    import transformers as tf
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    make = CONFIG_MAPPING[name.partition("/")[0]]
    plain, aliases = make(), getattr(make, "attribute_map", {})
    own = CONFIGURATIONS[name]
    small = {
        key: value for key, value in SMALL.items() if key not in own and hasattr(plain, key) and aliases.get(key) not in SMALL
    }
    options = {key: value for key, value in (small | own).items() if value is not ABSENT}
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(make(**options), attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, dtype=torch.float64).to(dtype))
    return model
