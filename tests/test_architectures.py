"""Every operator on every architecture that transformers builds from its configuration alone, against plain reverse mode."""

from pathlib import Path
from typing import Any

import pytest
import torch
from by_reverse_mode import Reference, assert_plans_know_the_cost, errors, examples
from configurations import CONFIGURATIONS, FAST, NOT_RUN, build
from dense import batched, relative

from unlearn_lib import load_model, save_model, text_losses
from unlearn_lib.curvature import EmpiricalFisher, GaussNewton, Woodbury, plan
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError

BOUND = 1e-7
# of transformers and torch, about settings of some architectures
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.nightly) for name in CONFIGURATIONS]
)
def test_operators_are_those_of_each_sequence_alone(name: str) -> None:
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    found = errors(build(name))
    assert max(found.values()) < BOUND, found


def test_how_many_configurations_there_are() -> None:
    assert len(CONFIGURATIONS.keys() - NOT_RUN.keys()) >= 57
    assert NOT_RUN.keys() <= CONFIGURATIONS.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["bloom", "mixtral", "gpt_oss"])
def test_plans_know_the_cost(name: str) -> None:
    assert_plans_know_the_cost(build(name), batched(examples(), (2, 1)), woodbury=0.2, cg=0.1)


def test_a_plan_that_depends_on_the_texts_is_refused() -> None:
    model = build("jetmoe")
    with pytest.raises(InputError, match="what it computes depends on what the texts say"):
        plan(EmpiricalFisher(model, batched(examples(), (3,)), params="*embed_tokens*"), Woodbury(damping=1e-2))


def test_the_mode_says_how_and_experts_keep_their_kernels() -> None:
    model, batches = build("bloom"), batched(examples(), (3,))
    product = GaussNewton(model, batches)
    assert product.mode == "forward"
    product @ torch.ones(product.size, dtype=torch.float64)
    assert product.mode == "double backward"
    experts = build("mixtral")
    before = experts.get_experts_implementation()
    assert before[""] != "eager"
    plan(EmpiricalFisher(experts, batches), Woodbury(damping=1e-2))
    GaussNewton(experts, batches) @ torch.ones(GaussNewton(experts, batches).size, dtype=torch.float64)
    assert experts.get_experts_implementation() == before


def test_a_token_inside_a_text_whose_row_is_that_of_padding() -> None:
    """Reverse mode gives the row no gradient through the embedding, so that forward mode must not either."""
    model = build("opt")
    assert model.get_input_embeddings().padding_idx == 0
    found = errors(model, [Example((3, 0, 5, 0, 2), (3, 0, 5, 0, 2)), *examples()])
    assert max(found.values()) < BOUND, found


def test_experts_run_in_float64(tokenizer: Any, tmp_path: Path) -> None:
    import transformers as tf

    config = tf.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=32,
    )  # fmt: skip
    save_model(tf.MixtralForCausalLM(config), tokenizer, tmp_path)
    losses = {
        dtype: text_losses(*load_model(tmp_path, device="cpu", dtype=dtype), [{"text": "A short text."}])
        for dtype in ("float32", "float64")
    }
    torch.testing.assert_close(losses["float32"].double(), losses["float64"].double(), rtol=1e-5, atol=0)


@pytest.mark.nightly
def test_what_a_model_computes_without_gradients_is_constant_in_forward_mode_too() -> None:
    """HRM runs its first cycles under no_grad: no derivative goes through them, in whichever mode."""
    model, batches = build("hrm_text"), batched(examples(), (2, 1))
    reference = Reference(model, examples())
    product = GaussNewton(model, batches, params=reference.names)
    assert relative(product @ reference.v, reference.gauss_newton_v) < BOUND
    assert product.mode == "forward"
