import pytest
import torch

from unlearn_lib.curvature import BlockRecursion, from_blocks, to_blocks
from unlearn_lib.errors import InputError


def gradients(terms: int, blocks: int, width: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return scale * torch.randn(terms, blocks, width, generator=generator, dtype=torch.float64)


def built(g: torch.Tensor, damping: float) -> BlockRecursion:
    recursion = BlockRecursion(g.shape[1], g.shape[2], damping, len(g), g)
    for term in g:
        recursion.add(term)
    return recursion


@pytest.mark.parametrize("damping", [1.0, 1e-2, 1e-4])
def test_recursion_is_the_inverse_of_the_damped_fisher(damping: float) -> None:
    g = gradients(terms=30, blocks=5, width=8)
    dense = torch.einsum("mki,mkj->kij", g, g) / len(g) + damping * torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(built(g, damping).inverse_KBB, torch.linalg.inv(dense), rtol=1e-8, atol=1e-9)


def test_apply_and_roots() -> None:
    g = gradients(terms=4, blocks=6, width=5)
    recursion, v = built(g, 0.1), gradients(1, 6, 5)[0]
    expected = torch.einsum("kij,kj->ki", recursion.inverse_KBB, v)
    torch.testing.assert_close(recursion.apply(v), expected)
    torch.testing.assert_close(recursion.apply_root(v, 1.0, chunk=4), expected)
    fourth = v
    for _ in range(4):
        fourth = recursion.apply_root(fourth, 0.25)
    torch.testing.assert_close(fourth, expected)


def test_without_gradients_it_is_the_damped_identity() -> None:
    recursion, v = BlockRecursion(2, 3, 0.5, 0, torch.zeros(1)), torch.ones(2, 3)
    torch.testing.assert_close(recursion.apply(v), 2 * v)


def test_blocks_stay_within_a_tensor_and_padding_is_dropped() -> None:
    vector = {"a": torch.arange(5.0), "b": 10 + torch.arange(6.0).view(2, 3)}
    blocks = to_blocks(vector, 4)
    assert blocks.tolist() == [[0, 1, 2, 3], [4, 0, 0, 0], [10, 11, 12, 13], [14, 15, 0, 0]]
    back = from_blocks(blocks, vector)
    assert all(torch.equal(back[name], vector[name]) for name in vector)


def test_damping_must_be_positive() -> None:
    with pytest.raises(InputError, match="damping must be positive"):
        BlockRecursion(1, 1, 0.0, 1, torch.zeros(1))
