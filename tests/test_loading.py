"""Only whole checkpoints of causal language models are loaded, and everything else is refused in one sentence, by a plan, too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from model_folders import change, cut, llama, rewrite, save, with_tokens

from unlearn_lib import InputError, load_model, save_model, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.models import nano
from unlearn_lib.models.shapes import load_for_plan
from unlearn_lib.models.weights import plain_name

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
MASK = {"bias": torch.ones(1, 1, 4, 4).tril().bool(), "masked_bias": torch.tensor(-1e9)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(llama(), tokenizer, folder / "whole")
    save(llama(), tokenizer, folder / "shards", max_shard_size="40KB")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved / "whole", tmp_path / "model"))


def renamed(by: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda tensors: {by(name): tensor for name, tensor in tensors.items()})


def without(*parts: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(part in name for part in parts)}
    )


def adding(**tensors: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda own: {**own, **{name.replace("__", "."): t for name, t in tensors.items()}})


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder, "config.json", **values)


def to_pickle(folder: Path) -> None:
    """A pickle that makes a file when it is read."""
    (folder / "model.safetensors").unlink()
    code = f"cposix\nsystem\n(Vtouch '{folder.parent / 'run'}'\ntR."
    (folder / "pytorch_model.bin").write_bytes(code.encode())


def own_code(folder: Path) -> None:
    change(folder, "config.json", model_type="mine", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})
    (folder / "own.py").write_text(f"open({str(folder.parent / 'run')!r}, 'w')\n", encoding="utf-8")


def own_tokenizer(folder: Path) -> None:
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]}, tokenizer_class="Own")
    (folder / "own.py").write_text(f"open({str(folder.parent / 'run')!r}, 'w')\n", encoding="utf-8")


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def text(file: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_text(content, encoding="utf-8")


def classifier(folder: Path) -> None:
    adding(score__weight=torch.ones(2, 16))(folder)
    change(folder, "config.json", tie_word_embeddings=True)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a layer is missing": (
        without("layers.1."),
        r"9 of its weights are not in the files \(model\.layers\.1\.input_lay.*random numbers",
    ),
    "one weight is missing": (without("layers.1.mlp.up_proj"), r"1 of its weights .*layers\.1\.mlp\.up_proj\.weight"),
    "the head is missing and not tied": (without("lm_head"), r"1 of its weights are not in the files \(lm_head\.weight\)"),
    "one weight is renamed": (
        renamed(lambda name: name.replace("q_proj", "query")),
        r"2 tensors in the files have no place in a Llama",
    ),
    "another wrapper": (renamed(lambda name: "net." + name), r"every name begins with 'net\.', as a wrapper writes it"),
    "an adapter's wrapper": (renamed(lambda name: "base_model.model." + name), r"every name begins with 'base_model\.model\.'"),
    "more layers than said": (config(num_hidden_layers=1), r"9 tensors in the files have no place"),
    "a classifier": (
        config(architectures=["LlamaForSequenceClassification"]),
        r"weights are those of a LlamaForSequenceClassification",
    ),
    "a classifier's head": (classifier, r"another head \(a classifier, reward or value model\)"),
    "a value head": (adding(v_head__summary__weight=torch.ones(1, 16)), r"another head"),
    "another vocabulary": (
        config(vocab_size=2000),
        r"a vocabulary of 2000, and the stored .* has 1024 rows; put \"vocab_size\": 1024",
    ),
    "a smaller vocabulary": (config(vocab_size=500), r"a vocabulary of 500"),
    "another shape": (config(intermediate_size=32), r"asks for model\.layers\.0\.mlp\.down_proj\.weight of shape \[16, 32\]"),
    "a huge vocabulary": (config(vocab_size=10**12), r"describes a model of 32,000,000,0"),
    "countless layers": (config(num_hidden_layers=10**9), r"cannot be right: num_hidden_layers is 1000000000"),
    "no layers": (config(num_hidden_layers=-1), r"cannot be right: num_hidden_layers is -1"),
    "a pointer of git-LFS": (
        text("model.safetensors", POINTER),
        r"model\.safetensors is only a pointer of git-LFS.*git lfs pull",
    ),
    "a tokenizer's pointer": (text("tokenizer.json", POINTER), r"tokenizer\.json is only a pointer of git-LFS"),
    "a configuration's pointer": (text("config.json", POINTER), r"config\.json is only a pointer of git-LFS"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors", -500), r"model\.safetensors is damaged or cut short"),
    "a cut header": (lambda folder: cut(folder / "model.safetensors", 100), r"damaged or cut short"),
    "an empty file": (lambda folder: cut(folder / "model.safetensors", 0), r"damaged or cut short"),
    "T5": (text("config.json", '{"model_type": "t5"}'), r"not that of a causal language model: a t5 is none; give a decoder"),
    "BART": (text("config.json", '{"model_type": "bart"}'), r"this bart is an encoder and a decoder"),
    "BERT": (text("config.json", '{"model_type": "bert"}'), r"this bert is an encoder, whose predictions see what comes after"),
    "an unknown type": (
        config(model_type="mine"),
        r"does not know the model type 'mine'; if it is a new one, upgrade with `pip install -U",
    ),
    "code of its own": (own_code, r"does not know the model type 'mine'.*auto_map\) is never run"),
    "no type": (text("config.json", "{}"), r"it states no model_type"),
    "a list for a configuration": (text("config.json", "[1]"), r"it states no model_type|cannot be read"),
    "half a configuration": (text("config.json", '{"model_type": "lla'), r"the configuration of .* cannot be read"),
    "a word for a number": (config(hidden_size="much"), r"Validation error for field 'hidden_size'"),
    "heads that do not fit": (config(num_attention_heads=3), r"The hidden size \(16\) is not a multiple"),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"are quantised \(bitsandbytes\)",
    ),
    "GPTQ": (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"are quantised \(gptq\)"),
    "AWQ": (config(quantization_config={"quant_method": "awq", "bits": 4}), r"are quantised \(awq\)"),
    "FP8": (config(quantization_config={"quant_method": "fp8"}), r"are quantised \(fp8\), and curvature needs the plain ones"),
    "an empty quantisation": (config(quantization_config={}), r"are quantised"),
    "weights in 8 bits": (
        lambda folder: rewrite(
            folder, lambda own: {n: t.to(torch.float8_e4m3fn) if "up_proj" in n else t for n, t in own.items()}
        ),
        r"are quantised \(model\.layers\.0\.mlp\.up_proj\.weight is in F8_E4M3\)",
    ),
    "no tokenizer": (no_tokenizer, r"its tokenizer cannot be loaded.*copy the tokenizer's files"),
    "a tokenizer's own code": (own_tokenizer, r"its tokenizer cannot be loaded: it needs code of its own, which is never run"),
    "generation as it cannot be": (
        lambda folder: change(folder, "generation_config.json", num_return_sequences=3),
        r"generation_config\.json cannot be used: Greedy methods.*correct it, or remove it",
    ),
    "half of generation": (text("generation_config.json", "{"), r"generation_config\.json cannot be used"),
    "a pickle": (to_pickle, r"only pytorch_model\.bin, a pickle, which could run any code and is never read"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "x.safetensors"),
        r"there is no model\.safetensors",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_sentence_and_by_a_plan_too(kind: str, folder: Path) -> None:
    damage, message = REFUSED[kind]
    damage(folder)
    for load in (load_model, load_for_plan):
        with pytest.raises(InputError, match=message) as caught:
            load(str(folder))
        assert "\n" not in str(caught.value)
    assert not (folder.parent / "run").exists(), "code of the folder was run"


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."])
def test_what_wrappers_add_to_names_is_taken_off(prefix: str, folder: Path, tmp_path: Path) -> None:
    renamed(lambda name: prefix + name)(folder)
    model, tokenizer = load_model(folder, device="cpu")
    expected = dict(llama().named_parameters())
    assert all(torch.equal(p, expected.pop(name)) for name, p in model.named_parameters())
    assert not expected
    save_model(model, tokenizer, tmp_path / "again")
    assert torch.equal(load_model(tmp_path / "again", device="cpu")[0].lm_head.weight, model.lm_head.weight)
    assert model.generation_config.eos_token_id == 1


def test_names_inside_of_a_model_are_freed_of_wrappers() -> None:
    assert plain_name("model.layers.1._orig_mod.mlp.up_proj.weight") == "model.layers.1.mlp.up_proj.weight"
    assert plain_name("model.layers.1.some_module.weight") == "model.layers.1.some_module.weight"


LOADED: dict[str, Callable[[Path], Any]] = {
    "as saved": lambda folder: None,
    "tied and the head left out": lambda folder: (
        without("lm_head")(folder),
        change(folder, "config.json", tie_word_embeddings=True),
    ),
    "buffers of older versions": adding(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)),
    "masks of older versions": adding(**{f"model__layers__0__attn__attention__{key}": tensor for key, tensor in MASK.items()}),
    "code of its own for a type that is known": lambda folder: change(
        folder, "config.json", auto_map={"AutoConfig": "own.Config"}
    ),
    "published generation": lambda folder: change(folder, "generation_config.json", do_sample=False, temperature=0.9),
    "several tokens that end": lambda folder: change(folder, "generation_config.json", eos_token_id=[1, 2]),
    "a padding token outside, which is never used": lambda folder: change(
        folder, "tokenizer_config.json", pad_token="<outside>"
    ),
}


@pytest.mark.parametrize("kind", LOADED)
def test_whole_checkpoints_are_loaded_and_saved(kind: str, folder: Path, tmp_path: Path) -> None:
    LOADED[kind](folder)
    model, tokenizer = load_model(folder, device="cpu")
    save_model(model, tokenizer, tmp_path / "again")
    own, expected = dict(load_model(tmp_path / "again", device="cpu")[0].named_parameters()), dict(llama().named_parameters())
    if kind.startswith("tied"):
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert all(torch.equal(p, expected[name]) for name, p in own.items())


def test_a_bias_that_is_called_like_a_mask_is_none(folder: Path) -> None:
    adding(model__layers__0__attn__bias=torch.ones(16))(folder)
    with pytest.raises(
        InputError, match=r"1 tensors in the files have no place in a LlamaForCausalLM \(model\.layers\.0\.attn\.bias\)"
    ):
        load_model(folder)


def index(folder: Path, change_map: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change_map(content["weight_map"])
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: next(f.glob("model-00002*")).unlink(),
            r"model-00002-of-0000\d\.safetensors is missing, which .*index\.json names",
        ),
        (lambda f: next(f.glob("model-00002*")).write_text(POINTER, encoding="utf-8"), r"model-00002.*pointer of git-LFS"),
        (lambda f: cut(next(f.glob("model-00002*")), 200), r"model-00002.* is damaged or cut short"),
        (
            lambda f: index(f, lambda own: own.update({"lm_head.weight": "../evil.safetensors"})),
            r"names '\.\./evil\.safetensors'.*not read",
        ),
        (
            lambda f: index(f, lambda own: own.update({"lm_head.weight": "evil.bin"})),
            r"names 'evil\.bin', which is no safetensors",
        ),
        (text("model.safetensors.index.json", '{"weight_map"'), r"is no index of safetensors"),
        (text("model.safetensors.index.json", "[]"), r"is no index of safetensors"),
    ],
)
def test_shards_that_are_lost_or_lead_elsewhere(
    damage: Callable[[Path], Any], message: str, saved: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved / "shards", tmp_path / "model"))
    load_model(folder, device="cpu")
    damage(folder)
    for load in (load_model, load_for_plan):
        with pytest.raises(InputError, match=message):
            load(str(folder))


@pytest.mark.parametrize(
    "family", ["BertLMHeadModel", "RobertaForCausalLM", "XLNetLMHeadModel", "XLMWithLMHeadModel", "BartForCausalLM"]
)
def test_encoders_are_found_by_what_they_do(family: str, tmp_path: Path, tokenizer: Any) -> None:
    """By a change of the last token, which no earlier prediction may see; what a decoder is called does not matter."""
    import transformers

    small = {
        "BertLMHeadModel": (
            "bert",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        ),
        "RobertaForCausalLM": (
            "roberta",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        ),
        "XLNetLMHeadModel": ("xlnet", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}),
        "XLMWithLMHeadModel": ("xlm", {"emb_dim": 16, "n_layers": 1, "n_heads": 2}),
        "BartForCausalLM": ("bart", {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}),
    }[family]
    settings = {**small[1], "vocab_size": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    for decoder in (False, True):
        own = transformers.AutoConfig.for_model(small[0], **settings, **({"is_decoder": True} if decoder else {}))
        torch.manual_seed(0)
        model = getattr(transformers, family)(own)
        folder = save(model, tokenizer, tmp_path / f"{decoder}")
        if family == "BartForCausalLM" or (decoder and small[0] in ("bert", "roberta")):
            assert load_model(folder, device="cpu")[0].config.model_type == small[0]
            continue
        with pytest.raises(InputError, match=r"is not that of a causal language model|depend on tokens that come later"):
            load_model(folder, device="cpu")


def test_tokens_outside_of_the_embedding(folder: Path, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    large = with_tokens(tokenizer, "<|user|>")
    large.eos_token = "<|user|>"
    message = r"1 tokens that the model has no embedding for, whose 1024 rows .*'<\|user\|>' \(1024\)"
    with pytest.raises(InputError, match=message):
        unlearn(llama(), large, forget=texts[:2], method="gradient-ascent")
    large.save_pretrained(folder)
    for load in (load_model, load_for_plan):
        with pytest.raises(InputError, match=message):
            load(str(folder))
    (folder / "model.safetensors").unlink()  # a plan by the shape alone
    with pytest.raises(InputError, match=message):
        load_for_plan(str(folder))


def test_on_the_command_line(folder: Path, tmp_path: Path, texts: list[dict[str, str]]) -> None:
    (tmp_path / "forget.jsonl").write_text(json.dumps(texts[0]), encoding="utf-8")
    without("layers.1.")(folder)
    words = ["run", "--model", str(folder), "--forget", str(tmp_path / "forget.jsonl"), "--method", "gradient-ascent"]
    for more in (["--plan"], ["--out", str(tmp_path / "out")]):
        result = CliRunner().invoke(main, [*words, *more])
        assert (result.exit_code, result.stdout) == (2, "")
        lines = [line for line in result.stderr.splitlines() if "Loading weights" not in line]
        assert len(lines) == 1
        assert lines[0].startswith(f"unlearn: the model in {folder} cannot be loaded: 9 of its weights are not in the files")
    assert not (tmp_path / "out").exists()


def test_a_folder_named_like_a_model_of_the_library(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nano/opt-s", "gpu/mine", "nano/mine"):
        save(llama(), tokenizer, tmp_path / name)
    for load in (load_model, load_for_plan):
        with pytest.raises(InputError, match=r"nano/opt-s is both a folder here and the name of a model.*write \./nano/opt-s"):
            load("nano/opt-s")
    for name in ("./nano/opt-s", "gpu/mine", "nano/mine"):
        assert load_model(name, device="cpu")[0].config.model_type == "llama"
        assert load_for_plan(name).model.config.model_type == "llama"
    assert load_model("nano/neo-s", device="cpu")[0].config.model_type == "gpt_neo"
    monkeypatch.chdir(nano.FOLDER.parent)  # the library's own folder is no other
    with pytest.raises(InputError, match="unknown embedded model 'nano/other'"):
        load_model("nano/other")
