"""A large model with an offset: its logits, what it writes, how it is saved, and that metrics, training and audits take it."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, load_model, save_model, train, unlearn
from unlearn_lib.audit.auditing import audit
from unlearn_lib.audit.settings import Settings
from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.errors import InputError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.metrics.generation import greedy_continuations
from unlearn_lib.models import forms
from unlearn_lib.models.offset import OffsetForCausalLM
from unlearn_lib.models.suited import check_causal
from unlearn_lib.unlearning.working import working_copy

IDS = torch.tensor([[5, 17, 300, 4, 900, 33], [8, 9, 10, 11, 12, 13]])
MASK = torch.ones_like(IDS)


@pytest.fixture
def summed(tiny: Any) -> Any:
    """An offset of one family on another, whose small model has moved."""
    reference, small = tiny("opt", seed=1), tiny("opt", seed=1)
    with torch.no_grad():
        for p in small.parameters():
            p.mul_(1.1)
    return OffsetForCausalLM(tiny("neo", seed=2), small, reference, 0.5)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=MASK).logits
    return found


def unchanged(large: Any, reference: Any) -> Any:
    return OffsetForCausalLM(copy.deepcopy(large), copy.deepcopy(reference), reference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["opt", "neo"])
def test_an_unchanged_offset_is_the_large_model_bit_for_bit(family: str, dtype: torch.dtype, tiny: Any) -> None:
    large = tiny(family, dtype)
    found, expected = logits(unchanged(large, tiny("opt", dtype, seed=7))), logits(large)
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.int8), expected.view(torch.int8))


def test_the_sum(summed: Any) -> None:
    expected = logits(summed.large) + 0.5 * (logits(summed.small) - logits(summed.reference))
    torch.testing.assert_close(logits(summed), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(expected, logits(summed.large), atol=1e-2)


def test_known_logits_of_the_large_model_are_taken_in_its_place(summed: Any) -> None:
    expected, known = logits(summed), logits(summed.large)
    summed.large.forward = None  # it cannot be asked
    with torch.no_grad():
        found = summed(input_ids=IDS, attention_mask=MASK, large_logits=known + 1).logits
    torch.testing.assert_close(found, expected + 1, rtol=0, atol=1e-12)


def test_the_loss_is_that_of_transformers(summed: Any) -> None:
    out = summed(input_ids=IDS, labels=IDS)
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS}
    assert float(out.loss.detach()) == pytest.approx(float(sequence_losses(summed, batch).detach().mean()), rel=1e-6)


def test_only_the_small_model_learns(summed: Any) -> None:
    assert {name.partition(".")[0] for name in trainable(summed)} == {"small"}
    summed(input_ids=IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in summed.small.parameters())
    assert all(p.grad is None for part in (summed.large, summed.reference) for p in part.parameters())


def test_training_mode_is_that_of_the_small_model_alone(summed: Any) -> None:
    assert [model.train().training for model in (summed, copy.deepcopy(summed))] == [True, True]
    assert (summed.large.training, summed.small.training, summed.reference.training) == (False, True, False)
    assert not any(module.training for module in summed.eval().modules())


def test_training_moves_only_the_small_model(summed: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    own = copy.deepcopy(summed)
    train(own, tokenizer, texts[:4], TrainingConfig(2, 1e-3))
    assert fingerprint(own.large) == fingerprint(summed.large)
    assert fingerprint(own.reference) == fingerprint(summed.reference)
    assert fingerprint(own.small) != fingerprint(summed.small)


@pytest.mark.parametrize("family", ["opt", "neo"])
@pytest.mark.parametrize("settings", [{}, {"use_cache": False}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_an_unchanged_offset_writes_what_the_large_model_writes(family: str, settings: dict[str, Any], tiny: Any) -> None:
    large = tiny(family)
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **settings}
    expected = large.generate(IDS, attention_mask=MASK, **settings)
    assert torch.equal(unchanged(large, tiny("opt", seed=7)).generate(IDS, attention_mask=MASK, **settings), expected)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_prompts_that_are_padded_on_the_left(family: str, tiny: Any) -> None:
    """In float32, because transformers' OPT gives no numbers for such prompts in float64."""
    large, reference, mask = tiny(family, torch.float32), tiny("opt", torch.float32, seed=7), MASK.clone()
    mask[0, :3] = 0
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    found = unchanged(large, reference).generate(IDS, attention_mask=mask, **settings)
    assert torch.equal(found, large.generate(IDS, attention_mask=mask, **settings))
    alone = large.generate(IDS[:1, 3:], attention_mask=MASK[:1, 3:], **settings)
    assert torch.equal(found[0, 3:], alone[0])


