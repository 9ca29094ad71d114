"""Small models and data sets in the layout of the hub and of its cache, for code that would read the real ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from unlearn_lib.data.hub_sets import HubSet
from unlearn_lib.models import nano

PULL_REQUEST = "refs/pr/7"


Rows = list[dict[str, Any]]


def write_like_the_hub(folder: Path, hub_set: HubSet, rows: Rows | dict[str, Rows]) -> None:
    """A data set's repository: Parquet files for every split, and the page that says which is which. The rows are those of all
    splits, or by split."""
    from datasets import Dataset

    where = folder / (hub_set.config or "data")
    where.mkdir(parents=True)
    splits = {split for split, _ in hub_set.splits.values()}
    files = ""
    for split in sorted(splits):
        Dataset.from_list(rows[split] if isinstance(rows, dict) else rows).to_parquet(where / f"{split}-00000-of-00001.parquet")
        files += f"  - split: {split}\n    path: {where.name}/{split}-*\n"
    config = hub_set.config or "default"
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n# A stand-in\n")


def cached(cache: Path, kind: str, name: str, commit: str, revision: str = "main") -> Path:
    """The folder that a commit of a repository has in the hub's cache."""
    repository = cache / f"{kind}s--{name.replace('/', '--')}"
    reference = repository / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    return repository / "snapshots" / commit


def cache_model(cache: Path, name: str, spec: nano.ModelSpec, *, seed: int = 0, pickle_only: bool = False) -> Any:
    """A model with random weights in the cache, as GPT-Neo is published, or as OPT: a pickle, which is never read, and the weights
    of the bare decoder as safetensors in a pull request."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(nano.config(spec)).eval()
    folder = cached(cache, "model", name, f"{seed:040d}")
    AutoTokenizer.from_pretrained(nano.RECIPE.tokenizer).save_pretrained(folder)
    if not pickle_only:
        model.save_pretrained(folder)
        return model
    model.config.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not to be read")
    converted = cached(cache, "model", name, f"{seed + 1:040d}", PULL_REQUEST)
    model.model.save_pretrained(converted)
    for path in converted.iterdir():
        if path.suffix != ".safetensors":
            path.unlink()
    return model


def cache_set(cache: Path, hub_set: HubSet, rows: Rows | dict[str, Rows]) -> None:
    """A data set in the cache."""
    folder = cached(cache, "dataset", hub_set.repository, "d" * 40, hub_set.revision or "main")
    shutil.rmtree(folder, ignore_errors=True)
    write_like_the_hub(folder, hub_set, rows)
