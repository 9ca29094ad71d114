"""The removal cache: when it triggers, what it keeps, and that nothing is lost or left, whoever interrupts it, and whenever."""

import json
import os
import shutil
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from killing import CHANGES, Killer

from unlearn_lib.errors import InputError
from unlearn_lib.service import removal as service_module
from unlearn_lib.service.removal import RemovalService
from unlearn_lib.service.state import State

OPTIONS: dict[str, Any] = {"method": "gradient-ascent", "step": 0.05, "capacity": 3}
Texts = list[dict[str, str]]


@pytest.fixture
def make(tmp_path: Path, tiny: Any, tokenizer: Any, texts: Texts) -> Callable[..., Path]:
    """Makes a service in a folder, of 40 texts and a capacity of 3 unless told otherwise."""

    def create(retain: Any = texts, **options: Any) -> Path:
        RemovalService.create(
            tmp_path / "service", tiny(dtype=torch.float32), tokenizer, retain=retain, **{**OPTIONS, **options}
        )
        return tmp_path / "service"

    return create


@pytest.fixture
def folder(make: Callable[..., Path]) -> Path:
    return make()


def retained(folder: Path) -> list[str]:
    (path,) = folder.glob("retain-*.jsonl")
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def holders(folder: Path, text: str) -> list[str]:
    """The files that hold a text, as it is or as JSON writes it."""
    forms = {text.encode(), json.dumps(text).encode()[1:-1], json.dumps(text, ensure_ascii=False).encode()[1:-1]}
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if any(form in path.read_bytes() for form in forms)]


def test_a_full_cache_triggers_one_cycle(folder: Path, texts: Texts, fingerprint: Any) -> None:
    service = RemovalService(folder, device="cpu")
    start = fingerprint(service.model)
    assert service.request(texts[:2]) == []
    assert (service.waiting, service.cycle, fingerprint(service.model)) == (2, 0, start)
    (result,) = service.request(texts[2:4])
    assert (service.waiting, service.cycle) == (1, 1)  # the fourth waits for the next cycle
    assert result.config["method"] == "gradient-ascent"
    assert fingerprint(service.model) != start
    assert retained(folder) == [row["text"] for row in texts[3:]]
    assert visible(folder) == ["model-1", "retain-1.jsonl", "state.json"]


def test_state_survives_a_restart(folder: Path, texts: Texts, fingerprint: Any) -> None:
    whole = RemovalService(folder, device="cpu")
    whole.request(texts[:3])
    model = fingerprint(whole.model)
    again = RemovalService(folder, device="cpu")
    assert (again.cycle, again.waiting, fingerprint(again.model)) == (1, 0, model)
    again.request(texts[3:5])
    third = RemovalService(folder, device="cpu")
    assert third.waiting == 2
    assert third.flush() is not None
    assert third.flush() is None
    assert third.cycle == 2
    assert len(retained(folder)) == len(texts) - 5


def test_several_cycles_at_once(folder: Path, texts: Texts) -> None:
    service = RemovalService(folder, device="cpu")
    assert len(service.request(texts[:7])) == 2
    assert (service.cycle, service.waiting) == (2, 1)


def test_a_text_is_asked_for_once(folder: Path, texts: Texts) -> None:
    service = RemovalService(folder, device="cpu")
    service.request([texts[0], texts[0]])
    service.request([texts[0]])
    assert service.waiting == 1
    service.request(texts[1:3])
    service.request(texts[:3])  # forgotten already
    assert service.waiting == 0
    state = (folder / "state.json").read_text(encoding="utf-8")
    assert texts[0]["text"][:20] not in state  # of forgotten texts only hashes stay


SAME = {
    "an id here": ({"text": "Ada lives in Rome."}, {"text": "Ada lives in Rome.", "id": 7}),
    "an id there": ({"text": "Ada lives in Rome.", "id": 7}, {"text": "Ada lives in Rome."}),
    "two ids": ({"text": "Ada lives in Rome.", "id": 7}, {"text": "Ada lives in Rome.", "id": "seven", "date": None}),
    "empty columns, as a table has": (
        {"text": "Ada lives in Rome."},
        {"text": "Ada lives in Rome.", "prompt": None, "completion": None, "messages": None},
    ),
    "a prompt": ({"text": "Ada lives in Rome."}, {"prompt": "Ada lives", "completion": " in Rome."}),
    "another prompt": (
        {"prompt": "Ada", "completion": " lives in Rome."},
        {"prompt": "Ada lives in", "completion": " Rome.", "n": 1},
    ),
}


