"""`audit`: measure and attack a model that should have forgotten, compare it with what there is to compare, and judge.

At most two models are in memory at a time: the audited one, and one of those that it is compared with.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unlearn_lib.audit.attacking import attack_weights, relearn
from unlearn_lib.audit.guard import Guard, Progress
from unlearn_lib.audit.measures import AGAINST, attacked, knowledge, leak, mean, membership
from unlearn_lib.audit.observe import Observed, observe
from unlearn_lib.audit.schema import Audit, AuditedModel, Curve, ForgetText, Measure, TextFile
from unlearn_lib.audit.settings import Settings
from unlearn_lib.audit.texts import DIGITS, Texts, best_known, read
from unlearn_lib.audit.usefulness import perplexities, slices
from unlearn_lib.audit.verdict import judge
from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.data.batches import make_batches, sequence_length
from unlearn_lib.data.files import sha256
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.rows import row_sha256, whole_text
from unlearn_lib.environment import provenance
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.files import shown
from unlearn_lib.metrics.cka import cka
from unlearn_lib.metrics.distance import compare
from unlearn_lib.metrics.exposure import exposures
from unlearn_lib.metrics.membership import gradient_norms
from unlearn_lib.metrics.memorisation import extraction_strength
from unlearn_lib.models.load import load_model
from unlearn_lib.training.loop import derivatives

OTHERS = ("base", "original", "retrained")
ALWAYS = {
    "attacks with shadow models (LiRA)": "they take many models that are trained like this one; see unlearn_lib.audit.shadows",
    "copies of the texts elsewhere": "a model cannot say what is in backups, caches, logs or models that were derived from it",
}


def audit(
    model: Any,
    tokenizer: Any,
    *,
    forget: Any,
    retain: Any = None,
    holdout: Any = None,
    original: Any = None,
    retrained: Any = None,
    base: Any = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    show_texts: bool = False,
    name: str = "a model in memory",
) -> Audit:
    """Whether a model has forgotten.

    Args:
        model: The audited model, or a name for `load_model`; it is left as it is.
        tokenizer: Its tokenizer, which all models share; None where `model` is a name.
        forget: The texts that it should have forgotten, as `rows_of` takes them.
        retain: Texts that it should still know.
        holdout: Texts of the same kind that it was never trained on, without which nothing can be said of membership.
        original: The model from before it forgot, or a name: what was known, and what retained texts were worth.
        retrained: One that was retrained without the forget texts, or a name: the reference for everything.
        base: The model from before it was trained on any of the texts, or a name: for attacks with a reference model.
        settings: See `Settings`.
        progress: Called with what is being measured.
        show_texts: Whether the forget texts' words are kept in the result.
        name: What the audited model is called in the result, where it is not given by its name.

    Returns:
        See `Audit`: verdict, findings, measures with intervals and numbers of texts, and what was not measured and why.

    Raises:
        InputError: Texts or models that cannot be used. A measure that fails is listed in `skipped` and ends nothing.
        NumericsError: A loss is not finite.

    Cost: one forward pass over all texts for each model, whose scores all measures of likelihood share; and with attacks some
    hundred gradients for the audited and as many for the retrained model.
    """
    settings = settings or Settings()
    guard = Guard(progress or (lambda _: None))
    names = {"audited": name, "original": original, "retrained": retrained, "base": base}
    if isinstance(model, (str, Path)):
        names["audited"] = model
        model, tokenizer = load_model(model)
    sets = {"forget": forget, "retain": retain, "holdout": holdout}
    given = {part: texts for part, texts in sets.items() if texts is not None}
    rows = {part: rows_of(texts, part) for part, texts in given.items()}
    length = sequence_length(model, tokenizer, settings.max_length)
    texts = read(rows, tokenizer, length, settings.long_texts, settings.assistant_only)
    with derivatives(model), evaluating(model):
        found = _Run(model, tokenizer, texts, settings, guard).all(names)
    outcome, verdict, findings = judge(guard.measures, found.curves)
    for name, why in ALWAYS.items():
        guard.skip(name, why)
    return Audit(
        outcome=outcome,
        verdict=verdict,
        findings=findings,
        measures=guard.measures,
        curves=found.curves,
        skipped=guard.skipped,
        losses={
            role: {name: observed.losses(name).tolist() for name in texts.examples} for role, observed in found.observed.items()
        },
        forget_texts=_forget_texts(texts, found.observed["audited"], show_texts),
        models=found.models,
        data={part: _file(source, texts.number(part), len(rows[part])) for part, source in given.items()},
        settings={**vars(settings), "max_length": length},
        environment=provenance(),
        warnings=list(texts.warnings),
    )


class _Run:
    """One audit as it goes on."""

    def __init__(self, model: Any, tokenizer: Any, texts: Texts, settings: Settings, guard: Guard) -> None:
        self.model, self.tokenizer, self.texts, self.settings, self.guard = model, tokenizer, texts, settings, guard
        self.observed: dict[str, Observed] = {}
        self.curves: list[Curve] = []
        self.models: list[AuditedModel] = []

    def all(self, names: Mapping[str, Any]) -> _Run:
        """Everything, model after model."""
        guard = self.guard
        self._see("audited", names["audited"], self.model)
        for role in OTHERS:
            if names[role] is None:
                guard.skip(f"what takes the {role} model", f"no {role} model was given")
                continue
            other = self._loaded(role, names[role])
            with derivatives(other), evaluating(other):
                self._see(role, names[role], other)
                self._beside(role, other)
            del other
            gc.collect()
        for role in ("audited", "original", "retrained"):
            if role in self.observed:
                observed = self.observed[role]
                guard.take(f"{role}: knowledge", knowledge, role, observed)
                base = self.observed.get("base")
                guard.take(f"{role}: attacks on membership", membership, role, observed, self.texts, base)
                guard.take(f"{role}: perplexity", perplexities, role, observed)
                if role != "original" and "original" in self.observed:
                    guard.take(f"{role}: where the damage is", slices, role, observed, self.observed["original"], self.texts)
        if "retrained" in self.observed:
            guard.take("PrivLeak", leak, self.observed["audited"], self.observed["retrained"])
        if self.settings.attacks:
            self._attack("audited", self.model)
        else:
            guard.skip("attacks on forgetting", "they were switched off")
        return self

    def _see(self, role: str, name: Any, model: Any) -> None:
        """What a model says of all texts, and the measures that need the model itself."""
        self.guard.progress(f"{role}: one pass over all texts")
        self.observed[role] = observe(model, self.texts, self.settings.batch_size)
        _refuse_divergence(role, self.observed[role])
        self.models.append(
            AuditedModel(
                role=role,
                name=shown(name) if isinstance(name, (str, Path)) else "a model in memory",
                type=str(model.config.model_type),
                parameters=sum(p.numel() for p in model.parameters()),
            )
        )
        if role != "base":
            self.guard.take(f"{role}: exposure", self._exposure, role, model)
            self.guard.take(f"{role}: attack by gradient norms", self._gradients, role, model)

    def _beside(self, role: str, other: Any) -> None:
        """What compares the audited model with another one, and the control of the attacks."""
        if role == "base":
            return
        self.guard.take(f"distance from the {role} model", self._distance, role, other)
        self.guard.take(f"distance of representations from the {role} model", self._representations, role, other)
        if role == "retrained" and self.settings.attacks:
            self._attack(role, other)

    def _attack(self, role: str, model: Any) -> None:
        original = self.observed.get("original")
        known = None if original is None else float(original.losses("forget").mean())
        attack_weights(self.guard, role, model, self.tokenizer, self.texts, self.settings, known)
        self.curves += relearn(self.guard, role, model, self.texts, self.settings, known)

    def _exposure(self, role: str, model: Any) -> Iterator[Measure]:
        if "holdout" not in self.texts.examples:
            raise InputError("exposure ranks a text among texts that were never trained on; give them with --holdout")
        found = exposures(model, self.texts.examples["forget"], self.texts.examples["holdout"])
        yield mean(
            "knowledge", f"exposure among held-out texts (at most {found.maximum:.2f})", role, "forget", found.nats_n, "nats"
        )

    def _gradients(self, role: str, model: Any) -> Iterator[Measure]:
        if "holdout" not in self.texts.examples:
            raise InputError("attacks on membership compare with texts that were never trained on; give them with --holdout")
        if not self.texts.whole:
            raise InputError("some texts are read in pieces, whose gradients say nothing of the length of the text's own")
        members, others = (
            gradient_norms(model, make_batches(self.texts.examples[name], self.settings.batch_size, model.device))
            for name in ("forget", "holdout")
        )
        yield from attacked(role, "gradient norm", AGAINST, members, others)

    def _distance(self, role: str, other: Any) -> Iterator[Measure]:
        for name, examples in self.texts.examples.items():
            batches = make_batches(examples, self.settings.batch_size, other.device)
            found = compare(other, self.model, batches)
            for label, values_n in (("KL", found.kl_N), ("Jensen-Shannon", found.js_N)):
                yield mean("distance", f"{label} from the {role} model", "audited", name, values_n, "nats")

    def _representations(self, role: str, other: Any) -> Iterator[Measure]:
        for name, examples in self.texts.examples.items():
            last = cka(other, self.model, make_batches(examples, self.settings.batch_size, other.device))[-1]
            yield Measure(
                family="distance",
                name=f"CKA distance from the {role} model",
                role="audited",
                texts=name,
                value=1 - float(last),
                n=self.texts.number(name),
            )

    def _loaded(self, role: str, given: Any) -> Any:
        if not isinstance(given, (str, Path)):
            return given
        other, tokenizer = load_model(given, device=str(self.model.device))
        if tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise InputError(
                f"the {role} model {given} has another vocabulary than the audited one, so they cannot be compared"
            )
        return other


def _refuse_divergence(role: str, observed: Observed) -> None:
    for name in observed.scores:
        losses_n = observed.losses(name)
        if not bool(losses_n.isfinite().all()):
            wrong = int((~losses_n.isfinite()).nonzero()[0])
            raise NumericsError(
                f"the {role} model gives {name} text {wrong + 1} the loss {float(losses_n[wrong])}, so it has diverged, and nothing can be "
                "measured of it; give a model whose weights are finite"
            )


def _forget_texts(texts: Texts, observed: Observed, show: bool) -> list[ForgetText]:
    losses, strength = observed.losses("forget"), extraction_strength(observed.right("forget"))
    return [
        ForgetText(
            row=i + 1,
            sha256=row_sha256(texts.forget_rows[i])[:DIGITS],
            loss=float(losses[i]),
            extraction_strength=float(strength[i]),
            text=whole_text(texts.forget_rows[i]) if show else None,
        )
        for i in best_known(strength, losses)
    ]


def _file(given: Any, used: int, rows: int) -> TextFile:
    if isinstance(given, (str, Path)):
        return TextFile(path=shown(given), rows=rows, used=used, sha256=sha256(Path(given)))
    return TextFile(path="given in memory", rows=rows, used=used, sha256="")
