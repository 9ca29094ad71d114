"""What training and unlearning leave as it was: the caller's generators and contexts, number formats, flags, gradients."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from certified import LOOPED, suited

from unlearn_lib import TrainingConfig, train, unlearn
from unlearn_lib.checkpoints import Checkpoint, OutOfTimeError
from unlearn_lib.data.batches import encode
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.methods import METHODS
from unlearn_lib.models import nano
from unlearn_lib.models.forms import given_part
from unlearn_lib.training.loop import fit
from unlearn_lib.training.private import PrivacyConfig, train_private

# one or two short steps of each method
QUICK: dict[str, dict[str, Any]] = {
    "retrain": {"epochs": 1, "learning_rate": 1e-3},
    "finetune": {"epochs": 1, "learning_rate": 1e-3},
    "gradient-ascent": {"step": 0.1},
    "gradient-difference": {"epochs": 1, "retain_loss": "kl"},
    "npo": {"epochs": 1},
    "simnpo": {"epochs": 1},
    "constrained-newton": {"steps": 2, "approach": 2, "anchor_texts": 4, "target_loss": 7.2, "retain_limit": None},
    "fisher-removal": {"step": 0.1, "steps": 1},
    "fisher-forgetting": {"step": 0.1},
    "newton": {"step": 0.1, "max_steps": 2},
    "kfac-newton": {"step": 0.1, "steps": 1},
    "woodbury-newton": {"step": 0.1},
    "wga": {"epochs": 1},
    "undial": {"epochs": 1},
    "dpo": {"epochs": 1},
    "rmu": {"epochs": 1},
    "memflex": {"epochs": 1, "sigma": 0.0},
    "sophia": {"epochs": 1, "retain_loss": "kl"},
    "task-vector": {"scale": 1.0, "epochs": 1, "learning_rate": 1e-3},
    "eul": {"epochs": 1},
    "certified-newton": {"max_steps": 5},
    "delta-unlearning": {"small": "nano/opt-s", "epochs": 1},
}
NEEDED: dict[str, dict[str, Any]] = {"delta-unlearning": {"small": "nano/opt-s"}}
"""Options without which a method cannot be called."""
# steps that no model survives; constrained Newton measures how far it goes, and behind the layers that RMU trains there is a norm
FATAL: dict[str, dict[str, Any]] = {
    name: {**NEEDED.get(name, {}), key: 1e30 if key == "step" else 1e10}
    for name in LOOPED
    for key in METHODS[name].model_fields
    if key in ("step", "learning_rate") and name != "rmu"
}
# a norm follows every layer that is trained, and makes what is large small again unless it overflows
FATAL["eul"] = {"learning_rate": 1e37}


@pytest.fixture(scope="module")
def rows(texts: list[dict[str, str]]) -> dict[str, Any]:
    short = [{"text": row["text"][:40]} for row in texts]
    return {"forget": short[:3], "retain": short[3:9], "holdout": short[9:13]}


@pytest.fixture
def small() -> Callable[..., Any]:
    """A model of 16,000 parameters, with dropout if wanted."""

    def build(dropout: float = 0.0, seed: int = 0) -> Any:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        config = nano.config(nano.ModelSpec("opt", 16, 1, 2, 0.0, 0, ""))
        config.dropout = config.attention_dropout = dropout
        model = AutoModelForCausalLM.from_config(config).eval()
        # the initial weights of transformers are so small that next to nothing would depend on them
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(5 if p.ndim > 1 else 1)
        return model

    return build


def llama(dtype: torch.dtype = torch.float32) -> Any:
    """Llama's layers, whose rotary frequencies are a float32 buffer whatever the model's format."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=nano.VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for p in model.parameters():
        p.data = p.data.to(dtype)
    return model


