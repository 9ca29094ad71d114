"""What processes that share a model's weights compute: `torchrun sharded.py FOLDER WORDS..` writes FOLDER/found.safetensors.

The words are a command for `unlearn`, or "nightly" for what takes longer.

Everything is computed twice, by one process with the whole model ("one/...") and by all with a part of it each ("all/...").
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch
from dense import batched, build, examples
from ranked import FORMATS, SIZES, Found
from safetensors.torch import save_file
from torch import Tensor

from unlearn_lib import save_model, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.curvature import mean_gradient
from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.vector import all_finite, dot, flatten, norm
from unlearn_lib.losses import evaluate
from unlearn_lib.methods import resume
from unlearn_lib.models import nano
from unlearn_lib.ranks import alone, data_parallel, ranks
from unlearn_lib.shards import make_whole, own, part, seen, shard, whole

FAMILIES = {"opt": True, "gpt2": True, "llama": False}
"""With tied embeddings or without."""
CURVATURES: dict[str, dict[str, Any]] = {
    "K-FAC": {"correction": False, "samples": 2, "positions": 0.7},
    "EK-FAC": {"correction": True},
    "long sides": {"max_side": 5, "correction": False},
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient-ascent, calibrated": (
        "gradient-ascent",
        {"step": 0.3, "epochs": 1, "stop": "calibrate", "target_loss": 7.1, "forget_batch_size": 2},
    ),
    "npo": ("npo", {"learning_rate": 1e-3, "epochs": 1, "retain_loss": "kl"}),
    "kfac-newton": ("kfac-newton", {"steps": 1, "max_side": 100}),
    "constrained-newton": (
        "constrained-newton",
        {"steps": 2, "approach": 1, "anchor_texts": 3, "target_loss": 7.5, "retain_limit": None, "positions": 0.5},
    ),
}
NIGHTLY: dict[str, tuple[str, dict[str, Any]]] = {
    "fisher-removal": ("fisher-removal", {"steps": 1, "step": 1e-4, "relative_damping": 0.1}),
    "gradient-difference": ("gradient-difference", {"learning_rate": 1e-3, "epochs": 1, "forget_batch_size": 3}),
    **{name: (name, {"learning_rate": 1e-3, "epochs": 1}) for name in ("simnpo", "wga", "undial", "dpo")},
}
"""What takes minutes, or ways that others take, too."""
ROWS = [{"text": row["text"][:60]} for row in tiny_models.passages()]
TEXTS: dict[str, Any] = {"forget": ROWS[:5], "retain": ROWS[5:16], "holdout": ROWS[16:21]}


def both(name: str, found: Found, compute: Callable[..., Tensor], *args: Any, **options: Any) -> None:
    """Keep what a function gives that takes whether the weights are shared."""
    if ranks().first:
        with alone():
            found[f"one/{name}"] = compute(False, *args, **options).detach().clone()
    found[f"all/{name}"] = compute(True, *args, **options).detach().clone()


def placed(model: Any, shared: bool) -> Any:
    return shard(model, "cpu") if shared else model


def in_a_row(vector: Any) -> Tensor:
    return flatten({name: whole(tensor.detach()) for name, tensor in vector.items()})


def gradient(shared: bool, family: str, dtype: torch.dtype, sizes: tuple[int, ...]) -> Tensor:
    """The loss, the length of the gradient, all losses, and the gradient."""
    model, batches = placed(build(family, FAMILIES[family], dtype=dtype), shared), batched(examples(), sizes)
    loss, g = mean_gradient(model, batches)
    assert all_finite(g.values())
    assert abs(dot(g, g) / norm(g) ** 2 - 1) < 1e-12
    next(iter(g.values())).mul_(torch.inf)
    assert not all_finite(g.values())
    _, g = mean_gradient(model, batches)
    return torch.cat([torch.tensor([loss, norm(g)], dtype=dtype), evaluate(model, batches), in_a_row(g)])


def product(shared: bool, family: str, sizes: tuple[int, ...], **options: Any) -> Tensor:
    """The trace of a K-FAC operator, and a product."""
    K = KFAC(placed(build(family, FAMILIES[family]), shared), batched(examples(), sizes), seed=1, **options)
    generator = torch.Generator().manual_seed(3)
    v = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in K.params.items()}
    Kv = K @ {name: part(tensor, K.params[name]) for name, tensor in v.items()}
    assert set(K.left_out) < set(K.params)
    return torch.cat([torch.tensor([K.trace()], dtype=torch.float64), in_a_row(Kv)])


def weights(shared: bool, tokenizer: Any, method: str, **options: Any) -> Tensor:
    """The weights after a method."""
    model = placed(tiny_models.build("opt"), shared)
    result = unlearn(model, tokenizer, **TEXTS, method=method, seed=3, batch_size=4, **options)
    return in_a_row(dict(result.model.named_parameters()))


class Interrupted(Exception):
    """Someone has pressed Ctrl-C."""


def stop(step: int, steps: int, loss: float) -> None:
    if step == 4:
        raise Interrupted


def interrupted(found: Found, tokenizer: Any, folder: Path) -> None:
    """A run that is broken off with weights shared goes on whole, and the other way round."""
    resume.SECONDS_BETWEEN = 0.0
    options: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 2, "forget_batch_size": 2}
    for name, first in (("then whole", True), ("then shared", False)):
        for shared, progress in ((first, stop), (not first, None)):
            try:
                if shared:
                    after = weights(True, tokenizer, "gradient-difference", keep=folder / name, progress=progress, **options)
                elif ranks().first:
                    with alone():
                        after = weights(
                            False, tokenizer, "gradient-difference", keep=folder / name, progress=progress, **options
                        )
            except Interrupted:
                pass
            ranks().wait()
        if ranks().first:
            found[f"all/interrupted/float64/{name}"] = after
            with alone():
                found[f"one/interrupted/float64/{name}"] = weights(False, tokenizer, "gradient-difference", **options)


def saved(found: Found, tokenizer: Any, folder: Path) -> None:
    """What nothing was done to is written as it would have been; and how many numbers each process has."""
    for form in (torch.float32, torch.bfloat16):
        given = tiny_models.build("opt", torch.float32)
        model = shard(tiny_models.build("opt", torch.float32), "cpu")
        left = sum(p.untyped_storage().nbytes() for p in seen(model).values())
        found["numbers"] = torch.tensor([sum(p.numel() for p in given.parameters()), left])
        found["parts"] = torch.tensor(ranks().told(sum(own(p).numel() for p in model.parameters())))
        make_whole(model, dict.fromkeys(dict(model.named_parameters()), form))
        if ranks().first:
            save_model(model, tokenizer, folder / f"parts-{form}")
            save_model(given.to(form), tokenizer, folder / f"whole-{form}")


if __name__ == "__main__":
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    folder, tokenizer, found = Path(sys.argv[1]), AutoTokenizer.from_pretrained(nano.RECIPE.tokenizer), Found()
    nightly = sys.argv[2:] == ["nightly"]
    with data_parallel("cpu", shard_weights=True) as together:
        for label, (method, options) in (NIGHTLY if nightly else METHODS).items():
            both(f"method/float64/{label}", found, weights, tokenizer, method, **options)
        for family in () if nightly else FAMILIES:
            for form, dtype in FORMATS.items():
                both(f"gradient/{form}/{family}", found, gradient, family, dtype, SIZES["uneven"])
            for label, given in CURVATURES.items():
                both(f"K-FAC/float64/{family}, {label}", found, product, family, SIZES["uneven"], **given)
        if not nightly:
            both("gradient/float64/opt, a process without texts", found, gradient, "opt", torch.float64, SIZES["short"])
            both("K-FAC/float64/opt, a process without texts", found, product, "opt", SIZES["short"])
            saved(found, tokenizer, folder)
            interrupted(found, tokenizer, folder)
            resume.SECONDS_BETWEEN = 60.0
        if together.first:
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "found.safetensors")
        if not nightly:
            main(sys.argv[2:], standalone_mode=False)
