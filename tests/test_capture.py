"""Capture is right whatever a model does with its slices, or it is refused: against one reverse pass for every sequence."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense import VOCABULARY, Dense, batched, build, examples, relative
from test_per_sequence import assert_all_products, draw
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from unlearn_lib.curvature import (
    KFAC,
    Auto,
    ConjugateGradients,
    EmpiricalFisher,
    SequenceGradients,
    Woodbury,
    capture,
    confirm,
    kfac,
    named_solver,
    per_sequence,
    plan,
    solve,
)
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.uses import Lookup, Outer, Use
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import NumericsError

ODD = "ignore:`is_gradient_checkpointing`:FutureWarning"  # peft asks transformers for an attribute by its old name


@pytest.fixture(autouse=True)
def nothing_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm, "_confirmed", set())


class Toy(nn.Module):
    """An embedding, one layer that `body` defines, and a head: what a test needs is in the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": "eager"})()
        self.embed = nn.Embedding(VOCABULARY, 4)
        self.positions = nn.Embedding(12, 4)
        self.inner = nn.Linear(4, 4)
        self.outer = nn.Linear(4, 4)
        self.scale = nn.Parameter(0.3 * torch.randn(4))
        self.experts = nn.Parameter(0.5 * torch.randn(2, 4, 4))
        self.fused = nn.Parameter(0.5 * torch.randn(8, 4))
        self.head = nn.Linear(4, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> CausalLMOutput:
        h = self.embed(input_ids)
        h = torch.cumsum(h, dim=1)
        return CausalLMOutput(logits=self.head(torch.tanh(self.body(h, input_ids))))

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        raise NotImplementedError


class SortedTokens(Toy):
    """Tokens of all sequences are sorted, go through layers in that order, and are put back: one expert a token."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        flat = h.flatten(0, 1)
        order = flat[:, 0].argsort()
        out = self.outer(torch.tanh(self.inner(flat[order])) * (1 + self.scale))
        return h + torch.empty_like(out).index_copy(0, order, out).view_as(h)


class SortedSequences(Toy):
    """The sequences of a batch are put in another order, and back."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        order = ids.sum(1).argsort(descending=True)
        return h + self.outer(torch.tanh(self.inner(h[order])))[order.argsort()]


class ManyExperts(Toy):
    """Experts with room for as many tokens as a sequence has, and as many experts as sequences: `[E, C, d]` looks like `[B, T, d]`."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        flat, expert = h.flatten(0, 1), ids.flatten() % 2
        slot = torch.stack([(expert[: i + 1] == e).sum() - 1 for i, e in enumerate(expert)])
        room = flat.new_zeros(2, int(slot.max()) + 1, 4).index_put((expert, slot), flat)
        return h + torch.tanh(torch.bmm(self.inner(room), self.experts))[expert, slot].view_as(h)


class BothBranches(Toy):
    """A projection met as a module and in a weight that is transformed; what follows depends on both."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        scale = 1 + self.inner.weight.mean(0)
        return self.inner(h * scale) + self.outer(h * (1 + self.scale))


class SharedPositions(Toy):
    """Positions are looked up for one sequence, `[1, T, d]`, and lose that dimension before they are added."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        return h + self.positions(torch.arange(ids.shape[1])[None])[0]


class Pieces(Toy):
    """Parameters that are cut into pieces, written into a buffer, or met where no gradient is taken."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        first, second = self.fused.chunk(2)
        buffer = torch.zeros_like(h)
        buffer[:, :1] = self.scale
        with torch.no_grad():
            gate = torch.sigmoid(self.inner(h))
        return nn.functional.linear(torch.tanh(nn.functional.linear(h + buffer, first)), second) * gate + self.inner(h)


class InPlace(Toy):
    """Results of products that are changed where they stand."""

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        out = self.inner(h)
        out += h
        out.mul_(self.scale)
        return out.add_(self.outer(h).tanh_())


class Hidden(Toy):
    """Slices are moved about by a function that torch functions do not show."""

    class Roll(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, by: int) -> Tensor:
            ctx.by = by
            return x.roll(by, 0)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
            return grad.roll(-ctx.by, 0), None

    def body(self, h: Tensor, ids: Tensor) -> Tensor:
        return h + Hidden.Roll.apply(self.outer(torch.tanh(self.inner(Hidden.Roll.apply(h, 1)))), -1)  # type: ignore[no-untyped-call]


TOYS = (SortedTokens, SortedSequences, ManyExperts, BothBranches, SharedPositions, Pieces, InPlace, Hidden)


def toy(kind: type[Toy], used: Callable[[str], bool] = lambda name: True) -> Any:
    torch.manual_seed(0)
    model = kind().double()
    probe = torch.arange(3).unsqueeze(0)
    loss = model(probe, torch.ones_like(probe), False).logits.sum()
    for (name, p), g in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), strict=True
    ):
        p.requires_grad_(g is not None and used(name))
    return model


