"""The logit lens against models that were cut behind a layer."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from configurations import build

from unlearn_lib.attacks.logit_lens import logit_lens, read_layers
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import evaluate
from unlearn_lib.metrics.memorisation import memorisation_accuracy, right_tokens
from unlearn_lib.models.layers import reading

EXAMPLES = [
    Example((2, 3, 4, 5, 6, 7, 3, 2), (-100, -100, 4, 5, 6, 7, 3, 2)),
    Example((9, 8, 3), (9, 8, 3)),
    Example((2, 2, 2, 2), (2, 2, 2, 2)),
]
READ = ["opt", "opt/post-norm", "gpt_neo", "gpt2", "gpt_neox", "llama", "qwen3", "phi", "bloom"]


def cut(model: Any, layers: int) -> Any:
    """The model of which only the first layers are left, as transformers runs it."""
    own = copy.deepcopy(model)
    kept = reading(own).layers
    del kept[layers:]
    for name in ("num_hidden_layers", "num_layers"):
        if hasattr(own.config, name):
            setattr(own.config, name, layers)
    return own


@pytest.mark.parametrize("name", READ)
def test_a_layer_says_what_the_model_cut_behind_it_says(name: str) -> None:
    model = build(name)
    found = read_layers(model, EXAMPLES)
    assert len(found) == 1 + model.config.num_hidden_layers == 3
    for layer, known in enumerate(found):
        shorter = cut(model, layer)
        losses = evaluate(shorter, make_batches(EXAMPLES, 3))
        torch.testing.assert_close(known.loss_n, losses, rtol=1e-7, atol=0)  # some norms are computed in float32
        right = right_tokens(shorter, EXAMPLES)
        assert known.accuracy_n.tolist() == [memorisation_accuracy([one]) for one in right]
    assert not torch.allclose(found[0].loss_n, found[1].loss_n)


@pytest.mark.parametrize("name", ["nano/opt-s", "nano/neo-s"])
def test_the_last_layer_is_the_model_itself(name: str, texts: list[dict[str, str]], fingerprint: Callable[[Any], str]) -> None:
    from unlearn_lib import load_model, text_losses
    from unlearn_lib.data.batches import encode

    model, tokenizer = load_model(name)
    before, hooks = fingerprint(model), count_hooks(model)
    examples = encode(texts[:5], tokenizer, 64).examples
    model.train()
    found = logit_lens(model, examples, batch_size=2)
    assert model.training
    model.eval()
    own = text_losses(model, tokenizer, texts[:5], max_length=64, long_texts="cut").double()
    assert found.by_layer[-1] == found.before == pytest.approx(float(own.mean()), rel=1e-5)
    assert len(found.by_layer) == model.config.num_hidden_layers + 1
    assert found.after == min(found.by_layer) == found.by_layer[found.layer]
    assert found.by_layer[0] > found.by_layer[-1] + 1  # the embeddings alone predict next to nothing
    assert (fingerprint(model), count_hooks(model)) == (before, hooks)


def count_hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_a_layer_that_still_knows_is_found() -> None:
    """The last layer is made to say nothing: it takes the state away again. The one before it still knows."""
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 300.0
    found = logit_lens(model, EXAMPLES, known=read_layers(model, EXAMPLES)[1].loss)
    assert found.layer < 2
    assert found.share is not None
    assert found.share >= 1.0 - 1e-12
    assert found.measures["accuracy"][0] == read_layers(model, EXAMPLES)[2].measures["accuracy"]


def test_batches_do_not_matter() -> None:
    for name in ("llama", "mistral"):  # Mistral's window leaves padding with nothing to look at
        model = build(name, torch.float32)
        one, other = (read_layers(model, EXAMPLES, batch_size=size) for size in (1, 3))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a.loss_n, b.loss_n, rtol=1e-5, atol=0)
            assert a.accuracy_n.tolist() == b.accuracy_n.tolist()


def test_adapters_are_read_through_the_model_inside() -> None:
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    plain = build("llama", torch.float32)
    wanted = [known.loss_n for known in read_layers(plain, EXAMPLES)]
    lora = get_peft_model(copy.deepcopy(plain), LoraConfig(target_modules=["q_proj"]))  # it begins as the plain model
    for known, loss_n in zip(read_layers(lora, EXAMPLES), wanted, strict=True):
        torch.testing.assert_close(known.loss_n, loss_n)
    prompted = get_peft_model(plain, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    losses = evaluate(prompted, make_batches(EXAMPLES, 3)).double()
    torch.testing.assert_close(read_layers(prompted, EXAMPLES)[-1].loss_n, losses)


@pytest.mark.parametrize("name", ["gemma2", "granite/multipliers", "cohere"])
def test_scaled_and_capped_logits_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="changes what its head gives"):
        logit_lens(build(name, torch.float32), EXAMPLES)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputError, match="it is not known where the layers, the final norm and the head of a MambaForCausalLM"):
        logit_lens(build("mamba"), EXAMPLES)
    with pytest.raises(InputError, match="there are none"):
        logit_lens(build("llama"), [])
    broken = build("llama")
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        logit_lens(broken, EXAMPLES)
