"""A model in bfloat16 is worked on in float32, whatever the method, and on a GPU as on the CPU."""

from typing import Any

import pytest
import torch
from certified import LOOPED, suited

from unlearn_lib import unlearn

"""The methods that take any model; those of one saved form have tests of their own."""
# few steps: what is tested is the format, not the forgetting
QUICK: dict[str, dict[str, Any]] = {
    "retrain": {"epochs": 1},
    "finetune": {"epochs": 1},
    "gradient-ascent": {"step": 0.1},
    "gradient-difference": {"epochs": 2},
    "npo": {"epochs": 2},
    "simnpo": {"epochs": 2},
    "fisher-removal": {"solver": "block", "step": 0.1, "damping": 0.1},
    "fisher-forgetting": {"preset": "paper"},
    "newton": {"step": 0.1, "max_steps": 5, "damping": 1.0},
    "kfac-newton": {"step": 0.1, "steps": 1},
    "woodbury-newton": {"step": 0.1},
    "constrained-newton": {"steps": 2, "target_loss": 12.0, "retain_limit": None},
    "wga": {"epochs": 2},
    "undial": {"epochs": 2},
    "dpo": {"epochs": 2},
    "rmu": {"epochs": 2},
    "memflex": {"epochs": 2, "scale": "quantile", "mu": 0.5, "sigma": 0.2},
    "sophia": {"epochs": 2, "learning_rate": 1e-3},
    "task-vector": {"scale": 1.0, "epochs": 1},
    "eul": {"epochs": 2},
    "certified-newton": {},
    "delta-unlearning": {"small": "nano/opt-s", "epochs": 2},
}


def forget(model: Any, name: str, tokenizer: Any, texts: list[dict[str, str]]) -> Any:
    sets = {"forget": texts[:4], "retain": texts[4:16], "holdout": texts[16:24]}
    model = suited(name, model, tokenizer, texts[:16])
    return unlearn(model, tokenizer, **sets, base=model, method=name, **QUICK[name]).model


def test_every_method_is_tried() -> None:
    assert set(QUICK) == set(LOOPED)


@pytest.mark.parametrize("name", LOOPED)
def test_bfloat16_is_float32_rounded_once(
    name: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]], fingerprint: Any
) -> None:
    model = tiny("opt", dtype=torch.bfloat16)
    given = fingerprint(model.float())
    model = tiny("opt", dtype=torch.bfloat16)
    found = forget(model, name, tokenizer, texts)
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    expected = forget(tiny("opt", dtype=torch.bfloat16).float(), name, tokenizer, texts)
    assert fingerprint(found.float()) == fingerprint(expected.to(torch.bfloat16).float())
    assert fingerprint(model.float()) == given


@pytest.mark.gpu
@pytest.mark.usefixtures("labels_of_the_cpu")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LOOPED)
def test_a_gpu_gives_what_the_cpu_gives(name: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """In float64, so that the order of sums does not matter: the parameters agree to 1e-6 of the step."""
    start = dict(tiny("neo").named_parameters())
    here = dict(forget(tiny("neo"), name, tokenizer, texts).named_parameters())
    there = dict(forget(tiny("neo").cuda(), name, tokenizer, texts).named_parameters())
    step = torch.cat([(p - start.get(key, 0.0)).flatten() for key, p in here.items()])  # some methods add parameters
    gap = torch.cat([(p - there[key].cpu()).flatten() for key, p in here.items()])
    assert there[next(iter(there))].is_cuda
    assert gap.norm() <= 1e-6 * step.norm()
