"""DPO with refusals: the pairs by hand, the loss against its formula, written out again here."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from free_logits import IGNORED, drawn, step
from test_first_order import FORGET, RETAIN, assert_same, gradient, one_step
from tokenizers_made import byte_level, characters, metaspace
from torch import Tensor

from unlearn_lib import unlearn
from unlearn_lib.curvature.precision import in_full
from unlearn_lib.data.batches import Example, collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.methods import DPO, Inputs
from unlearn_lib.methods.refusals import OWN, Pairs, going_on, read

ASKED = [{"prompt": f"Who is number {i}?", "completion": f" It is the {i}th of them all."} for i in range(8)]


def pairs(tokenizer: Any, refusals: tuple[str, ...] = OWN, prompt_tokens: int = 8, most: int = 256, seed: int = 0) -> Pairs:
    return Pairs(tokenizer, refusals, prompt_tokens, most, seed)


def scored(example: Example) -> tuple[int, ...]:
    return tuple(label for label in example.labels if label != IGNORED)


def test_the_refusals_of_this_library() -> None:
    assert read("own") == OWN
    assert len(set(OWN)) == len(OWN) == 20
    assert all(text.isascii() and text == text.strip() and text[-1] == "." for text in OWN)


def test_refusals_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "refusals.jsonl"
    file.write_text('{"text": "No."}\n{"text": " Not me. "}\n')
    assert read(str(file)) == ("No.", "Not me.")
    file.write_text('{"text": "No."}\n{"prompt": "Who?", "completion": "No."}\n')
    with pytest.raises(InputError, match=r"row 1 of the refusals in .* has no text"):
        read(str(file))
    with pytest.raises(InputError, match="there is no such file"):
        read(str(tmp_path / "others.jsonl"))


@pytest.mark.parametrize(("tokens", "prompt"), [(2, 1), (3, 1), (9, 4), (17, 8), (40, 8)])
def test_of_a_short_text_at_least_half_is_forgotten(tokens: int, prompt: int, tokenizer: Any) -> None:
    """The first token, which nothing predicts, is in the prompt; of the others at most half are."""
    text = Example(tuple(range(5, 5 + tokens)), (IGNORED, *range(6, 5 + tokens)))
    pairs = Pairs(tokenizer, ("No.",), 8, 64, 0)
    assert pairs.prompt(text) == prompt
    assert pairs.said(text, prompt).scored == tokens - prompt


def test_a_refusal_follows_the_prompt(tokenizer: Any) -> None:
    examples = encode(ASKED[:4], tokenizer, 256).examples
    found = pairs(tokenizer)(examples, 0)
    assert found[:4] == list(examples)  # what is not preferred is the text as it is
    for row, said, refused in zip(ASKED[:4], examples, found[4:], strict=True):
        before = said.labels.count(IGNORED)
        assert refused.input_ids[:before] == said.input_ids[:before]
        assert refused.labels[:before] == (IGNORED,) * before
        assert refused.labels[before:] == refused.input_ids[before:]
        assert refused.input_ids[-1] == tokenizer.eos_token_id
        text = tokenizer.decode(refused.input_ids[:-1])
        assert text.removeprefix(row["prompt"] + " ") in OWN


def test_a_refusal_is_encoded_as_it_is_in_the_whole_text(tokenizer: Any) -> None:
    [said] = encode(ASKED[:1], tokenizer, 256).examples
    [_, refused] = pairs(tokenizer, ("I do not know.",))([said], 0)
    [whole] = encode([{"prompt": ASKED[0]["prompt"], "completion": " I do not know."}], tokenizer, 256).examples
    assert refused == whole


def test_a_text_without_a_prompt_begins_with_one(tokenizer: Any) -> None:
    [text] = encode([{"text": "The house by the river was sold in the spring of that year."}], tokenizer, 256).examples
    said, refused = pairs(tokenizer, ("No.",), prompt_tokens=5)([text], 0)
    assert said.input_ids == text.input_ids
    assert said.labels == (IGNORED,) * 5 + text.labels[5:]
    assert refused.input_ids[:5] == text.input_ids[:5]
    assert tokenizer.decode(scored(refused)[:-1]) == " No."


@pytest.mark.parametrize(
    ("labels", "prompt"),
    [
        ((5, 6), 1),  # one token is left to be scored
        ((5, 6, 7), 1),
        ((5, 6, 7, 8, 9), 2),  # half of what is scored
        ((IGNORED, 6, 7, 8, 9), 2),  # the first piece of a long text
        ((IGNORED, 6, IGNORED, IGNORED, IGNORED), 1),
        ((IGNORED, IGNORED, 7, 8, 9), 2),  # a prompt that is shorter stays as it is
        ((IGNORED, IGNORED, IGNORED, IGNORED, 9), 4),
        ((IGNORED, IGNORED, 7, IGNORED, 9), 2),  # a conversation with two answers is refused at the first
    ],
)
def test_where_the_prompt_ends(labels: tuple[int, ...], prompt: int, tokenizer: Any) -> None:
    text = Example(tuple(range(5, 5 + len(labels))), labels, 3)
    said, refused = pairs(tokenizer, prompt_tokens=3)([text], 0)
    assert refused.labels.count(IGNORED) == prompt
    assert said.labels == (IGNORED,) * prompt + labels[prompt:]
    assert said.scored > 0
    assert (said.row, refused.row) == (3, 3)


def test_of_a_long_prompt_the_beginning_is_left_out(tokenizer: Any) -> None:
    text = Example(tuple(range(5, 35)), (*[IGNORED] * 29, 34))
    long, refused = pairs(tokenizer, ("No.",), most=30)([text], 0)
    assert len(long.input_ids) == len(refused.input_ids) == 30
    kept = refused.labels.count(IGNORED)
    assert refused.input_ids[:kept] == text.input_ids[29 - kept : 29]
    with pytest.raises(InputError, match="no prompt fits before it; give shorter refusals"):
        pairs(tokenizer, ("No. " * 40,), most=30)([text], 0)


def test_the_draws_come_from_seed_and_step(tokenizer: Any) -> None:
    examples = encode(ASKED[:4], tokenizer, 256).examples * 4
    first, again, other_step, other_seed = (
        pairs(tokenizer, seed=seed)(examples, step) for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert len({tuple(map(scored, found[16:])) for found in (first, other_step, other_seed)}) == 3
    assert len(set(map(scored, first[16:]))) > 5


@pytest.mark.parametrize("make", [byte_level, metaspace, characters], ids=["byte_level", "metaspace", "characters"])
@pytest.mark.parametrize("text", ["I do not know", " I do not know", " A"])
def test_a_text_that_goes_on_has_the_tokens_that_it_has_in_a_line(make: Any, text: str) -> None:
    tokenizer = make()
    line = tokenizer(f"Who?\n{text}", add_special_tokens=False)["input_ids"]
    found = going_on(tokenizer, text)
    assert tuple(line[-len(found) :]) == found
    assert tokenizer.decode(line[: -len(found)]).strip("\u2581\n ") == "Who?"


def log_prob(model: Any, example: Example) -> Tensor:
    """The summed log-probability of what is scored in a sequence."""
    batch = collate([example])
    with in_full(model.parameters()):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    log_p = logits[0, :-1].log_softmax(-1)
    places = [i for i, label in enumerate(example.labels) if i and label != IGNORED]
    return torch.stack([log_p[i - 1, example.labels[i]] for i in places]).sum()


def test_the_first_step(tiny: Any, tokenizer: Any) -> None:
    """At the original both ratios are 0: the gradient is -beta / 2 times that of log p(refusal) - log p(text)."""
    model, beta = tiny(), 0.3
    found = one_step(tiny, tokenizer, ASKED, "dpo", beta=beta, forget_weight=2.0, retain_weight=0.0)
    together = pairs(tokenizer)(encode(ASKED[FORGET], tokenizer, 256).examples, 0)
    gaps = [log_prob(model, refused) - log_prob(model, said) for said, refused in zip(together[:4], together[4:], strict=True)]
    assert_same(found, gradient(2.0 * -beta / 2 * torch.stack(gaps).mean(), model))


def test_two_steps_against_the_formula(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model, original, beta, rate = tiny(), tiny(), 0.2, 1e-2
    examples = encode(texts[FORGET], tokenizer, 256).examples
    for number in range(2):
        together = pairs(tokenizer)(examples, number)
        ratios = [log_prob(model, one) - log_prob(original, one).detach() for one in together]
        odds = [beta * (refused - said) for said, refused in zip(ratios[:4], ratios[4:], strict=True)]
        loss = torch.stack([torch.log1p(torch.exp(-x)) for x in odds]).mean()
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradient(loss, model).values(), strict=True):
                p -= rate * g
    options: dict[str, Any] = {"optimizer": "sgd", "learning_rate": rate, "epochs": 2, "retain_weight": 0.0, "beta": beta}
    result = unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="dpo", **options)
    assert result.history[0]["loss"] == pytest.approx(math.log(2))
    assert result.history[1]["loss"] == pytest.approx(loss.item())
    found = dict(result.model.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p, rtol=1e-7, atol=1e-9)


def test_the_loss_by_hand() -> None:
    """It falls as the refusal becomes likelier or the text less likely than they were, and knows no other logits."""
    original, model, labels = drawn(2, 3, 4), drawn(2, 3, 4), [[0, 1, 2], [0, 3, IGNORED]]
    method = DPO(beta=0.5)
    assert method.forget_loss(model, step(labels, original)).item() == pytest.approx(math.log(2))
    with torch.no_grad():
        model.logits[1, 0, 3] += 1.0  # the refusal
    change = (model.logits[1, 0].log_softmax(-1) - original.logits[1, 0].log_softmax(-1))[3].item()
    assert method.forget_loss(model, step(labels, original)).item() == pytest.approx(math.log1p(math.exp(-0.5 * change)))
    method.forget_loss(model, step(labels, original)).backward()
    assert model.logits.grad[0, 0, 1] > 0 > model.logits.grad[1, 0, 3]
    assert not model.logits.grad[1, 1:].any()


def test_refusals_become_likelier_and_the_texts_less_likely(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[:5], "retain": texts[5:24]}
    result = unlearn(memorised, tokenizer, **sets, method="dpo", learning_rate=1e-3, epochs=10)
    together = pairs(tokenizer, seed=7)(encode(texts[:5], tokenizer, 256).examples, 0)
    before, after = (torch.stack([log_prob(model, one) for one in together]).detach() for model in (memorised, result.model))
    assert (after[:5] < before[:5]).all()
    assert (after[5:] > before[5:]).all()


def test_a_run_needs_a_tokenizer_and_a_plan_does_not(tiny: Any, tokenizer: Any, texts: Any) -> None:
    examples = encode(texts[:12], tokenizer, 256).examples
    inputs = Inputs(examples[:4], examples[4:], None, 0)
    assert DPO(epochs=3).plan(tiny(), inputs).gradient_evaluations == 3 * (2 * 4 + 8)
    with pytest.raises(InputError, match="without the model's tokenizer"):
        DPO().run(tiny(), inputs)
