"""What a model says of every scored token, by hand and against autograd-free references written out for one token at a time."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_lib.curvature.meter import Meter
from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.data.examples import Example, pieces, text_means
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate
from unlearn_lib.metrics import likelihood
from unlearn_lib.metrics.likelihood import of_texts, score_texts
from unlearn_lib.metrics.memorisation import right_tokens


class Fixed(torch.nn.Module):
    """It predicts the same distribution after every token."""

    device = torch.device("cpu")

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits_V = torch.tensor(logits)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.logits_V.expand(*input_ids.shape, -1))


class Drawn(Fixed):
    """Random logits of their own for every token of the vocabulary."""

    def __init__(self, size: int) -> None:
        super().__init__([])
        self.table_VV = torch.randn(50, size, generator=torch.Generator().manual_seed(0))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.table_VV[input_ids])


def text(*ids: int, scored_from: int = 0) -> Example:
    return Example(ids, tuple(-100 if i < scored_from else token for i, token in enumerate(ids)))


def test_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): mean log p = -3/2 log 2; its variance is (log 2)^2 / 4."""
    model = Fixed([math.log(0.5), math.log(0.25), math.log(0.25)])
    (found,) = score_texts(model, [text(0, 0, 1, 2)])
    assert found.nll_T.tolist() == pytest.approx([math.log(2), math.log(4), math.log(4)])
    assert found.right_T.tolist() == [True, False, False]
    assert found.mean_T.tolist() == pytest.approx([-1.5 * math.log(2)] * 3)
    assert found.std_T.tolist() == pytest.approx([math.log(2) / 2] * 3)
    assert found.loss == pytest.approx(5 / 3 * math.log(2))
    assert {found.nll_T.dtype, found.mean_T.dtype, found.std_T.dtype} == {torch.float64}
    assert found.right_T.dtype == torch.bool


def test_the_floor_of_the_variance_and_ties() -> None:
    """Where all tokens are equally likely the variance is zero, and the first of them counts as the most likely one."""
    (found,) = score_texts(Fixed([1.0, 1.0, 1.0]), [text(2, 0, 1)])
    assert found.std_T.tolist() == pytest.approx([1e-3, 1e-3])
    assert found.right_T.tolist() == [True, False]


def test_impossible_tokens_count_nothing() -> None:
    """Of 0 log 0 the limit is taken: a token of probability zero leaves the two others at 1/2 each."""
    (found,) = score_texts(Fixed([0.0, 0.0, -math.inf]), [text(0, 1)])
    assert found.nll_T.tolist() == pytest.approx([math.log(2)])
    assert found.mean_T.tolist() == pytest.approx([-math.log(2)])
    assert found.std_T.tolist() == pytest.approx([1e-3])
    (found,) = score_texts(Fixed([0.0, 0.0, -math.inf]), [text(0, 2)])
    assert found.nll_T.tolist() == [math.inf]