def test_greedy_text_is_the_argmax_of_the_sum(summed: Any) -> None:
    ids = IDS[:1]
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, summed(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    (found,) = greedy_continuations(summed, [tuple(IDS[0].tolist())], 6, ends=())
    assert found == tuple(ids[0, IDS.shape[1] :].tolist())
    assert not torch.equal(summed.large.generate(IDS[:1], max_new_tokens=6, do_sample=False, pad_token_id=0), ids)


@pytest.fixture
def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        initializer_range=0.5, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).double().eval()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_with_a_cache_it_writes_what_it_writes_without(settings: dict[str, Any], summed: Any, llama: Any) -> None:
    """Three families, with different numbers of layers, and every model is asked for new tokens alone."""
    for model in (summed, OffsetForCausalLM(llama, summed.small, summed.reference, 0.5)):
        lengths: list[int] = []
        count = partial(_count, lengths)
        hooks = [one.register_forward_pre_hook(count, with_kwargs=True) for one in (model.large, model.reference, model.small)]
        own = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None, **settings}
        cached = model.generate(IDS, attention_mask=MASK, **own)
        assert lengths == [6] * 3 + [1] * 3 * 7
        for hook in hooks:
            hook.remove()
        assert torch.equal(cached, model.generate(IDS, attention_mask=MASK, use_cache=False, **own))
        assert len(set(cached[0, 6:].tolist())) > 1


def _count(lengths: list[int], _: Any, __: Any, kwargs: Any) -> None:
    lengths.append(kwargs["input_ids"].shape[1])


def test_a_model_without_keys_and_values_is_read_anew_for_every_token(summed: Any, tiny: Any) -> None:
    outer = unchanged(summed, tiny("opt", seed=9))
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(
        outer.generate(IDS, attention_mask=MASK, **settings), summed.generate(IDS, attention_mask=MASK, **settings)
    )


def test_a_cache_for_another_model_is_refused(summed: Any) -> None:
    from transformers import DynamicCache

    with pytest.raises(InputError, match="not one for all models of this sum"):
        summed.generate(IDS, past_key_values=DynamicCache(config=summed.large.config), max_new_tokens=2)


def test_it_is_causal_and_its_context_is_the_shorter_one(tiny: Any) -> None:
    reference = tiny("opt", seed=1)
    reference.config.max_position_embeddings = 100
    model = OffsetForCausalLM(tiny("neo"), copy.deepcopy(reference), reference)
    check_causal(model)
    assert model.config.max_position_embeddings == 100
    assert model.large.config.max_position_embeddings == 256


def test_logits_of_other_shapes_are_not_added(tiny: Any) -> None:
    small = tiny()
    small.resize_token_embeddings(1030, mean_resizing=False)
    with pytest.raises(InputError, match=r"of shape \(2, 6, 1024\) and the small one of shape \(2, 6, 1030\)"):
        logits(OffsetForCausalLM(tiny(), small, copy.deepcopy(small)))
    with pytest.raises(InputError, match="a finite number, got inf"):
        OffsetForCausalLM(tiny(), small, small, float("inf"))


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / forms.FILE).read_text())
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_that_lie_elsewhere_are_named(dtype: str, tokenizer: Any, tmp_path: Path) -> None:
    large, reference = (load_model(name, device="cpu")[0] for name in ("nano/opt-m", "nano/opt-s"))
    small = copy.deepcopy(reference)
    with torch.no_grad():
        small.lm_head.weight.mul_(1.1)
    model = OffsetForCausalLM(large, small, reference, 0.5)
    save_model(model, tokenizer, tmp_path / "model")
    expected = {"form": "offset", "version": 1, "large": "nano/opt-m", "reference": "nano/opt-s", "scale": 0.5}
    assert written(tmp_path / "model") == expected
    assert sum(path.stat().st_size for path in (tmp_path / "model").rglob("*.safetensors")) < 1e6
    found, of = load_model(tmp_path / "model", dtype=dtype)
    assert {p.dtype for p in found.parameters()} == {getattr(torch, dtype)}
    assert of.get_vocab() == tokenizer.get_vocab()
    assert not any(module.training for module in found.modules())
    assert {name.partition(".")[0] for name in trainable(found)} == {"small"}
    assert torch.equal(logits(found), logits(model.to(getattr(torch, dtype))))


