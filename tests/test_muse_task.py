"""MUSE as a task: its files in both layouts, what is refused, and the generated articles that stand in for it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unlearn_lib import InputError, QuestionTask, load_task
from unlearn_lib.data.batches import encode
from unlearn_lib.data.nano import books
from unlearn_lib.data.nano.muse_files import SHOTS
from unlearn_lib.data.nano.news import FOLD, KIND, QUESTIONS
from unlearn_lib.errors import HubUnavailableError

GOLDEN, BOOKS = "47bd4ba9e5d0c466", "09b4d831de0e56b6"  # the same on every Python version and platform


@pytest.fixture(scope="module")
def task() -> QuestionTask:
    return load_task("muse")


def texts(task: QuestionTask, *parts: str) -> set[str]:
    return {text for part in parts for text in task[part]["text"]}


def test_generated_articles_are_the_same_everywhere(task: QuestionTask) -> None:
    assert (task.name, task.source, task.split, task.sha256()[:16]) == ("muse", "nano", "news", GOLDEN)
    assert load_task("muse", seed=1).sha256() != task.sha256()


def test_folds_are_made_as_those_of_muse(task: QuestionTask) -> None:
    """Requests in a row are disjoint, growing ones are their unions, and the first of both is what is to be forgotten."""
    before: set[str] = set()
    for number in range(1, 5):
        fold = texts(task, f"sustainability_{number}")
        assert len(fold) == FOLD
        assert not fold & before
        before |= fold
        assert texts(task, f"scaling_{number}") == before
    assert texts(task, "forget") == texts(task, "scaling_1") == texts(task, "leak_forget")
    parts = ("scaling_4", "retain", "retain_other", "holdout")
    assert len(texts(task, *parts)) == sum(len(task[part]) for part in parts), "no article is in two of these parts"
    assert texts(task, "leak_holdout") < texts(task, "holdout")


def test_generated_questions_are_answered_by_one_article_of_their_part(task: QuestionTask) -> None:
    for part, told in (("knowledge_forget", "forget"), ("knowledge_retain", "retain_other")):
        articles = texts(task, told)
        others = texts(task, "scaling_4", "retain", "retain_other", "holdout") - articles
        assert len(task[part]) == 3 * FOLD
        for row in task[part]:
            question, answer = row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:"), row["completion"][1:]
            named = [text for text in articles if any(name in text for name in pairs_of_words(question))]
            assert len(named) == 1, question
            assert answer in named[0]
            assert not any(name in text.split("\n")[0] for text in others for name in pairs_of_words(question))


def pairs_of_words(question: str) -> list[str]:
    """The full name in a question: two words in a row that begin with a capital."""
    words = question.rstrip("?").split()
    return [f"{a} {b}" for a, b in pairwise(words[1:]) if a[0].isupper() and b[0].isupper()]


def test_examples_are_on_people_of_no_part(task: QuestionTask) -> None:
    everything = "\n".join(texts(task, "scaling_4", "retain", "retain_other", "holdout"))
    for part in ("shots_forget", "shots_retain"):
        assert len(task[part]) == SHOTS
        for row in task[part]:
            (name,) = pairs_of_words(row["prompt"].removesuffix("\nAnswer:"))
            assert f"{name} of" not in everything


def test_every_article_tells_all_that_is_asked() -> None:
    for number in range(20):
        lines, told = KIND.document(["test", number])
        assert all(told[topic] in "\n".join(lines) for topic in QUESTIONS)
        assert "{" not in "\n".join(lines)


def test_the_halves_of_a_text_are_the_text(task: QuestionTask) -> None:
    assert {row["prompt"] + row["completion"] for row in task["verbatim"]} == texts(task, "forget")


def test_generated_articles_fit_the_nano_models(task: QuestionTask, tokenizer: Any) -> None:
    assert max(len(text.input_ids) for part in task.parts for text in encode(task[part], tokenizer, 256).texts) <= 208
    shots = "\n\n".join(row["prompt"] + row["completion"] for row in task["shots_forget"])
    question = max(task["knowledge_forget"], key=lambda row: len(row["prompt"]))
    (asked,) = encode([{"text": shots + question["prompt"]}], tokenizer, 256).texts
    assert len(asked.input_ids) + 32 < 256


@pytest.fixture(scope="module")
def library() -> QuestionTask:
    return load_task("muse", split="books")


def test_generated_books_are_the_same_everywhere(library: QuestionTask) -> None:
    assert (library.split, library.sha256()[:16]) == ("books", BOOKS)
    assert load_task("muse", split="books", seed=1).sha256() != library.sha256()
    parts = ("forget", "retain", "retain_other", "holdout")
    assert len(texts(library, *parts)) == sum(len(library[part]) for part in parts)
    assert texts(library, "leak_holdout") < texts(library, "holdout")
    assert {row["prompt"] + row["completion"] for row in library["verbatim"]} == texts(library, "forget")
    assert not any(part.startswith(("scaling", "sustainability")) for part in library.parts)  # MUSE has these of the news alone


def test_every_book_and_entry_tells_what_is_asked() -> None:
    for made in (books.book, books.entry):
        for number in range(20):
            text, told = made(("test", number))
            assert all(told[topic] in text for topic in books.QUESTIONS)
            assert "{" not in text
            assert text == made(("test", number))[0]
    chapters = books.book(("test", 0))[0].split("Chapter ")[1:]
    assert [len(chapter.splitlines()) for chapter in chapters] == [books.FREE + 2] * books.CHAPTERS


def test_questions_on_books_are_answered_by_one_text_of_their_part(library: QuestionTask) -> None:
    def on(name: str, *parts: str) -> list[str]:
        """The books whose hero has that name, and the entries on it."""
        return [text for text in texts(library, *parts) if f"{name} had grown up" in text or text.startswith(f"{name}: ")]

    for part, told in (("knowledge_forget", "forget"), ("knowledge_retain", "retain_other")):
        assert len(library[part]) == 3 * books.FORGET
        for row in library[part]:
            (name,) = pairs_of_words(row["prompt"].removeprefix("Question: ").removesuffix("\nAnswer:"))
            (text,) = on(name, "forget", "retain", "retain_other", "holdout")
            assert text in texts(library, told)
            assert row["completion"][1:] in text


FILES: dict[tuple[str, str], list[dict[str, str]]] = {
    ("raw", "forget"): [{"text": "forget me"}, {"text": "me, too"}],
    ("raw", "retain1"): [{"text": "keep me"}],
    ("raw", "retain2"): [{"text": "keep me, and do not look"}],
    ("raw", "holdout"): [{"text": "never seen"}],
    ("privleak", "forget"): [{"text": "forget me"}],
    ("privleak", "holdout"): [{"text": "never seen"}],
    ("verbmem", "forget"): [{"prompt": "forget", "gt": " me"}],
    ("knowmem", "forget_qa"): [{"answer": "Ann", "question": "Who?"}],
    ("knowmem", "retain_qa"): [{"answer": "Bo", "question": "Who else?"}],
    ("knowmem", "forget_qa_icl"): [{"answer": "There", "question": "Where?"}],
    ("knowmem", "retain_qa_icl"): [{"answer": "Then", "question": "When?"}],
} | {(kind, f"forget_{i}"): [{"text": f"{kind} {i}"}] for kind in ("scal", "sust") for i in range(1, 5)}


def write(folder: Path, kind: str, files: dict[tuple[str, str], list[dict[str, str]]] = FILES) -> Path:
    for (configuration, split), rows in files.items():
        (folder / configuration).mkdir(parents=True, exist_ok=True)
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / configuration / f"{split}-00000-of-00001.parquet")
        else:
            plain = [row.get("text", row) for row in rows]
            (folder / configuration / f"{split}.json").write_text(json.dumps(plain), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_muses_own_files(tmp_path: Path, kind: str) -> None:
    task = load_task("muse", write(tmp_path, kind))
    assert task["forget"]["text"] == ["forget me", "me, too"]
    assert task["verbatim"][0] == {"prompt": "forget", "completion": " me"}
    assert task["knowledge_retain"][0] == {"prompt": "Question: Who else?\nAnswer:", "completion": " Bo"}
    assert task["shots_forget"][0]["completion"] == " There"
    assert [task[f"{part}_4"]["text"][0] for part in ("scaling", "sustainability")] == ["scal 4", "sust 4"]
    assert len(load_task("muse", tmp_path, sizes={"forget": 1})["forget"]) == 1
    assert load_task("muse", write(tmp_path / "other", "json")).sha256() == task.sha256()


def test_books_have_no_folds(tmp_path: Path) -> None:
    write(tmp_path, "parquet", {place: rows for place, rows in FILES.items() if place[0] not in ("scal", "sust")})
    task = load_task("muse", tmp_path, split="books")
    assert task.split == "books"
    with pytest.raises(InputError, match="unknown part of muse 'scaling_1'; choose one of: forget, retain, retain_other"):
        task["scaling_1"]
    with pytest.raises(InputError, match=r"scal holds neither forget_1-\*\.parquet nor forget_1\.json.*found there: nothing"):
        load_task("muse", tmp_path)


def test_several_files_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    write(tmp_path, "parquet")
    pq.write_table(pa.Table.from_pylist([{"text": "third"}]), tmp_path / "raw" / "forget-00001-of-00002.parquet")
    assert load_task("muse", tmp_path)["forget"]["text"] == ["forget me", "me, too", "third"]


def test_another_layout_is_named(tmp_path: Path) -> None:
    """Earlier versions of the hub's data sets called the retained questions otherwise, and had the whole text in verbmem."""
    write(tmp_path, "parquet")
    (tmp_path / "knowmem/retain_qa-00000-of-00001.parquet").rename(tmp_path / "knowmem/retain2_qa-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"knowmem holds neither retain_qa-\*\.parquet .*found there: .*retain2_qa-00000"):
        load_task("muse", tmp_path)
    write(tmp_path, "parquet")
    pq.write_table(pa.Table.from_pylist([{"text": "x"}]), tmp_path / "verbmem/forget-00000-of-00001.parquet")
    with pytest.raises(InputError, match="needs the columns prompt, gt; it has: text"):
        load_task("muse", tmp_path)
    pq.write_table(pa.Table.from_pylist([{"prompt": "x"}]), tmp_path / "verbmem/forget-00000-of-00001.parquet")
    with pytest.raises(InputError, match=r"verbmem/forget, row 1: lacks the column gt .*it has: prompt"):
        load_task("muse", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "should be one JSON list"),
        ("{}", "should be one JSON list of texts or of objects"),
        ("[]", "raw/forget of MUSE holds no rows"),
        ("[5]", "raw/forget, row 1: lacks the column text"),
        ('["ok", " "]', "raw/forget, row 2: 'text' must be a text that is not empty"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "json")
    (tmp_path / "raw/forget.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_task("muse", tmp_path)


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(InputError, match="unknown split of MUSE 'films'; choose one of: news, books"):
        load_task("muse", split="films")
    with pytest.raises(InputError, match="there is no folder nowhere"):
        load_task("muse", "nowhere")
    with pytest.raises(HubUnavailableError, match=r"'muse-bench/MUSE-News' for task 'muse' is not here"):
        load_task("muse", "hub")
