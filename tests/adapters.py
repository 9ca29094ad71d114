"""Every kind of peft adapter, as small as it gets, on a tiny Llama with random weights in base and adapter."""

from pathlib import Path
from typing import Any

import peft
import torch
from by_reverse_mode import VOCABULARY

PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
TARGETS: dict[str, Any] = {"target_modules": PROJECTIONS, "task_type": "CAUSAL_LM"}
PROMPT: dict[str, Any] = {"num_virtual_tokens": 3, "task_type": "CAUSAL_LM"}

FAST = ("loha", "oft", "prompt-tuning")
REFUSED = {
    "frod": r"becomes a sparse matrix, which torch differentiates neither forwards nor twice",
    "lily": r"weighs its experts by a mean over all tokens of a batch",
    "multitask-prompt-tuning": r"takes the number of a task beside every text \(task_ids\)",
    "poly": r"takes the number of a task beside every text \(task_ids\)",
    "shira": r"becomes a sparse matrix, which torch differentiates neither forwards nor twice",
}
"""The kinds that do not work, with the reason that is given."""
ADAPTERS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2, **TARGETS),
    "lora/rslora": lambda: peft.LoraConfig(r=2, use_rslora=True, lora_bias=True, **TARGETS),
    "lora/dora": lambda: peft.LoraConfig(r=2, use_dora=True, **TARGETS),
    "lora/embedding": lambda: peft.LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"], task_type="CAUSAL_LM"),
    "lora/modules-to-save": lambda: peft.LoraConfig(r=2, modules_to_save=["lm_head", "embed_tokens"], **TARGETS),
    "lora/bias": lambda: peft.LoraConfig(r=2, bias="all", **TARGETS),
    "lora/trainable-tokens": lambda: peft.LoraConfig(r=2, trainable_token_indices=[3, 5], **TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(init_r=2, target_r=2, total_step=10, **TARGETS),
    "adamss": lambda: peft.AdamssConfig(r=4, num_subspaces=2, **TARGETS),
    "beft": lambda: peft.BeftConfig(**TARGETS),
    "boft": lambda: peft.BOFTConfig(boft_block_size=2, **TARGETS),
    "c3a": lambda: peft.C3AConfig(block_size=4, **TARGETS),
    "deft": lambda: peft.DeftConfig(**TARGETS),
    "delora": lambda: peft.DeloraConfig(r=2, **TARGETS),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=6, **TARGETS),
    "frod": lambda: peft.FrodConfig(**TARGETS),
    "glora": lambda: peft.GloraConfig(r=2, **TARGETS),
    "gralora": lambda: peft.GraloraConfig(r=4, gralora_k=2, **TARGETS),
    "hira": lambda: peft.HiraConfig(r=2, **TARGETS),
    "hra": lambda: peft.HRAConfig(r=2, **TARGETS),
    "ia3": lambda: peft.IA3Config(feedforward_modules=["down_proj"], **TARGETS),
    "lily": lambda: peft.LilyConfig(r=2, **TARGETS),
    "ln-tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"], task_type="CAUSAL_LM"),
    "loha": lambda: peft.LoHaConfig(r=2, **TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=2, **TARGETS),
    "miss": lambda: peft.MissConfig(r=2, **TARGETS),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, **TARGETS),
    "osf": lambda: peft.OSFConfig(effective_rank=2, **TARGETS),
    "peanut": lambda: peft.PeanutConfig(r=2, **TARGETS),
    "psoft": lambda: peft.PsoftConfig(r=4, **TARGETS),
    "pvera": lambda: peft.PveraConfig(r=2, **TARGETS),
    "randlora": lambda: peft.RandLoraConfig(r=2, **TARGETS),
    "road": lambda: peft.RoadConfig(group_size=4, **TARGETS),
    "shadow": lambda: peft.ShadowConfig(task_type="CAUSAL_LM"),
    "shira": lambda: peft.ShiraConfig(r=2, **TARGETS),
    "supertuning": lambda: peft.SupertuningConfig(sparsity=0.5, **TARGETS),
    "tinylora": lambda: peft.TinyLoraConfig(**TARGETS),
    "trainable-tokens": lambda: peft.TrainableTokensConfig(token_indices=[3, 5, 7], task_type="CAUSAL_LM"),
    "unilora": lambda: peft.UniLoraConfig(r=2, **TARGETS),
    "vblora": lambda: peft.VBLoRAConfig(r=2, num_vectors=6, vector_length=4, topk=2, **TARGETS),
    "vera": lambda: peft.VeraConfig(r=2, **TARGETS),
    "waveft": lambda: peft.WaveFTConfig(n_frequency=6, **TARGETS),
    "adaption-prompt": lambda: peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM"),
    "cartridge": lambda: peft.CartridgeConfig(**PROMPT),
    "cpt": lambda: peft.CPTConfig(cpt_token_ids=[3, 5, 7], cpt_mask=[1, 1, 1], cpt_tokens_type_mask=[1, 2, 3], task_type="CAUSAL_LM"),
    "multitask-prompt-tuning": lambda: peft.MultitaskPromptTuningConfig(num_tasks=1, **PROMPT),
    "p-tuning": lambda: peft.PromptEncoderConfig(encoder_hidden_size=6, **PROMPT),
    "poly": lambda: peft.PolyConfig(r=2, n_tasks=1, n_skills=2, **TARGETS),
    "prefix-tuning": lambda: peft.PrefixTuningConfig(**PROMPT),
    "prompt-tuning": lambda: peft.PromptTuningConfig(**PROMPT),
}


def base() -> Any:
    import transformers as tf

    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=32, attention_bias=True, bos_token_id=1, eos_token_id=1, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    return _shaken(tf.LlamaForCausalLM(config).double())


def adapted(name: str) -> Any:
    """The tiny Llama with an adapter that already does something."""
    torch.manual_seed(1)
    model = peft.get_peft_model(base().float(), ADAPTERS[name]())  # some begin with operations of float32
    return _shaken(model.double())


def mixture_of_adapters(folder: Path) -> Any:
    """X-LoRA: two saved adapters, whose weights a classifier of the hidden states chooses for every token."""
    places = {}
    for number in range(2):
        expert = peft.get_peft_model(base().float(), peft.LoraConfig(r=2, **TARGETS))
        torch.manual_seed(7 + number)
        _shaken(expert).save_pretrained(folder / str(number))
        places[str(number)] = str(folder / str(number))
    below = base().float()
    below.config.use_cache = False
    config = peft.XLoraConfig(task_type="CAUSAL_LM", hidden_size=8, xlora_depth=1, adapters=places)
    return _shaken(peft.get_peft_model(below, config).double())


def _shaken(model: Any) -> Any:
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.2 * torch.randn(p.shape, dtype=torch.float64).to(p.dtype))
    return model.eval()
