"""Pre-training in pieces: the same weights as in one go, from texts in a fixed order."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unlearn_lib import InputError, checkpoints, load_model
from unlearn_lib.checkpoints import Checkpoint, Deadline, OutOfTimeError
from unlearn_lib.data.batches import encode
from unlearn_lib.models import gpu, interpreter, pretraining
from unlearn_lib.models import load as models
from unlearn_lib.models.corpora import Generated, Mixed, packed
from unlearn_lib.models.recipes import END_ID, ModelSpec, Recipe
from unlearn_lib.training.loop import TrainingConfig, fit


def toy(folder: Path, **changes: Any) -> Recipe:
    return replace(
        gpu.RECIPE,
        kind="toy",
        specs={f"toy/{family}-s": ModelSpec(family, 16, 2, 2, 1e-3, 6, "") for family in ("neo", "opt")},
        folder=folder,
        vocabulary=300,
        context=32,
        local_window=8,
        batch=4,
        micro_batch=2,
        warm_up=2,
        corpus=lambda where: Mixed(where, documents=40, interpreter_texts=2, tokenizer_documents=20),
        **changes,
    )


class StopsAfter(Deadline):
    """Passes once it was asked so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    @property
    def passed(self) -> bool:
        self.left -= 1
        return self.left < 0


def quiet(line: str) -> None: ...


def pieces(train: Any) -> int:
    """Call `train(deadline)` until it ends; how many calls it took."""
    for number in range(1, 20):
        try:
            train(StopsAfter(3))
        except OutOfTimeError:
            continue
        return number
    raise AssertionError("never finished")


def test_interrupted_pretraining_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once, often, killed = (toy(tmp_path / name) for name in ("once", "often", "killed"))
    names = list(once.specs)
    pretraining.train(once, names, say=quiet)
    # `train` asks once before every model it has not finished, then once a step; two steps are done in a call
    assert (
        pieces(
            lambda deadline: pretraining.train(often, [n for n in names if not often.trained(n)], deadline=deadline, say=quiet)
        )
        > 3
    )
    assert often.manifest()["files"] == once.manifest()["files"]

    # killed in the fifth step, with a checkpoint of the fourth
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    real, steps = Checkpoint.step_done, []

    def dies(self: Checkpoint, *state: Any) -> None:
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        real(self, *state)

    monkeypatch.setattr(Checkpoint, "step_done", dies)
    with pytest.raises(KeyboardInterrupt):
        pretraining.train(killed, names, say=quiet)
    pretraining.train(killed, names, say=quiet)
    assert len(steps) == 5 + 2 + 6
    assert killed.manifest()["files"] == once.manifest()["files"]
    assert not list((tmp_path / "killed" / "checkpoints").iterdir())


def test_what_is_written_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toy(tmp_path)
    monkeypatch.setitem(models.RECIPES, "toy", recipe)
    with pytest.raises(InputError, match=r"toy/opt-s was not trained yet.*`python -m unlearn_lib.models.pretraining toy/opt-s"):
        load_model("toy/opt-s", device="cpu")
    pretraining.train(recipe, ["toy/opt-s"], say=quiet)
    model, tokenizer = load_model("toy/opt-s", device="cpu")
    record = recipe.manifest()["models"]["toy/opt-s"]
    assert (record["steps"], record["tokens"]) == (6, 6 * 4 * 32)
    assert {"held_out_loss", "held_out_loss_python", "corpus_tokens", "seconds", "torch"} <= record.keys()
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert json.loads((tmp_path / "opt-s/config.json").read_text())["dtype"] == "float32"
    assert tokenizer("12")["input_ids"] == [*tokenizer("1")["input_ids"], *tokenizer("2")["input_ids"]]
    held_out = recipe.corpus(tmp_path).held_out(tokenizer, 32)["held_out_loss"]
    assert pretraining.held_out_loss(model, held_out, batch=5) == pytest.approx(record["held_out_loss"], abs=1e-4)


def test_small_pieces_of_a_batch_make_the_same_step(tmp_path: Path) -> None:
    whole, split = (toy(tmp_path / str(size)) for size in (4, 1))
    whole, split = replace(whole, micro_batch=4), replace(split, micro_batch=1)
    tokenizer = pretraining.train_tokenizer(whole)
    state = torch.get_rng_state()
    (a, _), (b, _) = (pretraining.pretrain(r, "toy/neo-s", tokenizer, steps=1, say=quiet) for r in (whole, split))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(a.parameters(), b.parameters(), strict=True):
        # Adam's first step has the length of the learning rate wherever there is a gradient
        assert torch.allclose(one, other, atol=0.02 * 5e-4)


def test_interrupted_fine_tuning_ends_with_the_same_weights(
    tiny: Any, tokenizer: Any, texts: list[dict[str, str]], tmp_path: Path, fingerprint: Any
) -> None:
    examples, config = encode(texts, tokenizer, 64).examples, TrainingConfig(1.0, 1e-3, 8)
    once, often = tiny(dtype=torch.float32), tiny(dtype=torch.float32)
    losses = fit(once, examples, config)

    def train(deadline: Deadline) -> None:
        nonlocal often
        often = tiny(dtype=torch.float32)
        assert fit(often, examples, config, checkpoint=Checkpoint(tmp_path / "c", "k", deadline)) == losses

    assert pieces(train) > 1
    assert fingerprint(often) == fingerprint(once)
    # what is finished is only read
    read = tiny(dtype=torch.float32, seed=1)
    assert fit(read, examples, config, checkpoint=Checkpoint(tmp_path / "c", "k", StopsAfter(0))) == losses
    assert fingerprint(read) == fingerprint(once)
    with pytest.raises(InputError, match="belongs to a training with other settings; delete it"):
        fit(read, examples, config, checkpoint=Checkpoint(tmp_path / "c", "other"))


