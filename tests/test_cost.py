"""What a solve costs, in FLOPs and live bytes: counted, so that a loaded machine cannot change it."""

from typing import Any

import pytest
import torch

from unlearn_lib.curvature import Auto, EmpiricalFisher, batch_gradient, solve
from unlearn_lib.curvature.meter import Meter


def opt(layers: int = 4, width: int = 256) -> tuple[Any, dict[str, torch.Tensor]]:
    """An OPT of 3.7 million parameters (with two layers 2.1, and of half the width 0.5) and 16 sequences of 64 tokens."""
    from transformers import AutoModelForCausalLM, OPTConfig

    config = OPTConfig(
        vocab_size=8 * width, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, ffn_dim=4 * width,
        word_embed_proj_dim=width,
        max_position_embeddings=128, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(5, 8 * width, (16, 64))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def test_meter_counts_by_hand() -> None:
    a, b, x = torch.ones(3, 4), torch.ones(4, 5), torch.ones(4)
    with Meter() as meter:
        c = a @ b  # 60 bytes of results in float32
        assert meter.flops == 2 * 3 * 4 * 5
        assert meter.live == 60
        a @ x
        assert meter.flops == 2 * 3 * 4 * 5 + 2 * 3 * 4
        assert (meter.live, meter.peak) == (60, 72)  # the second result is gone
        view = c.t()[1:]
        assert meter.live == 60  # a view is no new memory
        del c
        assert meter.live == 60
        del view
        assert (meter.live, meter.peak) == (0, 72)


def test_a_gradient_costs_what_it_says() -> None:
    model, batch = opt()
    F = EmpiricalFisher(model, [batch])
    with Meter() as meter:
        batch_gradient(model, batch)
    assert meter.flops == F.gradient_flops


@pytest.mark.parametrize("right_hand_side", ["gradient", "random"])
def test_a_verified_inverse_fisher_costs_two_gradients_and_twice_the_memory(right_hand_side: str) -> None:
    model, batch = opt()
    with Meter() as meter:
        _, g = batch_gradient(model, batch)
    generator = torch.Generator().manual_seed(1)
    v = g if right_hand_side == "gradient" else {name: torch.randn(p.shape, generator=generator) for name, p in g.items()}
    # mean eigenvalue of the Gram matrix / n is about 2 here
    solution = solve(EmpiricalFisher(model, [batch]), v, Auto(1e-2))
    assert solution.gradient_evaluations / 16 < 2.1
    assert solution.residual < 3e-5
    assert solution.iterations == 0
    assert solution.peak_memory_bytes < 2 * meter.peak
    # and the residual is what other code says it is
    F = EmpiricalFisher(model, [batch], precision="float64")
    x = {name: tensor.double() for name, tensor in solution.value.items()}
    product = F @ x
    r = torch.cat([(v[name].double() - product[name] - 1e-2 * x[name]).flatten() for name in v])
    true = float(r.norm() / torch.cat([t.flatten() for t in v.values()]).norm())
    assert true < 3e-5
