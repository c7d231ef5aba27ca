"""The one way files are committed, and how a run folder is claimed and locked."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from tlkit.errors import DataError, MissingInputError, OutputError, StorageError
from tlkit.files import atomic, new_run
from tlkit.files.atomic import OutputFile, link_atomically, replaced_when_whole, write_atomically
from tlkit.files.new_run import create_run_folder
from tlkit.files.run_folder import RunFolder
from tlkit.files.storage import writing


def test_a_file_appears_whole_and_nothing_is_left_over(tmp_path: Path) -> None:
    write_atomically(str(tmp_path / "a"), lambda file: file.write(b"new"))
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failing_writer_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(str(tmp_path / "a"), fail)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_modes_are_kept_and_links_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_atomically(str(tmp_path / "link"), lambda file: file.write(b"new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640
    umask = os.umask(0o022)
    try:
        write_atomically(str(tmp_path / "fresh"), lambda file: file.write(b""))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o644


def test_a_full_disk_is_told_from_a_place_that_is_not_there(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from tlkit.files.atomic import replaced_when_whole, write_atomically; from tlkit.errors import TlkitError\n"
        "try: write_atomically(sys.argv[1], lambda file: file.write(bytes(5000)))\n"
        "except TlkitError as error: print(error); sys.exit(error.exit_code)"
    )
    (tmp_path / "a").write_bytes(b"old")
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert result.returncode == StorageError.exit_code == 74
    assert "File too large (5,000 bytes needed, " in result.stdout
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(OutputError) as caught:
        write_atomically(str(tmp_path / "no" / "where"), lambda file: None)
    assert caught.value.exit_code == 73


def recorder(calls: list[str], name: str) -> Callable[..., object]:
    real = getattr(os, name)

    def called(*arguments: object, **named: object) -> object:
        calls.append(name)
        return real(*arguments, **named)

    return called


def test_the_order_is_write_sync_rename_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        monkeypatch.setattr(atomic.os, name, recorder(calls, name))
    write_atomically(str(tmp_path / "a"), lambda file: file.write(b"x"))
    assert calls == ["fsync", "replace", "fsync"]


def test_linking_replaces_in_one_step_and_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    for name in ("one", "two", "two"):
        link_atomically(str(tmp_path / name), str(tmp_path / "last"))
        assert (tmp_path / "last").read_text() == name
    assert sorted(os.listdir(tmp_path)) == ["last", "one", "two"]


def test_where_hard_links_are_not_to_be_had_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: str, **where: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(atomic.os, "link", refuse)
    (tmp_path / "one").write_text("one")
    link_atomically(str(tmp_path / "one"), str(tmp_path / "last"))
    assert (tmp_path / "last").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == ["last", "one"]


def test_a_lock_holds_across_processes_and_goes_with_them(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    code = f"from tlkit.files.run_folder import RunFolder\nwith RunFolder({str(tmp_path)!r}).locked(): print('in')"
    with run.locked():
        held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "in use" in held.stderr and held.stdout == ""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "in\n"


def test_who_is_refused_takes_nothing_from_who_holds_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    code = f"from tlkit.files.new_run import create_run_folder\nwith create_run_folder({str(out)!r}, ''): print('in')"
    with create_run_folder(str(out), "unused"):
        for _ in range(2):
            refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert "in use" in refused.stderr and refused.stdout == ""
        assert sorted(os.listdir(out)) == [".lock", "checkpoints"]


def test_a_lock_on_a_file_that_is_gone_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, another process may give up its claim and remove it."""
    run = RunFolder(str(tmp_path))
    real, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        if not removed:
            removed.append(os.unlink(run.lock_file))

    monkeypatch.setattr(fcntl, "flock", flock)
    with run.locked():
        assert removed and os.path.exists(run.lock_file)


def test_a_folder_that_was_claimed_in_vain_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), create_run_folder(str(tmp_path / "a" / "run"), "unused"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "run").exists()
    with create_run_folder(None, str(tmp_path / "runs" / "x")) as run:
        Path(run.options_file).write_text("{}")
    assert sorted(os.listdir(run.path)) == [".lock", "checkpoints", "options.json"]
    with create_run_folder(None, str(tmp_path / "runs" / "x")) as second:
        assert second.path.endswith("x-2")


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.pt.123.tlkit-tmp").touch()
    (tmp_path / "mine.tmp").touch()
    run.remove_leftovers()
    assert sorted(os.listdir(tmp_path)) == ["checkpoints", "mine.tmp"]
    assert os.listdir(tmp_path / "checkpoints") == []