@pytest.mark.parametrize(("kept", "asked"), SAME.values(), ids=SAME.keys())
def test_a_text_is_its_content_whatever_else_a_row_holds(make: Any, texts: Texts, kept: Any, asked: Any) -> None:
    folder = make([*texts[:2], kept, *texts[2:4]], capacity=1)
    RemovalService(folder, device="cpu").request(datasets.Dataset.from_list([asked]))
    assert holders(folder, "in Rome.") == []
    (path,) = folder.glob("retain-*.jsonl")
    assert len(path.read_text(encoding="utf-8").split("\n")) - 1 == 4


def test_a_conversation_is_its_content_too(make: Any, texts: Texts, tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    turns = [{"role": "user", "content": "Who is Ada?"}, {"role": "assistant", "content": "A poet of Rome."}]
    folder = make([*texts[:2], {"messages": turns, "id": 1}], capacity=1)
    padded = [{**turn, "name": None} for turn in turns]
    RemovalService(folder, device="cpu").request([{"id": 2, "messages": padded}])
    assert holders(folder, "A poet of Rome.") == []


def test_what_waits_is_not_trained_on_meanwhile(make: Any, texts: Texts, monkeypatch: Any) -> None:
    seen: list[set[str]] = []
    real = service_module.unlearn

    def unlearn(*args: Any, **kwargs: Any) -> Any:
        seen.append({row["text"] for row in kwargs["retain"]})
        return real(*args, **kwargs)

    monkeypatch.setattr(service_module, "unlearn", unlearn)
    RemovalService(make(), device="cpu").request(texts[:5])
    (retain,) = seen
    assert retain == {row["text"] for row in texts[5:]}


BAD = {
    "another column": {"content": "a"},
    "no string": {"text": 3},
    "nothing": {},
    "no row": None,
    "empty": {"text": "  "},
    "a prompt alone": {"prompt": "a"},
    "no chat template": {"messages": [{"role": "user", "content": "a"}]},
    "no UTF-8": {"text": "cut \ud83d"},
}


@pytest.mark.parametrize("row", BAD.values(), ids=BAD.keys())
def test_a_bad_row_is_refused_at_the_door(
    folder: Path, tmp_path: Path, texts: Texts, tiny: Any, tokenizer: Any, row: Any
) -> None:
    service = RemovalService(folder, device="cpu")
    with pytest.raises(InputError, match=r"request.* row 1"):  # from 0
        service.request([texts[0], row])
    assert service.waiting == 0  # none of them, so that the call can be repeated
    assert len(service.request(texts[:3])) == 1
    for part in ("retain", "holdout"):
        given = {"retain": texts[:4], part: [texts[5], row]}
        with pytest.raises(InputError, match=part):
            RemovalService.create(tmp_path / "new", tiny(), tokenizer, **given, **OPTIONS)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "mark", ["\u2028", "\u2029", "\u0085", "\x0c", "\x0b", "\x1c", "\r", "\r\n", "\n", "\x00", "\ufeff", '"', "\\"]
)
def test_texts_are_kept_letter_by_letter(make: Any, texts: Texts, mark: str) -> None:
    strange = [{"text": f"{mark}before{mark}after {i}{mark}"} for i in range(3)]
    folder = make([*texts[:2], *strange], capacity=2)
    service = RemovalService(folder, device="cpu")
    service.request(strange[:1])
    service.request(texts[:1])
    assert service.cycle == 1
    assert retained(folder) == [texts[1]["text"], strange[1]["text"], strange[2]["text"]]


