"""SISA: deletion gives what training without the texts gives, byte by byte; the ensemble is a language model like any other."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from unlearn_lib import TrainingConfig, load_model, save_model, text_losses, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.data.batches import encode
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.generation import greedy_continuations
from unlearn_lib.models import nano
from unlearn_lib.models.sisa import combined
from unlearn_lib.models.sisa_records import Place, SisaSettings
from unlearn_lib.models.sisa_texts import read_hashes, read_texts, text_hash, write_texts
from unlearn_lib.training.loop import fit
from unlearn_lib.training.sisa import _number, deal, texts_of, train_sisa
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

ROWS = slice(0, 20)
CONFIG = TrainingConfig(2, 1e-2, 4)


@pytest.fixture(scope="module")
def base() -> Any:
    """A model of 16,000 parameters with dropout."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = nano.config(nano.ModelSpec("opt", 16, 1, 2, 0.0, 0, ""))
    config.dropout = 0.2
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def trained(base: Any, tokenizer: Any, tmp_path_factory: Any) -> Callable[..., Path]:
    """The folder of an ensemble on rows, with three shards of two slices where nothing else is said."""

    def build(rows: Any, **options: Any) -> Path:
        folder: Path = tmp_path_factory.mktemp("sisa") / "ensemble"
        model = options.pop("base", base)
        train_sisa(model, tokenizer, rows, folder=folder, **{"shards": 3, "slices": 2, "config": CONFIG, "seed": 1, **options})
        return folder

    return build


@pytest.fixture(scope="module")
def folder(trained: Any, texts: Any) -> Path:
    return Path(trained(texts[ROWS]))


def deleted(folder: Path, rows: Any, tokenizer: Any, into: Path, dtype: str = "float32", **options: Any) -> Any:
    model, _ = load_model(folder, device="cpu", dtype=dtype)
    result = unlearn(model, tokenizer, forget=rows, method="sisa", **options)
    save_model(result.model, tokenizer, into)
    return result


def assert_same(one: Path, other: Path) -> None:
    """The folders hold the same files, byte by byte."""
    files = [{path.relative_to(root) for path in root.rglob("*") if path.is_file()} for root in (one, other)]
    assert files[0] == files[1]
    assert [name for name in files[0] if (one / name).read_bytes() != (other / name).read_bytes()] == []


def in_place(folder: Path, rows: Any, tokenizer: Any, place: Place) -> list[dict[str, str]]:
    """Those of the rows that are in this slice."""
    hashes = read_hashes(folder / f"shard-{place.shard}/texts-{place.slice}.safetensors")
    return [row for row in rows if text_hash(texts_of(encode([row], tokenizer, 256).examples)[0]) in hashes]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_what_is_averaged(average: str) -> None:
    logits = [torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    found = combined(logits, average)
    if average == "logits":
        expected = (logits[0] + logits[1] + logits[2]) / 3
    else:
        expected = (sum(one.exp() / one.exp().sum(-1, keepdim=True) for one in logits) / 3).log()
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(found, expected)
    assert combined([one.bfloat16() for one in logits], average).dtype == torch.float32


def test_after_slice_k_a_shard_has_been_trained_on_slices_1_to_k(folder: Path, base: Any) -> None:
    from safetensors.torch import load_file

    for shard in (1, 2, 3):
        model, seen = copy.deepcopy(base), []
        for number in (1, 2):
            seen += [piece for text in read_texts(folder / f"shard-{shard}/texts-{number}.safetensors") for piece in text]
            fit(model, seen, CONFIG, seed=_number(1, shard, number))
            kept = load_file(folder / f"shard-{shard}/model-{number}.safetensors")
            assert kept.keys() == dict(model.named_parameters()).keys()
            assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())