def test_models_that_changed_since_they_were_loaded_are_written(summed: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Their names say where other weights are."""
    large = load_model("nano/opt-s", device="cpu")[0]
    with torch.no_grad():
        large.model.decoder.layers[0].fc1.bias[0] += 1e-3
    model = OffsetForCausalLM(large, load_model("nano/opt-s", device="cpu")[0], load_model("nano/opt-s", device="cpu")[0])
    save_model(model, tokenizer, tmp_path / "here")
    assert written(tmp_path / "here")["large"] == "./large"
    assert written(tmp_path / "here")["reference"] == "nano/opt-s"
    (tmp_path / "here").rename(tmp_path / "there")
    assert torch.equal(logits(load_model(tmp_path / "there")[0]), logits(model))
    save_model(summed, tokenizer, tmp_path / "made")
    assert {written(tmp_path / "made")[name] for name in ("large", "reference")} == {"./large", "./reference"}
    assert torch.equal(logits(load_model(tmp_path / "made", dtype="float64")[0]), logits(summed))


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_saving_does_not_depend_on_files_elsewhere(damage: str, tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    save_model(tiny(dtype=torch.float32), tokenizer, tmp_path / "large")
    large, reference = load_model(tmp_path / "large", device="cpu")[0], load_model("nano/opt-s", device="cpu")[0]
    model, weights = unchanged(large, reference), tmp_path / "large" / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        weights.unlink()
    save_model(model, tokenizer, tmp_path / "model")
    assert written(tmp_path / "model")["large"] == "./large"
    assert torch.equal(logits(load_model(tmp_path / "model", device="cpu")[0]), logits(model))


def test_a_folder_is_named_by_its_whole_path(tiny: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    save_model(tiny(dtype=torch.float32), tokenizer, tmp_path / "large")
    monkeypatch.chdir(tmp_path)
    large, reference = load_model("large", device="cpu")[0], load_model("nano/opt-s", device="cpu")[0]
    save_model(OffsetForCausalLM(large, copy.deepcopy(reference), reference), tokenizer, "model")
    assert written(tmp_path / "model")["large"] == str(tmp_path / "large")


def test_a_name_is_no_folder_and_a_form_does_not_name_itself(
    tiny: Any, tokenizer: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Saved where one works, and over the folder of its large model."""
    save_model(tiny(dtype=torch.float32), tokenizer, tmp_path)
    monkeypatch.chdir(tmp_path)
    large, reference = load_model(".", device="cpu")[0], load_model("nano/opt-s", device="cpu")[0]
    model = OffsetForCausalLM(large, copy.deepcopy(reference), reference)
    save_model(model, tokenizer, ".")
    assert {name: written(tmp_path)[name] for name in ("large", "reference")} == {"large": "./large", "reference": "nano/opt-s"}
    again = load_model(tmp_path, device="cpu")[0]
    assert torch.equal(logits(again), logits(model))
    save_model(again, tokenizer, tmp_path)
    assert written(tmp_path)["large"] == "./large"
    assert torch.equal(logits(load_model(tmp_path, device="cpu")[0]), logits(model))


@pytest.mark.parametrize("method", ["gradient-ascent", "delta-unlearning"])
def test_a_narrow_offset_that_forgets_again_keeps_its_format(method: str, tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = unchanged(tiny("neo", torch.bfloat16), tiny("opt", torch.bfloat16, seed=1))
    options = {"step": 0.1} if method == "gradient-ascent" else {"small": "nano/opt-s", "epochs": 1}
    found = unlearn(model, tokenizer, forget=texts[:2], retain=texts[2:6], method=method, **options).model
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    part = found if method == "gradient-ascent" else found.large
    assert all(torch.equal(a, b) for a, b in zip(part.large.parameters(), model.large.parameters(), strict=True))


def test_an_offset_on_an_offset(summed: Any, tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    reference = tiny("opt", seed=9)
    outer = unchanged(summed, reference)
    assert torch.equal(logits(outer), logits(summed))
    save_model(outer, tokenizer, tmp_path)
    assert torch.equal(logits(load_model(tmp_path, dtype="float64")[0]), logits(summed))


def test_settings_for_generation_are_kept(summed: Any, tokenizer: Any, tmp_path: Path) -> None:
    summed.generation_config.max_new_tokens = 3
    save_model(summed, tokenizer, tmp_path)
    assert load_model(tmp_path)[0].generation_config.max_new_tokens == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"large": None}, "does not name the large model"),
        ({"reference": 3}, "does not name the large model and the small one"),
        ({"scale": "1"}, "does not say the factor"),
        ({"scale": True}, "does not say the factor"),
        ({"scale": 1e999}, "a finite number, got inf"),
        ({"large": "./gone"}, "gone"),
        ({"reference": "nano/opt-m"}, "cannot be loaded"),
    ],
)
def test_what_the_file_says_is_checked(change: dict[str, Any], message: str, tiny: Any, tokenizer: Any, tmp_path: Path) -> None:
    reference = load_model("nano/opt-s", device="cpu")[0]
    save_model(OffsetForCausalLM(copy.deepcopy(reference), copy.deepcopy(reference), reference), tokenizer, tmp_path)
    (tmp_path / forms.FILE).write_text(json.dumps({**written(tmp_path), **change}))
    with pytest.raises(InputError, match=message) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_damaged_file_is_refused(summed: Any, tokenizer: Any, tmp_path: Path) -> None:
    save_model(summed, tokenizer, tmp_path)
    content = (tmp_path / "offset.safetensors").read_bytes()
    (tmp_path / "offset.safetensors").write_bytes(content[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(tmp_path)


def test_a_narrow_offset_is_widened_as_a_whole(tiny: Any) -> None:
    reference = tiny("opt", torch.bfloat16)
    model = working_copy(unchanged(tiny("neo", torch.bfloat16), reference))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_an_audit_takes_it(memorised: Any, tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    reference = load_model("nano/opt-s", device="cpu")[0]
    model = unchanged(memorised, reference)
    sets = {"forget": texts[:6], "retain": texts[6:24], "holdout": texts[24:]}
    found, plain = (audit(one, tokenizer, **sets, settings=Settings()) for one in (model, memorised))
    assert found.losses["audited"] == plain.losses["audited"]
    skipped = [{one.name for one in of.skipped} for of in (found, plain)]
    assert skipped[0] - skipped[1] == {"audited: the logit lens"}  # the sum has no layers
    assert found.curves
