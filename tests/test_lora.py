"""Any method on a peft adapter alone: the base stays as it is, and the adapter is saved by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, load_model, save_model, text_losses, train, unlearn
from unlearn_lib.models import nano

peft = pytest.importorskip("peft")
METHODS_AND_OPTIONS: dict[str, dict[str, Any]] = {
    "fisher-removal": {"steps": 2},
    "kfac-newton": {"steps": 1},
    "newton": {"step": "calibrate", "max_steps": 5},
    "woodbury-newton": {},
    "constrained-newton": {"steps": 2},
    "fisher-forgetting": {"step": 1e-3},
    "gradient-ascent": {"step": 0.1},
    "gradient-difference": {"learning_rate": 1e-2},
    "npo": {"learning_rate": 1e-2},
    "finetune": {"learning_rate": 1e-2},
    "wga": {"learning_rate": 1e-2},
    "undial": {"learning_rate": 1e-2},
    "dpo": {"learning_rate": 1e-2},
    "rmu": {"learning_rate": 1e-2},
    "memflex": {"learning_rate": 1e-2, "scale": "quantile", "mu": 0.9, "sigma": 0.1},
    "sophia": {"learning_rate": 1e-2},
    "task-vector": {"learning_rate": 1e-2},
}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: Any, tokenizer: Any, texts: list[dict[str, str]]) -> Any:
    """A tiny saved base, and an adapter on it that has learnt 24 texts."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()
    train(base, tokenizer, texts[24:], TrainingConfig(20, 1e-2))
    folder = tmp_path_factory.mktemp("base")
    save_model(base, tokenizer, folder)
    base = load_model(folder, device="cpu")[0]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "fc1", "fc2"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    train(model, tokenizer, texts[:24], TrainingConfig(30, 1e-2))
    return model


def split(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    adapter = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    rest = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    return adapter, rest


@pytest.mark.parametrize("method", METHODS_AND_OPTIONS)
def test_only_the_adapter_moves(method: str, adapted: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    adapter, rest = split(adapted)
    options = METHODS_AND_OPTIONS[method]
    result = unlearn(
        adapted,
        tokenizer,
        forget=texts[:5],
        retain=texts[5:24],
        holdout=texts[24:],
        method=method,
        **_unlimited(method),
        **options,
    )
    new_adapter, new_rest = split(result.model)
    assert all("lora" in name for name in adapter)
    assert all(torch.equal(new_rest[name], tensor) for name, tensor in rest.items())
    assert any(not torch.equal(new_adapter[name], tensor) for name, tensor in adapter.items())
    assert all(torch.equal(p, adapter[name]) for name, p in split(adapted)[0].items())


def _unlimited(method: str) -> dict[str, Any]:
    from unlearn_lib.methods import METHODS

    extra: dict[str, Any] = {"target_loss": 6.0} if "target_loss" in METHODS[method].model_fields else {}
    return extra | ({"retain_limit": None} if "retain_limit" in METHODS[method].model_fields else {})


def test_the_adapter_is_saved_alone_and_loads(
    adapted: Any, tokenizer: Any, texts: list[dict[str, str]], tmp_path: Path
) -> None:
    options: dict[str, Any] = {"method": "gradient-ascent", "step": 0.1}
    result = unlearn(adapted, tokenizer, forget=texts[:5], **options)
    save_model(result.model, tokenizer, tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    again, _ = load_model(tmp_path / "adapter", device="cpu")
    assert {name for name, p in again.named_parameters() if p.requires_grad} == set(split(adapted)[0])
    torch.testing.assert_close(text_losses(again, tokenizer, texts[:8]), text_losses(result.model, tokenizer, texts[:8]))
