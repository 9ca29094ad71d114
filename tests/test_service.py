"""The removal cache: when it triggers, what it keeps, and that a restart or an interruption loses nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import service as service_module
from unlearn_lib.errors import InputError
from unlearn_lib.service import RemovalService

OPTIONS: dict[str, Any] = {"method": "gradient-ascent", "step": 0.05, "capacity": 3}


@pytest.fixture
def folder(tmp_path: Path, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> Path:
    RemovalService.create(tmp_path / "service", tiny(dtype=torch.float32), tokenizer, retain=texts, **OPTIONS)
    return tmp_path / "service"


def retained(folder: Path) -> list[str]:
    (path,) = folder.glob("retain-*.jsonl")
    return [json.loads(line)["text"] for line in path.read_text().splitlines()]


def test_a_full_cache_triggers_one_cycle(folder: Path, texts: list[dict[str, str]], fingerprint: Any) -> None:
    service = RemovalService(folder, device="cpu")
    start = fingerprint(service.model)
    assert service.request(texts[:2]) == []
    assert (service.waiting, service.cycle, fingerprint(service.model)) == (2, 0, start)
    (result,) = service.request(texts[2:4])
    assert (service.waiting, service.cycle) == (1, 1)  # the fourth waits for the next cycle
    assert result.config["method"] == "gradient-ascent"
    assert fingerprint(service.model) != start
    assert retained(folder) == [row["text"] for row in texts[3:]]
    assert sorted(path.name for path in folder.iterdir()) == ["model-1", "retain-1.jsonl", "state.json"]


def test_state_survives_a_restart(folder: Path, texts: list[dict[str, str]], fingerprint: Any) -> None:
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


def test_several_cycles_at_once(folder: Path, texts: list[dict[str, str]]) -> None:
    service = RemovalService(folder, device="cpu")
    assert len(service.request(texts[:7])) == 2
    assert (service.cycle, service.waiting) == (2, 1)


def test_a_text_is_asked_for_once(folder: Path, texts: list[dict[str, str]]) -> None:
    service = RemovalService(folder, device="cpu")
    service.request([texts[0], texts[0]])
    service.request([texts[0]])
    assert service.waiting == 1
    service.request(texts[1:3])
    service.request(texts[:3])  # forgotten already
    assert service.waiting == 0
    state = (folder / "state.json").read_text()
    assert texts[0]["text"][:20] not in state  # of forgotten texts only hashes stay


def test_an_interrupted_cycle_can_be_done_again(
    folder: Path, texts: list[dict[str, str]], monkeypatch: Any, fingerprint: Any
) -> None:
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


def test_refusals(tmp_path: Path, folder: Path, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    with pytest.raises(InputError, match=r"holds no state\.json"):
        RemovalService(tmp_path)
    arguments: dict[str, Any] = {"model": tiny(), "tokenizer": tokenizer, "retain": texts}
    with pytest.raises(InputError, match="exists already; nothing is overwritten"):
        RemovalService.create(folder, **arguments, **OPTIONS)
    with pytest.raises(InputError, match="'fisher-removal' with these options needs holdout"):
        RemovalService.create(tmp_path / "new", **arguments)
    with pytest.raises(InputError, match="capacity must be at least 1"):
        RemovalService.create(tmp_path / "new", **arguments, **{**OPTIONS, "capacity": 0})
    with pytest.raises(InputError, match="unknown method"):
        RemovalService.create(tmp_path / "new", **arguments, method="forget")
    with pytest.raises(InputError, match="nothing would be left to retain"):
        RemovalService.create(tmp_path / "new", **{**arguments, "retain": texts[:3]}, **OPTIONS).request(texts[:3])
