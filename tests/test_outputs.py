"""Output files and folders: who can read them, and that nothing is lost or half written, whatever the place is like."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib import save_model
from unlearn_lib.files import PREFIX, KeptError, new_file, new_folder, write_text


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))


def fill(path: Path, text: str = "x", error: BaseException | None = None, private: bool = False) -> None:
    with new_folder(path, private=private) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(text, encoding="utf-8")
        (folder / "report.json").write_text(text, encoding="utf-8")
        if error is not None:
            raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=[0o022, 0o077, 0o027, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_and_folders_follow_the_umask(umask: int, tmp_path: Path) -> None:
    file, folder = oct(0o666 & ~umask), oct(0o777 & ~umask)
    write_text(tmp_path / "a.txt", "old")
    with new_file(tmp_path / "b.txt") as temporary:  # some writers put another file in the place
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT, 0o600))
    fill(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty")
    assert [mode(tmp_path / name) for name in ("a.txt", "b.txt", "out/report.json", "out/model/weights")] == [file] * 4
    assert [mode(tmp_path / name) for name in ("out", "out/model", "empty")] == [folder] * 3
    (tmp_path / "closed").mkdir()
    os.chmod(tmp_path / "closed", 0o700)  # by its maker, who knows why
    fill(tmp_path / "closed")
    assert mode(tmp_path / "closed") == "0o700"


def test_private_outputs_are_their_owners_alone(umask: int, tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "a secret", private=True)
    fill(tmp_path / "out", private=True)
    assert {mode(tmp_path / name) for name in ("a.txt", "out/report.json", "out/model/weights")} == {"0o600"}
    assert {mode(tmp_path / name) for name in ("out", "out/model")} == {"0o700"}
    with new_folder(tmp_path / "during", private=True) as folder:
        assert mode(folder) == "0o700"
        with new_file(folder / "b.txt", private=True) as temporary:
            assert mode(temporary) == "0o600"


def test_a_saved_model_follows_the_umask(umask: int, tmp_path: Path, tiny: Any, tokenizer: Any) -> None:
    (tmp_path / "mine").write_text("x", encoding="utf-8")
    os.chmod(tmp_path / "mine", 0o640)
    save_model(tiny(), tokenizer, tmp_path)
    assert mode(tmp_path / "mine") == "0o640"
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "mine"]
    assert {mode(path) for path in written} == {oct(0o666 & ~umask)}
    assert "model.safetensors" in names(tmp_path)


def test_an_empty_folder_a_link_to_one_and_a_mount_point_are_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "empty") == ["model", "report.json"]
    assert names(tmp_path) == ["empty", "link"]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    place = tmp_path / "mounted"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_an_empty_mount_point_is_filled(mounted: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(mounted, error=KeyboardInterrupt())
    assert names(mounted) == []
    fill(mounted)
    assert names(mounted) == ["model", "report.json"]
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        fill(mounted)
    assert names(mounted.parent) == ["mounted"]


def test_a_bind_mount_is_filled(tmp_path: Path) -> None:
    """The usual output folder of a container; it is on the same device as its parent."""
    place, source = tmp_path / "bound", tmp_path / "source"
    place.mkdir()
    source.mkdir()
    if subprocess.run(["mount", "--bind", str(source), str(place)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        fill(place)
        assert names(source) == ["model", "report.json"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_nothing(mounted: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        fill(mounted / "out", text="x" * 400_000)
    assert names(mounted) == []


def test_a_model_that_does_not_fit_is_an_error_of_the_disk(mounted: Path, tokenizer: Any) -> None:
    """safetensors states it in its own words alone."""
    from transformers import AutoModelForCausalLM

    from unlearn_lib.models import nano

    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 128, 2, 2, 0.0, 0, "")))
    with pytest.raises(OSError, match="No space left"), new_folder(mounted / "out") as folder:
        save_model(model, tokenizer, folder / "model")
    assert names(mounted) == []


@pytest.mark.parametrize("kind", ["dangling", "loop", "file", "full", "to a file", "to a full folder"])
def test_what_cannot_be_written_is_said_before_the_work(kind: str, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    if kind == "dangling":
        out.symlink_to(other)
    elif kind == "loop":
        out.symlink_to(out)
    elif kind == "file":
        out.write_text("x", encoding="utf-8")
    elif kind == "full":
        fill(out)
    else:
        fill(other)
        out.symlink_to(other if kind == "to a full folder" else other / "report.json")
    before = names(tmp_path)
    worked = []
    with pytest.raises(FileExistsError, match=r"is a link to what does not exist|nothing is overwritten"), new_folder(out):
        worked.append(1)
    assert (worked, names(tmp_path)) == ([], before)


@pytest.mark.parametrize("name", ["x" * 300, "file/out", "nul\0"])
def test_impossible_names_are_said_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    worked = []
    with pytest.raises((OSError, ValueError)), new_folder(tmp_path / name):
        worked.append(1)
    assert (worked, names(tmp_path)) == ([], ["file"])


def test_a_name_that_fails_only_when_renamed_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.replace

    def refuses(source: Path, target: Path) -> None:
        if Path(target).name == "out":
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", refuses)
    worked = []
    with pytest.raises(OSError, match="cross-device"), new_folder(tmp_path / "out"):
        worked.append(1)
    assert (worked, names(tmp_path)) == ([], [])


def test_a_finished_folder_is_kept_where_its_place_was_taken_meanwhile(tmp_path: Path) -> None:
    def work() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "model").write_text("precious", encoding="utf-8")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("x", encoding="utf-8")

    with pytest.raises(KeptError, match=r"nothing is lost: it is complete in .*out-kept-") as caught:
        work()
    (kept,) = tmp_path.glob("out-kept-*")
    assert (kept / "model").read_text(encoding="utf-8") == "precious"
    assert str(kept) in str(caught.value)
    assert names(tmp_path / "out") == ["theirs"]
    assert len(names(tmp_path)) == 2


def test_a_finished_folder_is_kept_whole_where_a_part_of_it_could_not_be_moved(mounted: Path) -> None:
    def work() -> None:
        with new_folder(mounted) as folder:
            for name in "abc":
                (folder / name).write_text(name, encoding="utf-8")
            (mounted / "b").touch()

    with pytest.raises(KeptError, match=r"nothing is lost: it is complete in .*mounted-kept-"):
        work()
    (kept,) = mounted.glob("mounted-kept-*")
    assert (names(kept), names(mounted)) == (["a", "b", "c"], ["b", kept.name])


def test_the_second_writer_of_a_folder_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "out", tmp_path / "empty"):
        worked = []
        with new_folder(out) as folder:
            (folder / "a").write_text("first", encoding="utf-8")
            with pytest.raises(FileExistsError, match="another process is writing"), new_folder(out):
                worked.append(1)
            with new_folder(tmp_path / "beside") as beside:  # only this place is taken
                (beside / "a").touch()
        assert worked == []
        assert (out / "a").read_text(encoding="utf-8") == "first"
        (tmp_path / "beside" / "a").unlink()
    assert names(tmp_path) == ["beside", "empty", "out"]


def test_what_a_killed_writer_left_blocks_nobody_and_goes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code = """
        import os, sys, contextlib
        from unlearn_lib.files import new_folder
        with contextlib.ExitStack() as stack:
            for out in sys.argv[1:]:
                (stack.enter_context(new_folder(out)) / "half").write_text("secret", encoding="utf-8")
            os.kill(os.getpid(), 9)
    """
    outs = [tmp_path / "out", tmp_path / "empty"]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), *map(str, outs)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("half"))
    for out in outs:
        fill(out)
        assert names(out) == ["model", "report.json"]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(PREFIX)]


def test_a_parent_that_may_not_be_written_is_said_before_the_work() -> None:
    """Not for root, who may write everywhere, so that the writing is another user's."""
    code = """
        import os, sys
        import filelock
        from unlearn_lib.files import new_folder
        os.chdir(sys.argv[1])
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            with new_folder("out"):
                print("worked")
        except PermissionError:
            print("refused")
        with new_folder("mine") as folder:  # the parent need not be ours where the folder is there and is
            (folder / "a").touch()
        print(os.listdir("mine"))
    """
    with tempfile.TemporaryDirectory() as place:
        mine = Path(place) / "mine"
        mine.mkdir()
        if os.getuid() == 0:
            os.chown(mine, 65534, 65534)
        os.chmod(place, 0o555)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), place], capture_output=True, encoding="utf-8", check=False
        )
        os.chmod(place, 0o755)
    assert done.stdout.splitlines() == ["refused", "['a']"], done.stderr
