"""The texts of the case studies: what is planted in the generated ones, and how a user's own download is read."""

import csv
from pathlib import Path

import pytest

from unlearn_lib import InputError, load_model, load_task
from unlearn_lib.data.batches import context_length, encode
from unlearn_lib.data.nano.world import facts
from unlearn_lib.data.overlap import near_duplicates
from unlearn_lib.data.private_sets import segments
from unlearn_lib.data.tasks import PRIVATE_KINDS

SIZES = {"train": 192, "test": 60, "holdout": 64, "reference": 0}


@pytest.mark.parametrize("name", PRIVATE_KINDS)
def test_the_inventory_is_in_the_texts(name: str) -> None:
    task = load_task(name, sizes=SIZES)
    for row in [*task.train, *task.holdout]:
        assert len(row["secrets"]) == 5
        assert all(value in row["text"] for value in row["secrets"].values())
    numbers = {row["secrets"]["phone"] for row in task.train}
    assert not numbers & {row["secrets"]["phone"] for row in task.holdout}


@pytest.mark.parametrize("name", PRIVATE_KINDS)
def test_texts_are_long_and_fit_the_context(name: str) -> None:
    model, tokenizer = load_model("nano/opt-s", device="cpu")
    encoded = encode(load_task(name, sizes=SIZES).train, tokenizer, context_length(model, tokenizer))
    assert encoded.cut == 0
    assert sum(len(example.input_ids) > 200 for example in encoded.examples) >= 100


@pytest.mark.parametrize("name", PRIVATE_KINDS)
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_the_rate_of_near_duplicates_is_kept_and_they_are_found(name: str, rate: float) -> None:
    task = load_task(name, sizes=SIZES, near_duplicates=rate)
    versions = len(task.train) - len(set(task.train["original"]))
    assert abs(versions / len(task.train) - rate) <= 0.1  # about three standard errors
    first = {}
    for row in task.train:
        assert first.setdefault(row["original"], row["secrets"]) == row["secrets"]  # a version has its original's secrets
    _, tokenizer = load_model("nano/opt-s", device="cpu")
    examples = encode(task.train, tokenizer, 256).examples
    request = set(task.train["original"][:32])
    true = [i for i, original in enumerate(task.train["original"][32:]) if original in request]
    found = near_duplicates(examples[32:], examples[:32])
    assert set(true) <= set(found)
    assert len(found) <= len(true) + 1


@pytest.mark.parametrize(("name", "kind"), [("medical", "plant"), ("email", "stone")])
def test_questions_are_about_facts_that_no_training_text_tells(name: str, kind: str) -> None:
    task = load_task(name, sizes=SIZES)
    reserved = [
        (fact.subject, fact.value) for fact in facts(kind) if fact.reserved and fact.attribute.name in ("remedy", "origin")
    ]

    def tells(text: str) -> bool:
        return any(
            f"{subject} against {value}" in text or f"{subject} comes from {value}" in text for subject, value in reserved
        )

    assert all(tells(row["prompt"] + row["completion"]) for row in task.test)
    assert not any(tells(row["text"]) for row in task.train)


def test_a_rate_must_be_a_rate() -> None:
    with pytest.raises(InputError, match="at least 0 and below 1; got 1"):
        load_task("medical", near_duplicates=1.0)


def write_csv(path: Path, column: str, values: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["id", column])
        writer.writeheader()
        writer.writerows({"id": i, column: value} for i, value in enumerate(values))


def test_a_download_of_transcriptions_is_cut_and_split_by_document(tmp_path: Path) -> None:
    documents = [f"SUBJECTIVE:, note {i}. " + f"word{i} " * 250 for i in range(60)]
    write_csv(tmp_path / "mtsamples.csv", "transcription", [*documents, "", "  "])
    task = load_task("medical", source=tmp_path)
    texts = {part: [row["text"] for row in getattr(task, part)] for part in ("train", "holdout")}
    assert all(len(text) <= 1000 for part in texts.values() for text in part)
    sides = {part: {text.split()[-1] for text in rows} for part, rows in texts.items()}
    sides["test"] = {row["completion"].strip() for row in task.test}
    assert not sides["train"] & sides["holdout"] | sides["train"] & sides["test"] | sides["holdout"] & sides["test"]
    assert sum(map(len, sides.values())) == 60
    whole = " ".join(text for part in texts.values() for text in part) + "".join(
        r["prompt"] + r["completion"] for r in task.test
    )
    assert sum(whole.count(f"word{i} ") + whole.endswith(f"word{i}") for i in range(60)) == pytest.approx(60 * 250, abs=60)


def test_a_download_of_mails_keeps_the_headers_a_reader_sees(tmp_path: Path) -> None:
    mails = [
        f"Message-ID: <{i}@x>\nDate: Mon, 14 May 2001\nFrom: a{i}@firm.example\nTo: b@firm.example\nSubject: lunch {i}\nX-Folder: \\in\n\n"
        f"See you at {i}.\n"
        for i in range(60)
    ]
    write_csv(tmp_path / "emails.csv", "message", mails)
    text = load_task("email", source=tmp_path, sizes={"train": 5}).train[0]["text"]
    number = text.rsplit(" ", 1)[1].rstrip(".")
    assert text == (
        f"From: a{number}@firm.example\nTo: b@firm.example\nDate: Mon, 14 May 2001\nSubject: lunch {number}\n\nSee you at {number}."
    )


def test_a_download_that_does_not_fit_is_refused_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"real people's data and is on no hub.*source='nano'"):
        load_task("email", source="hub")
    with pytest.raises(InputError, match=r"there is no .*mtsamples\.csv"):
        load_task("medical", source=tmp_path)
    write_csv(tmp_path / "mtsamples.csv", "text", ["a private note"])
    with pytest.raises(InputError, match="has no column 'transcription'; it has id, text"):
        load_task("medical", source=tmp_path)
    write_csv(tmp_path / "mtsamples.csv", "transcription", ["a private note"])
    with pytest.raises(InputError, match="too few documents") as caught:
        load_task("medical", source=tmp_path)
    assert "private" not in str(caught.value)


def test_segments_lose_only_white_space() -> None:
    text = "one two  three\nfour " + "x" * 25 + " five"
    pieces = list(segments(text, 10))
    assert pieces == ["one two", "three\nfour", "x" * 10, "x" * 10, "xxxxx five"]
