"""Models in the hub's cache, on a machine without a network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hub_stand_ins import PULL_REQUEST, cache_model, cached

from unlearn_lib import InputError, load_model
from unlearn_lib.models import hub_cache, nano
from unlearn_lib.models.shapes import weights_are_here

NEO, OPT = "EleutherAI/gpt-neo-125m", "facebook/opt-125m"
SPECS = {NEO: nano.ModelSpec("neo", 16, 2, 2, 0.0, 0, ""), OPT: nano.ModelSpec("opt", 16, 2, 2, 0.0, 0, "")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", [NEO, OPT])
def test_weights_are_those_of_the_cache(name: str, cache: Path) -> None:
    assert hub_cache.commits(name) is None
    assert not weights_are_here(name)
    expected = cache_model(cache, name, SPECS[name], seed=3, pickle_only=name == OPT)
    assert weights_are_here(name)
    model, tokenizer = load_model(name, device="cpu")
    ids = tokenizer("a map of Keld", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)
    assert model.config._attn_implementation == "eager"
    assert hub_cache.commits(name) == {"config": f"{3:040d}", "weights": f"{4 if name == OPT else 3:040d}"}


def test_a_pickle_alone_is_not_read(cache: Path) -> None:
    cache_model(cache, OPT, SPECS[OPT], pickle_only=True)
    (cache / "models--facebook--opt-125m" / "refs" / PULL_REQUEST).unlink()
    assert hub_cache.weights_revision(OPT) is None
    with pytest.raises(InputError, match="model 'facebook/opt-125m' cannot be loaded from the hub or its cache"):
        load_model(OPT, device="cpu")


def test_several_conversions_are_a_question(cache: Path) -> None:
    cache_model(cache, OPT, SPECS[OPT], pickle_only=True)
    second = cached(cache, "model", OPT, "e" * 40, "refs/pr/9")
    second.mkdir()
    (second / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"several pull requests: refs/pr/7, refs/pr/9; remove all but one, or say"):
        load_model(OPT, device="cpu")


def test_with_a_network_conversions_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks the hub for converted weights only where the revision is "main", not where it is None."""
    from transformers import AutoModelForCausalLM

    asked: dict[str, Any] = {}

    def from_pretrained(name: str, **options: Any) -> None:
        asked.update(options)
        raise OSError("as far as this test goes")

    monkeypatch.setattr("unlearn_lib.models.load.hub_reachable", lambda: True)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(InputError, match="as far as this test goes"):
        load_model(OPT, device="cpu")
    assert (asked["revision"], asked["use_safetensors"], asked["trust_remote_code"]) == ("main", True, False)