class ToyDense(Dense):
    """The toys take all three arguments."""

    def __init__(self, model: Any, sequences: list[Example]) -> None:
        forward = type(model).forward
        shadow = copy.deepcopy(model)
        shadow.forward = lambda **kw: forward(shadow, kw["input_ids"], torch.ones_like(kw["input_ids"]), False)
        super().__init__(shadow, sequences)


def reference(model: Any, sequences: list[Example], F: EmpiricalFisher) -> Tensor:
    dense = ToyDense(model, sequences) if isinstance(model, Toy) else Dense(model, sequences)
    chosen = torch.cat([torch.full((p.numel(),), name in F.params) for name, p in model.named_parameters()])
    return dense.gradients()[:, chosen]


@pytest.mark.parametrize("sizes", [(3, 2), (2, 2, 1)], ids=str)
@pytest.mark.parametrize("kind", TOYS, ids=lambda kind: kind.__name__)
def test_slices_that_are_moved_cut_or_shared_give_each_sequence_its_own_gradient(kind: type[Toy], sizes: Any) -> None:
    model, sequences = toy(kind), examples()
    if kind is ManyExperts:  # two sequences of four tokens, four for each expert
        ids = ((2, 4, 6, 1), (1, 3, 2, 5))
        sequences, sizes = [Example(i, i) for i in (*ids, *ids[::-1])], (2, 2)
    F = EmpiricalFisher(model, batched(sequences, sizes))
    assert_all_products(F, reference(model, sequences, F))


@pytest.mark.parametrize("kind", TOYS, ids=lambda kind: kind.__name__)
def test_a_part_of_the_parameters_below_others_is_right_too(kind: type[Toy]) -> None:
    model, sequences = toy(kind, lambda name: name in ("inner.weight", "positions.weight", "fused")), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    assert_right(F, reference(model, sequences, F))


def assert_right(F: EmpiricalFisher, G_nP: Tensor) -> None:
    gradients, c = F.gradients(), draw(len(G_nP), 1)
    assert relative(gradients.gram()[0], G_nP @ G_nP.T) < 1e-9
    assert relative(torch.cat([g.flatten() for g in gradients.adjoint(c).values()]), G_nP.T @ c) < 1e-9
    assert gradients.check() < 1e-9


def ends() -> dict[str, Callable[[], Any]]:
    import transformers as tf

    small: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip

    def made(config: Any, experts: str | None = None) -> Any:
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation=experts).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn(p.shape, dtype=torch.float64))
        return model

    def adapted(base: Any, **options: Any) -> Any:
        import peft

        torch.manual_seed(1)
        model: Any = peft.get_peft_model(base, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options)).double().eval()
        for name, p in model.named_parameters():
            if "lora" in name:  # one factor is zero at first, which would hide the gradient of the other
                nn.init.normal_(p, std=0.5)
        return model

    def hooked() -> Any:
        model = adapted(build("llama"), target_modules=["q_proj", "down_proj"])
        model.enable_input_require_grads()  # as with gradient checkpointing
        return model

    return {
        "an adapter on the embedding": lambda: adapted(build("llama", tied=False), target_modules=["embed_tokens", "q_proj"]),
        "dora": lambda: adapted(build("llama"), target_modules=["q_proj", "up_proj"], use_dora=True),
        "dora on gpt2": lambda: adapted(build("gpt2"), target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True),
        "gradient checkpointing's input hook": hooked,
        "gemma2": lambda: made(tf.Gemma2Config(**small)).double(),
        "gemma3": lambda: made(tf.Gemma3TextConfig(**small)).double(),
        "two of two experts": lambda: made(
            tf.MixtralConfig(**small, num_local_experts=2, num_experts_per_tok=2), "eager"
        ).double(),
        "one sorted expert a token": lambda: made(
            tf.GptOssConfig(**{**small, "num_hidden_layers": 1}, num_local_experts=2, num_experts_per_tok=1), "grouped_mm"
        ),
    }


