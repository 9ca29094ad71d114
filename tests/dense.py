"""Dense float64 matrices built by definition: plain reverse-mode loops over single unpadded sequences, no forward mode, no vmap, no hooks.

`KeepFloat64` is the only thing of the library in use: it stops eager attention from rounding its softmax to float32.
"""

from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import Example, collate

VOCABULARY = 7
FAMILIES = ("opt", "gpt2", "gpt-neo", "gpt-neox", "llama", "qwen2")


def build(
    family: str, tied: bool = True, seed: int = 0, dtype: torch.dtype = torch.float64, vocabulary: int = VOCABULARY
) -> Any:
    """A model of a few hundred parameters; GELU wherever the architecture allows, so that the loss is smooth."""
    import transformers as tf

    small: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 4, "max_position_embeddings": 12, "attention_dropout": 0.0, "tie_word_embeddings": tied,
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    gated = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6}
    config = {
        "opt": lambda: tf.OPTConfig(
            num_hidden_layers=1, num_attention_heads=2, ffn_dim=6, word_embed_proj_dim=4, activation_function="gelu", dropout=0.0, **small
        ),
        "gpt2": lambda: tf.GPT2Config(
            vocab_size=vocabulary, n_embd=4, n_inner=6, n_layer=1, n_head=2, n_positions=12, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0,
            tie_word_embeddings=tied, bos_token_id=1, eos_token_id=1, loss_type="ForCausalLM",
        ),
        "gpt-neo": lambda: tf.GPTNeoConfig(
            num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=3, intermediate_size=6,
            resid_dropout=0.0, embed_dropout=0.0, **small,
        ),
        "gpt-neox": lambda: tf.GPTNeoXConfig(
            num_hidden_layers=1, num_attention_heads=2, intermediate_size=6, hidden_dropout=0.0, **small
        ),
        "llama": lambda: tf.LlamaConfig(**gated, **small),
        "qwen2": lambda: tf.Qwen2Config(**gated, **small),
    }[family]()  # fmt: skip
    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=torch.float64).to(dtype))
    return model


def examples() -> list[Example]:
    """Sequences of unequal length, one with an unscored prompt."""
    generator = torch.Generator().manual_seed(5)
    result = []
    for length in (9, 4, 6, 3, 7):
        ids = tuple(torch.randint(1, VOCABULARY, (length,), generator=generator).tolist())
        result.append(Example(ids, ids))
    ids = result[2].input_ids
    result[2] = Example(ids, (-100, -100, -100, *ids[3:]))
    return result


def logits_of(model: Any, ids: Tensor, params: dict[str, Tensor]) -> Tensor:
    """`[T, V]` of one sequence."""
    with KeepFloat64():
        logits: Tensor = torch.func.functional_call(model, params, kwargs={"input_ids": ids, "use_cache": False}).logits[0]
    return logits


def loss_of(model: Any, example: Example, params: dict[str, Tensor]) -> Tensor:
    """One sequence's loss, unpadded, written out."""
    ids, labels = torch.tensor([example.input_ids]), example.labels
    log_probs = logits_of(model, ids, params).log_softmax(-1)
    terms = [-log_probs[t - 1, labels[t]] for t in range(1, len(labels)) if labels[t] != -100]
    return torch.stack(terms).mean()


class Dense:
    """The matrices by definition, one reverse pass for each row."""

    def __init__(self, model: Any, sequences: list[Example]) -> None:
        self.model, self.sequences = model, sequences
        self.params = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}

    def gradient(self, value: Tensor, keep: bool = False) -> Tensor:
        grads = torch.autograd.grad(
            value, list(self.params.values()), create_graph=keep, retain_graph=True, materialize_grads=True
        )
        return torch.cat([g.reshape(-1) for g in grads])

    def gradients(self) -> Tensor:
        """`[n, P]`"""
        return torch.stack([self.gradient(loss_of(self.model, s, self.params)) for s in self.sequences])

    def hessian(self) -> Tensor:
        mean = torch.stack([loss_of(self.model, s, self.params) for s in self.sequences]).mean()
        g = self.gradient(mean, keep=True)
        rows = torch.autograd.grad(
            g, list(self.params.values()), torch.eye(len(g), dtype=g.dtype), is_grads_batched=True, materialize_grads=True
        )
        return torch.cat([r.reshape(len(g), -1) for r in rows], dim=1)

    def fisher(self) -> Tensor:
        G = self.gradients()
        return G.T @ G / len(G)

    def gauss_newton(self) -> Tensor:
        P = sum(p.numel() for p in self.params.values())
        total = torch.zeros(P, P, dtype=torch.float64)
        for s in self.sequences:
            ids = torch.tensor([s.input_ids])
            logits = logits_of(self.model, ids, self.params)
            scored = [t for t in range(1, len(s.labels)) if s.labels[t] != -100]
            for t in scored:
                J = torch.stack([self.gradient(entry) for entry in logits[t - 1]])
                p = logits[t - 1].softmax(-1).detach()
                total += J.T @ (p.diag() - p.outer(p)) @ J / len(scored)
        return total / len(self.sequences)


def batched(sequences: list[Example], sizes: tuple[int, ...]) -> list[Any]:
    batches, start = [], 0
    for size in sizes:
        batches.append(collate(sequences[start : start + size]))
        start += size
    return batches


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