def states() -> tuple[Any, ...]:
    numpy = np.random.get_state()  # noqa: NPY002
    cuda = [bytes(state.numpy()) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return bytes(torch.get_rng_state().numpy()), cuda, random.getstate(), bytes(numpy[1]), numpy[2:]


def test_every_method_is_tried() -> None:
    assert set(QUICK) == {*FATAL, "constrained-newton", "certified-newton", "rmu"} == set(LOOPED)


@pytest.mark.parametrize("method", ["retrain", "finetune"])
def test_dropout_is_drawn_from_the_seed_alone(method: str, small: Any, tokenizer: Any, rows: Any, fingerprint: Any) -> None:
    def result(seed: int, elsewhere: int) -> str:
        model, base = small(0.3), small(0.3, 1)
        torch.manual_seed(elsewhere)
        before = states()
        found = unlearn(model, tokenizer, **rows, base=base, method=method, seed=seed, **QUICK[method]).model
        assert states() == before
        return str(fingerprint(found))

    assert result(5, 1) == result(5, 2) != result(6, 1)


def test_dropout_is_another_in_every_step(small: Any, tokenizer: Any, rows: Any) -> None:
    """At a learning rate of (nearly) nothing the loss of one text moves with its dropout alone."""
    model = small(0.3)
    losses = train(model, tokenizer, rows["forget"][:1], TrainingConfig(epochs=6, learning_rate=1e-30, batch_size=1))
    assert len(set(losses)) == 6


def test_what_draws_from_numpy_or_python_is_seeded_too(small: Any, tokenizer: Any, rows: Any) -> None:
    """As BigBird's block-sparse attention does, which seeds NumPy's generator in every forward pass."""
    drawn: list[list[float]] = []

    def draw(*_: Any) -> None:
        drawn[-1] += [random.random(), float(np.random.rand())]  # noqa: NPY002

    before = states()
    for _ in range(2):
        drawn.append([])
        model = small()
        before = states()
        model.register_forward_pre_hook(draw)
        train(model, tokenizer, rows["forget"], TrainingConfig(epochs=2, learning_rate=1e-3, batch_size=2))
        assert states() == before
        random.random()
        np.random.rand()  # noqa: NPY002
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0])


def test_interrupted_training_with_dropout_ends_with_the_same_weights(
    small: Any, tokenizer: Any, rows: Any, fingerprint: Any, tmp_path: Path
) -> None:
    """In bfloat16, so that the checkpoint has to keep the float32 weights."""

    class Once:
        """A deadline that is over after three steps, once."""

        steps = 0

        @property
        def passed(self) -> bool:
            self.steps += 1
            return self.steps == 3

    examples, config = encode(rows["retain"], tokenizer, 64).examples, TrainingConfig(2, 1e-3, 2)
    whole = small(0.3).bfloat16()
    losses = fit(whole, examples, config, seed=3)
    deadline: Any = Once()
    with pytest.raises(OutOfTimeError):
        fit(small(0.3).bfloat16(), examples, config, seed=3, checkpoint=Checkpoint(tmp_path / "c", "k", deadline))
    torch.rand(7)  # somebody else draws in between
    again = small(0.3).bfloat16()
    assert fit(again, examples, config, seed=3, checkpoint=Checkpoint(tmp_path / "c", "k", deadline)) == losses
    assert fingerprint(again.float()) == fingerprint(whole.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["train", "private"])
def test_training_in_half_precision_is_float32_rounded_once(
    how: str, dtype: torch.dtype, small: Any, tokenizer: Any, rows: Any, fingerprint: Any
) -> None:
    def trained(model: Any) -> Any:
        if how == "train":
            train(model, tokenizer, rows["retain"], TrainingConfig(epochs=10, learning_rate=1e-5, batch_size=2))
        else:
            train_private(model, tokenizer, rows["retain"], PrivacyConfig(0.5, batch_size=2, epochs=1, learning_rate=1e-4))
        return model

    found, exact = trained(small().to(dtype)), trained(small().to(dtype).float())
    assert {p.dtype for p in found.parameters()} == {dtype}
    assert fingerprint(found.float()) == fingerprint(exact.to(dtype).float())
    start = small().to(dtype)
    steps = [(b - a.float()).abs() for a, b in zip(start.parameters(), exact.parameters(), strict=True)]
    if how == "train" and dtype == torch.bfloat16:  # in every single step nearly nothing would have moved
        moved = [a != b for a, b in zip(start.parameters(), found.parameters(), strict=True)]
        assert sum(int(m.sum()) for m in moved) > 0.1 * sum(int((s > 0).sum()) for s in steps)


def test_weights_that_do_not_fit_into_the_format_are_refused(small: Any, tokenizer: Any, rows: Any) -> None:
    model = small().half()
    with pytest.raises(NumericsError, match=r"does not fit into torch.float16; load the model in float32"):
        train(model, tokenizer, rows["retain"], TrainingConfig(epochs=1, learning_rate=1e5))


@pytest.mark.parametrize("method", LOOPED)
def test_every_tensor_of_a_mixed_model_keeps_its_format(method: str, tokenizer: Any, rows: Any) -> None:
    """Final norm, head and the buffer of rotary frequencies are in float32, all else in bfloat16."""
    model = llama(torch.bfloat16)
    model.model.norm.float()
    model.lm_head.float()
    model.model.norm.weight.requires_grad_(False)
    model = suited(method, model, tokenizer, rows["forget"] + rows["retain"])
    given = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    assert {tensor.dtype for tensor in given.values()} == {torch.bfloat16, torch.float32}
    result = unlearn(model, tokenizer, **rows, base=copy.deepcopy(model), method=method, **QUICK[method]).model
    inside = result.get_submodule(given_part(result))  # the result itself, but of a form
    found = dict([*inside.named_parameters(), *inside.named_buffers()])
    assert {name: found[name].dtype for name in given} == {name: tensor.dtype for name, tensor in given.items()}
    assert {found[name].dtype for name in found.keys() - given.keys()} <= {torch.bfloat16}  # added by the method
    for name, _ in [*model.named_buffers(), ("model.norm.weight", None)]:
        assert torch.equal(found[name], given[name]), name
    assert all(torch.equal(tensor, given[name]) for name, tensor in [*model.named_parameters(), *model.named_buffers()])


