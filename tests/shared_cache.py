"""A cache folder that other users write to: every kind of thing in place of each of its files and folders.

python tests/shared_cache.py

No command may hang, fail, follow a link, or delete what belongs to others.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

OTHER_USER = 12345
SECONDS = 30
HUGE = 100 << 30

PLACES = {
    "layout": "features-2",
    "feature set": "features-2/*",
    "description": "features-2/*/space.json",
    "graph": "features-2/*/graph.onnx",
    "segment": "features-2/*/*.segment",
    "temporary file": "features-2/*/.*.tlkit-tmp",
}
"""Globs of what a cache contains."""


def link(path: Path, outside: Path) -> None:
    path.rename(outside / "target")
    path.symlink_to(outside / "target")


def link_to_folder(path: Path, outside: Path) -> None:
    remove(path)
    path.symlink_to(outside)


def broken_link(path: Path, outside: Path) -> None:
    remove(path)
    path.symlink_to(outside / "nothing")


def pipe(path: Path, outside: Path) -> None:
    remove(path)
    os.mkfifo(path)


def folder(path: Path, outside: Path) -> None:
    remove(path)
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def of_another_user(path: Path, outside: Path) -> None:
    for one in [path, *path.rglob("*")]:
        os.chown(one, OTHER_USER, OTHER_USER)


def empty(path: Path, outside: Path) -> None:
    remove(path)
    path.touch()


def sparse(path: Path, outside: Path) -> None:
    remove(path)
    path.touch()
    os.truncate(path, HUGE)


def extended(path: Path, outside: Path) -> None:
    """The content, and then a hole; a folder becomes a file."""
    if path.is_dir():
        remove(path)
        path.touch()
    os.truncate(path, HUGE)


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "link": link,
    "link to a folder": link_to_folder,
    "broken link": broken_link,
    "pipe": pipe,
    "folder": folder,
    "other user": of_another_user,
    "empty": empty,
    "sparse": sparse,
    "extended": extended,
}
"""Each puts something in the place of a path. outside: a folder outside of the cache."""

if os.geteuid() != 0:  # only root can give files away
    del KINDS["other user"]


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def spoil(cache: Path, place: str, kind: str, outside: Path) -> None:
    """Put something of this kind in a place of a cache."""
    outside.mkdir()
    for name in ("0123456789abcdef-1-0.segment", "graph.onnx", "space.json", ".x.1.tlkit-tmp"):
        (outside / name).write_text("of somebody else")
        os.utime(outside / name, (1, 1))
    KINDS[kind](sorted(cache.glob(PLACES[place]))[0], outside)


def contents(root: Path, only_other_users: bool = False) -> dict[str, object]:
    """What there is below a folder: kinds, times, and the content of small files."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) or (only_other_users and status.st_uid != OTHER_USER):
            continue
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20 else status.st_size
        time_of_change = 0 if only_other_users else status.st_mtime_ns  # a read marks features as used
        found[str(path.relative_to(root))] = (stat.S_IFMT(status.st_mode), time_of_change, content)
    return found


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the block once it has taken so long."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def problem_of(cache: Path, outside: Path, command: Callable[[], int]) -> str:
    """What is wrong after a command ran on a spoiled cache; empty if nothing is."""
    before = contents(outside), contents(cache, only_other_users=True)
    try:
        with time_limit(SECONDS):
            status = command()
    except TimeoutError as error:
        return f"it hangs: {error}"
    if status != 0:
        return f"its status is {status}"
    after = contents(outside), contents(cache, only_other_users=True)
    return "" if after == before else f"it changed files of others: {before} became {after}"


def main() -> int:
    """Print a line for each place and kind. Returns 1 if a command did harm."""
    from tests.conftest import finetune_arguments, write_folder
    from tlkit.cli import run

    work = Path(tempfile.mkdtemp(prefix="shared-cache-"))
    images = write_folder(work / "images", 6)
    cache, template, outside = work / "cache", work / "template", work / "outside"
    os.environ["TLKIT_CACHE"] = str(cache)

    def tlkit(*arguments: str) -> int:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return run(list(arguments))

    def finetune(*more: str) -> int:
        shutil.rmtree(work / "run", ignore_errors=True)
        return tlkit(*finetune_arguments(images, work / "run", "--epochs", 1, *more, onnx=True))

    assert finetune() == 0
    for folder in cache.glob("features-2/*"):
        (folder / ".x.1.tlkit-tmp").write_text("left by a killed process")
        os.utime(folder / ".x.1.tlkit-tmp", (1, 1))
    cache.rename(template)
    commands: dict[str, Callable[[], int]] = {
        "finetune": finetune,
        "finetune, cache full": lambda: finetune("--cache-limit", "1KB"),
        "cache": lambda: tlkit("cache"),
        "cache --clear": lambda: tlkit("cache", "--clear"),
        "doctor": lambda: tlkit("doctor"),
    }
    cases = failures = 0
    for place in PLACES:
        for kind in KINDS:
            for name, command in commands.items():
                for left in (cache, outside):
                    shutil.rmtree(left, ignore_errors=True)
                shutil.copytree(template, cache)
                spoil(cache, place, kind, outside)
                started = time.monotonic()
                problem = problem_of(cache, outside, command)
                cases, failures = cases + 1, failures + bool(problem)
                print(
                    f"{place:<15} {kind:<17} {name:<21} {time.monotonic() - started:5.1f} s  {problem or 'ok'}",
                    flush=True,
                )
    shutil.rmtree(work)
    print(f"{cases} cases, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
