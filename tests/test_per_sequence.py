"""Per-sequence gradients by watching the model, against one reverse pass for every sequence."""

from typing import Any

import pytest
import torch
from dense import FAMILIES, VOCABULARY, Dense, batched, build, examples, relative
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from unlearn_lib.curvature import ConjugateGradients, EmpiricalFisher, SequenceGradients, Woodbury, named_solver, solve
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.precision import exact_products
from unlearn_lib.curvature.uses import Direct
from unlearn_lib.curvature.vector import flatten, unflatten
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError, NumericsError

STORES: tuple[dict[str, Any], ...] = (
    {"keep": "activations"}, {"keep": "gradients"}, {"keep": "nothing", "passes": 3}, {"keep": "activations", "chunk": 20},
)  # fmt: skip


def draw(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_all_products(F: EmpiricalFisher, G_nP: Tensor, **options: Any) -> None:
    gradients = SequenceGradients(F, **options)
    v, c = draw(F.size), draw(len(G_nP), 1)
    K_nn, w_n = gradients.gram(unflatten(v, F.params))
    assert relative(K_nn, G_nP @ G_nP.T) < 1e-9
    assert w_n is not None
    assert relative(w_n, G_nP @ v) < 1e-9
    assert relative(gradients.gram()[0], K_nn) < 1e-12
    assert relative(gradients.project(unflatten(v, F.params)), G_nP @ v) < 1e-9
    assert relative(flatten(gradients.adjoint(c)), G_nP.T @ c) < 1e-9
    columns = list(gradients.blocks(multiple=3))
    assert relative(torch.cat([g for _, _, g in columns], dim=1), G_nP) < 1e-9
    assert all(start % 3 == 0 for _, start, _ in columns)
    assert relative(gradients.norms(), G_nP.norm(dim=1)) < 1e-9
    assert gradients.check() < 1e-9


@pytest.mark.parametrize("options", STORES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_those_of_the_gradient_matrix(family: str, options: dict[str, Any]) -> None:
    model, sequences = build(family), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    assert_all_products(F, Dense(model, sequences).gradients(), **options)


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_untied_weights_and_a_square_batch(family: str) -> None:
    # as many sequences as tokens: nothing may take one for the other
    model, sequences = build(family, tied=False), [e for e in examples() if len(e.input_ids) >= 5]
    sequences = [Example(e.input_ids[:5], e.labels[:5]) for e in (*sequences, *sequences)][:5]
    F = EmpiricalFisher(model, batched(sequences, (5,)))
    assert F.batches[0]["input_ids"].shape == (5, 5)
    assert_all_products(F, Dense(model, sequences).gradients())


# peft asks transformers for an attribute by its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_lora_adapter_alone() -> None:
    from peft import LoraConfig, get_peft_model

    model, sequences = build("opt"), examples()
    torch.manual_seed(1)
    wrapped: Any = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "fc1"], task_type="CAUSAL_LM")).double()
    for name, p in wrapped.named_parameters():
        if "lora_B" in name:  # zero at first, which would hide the gradient of lora_A
            torch.nn.init.normal_(p)
    F = EmpiricalFisher(wrapped, batched(sequences, (3, 2)))
    assert all("lora" in name for name in F.params)
    dense = Dense(wrapped, sequences)
    chosen = torch.cat([torch.full((p.numel(),), name in F.params) for name, p in wrapped.named_parameters()])
    assert_all_products(F, dense.gradients()[:, chosen])
    assert relative(solve(F, draw(F.size), Woodbury(0.1)).value, solve(F, draw(F.size), ConjugateGradients(0.1)).value) < 1e-7


def test_a_subset_of_parameters() -> None:
    model, sequences = build("gpt-neo"), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)), params=["*ln_*", "*c_fc.weight", "transformer.wpe*"])
    chosen = torch.cat([torch.full((p.numel(),), name in F.params) for name, p in model.named_parameters()])
    assert_all_products(F, Dense(model, sequences).gradients()[:, chosen])


