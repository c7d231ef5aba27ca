"""Mutated files, opened as commands open them: each must be refused with a tlkit error, or open as what it declares.

    python tests/fuzz.py [--cases 10000] [--seed 0] [--workers 2] [TARGET ...]

A case is a function of its number and the seed, so what is found can be repeated: --only NUMBER. Anything but a
TlkitError is a crash, more than ten seconds a hang, and much memory is a bomb.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a checkpoint may ask for published weights, and a network is waited for
sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.artifacts import KINDS, as_checkpoint, as_labeller, as_model, as_segment, as_weights, write_all
from tests.memory import resident
from tests.mutations import (
    Mutate,
    mutate_artifact,
    mutate_bytes,
    mutate_json,
    mutate_members,
    mutate_onnx,
    mutate_safetensors,
    mutate_segment,
)
from tlkit.errors import TlkitError

PATIENCE = 10
"""Seconds for one case."""

GROWTH = 500_000_000
"""Bytes by which a worker may grow in all."""


@dataclass(frozen=True)
class Target:
    """Files of one kind. seeds: whole ones. open_file: given a path. mutations: of which each case takes one."""

    seeds: Sequence[bytes]
    name: str
    open_file: Callable[[str], object]
    mutations: Sequence[Mutate]


# Openers.


def read_run(path: str) -> None:
    """Read a run folder's JSON files as resume, predict and evaluate do."""
    from tlkit.data.folder import Dataset
    from tlkit.files.run_folder import RunFolder
    from tlkit.model.build import stored_options

    run = RunFolder(os.path.dirname(path))
    stored = run.read_options()
    for part in ("given", "resolved"):
        options = stored_options(run.options_file, stored[part])
        options.validation()
        options.planned_epochs()
    Dataset.from_split(run.read_split(), options.data).to_split()


def resume_from(path: str) -> None:
    """Stand where a checkpoint stood, as resume does."""
    import torch

    from tlkit.files.artifact import as_content_of
    from tlkit.model.build import assemble, require_same_backbone, stored_options
    from tlkit.options import FinetuneOptions
    from tlkit.training.optimizer import build_optimizer
    from tlkit.training.state import TrainingState

    checkpoint = as_checkpoint(path)
    options = stored_options(path, checkpoint.options)
    classifier, description = assemble(options, ("blue", "green", "red"))
    require_same_backbone(description, checkpoint.content, path)
    state = TrainingState(classifier, build_optimizer(classifier.head, classifier.backbone, FinetuneOptions(data="")))
    with as_content_of(path, "checkpoint"), torch.no_grad():
        state.load(checkpoint.to_dict())
        state.where()


def every_way(path: str) -> None:
    """As predict, resume and finetune --weights do; refused if any of them refuses it."""
    refused = None
    for open_file in (as_weights, as_model, as_checkpoint):
        try:
            open_file(path)
        except TlkitError as error:
            refused = error
    if refused is not None:
        raise refused


def targets(folder: Path) -> dict[str, Target]:
    """The table."""

    def seed(kind: str) -> list[bytes]:
        return [KINDS[kind].file(folder).read_bytes()]

    sealed = (mutate_bytes, mutate_artifact, mutate_artifact, mutate_members)
    run = folder / "run"
    return {
        "checkpoint": Target(seed("checkpoint"), "ckpt.pt", every_way, sealed),
        "resume": Target(seed("checkpoint"), "ckpt.pt", resume_from, sealed),
        "model.pt": Target(seed("model.pt"), "model.pt", as_model, sealed),
        "state_dict": Target(seed("state_dict"), "weights.pth", as_weights, sealed),
        "safetensors": Target(seed("safetensors"), "m.safetensors", as_model, (mutate_bytes, mutate_safetensors)),
        "onnx": Target(seed("onnx"), "model.onnx", as_labeller, (mutate_bytes, mutate_onnx)),
        "torch_export": Target(
            seed("torch_export"), "model.pt2", as_model, (mutate_bytes, mutate_members, mutate_members)
        ),
        "segment": Target(seed("segment"), "a.segment", as_segment, (mutate_bytes, mutate_segment)),
        "options.json": Target([(run / "options.json").read_bytes()], "run/options.json", read_run, (mutate_json,)),
        "split.json": Target([(run / "split.json").read_bytes()], "run/split.json", read_run, (mutate_json,)),
    }


@dataclass(frozen=True)
class Case:
    """The outcome of one case: "opened", "refused, STATUS", or the problem."""

    number: int
    outcome: str
    detail: str = ""


