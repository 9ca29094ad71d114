"""Linear CKA: against its definition by Gram matrices, its invariances, and in parts."""

from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.cka import Products, cka, linear_cka


def features(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_gram_matrices(x_nd: torch.Tensor, y_ne: torch.Tensor) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with linear kernels."""
    n = len(x_nd)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    k, m = centre @ (x_nd @ x_nd.T) @ centre, centre @ (y_ne @ y_ne.T) @ centre
    return float((k * m).sum() / (k.norm() * m.norm()))


@pytest.mark.parametrize(("n", "d", "e"), [(50, 4, 4), (20, 7, 3), (5, 9, 2), (2, 3, 3)])
def test_it_is_the_definition(n: int, d: int, e: int) -> None:
    x_nd, y_ne = 3 + features(n, d, 0), features(n, e, 1)
    y_ne[:, 0] += x_nd[:, 0]
    assert linear_cka(x_nd, y_ne) == pytest.approx(by_gram_matrices(x_nd, y_ne), rel=1e-10)
    assert linear_cka(y_ne, x_nd) == pytest.approx(linear_cka(x_nd, y_ne), rel=1e-12)


def test_rotations_scalings_and_shifts_do_not_matter_but_other_maps_do() -> None:
    x_nd, y_ne = features(60, 5, 0), features(60, 4, 1)
    y_ne[:, :2] += 2 * x_nd[:, :2]
    rotation, _ = torch.linalg.qr(features(5, 5, 2))
    assert linear_cka(x_nd, x_nd) == pytest.approx(1)
    assert linear_cka(x_nd, 7 - 0.01 * x_nd @ rotation) == pytest.approx(1)
    plain = linear_cka(x_nd, y_ne)
    assert 0.1 < plain < 0.9
    assert linear_cka(5 * x_nd @ rotation + 3, y_ne) == pytest.approx(plain)
    stretched = x_nd * torch.tensor([10.0, 1, 1, 1, 1])
    assert linear_cka(stretched, y_ne) != pytest.approx(plain, abs=1e-3)


def test_unrelated_features_are_about_d_over_n() -> None:
    for n, d in ((20_000, 30), (2_000, 20)):
        assert linear_cka(features(n, d, 0), features(n, d, 1)) == pytest.approx(d / n, rel=0.3)
    few = linear_cka(features(10, 200, 0), features(10, 200, 1))
    assert few > 0.8  # with fewer tokens than features it says nothing


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7, 0, 30, 23]])
def test_in_parts_it_is_the_same(sizes: list[int]) -> None:
    """In float32, too, with a mean that is 1e4 times the spread, where sums of squares about 0 would lose eight digits."""
    x_nd, y_ne = (1e4 + features(60, 5, 0)).float(), features(60, 3, 1).float()
    y_ne[:, 0] += x_nd[:, 0] - 1e4
    products = Products()
    for x_part, y_part in zip(x_nd.split(sizes), y_ne.split(sizes), strict=True):
        products.add(x_part, y_part)
    assert products.n == 60
    assert products.cka() == pytest.approx(by_gram_matrices(x_nd.double() - 1e4, y_ne.double()), rel=1e-9)


def test_what_has_no_cka_is_refused() -> None:
    x_nd = features(5, 3, 0)
    with pytest.raises(InputError, match="at least two tokens; got 1"):
        linear_cka(x_nd[:1], x_nd[:1])
    with pytest.raises(InputError, match="not of the same rows"):
        linear_cka(x_nd, x_nd[:4])
    with pytest.raises(NumericsError, match="CKA is not defined"):
        linear_cka(x_nd, torch.full((5, 3), 0.1))
    with pytest.raises(NumericsError, match="CKA is not defined"):
        linear_cka(x_nd, x_nd * torch.nan)


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_cka_of_models(family: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """Of the states at the tokens that predict a scored token, in whatever batches."""
    one, other = tiny(family), tiny(family, seed=1)
    rows = [{"prompt": row["text"][:20], "completion": row["text"][20:]} for row in texts[:9]]
    examples = encode(rows, tokenizer, 256).examples
    found = cka(one, other, make_batches(examples, 4))
    assert found.shape == (3,)
    expected = []
    with torch.no_grad():
        for layer in range(3):
            columns: list[list[torch.Tensor]] = [[], []]
            for example in examples:
                predicting = [i - 1 for i, label in enumerate(example.labels) if i and label != -100]
                for column, model in zip(columns, (one, other), strict=True):
                    states = model(torch.tensor([example.input_ids]), output_hidden_states=True).hidden_states
                    column.append(states[layer][0, predicting])
            expected.append(by_gram_matrices(*(torch.cat(column) for column in columns)))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(cka(one, other, make_batches(examples, 1)), found)
    torch.testing.assert_close(cka(one, one, make_batches(examples, 9)), torch.ones(3, dtype=torch.float64))
    assert ((found >= 0) & (found < 0.999)).all()
    assert one.training is other.training is False


def test_virtual_tokens_before_a_text_do_not_count(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = tiny("opt")
    tuned = get_peft_model(tiny("opt"), PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    batches = make_batches(encode(texts[:8], tokenizer, 256).examples, 3)
    assert cka(model, tuned, batches).shape == (3,)


def test_models_that_cannot_be_compared(tiny: Any) -> None:
    from transformers import AutoModelForCausalLM

    from unlearn_lib.models import nano

    deeper = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 16, 3, 2, 0.0, 0, ""))).double().eval()
    ids = (5, 6, 7, 8)
    with pytest.raises(InputError, match="has 2 layers and the model 3"):
        cka(tiny(), deeper, make_batches([Example(ids, ids)], 1))
    with pytest.raises(InputError, match="no texts"):
        cka(tiny(), tiny(), [])
    with pytest.raises(InputError, match="at least two tokens; got 1"):
        cka(tiny(), tiny(), make_batches([Example(ids[:2], ids[:2])], 1))
