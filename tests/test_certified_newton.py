"""Certified removal behind the one call: training of the head, removals, what is refused, and the saved form."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import load_model, save_model, sequence_losses, train_certified_head, unlearn
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.methods import CertifiedNewton
from unlearn_lib.methods.certificate import allowed_residual, epsilon_spent
from unlearn_lib.models.certified import certify
from unlearn_lib.models.forms import FILE
from unlearn_lib.models.head_features import is_tied
from unlearn_lib.models.load import stored_formats
from unlearn_lib.training.certified import _noise
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

SETTINGS: dict[str, Any] = {"weight_decay": 1.0, "sigma": 100.0, "body_public": True, "seed": 0}
METHOD: dict[str, Any] = {"method": "certified-newton"}


@pytest.fixture(scope="module")
def rows(texts: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"text": row["text"][:50]} for row in texts[:10]]


@pytest.fixture
def model(tiny: Any, tokenizer: Any, rows: Any) -> Any:
    return train_certified_head(tiny(), tokenizer, rows, **SETTINGS)


def gradient(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> torch.Tensor:
    """That of the whole objective by the model's head, text by text through the model itself."""
    state, head = model.certificate, model.get_output_embeddings().weight
    total = state.noise_Vd + state.convexity(len(rows)) * (head.detach() - state.center_Vd)
    for row in rows:
        with KeepFloat64():
            loss = sequence_losses(model, collate(encode([row], tokenizer, 256).examples)).sum()
        total = total + torch.autograd.grad(loss, head)[0]
    return total


@pytest.mark.parametrize("family", ["opt", "neo"])
@pytest.mark.parametrize("towards", ["zero", "head"])
def test_the_trained_head_minimises_the_objective(
    family: str, towards: Any, tiny: Any, tokenizer: Any, rows: Any, fingerprint: Any
) -> None:
    given = tiny(family)
    before = fingerprint(given)
    model = train_certified_head(given, tokenizer, rows, **SETTINGS, towards=towards)
    assert float(gradient(model, tokenizer, rows).norm()) <= 2e-6
    assert fingerprint(given) == before
    assert is_tied(given)
    assert given.config.tie_word_embeddings
    assert not is_tied(model)
    assert not model.config.tie_word_embeddings
    old, new = (dict(one.named_parameters()) for one in (given, model))
    assert all(torch.equal(new[name], p) for name, p in old.items())
    center = given.get_output_embeddings().weight if towards == "head" else torch.zeros(1024, 16, dtype=torch.float64)
    assert torch.equal(model.certificate.center_Vd, center.detach())
    assert type(model).__name__ == type(given).__name__


def test_the_noise_is_of_the_seed_or_of_nobody(tiny: Any, tokenizer: Any, rows: Any) -> None:
    def noise(seed: int | None) -> torch.Tensor:
        settings = {**SETTINGS, "seed": seed}
        found: torch.Tensor = train_certified_head(tiny(), tokenizer, rows[:2], **settings).certificate.noise_Vd
        return found

    assert torch.equal(noise(3), noise(3))
    assert not torch.equal(noise(None), noise(None))
    assert float(noise(4).std()) == pytest.approx(100, rel=0.02)


def test_modes_and_flags_are_kept(tiny: Any, tokenizer: Any, rows: Any) -> None:
    given = tiny().train()
    given.model.decoder.layers[0].eval()
    given.model.requires_grad_(False)
    model = train_certified_head(given, tokenizer, rows[:2], **SETTINGS)
    modes = {name: module.training for name, module in given.named_modules()}
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(p.requires_grad for p in model.parameters())  # the head was the embedding, which was frozen


