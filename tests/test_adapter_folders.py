"""Folders of peft adapters: their own tokenizer, larger embeddings, and what is refused."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from model_folders import change, llama, rewrite, save, with_tokens

from unlearn_lib import HubUnavailableError, InputError, load_model, save_model, unlearn
from unlearn_lib.models.shapes import load_for_plan

peft = pytest.importorskip("peft")
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}"
FILE = "adapter_model.safetensors"


def adapter(
    folder: Path, tokenizer: Any, *, rows: int = 1024, resize: bool = False, tie: bool = False, own: Any = None, **config: Any
) -> Any:
    """A base and an adapter on it in folders; returns the model that was saved."""
    base = llama(vocab_size=rows, tie_word_embeddings=tie)
    save(base, tokenizer, folder / "base")
    base.name_or_path = str(folder / "base")
    if resize:
        base.resize_token_embeddings(len(own))
    model = peft.get_peft_model(
        base, peft.LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **config})
    )
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder / "adapter")
    if own is not None:
        own.save_pretrained(folder / "adapter")
    return model.eval()


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(**tokenizer("<|user|>The map", return_tensors="pt")).logits
    return found


def test_the_adapters_own_tokenizer_and_template_are_used_and_saved(tmp_path: Path, tokenizer: Any) -> None:
    own = with_tokens(tokenizer, "<|user|>")
    own.chat_template = TEMPLATE
    expected = adapter(tmp_path, tokenizer, rows=1040, own=own)
    model, used = load_model(tmp_path / "adapter", device="cpu")
    assert used("<|user|>a")["input_ids"] == own("<|user|>a")["input_ids"] != tokenizer("<|user|>a")["input_ids"]
    assert used.chat_template == TEMPLATE
    torch.testing.assert_close(logits(model, used), logits(expected, own), rtol=1e-5, atol=1e-6)
    save_model(model, used, tmp_path / "out")
    again, saved = load_model(tmp_path / "out", device="cpu")
    assert (saved.chat_template, len(saved)) == (TEMPLATE, 1025)
    assert torch.equal(logits(again, saved), logits(model, used))
    found = load_for_plan(str(tmp_path / "adapter"))
    assert found.tokenizer.chat_template == TEMPLATE


def test_a_template_alone_goes_with_the_bases_tokenizer(tmp_path: Path, tokenizer: Any) -> None:
    adapter(tmp_path, tokenizer)
    (tmp_path / "adapter" / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    _, used = load_model(tmp_path / "adapter", device="cpu")
    assert (used.chat_template, len(used)) == (TEMPLATE, len(tokenizer))


@pytest.mark.parametrize(
    ("tie", "config"),
    [
        (False, {}),
        (True, {}),
        (False, {"modules_to_save": ["embed_tokens", "lm_head"]}),
        (False, {"trainable_token_indices": [1024]}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_larger_embeddings(
    tie: bool, config: dict[str, Any], tmp_path: Path, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    own = with_tokens(tokenizer, "<|user|>")
    expected = adapter(tmp_path, tokenizer, resize=True, tie=tie, own=own, **config)
    state = torch.get_rng_state()
    model, used = load_model(tmp_path / "adapter", device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.get_input_embeddings().weight.shape[0], len(used)) == (1025, 1025)
    torch.testing.assert_close(logits(model, used), logits(expected, own), rtol=1e-4, atol=1e-5)
    assert load_for_plan(str(tmp_path / "adapter")).model.get_input_embeddings().weight.shape[0] == 1025
    save_model(model, used, tmp_path / "out")
    assert torch.equal(logits(load_model(tmp_path / "out", device="cpu")[0], used), logits(model, used))
    if not config:
        result = unlearn(model, used, forget=texts[:2], method="gradient-ascent", max_length=16)
        assert result.model.get_input_embeddings().weight.shape[0] == 1025


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_without_the_rows_of_its_own_tokens(tmp_path: Path, tokenizer: Any) -> None:
    adapter(tmp_path, tokenizer, resize=True, own=with_tokens(tokenizer, "<|user|>"))
    rewrite(tmp_path / "adapter", lambda own: {name: t for name, t in own.items() if "lora" in name or "lm_head" in name}, FILE)
    with pytest.raises(
        InputError, match=r"1025 tokens, its base has 1024, and it does not hold both the input and the output embedding"
    ):
        load_model(tmp_path / "adapter")
    rewrite(tmp_path / "adapter", lambda own: {name: t for name, t in own.items() if "lora" in name}, FILE)
    for load in (load_model, load_for_plan):
        with pytest.raises(InputError, match=r"1 tokens that the model has no embedding for"):
            load(str(tmp_path / "adapter"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    adapter(folder, tokenizer)
    return folder / "adapter"


def pickle(folder: Path) -> None:
    (folder / FILE).unlink()
    (folder / "adapter_model.bin").write_bytes(f"cposix\nsystem\n(Vtouch '{folder.parent / 'run'}'\ntR.".encode())


REFUSED: dict[str, tuple[Any, str]] = {
    "a layer is missing": (
        lambda f: rewrite(f, lambda own: {n: t for n, t in own.items() if "layers.1." not in n}, FILE),
        "2 of its weights",
    ),
    "renamed": (
        lambda f: rewrite(f, lambda own: {"_orig_mod." + n: t for n, t in own.items()}, FILE),
        "4 of its weights are not in the file",
    ),
    "further weights": (
        lambda f: rewrite(f, lambda own: {**own, "base_model.model.x.weight": torch.ones(2)}, FILE),
        "1 tensors of the file",
    ),
    "another rank": (lambda f: change(f, "adapter_config.json", r=3), "size mismatch"),
    "a pickle": (pickle, r"only adapter_model\.bin, a pickle"),
    "no weights": (lambda f: (f / FILE).unlink(), r"there is no adapter_model\.safetensors"),
    "cut": (lambda f: (f / FILE).write_bytes(b"12"), "damaged or cut short"),
    "a pointer": (
        lambda f: (f / FILE).write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8"),
        "git lfs pull",
    ),
    "no base": (lambda f: change(f, "adapter_config.json", base_model_name_or_path=None), "does not say which model it is for"),
    "a base that is a list": (
        lambda f: change(f, "adapter_config.json", base_model_name_or_path=[1]),
        "does not say which model it is for",
    ),
    "a base that is not there": (
        lambda f: change(f, "adapter_config.json", base_model_name_or_path="/no/where/base"),
        "is for the model /no/where/base, which cannot be loaded: there is no model folder",
    ),
    "a base out of sight": (
        lambda f: change(f, "adapter_config.json", base_model_name_or_path="base-x"),
        "which cannot be loaded: .* no folder",
    ),
    "its own base": (
        lambda f: change(f, "adapter_config.json", base_model_name_or_path=str(f)),
        "which is an adapter itself; merge",
    ),
    "a classifier's": (lambda f: change(f, "adapter_config.json", task_type="SEQ_CLS"), "but for the task SEQ_CLS"),
    "an unknown kind": (
        lambda f: change(f, "adapter_config.json", peft_type="OTHER"),
        "the adapter in .* cannot be loaded: 'OTHER' is not",
    ),
    "other modules": (lambda f: change(f, "adapter_config.json", target_modules=["none"]), "not found in the base model"),
    "half a configuration": (
        lambda f: (f / "adapter_config.json").write_text("{", encoding="utf-8"),
        r"adapter_config\.json cannot be read",
    ),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]", encoding="utf-8"), "is not a JSON object"),
    "a module by its name": (
        lambda f: change(f, "adapter_config.json", megatron_config={"a": 1}),
        "has megatron_config set, which runs code",
    ),
    "a pickle by its name": (
        lambda f: change(f, "adapter_config.json", prompt_tuning_init_state_dict_path="x.bin"),
        "prompt_tuning_init_state_dict_path set",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_sentence_and_by_a_plan_too(kind: str, plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "adapter"))
    damage, message = REFUSED[kind]
    damage(folder)
    for load in (load_model, load_for_plan):
        with pytest.raises((InputError, HubUnavailableError), match=message) as caught:
            load(str(folder))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "a pickle was read"
