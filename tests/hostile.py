"""Run folders from somebody else: each file of a run folder in each wrong kind, opened by each command.

    python tests/hostile.py [--table]

For every file that a run or search folder can hold, and every KIND, a run that was stopped, a finished one and a search
are changed so and given to every command. Afterwards nothing outside of the folder may be written, deleted or changed;
no command may take over ten seconds (unless it trains what is missing), end with an undocumented status, or print a
traceback. Prints one line for each file, and with --table the table of docs/reliability.md. Exits non-zero if anything
was wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.conftest import BACKBONE, finetune_arguments, write_folder
from tests.forked import Warm, warm_process

MOST_SECONDS = 10.0
SEARCH_SECONDS = 120.0
"""For commands that run the trials of a search whose results are gone, as they should."""
STATUSES = (0, 2, 3, 4, 65, 66, 73, 74, 77, 78)
"""All documented; 1, a bug, is not among them."""

RUN_FILES = (
    "options.json", "split.json", "history.jsonl", "status.json", "about.json", "skipped.jsonl", "validation.jsonl",
    "report.html", "model.pt", "model.onnx", ".lock", "checkpoints", "checkpoints/last.pt", "checkpoints/best.pt",
    "checkpoints/previous.pt", "checkpoints/epoch_0001_loss_0.5000_accuracy_0.5000.pt", "tensorboard",
    "tensorboard/events.out.tfevents.0000000001.tlkit", "wandb", "wandb/id",
)  # fmt: skip
SEARCH_FILES = (
    "search.json", "space.toml", "results.jsonl", "results.csv", "status.json", ".lock", ".ray", "trials",
    "trials/0001", "trials/0001/options.json", "trials/0001/checkpoints", "trials/0001/model.pt",
    "trials/0001/report.html",
)  # fmt: skip


@dataclass(frozen=True)
class Outside:
    """A user's own files, which lie outside of every run folder."""

    folder: Path

    def prepare(self) -> None:
        (self.folder / "folder").mkdir(parents=True)
        (self.folder / "file").write_text('{"private": "text"}\n')
        for name in ("epoch_0001_mine.pt", "epoch_0001_loss_0.1000_accuracy_0.1000.pt", "last.pt", "foo.tlkit-tmp"):
            (self.folder / "folder" / name).write_text(f"my own {name}")
        (self.folder / "folder" / ".last.pt.0123456789abcdef.tlkit-tmp").write_text("mine too")

    def state(self) -> dict[str, tuple[object, ...]]:
        """Path -> kind and mode, time and content of everything there."""
        found: dict[str, tuple[object, ...]] = {}
        for path in (self.folder, *sorted(self.folder.rglob("*"))):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = status.st_mode, status.st_mtime_ns, content
        return found


def link_to_file(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder / "file")


def link_to_folder(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder / "folder")


def link_to_nothing(path: Path, outside: Outside) -> None:
    path.symlink_to(outside.folder / "new")


def hard_link(path: Path, outside: Outside) -> None:
    os.link(outside.folder / "file", path)


def fifo(path: Path, outside: Outside) -> None:
    os.mkfifo(path)


def directory(path: Path, outside: Outside) -> None:
    path.mkdir()


def empty(path: Path, outside: Outside) -> None:
    path.touch()


def sparse(path: Path, outside: Outside) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)


def foreign(path: Path, outside: Outside) -> None:
    path.write_text("of another owner")
    path.chmod(0)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)


KINDS: dict[str, Callable[[Path, Outside], None]] = {
    "link to a file": link_to_file,
    "link to a folder": link_to_folder,
    "link to nothing": link_to_nothing,
    "hard link": hard_link,
    "FIFO": fifo,
    "folder": directory,
    "0 bytes": empty,
    "1 GB of holes": sparse,
    "foreign owner": foreign,
}

Commands = dict[str, Callable[[Path, Path, Path], Sequence[object]]]
"""Name -> arguments, from the run folder, the images and a folder for outputs."""

RUN_COMMANDS: Commands = {
    "resume": lambda run, images, out: ["resume", run, "--epochs", 8],
    "resume --out": lambda run, images, out: ["resume", run, "--out", out / "new", "--epochs", 8],
    "report": lambda run, images, out: ["report", run],
    "evaluate": lambda run, images, out: ["evaluate", run, images],
    "predict": lambda run, images, out: ["predict", run, images / "red"],
    "export": lambda run, images, out: ["export", run, "--format", "safetensors", "--output", out / "x.safetensors"],
    "summary": lambda run, images, out: ["summary", run],
    "finetune": lambda run, images, out: [*finetune_arguments(images, run), "--epochs", 2],
}
SEARCH_COMMANDS: Commands = {
    "tune --resume": lambda run, images, out: ["tune", "--resume", run],
    "resume": lambda run, images, out: ["resume", run],
    "report": lambda run, images, out: ["report", run / "trials" / "0001"],
    "predict": lambda run, images, out: ["predict", run / "trials" / "0001", images / "red"],
}