@pytest.mark.parametrize(
    "hidden", [RuntimeError("unexpected pos 64 vs 0"), ValueError("Input/output error (os error 28)")]
)
def test_what_others_hide_is_found_out(hidden: Exception, tmp_path: Path) -> None:
    """torch and safetensors say little of why a write failed."""
    full = OSError(28, "No space left on device")

    def write(file: IO[bytes]) -> None:
        try:
            raise full
        except OSError:
            raise hidden from None

    for commit in (lambda: write_atomically(str(tmp_path / "a"), write), lambda: in_place_of(tmp_path / "a", write)):
        with pytest.raises(StorageError) as caught:
            commit()
        assert caught.value.exit_code == 74 and caught.value.subject == str(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def in_place_of(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    with replaced_when_whole(str(path)) as aside, writing(str(path)), open(aside, "wb") as file:
        write(file)


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    for error in (ValueError("a bug"), DataError("x", "is bad")):

        def write(file: IO[bytes], error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            write_atomically(str(tmp_path / "a"), write)
    assert os.listdir(tmp_path) == []


def test_a_long_name_leaves_room_for_the_one_beside_it(tmp_path: Path) -> None:
    name = "ä" * 127
    write_atomically(str(tmp_path / name), lambda file: file.write(b"x"))
    assert os.listdir(tmp_path) == [name]


def test_folders_change_places_also_where_the_file_system_has_no_step_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(one: str, other: str) -> None:
        raise OSError(22, "Invalid argument")

    for step in (atomic.exchange, refuse):
        monkeypatch.setattr(atomic, "exchange", step)
        shutil.rmtree(tmp_path / "folder", ignore_errors=True)
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "old").touch()
        with replaced_when_whole(str(tmp_path / "folder")) as aside:
            os.mkdir(aside)
            Path(aside, "new").touch()
        assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == ["new"]


def test_a_folder_whose_place_cannot_be_taken_is_back_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system has no step for it."""
    real, folder = os.rename, tmp_path / "folder"

    def exchange(one: str, other: str) -> None:
        raise OSError(22, "Invalid argument")

    def rename(one: str, other: str) -> None:
        if Path(one, "new").exists():
            raise OSError(13, "Permission denied")
        real(one, other)

    monkeypatch.setattr(atomic, "exchange", exchange)
    monkeypatch.setattr(atomic.os, "rename", rename)
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(OutputError), replaced_when_whole(str(folder)) as aside:
        os.mkdir(aside)
        Path(aside, "new").touch()
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(folder) == ["old"]


def test_a_file_and_a_folder_do_not_change_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(OutputError), replaced_when_whole(str(tmp_path / "file")) as aside:
        os.mkdir(aside)
    with pytest.raises(OutputError), replaced_when_whole(str(tmp_path / "folder")) as aside:
        Path(aside).touch()
    assert (tmp_path / "file").read_text() == "mine" and os.listdir(tmp_path / "folder") == ["mine"]
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_what_goes_wrong_beside_the_writing_is_no_failure_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replaced_when_whole(str(tmp_path / "a")):
        raise FileNotFoundError(2, "No such file or directory", "model")
    with pytest.raises(OutputError, match="a: cannot be created"):
        OutputFile(str(tmp_path / "no" / "where"), str(tmp_path / "a"))
    with pytest.raises(OutputError, match="a: cannot be created: File exists"):
        OutputFile("/dev/full", str(tmp_path / "a"))
    full = OutputFile(str(tmp_path / "aside"), str(tmp_path / "a"))
    os.dup2(os.open("/dev/full", os.O_WRONLY), full.fileno())
    os.unlink(tmp_path / "aside")
    with closing(full), pytest.raises(StorageError, match="a: cannot be written: No space left"):
        full.write(b"x")
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="pipe or device"):
            write_atomically(str(tmp_path / name), lambda file: file.write(b"x"))
    assert (tmp_path / "pipe").is_fifo() and sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_lock_that_cannot_be_had_is_not_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="cannot be locked: No locks available"), RunFolder(str(tmp_path)).locked():
        pass


def test_each_new_folder_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(new_run, "sync", synced.append)
    with create_run_folder(str(tmp_path / "a" / "b" / "c"), "unused"):
        assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")} <= set(synced)


def test_a_claim_given_up_leaves_no_checkpoint_either(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), create_run_folder(str(tmp_path), "unused") as run:
        Path(run.last_checkpoint).touch()
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_checkpoints_without_options_are_nobodys_to_write_over(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.pt").write_text("somebody's work")
    with pytest.raises(OutputError, match="contains checkpoints"), create_run_folder(str(tmp_path / "run"), "unused"):
        pass
    assert (tmp_path / "run" / "checkpoints" / "last.pt").read_text() == "somebody's work"


def test_a_claim_given_up_leaves_no_folder_above_it_either(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError), create_run_folder(str(tmp_path / "mine" / "a" / "b"), "unused"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["mine"] and os.listdir(tmp_path / "mine") == []


def test_what_stood_there_goes_only_when_the_new_is_whole(tmp_path: Path) -> None:
    old = tmp_path / "folder"
    old.mkdir()
    (old / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_when_whole(str(old)) as aside:
        os.mkdir(aside)
        raise ZeroDivisionError
    assert (old / "a").read_text() == "old" and os.listdir(tmp_path) == ["folder"]
    with replaced_when_whole(str(old)) as aside:
        os.mkdir(aside)
        Path(aside, "b").write_text("new")
    assert os.listdir(old) == ["b"] and os.listdir(tmp_path) == ["folder"]


def test_files_that_are_not_whole_are_told(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    with pytest.raises(MissingInputError):
        run.read_options()
    for text in ("{", "[]", "{}"):
        Path(run.options_file).write_text(text)
        Path(run.split_file).write_text(text)
        for read in (run.read_options, run.read_split):
            with pytest.raises(DataError, match=r"JSON|incomplete"):
                read()


def test_epochs_are_read_from_names(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch_best.pt").touch()
    for epoch in (10, 2, 12345):
        Path(run.epoch_checkpoint(epoch, 0.12345, "accuracy", 0.5)).touch()
    assert list(run.epoch_checkpoints().values()) == [2, 10, 12345]
    assert (tmp_path / "checkpoints" / "epoch_0002_loss_0.1235_accuracy_0.5000.pt").exists()
