"""Shadow models: who is trained on what, that the ratio recognises members that the loss does not, and that work is not repeated."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, train
from unlearn_lib.audit.shadow_training import drawn_members, parted
from unlearn_lib.audit.shadows import ShadowScores, shadow_scores, unlearned_shadow_scores
from unlearn_lib.checkpoints import Deadline, OutOfTimeError, Workspace
from unlearn_lib.errors import InputError
from unlearn_lib.metrics import text_losses
from unlearn_lib.metrics.lira import lira, logit_score, u_lira
from unlearn_lib.metrics.membership import attack

CONFIG = TrainingConfig(epochs=20, learning_rate=5e-3, batch_size=6)
WORDS = "rain cold lamp seven music grey table river stone apple winter candle bread horse paper glass".split()


@pytest.fixture(scope="module")
def base() -> Any:
    from transformers import AutoModelForCausalLM

    from unlearn_lib.models import nano

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 16, 1, 2, 0.0, 0, ""))).eval()


@pytest.fixture(scope="module")
def uneven() -> list[str]:
    """Thirty-two texts of 14 words: number i draws them from 1 + 2 (i % 8) words, so that some are far easier than others."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS[i // 8 :][: 1 + 2 * (i % 8)], k=14)) for i in range(32)]


@pytest.fixture(scope="module")
def shadows(base: Any, tokenizer: Any, uneven: list[str]) -> ShadowScores:
    return shadow_scores(lambda: base, tokenizer, uneven, config=CONFIG)


def taught(base: Any, tokenizer: Any, texts: list[str], seed: int = 99) -> Any:
    model = copy.deepcopy(base)
    train(model, tokenizer, texts, CONFIG, seed=seed)
    return model


def observed(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    return logit_score(text_losses(model, tokenizer, texts))


@pytest.mark.parametrize(("n", "models", "share", "k"), [(33, 8, 0.5, 4), (2, 4, 0.5, 2), (50, 6, 1 / 3, 2), (7, 10, 0.7, 7)])
def test_the_design_is_balanced(n: int, models: int, share: float, k: int) -> None:
    members_Mn = drawn_members(n, models, share)
    assert members_Mn.sum(0).tolist() == [k] * n
    sizes = members_Mn.sum(1)
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(members_Mn, drawn_members(n, models, share))


def test_the_design_is_random() -> None:
    """Two texts share a model of eight by chance: 4/8 * 3/7 of the pairs of a model would, if a text drew its four by itself."""
    members_Mn = drawn_members(400, 8, seed=3).double()
    assert not torch.equal(members_Mn, drawn_members(400, 8, seed=4).double())
    # of the 70 ways to choose four of eight, most are taken, none often
    ways = [tuple(column) for column in members_Mn.T.tolist()]
    assert len(set(ways)) > 60
    assert max(map(ways.count, ways)) < 20
    together_MM = members_Mn @ members_Mn.T / 400
    assert (together_MM - torch.eye(8) * 0.5).max() < 0.30


def test_parting_by_hand() -> None:
    members = torch.tensor([[True, False], [False, True], [True, False], [False, True]])
    inside, outside = parted(torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]]), members)
    assert inside.tolist() == [[1.0, 6.0], [3.0, 8.0]]
    assert outside.tolist() == [[2.0, 5.0], [4.0, 7.0]]


