"""From measures to a verdict in plain words. Each question has a rule, with its thresholds in one place, and a sentence with its numbers.

The reference is the retrained model where there is one. Without it a model that never saw the texts is imagined: its attacks on
membership have an AUC of one half, and it knows the forget texts as well as the audited model knows held-out ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from unlearn_lib.audit.measures import AGAINST as AGAINST
from unlearn_lib.audit.measures import NEIGHBOURS
from unlearn_lib.audit.schema import Curve, Finding, Measure, Outcome, find
from unlearn_lib.unlearning.outcome import AUC, LOST, TRIFLE

WORN = 0.1
"""Retained texts that lost this share of what knowing a text is worth are worn; two trainings with other seeds differ by less."""
NOTABLE = 0.05
"""An AUC or a share that is nearer to its reference than this is as good as equal, whatever its interval says."""
CHANCE = 0.025
"""An AUC counts where so few sets of texts that nothing tells apart have one as far from one half: a bootstrap over a handful of texts
does not know how they might have been."""
BACK = 0.1
"""A share of the way back that counts as coming back."""
WAY_BACK = "share of the way back"
"""The unit of what an attack brought back, from the loss of the attacked model to that of the original."""
KNOWN = ("extraction strength", "memorisation accuracy", "greedy extraction")
WORDS: dict[Outcome, str] = {
    "like retraining": "The model behaves on the forgotten texts as one that was retrained without them, by everything that was tried.",
    "forgotten": "The model no longer shows that it was trained on the forgotten texts, by everything that was tried; it was not compared "
    "with a retrained model.",
    "not forgotten": "The model still knows the texts that it should have forgotten.",
    "hidden": "The forgotten texts are out of sight, but still in the model: they come back further than they should.",
    "over-erased": "The model shows that something was removed: the forgotten texts stand out from texts that it never saw as "
    "unusually unknown.",
    "worn": "The forgotten texts are forgotten by everything that was tried, and what should have stayed has suffered.",
    "utility lost": "The model has lost what it should have kept, so that what it forgot says little.",
    "undecided": "There is too little to compare with for a verdict.",
}


class Evidence:
    """The measures, found by their names."""

    def __init__(self, measures: Sequence[Measure], curves: Sequence[Curve]) -> None:
        self.measures = measures
        self.curves = {curve.role: curve for curve in curves}

    def get(self, name: str, texts: str, role: str = "audited") -> Measure | None:
        """The measure of that name, of those texts, of that model; None where it was not measured."""
        return find(self.measures, name, texts, role)

    def attacks(self) -> list[Measure]:
        """The AUCs of all attacks on the audited model, the most successful first."""
        found = [
            one for one in self.measures if one.name.startswith("AUC, ") and one.texts == AGAINST and one.role == "audited"
        ]
        return sorted(found, key=lambda one: -one.value)


def judge(measures: Sequence[Measure], curves: Sequence[Curve]) -> tuple[Outcome, str, list[Finding]]:
    """The outcome, the verdict in words, and the answers that it rests on."""
    evidence = Evidence(measures, curves)
    findings = [rule(evidence) for rule in (stands_out, by_heart, over_erased, kept, comes_back)]
    answer = dict(zip(("stands out", "by heart", "erased", "kept", "back"), (one.answer for one in findings), strict=True))
    compared = any(one.role == "retrained" for one in measures)
    outcome: Outcome
    if answer["kept"] == "bad":
        outcome = "utility lost"
    elif "bad" in (answer["stands out"], answer["by heart"]):
        outcome = "not forgotten"
    elif answer["erased"] == "bad":
        outcome = "over-erased"
    elif answer["back"] == "bad":
        outcome = "hidden"
    elif answer["stands out"] == answer["by heart"] == "good" and answer["kept"] == "unclear" and worn(evidence):
        outcome = "worn"
    elif answer["stands out"] == answer["by heart"] == "good":
        outcome = "like retraining" if compared else "forgotten"
    else:
        outcome = "undecided"
    return outcome, WORDS[outcome], findings


def stands_out(evidence: Evidence) -> Finding:
    """Whether an attack on membership tells the forget texts from held-out ones better than it tells them under a retrained model."""
    question = "Do the forgotten texts stand out from texts that were never seen?"
    attacks = evidence.attacks()
    if not attacks:
        return Finding(question=question, answer="unclear", says="There are no held-out texts to compare with.")
    told, by_chance = [], False
    for one in attacks:
        reference = evidence.get(one.name, AGAINST, "retrained")
        level = 0.5 if reference is None else reference.value
        least = max(level + NOTABLE, 0.5 if reference is None or reference.high is None else reference.high)
        if one.low is not None and one.low > least:
            if one.value > level + _chance(one):
                told.append(f"{one.name.removeprefix('AUC, ')} {one.value:.2f} ({_interval(one)}; {_reference(reference)})")
            else:
                by_chance = True
    if told:
        return Finding(question=question, answer="bad", says=f"Yes, attacks tell them apart (AUC): {'; '.join(told)}.")
    best = attacks[0]
    if by_chance or _chance(best) >= 0.5:
        says = f"{_number(best.n)} too few to tell: the highest AUC is {best.value:.2f}, which chance may give."
        return Finding(question=question, answer="unclear", says=says)
    reference = evidence.get(best.name, AGAINST, "retrained")
    return Finding(
        question=question,
        answer="good",
        says=f"No attack tells them apart; the highest AUC is {best.value:.2f} ({best.name.removeprefix('AUC, ')}, {_interval(best)}, "
        f"{best.n} texts; {_reference(reference)}).",
    )


def by_heart(evidence: Evidence) -> Finding:
    """Whether greedy decoding still gives more of the forget texts than of texts that were never seen."""
    question = "Does the model still know them by heart?"
    told, compared = [], False
    for name in KNOWN:
        own = evidence.get(name, "forget")
        reference = evidence.get(name, "forget", "retrained") or evidence.get(name, "holdout")
        if own is None or reference is None:
            continue
        compared = True
        if own.low is not None and own.low > max(reference.value + NOTABLE, reference.high or 0.0):
            told.append(f"{name} {own.value:.2f} (at most {reference.value:.2f} was to be expected)")
    if told:
        return Finding(question=question, answer="bad", says=f"Yes: {'; '.join(told)}.")
    if not compared:
        return Finding(question=question, answer="unclear", says="There is nothing to compare with.")
    own = evidence.get("extraction strength", "forget")
    assert own is not None
    if own.low is None:
        says = f"{_number(own.n)} too few to tell; extraction strength {own.value:.3f}."
        return Finding(question=question, answer="unclear", says=says)
    return Finding(question=question, answer="good", says=f"No more than unseen texts; extraction strength {own.value:.3f}.")


def over_erased(evidence: Evidence) -> Finding:
    """Whether an attack finds the forget texts by scores far below those of held-out texts, which shows that they were removed."""
    question = "Does the model give away that they were removed?"
    attacks = evidence.attacks()
    if not attacks:
        return Finding(question=question, answer="unclear", says="There are no held-out texts to compare with.")
    told = []
    for one in attacks:
        reference = evidence.get(one.name, AGAINST, "retrained")
        expected = 0.5 if reference is None else min(0.5, reference.value)
        if one.value < min(AUC, expected - _chance(one)) and one.high is not None and one.high < expected:
            told.append(f"{one.name.removeprefix('AUC, ')} {one.value:.2f} ({_interval(one)}; {_reference(reference)})")
    if told:
        says = f"Yes: attacks find them far on the other side of unseen texts (AUC): {'; '.join(told)}."
        return Finding(question=question, answer="bad", says=says)
    least = attacks[-1]
    says = f"No attack finds them on the other side of unseen texts; the lowest AUC is {least.value:.2f} ({_interval(least)})."
    return Finding(question=question, answer="good", says=says)


def kept(evidence: Evidence) -> Finding:
    """Whether the retained texts, and texts that were never seen, are predicted as well as by the original or the retrained model."""
    question = "Is what should stay still there?"
    role = _reference_role(evidence)
    if role is None:
        told = evidence.get("AUC, loss", NEIGHBOURS)
        if told is None:
            return Finding(question=question, answer="unclear", says="There is no original or retrained model to compare with.")
        if told.high is not None and told.high < 0.5 + NOTABLE:
            says = f"The retained texts are not told from texts that were never seen (AUC {told.value:.2f}, {_interval(told)})."
            return Finding(question=question, answer="bad", says=says)
        says = f"The retained texts are still told from texts that were never seen (AUC {told.value:.2f}, {_interval(told)})."
        return Finding(question=question, answer="good", says=says)
    found = _worst(evidence, role)
    if found is None:
        return Finding(question=question, answer="unclear", says="There are no retained or held-out texts to measure it on.")
    worst, before, share = found
    says = f"The loss of the {_called(worst.texts)} texts is {worst.value:.3f}, and {before.value:.3f} under the {role} model"
    if share > LOST:
        return Finding(question=question, answer="bad", says=f"{says}: that is {share:.1f} times what knowing a text is worth.")
    if share > WORN:
        return Finding(
            question=question, answer="unclear", says=f"{says}, a rise of {100 * share:.0f} % of what knowing one is worth."
        )
    return Finding(question=question, answer="good", says=f"{says}.")


def worn(evidence: Evidence) -> bool:
    """Whether what should have stayed has measurably suffered."""
    role = _reference_role(evidence)
    found = None if role is None else _worst(evidence, role)
    return found is not None and found[2] > WORN


def _reference_role(evidence: Evidence) -> str | None:
    """The model that retained texts are compared with: the retrained one, which is what unlearning should come to, where there is one."""
    return next((role for role in ("retrained", "original") if evidence.get("loss", "forget", role) is not None), None)


def _worst(evidence: Evidence, role: str) -> tuple[Measure, Measure, float] | None:
    """The loss of the texts that suffered most, what it is under the model of this role, and the rise as a share of what knowing a text
    is worth; None where there are neither retained nor held-out texts."""
    owns = [own for name in ("retain", "holdout") if (own := evidence.get("loss", name)) is not None]
    pairs = [(own, before) for own in owns if (before := evidence.get("loss", own.texts, role)) is not None]
    if not pairs:
        return None
    own, before = max(pairs, key=lambda pair: pair[0].value - pair[1].value)
    return own, before, (own.value - before.value) / _gap(evidence, role)


def comes_back(evidence: Evidence) -> Finding:
    """Whether training, rounding, pruning or other prompts bring the forget texts back further than in a retrained model."""
    question = "Do they come back?"
    told, tried = [], []
    now, known = evidence.get("loss", "forget"), evidence.get("loss", "forget", "original")
    if now is not None and known is not None and now.value <= known.value + TRIFLE * _gap(evidence, "original"):
        return Finding(question=question, answer="unclear", says="Nothing was forgotten that could come back.")
    own, taught = evidence.curves.get("audited"), evidence.curves.get("retrained")
    if own is not None and taught is not None:
        tried.append("relearning")
        start, lowest = taught.points[0][1] - own.points[0][1], _lowest(taught) - _lowest(own)
        if lowest > BACK * taught.points[0][1] and lowest > max(start, 0.0) + TRIFLE:
            told.append(
                f"within {own.points[-1][0]} steps on other forget texts their loss falls to {_lowest(own):.2f}, and to "
                f"{_lowest(taught):.2f} where the retrained model is trained so"
            )
    for one in evidence.measures:
        control = evidence.get(one.name, "forget", "retrained")
        if one.role != "audited" or one.unit != WAY_BACK or one.name == "relearning" or control is None:
            continue  # without a control a share says nothing: the lowest of several losses is lower for unseen texts, too
        tried.append(one.name)
        if one.value > BACK and one.value > max(control.value, 0.0) + BACK:
            told.append(f"{one.name} brings {100 * one.value:.0f} % of it back (retrained model: {100 * control.value:.0f} %)")
    if told:
        return Finding(question=question, answer="bad", says=f"Yes: {'; '.join(told)}.")
    if not tried:
        return Finding(question=question, answer="unclear", says="No attack could be compared.")
    return Finding(question=question, answer="good", says=f"Not by {', '.join(tried)}.")


def _lowest(curve: Curve) -> float:
    """The lowest loss that training reached: whoever attacks stops there."""
    return min(loss for _, loss in curve.points)


def _gap(evidence: Evidence, role: str) -> float:
    """What knowing a text is worth, in nats: by the model of this role, from unseen to retained (or forgotten) texts."""
    unseen = evidence.get("loss", "holdout", role) or evidence.get("loss", "forget", "retrained")
    known = evidence.get("loss", "retain", role) or evidence.get("loss", "forget", role)
    if unseen is None or known is None or unseen.value <= known.value:
        return 1.0
    return unseen.value - known.value


def _chance(one: Measure) -> float:
    """How far from one half the AUC of n texts, that nothing tells from m others, lies with `CHANCE` on either side: its variance is
    (n + m + 1) / (12 n m) (Mann and Whitney 1947), and 1 / (12 n) with ever more others, which is taken where m is not known."""
    variance = 1 / (12 * one.n) if one.m is None else (one.n + one.m + 1) / (12 * one.n * one.m)
    return NormalDist().inv_cdf(1 - CHANCE) * math.sqrt(variance)


def _number(n: int) -> str:
    return "One text is" if n == 1 else f"{n} texts are"


def _called(texts: str) -> str:
    return {"retain": "retained", "holdout": "held-out"}[texts]


def _interval(one: Measure) -> str:
    return "no interval" if one.low is None else f"95 %: {one.low:.2f} to {one.high:.2f}"


def _reference(reference: Measure | None) -> str:
    return "one half was to be expected" if reference is None else f"retrained model: {reference.value:.2f}"
