"""The HTML page of an audit, made of the audit alone."""

from __future__ import annotations

from typing import Any

from unlearn_lib.audit.schema import Audit, Measure
from unlearn_lib.pages import subplots, svg, template

ROLES = ("audited", "retrained", "original", "base")
LOOKS: dict[str, dict[str, Any]] = {
    "audited": {"color": "#d55e00", "marker": "o"},
    "retrained": {"color": "#009e73", "marker": "s"},
    "original": {"color": "#000000", "marker": "x"},
    "base": {"color": "#0072b2", "marker": "^"},
}
LINES = {"audited": "-", "retrained": "--", "original": ":", "base": "-."}
FAMILIES = {
    "knowledge": "What is still known",
    "membership": "Attacks on membership",
    "utility": "What the model is still worth",
    "attack": "What attacks bring back",
    "distance": "Distance from other models",
}
EXPLAINED = {
    "knowledge": "Losses are means over texts of the negative log-likelihood of a scored token. Memorisation accuracy: the share of "
    "tokens that are the most likely prediction. Extraction strength: the share of a text that greedy decoding gives exactly from the "
    "shortest prefix that does it. Greedy extraction: the share of texts whose second half greedy decoding gives exactly.",
    "membership": "AUC: the chance that a forget text gets a higher score for membership than a held-out text (0.5: cannot be told). "
    "TPR: the share of forget texts that are recognised while so few held-out texts are taken for them. A rate that so few texts "
    "cannot resolve is left out.",
    "utility": "Perplexity: the exponential of the mean loss of all tokens, in which long texts count for more. The rise of "
    "the loss is that since the original model. Its slices are of the retained texts, by their nearness to a forgotten one (the largest "
    "cosine of TF-IDF vectors); the first slice has those that are least like one, and damage to neighbours shows in the last.",
    "attack": "The share of the way back goes from the forget loss of the attacked model, 0, to that of the original, 1. It proves "
    "something only where it is larger than for the retrained model.",
    "distance": "Mean divergence of the next token's distribution; and one minus the linear centred kernel alignment (CKA) of the last "
    "hidden states, which few texts bring down by chance. A distance is to be read beside that of two retrained models, which "
    "is not zero.",
}


def render(audit: Audit) -> str:
    """The page."""
    page: str = template("unlearn_lib.audit", "audit.html").render(
        audit=audit,
        tables=[(FAMILIES[family], EXPLAINED[family], *_table(audit, family)) for family in FAMILIES],
        distributions=_distributions(audit),
        plane=_plane(audit),
        curves=_curves(audit) if audit.curves else "",
    )
    return page


def _table(audit: Audit, family: str) -> tuple[list[str], list[tuple[str, str, list[Measure | None]]]]:
    """The roles that have measures of a family, and for every measure and set of texts those of these roles."""
    mine = [one for one in audit.measures if one.family == family]
    roles = [role for role in ROLES if any(one.role == role for one in mine)]
    keys = dict.fromkeys((one.name, one.texts, one.unit) for one in mine)
    found = {(one.name, one.texts, one.role): one for one in mine}
    return roles, [
        (f"{name}{f' ({unit})' if unit else ''}", texts, [found.get((name, texts, role)) for role in roles])
        for name, texts, unit in keys
    ]


def _distributions(audit: Audit) -> Any:
    """The distribution functions of the losses of each set under each model."""
    sets = list(audit.losses["audited"])
    figure, axes = subplots(3.2 * len(sets), 3.2, len(sets), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for role in ROLES:
            if role in audit.losses and role != "base":  # whose losses are so high that the others' could not be told apart
                values = audit.losses[role][name]
                axis.ecdf(values, label=role, color=LOOKS[role]["color"], linestyle=LINES[role], linewidth=2)
        axis.set(title=f"{name} ({len(audit.losses['audited'][name])})", xlabel="loss of a text (nats per token)")
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("share of texts below")
    axes[0, -1].legend(loc="lower right")
    return svg(figure)


def _plane(audit: Audit) -> Any:
    """What was forgotten against what was kept: each model as a point."""
    other = next((name for name in ("retain", "holdout") if name in audit.losses["audited"]), None)
    if other is None:
        return ""
    figure, axis = subplots(5.2, 3.4)
    for role in ROLES:
        forget, kept = audit.value("loss", "forget", role), audit.value("loss", other, role)
        if forget is not None and kept is not None:
            errors = [
                [[one.value - low], [high - one.value]]
                if (low := one.low) is not None and (high := one.high) is not None
                else None
                for one in (forget, kept)
            ]
            axis.errorbar(
                forget.value,
                kept.value,
                xerr=errors[0],
                yerr=errors[1],
                label=role,
                linestyle="none",
                markersize=9,
                **LOOKS[role],
            )
    axis.set(xlabel="forget loss (nats per token): more is forgotten →", ylabel=f"{other} loss: more is damaged →")
    axis.grid(alpha=0.3)
    axis.legend()
    return svg(figure)


def _curves(audit: Audit) -> Any:
    """The forget loss over the steps of relearning."""
    figure, axis = subplots(5.2, 3.2)
    for curve in audit.curves:
        steps, losses = zip(*curve.points, strict=True)
        axis.plot(steps, losses, label=curve.role, linestyle=LINES[curve.role], linewidth=2, **LOOKS[curve.role])
    axis.set(xlabel="steps of training on the other forget texts", ylabel="loss of these forget texts (nats per token)")
    axis.grid(alpha=0.3)
    axis.legend()
    return svg(figure)
