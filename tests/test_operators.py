"""Every operator against a dense float64 matrix built another way: plain reverse-mode loops, no forward mode, no vmap."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearn_lib.curvature import EmpiricalFisher, GaussNewton, Hessian
from unlearn_lib.curvature.vector import flatten, unflatten
from unlearn_lib.data.batches import Example, collate
from unlearn_lib.errors import InputError

VOCABULARY = 7
FAMILIES = ("opt", "gpt2", "gpt-neo", "gpt-neox", "llama", "qwen2")


def build(family: str, tied: bool = True, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A model of a few hundred parameters; GELU wherever the architecture allows, so that the loss is smooth."""
    import transformers as tf

    small: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 4, "max_position_embeddings": 12, "attention_dropout": 0.0, "tie_word_embeddings": tied,
        "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    gated = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 6}
    config = {
        "opt": lambda: tf.OPTConfig(
            num_hidden_layers=1, num_attention_heads=2, ffn_dim=6, word_embed_proj_dim=4, activation_function="gelu", dropout=0.0, **small
        ),
        "gpt2": lambda: tf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=4, n_inner=6, n_layer=1, n_head=2, n_positions=12, resid_pdrop=0.0,
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


def loss_of(model: Any, example: Example, params: dict[str, Tensor]) -> Tensor:
    """One sequence's loss, unpadded, written out."""
    ids, labels = torch.tensor([example.input_ids]), example.labels
    log_probs = (
        torch.func.functional_call(model, params, kwargs={"input_ids": ids, "use_cache": False}).logits[0].log_softmax(-1)
    )
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
            logits = torch.func.functional_call(self.model, self.params, kwargs={"input_ids": ids, "use_cache": False}).logits[
                0
            ]
            scored = [t for t in range(1, len(s.labels)) if s.labels[t] != -100]
            for t in scored:
                J = torch.stack([self.gradient(entry) for entry in logits[t - 1]])
                p = logits[t - 1].softmax(-1).detach()
                total += J.T @ (p.diag() - p.outer(p)) @ J / len(scored)
        return total / len(self.sequences)


OPERATORS: dict[str, tuple[type, Callable[[Dense], Tensor]]] = {
    "hessian": (Hessian, Dense.hessian),
    "gauss-newton": (GaussNewton, Dense.gauss_newton),
    "fisher": (EmpiricalFisher, Dense.fisher),
}


def batched(sequences: list[Example], sizes: tuple[int, ...]) -> list[Any]:
    batches, start = [], 0
    for size in sizes:
        batches.append(collate(sequences[start : start + size]))
        start += size
    return batches


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_operator_is_the_dense_matrix(family: str, name: str) -> None:
    model, sequences = build(family), examples()
    make, reference = OPERATORS[name]
    expected = reference(Dense(model, sequences))
    operator = make(model, batched(sequences, (3, 2)))
    V = torch.randn(operator.size, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = torch.stack([operator @ column for column in V.T], dim=1)
    # eager attention computes its softmax in float32 even in a float64 model
    assert relative(found, expected @ V) < 1e-6
    if name == "hessian":  # SiLU has no forward derivative of its backward
        assert operator.mode == ("double backward" if family in ("llama", "qwen2") else "forward-over-reverse")
    # symmetry, at the accuracy of that softmax
    products = V.T @ found
    assert relative(products, products.T) < 1e-6
    if name != "hessian":
        assert (products.diagonal() >= 0).all()
        assert torch.linalg.eigvalsh(expected).min() > -1e-9


@pytest.mark.parametrize("name", OPERATORS)
def test_untied_weights(name: str) -> None:
    model, sequences = build("opt", tied=False), examples()
    make, reference = OPERATORS[name]
    operator = make(model, batched(sequences, (5,)))
    v = torch.randn(operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert relative(operator @ v, reference(Dense(model, sequences)) @ v) < 1e-6


@pytest.mark.parametrize("name", OPERATORS)
def test_padding_batch_split_and_order_do_not_matter(name: str) -> None:
    model, sequences = build("gpt-neo"), examples()
    make, _ = OPERATORS[name]
    one = make(model, batched(sequences, (1, 1, 1, 1, 1)))
    v = torch.randn(one.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for other in (make(model, batched(sequences, (5,))), make(model, batched(sequences[::-1], (2, 3)))):
        assert relative(other @ v, one @ v) < 1e-6


def test_the_three_matrices_differ() -> None:
    model, sequences = build("opt"), examples()
    dense = Dense(model, sequences)
    H, G, F = dense.hessian(), dense.gauss_newton(), dense.fisher()
    assert torch.linalg.eigvalsh(H).min() < -1e-3, (
        "the Hessian is indefinite here, so an operator that returned it as GGN would be seen"
    )
    assert relative(G, H) > 0.1
    assert relative(F, G) > 0.1
    # and the per-sequence Fisher is neither the per-token one nor the batch mean's
    mean = dense.gradients().mean(0)
    assert relative(mean.outer(mean), F) > 0.1
    tokens = []
    for s in sequences:
        for t in range(1, len(s.labels)):
            if s.labels[t] != -100:
                labels = tuple(label if i == t else -100 for i, label in enumerate(s.labels))
                tokens.append(dense.gradient(loss_of(model, Example(s.input_ids, labels), dense.params)))
    per_token = torch.stack(tokens).T @ torch.stack(tokens) / len(tokens)
    assert relative(per_token, F) > 0.1


def test_adjoint_identity_and_gradients() -> None:
    model, sequences = build("gpt2"), examples()
    F = EmpiricalFisher(model, batched(sequences, (2, 3)))
    G = Dense(model, sequences).gradients()
    generator = torch.Generator().manual_seed(4)
    v, c = (
        torch.randn(F.size, dtype=torch.float64, generator=generator),
        torch.randn(5, dtype=torch.float64, generator=generator),
    )
    assert relative(F.project(unflatten(v, F.params)), G @ v) < 1e-6
    assert relative(flatten(F.adjoint(c)), G.T @ c) < 1e-6


@pytest.mark.parametrize("name", OPERATORS)
def test_a_subset_of_parameters_is_a_block_of_the_matrix(name: str) -> None:
    model, sequences = build("opt"), examples()
    make, reference = OPERATORS[name]
    operator = make(model, batched(sequences, (5,)), params=["*fc1*", "*layer_norm*"])
    names = list(dict(model.named_parameters()))
    assert operator.params.keys() == {n for n in names if "fc1" in n or "layer_norm" in n}
    chosen = torch.cat([torch.full((p.numel(),), n in operator.params) for n, p in model.named_parameters()])
    block = reference(Dense(model, sequences))[chosen][:, chosen]
    assert relative(operator.as_matrix(), block) < 1e-6
    assert relative(operator.diagonal(), block.diagonal()) < 1e-6
    assert operator.trace() == pytest.approx(float(block.trace()), rel=1e-6)


def test_form_follows_form_and_algebra() -> None:
    model, sequences = build("opt"), examples()
    F, G = (make(model, batched(sequences, (5,)), params="*fc1*") for make in (EmpiricalFisher, GaussNewton))
    v = torch.randn(F.size, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    as_dict = F @ unflatten(v, F.params)
    assert as_dict.keys() == F.params.keys()
    torch.testing.assert_close(flatten(as_dict), F @ v)
    torch.testing.assert_close((2 * F + G * 0.5) @ v, 2 * (F @ v) + 0.5 * (G @ v))
    torch.testing.assert_close((2 * F + G).diagonal(), 2 * F.diagonal() + G.diagonal())


def test_finite_differences_agree_with_the_hessian() -> None:
    model, sequences = build("opt"), examples()
    H = Hessian(model, batched(sequences, (5,)))
    dense = Dense(model, sequences)
    v = torch.randn(H.size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    v /= v.norm()
    gradients = []
    for sign in (1, -1):
        step = unflatten(sign * 1e-4 * v, H.params)
        moved = {name: (p + step[name]).detach().requires_grad_() for name, p in H.params.items()}
        dense.params = moved
        gradients.append(dense.gradient(torch.stack([loss_of(model, s, moved) for s in sequences]).mean()))
    assert relative((gradients[0] - gradients[1]) / 2e-4, H @ v) < 1e-3


def test_curvature_is_never_below_float32_and_the_model_is_left_alone() -> None:
    model, sequences = build("opt", dtype=torch.bfloat16), examples()
    model.train()
    before = [p.detach().clone() for p in model.parameters()]
    for make, _ in OPERATORS.values():
        operator = make(model, batched(sequences, (5,)))
        assert {p.dtype for p in operator.params.values()} == {torch.float32}
        assert (operator @ torch.ones(operator.size)).dtype == torch.float32
        wide = make(model, batched(sequences, (5,)), precision="float64")
        assert relative((operator @ torch.ones(operator.size)).double(), wide @ torch.ones(wide.size)) < 1e-4
    assert model.training
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, b: (m, []), "there are no sequences"),
        (lambda m, b: (m, [{**b, "labels": torch.full_like(b["labels"], -100)}]), "sequence 0 of batch 0 has no scored token"),
        (lambda m, b: (m.half(), [b]), "is float16, whose range is too narrow"),
    ],
)
def test_unusable_input_is_refused_before_any_work(change: Any, message: str) -> None:
    model, batches = change(build("opt"), collate(examples()))
    with pytest.raises(InputError, match=message):
        EmpiricalFisher(model, batches)


def test_other_refusals() -> None:
    model, batches = build("opt"), batched(examples(), (5,))
    with pytest.raises(InputError, match=r"no parameter matches '\*lora\*'"):
        Hessian(model, batches, params="*lora*")
    with pytest.raises(InputError, match="unknown precision 'float16'; choose float32 or float64"):
        Hessian(model, batches, precision="float16")
    F = EmpiricalFisher(model, batches)
    with pytest.raises(InputError, match=r"has shape \(\d+,\), got \(3,\)"):
        F @ torch.ones(3)
    with pytest.raises(InputError, match="names are not the operator's"):
        F @ {"x": torch.ones(3)}
    with pytest.raises(InputError, match="different parameters cannot be added"):
        F + EmpiricalFisher(model, batches, params="*fc1*")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(InputError, match="curvature needs attn_implementation='eager'"):
        EmpiricalFisher(model, batches)
