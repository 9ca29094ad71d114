"""What constrained Newton differentiates: the bounded forget loss, the divergence from the original, and on which texts."""

import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch
from dense import batched, build, examples, logits_of, relative

from unlearn_lib.curvature.gradient import mean_gradient, trainable
from unlearn_lib.curvature.vector import dot, flatten
from unlearn_lib.data.batches import Example
from unlearn_lib.data.overlap import near_duplicates
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import IGNORED
from unlearn_lib.methods.anchor import Anchor
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.forgetting import bounded_gradient
from unlearn_lib.methods.replay import head_length, replay


def bounded_by_definition(model: Any, sequences: list[Example], q: float) -> tuple[float, torch.Tensor]:
    """The mean NLL, and the gradient of mean (1 - p^q) / q, sequence by sequence."""
    params = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    total, nll = torch.zeros((), dtype=torch.float64), 0.0
    for sequence in sequences:
        log_p = logits_of(model, torch.tensor([sequence.input_ids]), params).log_softmax(-1)
        scored = [t for t in range(1, len(sequence.labels)) if sequence.labels[t] != IGNORED]
        p = torch.stack([log_p[t - 1, sequence.labels[t]].exp() for t in scored])
        total = total + ((1 - p**q) / q).mean() / len(sequences)
        nll -= p.detach().log().mean().item() / len(sequences)
    grads = torch.autograd.grad(total, list(params.values()), materialize_grads=True)
    return nll, torch.cat([grad.flatten() for grad in grads])


@pytest.mark.parametrize("q", [0.25, 0.5, 1.0])
def test_bounded_gradient_is_that_of_the_generalised_cross_entropy(q: float) -> None:
    model = build("gpt-neox")
    nll, expected = bounded_by_definition(model, examples(), q)
    found, gradient = bounded_gradient(model, batched(examples(), (3, 2)), q)
    assert found == pytest.approx(nll, rel=1e-12)
    assert relative(flatten(gradient), expected) < 1e-10


def test_bounded_gradient_of_nothing_bounded_is_the_gradient() -> None:
    model, batches = build("gpt2"), batched(examples(), (3, 2))
    loss, plain = mean_gradient(model, batches)
    found, gradient = bounded_gradient(model, batches, 0.0)
    assert found == pytest.approx(loss, rel=1e-12)
    assert list(gradient) == list(plain)
    assert relative(flatten(gradient), flatten(plain)) < 1e-12
    assert relative(flatten(bounded_gradient(model, batches, 0.5)[1]), flatten(plain)) > 0.05


def test_a_model_that_has_diverged_has_no_gradients() -> None:
    model = build("gpt2")
    anchor = Anchor(model, inputs(), written=False)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(NumericsError, match="the model has diverged"):
        bounded_gradient(model, batched(examples(), (5,)), 0.5)
    with pytest.raises(NumericsError, match="the model has diverged"):
        anchor.gradient(model, examples())


def inputs(retain: list[Example] | None = None, forget: list[Example] | None = None, seed: int = 0) -> Inputs:
    return Inputs(forget or [Example((2, 3, 4), (2, 3, 4))], retain or examples(), None, seed, batch_size=2)


def other_model(model: Any, scale: float = 0.1) -> Any:
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return other


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "llama"])
def test_the_anchor_has_neither_value_nor_gradient_at_the_original(family: str) -> None:
    model = build(family)
    anchor = Anchor(model, inputs(), written=False)
    value, gradient = anchor.gradient(model, examples())
    assert abs(value) < 1e-15
    moved_value, moved = anchor.gradient(other_model(model), examples())
    assert moved_value > 1e-3
    assert flatten(gradient).norm() < 1e-12 * flatten(moved).norm()


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "llama"])
def test_the_anchors_gradient_is_a_finite_difference(family: str) -> None:
    model = build(family)
    anchor, theta = Anchor(model, inputs(), written=False), other_model(model)
    generator = torch.Generator().manual_seed(4)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in trainable(theta).items()}
    _, gradient = anchor.gradient(theta, examples())

    def at(h: float) -> float:
        moved = copy.deepcopy(theta)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(direction[name], alpha=h)
        return anchor.gradient(moved, examples())[0]

    h = 1e-4
    difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    assert dot(gradient, direction) == pytest.approx(difference, rel=1e-8)


def test_the_anchors_gradient_is_a_mean_over_texts_and_its_passes_are_counted() -> None:
    model = build("gpt2")
    given = inputs()
    anchor, theta = Anchor(model, given, written=False), other_model(model)
    value, gradient = anchor.gradient(theta, examples())
    assert given.passes.forward == 5
    alone = [anchor.gradient(theta, [example]) for example in examples()]
    assert given.passes.forward == 10
    assert value == pytest.approx(sum(one for one, _ in alone) / 5)
    assert relative(flatten(gradient), sum(flatten(one) for _, one in alone) / 5) < 1e-10
    assert all(p.grad is None for p in theta.parameters())
    assert not any(p.requires_grad for p in anchor.original.parameters())