def test_the_base_is_left_as_it_is(base: Any, texts: Any, tokenizer: Any, fingerprint: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(base).train()
    model.lm_head.requires_grad_(False)
    options: dict[str, Any] = {"shards": 1, "slices": 2, "config": CONFIG}
    ensemble = train_sisa(model, tokenizer, texts[:4], folder=tmp_path / "new", **options)
    assert fingerprint(model) == fingerprint(base) != fingerprint(ensemble.shards[0])
    assert model.training
    assert not model.lm_head.weight.requires_grad
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        train_sisa(model, tokenizer, texts[:4], folder=tmp_path / "new", **options)


def test_every_text_is_in_one_slice(folder: Path, texts: Any, tokenizer: Any) -> None:
    everywhere = [in_place(folder, texts, tokenizer, Place(shard, number)) for shard in (1, 2, 3) for number in (1, 2)]
    assert sorted(row["text"] for rows in everywhere for row in rows) == sorted(row["text"] for row in texts[ROWS])


@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_the_ensemble_predicts_the_mean_of_its_shards(average: str, trained: Any, texts: Any, tokenizer: Any) -> None:
    model, _ = load_model(trained(texts[ROWS], average=average), device="cpu")
    example = encode(texts[:1], tokenizer, 256).examples[0]
    ids = torch.tensor([example.input_ids])
    alone = torch.stack([shard(ids).logits for shard in model.shards])
    expected = alone.softmax(-1).mean(0).log() if average == "probabilities" else alone.mean(0)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    log_probs = expected[0, :-1].log_softmax(-1)[range(ids.shape[1] - 1), ids[0, 1:]]
    torch.testing.assert_close(text_losses(model, tokenizer, texts[:1]), -log_probs.mean()[None], atol=1e-5, rtol=1e-5)


CASES: dict[str, Callable[[Path, Any, Any], list[dict[str, str]]]] = {
    "one of the last slice": lambda folder, rows, tokenizer: in_place(folder, rows, tokenizer, Place(1, 2))[:1],
    "one of the first slice": lambda folder, rows, tokenizer: in_place(folder, rows, tokenizer, Place(2, 1))[:1],
    "some everywhere": lambda folder, rows, tokenizer: rows[:6],
    "a whole slice": lambda folder, rows, tokenizer: in_place(folder, rows, tokenizer, Place(3, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_deletion_is_training_without_the_texts(
    case: str, folder: Path, trained: Any, texts: Any, tokenizer: Any, tmp_path: Path
) -> None:
    forget = CASES[case](folder, texts[ROWS], tokenizer)
    assert forget
    deleted(folder, forget, tokenizer, tmp_path / "new", seed=7)
    assert_same(tmp_path / "new", trained([row for row in texts[ROWS] if row not in forget]))


def test_only_what_has_seen_a_text_is_trained_again(folder: Path, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    forget = in_place(folder, texts[ROWS], tokenizer, Place(1, 2))[:1]
    result = deleted(folder, forget, tokenizer, tmp_path / "new")
    assert result.details["retrained"] == [{"shard": 1, "from_slice": 2, "deleted": 1}]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    changed = {name for name in files if (folder / name).read_bytes() != (tmp_path / "new" / name).read_bytes()}
    assert changed == {"shard-1/texts-2.safetensors", "shard-1/model-2.safetensors"}
    left = sum(len(in_place(folder, texts[ROWS], tokenizer, Place(1, number))) for number in (1, 2)) - 1
    assert result.cost.gradient_evaluations == 2 * left
    assert len(result.history) == -(-2 * left // 4)


def test_one_deletion_after_the_other(folder: Path, trained: Any, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    """In memory, and over a saved folder."""
    deleted(folder, texts[:2], tokenizer, tmp_path / "first")
    second = deleted(tmp_path / "first", texts[2:4], tokenizer, tmp_path / "second")
    third = unlearn(second.model, tokenizer, forget=texts[4:6], method="sisa")
    save_model(third.model, tokenizer, tmp_path / "third")
    assert_same(tmp_path / "third", trained(texts[6:20]))
    with pytest.raises(InputError, match=r"2 of 2 texts to forget are in no shard of the ensemble in .*: rows 0, 1, counted"):
        unlearn(third.model, tokenizer, forget=texts[4:6], method="sisa")


def test_all_copies_of_a_text_are_deleted(trained: Any, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Also one of which another part is scored."""
    words = texts[0]["text"].split(" ")
    parts = {"prompt": " ".join(words[:4]), "completion": " " + " ".join(words[4:])}
    twice = trained([*texts[:12], texts[0], parts])
    result = deleted(twice, [texts[0]], tokenizer, tmp_path / "new")
    assert [one["deleted"] for one in result.details["retrained"]] == [3]
    assert_same(tmp_path / "new", trained(texts[1:12]))


def test_the_order_of_rows_does_not_matter(folder: Path, trained: Any, texts: Any) -> None:
    assert_same(folder, trained(texts[ROWS][::-1]))


def test_long_texts_are_deleted_piece_by_piece(trained: Any, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    whole = trained(texts[ROWS], max_length=16)
    result = deleted(whole, texts[8:10], tokenizer, tmp_path / "new", max_length=16)
    assert result.config["max_length"] == 16
    assert_same(tmp_path / "new", trained([*texts[:8], *texts[10:20]], max_length=16))
    with pytest.raises(InputError, match="were read with max_length=16, long_texts=split, assistant_only=True"):
        deleted(whole, texts[8:10], tokenizer, tmp_path / "other")


def test_in_float64_with_frozen_parameters(base: Any, trained: Any, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    from safetensors import safe_open

    wide = copy.deepcopy(base).double()
    wide.model.decoder.embed_positions.requires_grad_(False)
    whole = trained(texts[:12], base=wide)
    deleted(whole, texts[:2], tokenizer, tmp_path / "new", dtype="float64")
    assert_same(tmp_path / "new", trained(texts[2:12], base=wide))
    with safe_open(whole / "shard-1/model-1.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F64"}  # noqa: SIM118
        assert "model.decoder.embed_positions.weight" not in file.keys()  # noqa: SIM118
    model, _ = load_model(whole, device="cpu", dtype="float64")
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"shards.{shard}.model.decoder.embed_positions.weight" for shard in range(3)}


def test_an_ensemble_in_bfloat16_is_trained_again_in_float32(folder: Path, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    wide = deleted(folder, texts[:2], tokenizer, tmp_path / "wide")
    narrow = deleted(folder, texts[:2], tokenizer, tmp_path / "narrow", dtype="bfloat16")
    assert {p.dtype for p in narrow.model.parameters()} == {torch.bfloat16}
    for one, other in zip(narrow.model.parameters(), wide.model.parameters(), strict=True):
        assert torch.equal(one, other.bfloat16())
    first = [tmp_path / name / "shard-1/model-1.safetensors" for name in ("wide", "narrow")]
    assert first[0].read_bytes() == first[1].read_bytes()  # what training goes on from is not rounded


def test_the_given_ensemble_is_left_as_it_is(folder: Path, texts: Any, tokenizer: Any, fingerprint: Any) -> None:
    model, _ = load_model(folder, device="cpu")
    model.shards[0].train()
    model.shards[1].lm_head.requires_grad_(False)
    before, files = fingerprint(model), {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    modes = {name: module.training for name, module in model.named_modules()}
    first = unlearn(model, tokenizer, forget=texts[:4], method="sisa").model
    assert fingerprint(model) == before != fingerprint(first)
    assert not model.records.checkpoints
    assert fingerprint(unlearn(model, tokenizer, forget=texts[:4], method="sisa").model) == fingerprint(first)
    for one in (model, first):
        assert {name: module.training for name, module in one.named_modules()} == modes
        assert [name for name, p in one.named_parameters() if not p.requires_grad] == [
            "shards.1.model.decoder.embed_tokens.weight"
        ]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_saved_and_loaded_it_says_the_same(folder: Path, texts: Any, tokenizer: Any, fingerprint: Any, tmp_path: Path) -> None:
    """Also where its weights were changed by hand, and in a folder that was moved."""
    model, _ = load_model(folder, device="cpu")
    before = fingerprint(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)
    save_model(model, tokenizer, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    again, _ = load_model(tmp_path / "there", device="cpu")
    assert fingerprint(again) == fingerprint(model) != before
    ids = torch.tensor([encode(texts[:1], tokenizer, 256).examples[0].input_ids])
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.name_or_path == str(tmp_path / "there")


@pytest.mark.parametrize("method", ["gradient-ascent", "eul", "delta-unlearning"])
def test_no_other_method_leaves_the_texts_in_its_folder(method: str, folder: Path, texts: Any, tokenizer: Any) -> None:
    model, _ = load_model(folder, device="cpu")
    options = {"small": "nano/opt-s"} if method == "delta-unlearning" else {}
    with pytest.raises(InputError, match=r"holds the texts that it was trained on.*use method 'sisa'"):
        unlearn(model, tokenizer, forget=texts[:2], retain=texts[2:4], method=method, **options)


def test_a_save_that_is_refused_leaves_the_folder_as_it_is(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    model, _ = load_model(own, device="cpu")
    with pytest.raises(InputError, match="whose files it still needs"):
        save_model(model, tokenizer, own)
    load_model(own, device="cpu")


@pytest.mark.parametrize("kept", [0, 40])
def test_damaged_texts_are_refused_in_one_sentence(kept: int, folder: Path, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    for path in own.rglob("texts-*.safetensors"):
        path.write_bytes(path.read_bytes()[:kept])
    model, _ = load_model(own, device="cpu")
    with pytest.raises(InputError, match=r"the texts in .* cannot be read"):
        unlearn(model, tokenizer, forget=texts[:2], method="sisa")


def test_generation_with_and_without_asking_for_a_cache(folder: Path, texts: Any, tokenizer: Any) -> None:
    model, _ = load_model(folder, device="cpu")
    prompt = encode(texts[:1], tokenizer, 256).examples[0].input_ids[:6]
    ids = torch.tensor([prompt])
    for _ in range(5):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    for asked in ({}, {"use_cache": True}, {"use_cache": False}):
        written = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, eos_token_id=None, **asked)
        assert torch.equal(written, ids)
    assert greedy_continuations(model, [prompt], 5, ends=()) == [tuple(ids[0, 6:].tolist())]


def test_a_text_in_no_shard_is_refused_or_skipped(
    folder: Path, trained: Any, texts: Any, tokenizer: Any, fingerprint: Any, tmp_path: Path
) -> None:
    rows = [texts[0], texts[30], texts[1], texts[31]]
    with pytest.raises(
        InputError, match=r"2 of 4 texts to forget are in no shard of the ensemble in .*: rows 1, 3, counted from 0"
    ):
        deleted(folder, rows, tokenizer, tmp_path / "none")
    result = deleted(folder, rows, tokenizer, tmp_path / "new", unknown="skip")
    assert "2 of 4 texts to forget are in no shard and were skipped" in result.warnings
    assert_same(tmp_path / "new", trained(texts[2:20]))
    model, _ = load_model(folder, device="cpu")
    result = unlearn(model, tokenizer, forget=texts[30:32], method="sisa", unknown="skip")
    assert result.warnings == ["nothing was done: 2 of 2 texts to forget are in no shard and were skipped"]
    assert fingerprint(result.model) == fingerprint(model)


def test_any_other_model_is_refused_with_how_to_make_one(base: Any, texts: Any, tokenizer: Any) -> None:
    request = Request(forget=texts[:2], method="sisa")
    prepared = prepare(base, tokenizer, request)
    for call in (prepared.method.plan, prepared.method.run):
        with pytest.raises(InputError, match=r"takes an ensemble .* this is a OPTForCausalLM; train one with train_sisa\(base"):
            call(base, prepared.inputs)


def test_a_shard_without_texts(base: Any, trained: Any, texts: Any, tokenizer: Any, tmp_path: Path, fingerprint: Any) -> None:
    """Is refused when an ensemble is trained; when its last text is deleted it is the base."""
    with pytest.raises(InputError, match=r"shard . of 9 has none of the 3 texts; take fewer shards"):
        train_sisa(base, tokenizer, texts[:3], shards=9, slices=1, folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    whole = trained(texts[:8], shards=2)
    forget = [row for number in (1, 2) for row in in_place(whole, texts[:8], tokenizer, Place(1, number))]
    result = deleted(whole, forget, tokenizer, tmp_path / "new")
    assert "shard 1 has no text any more: its model is the base" in result.warnings
    model, _ = load_model(tmp_path / "new", device="cpu")
    assert fingerprint(model.shards[0]) == fingerprint(base) != fingerprint(model.shards[1])


def test_where_a_text_is_follows_from_itself_and_the_seed() -> None:
    from unlearn_lib.data.examples import Example

    def settings(seed: int) -> SisaSettings:
        return SisaSettings(
            shards=4, slices=3, average="logits", seed=seed, dtype="float32", trained=(), training={}, reading={}
        )

    texts = [(Example((i, i + 1), (i, i + 1)),) for i in range(1200)]
    dealt = deal(texts, settings(0))
    part = deal(reversed(texts[:300]), settings(0))
    assert all(part[place] == [text for text in found if text[0].input_ids[0] < 300] for place, found in dealt.items())
    assert all(70 < len(found) < 130 for found in dealt.values())  # 100, three standard deviations
    assert deal(texts, settings(1)) != dealt


def test_texts_are_kept_as_tokens(tmp_path: Path, texts: Any, tokenizer: Any) -> None:
    given = texts_of(
        encode([*texts[:3], {"prompt": "Who?", "completion": " Nobody."}], tokenizer, 16, long_texts="split").examples
    )
    assert max(map(len, given)) > 1
    write_texts(tmp_path / "texts", given)
    assert read_texts(tmp_path / "texts") == given
    assert read_hashes(tmp_path / "texts") == [text_hash(text) for text in given]
    assert len({text_hash(text) for text in given}) == 4
    write_texts(tmp_path / "none", [])
    assert (read_texts(tmp_path / "none"), read_hashes(tmp_path / "none")) == ([], [])


def test_a_folder_that_is_gone_or_its_own_is_refused(folder: Path, texts: Any, tokenizer: Any, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    model, _ = load_model(tmp_path / "copy", device="cpu")
    with pytest.raises(InputError, match="whose files it still needs; save it in another folder"):
        save_model(model, tokenizer, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy")
    with pytest.raises(InputError, match=r"texts-1\.safetensors is missing, which belongs to the SISA ensemble"):
        unlearn(model, tokenizer, forget=texts[:1], method="sisa")
    with pytest.raises(InputError, match="base is missing"):
        save_model(model, tokenizer, tmp_path / "new")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "at least one shard and one slice, got shards=0 and slices=2"),
        ({"slices": -1}, "got shards=3 and slices=-1"),
        ({"average": "votes"}, "unknown value of average 'votes'; choose one of: probabilities, logits"),
        ({"base": "ensemble"}, "the base of an ensemble is a plain model, and this is a SisaForCausalLM"),
        ({"base": "adapter"}, r"and this is a PeftModel; merge .* \(merge_and_unload\)"),
    ],
)
def test_what_cannot_be_an_ensemble(
    options: dict[str, Any], message: str, base: Any, folder: Path, texts: Any, tokenizer: Any, tmp_path: Path
) -> None:
    if options.get("base") == "ensemble":
        options = {"base": folder}
    elif "base" in options:
        peft = pytest.importorskip("peft")
        options = {"base": peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(target_modules=["q_proj"]))}
    given: dict[str, Any] = {"base": base, "shards": 3, "slices": 2, **options}
    with pytest.raises(InputError, match=message):
        train_sisa(given.pop("base"), tokenizer, texts[:6], folder=tmp_path / "new", **given)


def test_a_plan_counts_what_is_taken(folder: Path, texts: Any, tokenizer: Any) -> None:
    model, _ = load_model(folder, device="cpu")
    prepared = prepare(model, tokenizer, Request(forget=texts[:3], method="sisa"))
    planned = prepared.method.plan(model, prepared.inputs)
    result = unlearn(model, tokenizer, forget=texts[:3], method="sisa")
    assert planned.gradient_evaluations == result.cost.gradient_evaluations
    for one in result.details["retrained"]:
        assert f"shard {one['shard']} from slice {one['from_slice']} on" in planned.detail
    shard = sum(p.numel() * p.element_size() for p in model.shards[0].parameters())
    assert planned.peak_memory_bytes > 4 * shard


def test_from_the_command_line(folder: Path, trained: Any, texts: Any, tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts[:2]))
    words = ["run", "--model", str(folder), "--method", "sisa", "--forget", str(tmp_path / "forget.jsonl"), "--device", "cpu"]
    plan = CliRunner().invoke(main, [*words, "--plan"], catch_exceptions=False)
    assert (plan.exit_code, "trained again, of 3 shards with 2 slices" in plan.output) == (0, True), plan.output
    run = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    assert_same(tmp_path / "out" / "model", trained(texts[2:20]))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["cost"]["gradient_evaluations"] > 0
    assert any("still holds the forgotten texts" in warning for warning in report["warnings"])


def test_the_audit_takes_it(folder: Path, texts: Any, tokenizer: Any) -> None:
    from unlearn_lib.audit.auditing import audit
    from unlearn_lib.audit.settings import Settings

    model, _ = load_model(folder, device="cpu")
    result = unlearn(model, tokenizer, forget=texts[:6], method="sisa")
    sets = {"forget": texts[:6], "retain": texts[6:20], "holdout": texts[20:30]}
    found = audit(result.model, tokenizer, **sets, original=model, settings=Settings(relearning_steps=(1,), batch_size=16))
    assert found.outcome
