"""Which scenarios have a finished record, and which are missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.record import ScenarioRecord
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore


def missing(scenarios: Iterable[Scenario], store: RunStore) -> list[Scenario]:
    """Those without a record, each once, in order.

    Raises:
        InputError: A model was not trained yet.
    """
    found: dict[str, Scenario] = {}
    for scenario in scenarios:
        config = scenario.config()
        path = str(store.path(scenario.name, config))
        if path not in found and store.get(scenario.name, config) is None:
            found[path] = scenario
    return list(found.values())


def load(scenarios: Iterable[Scenario], store: RunStore) -> list[ScenarioRecord]:
    """The finished records of the scenarios, in order.

    Raises:
        InputError: One is missing; the message says how to compute it.
    """
    records = []
    for scenario in scenarios:
        record = store.get(scenario.name, scenario.config())
        if record is None:
            raise InputError(
                f"no record of {scenario.name} in {store.folder}: it was never run, or data, options or numerics have changed since; "
                f"compute it with `{profiles.find(scenario.profile).command}`"
            )
        records.append(cast(ScenarioRecord, record))
    return records