def test_all_texts_come_once_before_one_comes_again() -> None:
    retain = [Example((2, number), (2, number)) for number in range(7)]
    anchor = Anchor(build("gpt2"), inputs(retain), written=False)
    drawn = [text for _ in range(7) for text in anchor.next(3)]
    assert [len(anchor.next(20)), anchor.inputs.passes.forward] == [7, 0]  # none of them twice at a time
    for start in (0, 7, 14):
        assert Counter(drawn[start : start + 7]) == Counter(retain)
    assert drawn[:7] != retain
    again = Anchor(build("gpt2"), inputs(retain), written=False).next(7)
    other = Anchor(build("gpt2"), inputs(retain, seed=1), written=False).next(7)
    assert again == drawn[:7]
    assert other != again


def heads() -> list[Example]:
    """A plain text, and three with prompts of two lengths. 1 ends a text."""
    ids = (2, 3, 4, 5, 6, 2, 3, 4, 5, 6)
    return [
        Example(ids, ids),
        Example(ids[:8], (IGNORED, IGNORED, IGNORED, *ids[3:8])),
        Example(ids[1:9], (IGNORED, IGNORED, IGNORED, *ids[4:9])),
        Example(ids[:7], (IGNORED, IGNORED, IGNORED, IGNORED, *ids[4:7])),
    ]


def test_the_head_of_a_text_is_what_is_not_scored_and_the_first_token() -> None:
    assert [head_length(text) for text in heads()] == [1, 3, 3, 4]
    assert head_length(Example((2, 3, 4), (IGNORED, 3, 4))) == 1
    assert head_length(Example((2, 3, 4), (IGNORED, IGNORED, IGNORED))) == 3


def test_what_is_written_goes_on_from_a_head_and_stops_at_the_end_of_a_text() -> None:
    model = build("opt")
    found, drawn = replay(model, heads(), 24, [], 4, seed=0)
    assert len(found) == drawn == 24
    kinds = set()
    for text in found:
        head = next(h for h in heads() if h.input_ids[: head_length(text)] == text.input_ids[: head_length(text)])
        k = head_length(text)
        assert k in {head_length(h) for h in heads() if h.input_ids[0] == head.input_ids[0]}
        assert text.labels == (*[IGNORED] * k, *text.input_ids[k:])
        assert len(text.input_ids) > k
        assert 1 not in text.input_ids[:-1]
        ended = text.input_ids[-1] == 1
        assert ended or len(text.input_ids) == 10  # that of the longest head
        kinds.add((k, ended))
    assert {k for k, _ in kinds} == {1, 3, 4}
    assert {ended for _, ended in kinds} == {True, False}
    # every head lends itself as often
    assert sorted(text.input_ids[:3] == (3, 4, 5) for text in found).count(True) >= 6


def test_writing_depends_on_the_seed_alone_and_draws_nothing_from_the_caller() -> None:
    model = build("opt")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = replay(model, heads(), 8, [], 4, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert replay(model, heads(), 8, [], 4, seed=0) == first
    assert replay(model, heads(), 8, [], 4, seed=1) != first


def test_what_repeats_the_forget_set_is_left_out() -> None:
    model = build("opt", vocabulary=40)
    plain, _ = replay(model, heads(), 12, [], 4, seed=0)
    forget = [Example(text.input_ids, text.input_ids) for text in plain[:3]]
    found, drawn = replay(model, heads(), 12, forget, 4, seed=0)
    assert drawn > 12  # others were drawn in their place
    assert len(found) == 12
    assert not near_duplicates(found, forget)
    assert {text.input_ids for text in found}.isdisjoint(text.input_ids for text in forget)


def test_where_all_that_is_written_repeats_the_forget_set_there_are_fewer() -> None:
    model = build("opt")
    with torch.no_grad():  # ties the head to a single token
        for p in model.parameters():
            p.zero_()
        model.model.decoder.embed_tokens.weight[5] = 50.0
        model.model.decoder.final_layer_norm.bias.fill_(50.0)
    forget = [Example((5,) * 10, (5,) * 10)]
    found, drawn = replay(model, [Example((5, 5, 5, 5, 5, 5, 5, 5, 5, 5), (5,) * 10)], 3, forget, 4, seed=0)
    assert (found, drawn) == ([], 12)


def test_an_anchor_goes_on_with_texts_that_the_original_writes() -> None:
    model, retain = build("opt", vocabulary=40), heads()
    forget = [Example((9, 8, 7, 9, 8, 7, 9), (9, 8, 7, 9, 8, 7, 9))]
    given = inputs(retain, forget)
    anchor = Anchor(model, given, written=True)
    first = anchor.next(3)
    assert given.passes.forward == 0
    with torch.no_grad():  # what the model says later does not matter
        for p in model.parameters():
            p.zero_()
    second = anchor.next(5)
    assert Counter([*first, second[0]]) == Counter(retain)
    assert given.passes.forward == 4
    third = anchor.next(4)
    new = [*second[1:], *third]
    assert given.passes.forward == 8
    assert len(new) == 8
    assert set(new).isdisjoint(retain)
    assert len(set(new)) > 4  # every call draws others
    assert not near_duplicates(new, forget)
