"""Quantisation and pruning: matrices by hand, bounds, and which matrices of a model they change."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from configurations import build

from unlearn_lib.attacks.matrices import changed, matrices
from unlearn_lib.attacks.pruning import prune, pruned, pruning
from unlearn_lib.attacks.quantisation import quantisation, quantise, quantised
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import mean_loss

EXAMPLES = [Example((2, 3, 4, 5, 6, 7, 3, 2), (-100, -100, 4, 5, 6, 7, 3, 2)), Example((9, 8, 3), (9, 8, 3))]


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_three_bits_by_hand() -> None:
    """L = 3: steps of 2 and of 1; halves go to the even level; a row of zeros stays."""
    weight = torch.tensor([[6.0, 2.9, -3.0, 1.0, -6.0], [0.4, -3.0, 1.5, 2.5, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0]])
    rounded = [[6.0, 2.0, -4.0, 0.0, -6.0], [0.0, -3.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    assert quantise(weight, 3).tolist() == rounded  # -1.5, 0.5 and 2.5 are halves


def test_groups_have_their_own_steps() -> None:
    """Groups of two, the last of one: each is a row by itself."""
    weight = random(3, 5)
    parts = [quantise(weight[:, i : i + 2], 4) for i in (0, 2, 4)]
    torch.testing.assert_close(quantise(weight, 4, group_size=2), torch.cat(parts, 1), rtol=0, atol=0)
    torch.testing.assert_close(quantise(weight, 4, group_size=1), weight)  # every weight is the largest of its group
    torch.testing.assert_close(quantise(weight, 4, group_size=99), quantise(weight, 4), rtol=0, atol=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_levels_and_errors_are_bounded(bits: int) -> None:
    weight = random(6, 2000)
    found = quantise(weight, bits)
    step_O1 = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    assert max(len(row.unique()) for row in found) <= 2**bits - 1
    assert ((found - weight).abs() <= step_O1 / 2 * (1 + 1e-12)).all()
    assert (found - weight).abs().max() > 0.4 * step_O1.min()
    torch.testing.assert_close(found, -quantise(-weight, bits), rtol=0, atol=0)  # symmetric
    torch.testing.assert_close(found.abs().amax(1), weight.abs().amax(1))  # the largest weight of a row stays


def test_sixteen_bits_are_nearly_the_identity_and_rounding_twice_is_rounding_once() -> None:
    weight = random(5, 40)
    assert ((quantise(weight, 16) - weight).abs() <= weight.abs().amax(1, keepdim=True) / 65_000).all()
    once = quantise(weight, 4)
    torch.testing.assert_close(quantise(once, 4), once)
    assert quantise(weight.bfloat16(), 4).dtype == torch.bfloat16
    tiny = torch.full((1, 3), 1e-45)  # the step is below the smallest number
    assert torch.isfinite(quantise(tiny, 8)).all()


def test_quantisation_is_row_by_row() -> None:
    weight = random(4, 6)
    torch.testing.assert_close(quantise(weight, 4), torch.stack([quantise(row[None], 4)[0] for row in weight]), rtol=0, atol=0)
    torch.testing.assert_close(quantise(weight.expand(2, 4, 6), 4)[1], quantise(weight, 4), rtol=0, atol=0)


@pytest.mark.parametrize(("bits", "group"), [(1, None), (17, None), (4, 0)])
def test_settings_out_of_range(bits: int, group: int | None) -> None:
    with pytest.raises(InputError, match="bits is the number" if group is None else "group_size is the number"):
        quantise(random(2, 2), bits, group)


def test_pruning_by_hand() -> None:
    """Half of 7 are 3: of the four ones the first two by position go beside the smallest."""
    weight = torch.tensor([[1.0, -1.0, 3.0, 0.5, 1.0, -2.0, -1.0]])
    assert prune(weight, 0.5).tolist() == [[0.0, 0.0, 3.0, 0.0, 1.0, -2.0, -1.0]]
    assert prune(weight, 0.0).tolist() == weight.tolist()
    assert prune(torch.ones(2, 2), 0.75).tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.07, 0.29, 0.3, 0.57, 0.58, 0.999])
def test_the_number_of_zeros_is_exact(sparsity: float) -> None:
    """Of 100 weights, where 0.29 * 100 is 28.999999999999996 in binary."""
    weight = random(10, 10)
    found = prune(weight, sparsity)
    gone = found == 0
    assert int(gone.sum()) == int(str(sparsity)[2:].ljust(2, "0")[:2])
    assert (found[~gone] == weight[~gone]).all()
    if gone.any():
        assert weight[gone].abs().max() <= weight[~gone].abs().min()


def test_a_stack_is_pruned_matrix_by_matrix() -> None:
    weight = random(3, 4, 5) * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    assert (prune(weight, 0.5) == 0).sum((1, 2)).tolist() == [10, 10, 10]
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="sparsity is the share"):
            prune(weight, bad)


def test_which_matrices_there_are() -> None:
    """Rows are outputs: GPT-2 stores its matrices the other way round, and they meet as in Llama, whose width is 8."""
    llama = dict(matrices(build("llama")))
    assert {name.rsplit(".", 2)[-2] for name in llama} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    added = dict(matrices(build("llama"), embeddings=True)).keys() - llama.keys()
    assert added == {"model.embed_tokens.weight", "lm_head.weight"}
    gpt2 = build("gpt2")
    assert dict(matrices(gpt2))["transformer.h.0.attn.c_attn.weight"].shape == (24, 8)  # stored as 8 x 24
    assert not [name for name in dict(matrices(gpt2)) if "wte" in name or "wpe" in name or "lm_head" in name]
    assert len([name for name in dict(matrices(gpt2, embeddings=True)) if "wte" in name or "lm_head" in name]) == 1  # tied
    experts = {name: tuple(weight.shape) for name, weight in matrices(build("mixtral")) if "experts" in name}
    assert set(experts.values()) == {(4, 24, 8), (4, 8, 12)}
    transposed = {name: tuple(weight.shape) for name, weight in matrices(build("gpt_oss")) if "experts" in name}
    stored = build("gpt_oss").get_parameter(min(transposed)).shape
    assert transposed[min(transposed)] == (stored[0], stored[2], stored[1])


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_only_the_matrices_of_a_copy_are_changed(name: str, fingerprint: Callable[[Any], str]) -> None:
    model = build(name).train()
    next(model.parameters()).requires_grad_(False)
    before, own = fingerprint(model), dict(matrices(model))
    rounded = quantised(model, 4)
    assert fingerprint(model) == before
    assert rounded.training
    assert [p.requires_grad for p in rounded.parameters()] == [p.requires_grad for p in model.parameters()]
    views = dict(matrices(rounded))
    for key, p in rounded.named_parameters():
        if key in own:
            torch.testing.assert_close(views[key], quantise(own[key], 4), rtol=0, atol=0)
        else:
            assert torch.equal(p, model.get_parameter(key)), key
    assert sum(int((weight == 0).sum()) for _, weight in matrices(pruned(model, 0.25))) == sum(
        weight.numel() // 4 for weight in own.values()
    )


def test_what_comes_back_is_measured_in_the_changed_model(fingerprint: Callable[[Any], str]) -> None:
    model = build("llama").train()
    before = fingerprint(model)
    known = mean_loss(model.eval(), make_batches(EXAMPLES, 2)) - 1.0
    for found, attacked in (
        (quantisation(model, EXAMPLES, 3, known=known, unseen=9.0), quantised(model, 3)),
        (pruning(model, EXAMPLES, 0.5, known=known, unseen=9.0), pruned(model, 0.5)),
    ):
        assert found.after == pytest.approx(mean_loss(attacked.eval(), make_batches(EXAMPLES, 2)), rel=1e-7)
        assert found.before == pytest.approx(known + 1.0, rel=1e-7)
        assert found.after != found.before
        assert found.share == pytest.approx(found.before - found.after)  # the way back is one nat
        assert found.unseen == 9.0
    assert fingerprint(model) == before
    one, other = (quantisation(model, EXAMPLES, 3, batch_size=size) for size in (1, 2))
    assert (one.after, one.measures) == (pytest.approx(other.after, rel=1e-7), other.measures)


def test_quantisation_brings_back_what_was_moved_by_less_than_half_a_step() -> None:
    """The premise of the attack, built: an original on the grid of 4 bits, and an unlearned model within 0.4 steps of it."""
    original = quantised(build("llama"), 4)

    def moved(w_OI: torch.Tensor) -> torch.Tensor:
        largest_O1 = w_OI.abs().amax(1, keepdim=True)
        return w_OI - 0.4 * largest_O1 / 7 * (w_OI.abs() < largest_O1)

    unlearned = changed(original, moved)
    batches = make_batches(EXAMPLES, 2)
    known, forgotten = mean_loss(original, batches), mean_loss(unlearned, batches)
    assert forgotten > known + 0.01
    assert quantisation(unlearned, EXAMPLES, 4, known=known).share == pytest.approx(1.0, abs=1e-9)
    assert quantisation(unlearned, EXAMPLES, 8, known=known).share == pytest.approx(0.0, abs=0.3)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(NumericsError, match=r"layers\.1\.mlp\.up_proj\.weight are not all finite"):
        quantised(model, 4)
    with pytest.raises(InputError, match="there are none"):
        pruning(build("llama"), [])


def test_a_model_of_inference_mode_can_be_attacked() -> None:
    with torch.inference_mode():
        model = build("llama")
        found = quantisation(model, EXAMPLES, 8)
    assert pruning(model, EXAMPLES, 0.1).before == pytest.approx(found.before, rel=1e-7)