def test_open_handles_see_each_other(folder: Path, texts: Texts, fingerprint: Any) -> None:
    first, second = RemovalService(folder, device="cpu"), RemovalService(folder, device="cpu")
    first.request(texts[:1])
    second.request(texts[1:2])
    assert (first.waiting, second.waiting) == (2, 2)
    assert first.flush() is not None
    assert second.flush() is None
    assert second.cycle == 1
    assert fingerprint(second.model) == fingerprint(first.model) == fingerprint(RemovalService(folder, device="cpu").model)
    assert second.request(texts[:2]) == []  # forgotten already, by the other
    second.request(texts[2:5])
    assert (first.cycle, first.waiting) == (2, 0)
    assert visible(folder) == ["model-2", "retain-2.jsonl", "state.json"]
    assert len(retained(folder)) == len(texts) - 5


def test_requests_during_a_cycle_are_kept(folder: Path, texts: Texts, monkeypatch: Any) -> None:
    at_work, other, said = RemovalService(folder, device="cpu"), RemovalService(folder, device="cpu"), []
    real = service_module.unlearn
    asking = threading.Thread(target=lambda: other.request(texts[3:6], said.append))

    def unlearn(*args: Any, **kwargs: Any) -> Any:
        if not asking.ident:
            asking.start()
            while not said:  # the other has asked, and waits for this cycle to end
                asking.join(0.01)
        return real(*args, **kwargs)

    monkeypatch.setattr(service_module, "unlearn", unlearn)
    at_work.request(texts[:3])
    asking.join(60)
    assert said[0] == "another process is carrying out a cycle of this service; this one goes on when it is done"
    assert (at_work.cycle, at_work.waiting, other.cycle) == (2, 0, 2)
    assert retained(folder) == [row["text"] for row in texts[6:]]


def test_opening_leaves_a_cycle_at_work_alone(folder: Path, texts: Texts, monkeypatch: Any) -> None:
    service = RemovalService(folder, device="cpu")
    real = service_module.save_model

    def save(model: Any, tokenizer: Any, place: Path) -> None:
        real(model, tokenizer, place)
        RemovalService(folder, device="cpu")  # must not tidy up what is being written

    monkeypatch.setattr(service_module, "save_model", save)
    assert len(service.request(texts[:3])) == 1
    assert visible(folder) == ["model-1", "retain-1.jsonl", "state.json"]