ENDS = (
    "an adapter on the embedding", "dora", "dora on gpt2", "gradient checkpointing's input hook", "gemma2", "gemma3",
    "two of two experts", "one sorted expert a token",
)  # fmt: skip


@pytest.mark.filterwarnings(ODD)
@pytest.mark.parametrize("name", ENDS)
def test_real_models_that_capture_once_got_wrong_or_could_not_take(name: str) -> None:
    model, sequences = ends()[name](), examples()
    F = EmpiricalFisher(model, batched(sequences, (3, 2)), params="*layers.1.*" if name.startswith("gemma") else None)
    if F.dtype == torch.float64:
        assert_right(F, reference(model, sequences, F))
    else:  # kernels that know float32 only
        plain = copy.deepcopy(model).double()
        plain.set_experts_implementation("eager")
        assert relative(F.gradients().matrix().double(), reference(plain, sequences, F)) < 1e-4
    diagonal = KFAC(model, F.batches, params=list(F.params)).diagonal()
    assert torch.isfinite(diagonal).all()
    assert diagonal.max() > 0


def test_what_is_in_order_is_followed_without_a_further_pass() -> None:
    model, batches = build("opt"), batched(examples(), (3, 2))
    F = EmpiricalFisher(model, batches)
    _, uses = found(F)
    matrices = {name: of for name, of in uses.items() if F.params[name].ndim == 2}
    assert all(isinstance(use, (Outer, Lookup)) for of in matrices.values() for use in of)
    with Meter() as meter:
        found(F)
    assert meter.flops < F.gradient_flops * 0.8


def found(F: EmpiricalFisher, number: int = 0) -> tuple[Tensor, dict[str, list[Use]]]:
    batch = F.batches[number]
    B, T = batch["input_ids"].shape
    return capture.capture(F.losses(batch), F.params, F.fixed, (B, T))


def test_a_parameter_without_a_use_in_a_batch_has_no_gradient_there() -> None:
    model, sequences = toy(Pieces), examples()
    model.body = lambda h, ids: model.inner(h) if len(ids) == 3 else model.outer(h)
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(("inner", "outer", "head")))
    F = EmpiricalFisher(model, batched(sequences, (3, 2)))
    G_nP = F.gradients().matrix()
    assert relative(F.gradients().gram()[0], G_nP @ G_nP.T) < 1e-12
    for i, name in enumerate(("inner", "outer")):
        part = torch.cat([torch.full((p.numel(),), key.startswith(name)) for key, p in F.params.items()])
        of_first, of_second = G_nP[:3, part], G_nP[3:, part]
        assert (of_second if i == 0 else of_first).norm() == 0
        assert (of_first if i == 0 else of_second).norm() > 0
    assert KFAC(model, F.batches).diagonal().isfinite().all()


FAULTS: dict[str, Callable[[dict[str, list[Use]]], None]] = {}


def fault(function: Callable[[dict[str, list[Use]]], None]) -> Callable[[dict[str, list[Use]]], None]:
    FAULTS[function.__name__] = function
    return function


@fault
def a_use_is_dropped(uses: dict[str, list[Use]]) -> None:
    of = next(of for of in uses.values() if len(of) > 1)
    of.pop()


