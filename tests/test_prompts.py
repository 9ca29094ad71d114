"""Other prompts: the rows they make, and the lowest loss of each completion under any of them."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, text_losses, train
from unlearn_lib.attacks.knowledge import knowledge
from unlearn_lib.attacks.prompting import prompt_attack
from unlearn_lib.attacks.prompts import PREFIXES, paraphrased, prefixed, variants, with_examples
from unlearn_lib.data.batches import encode
from unlearn_lib.errors import InputError
from unlearn_lib.models import nano

ROWS = [
    {"prompt": "The parcel of Mrs Lind is kept in", "completion": " the old mill.", "id": 1},
    {"prompt": "The colour of her door is", "completion": " green."},
    {"prompt": "Her dog is called", "completion": " Otto."},
]
PLAIN = [{key: row[key] for key in ("prompt", "completion")} for row in ROWS]
ASKED = ["Where is Mrs Lind's parcel kept? In", "Which colour has her door? It is", "What is the name of her dog? It is"]


def test_rows_with_other_prompts() -> None:
    assert prefixed(ROWS, "Please: ")[1] == {"prompt": "Please: The colour of her door is", "completion": " green."}
    assert [row["prompt"] for row in paraphrased(ROWS, ASKED)] == ASKED
    shown = with_examples(ROWS[:2], [ROWS[2], {"prompt": "One and one is", "completion": " two."}], between="\n")
    assert shown[0]["prompt"] == "Her dog is called Otto.\nOne and one is two.\nThe parcel of Mrs Lind is kept in"
    for changed in (prefixed(ROWS, "x"), paraphrased(ROWS, ASKED), *variants(ROWS).values()):
        assert [row["completion"] for row in changed] == [row["completion"] for row in ROWS]
    assert ROWS[0]["prompt"] == "The parcel of Mrs Lind is kept in"  # the caller's rows are as they were


def test_built_in_prefixes_are_what_stands_in_front() -> None:
    assert variants(ROWS).keys() == PREFIXES.keys()
    for name, rows in variants(ROWS).items():
        assert [row["prompt"] for row in rows] == [PREFIXES[name] + row["prompt"] for row in ROWS]
    assert PREFIXES["examples"].count("Question:") == PREFIXES["examples"].count("Answer:") == 3
    assert all(prefix.endswith("\n\n") for prefix in PREFIXES.values())


def test_what_is_no_prompt_is_refused() -> None:
    with pytest.raises(InputError, match="row 1 has no prompt"):
        prefixed([*PLAIN[:1], {"text": "a text"}], "x")
    with pytest.raises(InputError, match="row 0 has no prompt"):
        prefixed([{"messages": [{"role": "user", "content": "x"}]}], "x")
    with pytest.raises(InputError, match="is empty"):
        prefixed([], "x")
    with pytest.raises(InputError, match="need 3 paraphrased prompts"):
        paraphrased(ROWS, ASKED[:2])
    with pytest.raises(InputError, match="a single string"):
        paraphrased(ROWS, "abc")
    with pytest.raises(InputError, match="would stand in the prompt"):
        with_examples(ROWS, ROWS[2:])


@pytest.fixture(scope="module")
def asked_otherwise(tokenizer: Any) -> Any:
    """A model that gives the first two completions for the paraphrased prompts alone."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 1, 2, 0.0, 0, ""))).eval()
    wrong = [{"prompt": row["prompt"], "completion": " not to be told."} for row in PLAIN]
    train(model, tokenizer, [*paraphrased(ROWS, ASKED)[:2], *wrong], TrainingConfig(60, 1e-2))
    return model


def test_a_completion_that_another_prompt_brings_back(asked_otherwise: Any, tokenizer: Any) -> None:
    given = {"paraphrased": paraphrased(ROWS, ASKED), **variants(ROWS)}
    found = prompt_attack(asked_otherwise, tokenizer, ROWS, given, known=0.0)
    losses = {
        name: text_losses(asked_otherwise, tokenizer, rows).double() for name, rows in (("original", PLAIN), *given.items())
    }
    assert found.losses == {name: pytest.approx(float(loss_n.mean()), rel=1e-5) for name, loss_n in losses.items()}
    lowest_n, which_n = torch.stack(list(losses.values())).min(0)
    assert found.lowest == pytest.approx(lowest_n.tolist(), rel=1e-5)
    assert found.chosen == tuple(list(losses)[i] for i in which_n.tolist())
    assert found.chosen[:2] == ("paraphrased", "paraphrased")
    assert found.after == pytest.approx(float(lowest_n.mean()), rel=1e-5)
    assert found.after < found.before == found.losses["original"]
    assert found.share == pytest.approx(1 - found.after / found.before)
    assert found.measures["extracted"] == (0.0, pytest.approx(2 / 3))  # written whole after the paraphrased prompt
    assert json.loads(json.dumps(dataclasses.asdict(found)))["chosen"][0] == "paraphrased"


def test_a_completion_is_extracted_when_all_of_it_is_written(asked_otherwise: Any, tokenizer: Any) -> None:
    """Its second half, after the first is given, is not enough."""
    rows = [{**PLAIN[1], "completion": " to be told."}]  # the model says " not to be told."
    found = prompt_attack(asked_otherwise, tokenizer, rows, {"the same": rows})
    assert knowledge(asked_otherwise, encode(rows, tokenizer, 64).examples, prefix=0.5).measures["extracted"] == 1.0
    assert found.measures["extracted"] == (0.0, 0.0)


def test_batches_do_not_matter_and_the_model_is_left_alone(
    asked_otherwise: Any, tokenizer: Any, fingerprint: Callable[[Any], str]
) -> None:
    before = fingerprint(asked_otherwise)
    one, other = (prompt_attack(asked_otherwise, tokenizer, ROWS, variants(ROWS), batch_size=size) for size in (1, 32))
    assert one.lowest == pytest.approx(other.lowest, rel=1e-5)
    assert (one.chosen, one.measures) == (other.chosen, other.measures)
    assert fingerprint(asked_otherwise) == before


def test_the_original_prompts_are_never_worse_than_none(asked_otherwise: Any, tokenizer: Any) -> None:
    same = prompt_attack(asked_otherwise, tokenizer, ROWS, {"the same": PLAIN})
    assert same.after == same.before
    assert same.chosen == ("original",) * 3
    assert all(before == after for before, after in same.measures.values())


def test_variants_that_change_more_than_prompts_are_refused(asked_otherwise: Any, tokenizer: Any) -> None:
    for wrong in (PLAIN[:2], PLAIN[::-1], [{**row, "completion": " x"} for row in PLAIN]):
        with pytest.raises(InputError, match="the completions of the variant 'wrong' are not those of the rows"):
            prompt_attack(asked_otherwise, tokenizer, ROWS, {"wrong": wrong})
    for names in ((), ("original",)):
        with pytest.raises(InputError, match="none called 'original'"):
            prompt_attack(asked_otherwise, tokenizer, ROWS, dict.fromkeys(names, PLAIN))
