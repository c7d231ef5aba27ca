"""What the programs here share: whole commands timed, weights made, tables printed."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE = Path(__file__).parent.parent / "sample_data"
RIVALS = Path(__file__).parent / "rivals"
TLKIT = [sys.executable, "-m", "tlkit"]
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Finished:
    """A process that ended well. memory: its largest resident set, in bytes."""

    seconds: float
    memory: int
    out: str
    err: str


def run(command: Sequence[object], cache: Path | None = None, stdin: bytes | None = None) -> Finished:
    """Run a whole command, start-up included. cache: the feature store it may use. Raises RuntimeError if it fails."""
    environment = {**os.environ, **({"TLKIT_CACHE": str(cache)} if cache else {})}
    read, write = os.pipe()
    began = time.perf_counter()
    with subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        os.close(write)
        out, err = communicate(process, read, stdin)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{err}")
    return Finished(seconds, usage.ru_maxrss * 1024, out, err)


def communicate(process: subprocess.Popen[bytes], read: int, stdin: bytes | None) -> tuple[str, str]:
    """Both outputs, read at once so that neither fills up, while the input is written."""
    import threading

    texts: dict[str, bytes] = {}
    assert process.stderr is not None
    readers = [
        threading.Thread(target=lambda: texts.update(out=open(read, "rb").read())),  # noqa: SIM115
        threading.Thread(target=lambda: texts.update(err=process.stderr.read())),
    ]
    for reader in readers:
        reader.start()
    if stdin is not None and process.stdin is not None:
        process.stdin.write(stdin)
        process.stdin.close()
    for reader in readers:
        reader.join()
    return texts["out"].decode(errors="replace"), texts["err"].decode(errors="replace")


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side gives in every round; the sides take turns, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            found[name].append(side())
            print(f"round {number + 1}: {name}: {found[name][-1]:.2f}", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], unit: str = "s") -> str:
    """12.3 s (12.1-12.9)"""
    return f"{statistics.median(values):.2f} {unit} ({min(values):.2f}-{max(values):.2f})"


def ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """How many times larger the median is."""
    return statistics.median(values) / statistics.median(reference)


def table(*rows: Sequence[object]) -> None:
    """Print rows as a Markdown table; the first names the columns."""
    head, *rest = [[str(cell) for cell in row] for row in rows]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rest:
        print("| " + " | ".join(row) + " |")


def make_weights(backbone: str, folder: Path) -> Path:
    """Random weights of a timm/ or torchvision/ backbone, the same for all sides."""
    import timm
    import torch
    import torchvision
    from safetensors.torch import save_file

    source, _, name = backbone.partition("/")
    torch.manual_seed(0)
    network = timm.create_model(name) if source == "timm" else torchvision.models.get_model(name)
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return path


def list_images(folder: Path) -> list[Path]:
    """All images below a folder of class folders."""
    from tlkit.data.listing import find_images

    return [Path(path) for path in find_images(str(folder))]


def divide(images: Path, folder: Path) -> Path:
    """A folder with train/ and val/ of links to images of class folders: the division that tlkit makes."""
    from tlkit.data.folder import read_dataset

    dataset = read_dataset(str(images))
    for part, samples in (("train", dataset.train), ("val", dataset.val)):
        for number, sample in enumerate(samples):
            target = folder / part / dataset.classes[sample.label]
            target.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.abspath(sample.path), target / f"{number:06d}{Path(sample.path).suffix}")
    return folder