def test_the_header_of_a_checkpoint(tiny: Any, tokenizer: Any, texts: list[dict[str, str]], tmp_path: Path) -> None:
    """It is JSON with these keys and no others; a file that says something else is refused before it changes a model."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    examples, config = encode(texts[:8], tokenizer, 64).examples, TrainingConfig(1.0, 1e-3, 8)
    losses = fit(tiny(dtype=torch.float32), examples, config, checkpoint=Checkpoint(tmp_path / "c", "k"))
    with safe_open(tmp_path / "c", "pt") as file:
        header = json.loads(file.metadata()["state"])
    assert list(header) == ["key", "losses", "seconds"]
    assert (header["key"], header["losses"]) == ("k", losses)
    for text, message in (
        (json.dumps(header | {"step": 1}), "step: Extra inputs are not permitted"),
        (json.dumps(header | {"losses": "none"}), "losses: Input should be a valid list"),
        (None, "is no checkpoint of a training"),
    ):
        save_file({"a": torch.zeros(1)}, tmp_path / "d", metadata=None if text is None else {"state": text})
        with pytest.raises(InputError, match=message):
            fit(tiny(dtype=torch.float32), examples, config, checkpoint=Checkpoint(tmp_path / "d", "k"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_pretraining_on_a_gpu_lowers_the_loss(tmp_path: Path) -> None:
    recipe = replace(toy(tmp_path), specs={"toy/neo-s": ModelSpec("neo", 16, 2, 2, 1e-2, 60, "")})
    lines: list[str] = []
    pretraining.train(recipe, ["toy/neo-s"], device="cuda", say=lines.append)
    assert recipe.manifest()["models"]["toy/neo-s"]["held_out_loss"] < 5.0  # log 300 is 5.7


class Letters:
    """A tokenizer of one token for each letter."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}


def test_packed_by_hand() -> None:
    a, b, c = ord("a"), ord("b"), ord("c")
    found = [block.tolist() for block in packed(["ab", "", "cca", "b"], Letters(), 3)]
    assert found == [[a, b, END_ID], [END_ID, c, c], [a, END_ID, b]]


@pytest.mark.parametrize("make", [lambda folder: Generated(), lambda folder: Mixed(folder, 30, 2)])
def test_blocks_are_the_same_from_any_start(make: Any, tmp_path: Path) -> None:
    corpus = make(tmp_path)
    first = list(islice(corpus.blocks(Letters(), 2000, 0), 60))
    for start in (1, 30, 59):
        again = islice(corpus.blocks(Letters(), 2000, start), 60 - start)
        assert all(torch.equal(x, y) for x, y in zip(first[start:], again, strict=True))


def test_every_pass_takes_every_block_once(tmp_path: Path) -> None:
    corpus = Mixed(tmp_path, 30, 2)
    blocks = corpus.blocks(Letters(), 2000, 0)
    n = corpus.facts()["corpus_tokens"] // 2000 if next(blocks) is not None else 0
    passes = [[tuple(block.tolist()) for block in islice(corpus.blocks(Letters(), 2000, k * n), n)] for k in (0, 1)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]


def test_held_out_texts_of_the_interpreter_are_others() -> None:
    def some(held_out: bool) -> Iterator[str]:
        return islice(interpreter.texts(held_out), 12)

    assert list(some(False)) == list(some(False))
    assert not set(some(True)) & set(interpreter.texts(False))
    names = [f"folder/file{i}.py" for i in range(2000)]
    assert 60 < sum(map(interpreter.is_held_out, names)) < 140  # one of 20


def test_shapes_and_cost_of_the_gpu_models() -> None:
    from transformers import AutoModelForCausalLM

    millions = {"s": (25, 30), "m": (55, 65), "l": (120, 130)}
    for name, spec in gpu.SPECS.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(gpu.RECIPE.config(spec)).train()
        low, high = millions[name[-1]]
        assert low < sum(p.numel() for p in model.parameters()) / 1e6 < high
        assert spec.width / spec.heads == 64
        if name == "gpu/neo-s":
            ids = torch.zeros(2, gpu.RECIPE.context, dtype=torch.long, device="meta")
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids, labels=ids).loss.backward()
            assert counter.get_total_flops() / ids.numel() / 1e6 == pytest.approx(gpu.MFLOP_PER_TOKEN["s"], rel=1e-3)
    work = {name: 1e6 * gpu.MFLOP_PER_TOKEN[name[-1]] * gpu.RECIPE.tokens(name) for name in gpu.SPECS}
    assert 8 < max(work.values()) / gpu.ASSUMED_FLOPS / 60 < 10
    assert sum(work.values()) / gpu.ASSUMED_FLOPS < 3600