def run_case(label: str, target: Target, number: int, seed: int, folder: Path) -> Case:
    """Mutate, write, open."""
    chance = random.Random(f"{label} {seed} {number}")
    path = folder / target.name
    try:
        content = chance.choice(target.mutations)(chance.choice(target.seeds), chance)
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, OverflowError, MemoryError):
        return Case(number, "not made")  # torch would not write that
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    signal.alarm(PATIENCE)
    try:
        target.open_file(str(path))
        return Case(number, "opened")
    except TlkitError as error:
        return Case(number, f"refused, {error.exit_code}")
    except Hang:
        return Case(number, "HANG", traceback.format_exc())
    except Exception as error:
        return Case(number, "CRASH", f"{type(error).__name__}: {error}\n{traceback.format_exc()}"[:4000])
    finally:
        signal.alarm(0)


class Hang(BaseException):
    """Raised by the alarm."""


def raise_hang(number: int, frame: object) -> None:
    raise Hang


def work(label: str, target: Target, numbers: range, seed: int, scratch: Path, pipe: int) -> None:
    """Run the cases of one worker; reports when each begins and ends."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, raise_hang)
    before = resident("VmRSS")
    for number in numbers:
        os.write(pipe, json.dumps([number, "begun", ""]).encode() + b"\n")
        case = run_case(label, target, number, seed, scratch)
        if resident("VmHWM") - before > GROWTH:
            before = resident("VmHWM")
            case = Case(number, "BOMB", f"grown by more than {GROWTH:,} bytes; {case.outcome}")
        os.write(pipe, json.dumps([number, case.outcome, case.detail]).encode() + b"\n")


@dataclass
class Worker:
    """A forked process. cases: those it is to run, in order. begun: the one it is at, and since when."""

    process: int
    pipe: int
    cases: range
    folder: Path
    unread: bytes = b""
    begun: int | None = None
    since: float = 0.0

    def read(self) -> list[Case]:
        """The cases that have ended since the last time. Raises EOFError when no more will come."""
        content = os.read(self.pipe, 1 << 16)
        if not content:
            raise EOFError
        *lines, self.unread = (self.unread + content).split(b"\n")
        ended = []
        for line in lines:
            number, outcome, detail = json.loads(line)
            self.begun, self.since = (number, time.monotonic()) if outcome == "begun" else (None, 0.0)
            ended += [Case(number, outcome, detail)] if outcome != "begun" else []
        return ended

    def is_stuck(self) -> bool:
        """Whether a case takes so long that not even the alarm has ended it: no line of Python comes to be run."""
        return self.begun is not None and time.monotonic() - self.since > 2 * PATIENCE


def fuzz(
    label: str, target: Target, numbers: range, seed: int, workers: int, scratch: Path, seeds: Path
) -> tuple[Counter[str], list[Case]]:
    """Run cases in forked workers; one that dies is a crash of the case it was at, and another takes its place."""
    found: Counter[str] = Counter()
    wrong: list[Case] = []

    def count(case: Case) -> None:
        found[case.outcome] += 1
        if case.outcome.isupper():
            wrong.append(case)

    shares = [numbers[place::workers] for place in range(workers)]
    folders = [scratch / f"{label}-{place}" for place in range(workers)]
    running = [start(label, target, *pair, seed, seeds) for pair in zip(shares, folders, strict=True)]
    while running:
        ready, _, _ = select.select([worker.pipe for worker in running], [], [], 1.0)
        for worker in list(running):
            if worker.pipe not in ready:
                if worker.is_stuck():
                    os.kill(worker.process, signal.SIGKILL)
                continue
            try:
                for case in worker.read():
                    count(case)
            except EOFError:
                running.remove(worker)
                os.close(worker.pipe)
                _, status = os.waitpid(worker.process, 0)
                if worker.begun is not None:
                    count(Case(worker.begun, "DIED", f"the process ended by {status}"))
                    left = worker.cases[worker.cases.index(worker.begun) + 1 :]
                    running.append(start(label, target, left, worker.folder, seed, seeds))
    return found, wrong


def start(label: str, target: Target, cases: range, folder: Path, seed: int, seeds: Path) -> Worker:
    """Fork a worker."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    for part in ("options.json", "split.json"):
        (folder / "run" / part).write_bytes((seeds / part).read_bytes())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            work(label, target, cases, seed, folder, writer)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    return Worker(child, reader, cases, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int)
    parser.add_argument("targets", nargs="*")
    chosen = parser.parse_args(arguments)
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    failed = 0
    with tempfile.TemporaryDirectory(dir=shm) as name:
        folder = Path(name)
        write_all(folder)
        as_model(str(folder / "run"))  # all that is imported on the way, once
        numbers = range(chosen.cases) if chosen.only is None else range(chosen.only, chosen.only + 1)
        for label, target in targets(folder).items():
            if chosen.targets and label not in chosen.targets:
                continue
            began = time.monotonic()
            found, wrong = fuzz(label, target, numbers, chosen.seed, chosen.workers, folder, folder / "run")
            failed += len(wrong)
            counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()))
            print(f"{label:<14} {len(numbers)} cases in {time.monotonic() - began:.0f} s: {counts}", flush=True)
            for case in wrong[:5]:
                print(f"  case {case.number}: {case.outcome} {case.detail}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
