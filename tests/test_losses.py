from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dense import build, examples

from unlearn_lib.curvature import EmpiricalFisher, GaussNewton, Hessian, batch_gradient
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import Example, collate, encode, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, evaluate, sequence_losses, sequence_means, token_logits, token_nll
from unlearn_lib.metrics.divergence import divergence
from unlearn_lib.metrics.exposure import prefix_losses
from unlearn_lib.metrics.memorisation import right_tokens


def functional_losses(model: Any, params: Any, batch: Any) -> torch.Tensor:
    """The losses as a pure function of the parameters."""
    return sequence_means(*token_nll(token_logits(model, batch, params), batch["labels"]))


def test_token_nll_by_hand() -> None:
    # two positions predict two labels over a vocabulary of 2
    logits = torch.tensor([[[0.0, 0.0], [1.0, 3.0], [9.0, 9.0]]])
    nll, scored = token_nll(logits, torch.tensor([[0, 1, 0]]))
    expected = [torch.log(torch.tensor(2.0)), torch.log(torch.exp(torch.tensor(1.0)) + torch.exp(torch.tensor(3.0))) - 1]
    torch.testing.assert_close(nll[0], torch.stack(expected))
    assert scored.all()


def test_minus_100_is_not_scored_and_never_an_index() -> None:
    nll, scored = token_nll(torch.zeros(1, 4, 3), torch.tensor([[1, IGNORED, 2, IGNORED]]))
    assert scored.tolist() == [[False, True, False]]
    torch.testing.assert_close(nll, torch.tensor([[0.0, torch.log(torch.tensor(3.0)), 0.0]]))


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_loss_is_transformers_own(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny(family)
    example = encode(texts[:1], tokenizer, 256).examples[0]
    batch = collate([example])
    own = model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss
    # (transformers computes its loss in float32 whatever the model's format)
    torch.testing.assert_close(sequence_losses(model, batch)[0].float(), own)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_padding_order_and_split_do_not_matter(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, examples = tiny(family), encode(texts, tokenizer, 256).examples
    one_by_one = evaluate(model, make_batches(examples, 1))
    torch.testing.assert_close(evaluate(model, make_batches(examples, 7)), one_by_one, rtol=1e-9, atol=0)
    torch.testing.assert_close(evaluate(model, make_batches(examples[::-1], 40)).flip(0), one_by_one, rtol=1e-9, atol=0)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_functional_form_is_the_same(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, batch = tiny(family), collate(encode(texts[:3], tokenizer, 256).examples)
    losses = functional_losses(model, dict(model.named_parameters()), batch)
    torch.testing.assert_close(losses, sequence_losses(model, batch), rtol=0, atol=0)


def test_every_text_ends_with_eos_and_is_fully_scored(tokenizer: Any) -> None:
    example = encode([{"text": "A map."}], tokenizer, 256).examples[0]
    assert example.input_ids[-1] == tokenizer.eos_token_id
    assert example.labels == example.input_ids


def test_only_the_completion_is_scored(tokenizer: Any) -> None:
    example = encode([{"prompt": "It was", "completion": " Ana"}], tokenizer, 256).examples[0]
    given = len(tokenizer("It was")["input_ids"])
    assert example.labels[:given] == (IGNORED,) * given
    assert tokenizer.decode(example.labels[given:]) == " Ana<|endoftext|>"


def test_long_texts_are_cut_and_counted(tokenizer: Any) -> None:
    encoded = encode([{"text": "map " * 50}, {"text": "map"}], tokenizer, 12)
    assert encoded.cut == 1
    assert [len(example.input_ids) for example in encoded.examples] == [12, len(tokenizer("map")["input_ids"]) + 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a"}, "row 0 needs the column 'text'"),
        ({"prompt": "a b c", "completion": "d"}, "row 0 has nothing to score within 2 tokens"),
        ({"text": ""}, "row 0 has nothing to score"),
    ],
)
def test_unusable_rows_are_named(row: dict[str, str], message: str, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=message):
        encode([row], tokenizer, 2)


def test_padding_is_told_by_mask_not_by_id() -> None:
    batch = collate([Example((5, 0, 7), (5, 0, 7)), Example((5, 1), (5, 1))])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[5, 0, 7], [5, 1, IGNORED]]


def test_position_ids_of_a_batch_are_obeyed(tiny: Any) -> None:
    """Padding on the left with the positions that the text would have without it changes no loss."""
    model = tiny("neo")
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    padded = {
        "input_ids": torch.tensor([[0, 0, 5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1]]),
        "labels": torch.tensor([[-100, -100, -100, 6, 7, 8]]),
        "position_ids": torch.tensor([[0, 0, 0, 1, 2, 3]]),
    }
    expected = sequence_losses(model, plain)
    torch.testing.assert_close(sequence_losses(model, padded), expected, rtol=1e-12, atol=0)
    params = dict(model.named_parameters())
    torch.testing.assert_close(functional_losses(model, params, padded), expected, rtol=1e-12, atol=0)
    del padded["position_ids"]
    assert (sequence_losses(model, padded) - expected).abs() > 1e-3


VIRTUAL = ("prompt tuning", "p-tuning", "prefix tuning")


def with_virtual_tokens(kind: str) -> Any:
    peft = pytest.importorskip("peft")
    config = {
        "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=6),
        "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }[kind]()
    torch.manual_seed(3)
    model = peft.get_peft_model(build("llama"), config).double().eval()
    with torch.no_grad():
        for p in model.prompt_encoder.parameters():
            p.add_(0.3 * torch.randn(p.shape, dtype=torch.float64))
    return model


def own_loss(model: Any, example: Example) -> torch.Tensor:
    ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
    loss: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss
    return loss


@pytest.mark.parametrize("kind", VIRTUAL)
def test_virtual_tokens_before_the_text_do_not_shift_its_labels(kind: str) -> None:
    model, sequences = with_virtual_tokens(kind), examples()
    expected = torch.stack([own_loss(model, example) for example in sequences]).detach()
    for size in (1, 5):
        found = evaluate(model, make_batches(sequences, size))
        torch.testing.assert_close(found, expected.to(found), rtol=1e-6, atol=0)
    batch = collate(sequences)
    functional = functional_losses(model, dict(model.named_parameters()), batch)
    torch.testing.assert_close(functional, sequence_losses(model, batch), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", VIRTUAL[:2])
def test_curvature_of_virtual_tokens_is_that_of_the_models_own_loss(kind: str) -> None:
    model, sequences = with_virtual_tokens(kind), examples()
    batches = [collate(sequences[:3]), collate(sequences[3:])]
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def flat(value: torch.Tensor, keep: bool = False) -> torch.Tensor:
        grads = torch.autograd.grad(value, list(params.values()), create_graph=keep, retain_graph=True, materialize_grads=True)
        return torch.cat([g.reshape(-1) for g in grads])

    G_nP = torch.stack([flat(own_loss(model, example)) for example in sequences]).double()
    F = EmpiricalFisher(model, batches)
    assert F.params.keys() == params.keys()
    torch.testing.assert_close(F.gradients().matrix(), G_nP, rtol=1e-4, atol=1e-6)  # peft's loss is rounded to float32
    v = torch.randn(F.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(F @ v, G_nP.T @ (G_nP @ v) / 5, rtol=1e-4, atol=1e-6)
    gauss_newton = torch.zeros_like(v)
    for example in sequences:
        with KeepFloat64():
            z_SV = token_logits(model, collate([example]))[0, :-1]
        scored = [s for s, label in enumerate(example.labels[-len(z_SV) :]) if label != IGNORED]
        for s in scored:
            J = torch.stack([flat(entry) for entry in z_SV[s]])
            p = z_SV[s].softmax(-1).detach()
            gauss_newton += J.T @ ((p.diag() - p.outer(p)) @ (J @ v)) / len(scored) / len(sequences)
    torch.testing.assert_close(GaussNewton(model, batches) @ v, gauss_newton, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(GaussNewton(model, batches).linearize() @ v, gauss_newton, rtol=1e-9, atol=1e-12)
    with KeepFloat64():
        mean = torch.cat([sequence_losses(model, batch) for batch in batches]).mean()
    slope = (flat(mean, keep=True) * v).sum()
    torch.testing.assert_close(Hessian(model, batches) @ v, flat(slope), rtol=1e-9, atol=1e-12)


def test_metrics_count_the_texts_own_predictions() -> None:
    model, sequences = with_virtual_tokens("prompt tuning"), examples()
    assert [len(right_S) for right_S in right_tokens(model, sequences)] == [
        sum(label != IGNORED for label in example.labels[1:]) for example in sequences
    ]
    example = sequences[0]
    logits_TV = token_logits(model, collate([example]))[0, 1:]
    assert right_tokens(model, [example])[0].tolist() == [
        int(logits_TV[t].argmax()) == example.input_ids[t + 1] for t in range(len(example.input_ids) - 1)
    ]
    nll = -logits_TV[:-1].log_softmax(-1).gather(1, torch.tensor(example.input_ids[1:]).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(prefix_losses(model, [example])[0], nll.cumsum(0).detach() / torch.arange(1, len(nll) + 1))
    assert divergence(model, model, [collate(sequences)]) == pytest.approx(0, abs=1e-12)
    plain = build("llama")
    assert divergence(plain, plain, [collate(sequences)]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 2, 5), (2, 5), (1, 3, 5), (2, 3)], ids=str)
def test_logits_that_cannot_be_aligned_are_refused(shape: tuple[int, ...]) -> None:
    batch = collate([Example((1, 2, 3), (1, 2, 3))] * 2)
    with pytest.raises(InputError, match=r"logits of shape .* for 2 texts of 3 tokens, so they cannot be aligned"):
        sequence_losses(lambda **_: SimpleNamespace(logits=torch.zeros(shape)), batch)


def test_autocast_around_a_loss_or_a_gradient_is_left(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("neo", dtype=torch.float32)
    batch = collate(encode(texts[:3], tokenizer, 256).examples)
    losses, (_, g) = sequence_losses(model, batch).detach(), batch_gradient(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again, (_, under) = sequence_losses(model, batch).detach(), batch_gradient(model, batch)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(again, losses)
    assert all(torch.equal(under[name], g[name]) for name in g)
