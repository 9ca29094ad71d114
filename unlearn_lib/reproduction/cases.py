"""The case studies on private text (section 6 of the paper) as scenarios: one cycle, and extraction of what was to be forgotten.

A model is fine-tuned on texts that hold personal data, 32 long ones are unlearned, and an attacker who knows their first tokens
lets the model write on. Counted is which texts, and which planted personal data, come back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from unlearn_lib.data.batches import Example
from unlearn_lib.data.overlap import runs
from unlearn_lib.data.tasks import NEAR_DUPLICATES
from unlearn_lib.metrics.extraction import Draws, closeness, continuations, found
from unlearn_lib.reproduction.bench import Bench
from unlearn_lib.reproduction.scenarios import Scenario

DRAW_SEED = 10
"""Of the sampling, besides a scenario's own seed."""


@dataclass(frozen=True)
class Case(Scenario):
    """One run of a case study; `cycle_size` texts of more than `long` tokens are the request.

    Attributes:
        duplicates: Share of near-duplicates in the texts.
        deduplicate: Whether the request is extended by its near-duplicates among the other training texts.
        long: Tokens that a text of the request has at least, and one more.
        draws: Of the extraction.
    """

    cycles: int = 1
    train_size: int = 160
    reference_size: int = 0
    duplicates: float = NEAR_DUPLICATES
    deduplicate: bool = False
    long: int = 200
    draws: Draws = field(default_factory=Draws)

    @property
    def name(self) -> str:
        kind = f"{self.duplicates:g}{'-deduplicated' if self.deduplicate else ''}"
        return f"{super().name}-near{kind}"

    def data(self) -> tuple[Any, ...]:
        return (*super().data(), self.duplicates)

    def shared(self) -> dict[str, Any]:
        return {name: value for name, value in super().shared().items() if name != "deduplicate"}

    def config(self) -> dict[str, Any]:
        return super().config() | {"scenario": "case-study"}

    def bench(self, **options: Any) -> CaseBench:
        return CaseBench(self, **options)


class CaseBench(Bench):
    """As `Bench`; the order of forgetting begins with the request, followed by its near-duplicates."""

    scenario: Case

    def __init__(self, scenario: Case, **options: Any) -> None:
        super().__init__(scenario, **options)
        train = self.encoded["train"]
        request = [i for i in self.order if len(train[i].input_ids) > scenario.long][: scenario.cycle_size]
        rest = [i for i in self.order if i not in set(request)]
        near = {rest[k] for k in sharing_half([train[i] for i in rest], [train[i] for i in request])}
        self.near = len(near)
        self.order = [*request, *(i for i in rest if i in near), *(i for i in rest if i not in near)]

    def sizes(self, scenario: Scenario) -> list[int]:
        assert isinstance(scenario, Case)
        return [scenario.cycle_size + (self.near if scenario.deduplicate else 0)]

    def start(self, scenario: Scenario, size: int) -> int:
        return 0

    def measure(self, model: Any, size: int) -> dict[str, Any]:
        """Losses, accuracy and the loss attack as in `Bench`, and the extraction of the request, text by text; with the original model
        also that of texts that it never saw, where whatever is found is chance."""
        parts = self.parts(self.scenario.cycle_size) | {"retain": self.parts(size)["retain"]}
        measured: dict[str, Any] = {
            **self.usual(model, parts),
            "near_duplicates": self.near,
            "extraction": self.extraction(model, "train", self.order[: self.scenario.cycle_size]),
        }
        if model is self.original:
            unseen = [i for i, e in enumerate(self.encoded["holdout"]) if len(e.input_ids) > self.scenario.long]
            measured["extraction_unseen"] = self.extraction(model, "holdout", unseen[: self.scenario.cycle_size])
        return measured

    def extraction(self, model: Any, part: str, numbers: list[int]) -> list[dict[str, Any]]:
        """Of each text, and without quoting it: `run`, `rouge`, `edit` (the best of its draws); `found`, by kind of personal data; and
        which share of its runs of 8 tokens some draw holds, of those that other training texts `shared`, and of its `own`."""
        examples, draws = [self.encoded[part][i] for i in numbers], self.scenario.draws
        asked = set(self.order[: self.scenario.cycle_size])
        elsewhere = set[tuple[int, ...]]().union(*(runs(e) for i, e in enumerate(self.encoded["train"]) if i not in asked))
        drawn = continuations(model, examples, draws, seed=DRAW_SEED + self.scenario.seed)
        rows = []
        for number, example, written in zip(numbers, examples, drawn, strict=True):
            prompt = self.tokenizer.decode(example.input_ids[: draws.prefix])
            texts = [self.tokenizer.decode(row) for row in written]
            best = {name: round(value, 4) for name, value in closeness(written, example, draws.prefix).items()}
            back = set[tuple[int, ...]]().union(*(runs(Example(row, row)) for row in written))
            rest = runs(Example(example.input_ids[draws.prefix :], example.labels[draws.prefix :]))
            secrets = getattr(self.task, part)[number].get("secrets", {})  # a user's own download has none that are known
            rows.append(
                best
                | {"shared": _share(rest & elsewhere, back), "own": _share(rest - elsewhere, back)}
                | {"found": found(secrets, prompt, texts)}
            )
        return rows


def sharing_half(examples: Sequence[Example], others: Sequence[Example]) -> list[int]:
    """The numbers of the examples at least half of whose runs of 8 tokens stand in one of the others: what a request of the case
    studies is extended by. On their texts it finds every planted near-duplicate (for texts at large see `near_duplicates`)."""
    theirs = [runs(other) for other in others]
    mine = [runs(example) for example in examples]
    return [i for i, own in enumerate(mine) if any(2 * len(own & other) >= len(own) for other in theirs)]


def _share(wanted: set[tuple[int, ...]], back: set[tuple[int, ...]]) -> float | None:
    return round(len(wanted & back) / len(wanted), 4) if wanted else None
