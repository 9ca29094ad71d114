"""`audit` and `unlearn audit`: four models whose verdict is known, what is said of what failed, and that no text is shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from unlearn_lib import TrainingConfig, train, unlearn
from unlearn_lib.audit import auditing
from unlearn_lib.audit.auditing import audit
from unlearn_lib.audit.page import render
from unlearn_lib.audit.schema import Audit, json_schema_text
from unlearn_lib.audit.settings import Settings
from unlearn_lib.command.cli import main
from unlearn_lib.data.files import write_rows
from unlearn_lib.data.nano import lambada
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.utility import perplexity
from unlearn_lib.models import nano

SETTINGS = Settings(relearning_rate=3e-3, relearning_steps=(1, 5), batch_size=16)
MARK = "<script>alert('marked')</script>"


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    texts = [{"text": lambada.record(Draw("audit", i), reserved=False)["text"][:100]} for i in range(60)]
    texts[0] = {"text": f"{MARK} {texts[0]['text']}"}
    return {"forget": texts[:20], "retain": texts[20:40], "holdout": texts[40:]}


@pytest.fixture(scope="module")
def models(rows: dict[str, list[dict[str, str]]], tokenizer: Any) -> dict[str, Any]:
    """The original, two retrained ones, one with random weights, and one that went on climbing the forget loss."""
    from transformers import AutoModelForCausalLM

    def fresh(seed: int) -> Any:
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()

    def learnt(seed: int, *sets: str) -> Any:
        model = fresh(seed)
        train(model, tokenizer, [row for name in sets for row in rows[name]], TrainingConfig(40, 1e-2), seed=seed)
        return model

    original = learnt(0, "forget", "retain")
    # past every held-out text, whose predictions are kept
    options = {"learning_rate": 3e-3, "epochs": 40, "retain_loss": "kl", "retain_weight": 10.0}
    kept = [*rows["retain"], *rows["holdout"]]
    erased = unlearn(original, tokenizer, forget=rows["forget"], retain=kept, method="gradient-difference", **options).model
    return {
        "original": original,
        "retrained": learnt(0, "retain"),
        "other": learnt(1, "retain"),
        "random": fresh(5),
        "erased": erased,
    }


def audited(name: str, models: dict[str, Any], tokenizer: Any, rows: Any, **options: Any) -> Audit:
    settings = options.pop("settings", SETTINGS)
    beside = {role: models[role] for role in ("original", "retrained")}
    return audit(models[name], tokenizer, **{**rows, **beside, **options}, settings=settings)


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("other", "like retraining"), ("original", "not forgotten"), ("random", "utility lost"), ("erased", "over-erased")],
)
def test_known_models_get_their_verdict(
    name: str, outcome: str, models: dict[str, Any], tokenizer: Any, rows: Any, fingerprint: Any
) -> None:
    before = {role: fingerprint(model) for role, model in models.items()}
    models[name].train()
    found = audited(name, models, tokenizer, rows)
    assert models[name].training  # as it was given
    models[name].eval()
    assert found.outcome == outcome, found.findings
    assert {role: fingerprint(model) for role, model in models.items()} == before
    answers = {finding.question: finding.answer for finding in found.findings}
    assert answers["Do the forgotten texts stand out from texts that were never seen?"] == (
        "bad" if name == "original" else "good"
    )
    failed = [one for one in found.skipped if "failed with" in one.why]
    assert failed == []


def test_the_numbers_are_those_of_the_measures(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    found = audited("original", models, tokenizer, rows)
    losses = {name: torch.tensor(values) for name, values in found.losses["audited"].items()}
    loss = found.value("loss", "forget")
    assert loss is not None
    assert loss.value == pytest.approx(float(losses["forget"].double().mean()))
    assert loss.low is not None
    assert loss.high is not None
    assert loss.low < loss.value < loss.high
    assert loss.n == 20
    auc = found.value("AUC, loss", "forget against holdout")
    assert auc is not None
    assert auc.value == pytest.approx(loss_attack_auc(losses["forget"], losses["holdout"]))
    leak = found.value("PrivLeak", "forget against holdout")
    assert leak is not None
    assert leak.value < -60  # memorised
    kl = found.value("KL from the original model", "retain")
    assert kl is not None
    assert kl.value == pytest.approx(0.0, abs=1e-9)  # it is compared with itself
    assert found.value("TPR at 0.1 % FPR, loss", "forget against holdout") is None  # twenty texts cannot say


def test_what_a_model_is_still_worth(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    """The slices are of all retained texts, their rises average to that of the loss, and they are zero for the original itself."""
    quiet = Settings(attacks=False, batch_size=16)
    found = audited("erased", models, tokenizer, rows, settings=quiet)
    before, after = (torch.tensor(found.losses[role]["retain"]).double() for role in ("original", "audited"))
    slices = [one for one in found.measures if one.name.startswith("rise of the loss") and one.role == "audited"]
    assert len(slices) == 4
    assert sum(one.n for one in slices) == 20
    assert sum(one.n * one.value for one in slices) == pytest.approx(float((after - before).sum()), rel=1e-6)
    bounds = [tuple(map(float, one.name.partition("nearness ")[2].split(" to "))) for one in slices]
    assert bounds == sorted(bounds)
    expected = perplexity(models["erased"].eval(), tokenizer, rows["holdout"])
    told = found.value("perplexity", "holdout")
    assert told is not None
    assert (told.value, told.low, told.high) == pytest.approx((expected.value, *(expected.interval or ())), rel=1e-5)
    assert found.value("perplexity", "forget") is None
    itself = audited("original", models, tokenizer, rows, settings=quiet)
    assert [one.value for one in itself.measures if one.name.startswith("rise") and one.role == "audited"] == [0.0] * 4
    same, gone = (one.value("CKA distance from the original model", "forget") for one in (itself, found))
    assert same is not None
    assert gone is not None
    assert same.value == pytest.approx(0.0, abs=1e-9) != pytest.approx(gone.value, abs=1e-3)


def test_texts_in_pieces_have_one_nearness(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    """Read in pieces, the slices are still of texts."""
    short = Settings(attacks=False, batch_size=16, max_length=32)
    found = audited("erased", models, tokenizer, rows, settings=short)
    assert len(tokenizer(rows["retain"][0]["text"])["input_ids"]) > 32
    slices = [one for one in found.measures if one.name.startswith("rise of the loss") and one.role == "audited"]
    assert sum(one.n for one in slices) == 20


def test_nothing_depends_on_the_batches(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    quiet = Settings(attacks=False, batch_size=16), Settings(attacks=False, batch_size=3)
    one, other = (audited("other", models, tokenizer, rows, settings=settings) for settings in quiet)
    assert [(a.name, a.role, a.texts) for a in one.measures] == [(a.name, a.role, a.texts) for a in other.measures]
    for a, b in zip(one.measures, other.measures, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-3, abs=1e-3), a.name


def test_without_held_out_texts_and_other_models_little_is_said(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    found = audit(models["other"], tokenizer, forget=rows["forget"], settings=Settings(attacks=False))
    assert found.outcome == "undecided"
    missing = {one.name for one in found.skipped}
    assert {f"what takes the {role} model" for role in ("base", "original", "retrained")} <= missing
    assert "audited: attacks on membership" in missing
    alone = audit(models["original"], tokenizer, **rows, settings=Settings(attacks=False))
    assert alone.outcome == "not forgotten"  # one half was to be expected
    fine = audit(models["other"], tokenizer, **rows, settings=Settings(attacks=False))
    assert fine.outcome == "forgotten"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NumericsError("a loss is not finite"), "a loss is not finite"),
        (ZeroDivisionError("division by zero"), "it failed with ZeroDivisionError: division by zero"),
        (ImportError("no sklearn", name="sklearn"), "a package is missing (sklearn); install unlearn_lib[audit]"),
    ],
)
def test_one_measure_that_fails_leaves_the_others(
    error: Exception, said: str, models: dict[str, Any], tokenizer: Any, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(auditing, "gradient_norms", broken)
    found = audited("other", models, tokenizer, rows, settings=Settings(attacks=False))
    assert [one.why for one in found.skipped if one.name == "audited: attack by gradient norms"] == [said]
    assert found.outcome == "like retraining"
    assert found.value("AUC, gradient norm", "forget against holdout") is None


def test_a_model_that_has_diverged_is_refused(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    diverged = copy.deepcopy(models["other"])
    with torch.no_grad():
        diverged.get_output_embeddings().weight[0] = torch.nan
    for role, given in (("audited", (diverged, None)), ("original", (models["other"], diverged))):
        with pytest.raises(NumericsError, match=f"the {role} model gives forget text 1 the loss nan, so it has diverged"):
            audit(given[0], tokenizer, **rows, original=given[1], settings=Settings(attacks=False))


def test_an_interruption_ends_it(models: dict[str, Any], tokenizer: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing, "gradient_norms", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audited("other", models, tokenizer, rows)


def test_the_page_shows_no_text_unless_asked_and_escapes_it(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    plain = Settings(attacks=False)
    hidden = render(audited("original", models, tokenizer, rows, settings=plain))
    assert "marked" not in hidden
    assert "Not forgotten." in hidden
    found = audited("original", models, tokenizer, rows, settings=plain, show_texts=True)
    shown = render(found)
    assert MARK not in shown
    assert "&lt;script&gt;alert(&#39;marked&#39;)" in shown
    assert "http" not in shown.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")


def test_texts_in_two_sets_are_dropped_from_the_later(models: dict[str, Any], tokenizer: Any, rows: Any) -> None:
    given = {**rows, "retain": [*rows["retain"], rows["forget"][0]]}
    found = audit(models["other"], tokenizer, **given, settings=Settings(attacks=False))
    assert found.data["retain"].used == 20
    assert found.warnings == ["1 retain texts are in an earlier set, too, and were dropped from this one"]
    with pytest.raises(InputError, match="every retain text is in an earlier set"):
        audit(models["other"], tokenizer, forget=rows["forget"], retain=rows["forget"][:2])


def test_the_command_writes_what_can_be_read(models: dict[str, Any], tokenizer: Any, rows: Any, tmp_path: Path) -> None:
    import jsonschema

    for name in ("original", "retrained"):
        models[name].save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(write_rows(own), encoding="utf-8")
    files = [f"--{name}={tmp_path / f'{name}.jsonl'}" for name in rows]
    others = [f"--{name}={tmp_path / name}" for name in ("original", "retrained")]
    out = tmp_path / "out"
    asked = ["audit", "--model", str(tmp_path / "original"), *files, *others, "--no-attacks", "--out", str(out)]
    ran = CliRunner().invoke(main, asked)
    assert ran.exit_code == 0, ran.output
    assert "verdict: not forgotten." in ran.output
    found = Audit.read(out / "report.json")
    assert found.outcome == "not forgotten"
    assert found.models[0].name == str(tmp_path / "original")
    jsonschema.validate(json.loads((out / "report.json").read_text(encoding="utf-8")), json.loads(json_schema_text()))
    again = CliRunner().invoke(main, asked)
    assert again.exit_code == 2
    missing = CliRunner().invoke(main, [*asked[:-1], str(tmp_path / "new"), "--retrained", str(tmp_path / "nothing")])
    assert missing.exit_code == 2
    assert not (tmp_path / "new").exists()