def test_a_small_variance_keeps_its_digits() -> None:
    """p = (1/2 + d, 1/2 - d): the variance is (1/4 - d^2) log((1/2 + d) / (1/2 - d))^2, here of nearly equal numbers in float32."""
    d = 1e-3
    logits = torch.tensor([math.log(0.5 + d), math.log(0.5 - d)], dtype=torch.float64)
    (found,) = score_texts(Fixed(logits.tolist()), [text(0, 1)])
    expected = math.sqrt(0.25 - d**2) * math.log((0.5 + d) / (0.5 - d))
    assert found.std_T.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_the_mean_is_the_loss(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny(family)
    rows = [*texts[:4], {"prompt": "An elephant", "completion": " is large."}]
    examples = encode(rows, tokenizer, 64).examples
    scores = score_texts(model, examples, batch_size=3)
    expected = evaluate(model, make_batches(examples, 3))
    assert [found.loss for found in scores] == pytest.approx(expected.tolist(), rel=1e-12)
    assert [len(found.nll_T) for found in scores] == [example.scored for example in examples]
    right = right_tokens(model, examples)
    assert all(torch.equal(found.right_T, right_T) for found, right_T in zip(scores, right, strict=True))


def test_a_model_one_token_at_a_time(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("opt")
    (example,) = encode(texts[:1], tokenizer, 20).examples
    (found,) = score_texts(model, [example])
    for t in range(1, len(example.input_ids)):
        p_V = model(torch.tensor([example.input_ids[:t]])).logits[0, -1].softmax(-1)
        mean = (p_V * p_V.log()).sum().item()
        # the definition with squares, in float64
        std = math.sqrt((p_V * p_V.log().square()).sum().item() - mean**2)
        expected = (-p_V[example.input_ids[t]].log().item(), mean, std)
        assert (found.nll_T[t - 1].item(), found.mean_T[t - 1].item(), found.std_T[t - 1].item()) == pytest.approx(expected)


def test_batches_padding_and_order_do_not_matter(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("neo")
    examples = encode(texts[:7], tokenizer, 40).examples
    whole = score_texts(model, examples)
    alone = score_texts(model, examples, batch_size=1)
    backwards = score_texts(model, examples[::-1], batch_size=2)[::-1]
    for one, *others in zip(whole, alone, backwards, strict=True):
        for other in others:
            for name in ("nll_T", "mean_T", "std_T"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)


def test_pieces_of_a_text_are_joined(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("opt")
    whole = encode(texts[:3], tokenizer, 200).examples
    parts = encode(texts[:3], tokenizer, 16, long_texts="split").examples
    assert len(parts) > len(whole)
    found = of_texts(score_texts(model, parts), parts)
    assert [len(scores.nll_T) for scores in found] == [example.scored for example in whole]
    expected = text_means(evaluate(model, make_batches(parts, 4)), parts)
    assert [scores.loss for scores in found] == pytest.approx(expected.tolist(), rel=1e-9)
    with pytest.raises(InputError, match="3 scores for"):
        of_texts(found, parts)


def test_the_order_of_pieces_is_that_of_the_text() -> None:
    """A model that looks one token back says the same of a text and of its pieces."""
    ids = tuple(i * 7 % 50 for i in range(23))
    whole, model = Example(ids, ids, row=0), Drawn(50)
    parts = pieces(whole, 6)
    shuffled = [part for pair in zip(parts, [text(1, 2)] * len(parts), strict=True) for part in pair]
    found = of_texts(score_texts(model, shuffled), shuffled)
    (expected,) = score_texts(model, [whole])
    torch.testing.assert_close(found[0].nll_T, expected.nll_T)
    assert torch.equal(found[0].right_T, expected.right_T)


def test_memory_is_near_that_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of 4 x 31 x 5,000 logits: never both, and the statistics a few predictions at a time."""
    model, examples = Drawn(5000), [text(*range(31), scored_from=i) for i in range(8)]
    expected = score_texts(model, examples, batch_size=4)
    monkeypatch.setattr(likelihood, "NUMBERS", 1 << 14)
    with Meter() as meter:
        found = score_texts(model, examples, batch_size=4)
    assert meter.peak < 1.3 * 4 * 31 * 5000 * 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.std_T, other.std_T)
        assert torch.equal(one.nll_T, other.nll_T)


def test_the_model_is_left_as_it_was(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """Weights in bfloat16 are measured in float32, and are bfloat16 again; the mode and the flags are the caller's."""
    model = tiny("opt", dtype=torch.bfloat16).train()
    frozen = model.model.decoder.layers[0].fc1.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    examples = encode(texts[:2], tokenizer, 32).examples
    found = score_texts(model, examples)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())
    assert all(module.training for module in model.modules())
    assert not frozen.requires_grad
    assert not found[0].nll_T.requires_grad
    wide = score_texts(model.float(), examples)
    assert [scores.loss for scores in found] == [scores.loss for scores in wide]


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match="no texts"):
        score_texts(Fixed([0.0, 0.0]), [])
    with pytest.raises(InputError, match="sequence 1 has no scored token"):
        score_texts(Fixed([0.0, 0.0]), [text(0, 1), text(1)])


def test_virtual_tokens(tiny: Any) -> None:
    """Where virtual tokens predict the first token, it counts in the loss, but not in what is known by heart."""
    peft = pytest.importorskip("peft")
    base = tiny("opt", dtype=torch.float32)
    model = peft.get_peft_model(base, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).eval()
    examples = [text(5, 6, 7), text(8, 9, 10, 11, 12)]
    scores = score_texts(model, examples)
    assert [scores.loss for scores in scores] == pytest.approx(evaluate(model, make_batches(examples, 2)).tolist(), rel=1e-6)
    assert [len(scores.nll_T) for scores in scores] == [3, 5]
    right = right_tokens(model, examples)
    assert [right_S.tolist() for right_S in right] == [scores.right_T[1:].tolist() for scores in scores]
