"""Layers in a model: where they are, that they change nothing at first, what they compute, and which models are refused."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearn_lib.errors import InputError
from unlearn_lib.models import bottlenecks
from unlearn_lib.models.bottlenecks import Bottleneck, Shape, asleep, blocks, insert, layers, remove

IDS = torch.tensor([[5, 9, 2, 7, 30], [8, 8, 3, 1, 4]])
FAMILIES = ("opt", "neo", "llama", "gpt2", "phi", "gpt_neox", "mixtral")


def family(name: str, tiny: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model of two layers, 16 wide."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if name in ("opt", "neo"):
        return tiny(name, dtype=dtype)
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16} if name == "gpt2" else {
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_size": 16, "intermediate_size": 32,
    }  # fmt: skip
    config = AutoConfig.for_model(name, vocab_size=64, bos_token_id=0, eos_token_id=1, pad_token_id=0, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def learn(model: Any, seed: int = 1) -> None:
    """Give all layers of the last stage other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers(model, -1).values():
            for p in layer.parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_untrained_layers_change_no_bit_and_trained_ones_do(name: str, dtype: torch.dtype, tiny: Any) -> None:
    model = family(name, tiny, dtype)
    before, names = logits(model), [name for name, _ in model.named_parameters()]
    insert(model, Shape(bottleneck=3))
    assert torch.equal(logits(model), before)
    assert len(layers(model, -1)) == 4
    assert {p.dtype for layer in layers(model, -1).values() for p in layer.parameters()} == {torch.float32}
    assert [name for name, _ in model.named_parameters() if not bottlenecks.is_part(name)] == names
    for layer in layers(model, -1).values():  # everyone of them is applied
        torch.nn.init.normal_(layer.up.bias, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(logits(model), before)
        torch.nn.init.zeros_(layer.up.bias)
    learn(model)
    assert logits(model).dtype == dtype
    with asleep(model):
        assert torch.equal(logits(model), before)
    assert not torch.equal(logits(model), before)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other), logits(model))
    remove(model)
    assert torch.equal(logits(model), before)
    assert [name for name, _ in model.named_parameters()] == names
    assert not torch.equal(logits(other), before)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_a_layer_by_hand(activation: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = Bottleneck(4, Shape(bottleneck=3, activation=activation), generator).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, generator=generator)
    x = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    V, v, U, u = (p.detach() for p in (layer.down.weight, layer.down.bias, layer.up.weight, layer.up.bias))
    z = x @ V.T + v
    a = {
        "relu": z.clamp_min(0),
        "gelu": z * (1 + torch.erf(z / 2**0.5)) / 2,
        "silu": z / (1 + torch.exp(-z)),
    }[activation]
    torch.testing.assert_close(layer(x), x + a @ U.T + u)


@pytest.mark.parametrize(
    ("name", "attention", "feed_forward"),
    [
        ("opt", "self_attn", "fc2"),
        ("neo", "attn", "mlp"),
        ("llama", "self_attn", "mlp"),
        ("gpt2", "attn", "mlp"),
        ("gpt_neox", "attention", "mlp"),
    ],
)
def test_the_blocks_that_layers_follow(name: str, attention: str, feed_forward: str, tiny: Any) -> None:
    model = family(name, tiny)
    names = {id(module): place.split(".")[-1] for place, module in model.named_modules()}
    for after, expected in (("both", [attention, feed_forward]), ("attention", [attention]), ("feed-forward", [feed_forward])):
        assert [names[id(block)] for block in blocks(model, after)] == 2 * expected


@pytest.mark.parametrize("name", ["opt", "llama"])
def test_what_a_layer_adds_is_added_to_the_hidden_states(name: str, tiny: Any) -> None:
    """A constant from the last feed-forward layer alone is what the last hidden states gain before the final norm."""
    model, found = family(name, tiny), []
    decoder = model.model.decoder if name == "opt" else model.model
    norm = decoder.final_layer_norm if name == "opt" else decoder.norm
    norm.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    insert(model, Shape(after="feed-forward"))
    logits(model)
    constant = torch.arange(16.0)
    list(layers(model, -1).values())[-1].up.bias.data.copy_(constant)
    logits(model)
    torch.testing.assert_close(found[1] - found[0], constant.expand_as(found[0]), atol=1e-5, rtol=1e-5)


def test_the_first_values_are_those_of_the_seed(tiny: Any) -> None:
    def first(seed: int, dtype: torch.dtype) -> Tensor:
        model = tiny(dtype=dtype)
        torch.manual_seed(seed + 17)  # the global generator has no say
        insert(model, Shape(seed=seed, bottleneck=256))
        return torch.cat([layer.down.weight.detach().flatten() for layer in layers(model, -1).values()])

    assert torch.equal(first(3, torch.float64).float(), first(3, torch.float32))
    assert not torch.equal(first(3, torch.float32), first(4, torch.float32))
    assert first(3, torch.float64).std().item() == pytest.approx(1 / 16**0.5, rel=0.03)


def test_a_stage_follows_the_one_before(tiny: Any) -> None:
    model = tiny()
    insert(model, Shape())
    learn(model)
    one = logits(model)
    insert(model, Shape())
    assert torch.equal(logits(model), one)
    learn(model, 2)
    assert not torch.equal(logits(model), one)
    with asleep(model):
        assert torch.equal(logits(model), one)


def test_models_whose_blocks_cannot_be_found_are_refused(tiny: Any) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(InputError, match="MambaForCausalLM cannot be found: it has 0 lists of layers with attention blocks"):
        insert(mamba, Shape())
    odd = tiny()
    odd.model.decoder.layers[1].fc3 = odd.model.decoder.layers[1].fc2
    del odd.model.decoder.layers[1].fc2
    with pytest.raises(InputError, match=r"decoder layer 1 .* has 1 attention and 0 feed-forward blocks"):
        insert(odd, Shape())
    assert not any(isinstance(module, Bottleneck) for module in odd.modules())
