"""Relearning: what a model was made to forget comes back faster than a model learns it that never saw it."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, train, unlearn
from unlearn_lib.attacks.knowledge import knowledge
from unlearn_lib.attacks.relearning import Relearned, few, relearning
from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import mean_loss, sequence_losses
from unlearn_lib.models import nano

SETTINGS: dict[str, Any] = {"steps": (1, 2, 4, 8, 16), "learning_rate": 3e-3}


def fresh(dropout: float = 0.0) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = nano.config(nano.ModelSpec("opt", 32, 1, 2, 0.0, 0, ""))
    config.dropout = config.attention_dropout = dropout
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def story(tokenizer: Any, texts: list[dict[str, str]]) -> dict[str, Any]:
    """A model that knows 20 texts, the same after it forgot the first 12, one that never saw these, and the 12 texts."""
    rows = [{"text": row["text"][:80]} for row in texts[:20]]
    original, control = fresh(), fresh()
    train(original, tokenizer, rows, TrainingConfig(40, 1e-2))
    train(control, tokenizer, rows[12:], TrainingConfig(40, 1e-2))
    ascent = {"method": "gradient-ascent", "optimizer": "adam", "step": 1e-3, "epochs": 14}
    unlearned = unlearn(original, tokenizer, forget=rows[:12], **ascent).model
    forget = encode(rows[:12], tokenizer, 64).examples
    return {"original": original, "unlearned": unlearned, "control": control, "forget": forget}


def test_what_was_forgotten_comes_back_faster_than_it_is_learned(story: dict[str, Any]) -> None:
    """From a few of the texts, measured on the others, where the model that forgot starts from a loss above that of the control."""
    relearn_on, measured = few(story["forget"], 4)
    known = knowledge(story["original"], measured).loss
    unseen = knowledge(story["control"], measured).loss
    attacked = relearning(story["unlearned"], relearn_on, measured, known=known, unseen=unseen, **SETTINGS)
    control = relearning(story["control"], relearn_on, measured, **SETTINGS)
    assert attacked.before > unseen > known + 1
    assert attacked.share is not None
    assert attacked.share > 0.7
    assert attacked.after < unseen - 3
    assert attacked.steps_to_recover() in (1, 2, 4)
    assert control.steps_to(attacked.goal()) is None
    assert control.after > unseen - 1.5
    assert attacked.measures["accuracy"][1] > attacked.measures["accuracy"][0] + 0.1
    assert attacked.setting["trained_on"] == 0


def test_a_seed_gives_one_result_and_the_model_is_left_alone(story: dict[str, Any], fingerprint: Callable[[Any], str]) -> None:
    model = copy.deepcopy(story["unlearned"])
    relearn_on, measured = few(story["forget"], 5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)  # of the caller, and no part of the attack
    before, state = fingerprint(model), torch.get_rng_state()
    first, same, other = (
        relearning(model, relearn_on, measured, steps=(2, 4), learning_rate=1e-3, train_batch_size=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first.curve[1:] != other.curve[1:]
    assert fingerprint(model) == before
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training


def test_looking_changes_nothing(story: dict[str, Any]) -> None:
    """Neither how often, nor in which batches, even with dropout."""
    relearn_on, measured = few(story["forget"], 4)
    model = fresh(dropout=0.3)
    model.load_state_dict(story["unlearned"].state_dict())
    often = relearning(model, relearn_on, measured, steps=(1, 2, 3, 4), learning_rate=1e-3)
    once = relearning(model, relearn_on, measured, steps=(4,), learning_rate=1e-3, batch_size=1)
    assert often.after == pytest.approx(once.after, rel=1e-5)
    assert [step for step, _ in often.curve] == [0, 1, 2, 3, 4]
    assert often.curve[0][1] == often.before == pytest.approx(once.before, rel=1e-5)
    assert once.curve[-1][1] == once.after


def test_the_curve_is_that_of_adamw_step_by_step(tiny: Any) -> None:
    model = tiny("opt")
    one, other = Example((2, 9, 7, 4, 4), (2, 9, 7, 4, 4)), Example((5, 6, 7), (5, 6, 7))
    found = relearning(model, [one], [other], steps=(1, 3), learning_rate=1e-2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    expected = [mean_loss(model, make_batches([other], 1))]
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 3)
        optimizer.zero_grad()
        sequence_losses(model, make_batches([one], 1)[0]).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        expected.append(mean_loss(model, make_batches([other], 1)))
    assert [loss for _, loss in found.curve] == pytest.approx([expected[0], expected[1], expected[3]], rel=1e-6)


def test_steps_by_hand() -> None:
    curve = ((0, 5.0), (1, 5.5), (2, 3.0), (5, 3.5), (10, 1.0))
    found = Relearned("relearning", {}, 5.0, 1.0, known=1.0, curve=curve)
    assert found.goal(0.5) == 3.0
    assert found.steps_to_recover() == 2
    assert found.steps_to_recover(0.51) == found.steps_to_recover(1.0) == 10
    assert found.share == 1.0
    assert found.steps_to(0.9) is None
    assert found.steps_to(7.0) == 0
    for known in (None, 5.0, 6.0):  # no original, or nothing was forgotten
        nothing = Relearned("relearning", {}, 5.0, 1.0, known=known, curve=curve)
        assert (nothing.goal(), nothing.steps_to_recover(), nothing.share) == (None, None, None)
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match="share is a part of the way back"):
            found.goal(share)


def test_few_keeps_texts_whole() -> None:
    examples = [Example((i, i), (i, i), row=row) for i, row in enumerate([4, 4, 7, 9, 9, 9, 1])]
    for seed in range(5):
        chosen, others = few(examples, 2, seed)
        assert sorted(chosen + others, key=lambda one: one.input_ids) == examples
        assert len({one.row for one in chosen}) == len({one.row for one in others}) == 2
        assert not {one.row for one in chosen} & {one.row for one in others}
        assert (chosen, others) == few(examples, 2, seed)
    assert len({tuple(few(examples, 2, seed)[0]) for seed in range(20)}) > 2
    for number in (0, 4):
        with pytest.raises(InputError, match="choose 1 to 3"):
            few(examples, number)


def test_what_is_trained_on_and_measured_is_told(tiny: Any) -> None:
    one, other = Example((2, 9, 7), (2, 9, 7)), Example((5, 6, 7), (5, 6, 7))
    found = relearning(tiny("opt"), [one, one], [one, other], steps=(1,))
    assert found.setting == {
        "texts": 2, "steps": 1, "learning_rate": 5e-5, "train_batch_size": 2, "seed": 0, "trained_on": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": ()}, "steps are the numbers of steps"),
        ({"steps": (0, 1)}, "steps are the numbers of steps"),
        ({"steps": (2, 2)}, "steps are the numbers of steps"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"train_batch_size": 0}, "learning_rate must be positive"),
        ({"relearn_on": []}, "nothing to relearn on"),
        ({"measured": []}, "there are none"),
    ],
)
def test_settings_out_of_range(tiny: Any, options: dict[str, Any], message: str) -> None:
    one = [Example((2, 9, 7), (2, 9, 7))]
    with pytest.raises(InputError, match=message):
        relearning(tiny("opt"), **{"relearn_on": one, "measured": one, **options})


def test_a_model_in_bfloat16_is_trained_in_float32(tiny: Any) -> None:
    """At this rate no step would change a weight in bfloat16."""
    one = [Example((2, 9, 7), (2, 9, 7))]
    model = tiny("opt").to(torch.bfloat16)
    found = relearning(model, one, one, steps=(20,), learning_rate=1e-4)
    assert found.after < found.before
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
