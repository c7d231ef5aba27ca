"""Log to TensorBoard: event files in the run folder, a new one each time the run is resumed."""

from __future__ import annotations

import io
import os
import shlex
import time
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from tlkit.monitoring.monitor import Row, RunInfo, RunSummary, scalars
from tlkit.options.finetune import METRIC_NAMES


class TensorBoardSink:
    """Logs scalars by epoch, images at the end, and the options as hyper-parameters.

    tensorboard's own writer works in a thread whose errors cannot be caught, so events are written here directly.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self.notify = notify
        self.written: set[tuple[str, int]] = set()
        self.file: BinaryIO = io.BytesIO()

    def open(self, info: RunInfo) -> int:
        """Read the earlier event files and start the next. Returns the last epoch in them."""
        folder = os.path.join(info.folder, "tensorboard")
        os.makedirs(folder, exist_ok=True)
        files = sorted(entry.path for entry in os.scandir(folder) if "tfevents" in entry.name)
        # A kill may have cut off the last value of a file.
        events = [event for file in files for event in LegacyEventFileLoader(file).Load()]
        self.written = {(value.tag, event.step) for event in events for value in event.summary.value}
        # The name sorts after the others, even if the clock was set back.
        stamps = [int(part) for file in files for part in os.path.basename(file).split(".")[3:4] if part.isdecimal()]
        stamp = max([int(time.time()), *(stamp + 1 for stamp in stamps)])
        self.file = open(os.path.join(folder, f"events.out.tfevents.{stamp:010d}.tlkit"), "xb")  # noqa: SIM115
        self.writer = RecordWriter(self.file)
        self.record(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.log_options(info)
        self.notify(f"tensorboard --logdir {shlex.quote(folder)}")
        return max((step for tag, step in self.written if tag == "val/loss"), default=0)

    def log_options(self, info: RunInfo) -> None:
        """Log options and class names, once."""
        from torch.utils.tensorboard import summary

        options = {name: v if isinstance(v, (bool, int, float)) else str(v) for name, v in info.options.items()}
        metrics = {f"val/{name}": None for name in METRIC_NAMES}
        experiment, start, self.end = summary.hparams(options, metrics)  # type: ignore[no-untyped-call]
        lines = "\n".join(f"    {number}  {name}" for number, name in enumerate(info.classes))
        names = lines.encode("utf-8", "backslashreplace").decode()  # bytes that are not UTF-8 become \udce9
        for part in (experiment, start, summary.text("classes", names)):  # type: ignore[no-untyped-call]
            self.add(part, 0)

    def log(self, row: Row) -> None:
        """Log the numbers of an epoch."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
        self.add(Summary(value=values), int(row["epoch"]))

    def log_summary(self, summary: RunSummary) -> None:
        """Log the images and the end of the run."""
        for title, png in summary.images.items():
            width, height = Image.open(io.BytesIO(png)).size
            image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
            self.add(Summary(value=[Summary.Value(tag=title, image=image)]), summary.epoch)
        self.add(self.end, summary.epoch)

    def add(self, summary: Summary, step: int) -> None:
        """Write the values that are not in an event file yet."""
        new = [value for value in summary.value if (value.tag, step) not in self.written]
        if new:
            self.written.update((value.tag, step) for value in new)
            self.record(Event(wall_time=time.time(), step=step, summary=Summary(value=new)))

    def record(self, event: Event) -> None:
        """Write one event to the file."""
        self.writer.write(event.SerializeToString())
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def abandon(self) -> None:
        """Do nothing: the thread is a daemon and ends with the process."""


def make_sink(notify: Callable[[str], None]) -> TensorBoardSink:
    """Entry point for monitor.SINKS."""
    return TensorBoardSink(notify)