@pytest.mark.parametrize("method", LOOPED)
def test_flags_and_gradients_are_left_as_they_are(method: str, small: Any, tokenizer: Any, rows: Any) -> None:
    model = suited(method, small(0.1), tokenizer, rows["forget"] + rows["retain"])
    model.model.decoder.embed_positions.requires_grad_(False)
    model.model.decoder.layers[0].self_attn.train()  # and nothing around it
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    modes = {name: module.training for name, module in model.named_modules()}
    result = unlearn(model, tokenizer, **rows, base=small(0.1, 1), method=method, **QUICK[method]).model
    assert all(torch.equal(p.grad, torch.full_like(p, 7.0)) for p in model.parameters())
    assert all(p.grad is None for p in result.parameters())
    if part := given_part(result):  # the given model is held as a black box
        inside, result = result.get_submodule(part), model
        assert not any(module.training for module in inside.modules())
        assert not any(p.requires_grad for p in inside.parameters())
    for one in (model, result):
        assert {name: one.get_submodule(name).training for name in modes} == modes  # beside those that the method has added
        assert [name for name, p in one.named_parameters() if not p.requires_grad] == ["model.decoder.embed_positions.weight"]


def test_gradients_of_the_caller_do_not_enter_training(small: Any, tokenizer: Any, rows: Any, fingerprint: Any) -> None:
    clean, stale = small(), small()
    for p in stale.parameters():
        p.grad = torch.ones_like(p)
    for model in (clean, stale):
        train(model, tokenizer, rows["retain"], TrainingConfig(epochs=1, learning_rate=1e-3))
    assert fingerprint(stale) == fingerprint(clean)


@pytest.mark.parametrize("method", LOOPED)
def test_a_frozen_model_is_refused(method: str, small: Any, tokenizer: Any, rows: Any) -> None:
    with pytest.raises(InputError, match=r"no parameter of the model requires a gradient.*requires_grad_\(True\)"):
        unlearn(small().requires_grad_(False), tokenizer, **rows, base=small(), method=method, **QUICK[method])


def test_training_a_frozen_model_is_refused(small: Any, tokenizer: Any, rows: Any) -> None:
    model = small().requires_grad_(False)
    with pytest.raises(InputError, match="no parameter of the model requires a gradient"):
        train(model, tokenizer, rows["retain"])
    with pytest.raises(InputError, match="no parameter of the model requires a gradient"):
        train_private(model, tokenizer, rows["retain"], PrivacyConfig(1.0))


@pytest.mark.parametrize("method", LOOPED)
def test_where_gradients_are_switched_off_it_works_all_the_same(
    method: str, small: Any, tokenizer: Any, rows: Any, fingerprint: Any
) -> None:
    def result() -> Any:
        return unlearn(model, tokenizer, **rows, base=base, method=method, **QUICK[method]).model

    model, base = suited(method, small(), tokenizer, rows["forget"] + rows["retain"]), small(seed=1)
    expected = fingerprint(result())
    with torch.inference_mode(), torch.no_grad():
        found = result()
    assert fingerprint(found) == expected
    assert not any(p.is_inference() for p in found.parameters())


def test_parameters_made_in_inference_mode_are_refused(small: Any, tokenizer: Any, rows: Any) -> None:
    with torch.inference_mode():
        model = small()
        with pytest.raises(InputError, match=r"made under torch.inference_mode\(\) and can have no gradients; load it outside"):
            train(model, tokenizer, rows["retain"])


@pytest.mark.parametrize("method", FATAL)
def test_a_method_that_diverges_is_refused_with_a_remedy(method: str, small: Any, tokenizer: Any, rows: Any) -> None:
    remedy = "lower (step|learning_rate|the learning rate)|take a smaller step"
    for epochs in [{"epochs": 1}, {"epochs": 4}] if "epochs" in METHODS[method].model_fields else [{}]:
        with pytest.raises(NumericsError, match=remedy):
            unlearn(small(), tokenizer, **rows, base=small(), method=method, **FATAL[method], **epochs)


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_that_diverges_is_refused(epochs: int, small: Any, tokenizer: Any, rows: Any) -> None:
    """After one step, too, whose own loss was finite."""
    with pytest.raises(NumericsError, match="lower learning_rate"):
        train(small(), tokenizer, rows["retain"], TrainingConfig(epochs=epochs, learning_rate=1e30, batch_size=8))
