"""TensorBoard: event files in the run's folder, one for each time that the run goes on."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from tlkit.monitoring.monitor import About, Row, RunSummary, scalars


class TensorBoardSink:
    """Scalars by epoch; at the end pictures; options as hyper-parameters.

    tensorboard's own writer works in a thread whose errors nobody can catch. Here each event is written, and an error
    met, where it is logged.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.there: set[tuple[str, int]] = set()
        self.file: BinaryIO = io.BytesIO()

    def open(self, about: About) -> int:
        """Read what earlier event files hold, and begin the next."""
        folder = os.path.join(about.folder, "tensorboard")
        os.makedirs(folder, exist_ok=True)
        files = event_files(folder)
        self.there = {place for file in files for place in places(file)}
        self.file = new_event_file(folder, files)
        self.writer = RecordWriter(self.file)
        self.record(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.describe(about)
        self.say(f"tensorboard --logdir {folder}")
        return max((step for tag, step in self.there if tag == "val/loss"), default=0)

    def describe(self, about: About) -> None:
        """Options and class names, once."""
        from torch.utils.tensorboard import summary

        options = {name: v if isinstance(v, (bool, int, float)) else str(v) for name, v in about.options.items()}
        metrics = {f"val/{name}": None for name in ("accuracy", "macro_f1", "loss")}
        experiment, start, self.end = summary.hparams(options, metrics)  # type: ignore[no-untyped-call]
        names = "\n".join(f"    {number}  {name}" for number, name in enumerate(about.classes))
        for part in (experiment, start, summary.text("classes", surely_utf8(names))):  # type: ignore[no-untyped-call]
            self.add(part, 0)

    def log(self, row: Row) -> None:
        """An epoch's numbers."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
        self.add(Summary(value=values), row["epoch"])

    def conclude(self, conclusion: RunSummary) -> None:
        """The pictures, and that the run is done."""
        for title, content in conclusion.pictures.items():
            self.add(Summary(value=[Summary.Value(tag=title, image=picture(content))]), conclusion.epoch)
        self.add(self.end, conclusion.epoch)

    def add(self, summary: Any, step: int) -> None:
        """Write what is not there yet."""
        new = [value for value in summary.value if (value.tag, step) not in self.there]
        if new:
            self.there.update((value.tag, step) for value in new)
            self.record(Event(wall_time=time.time(), step=step, summary=Summary(value=new)))

    def record(self, event: Event) -> None:
        """One event, handed to the system."""
        self.writer.write(event.SerializeToString())
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def abandon(self) -> None:
        """Nothing to let go of: a thread that waits for a disk holds nobody."""


def make_sink(say: Callable[[str], None]) -> TensorBoardSink:
    """What monitoring.SINKS names."""
    return TensorBoardSink(say)


def event_files(folder: str) -> list[str]:
    """The event files of a folder in their order."""
    return sorted(entry.path for entry in os.scandir(folder) if "tfevents" in entry.name)


def new_event_file(folder: str, earlier: list[str]) -> BinaryIO:
    """An event file that comes after the others in the order of names, whatever the clock says."""
    stamps = [int(part) for file in earlier for part in os.path.basename(file).split(".")[3:4] if part.isdecimal()]
    stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
    return open(os.path.join(folder, f"events.out.tfevents.{stamp:010d}.tlkit"), "xb")


def places(file: str) -> Iterator[tuple[str, int]]:
    """Tag and step of all that can be read of an event file; what a kill cut off does not count."""
    for event in LegacyEventFileLoader(file).Load():
        for value in event.summary.value:
            yield value.tag, event.step


def picture(content: bytes) -> Any:
    """A PNG file as TensorBoard keeps it."""
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)


def surely_utf8(text: str) -> str:
    r"""Names that are not UTF-8 with their bytes spelled out, as in \udce9."""
    return text.encode("utf-8", "backslashreplace").decode()