def test_an_interrupted_cycle_can_be_done_again(folder: Path, texts: Texts, monkeypatch: Any, fingerprint: Any) -> None:
    service = RemovalService(folder, device="cpu")
    start = fingerprint(service.model)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(service_module, "save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            service.request(texts[:3])
    again = RemovalService(folder, device="cpu")
    assert (again.cycle, again.waiting, fingerprint(again.model)) == (0, 3, start)
    assert len(again.request([])) == 1
    assert again.cycle == 1
    assert not list(folder.glob(".writing-*"))


REQUEST = """
from unlearn_lib.service.removal import RemovalService
RemovalService(folder, device="cpu").request(rows)
"""


def killed_everywhere(make: Any, texts: Texts, tmp_path: Path, kinds: tuple[str, ...]) -> int:
    """Kill a request of three texts before each of its changes; every time nothing is lost or left."""
    unseen = [{"text": f"unseen text number {i}"} for i in range(4)]
    original = make(texts[:8], holdout=[*unseen, texts[0]])
    copies = tmp_path / "copies"
    with Killer() as killer:
        whole = killer.run(REQUEST, copy_of(original, copies / "whole"), kinds=kinds, rows=texts[:3])
        assert whole.signal == 0
        for number, change in enumerate(whole.changes):
            folder, where = copy_of(original, copies / str(number)), f"killed before {change}"
            killed = killer.run(REQUEST, folder, kill_at=number, kinds=kinds, rows=texts[:3])
            assert (killed.signal, len(killed.changes)) == (signal.SIGKILL, number)
            again = RemovalService(folder, device="cpu")
            assert (again.cycle, again.waiting) in ((0, 0), (0, 3), (1, 0)), where
            if again.cycle == 1:  # opening it was enough
                assert [holders(folder, row["text"]) for row in texts[:3]] == [[]] * 3, where
            again.request(texts[:3])
            assert (again.cycle, again.waiting) == (1, 0), where
            assert retained(folder) == [row["text"] for row in texts[3:8]], where
            assert [holders(folder, row["text"]) for row in texts[:3]] == [[]] * 3, where
            assert visible(folder) == ["holdout.jsonl", "model-1", "retain-1.jsonl", "state.json"], where
            shutil.rmtree(folder)
    return len(whole.changes)


def copy_of(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    return place


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_killed_before_any_rename_or_removal_nothing_is_lost_or_left(make: Any, texts: Texts, tmp_path: Path) -> None:
    assert killed_everywhere(make, texts, tmp_path, ("os.rename", "shutil.rmtree")) >= 6


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_killed_before_any_change_nothing_is_lost_or_left(make: Any, texts: Texts, tmp_path: Path) -> None:
    assert killed_everywhere(make, texts, tmp_path, CHANGES) >= 30


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_a_service_is_private(make: Any, texts: Texts, mask: int) -> None:
    before = os.umask(mask)
    try:
        folder = make(capacity=2)
        RemovalService(folder, device="cpu").request(texts[:3])
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_a_service_of_version_0_1_0_goes_on(folder: Path, texts: Texts) -> None:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    state["cache"] = [{**texts[0], "id": 1}, {"id": 2}]  # as that version took them
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "retain-0.jsonl").write_text("".join(json.dumps({**row, "id": 3}) + "\n" for row in texts), encoding="utf-8")
    with pytest.warns(UserWarning, match="a request was dropped, because nothing can be learnt from it: .*row 2"):
        service = RemovalService(folder, device="cpu")
    assert service.waiting == 1
    assert service.flush() is not None
    assert holders(folder, texts[0]["text"]) == []


def test_a_damaged_state_is_said(folder: Path) -> None:
    (folder / "state.json").write_text('{"schema_version": 1, ', encoding="utf-8")
    with pytest.raises(InputError, match=r"state\.json is not valid JSON"):
        RemovalService(folder)
    (folder / "state.json").write_text('["a"]', encoding="utf-8")
    with pytest.raises(InputError, match="schema version None"):
        RemovalService(folder)


def test_a_state_is_read_as_it_was_written(folder: Path, texts: Texts) -> None:
    service = RemovalService(folder, device="cpu")
    service.request([{"text": "Größe — schön"}, *texts[:4]])
    text = (folder / "state.json").read_text(encoding="utf-8")
    state = State.read(folder / "state.json")
    assert state.as_json() == text
    assert list(json.loads(text)) == "schema_version capacity method options base seed cycle cache done".split()
    assert list(json.loads(text)["done"][0]) == ["cycle", "sha256", "cost", "warnings"]
    assert (state.cycle, len(state.cache), len(state.forgotten)) == (1, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity": "3"}, "capacity: Input should be a valid integer"),
        ({"cache": [3]}, r"cache\.0: Input should be a valid dictionary"),
        ({"capactiy": 3}, "capactiy: Extra inputs are not permitted"),
        ({"schema_version": 2}, "has schema version 2, this library reads 1"),
    ],
)
def test_a_state_that_is_none_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    state = json.loads((folder / "state.json").read_text(encoding="utf-8")) | change
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        RemovalService(folder)


def test_a_setting_that_cannot_be_kept_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match="cannot keep this setting: base: Input should be a valid string"):
        make(base=Path("somewhere"))


def test_refusals(tmp_path: Path, folder: Path, tiny: Any, tokenizer: Any, texts: Texts) -> None:
    with pytest.raises(InputError, match=r"holds no state\.json"):
        RemovalService(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["service"]  # no lock is left in a folder that is none of ours
    arguments: dict[str, Any] = {"model": tiny(), "tokenizer": tokenizer, "retain": texts}
    with pytest.raises(InputError, match="exists already; nothing is overwritten"):
        RemovalService.create(folder, **arguments, **OPTIONS)
    with pytest.raises(InputError, match="'constrained-newton' with these options needs holdout"):
        RemovalService.create(tmp_path / "new", **arguments)
    with pytest.raises(InputError, match="capacity must be at least 1"):
        RemovalService.create(tmp_path / "new", **arguments, **{**OPTIONS, "capacity": 0})
    with pytest.raises(InputError, match="unknown method"):
        RemovalService.create(tmp_path / "new", **arguments, method="forget")
    with pytest.raises(InputError, match="nothing would be left to retain"):
        RemovalService.create(tmp_path / "new", **{**arguments, "retain": texts[:3]}, **OPTIONS).request(texts[:3])