class Odd(nn.Module):
    """What common architectures lack: scaled weights, a transposed tied head, positions without a batch, layers over heads."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": "eager"})()
        self.embed = nn.Embedding(VOCABULARY, 4, padding_idx=0)
        self.positions = nn.Parameter(0.3 * torch.randn(12, 4))
        self.gain = nn.Parameter(0.1 * torch.randn(4))
        self.inner = nn.Parameter(0.3 * torch.randn(4, 4))
        self.twice = nn.Linear(4, 4)
        self.heads = nn.Linear(2, 2)
        self.gate = nn.LayerNorm(2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> CausalLMOutput:
        h = self.embed(input_ids) + self.positions[: input_ids.shape[1]]
        h = torch.cumsum(h * (1.0 + self.gain), dim=1)
        h = h + torch.tanh(h @ self.inner.T)
        h = self.twice(torch.tanh(self.twice(h)))
        h = h + self.gate(self.heads(h.unflatten(-1, (2, 2)))).flatten(-2)
        return CausalLMOutput(logits=h @ self.embed.weight.T)


def test_what_hooks_cannot_follow_is_followed_by_automatic_differentiation() -> None:
    torch.manual_seed(0)
    model, sequences = Odd().double(), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    model.forward = lambda **kw: Odd.forward(model, kw["input_ids"], None, False)  # type: ignore[method-assign, assignment, arg-type]
    assert_all_products(F, Dense(model, sequences).gradients())


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
def test_ghost_inner_products(family: str, tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied weights add their two uses before the product; rows looked up, matrix products and Conv1D in every combination."""

    def wherever_possible(self: SequenceGradients, captured: dict[str, Any]) -> set[str]:
        return {
            name for name, batches in captured.items() if not any(isinstance(use, Direct) for uses in batches for use in uses)
        }

    monkeypatch.setattr(SequenceGradients, "_ghost_is_cheaper", wherever_possible)
    model, sequences = build(family, tied), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    assert_all_products(F, Dense(model, sequences).gradients())


def test_ghost_inner_products_are_taken_where_they_save_flops() -> None:
    # one-token histories and a vocabulary that is large beside them
    model, sequences = (
        build("gpt-neox", tied=False, vocabulary=60),
        [Example((a, b), (a, b)) for a, b in ((3, 5), (5, 3), (2, 2))],
    )
    gradients = SequenceGradients(EmpiricalFisher(model, batched(sequences, (3,))))
    assert "gpt_neox.embed_in.weight" in gradients._ghost_is_cheaper(gradients._all())
    longer = SequenceGradients(EmpiricalFisher(model, batched([Example((3,) * 12, (3,) * 12)] * 3, (3,))))
    assert not longer._ghost_is_cheaper(longer._all())


def test_no_n_by_p_matrix() -> None:
    """The largest tensor alive is a block of columns, never n x P."""
    model = build("opt", dtype=torch.float32, vocabulary=3000)
    F = EmpiricalFisher(model, batched(examples(), (5,)))
    gradients = SequenceGradients(F, chunk=1000)
    gradients.gram()  # factors are kept from here on
    with Meter() as meter:
        gradients.gram()
    assert meter.peak < 5 * F.size * 4 / 3


def test_refusals() -> None:
    F = EmpiricalFisher(build("opt"), batched(examples(), (5,)))
    with pytest.raises(InputError, match="unknown value of keep 'all'; choose one of: activations, gradients, nothing"):
        SequenceGradients(F, keep="all")
    with pytest.raises(InputError, match="passes=2 needs keep='nothing'"):
        SequenceGradients(F, passes=2)


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = build("opt", dtype=torch.float32)
    with torch.no_grad():
        model.model.decoder.layers[0].fc1.weight.fill_(torch.inf)
    with pytest.raises(NumericsError, match="loss of a sequence is not finite"):
        SequenceGradients(EmpiricalFisher(model, batched(examples(), (5,)))).gram()


@pytest.mark.parametrize("solver", ["woodbury", "block", "diagonal", "recursion"])
def test_a_gradient_that_overflows_is_refused(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finite losses, and a derivative that is not."""

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad * torch.inf

    model = build("opt")
    model.lm_head.register_forward_pre_hook(
        lambda module, inputs: (Overflow.apply(inputs[0]),) if inputs[0].requires_grad else None
    )
    F = EmpiricalFisher(model, batched(examples(), (5,)))
    with pytest.raises(NumericsError, match="per-sequence gradient is not finite"):
        solve(F, torch.ones(F.size), named_solver(solver, 0.1))


def test_matrix_product_settings_are_restored() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with exact_products():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
