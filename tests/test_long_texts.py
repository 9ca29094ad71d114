"""Texts longer than the context: all of them is used, each token once, and a text stays one text in what is reported."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers_made import characters, llama

from unlearn_lib import save_model, text_losses, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.data.examples import by_text, pieces, text_means
from unlearn_lib.data.files import write_rows
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, evaluate, sequence_losses
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

LONG = "The parties agree as follows. " * 12


def some(rng: random.Random, tokens: int, kind: str) -> Example:
    ids = tuple(rng.randrange(9999) for _ in range(tokens))
    prompt = rng.randrange(tokens - 1)
    scored = {
        "text": [True] * tokens,
        "prompt": [i >= prompt for i in range(tokens)],
        "turns": [(i // (1 + prompt)) % 2 == 1 for i in range(tokens)],
        "few": [rng.random() < 0.05 for i in range(tokens)],
    }[kind]
    return Example(ids, tuple(i if s else IGNORED for i, s in zip(ids, scored, strict=True)), row=3, lead=rng.randrange(2))


@pytest.mark.parametrize("kind", ["text", "prompt", "turns", "few"])
def test_every_scored_token_is_scored_once_with_what_comes_before_it(kind: str) -> None:
    rng = random.Random(kind)
    for _ in range(150):
        text, length = some(rng, rng.randrange(2, 200), kind), rng.randrange(2, 80)
        found = pieces(text, length)
        position = {token: i for i, token in enumerate(text.input_ids)}  # nearly always one position
        if len(position) < len(text.input_ids):
            continue
        scored = [i for i, label in enumerate(text.labels) if i and label != IGNORED]
        seen: list[int] = []
        for piece in found:
            at = [position[token] for token in piece.input_ids]
            here = [at[k] for k in range(1, len(at)) if piece.labels[k] != IGNORED]
            seen += here
            assert len(at) <= length
            assert piece.row == 3
            body = at[text.lead :] if at[0] == 0 else at
            assert at[: text.lead] == list(range(text.lead))
            assert body == list(range(body[0], body[0] + len(body)))
            assert all(piece.labels[k] in (IGNORED, piece.input_ids[k]) for k in range(len(at)))
            if here and len(found) > 1:
                assert min(here[0], (length - text.lead) // 4) <= at.index(here[0])
        assert seen == scored
        if kind == "text" and len(found) > 1:  # equal shares
            sizes = [piece.scored for piece in found]
            assert max(sizes) - min(sizes[:-1]) <= 0
            assert sizes[-1] > max(sizes) - len(sizes)


def test_a_text_that_fits_is_one_piece() -> None:
    text = some(random.Random(0), 20, "prompt")
    assert pieces(text, 20) == [text]
    assert [piece.row for piece in pieces(text, 20)] == [3]


def test_of_a_long_prompt_the_beginning_is_left_out_first() -> None:
    tokenizer = characters()
    row = {"prompt": "abcdefghijklmnopqrstuvwxyz", "completion": "ABCD"}
    encoded = encode([row], tokenizer, 12, long_texts="split")
    (example,) = encoded.examples
    assert tokenizer.decode(example.input_ids) == "<s>uvwxyzABCD</s>"
    assert tokenizer.decode([label for label in example.labels if label != IGNORED]) == "ABCD</s>"
    assert (encoded.split, encoded.cut) == (1, 0)
    assert encoded.texts[0].input_ids == encode([row], tokenizer, 100).examples[0].input_ids
    with pytest.raises(InputError, match="row 0 has nothing to score within 12 tokens"):
        encode([row], tokenizer, 12, long_texts="cut")


def test_the_loss_of_a_long_text_is_the_mean_over_its_tokens() -> None:
    tokenizer = characters()
    model = llama(len(tokenizer), max_position_embeddings=32).double()
    rows = [{"text": "short"}, {"text": LONG[:70]}, {"prompt": LONG[:50], "completion": "and so on, until the end of it all."}]
    found = text_losses(model, tokenizer, rows)
    examples = encode(rows, tokenizer, 32, long_texts="split").examples
    assert [len(group) for group in by_text(examples)] == [1, 3, 2]
    for text, group in enumerate(by_text(examples)):
        total = sum(sequence_losses(model, make_batches([examples[i]], 1)[0]).item() * examples[i].scored for i in group)
        count = sum(examples[i].scored for i in group)
        assert count == [6, 71, 36][text]
        assert found[text].item() == pytest.approx(total / count, rel=1e-12)
    cut = text_losses(model, tokenizer, rows[:2], long_texts="cut")
    assert cut[0] == found[0]
    assert cut[1] != found[1]


def test_without_long_texts_nothing_is_weighted() -> None:
    losses, examples = torch.rand(3), [Example((1, 2), (1, 2), row) for row in (0, None, 2)]
    assert text_means(losses, examples) is losses


def test_texts_that_are_alike_up_to_the_cut_are_not_duplicates() -> None:
    tokenizer = characters()
    model = llama(len(tokenizer))
    forget = [{"text": f"{LONG}Party A: Ada."}]
    retain = [{"text": f"{LONG}Party A: {name}."} for name in ("Brun", "Cleo", "Ada")] + [{"text": "other"}]
    for long_texts, per_text in (("split", 4), ("cut", 1)):
        asked: dict[str, Any] = {"forget": forget, "retain": retain, "method": "npo", "long_texts": long_texts}
        prepared = prepare(model, tokenizer, Request(**asked))
        assert [len(group) for group in by_text(prepared.inputs.retain)] == [per_text, per_text, 1]
        assert {example.row for example in prepared.inputs.retain} == {0, 1, 3}
        assert "1 retain texts are exact duplicates of forget texts and were dropped from the retain set" in prepared.warnings
    # the same text with another part of it as the prompt is the same text
    again = [{"prompt": forget[0]["text"][:9], "completion": forget[0]["text"][9:]}, {"text": "other"}]
    assert len(prepare(model, tokenizer, Request(forget=forget, retain=again, method="npo")).inputs.retain) == 1


def test_all_pieces_are_forgotten_and_texts_are_held_out_whole() -> None:
    tokenizer = characters()
    model = llama(len(tokenizer))
    many = [{"text": f"{LONG}{i}"} for i in range(6)]
    arguments: dict[str, Any] = {"forget": many[:1], "retain": many[1:2], "holdout": many[2:], "method": "gradient-ascent"}
    prepared = prepare(model, tokenizer, Request(**arguments))
    sizes = [len(part) for part in (prepared.inputs.forget, prepared.inputs.holdout, prepared.holdout_for_report)]
    assert sizes == [4, 8, 8]
    held = [{example.row for example in part} for part in (prepared.inputs.holdout, prepared.holdout_for_report)]
    assert not held[0] & held[1]
    assert [len(rows) for rows in held] == [2, 2]
    assert "1 forget texts are longer than 128 tokens and were split into 4 pieces, which are all used" in prepared.warnings
    before = text_losses(model, tokenizer, many[:1])
    result = unlearn(model, tokenizer, **arguments)
    assert (result.config["long_texts"], result.config["assistant_only"]) == ("split", True)
    pieces_before, pieces_after = (evaluate(m, make_batches(prepared.inputs.forget, 8)) for m in (model, result.model))
    assert (pieces_after > pieces_before).all()
    assert text_losses(result.model, tokenizer, many[:1]) > before


def test_the_pieces_of_a_retained_text_are_held_aside_together() -> None:
    tokenizer = characters()
    many = [{"text": LONG.replace("agree", f"agree{chr(97 + i)}")} for i in range(12)]
    prepared = prepare(llama(len(tokenizer)), tokenizer, Request(forget=many[:1], retain=many[1:9], holdout=many[9:]))
    inputs, checked = prepared.method.split(prepared.inputs)  # type: ignore[attr-defined]
    assert [len(group) for group in by_text(checked)] == [4, 4, 4, 4]
    assert not {example.row for example in checked} & {example.row for example in inputs.retain}


@pytest.mark.parametrize("long_texts", ["split", "cut"])
def test_a_report_names_texts_and_counts_them(long_texts: str, tmp_path: Path) -> None:
    tokenizer = characters()
    save_model(llama(len(tokenizer)), tokenizer, tmp_path / "model")
    (tmp_path / "forget.jsonl").write_text(write_rows([{"text": "short"}, {"text": LONG}, {"text": "other"}]))
    words = [
        "run",
        "--model",
        str(tmp_path / "model"),
        "--forget",
        str(tmp_path / "forget.jsonl"),
        "--method",
        "gradient-ascent",
    ]
    result = CliRunner().invoke(
        main, [*words, "--device", "cpu", "--out", str(tmp_path / "out"), "--long-texts", long_texts, "--whole-conversation"]
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    split = long_texts == "split"
    assert report["data"]["forget"] | {"rows": 3, "used": 3, "sequences": 6 if split else 3} == report["data"]["forget"]
    assert {(entry["row"], entry["tokens"]) for entry in report["forget_texts"]} == {(1, 7), (2, 362 if split else 128), (3, 7)}
    assert (report["config"]["long_texts"], report["config"]["assistant_only"]) == (long_texts, False)
    mean = sum(entry["loss"]["after"] for entry in report["forget_texts"]) / 3
    assert report["losses"]["forget"]["after"] == pytest.approx(mean)
    said = "were split into 4 pieces, which are all used" if split else "128 tokens and were cut"
    assert any(said in warning for warning in report["warnings"])
    assert "3 texts to forget" in result.output


def test_an_unknown_value_lists_the_valid_ones() -> None:
    with pytest.raises(InputError, match="unknown value of long_texts 'drop'; choose one of: split, cut"):
        encode([{"text": "a"}], characters(), 8, long_texts="drop")  # type: ignore[arg-type]
