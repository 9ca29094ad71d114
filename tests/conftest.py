import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of the hub's client

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from filelock import FileLock

from unlearn_lib.curvature import kfac
from unlearn_lib.models import nano


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(nano.RECIPE.tokenizer)


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """Build a tiny model from a configuration: `tiny("opt")`, see `tiny_models`."""
    return tiny_models.build


@pytest.fixture(scope="session")
def texts() -> list[dict[str, str]]:
    """Forty short passages of different lengths."""
    return tiny_models.passages()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder that the first of pytest's workers fills that asks for it: `made_once("a name", fill)`."""
    base = tmp_path_factory.getbasetemp()
    place = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        made = place / f"once {name}"
        with FileLock(f"{made}.lock"):
            if not made.exists():
                filling = Path(tempfile.mkdtemp(dir=base))
                fill(filling)
                filling.rename(made)
        return made

    return folder


@pytest.fixture
def labels_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-FAC's labels are drawn on the CPU, so that those on a GPU are the same."""
    draw = kfac.draw_labels
    monkeypatch.setattr(kfac, "generator_on", lambda device: torch.Generator())
    monkeypatch.setattr(kfac, "draw_labels", lambda z, scored, generator: draw(z.cpu(), scored.cpu(), generator).to(z.device))


@pytest.fixture
def fingerprint() -> Callable[[Any], str]:
    """A hash of all parameters and buffers of a model."""

    def of(model: Any) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    return of


@pytest.fixture(scope="module")
def memorised(made_once: Callable[..., Path], tokenizer: Any, texts: list[dict[str, str]]) -> Any:
    """A tiny model that knows the first 24 texts much better than the others."""
    from transformers import AutoModelForCausalLM

    from unlearn_lib import TrainingConfig, save_model, train

    def fill(folder: Path) -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()
        train(model, tokenizer, texts[:24], TrainingConfig(40, 1e-2))
        save_model(model, tokenizer, folder)

    return AutoModelForCausalLM.from_pretrained(made_once("memorised", fill), attn_implementation="eager")


@pytest.fixture
def benchmark_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of the benchmarks find each other as when they are called."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