def test_members_are_recognised_where_the_loss_tells_little(
    base: Any, tokenizer: Any, uneven: list[str], shadows: ShadowScores
) -> None:
    """Two attacked models, each of which knows every second text of each difficulty. Losses differ by difficulty more than by training."""
    found = []
    for member in (torch.arange(32) // 8 % 2 == half for half in (0, 1)):
        model = taught(base, tokenizer, [text for text, known in zip(uneven, member.tolist(), strict=True) if known])
        scores = observed(model, tokenizer, uneven)
        ratio = lira(shadows.in_scores, shadows.out_scores, scores, fixed_variance=True)
        found.append([attack(one[member], one[~member], resamples=1).auc for one in (ratio, scores)])
        assert (ratio[member] > 0).double().mean() > (ratio[~member] > 0).double().mean() + 0.3
    by_ratio, by_loss = torch.tensor(found).mean(0).tolist()
    assert by_loss < 0.8
    assert by_ratio > by_loss + 0.1


def test_scores_are_those_of_the_models(base: Any, tokenizer: Any, uneven: list[str], shadows: ShadowScores) -> None:
    """Four scores in and four out of every text; a text is known better by the models that were trained on it; the start is left alone."""
    assert shadows.in_scores.shape == shadows.out_scores.shape == (4, 32)
    assert torch.equal(shadows.members, drawn_members(32))
    assert (shadows.in_scores.mean(0) > shadows.out_scores.mean(0)).double().mean() > 0.9
    untrained = observed(base, tokenizer, uneven)
    assert (shadows.out_scores.mean(0) > untrained).all()


def test_it_goes_on_where_it_stopped(base: Any, tokenizer: Any, uneven: list[str], tmp_path: Path) -> None:
    """Deadline, then the rest, then nothing left to train: the same scores each time, as without a folder; other work is refused."""
    config, texts, calls = TrainingConfig(1, 5e-3, 8), uneven[:8], []

    def start() -> Any:
        calls.append(1)
        if len(calls) == 4:  # one call is for the length
            raise OutOfTimeError
        return base

    def scores(make: Callable[[], Any] = lambda: base, seed: int = 0, place: Path | None = None) -> ShadowScores:
        workspace = Workspace(place)
        return shadow_scores(make, tokenizer, texts, models=4, config=config, seed=seed, workspace=workspace)

    plain = scores()
    with pytest.raises(OutOfTimeError):
        scores(start, place=tmp_path)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(kept) == {"shadow-0.safetensors", "shadow-1.safetensors"}
    for _ in range(2):
        found = scores(place=tmp_path)
        assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}.items()
    for make, seed in ((lambda: base, 1), (lambda: taught(base, tokenizer, texts[:1]), 0)):
        with pytest.raises(InputError, match="with other settings"):
            scores(make, seed, tmp_path)
    assert not torch.equal(scores(seed=1).in_scores, plain.in_scores)
    late = Workspace(tmp_path / "late", Deadline(0.0))
    with pytest.raises(OutOfTimeError):
        shadow_scores(lambda: base, tokenizer, texts, models=4, config=config, workspace=late)


def test_unlearning_is_judged(base: Any, tokenizer: Any, uneven: list[str], tmp_path: Path) -> None:
    """A method that does nothing is caught by either question; one that retrains is not told from retraining."""
    pool, retain, asked = uneven[:12], uneven[24:], []

    def nothing(model: Any, rows: list[Any]) -> Any:
        asked.append([row["text"] for row in rows])
        return model

    def retraining(model: Any, rows: list[Any]) -> Any:
        asked.append([])
        return taught(base, tokenizer, retain, seed=len(asked))

    def judged(unlearn: Any, against: Any, *models: Any) -> list[torch.Tensor]:
        found = unlearned_shadow_scores(
            lambda: base, tokenizer, pool, unlearn,
            retain=retain, against=against, models=4, config=CONFIG, workspace=Workspace(tmp_path),
        )  # fmt: skip
        assert found.in_scores.shape == found.out_scores.shape == (2, 12)
        scores = [observed(model, tokenizer, pool) for model in models]
        return [u_lira(found.in_scores, found.out_scores, one, fixed_variance=True) for one in scores]

    knows = torch.arange(12) < 6
    kept, retrained = taught(base, tokenizer, [*pool[:6], *retain]), taught(base, tokenizer, retain)
    (held_out,) = judged(nothing, "held out", kept)
    assert [sorted(rows) for rows in asked] == [
        sorted(pool[i] for i in own.nonzero().flatten().tolist()) for own in drawn_members(12, 4)
    ]
    assert attack(held_out[knows], held_out[~knows], resamples=1).auc > 0.8
    unlearned, real = judged(nothing, "retrained", kept, retrained)
    assert (unlearned[knows] > 0).all()
    assert (real < 0).double().mean() > 0.7
    (real,) = judged(retraining, "retrained", retrained)
    assert real.abs().median() < unlearned[knows].abs().median() / 10


def test_what_is_refused(base: Any, tokenizer: Any, uneven: list[str]) -> None:
    for models, share in ((8, 0.3), (3, 1 / 3), (8, 1.0), (4, 0.25), (0, 0.5)):
        with pytest.raises(InputError, match="at least two have to be"):
            drawn_members(10, models, share)
    with pytest.raises(InputError, match="1 texts are too few for 8 models"):
        drawn_members(1, 8)
    with pytest.raises(InputError, match="there are no texts"):
        shadow_scores(lambda: base, tokenizer, [])
    with pytest.raises(InputError, match="text 2 is the same as text 0"):
        shadow_scores(lambda: base, tokenizer, [*uneven[:2], uneven[0]])
    with pytest.raises(InputError, match="text 1 is the same as a retained text"):
        shadow_scores(lambda: base, tokenizer, uneven[:3], retain=uneven[1:2])
    with pytest.raises(InputError, match="no retained texts"):
        unlearned_shadow_scores(lambda: base, tokenizer, uneven[:4], lambda model, rows: model, retain=[], against="held out")
    with pytest.raises(InputError, match="unknown value of against"):
        unlearned_shadow_scores(lambda: base, tokenizer, uneven, lambda model, rows: model, retain=uneven, against="all")
