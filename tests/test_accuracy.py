from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from unlearn_lib.data.batches import Example, collate
from unlearn_lib.errors import InputError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.metrics import accuracy


def test_choice_is_the_one_with_the_lowest_summed_nll(tiny: Any, tokenizer: Any) -> None:
    model = tiny("neo")
    prompts = ["Question: What does a rat eat?\nAnswer:", "It was", "A long and winding road to"]
    choices = [" moss", " beetles and fish", " a very long answer about honey", " it"]
    best = []
    for prompt in prompts:
        sums = []
        for choice in choices:
            given, scored = tokenizer(prompt)["input_ids"], tokenizer(choice)["input_ids"]
            batch = collate([Example((*given, *scored), (*[-100] * len(given), *scored))])
            sums.append(sequence_losses(model, batch).item() * len(scored))
        best.append(min(range(4), key=sums.__getitem__))
    rows = [{"prompt": p, "choices": choices, "label": b} for p, b in zip(prompts, best, strict=True)]
    assert accuracy(model, tokenizer, rows, batch_size=5) == 100.0
    rows[1]["label"] = (best[1] + 1) % 4
    assert accuracy(model, tokenizer, rows) == pytest.approx(200 / 3)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_last_word_is_what_greedy_decoding_gives(family: str, tiny: Any, tokenizer: Any) -> None:
    model = tiny(family)
    prompts, rows = ["A map of", "Ana and Bram took the"], []
    for prompt in prompts:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            ids, max_new_tokens=3, do_sample=False, attention_mask=torch.ones_like(ids), pad_token_id=0, eos_token_id=None
        )
        rows.append((prompt, out[0, ids.shape[1] :].tolist()))

    # a tokenizer that has a word for each id, which random weights make unprintable
    words = {f"<{i}>": i for i in range(model.config.vocab_size)}
    inner = Tokenizer(WordLevel(words, unk_token="<0>"))
    inner.pre_tokenizer = WhitespaceSplit()
    named = PreTrainedTokenizerFast(tokenizer_object=inner)

    def spelt(ids: list[int]) -> str:
        return "".join(f" <{i}>" for i in ids)

    test = [{"prompt": spelt(tokenizer(prompt)["input_ids"]), "completion": spelt(out)} for prompt, out in rows]
    assert accuracy(model, named, test) == 100.0
    test[0]["completion"] = spelt([*rows[0][1][:2], rows[0][1][2] ^ 1])
    assert accuracy(model, named, test) == 50.0


def test_no_questions_are_refused(tiny: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="the test set is empty"):
        accuracy(tiny(), tokenizer, [])
