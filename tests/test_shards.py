"""Weights that are divided among processes: the answers of one process with the whole model, in about half the memory for each of two."""

import filecmp
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from sharded import METHODS, NIGHTLY
from test_ranks import TESTS, apart, batches, done, the_first_says_that_the_second_is_gone, written
from torch import Tensor

from unlearn_lib import save_model
from unlearn_lib.command.cards import Cards, fitting
from unlearn_lib.command.cli import main
from unlearn_lib.curvature import GaussNewton
from unlearn_lib.curvature.capture import capture
from unlearn_lib.errors import InputError
from unlearn_lib.methods import METHODS as EVERY
from unlearn_lib.methods.divided import check_divided
from unlearn_lib.methods.plan import model_bytes, vector_bytes
from unlearn_lib.ranks import Ranks, data_parallel, planned_for
from unlearn_lib.shards import divided, gathered_bytes, own, part, shard, whole
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

BOUNDS = {
    "gradient/float64": 1e-12,
    "gradient/float32": 1e-6,
    "K-FAC/float64": 1e-12,
    "method/float64": 1e-9,
    "interrupted/float64": 1e-9,
}
"""The largest relative difference."""


def words(folder: Path, tokenizer: Any, texts: list[dict[str, str]]) -> list[str]:
    """`unlearn run` with shared weights and twelve steps, on files of its own."""
    save_model(tiny_models.build("opt", torch.bfloat16), tokenizer, folder / "model")
    files = written(folder, texts)
    options = {"epochs": 4, "forget_batch_size": 2, "learning_rate": 1e-2, "optimizer": "sgd"}
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    model = ["--model", str(folder / "model"), "--device", "cpu", "--shard-weights"]
    return ["run", *model, *files, "--method", "gradient-difference", *settings]


@pytest.fixture(scope="module")
def folder(made_once: Callable[..., Path], tokenizer: Any, texts: list[dict[str, str]]) -> Path:
    """What two processes have found, and what the command has written and said there."""

    def fill(found: Path) -> None:
        command = words(found, tokenizer, texts)
        said = done(2, TESTS / "sharded.py", found, *command, "--out", found / "out2").stdout
        (found / "said").write_text(said, encoding="utf-8")
        alone = CliRunner().invoke(main, [*command, "--out", str(found / "out1")])
        assert alone.exit_code == 0, alone.output

    return made_once("sharded", fill)


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "found.safetensors")


@pytest.mark.parametrize("what", BOUNDS)
def test_the_answers_are_those_of_one_process(found: dict[str, Tensor], what: str) -> None:
    """Texts unevenly divided, and a process without a text; parameters that do not divide evenly; tied embeddings and others."""
    assert compared(found, what) >= 2


@pytest.mark.nightly
def test_the_weights_of_more_methods_are_those_of_one_process(tmp_path: Path) -> None:
    done(2, TESTS / "sharded.py", tmp_path, "nightly")
    assert compared(load_file(tmp_path / "found.safetensors"), "method/float64") == len(NIGHTLY)


def compared(found: dict[str, Tensor], what: str) -> int:
    names = [name.removeprefix("one/") for name in found if name.startswith(f"one/{what}/")]
    for name in names:
        assert apart(found[f"one/{name}"], found[f"all/{name}"]) <= BOUNDS[what], name
    return len(names)


def test_each_process_has_its_part(found: dict[str, Tensor]) -> None:
    """Outside of a pass nothing is whole."""
    (every, left), parts = found["numbers"].tolist(), found["parts"].tolist()
    assert sum(parts) == every
    assert all(abs(here / every - 0.5) < 0.02 for here in parts)
    assert left == 0


def test_an_unchanged_model_is_written_as_it_was(folder: Path) -> None:
    for form in ("torch.float32", "torch.bfloat16"):
        one, other = folder / f"whole-{form}", folder / f"parts-{form}"
        names = [path.name for path in sorted(one.iterdir())]
        assert names == [path.name for path in sorted(other.iterdir())]
        assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


def test_the_command_takes_the_same_flag_with_any_number_of_processes(folder: Path) -> None:
    """In the number format of the given model, and all lines once."""
    said = (folder / "said").read_text(encoding="utf-8")
    assert said.count("verdict:") == said.count("written:") == 1
    one, other = (load_file(folder / f"out{number}" / "model" / "model.safetensors") for number in (1, 2))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert other[name].dtype == tensor.dtype == torch.bfloat16
        assert torch.allclose(other[name].float(), tensor.float(), rtol=2**-7), name
    reports = [json.loads((folder / f"out{number}" / "report.json").read_text(encoding="utf-8")) for number in (1, 2)]
    for name in ("forget", "retain"):
        assert reports[1]["losses"][name]["after"] == pytest.approx(reports[0]["losses"][name]["after"], rel=1e-3)


def test_a_process_whose_partner_is_gone_says_so(tokenizer: Any, texts: list[dict[str, str]], tmp_path: Path) -> None:
    the_first_says_that_the_second_is_gone(tmp_path, words(tmp_path, tokenizer, texts))


