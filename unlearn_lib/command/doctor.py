"""`unlearn doctor`: what this machine can run."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "safetensors",
    "peft",
    "gguf",
    "opacus",
    "scikit-learn",
    "jupyter-book",
    "papermill",
)
OPTIONAL = {
    "peft": "LoRA adapters: pip install 'unlearn_lib[lora]'",
    "gguf": "GGUF files: pip install 'unlearn_lib[real]'",
    "opacus": "epsilon of DP-SGD: pip install 'unlearn_lib[dp]'",
    "scikit-learn": "document-level membership inference: pip install 'unlearn_lib[audit]'",
}
BYTES_PER_PARAMETER = (
    4 * 8
)  # float32: the model, its copy, gradient, direction, step and the calibration's start, with some room


def examine() -> list[str]:
    """One line for every thing looked at."""
    import platform

    import psutil
    import torch

    from unlearn_lib.curvature import EmpiricalFisher
    from unlearn_lib.data.batches import encode, make_batches
    from unlearn_lib.errors import InputError
    from unlearn_lib.hub import hub_reachable
    from unlearn_lib.models.load import load_model
    from unlearn_lib.progress import quiet_libraries

    quiet_libraries()
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    for name in PACKAGES:
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name}: not installed" + (f" ({OPTIONAL[name]})" if name in OPTIONAL else ""))
    memory = psutil.virtual_memory().available
    lines.append(f"cpu: {torch.get_num_threads()} threads, {memory / 2**30:.1f} GiB of memory free")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            lines.append(
                f"cuda:{index}: {torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            )
        memory = torch.cuda.mem_get_info(0)[0]
    else:
        lines.append("cuda: none; everything runs on the CPU")
    lines.append(
        f"largest model for a first-order or calibrated step: about {memory / BYTES_PER_PARAMETER / 1e6:,.0f} M parameters in float32"
    )
    lines.append(f"disk: {shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here")
    lines.append(
        f"hugging face hub: {'reachable' if hub_reachable() else 'not reachable (embedded models and local folders work)'}"
    )
    try:
        model, tokenizer = load_model("nano/opt-s")
    except InputError as error:  # a folder of this name
        return [*lines, f"attention: not tried, because {error}"]
    batches = make_batches(encode([{"text": "The lighthouse keeper lost his key."}], tokenizer, 64).examples, 1, model.device)
    difference = EmpiricalFisher(model, batches).gradients().check()
    lines.append(
        f"attention: {model.config._attn_implementation}; per-sequence against plain gradients on nano/opt-s: {difference:.0e} "
        f"({'as it should be' if difference < 1e-3 else 'WRONG: do not trust curvature on this machine'})"
    )
    return lines