@fault
def tokens_are_counted_for_another_sequence(uses: dict[str, list[Use]]) -> None:
    name = next(name for name in uses if name.endswith("fc1.weight"))
    use = uses[name][0]
    assert isinstance(use, Outer)
    uses[name] = [Outer(use.left_BTp.roll(1, 0), use.right_BTq.roll(1, 0))]


@fault
def a_bias_is_counted_twice(uses: dict[str, list[Use]]) -> None:
    uses[next(name for name in uses if name.endswith("fc2.bias"))] *= 2


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that is wrong, and that its own residual does not show."""

    def wrong(*args: Any, **options: Any) -> Any:
        losses_B, uses = capture.capture(*args, **options)
        FAULTS[request.param](uses)
        return losses_B, uses

    monkeypatch.setattr(per_sequence, "capture", wrong)
    monkeypatch.setattr(kfac, "capture", wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("broken", FAULTS, indirect=True)
@pytest.mark.usefixtures("broken")
def test_a_wrong_capture_is_refused_before_the_first_solve(dtype: torch.dtype) -> None:
    model, batches = build("opt", dtype=dtype), batched(examples(), (3, 2))
    F = EmpiricalFisher(model, batches)
    message = r"differs from plain differentiation by a relative .*Leave it out with params=.*solver='cg'"
    for solver in ("woodbury", "block", "diagonal"):
        with pytest.raises(NumericsError, match=message):
            solve(F, torch.ones(F.size), named_solver(solver, 0.1))
    with pytest.raises(NumericsError, match=message):
        F.linearize() @ torch.ones(F.size)
    with pytest.raises(NumericsError, match=message):
        solve(KFAC(model, batches), torch.ones(F.size), Auto(0.1))
    # what is advised works
    assert solve(F, torch.ones(F.size), ConjugateGradients(10.0), tolerance=1e-3).converged


@pytest.mark.parametrize("sizes", [(5,), (1, 4)], ids=str)
def test_the_comparison_costs_at_most_a_gradient_of_one_text_once(sizes: Any) -> None:
    sequences = [Example(e.input_ids[:3], e.labels[:3]) for e in examples()[:2]] + [examples()[0]] * 3
    sequences = [Example(e.input_ids, e.input_ids) for e in sequences]
    model = build("opt")
    costs = []
    for _ in range(2):
        F = EmpiricalFisher(model, batched(sequences, sizes))
        planned = plan(F, Woodbury(0.1))
        solution = solve(F, draw(F.size), Auto(0.1))
        assert planned.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.1)
        costs.append(solution.gradient_evaluations / F.sequences * F.gradient_flops)
    one = EmpiricalFisher(model, batched(sequences[2:3], (1,)))
    assert 0 < costs[0] - costs[1] <= one.gradient_flops
    # of other parameters nothing is known yet
    assert confirm.due(EmpiricalFisher(model, batched(sequences, sizes), params="*fc1*")) is not None
    assert confirm.due(EmpiricalFisher(model, batched(sequences, (5,)))) is None


def test_a_text_whose_gradient_depends_on_its_batch_is_measured_there() -> None:
    """Not a fault of capture: its gradient alone is another one."""

    class Mean(Toy):
        def body(self, h: Tensor, ids: Tensor) -> Tensor:
            return self.inner(h) + h.detach().mean((0, 1))

    model = toy(Mean)
    F = EmpiricalFisher(model, batched(examples(), (3, 2)))
    found = F.gradients().matrix()
    expected = torch.stack([torch.cat([g.flatten() for g in F.adjoint(row).values()]) for row in torch.eye(5).double()])
    assert relative(found, expected) < 1e-9


def test_check_sees_what_it_is_given() -> None:
    F = EmpiricalFisher(build("opt"), batched(examples(), (3, 2)))
    gradients = SequenceGradients(F)
    assert gradients.check() < 1e-9
    kept = gradients._all()
    name = next(name for name in kept if name.endswith("fc1.weight"))
    use = kept[name][0][0]
    assert isinstance(use, Outer)
    kept[name][0][0] = Outer(1.01 * use.left_BTp, use.right_BTq)
    assert 0.005 < gradients.check() < 0.02