def test_every_process_makes_as_many_passes() -> None:
    for shapes in ([(2, 5), (3, 9), (1, 4), (4, 2)], [(1, 3)], [(5, 2)]):
        given = batches(shapes)
        for size in (2, 3, 7):
            shares = [Ranks(rank, size, sharded=True).share(given) for rank in range(size)]
            assert len({len(share.batches) + len(share.idle) for share in shares}) == 1
            assert all(len(batch["labels"]) == 1 for share in shares for batch in share.idle)
            assert any(not share.idle for share in shares)
            plain = [Ranks(rank, size).share(given) for rank in range(size)]
            assert [(share.own, len(share.batches), share.idle) for share in plain] == [
                (share.own, len(share.batches), []) for share in shares
            ]


def test_one_process_keeps_its_weights_whole(tiny: Any) -> None:
    given = tiny("opt")
    with data_parallel("cpu", shard_weights=True) as together:
        assert not together.sharded
        assert shard(given, "cpu") is given
    assert not divided(given)
    p = next(given.parameters())
    assert own(p) is whole(p) is part(p, p) is p


def test_methods_that_do_not_divide_are_refused_with_those_that_do() -> None:
    with pytest.raises(
        InputError, match=r"certified-newton with these options .* what works: gradient-ascent .*constrained-newton"
    ):
        check_divided(EVERY["certified-newton"]())
    for method, options in [*METHODS.values(), *NIGHTLY.values()]:
        check_divided(EVERY[method](**options))
    refused = [
        ("gradient-ascent", {"preset": "jang"}),
        ("fisher-removal", {"solver": "block"}),
        ("constrained-newton", {"budget": 100}),
    ]
    for name, options in refused:
        with pytest.raises(InputError, match="takes a model that is whole"):
            check_divided(EVERY[name].from_options(options))


def test_models_that_cannot_be_divided_are_refused(tiny: Any) -> None:
    with planned_for(2, sharded=True):
        shared = tiny("opt")
        layers = shared.model.decoder.layers
        layers[1].fc1.weight = layers[0].fc1.weight
        with pytest.raises(InputError, match=r"layers\.0\.fc1\.weight belongs to several layers"):
            shard(shared)
        with pytest.raises(InputError, match="in 16 bits, cannot be divided"):
            shard(tiny("opt", torch.bfloat16))
        with pytest.raises(InputError, match="has no list of layers"):
            shard(torch.nn.Linear(2, 2))
        single = tiny("opt")
        single.scale = torch.nn.Parameter(torch.tensor(1.0))
        with pytest.raises(InputError, match="is a single number"):
            shard(single)


def test_what_takes_passes_of_its_own_is_refused_where_all_have_to_be_alike() -> None:
    W = torch.ones(3, 3)

    def losses(params: dict[str, Tensor]) -> Tensor:
        return (torch.ones(2, 4, 3) @ params["W"].T).sum((1, 2))  # the weight is transposed before it meets the text

    capture(losses, {"W": W}, {}, (2, 4))
    with pytest.raises(InputError, match="uses parameter W in a way that takes passes of its own"):
        capture(losses, {"W": W}, {}, (2, 4), alike=True)


def test_a_plan_counts_parts_and_names_the_flag_that_fits(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny("opt", torch.float32)
    every = sum(p.numel() for p in model.parameters())
    with planned_for(4, sharded=True):
        assert model_bytes(model) == vector_bytes(model) == every
    assert model_bytes(model) == 4 * every
    # what lies outside of the layers twice, and a layer five times
    layer = sum(p.numel() for p in model.model.decoder.layers[0].parameters())
    assert gathered_bytes(model) == 4 * (2 * (every - 2 * layer) + 5 * layer)
    # so many texts at a time that activations count little
    request = Request(
        texts[:1], texts[4:6], None, method="gradient-difference", batch_size=1, max_length=4, options={"epochs": 1}
    )
    prepared = prepare(model, tokenizer, request)
    wide = fitting(model, prepared, Cards(8, 1.0))
    assert fitting(model, prepared, Cards(8, 1.0), shard_weights=True).startswith("fits on 8 cards")
    whole_gib, parts_gib = (planned(model, prepared, sharded) for sharded in (False, True))
    assert parts_gib < whole_gib
    assert "about 0.0 GiB a card" in wide
    with pytest.raises(InputError, match="what fits: --shard-weights, with about"):
        fitting(model, prepared, Cards(8, (whole_gib + parts_gib) / 2))
    with pytest.raises(InputError, match="a part of 8 on each card"):
        fitting(model, prepared, Cards(8, parts_gib / 2), shard_weights=True)
    refused = Request(texts[:1], texts[4:6], None, method="fisher-forgetting", max_length=4, options={"step": 1.0})
    with pytest.raises(InputError, match="takes a model that is whole"):
        fitting(model, prepare(model, tokenizer, refused), Cards(8, 1.0), shard_weights=True)


def planned(model: Any, prepared: Any, sharded: bool) -> float:
    with planned_for(8, sharded=sharded):
        found: float = prepared.method.plan(model, prepared.inputs).peak_memory_bytes
        return (found + (0 if sharded else model_bytes(model))) * 1.1 / 2**30


def test_other_operators_say_that_they_do_not_divide(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("opt")
    monkeypatch.setattr("unlearn_lib.curvature.risk.divided", lambda _: True)
    ids = torch.arange(3)[None]
    with pytest.raises(InputError, match="a GaussNewton cannot be made of a model whose weights are divided"):
        GaussNewton(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}])
