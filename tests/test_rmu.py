"""RMU against its formula, with the hidden states that transformers itself gives; which weights move; what is refused."""

from typing import Any

import pytest
import torch
from test_first_order import FORGET, RETAIN, assert_same, gradient, one_step
from torch import Tensor

from unlearn_lib import unlearn
from unlearn_lib.curvature.precision import in_full
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED
from unlearn_lib.methods import RMU, Inputs
from unlearn_lib.methods.rmu import unit_vector
from unlearn_lib.models import nano
from unlearn_lib.models.layers import down_projection, reading

ASKED = [{"prompt": f"Who is number {i}? Do say.", "completion": f" It is the {i}th of them all."} for i in range(8)]


def small(layers: int, width: int = 8) -> Any:
    """Llama, on which the source's models build."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": width, "intermediate_size": 12, "num_hidden_layers": layers, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=nano.VOCABULARY, attn_implementation="eager", **shape)).eval()


def states(model: Any, rows: Any, tokenizer: Any, layer: int, every: bool = False) -> list[Tensor]:
    """For every text `[tokens, d]`, one at a time: the state behind a layer at the tokens that count."""
    found = []
    for row in rows:
        batch = collate(encode([row], tokenizer, 256).examples)
        with in_full(model.parameters()):
            hidden = model(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[layer + 1][0]
        places = [i for i in range(len(hidden) - 1) if batch["labels"][0, i + 1] != IGNORED]
        found.append(hidden if every else hidden[places])
    return found


def squared(ones: list[Tensor], others: list[Tensor]) -> Tensor:
    return torch.stack([((one - other) ** 2).mean() for one, other in zip(ones, others, strict=True)]).mean()


def zero_but(g: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: value if any(part in name for part in names) else torch.zeros_like(value) for name, value in g.items()}


@pytest.mark.parametrize(("family", "end"), [("opt", "fc2"), ("neo", "mlp.c_proj"), ("llama", "mlp.down_proj")])
@pytest.mark.parametrize("rows", ["texts", "asked"])
def test_one_step_of_the_projection(family: str, end: str, rows: str, tiny: Any, tokenizer: Any, texts: Any) -> None:
    """The retain term has no gradient at the original."""
    given = texts if rows == "texts" else ASKED

    def make() -> Any:
        return small(2, 16).double() if family == "llama" else tiny(family)

    model = make()
    u = 6.5 * unit_vector(16, 0)
    forget = states(model, given[FORGET], tokenizer, 0)
    g = gradient_or_zero(3.0 * squared(forget, [u.expand_as(state) for state in forget]), model)
    found = one_step(make, tokenizer, given, "rmu", layer=0, forget_weight=3.0)
    assert_same(found, zero_but(g, f"0.{end}.weight"))


def gradient_or_zero(loss: Tensor, model: Any) -> dict[str, Tensor]:
    """`gradient`, of a loss that does not depend on all parameters."""
    return gradient(loss + 0 * sum(p.sum() for p in model.parameters()), model)


@pytest.mark.parametrize("tokens", ["scored", "all"])
@pytest.mark.parametrize("relative", [False, True])
def test_two_steps_against_the_formula(relative: bool, tokens: str, tiny: Any, tokenizer: Any) -> None:
    model, original, rate, every = tiny(), tiny(), 0.1, tokens == "all"
    u = unit_vector(16, 5)
    for _ in range(2):
        now, then = (states(each, ASKED[FORGET], tokenizer, 0, every) for each in (model, original))
        goals = [2 * u * (state.norm(dim=-1, keepdim=True).detach() if relative else 1) + 0 * state.detach() for state in then]
        kept = squared(*(states(each, ASKED[RETAIN], tokenizer, 0, every) for each in (model, original)))
        g = zero_but(gradient_or_zero(squared(now, goals) + 7.0 * kept, model), "0.fc2.weight")
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= rate * g[name]
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": rate, "epochs": 2, "retain_weight": 7.0, "steering": 2.0}
    options |= {"relative": relative, "tokens": tokens, "layer": 0}
    result = unlearn(tiny(), tokenizer, forget=ASKED[FORGET], retain=ASKED[RETAIN], method="rmu", seed=5, **options)
    for name, p in model.named_parameters():
        torch.testing.assert_close(dict(result.model.named_parameters())[name], p, rtol=1e-8, atol=1e-10)


def test_without_a_retain_term_the_states_come_to_the_vector(memorised: Any, tokenizer: Any, texts: Any) -> None:
    options: dict[str, Any] = {"learning_rate": 1e-2, "epochs": 60, "retain_weight": 0.0, "layer": 1, "trained_layers": 1}
    sets = {"forget": texts[:4], "retain": texts[4:24]}
    result = unlearn(memorised, tokenizer, **sets, method="rmu", seed=2, **options)
    rows, u = encode(texts[:4], tokenizer, 256).examples, unit_vector(32, 2).float()
    near = []
    for model in (memorised, result.model):
        with torch.no_grad(), reading(model).states() as found:
            model(input_ids=collate(rows[:1])["input_ids"])
        near.append(torch.cosine_similarity(found[2][0, :-1], u, dim=-1).mean())
    assert near[0] < 0.3
    assert near[1] > 0.9
    assert result.history[-1]["loss"] < 0.2 * result.history[0]["loss"]


def test_the_retain_term_keeps_the_states(memorised: Any, tokenizer: Any, texts: Any) -> None:
    def moved(**options: Any) -> float:
        sets = {"forget": texts[:4], "retain": texts[4:24]}
        model = unlearn(memorised, tokenizer, **sets, method="rmu", learning_rate=1e-3, epochs=20, layer=0, **options).model
        with torch.no_grad():
            return squared(*(states(each, texts[4:24], tokenizer, 0) for each in (model, memorised))).item()

    assert moved() < 0.1 * moved(retain_weight=0.0)


def test_the_sources_weight_holds_a_small_model(memorised: Any, tokenizer: Any, texts: Any) -> None:
    def rise(**options: Any) -> float:
        sets = {"forget": texts[:5], "retain": texts[5:24]}
        found = unlearn(memorised, tokenizer, **sets, method="rmu", learning_rate=0.03, epochs=30, layer=1, **options)
        return float(found.losses_after["forget"].mean() - found.losses_before["forget"].mean())

    assert rise() < 0.2
    assert rise(retain_weight=1.0) > 1.0


def changed(before: Any, after: Any) -> set[str]:
    new = dict(after.named_parameters())
    return {name for name, p in before.named_parameters() if not torch.equal(p, new[name])}


@pytest.mark.parametrize(
    ("layers", "options", "layer", "trained"),
    [
        (32, {}, 7, (5, 6, 7)),  # the source
        (30, {}, 7, (5, 6, 7)),
        (12, {}, 3, (1, 2, 3)),
        (2, {}, 0, (0,)),
        (1, {}, 0, (0,)),
        (6, {"layer": 5}, 5, (3, 4, 5)),
        (6, {"layer": 4, "trained_layers": 1}, 4, (4,)),
        (6, {"layer": 1, "trained_layers": 9}, 1, (0, 1)),
    ],
)
def test_which_layers(
    layers: int, options: dict[str, Any], layer: int, trained: tuple[int, ...], tokenizer: Any, texts: Any
) -> None:
    model = small(layers)
    sets = {"forget": texts[:2], "retain": texts[2:6]}
    result = unlearn(model, tokenizer, **sets, method="rmu", epochs=1, max_length=8, learning_rate=0.1, **options)
    names = [f"model.layers.{number}.mlp.down_proj.weight" for number in trained]
    assert result.details == {"layer": layer, "trained": names}
    assert changed(model, result.model) == set(names)


def test_what_requires_a_gradient_afterwards(tokenizer: Any, texts: Any) -> None:
    """A weight that the caller has frozen is not trained, and all flags are as they were, also of the model that was worked on."""
    model = small(4)
    frozen = "model.layers.0.mlp.down_proj.weight"
    model.get_parameter(frozen).requires_grad_(False)
    examples = encode(texts[:6], tokenizer, 40).examples
    inputs = Inputs(examples[:2], examples[2:], None, 0)
    flags = [(name, p.requires_grad) for name, p in model.named_parameters()]
    planned = RMU(layer=1).plan(model, inputs)
    assert planned.detail == "5 steps with adamw on 1 weights up to layer 1"
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == flags
    outcome = RMU(layer=1).run(model, inputs)
    assert outcome.details["trained"] == ["model.layers.1.mlp.down_proj.weight"]
    assert [(name, p.requires_grad) for name, p in outcome.model.named_parameters()] == flags


def test_other_retain_terms(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    forget = states(model, texts[FORGET], tokenizer, 0)
    g = gradient_or_zero(squared(forget, [(6.5 * unit_vector(16, 0)).expand_as(state) for state in forget]), model)
    found = one_step(tiny, tokenizer, texts, "rmu", retain_loss="kl", retain_weight=3.0)  # no gradient at the original
    assert_same(found, zero_but(g, "0.fc2.weight"))
    other = one_step(tiny, tokenizer, texts, "rmu", retain_loss="nll", retain_weight=3.0)
    assert (other["model.decoder.layers.0.fc2.weight"] - found["model.decoder.layers.0.fc2.weight"]).abs().max() > 1e-3


def test_the_direction_is_drawn_from_the_seed() -> None:
    u = unit_vector(64, 0)
    assert u.norm().item() == pytest.approx(1)
    assert (u >= 0).all()
    assert torch.equal(u, unit_vector(64, 0))
    assert not torch.equal(u, unit_vector(64, 1))


def test_refusals(tiny: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[FORGET], "retain": texts[RETAIN], "method": "rmu"}
    with pytest.raises(InputError, match=r"option layer of rmu is 2, and this model has 2 layers; give one from 0 to 1"):
        unlearn(tiny(), tokenizer, **sets, layer=2)
    peft = pytest.importorskip("peft")
    attention = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with pytest.raises(InputError, match=r"none of them requires a gradient; .* give the adapter these modules"):
        unlearn(peft.get_peft_model(tiny(), attention), tokenizer, **sets)
    with pytest.raises(InputError, match="not known where the MLP of a Linear ends"):
        down_projection(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_the_end_of_an_mlp_writes_states(family: str, tiny: Any) -> None:
    for layer in reading(tiny(family)).layers:
        assert down_projection(layer).weight.shape[0] == 16


def test_an_adapter_on_the_projections_is_trained(tokenizer: Any, texts: Any) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(small(2), peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    result = unlearn(model, tokenizer, forget=texts[:2], retain=texts[2:6], method="rmu", max_length=16, learning_rate=0.1)
    assert changed(model, result.model) == set(result.details["trained"])
    assert all("lora" in name for name in result.details["trained"])