def test_a_removal_leads_to_the_minimum_without_the_texts(model: Any, tokenizer: Any, rows: Any) -> None:
    result = unlearn(model, tokenizer, forget=rows[2:4], **METHOD)
    state, found = result.model.certificate, result.details
    left = [*rows[:2], *rows[4:]]
    residual = float(gradient(result.model, tokenizer, left).norm())
    assert residual == pytest.approx(found["residual"], rel=0.01, abs=1e-9)
    assert residual <= found["spent"] == state.spent
    assert found["spent"] <= found["allowed"] == allowed_residual(100.0, 1.0, 1e-5)
    assert found["epsilon_spent"] == epsilon_spent(state.spent, 100.0, 1e-5)
    assert float(gradient(model, tokenizer, left).norm()) > 100 * residual  # the head before is no such minimum
    assert [entry["texts"] for entry in result.history] == [1, 1]
    assert found["bounds"]["data_bound"] < 0.1 * found["bounds"]["worst_bound"]
    assert (found["removed"], found["texts_left"]) == (2, 8)
    assert len(model.certificate.texts) == 10
    gone = {key for key in model.certificate.texts.keys if key not in state.texts.keys}
    assert len(gone) == 2
    assert (
        len(state.texts.labels_N)
        == len(state.texts.features_Nd)
        == sum(len(encode([r], tokenizer, 256).examples[0].input_ids) - 1 for r in left)
    )


def test_requests_one_after_the_other_add_up(model: Any, tokenizer: Any, rows: Any, fingerprint: Any) -> None:
    together = unlearn(model, tokenizer, forget=rows[2:4], **METHOD)
    first = unlearn(model, tokenizer, forget=rows[2:3], **METHOD)
    second = unlearn(first.model, tokenizer, forget=rows[3:4], **METHOD)
    assert fingerprint(second.model) == fingerprint(together.model)
    assert second.details["spent"] == together.details["spent"] > first.details["spent"] > model.certificate.spent
    assert second.details["removed"] == 2


def test_all_at_once_is_one_step_that_spends_more(model: Any, tokenizer: Any, rows: Any) -> None:
    once = unlearn(model, tokenizer, forget=rows[2:6], at_a_time=None, **METHOD)
    single = unlearn(model, tokenizer, forget=rows[2:6], **METHOD)
    assert [entry["texts"] for entry in once.history] == [4]
    assert once.details["bounds"]["data_bound"] > 2 * single.details["bounds"]["data_bound"]
    # both are near the same minimum
    distance = float((once.model.certificate.head_Vd - single.model.certificate.head_Vd).norm())
    assert 0 < distance <= once.details["distance_bound"] + single.details["distance_bound"]


def test_texts_that_are_equal_leave_together(tiny: Any, tokenizer: Any, rows: Any) -> None:
    model = train_certified_head(tiny(), tokenizer, [*rows[:4], rows[1]], **SETTINGS)
    result = unlearn(model, tokenizer, forget=[rows[1], rows[1]], **METHOD)
    assert [entry["texts"] for entry in result.history] == [2]
    assert len(result.model.certificate.texts) == 3


def test_a_long_text_is_one_text(tiny: Any, tokenizer: Any, rows: Any) -> None:
    """Its pieces count as one mean over all its tokens, and leave together."""
    model = train_certified_head(tiny(), tokenizer, rows[:3], max_length=9, **SETTINGS)
    texts = model.certificate.texts
    assert len(texts) == 3
    T = [len(encode([row], tokenizer, 256).examples[0].input_ids) - 1 for row in rows[:3]]
    assert min(T) > 9
    assert torch.bincount(texts.text_N).tolist() == T
    left = unlearn(model, tokenizer, forget=rows[:1], max_length=9, **METHOD).model.certificate.texts
    assert torch.bincount(left.text_N).tolist() == T[1:]
    with pytest.raises(InputError, match=r"1 of the 1 texts to forget are not among the 3 .* with the same max_length"):
        unlearn(model, tokenizer, forget=rows[:1], **METHOD)


def test_padding_and_grouping_change_nothing(tiny: Any, tokenizer: Any, rows: Any) -> None:
    one, many = (train_certified_head(tiny(), tokenizer, rows, batch_size=size, **SETTINGS).certificate for size in (1, 10))
    torch.testing.assert_close(one.texts.features_Nd, many.texts.features_Nd, rtol=1e-12, atol=1e-13)
    assert torch.equal(one.texts.labels_N, many.texts.labels_N)