@dataclass(frozen=True)
class Result:
    """What a command did to a changed folder. problem: empty if it did nothing wrong."""

    file: str
    kind: str
    command: str
    status: int
    seconds: float
    problem: str


def attempts(warm: Warm, good: Path, images: Path, work: Path, commands: Commands, files: Sequence[str],
             kinds: Sequence[str]) -> Iterator[Result]:  # fmt: skip
    """Give each changed copy of a good folder to each command."""
    for file in files:
        for kind in kinds:
            for command, words in commands.items():
                folder = work / "attempt"
                outside, run, out = Outside(folder / "outside"), folder / "run", folder / "out"
                outside.prepare()
                out.mkdir()
                shutil.copytree(good, run, symlinks=True)
                replace(run / file, kind, outside)
                before, began = outside.state(), time.monotonic()
                process = warm.start(words(run, images, out), environment={"WANDB_MODE": "disabled"})
                try:
                    status = process.wait(SEARCH_SECONDS)
                except TimeoutError:
                    process.send(9)
                    status = -9
                seconds = time.monotonic() - began
                err = process.err.read_text(errors="replace")
                most = SEARCH_SECONDS if "Ray" in err else MOST_SECONDS
                problem = what_is_wrong(status, seconds / most, err, before, outside)
                yield Result(file, kind, command, status, seconds, problem)
                shutil.rmtree(folder)


def replace(path: Path, kind: str, outside: Outside) -> None:
    """Put something of this kind into the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    KINDS[kind](path, outside)


def what_is_wrong(status: int, share: float, err: str, before: dict[str, tuple[object, ...]], outside: Outside) -> str:
    """In words; empty for nothing. share: of the time that the command may take. before: state of the outside."""
    after = outside.state()
    changed = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    if changed:
        return f"changed outside: {', '.join(changed)}"
    if share > 1:
        return f"took {share:.1f} times the time it may take"
    if status not in STATUSES or "Traceback" in err:
        return f"exit status {status}: {err.strip().splitlines()[-1:]}"
    return ""


def make_run(warm: Warm, images: Path, run: Path) -> None:
    """A finished run that logs to TensorBoard."""
    words = finetune_arguments(images, run, "--log", "tensorboard")
    assert warm.start([*words, "--epochs", 2]).wait() == 0


def make_search(warm: Warm, images: Path, search: Path) -> None:
    """A finished search of two trials."""
    words = ["tune", images, "--backbone", BACKBONE, "--weights", "none", "--out", search, "--batch-size", 8]
    process = warm.start([*words, "--try", "learning_rate=choice:0.01,0.1", "--epochs", 2])
    assert process.wait(300) == 0, process.err.read_text()


def table(results: Sequence[Result]) -> str:
    """A row for each file, a column for each kind: the exit statuses of all commands, each once."""
    rows = [f"| file | {' | '.join(KINDS)} |", f"|---{'|---' * len(KINDS)}|"]
    for file in dict.fromkeys(result.file for result in results):
        cells = [
            ", ".join(map(str, sorted({r.status for r in results if (r.file, r.kind) == (file, kind)})))
            for kind in KINDS
        ]
        rows.append(f"| `{file}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the exit statuses as a table")
    parser.add_argument("--search", action="store_true", help="search folders instead of run folders")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, warm_process() as warm:
        work = Path(place)
        os.environ["TLKIT_CACHE"] = str(work / "cache")
        images, good = write_folder(work / "images", 10), work / "good"
        (make_search if arguments.search else make_run)(warm, images, good)
        commands, files = (SEARCH_COMMANDS, SEARCH_FILES) if arguments.search else (RUN_COMMANDS, RUN_FILES)
        results: list[Result] = []
        for file in files:
            own = list(attempts(warm, good, images, work, commands, [file], list(KINDS)))
            wrong = [f"{r.kind}, {r.command}: {r.problem}" for r in own if r.problem]
            print(f"{file}: {len(own)} commands; wrong: {'; '.join(wrong) or 'nothing'}", flush=True)
            results += own
    if arguments.table:
        print(table(results))
    longest = max(result.seconds for result in results)
    bad = sum(bool(result.problem) for result in results)
    print(f"{len(results)} commands, {bad} wrong; the longest took {longest:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
