"""Products by curvlinops, called by curvature.py in an environment of its own.

`pip install torch transformers curvlinops-for-pytorch`, then `pip uninstall torchvision`, which curvlinops brings and which
breaks transformers beside a CPU build of torch.

Takes the folder that curvature.py filled; prints one line of JSON.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


class Logits(torch.nn.Module):
    """A module of the kind that curvlinops takes: a dict in, `[B, V, S]` out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=x["input_ids"], attention_mask=x["attention_mask"], use_cache=False).logits
        return logits[:, :-1].transpose(1, 2)


def least(function: Any) -> float:
    function()
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main(folder: str) -> None:
    model = Logits(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval())
    batch, v = load_file(f"{folder}/batch.safetensors"), load_file(f"{folder}/vector.safetensors")
    params = {f"model.{name}": dict(model.named_parameters())[f"model.{name}"] for name in v}
    x = {key: batch[key] for key in ("input_ids", "attention_mask")}
    loss, data = torch.nn.CrossEntropyLoss(), [(x, batch["labels"][:, 1:])]
    unit = least(lambda: torch.autograd.grad(loss(model(x), data[0][1]), list(params.values())))
    flat, rows = torch.cat([t.flatten() for t in v.values()]), []
    for name, make in {"gauss_newton": GGNLinearOperator, "hessian": HessianLinearOperator}.items():
        operator = make(
            model, loss, list(params.values()), data, batch_size_fn=lambda b: len(b["input_ids"]), check_deterministic=False
        )
        exact = load_file(f"{folder}/{name}.safetensors")
        reference = torch.cat([exact[key].flatten() for key in v]).double()
        product = (operator @ flat).double()
        rows.append(
            {
                "operation": f"{name} product, curvlinops {version('curvlinops-for-pytorch')}",
                "gradients_by_time": least(lambda operator=operator: operator @ flat) / unit,
                "seconds": unit,
                "error_against_float64": float((product - reference).norm() / reference.norm()),
            }
        )
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1])