def test_a_saved_folder_gives_all_back(model: Any, tokenizer: Any, rows: Any, tmp_path: Path, fingerprint: Any) -> None:
    from transformers import AutoModelForCausalLM

    after = unlearn(model, tokenizer, forget=rows[:1], **METHOD).model
    save_model(after, tokenizer, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    loaded, _ = load_model(tmp_path / "b", device="cpu", dtype="float64")
    batch = collate(encode(rows[:3], tokenizer, 256).examples)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "b" / "model", attn_implementation="eager", dtype=torch.float64)
    for other in (loaded, plain.eval()):
        assert torch.equal(other(**inputs).logits, after(**inputs).logits)
    options: dict[str, Any] = {"forget": rows[1:2], **METHOD}
    expected, found = (unlearn(one, tokenizer, **options) for one in (after, loaded))
    assert fingerprint(found.model) == fingerprint(expected.model)
    assert found.details == expected.details
    assert stored_formats(tmp_path / "b") == {}
    assert not any(name in json.loads((tmp_path / "b" / FILE).read_text()) for name in ("noise", "head"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("spent", -5.0), ("spent", "a"), ("penalty", "zz"), ("body_public", "no"), ("sigma", -1.0), ("texts", ["one"])],
)
def test_what_the_file_says_of_a_certificate_is_checked(
    name: str, value: Any, model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """A budget that is less than spent, or texts that are none, would loosen the certificate without a word."""
    save_model(model, tokenizer, tmp_path / "here")
    path = tmp_path / "here" / "unlearn_form.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match=rf"the certificate in .* cannot be read: .*({name}|its tensors do not belong)"):
        load_model(tmp_path / "here", device="cpu")


def test_noise_that_nobody_is_to_know_is_another_every_time() -> None:
    """And not one of those that torch's generator gives for the 2^32 seeds that it tells apart."""
    shape = torch.Size((200, 50))
    one, other = (_noise(shape, 2.0, None) for _ in range(2))
    assert one.dtype == torch.float64
    assert not torch.equal(one, other)
    assert one.std().item() == pytest.approx(2.0, rel=0.05)
    assert torch.equal(_noise(shape, 2.0, 7), _noise(shape, 2.0, 7))


def test_a_damaged_folder_is_refused(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    save_model(model, tokenizer, tmp_path)
    (tmp_path / "certificate.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"the certificate in .* cannot be read"):
        load_model(tmp_path, device="cpu")


def test_a_copy_shares_the_state_and_generates(model: Any, tokenizer: Any) -> None:
    other = copy.deepcopy(model)
    assert other.certificate is model.certificate
    ids = tokenizer("Anna", return_tensors="pt").input_ids
    assert other.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape[1] <= ids.shape[1] + 3


def test_bfloat16_is_rounded_once(tiny: Any, tokenizer: Any, rows: Any) -> None:
    model = train_certified_head(tiny(dtype=torch.bfloat16), tokenizer, rows, **SETTINGS)
    wide = train_certified_head(tiny(dtype=torch.bfloat16).float(), tokenizer, rows, **SETTINGS)
    assert torch.equal(model.certificate.head_Vd, wide.certificate.head_Vd)
    result = unlearn(model, tokenizer, forget=rows[:1], **METHOD).model
    head = result.get_output_embeddings().weight
    assert head.dtype == torch.bfloat16
    assert torch.equal(head, result.certificate.head_Vd.float().bfloat16())


def test_the_plan_holds(model: Any, tokenizer: Any, rows: Any) -> None:
    prepared = prepare(model, tokenizer, Request(forget=rows[:2], method="certified-newton"))
    plan = prepared.method.plan(model, prepared.inputs)
    taken = unlearn(model, tokenizer, forget=rows[:2], **METHOD).cost.gradient_evaluations
    assert taken <= plan.gradient_evaluations <= 6 * taken
    assert "2 steps of at most" in str(plan)


def test_a_spent_budget_is_refused(model: Any, tokenizer: Any, rows: Any, fingerprint: Any) -> None:
    before, state = fingerprint(model), model.certificate
    found = unlearn(model, tokenizer, forget=rows[:1], **METHOD).details
    enough = found["epsilon_spent"] * 1.5
    assert unlearn(model, tokenizer, forget=rows[:1], epsilon=enough, **METHOD).details["spent"] == found["spent"]
    message = "the budget is spent: .* before, .* after step 2 of 2, and .* nothing was removed. Train the head anew .* took .* products"
    with pytest.raises(InputError, match=message):
        unlearn(model, tokenizer, forget=rows[:2], epsilon=enough, **METHOD)
    assert fingerprint(model) == before
    assert model.certificate is state


def test_what_is_no_certified_head_is_refused(tiny: Any, tokenizer: Any, rows: Any) -> None:
    with pytest.raises(InputError, match=r"no head that texts can be removed from .*train_certified_head"):
        unlearn(tiny(), tokenizer, forget=rows[:1], **METHOD)


def broken_noise(model: Any) -> None:
    certify(model, replace(model.certificate, sigma=0.0))


def broken_statement(model: Any) -> None:
    certify(model, replace(model.certificate, body_public=False))


def broken_head(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.mul_(1.2)


def broken_body(model: Any) -> None:
    with torch.no_grad():
        model.model.decoder.layers[1].fc2.weight.mul_(1.5)


def tied_again(model: Any) -> None:
    model.set_output_embeddings(torch.nn.Linear(16, 1024, bias=False))
    model.lm_head.weight = model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("breaking", "said"),
    [
        (broken_noise, "sigma=0, and no noise hides"),
        (broken_statement, "nobody has stated"),
        (broken_head, "the head was changed since its last certified removal"),
        (broken_body, "its body was changed"),
        (tied_again, "the head is the input embedding again"),
    ],
)
def test_assumptions_that_do_not_hold_are_named(breaking: Any, said: str, model: Any, tokenizer: Any, rows: Any) -> None:
    breaking(model)
    with pytest.raises(InputError, match=said):
        unlearn(model, tokenizer, forget=rows[:1], **METHOD)


def test_texts_of_no_training_are_refused(model: Any, tokenizer: Any, rows: Any, texts: Any) -> None:
    with pytest.raises(InputError, match="1 of the 2 texts to forget are not among the 10"):
        unlearn(model, tokenizer, forget=[rows[0], texts[30]], **METHOD)
    once = unlearn(model, tokenizer, forget=rows[:1], **METHOD).model
    with pytest.raises(InputError, match=r"not among the 9 .* were not removed before"):
        unlearn(once, tokenizer, forget=rows[:1], **METHOD)
    with pytest.raises(InputError, match="removes every text"):
        unlearn(model, tokenizer, forget=rows, **METHOD)


def test_the_sources_theorem_is_not_used_beyond_its_proof() -> None:
    with pytest.raises(InputError, match="proved up to 1; set accounting='exact'"):
        CertifiedNewton.from_options({"epsilon": 2.0})
    assert CertifiedNewton.from_options({"epsilon": 2.0, "accounting": "exact"}).epsilon == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"body_public": False}, "state it with body_public=True"),
        ({"weight_decay": 0.0}, "weight_decay > 0"),
        ({"sigma": -1.0}, "sigma >= 0"),
        ({"sigma": float("nan")}, "sigma >= 0"),
        ({"towards": "mean"}, "unknown value of towards"),
        ({"penalty": "none"}, "unknown value of penalty"),
    ],
)
def test_bad_settings(settings: dict[str, Any], said: str, tiny: Any, tokenizer: Any, rows: Any) -> None:
    with pytest.raises(InputError, match=said):
        train_certified_head(tiny(), tokenizer, rows, **{**SETTINGS, **settings})


def test_a_tolerance_that_is_not_reached_is_said(tiny: Any, tokenizer: Any, rows: Any) -> None:
    with pytest.raises(NumericsError, match="not trained to a gradient of norm 1e-06"):
        train_certified_head(tiny(), tokenizer, rows[:2], **SETTINGS, max_steps=1)


def test_heads_that_the_derivation_does_not_cover_are_refused(tiny: Any, tokenizer: Any, rows: Any) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"vocab_size": 1024, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GraniteConfig(**sizes, logits_scaling=8.0)
    scaled = GraniteForCausalLM(config).eval()
    with pytest.raises(InputError, match="not the product of its head and the features"):
        train_certified_head(scaled, tokenizer, rows[:2], **SETTINGS)
    biased = tiny()
    biased.lm_head = torch.nn.Linear(16, 1024, dtype=torch.float64)
    with pytest.raises(InputError, match="has a head with a bias"):
        train_certified_head(biased, tokenizer, rows[:2], **SETTINGS)
