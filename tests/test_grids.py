"""The records that are committed, and what is drawn from them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib.errors import InputError
from unlearn_lib.models.load import load_model
from unlearn_lib.reproduction.exhibits import fig06_onion, fig07_exposure
from unlearn_lib.reproduction.inventory import ITEMS
from unlearn_lib.reproduction.runs import grids, profiles
from unlearn_lib.reproduction.runs.counts import growth
from unlearn_lib.reproduction.runs.finished import load
from unlearn_lib.reproduction.runs.store import RunStore
from unlearn_lib.reproduction.runs.weights import histogram_divergence, last_projection, projection, with_activation

RESULTS = Path(__file__).parents[1] / "results" / "nano"


def test_every_run_of_every_grid_is_committed_and_nothing_else() -> None:
    assert set(grids.GRIDS) <= set(ITEMS)
    store = RunStore(RESULTS)
    wanted = [scenario for identifier in grids.GRIDS for scenario in grids.grid(identifier)]
    records = load(wanted, store)
    assert {store.path(s.name, s.config()).name for s in wanted} == {path.name for path in RESULTS.glob("*.json")}
    assert not [r["config"]["method"] for r in records if r["provenance"]["commit"].endswith("+changes")]
    assert {r["provenance"]["threads"] for r in records} == {1}


def test_a_notebook_without_runs_has_no_grid() -> None:
    assert grids.grid("table01") == []


def test_growth_counts_gradients() -> None:
    """t = 2 removed, r = 8 retained, m = 3 terms, in one batch: 5 epochs, 1 epoch, t, t + m, m."""
    assert growth([(2, 8, 3)]).gradients.tolist() == [40, 8, 2, 5, 3]


def test_divergence_of_histograms_by_hand() -> None:
    p, q = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    # two bins, each with one count more: (3, 2) and (2, 3) of 5
    assert histogram_divergence(p, q, bins=2) == pytest.approx(0.6 * math.log(1.5) + 0.4 * math.log(2 / 3))
    assert histogram_divergence(p, p, bins=2) == 0.0


def test_a_number_format_alone_makes_histograms_diverge() -> None:
    """The same weights, one side rounded to bfloat16: fine bins see the coarse grid."""
    w = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rounded = w.to(torch.bfloat16).double()
    assert histogram_divergence(w, w.float().double()) < 1e-3
    assert histogram_divergence(w, rounded) > 0.3
    assert float((w - rounded).norm() / w.norm()) < 0.003


def test_last_projection_and_activations() -> None:
    for name in ("nano/neo-s", "nano/opt-s"):
        model, _ = load_model(name, device="cpu")
        weights = projection(model)
        assert weights.numel() == 4 * model.config.hidden_size**2
        assert last_projection(model, model)["relative_distance"] == 0.0
        same = with_activation(model, model.config.activation_function)
        other = with_activation(model, "relu" if name.endswith("neo-s") else "gelu_new")
        ids = torch.arange(8).unsqueeze(0)
        with torch.no_grad():
            assert torch.equal(same(ids).logits, model(ids).logits)
            assert not torch.allclose(other(ids).logits, model(ids).logits)


def test_a_model_of_another_architecture_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(
        num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, hidden_size=4, intermediate_size=8, vocab_size=8
    )
    with pytest.raises(InputError, match="llama has no MLP projection that is named as in GPT-Neo or OPT"):
        projection(LlamaForCausalLM(tiny))


def record(method: str, exposures: list[float], **more: Any) -> dict[str, Any]:
    config = {"method": method, "seed": 0, "reference_size": 10}
    return {"config": config, "results": {"exposures": exposures, "forgotten": [1], **more}}


def test_exposure_tables_by_hand() -> None:
    """Ten references: rank 2 has log 5, rank 3 log 3.3, so the cutoff log 4 lies between."""
    row = fig07_exposure.table([record("original", [math.log(10), math.log(5), math.log(10 / 3), 0.0])]).iloc[0]
    assert row["rank 1 or 2, all (%)"] == 50.0
    assert row["rank 1 or 2, forgotten (%)"] == 100.0
    assert row["mean, forgotten"] == pytest.approx(math.log(5))
    assert row["mean, retained"] == pytest.approx((math.log(10) + math.log(10 / 3)) / 3)
    onion = record("original", [2.0, 0.5, 1.0], cutoff=1.5, kept=[1, 2], exposures_after=[1.6, 0.9])
    row = fig06_onion.table([onion]).iloc[0]
    assert (row["above before"], row["above after, of the rest"], row["share of the rest that rises (%)"]) == (1, 1, 50.0)


def test_runs_that_are_held_to_a_limit_are_known_by_their_options() -> None:
    """`Scenario.limited` reads options alone, so that records are found without loading the methods: these are asked here."""
    from unlearn_lib.methods import choose
    from unlearn_lib.methods.target import Calibrated
    from unlearn_lib.reproduction.runs.bench import method_name
    from unlearn_lib.reproduction.runs.labels import ORIGINAL, PRIVATE

    seen = set()
    for profile in profiles.PROFILES.values():
        for identifier in ITEMS:
            for scenario in grids.grid(identifier, profile):
                if scenario.method not in (ORIGINAL, PRIVATE):
                    method = choose(method_name(scenario.method), scenario.options, ("retain", "holdout", "base"))
                    limited = isinstance(method, Calibrated) and method.calibrates and method.retain_limit is not None
                    assert scenario.limited == limited, scenario.name
                    seen.add(limited)
    assert seen == {True, False}
