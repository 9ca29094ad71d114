"""Carry a case study out, and measure which texts, and which planted personal data, come back by extraction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unlearn_lib.data.batches import Example
from unlearn_lib.data.overlap import runs
from unlearn_lib.metrics.extraction import closeness, continuations, found
from unlearn_lib.reproduction.runs.bench import Bench
from unlearn_lib.reproduction.runs.cases import Case
from unlearn_lib.reproduction.runs.scenarios import Scenario

DRAW_SEED = 10
"""The seed of the sampling, to which a scenario's own seed is added."""


class CaseBench(Bench):
    """A `Bench` whose order of forgetting begins with the request, followed by its near-duplicates."""

    scenario: Case

    def __init__(self, scenario: Case, **options: Any) -> None:
        super().__init__(scenario, **options)
        train = self.encoded["train"]
        request = [i for i in self.order if len(train[i].input_ids) > scenario.long][: scenario.cycle_size]
        rest = [i for i in self.order if i not in set(request)]
        near = {rest[k] for k in sharing_half([train[i] for i in rest], [train[i] for i in request])}
        self.near = len(near)
        self._attacked: dict[str, list[dict[str, Any]]] = {}
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
        request, of_original = self.order[: self.scenario.cycle_size], model is self.original
        measured: dict[str, Any] = {
            **self.usual(model, self.losses(model, parts)),
            "near_duplicates": self.near,
            "extraction": self._of_original("train", request) if of_original else self.extraction(model, "train", request),
        }
        if of_original:
            unseen = [i for i, e in enumerate(self.encoded["holdout"]) if len(e.input_ids) > self.scenario.long]
            measured["extraction_unseen"] = self._of_original("holdout", unseen[: self.scenario.cycle_size])
        return measured

    def _of_original(self, part: str, numbers: list[int]) -> list[dict[str, Any]]:
        """The extraction from the original model. Its near-duplicates do not change the request, so there is one for each part."""
        if part not in self._attacked:
            self._attacked[part] = self.extraction(self.original, part, numbers)
        return self._attacked[part]

    def extraction(self, model: Any, part: str, numbers: list[int]) -> list[dict[str, Any]]:
        """What comes back of each text, without quoting it: `run`, `rouge`, `edit` (the best of its draws); `found`, by kind of
        personal data; and which share of its runs of 8 tokens some draw holds, of those that other training texts `shared`, and
        of its `own`."""
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


def bench_for(scenario: Scenario, **options: Any) -> Bench:
    """Train the original model of a scenario, ready for this one and all that share it; options as of `Bench`."""
    return CaseBench(scenario, **options) if isinstance(scenario, Case) else Bench(scenario, **options)


def sharing_half(examples: Sequence[Example], others: Sequence[Example]) -> list[int]:
    """The numbers of the examples at least half of whose runs of 8 tokens stand in one of the others: what a request of the case
    studies is extended by. On their texts it finds every planted near-duplicate (for texts at large see `near_duplicates`)."""
    theirs = [runs(other) for other in others]
    mine = [runs(example) for example in examples]
    return [i for i, own in enumerate(mine) if any(2 * len(own & other) >= len(own) for other in theirs)]


def _share(wanted: set[tuple[int, ...]], back: set[tuple[int, ...]]) -> float | None:
    return round(len(wanted & back) / len(wanted), 4) if wanted else None
