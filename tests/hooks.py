"""What tests do inside a forked run before its command begins: stop it, starve it, or write down what it does."""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


def chain(hooks: list[list[Any]]) -> None:
    """Several hooks, each a name and what it is about."""
    for name, about in hooks:
        globals()[name](**about)


def interrupt_at_step(step: int, number: int = signal.SIGTERM, where: str = "before") -> None:
    """Get a signal at an optimizer step, counted from 0 over the whole run: before it, or when it is done."""
    from tlkit.training import step as steps

    seed_dropout = steps.seed_dropout

    def seed(seed: int, at: int) -> None:
        if at == step and where == "before":
            os.kill(os.getpid(), number)
        seed_dropout(seed, at)

    steps.seed_dropout = seed


def interrupt_in_validation(time: int, number: int = signal.SIGTERM, where: str = "inside") -> None:
    """Get a signal in the time-th validation, counted from 1: at its first batch, or when it is done."""
    from tlkit.training import loop

    evaluate, count = loop.evaluate, 0

    def evaluating(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == time and where == "inside":
            os.kill(os.getpid(), number)
        result = evaluate(*arguments)
        if count == time and where == "after":
            os.kill(os.getpid(), number)
        return result

    loop.evaluate = evaluating


def count_calls(call: str, since: str, act: Callable[[int], None]) -> None:
    """Call `act` with the number, from 1, of each call of a function of os once the loop, or the model, has begun."""
    from tlkit.runs import train, train_loop

    count, real = 0, getattr(os, call)

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        act(count)
        return real(*arguments, **named)

    module, name = (train, "write_model") if since == "model" else (train_loop.Trainer, "train")
    begin = getattr(module, name)

    def begun(*arguments: Any) -> Any:
        setattr(os, call, counted)
        return begin(*arguments)

    setattr(module, name, begun)


def interrupt_in_commit(time: int, call: str, number: int = signal.SIGKILL, since: str = "checkpoints") -> None:
    """Get a signal before the time-th such call."""

    def act(count: int) -> None:
        if count == time:
            os.kill(os.getpid(), number)

    count_calls(call, since, act)


def fail_in_commit(time: int, call: str, errno: int) -> None:
    """The time-th such call fails, and every one that follows."""

    def act(count: int) -> None:
        if count >= time:
            raise OSError(errno, os.strerror(errno))

    count_calls(call, "checkpoints", act)


def fail_at_step(step: int, error: str) -> None:
    """Raise an error in the middle of an optimizer step."""
    from tlkit.training import step as steps

    kinds: dict[str, Exception] = {
        "MemoryError": MemoryError(),
        "torch": RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        "bug": RuntimeError("shape mismatch"),
    }
    seed_dropout = steps.seed_dropout

    def seed(seed: int, at: int) -> None:
        if at == step:
            raise kinds[error]
        seed_dropout(seed, at)

    steps.seed_dropout = seed


def scarce_memory(most: int, since: int = 0, log: str = "", passing: int = 1 << 30) -> None:
    """From an optimizer step on, a GPU that has memory to train on so many samples at a time. log: the sizes of all
    passes, a line for each step that is tried. passing: for how many images it has memory where nothing trains."""
    from tlkit.features.extractor import FeatureExtractor
    from tlkit.training.step import Stepper

    passed = FeatureExtractor.forward

    def extracting(self: Any, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > passing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return passed(self, batch)

    FeatureExtractor.forward = extracting  # type: ignore[method-assign]

    forward, attempt = Stepper.forward, Stepper.attempt
    sizes: list[int] = []

    def scarcely(self: Any, inputs: torch.Tensor, *about: Any) -> Any:
        sizes.append(len(inputs))
        if len(inputs) > most and self.state.step >= since:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, inputs, *about)

    def attempting(self: Any, *about: Any, **named: Any) -> Any:
        sizes.clear()
        try:
            return attempt(self, *about, **named)
        finally:
            if log:
                with open(log, "a") as stream:
                    stream.write(json.dumps(sizes) + "\n")

    Stepper.forward = scarcely  # type: ignore[method-assign]
    Stepper.attempt = attempting  # type: ignore[method-assign]


def spoil_step(step: int, what: str, value: str = "nan") -> None:
    """Make the loss of a step, or the gradient that comes of it, no number."""
    from tlkit.training import step as steps

    sample_losses, at_step = steps.sample_losses, -1
    seed_dropout = steps.seed_dropout

    def seed(seed: int, at: int) -> None:
        nonlocal at_step
        at_step = at
        seed_dropout(seed, at)

    def spoilt(logits: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        losses = sample_losses(logits, *arguments, **named)
        if at_step != step or not logits.requires_grad:
            return losses
        if what == "gradient":
            losses.register_hook(lambda gradient: gradient * float(value))
            return losses
        return losses * float(value)

    steps.seed_dropout = seed
    steps.sample_losses = spoilt


def spoil_validation(time: int) -> None:
    """Make the loss of the time-th validation, counted from 1, no number."""
    from tlkit.training import loop

    evaluate, count = loop.evaluate, 0

    def evaluating(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        tally = evaluate(*arguments)
        if count == time:
            tally.loss_sum = float("nan")
        return tally

    loop.evaluate = evaluating


def write_down_steps(file: str) -> None:
    """A line for each optimizer step: its number, learning rate, loss, and the samples of its batch."""
    from tlkit.data import batches
    from tlkit.training import accumulator, loop
    from tlkit.training import step as steps

    facts: dict[str, Any] = {}
    learning_rate_at, add, seed_dropout = loop.learning_rate_at, accumulator.MetricAccumulator.add, steps.seed_dropout
    upcoming: list[list[int]] = []

    def rate(step: int, *arguments: Any) -> float:
        facts["rate"] = learning_rate_at(step, *arguments)
        return facts["rate"]

    def seed(seed: int, step: int) -> None:
        facts["step"] = step
        seed_dropout(seed, step)

    def added(self: Any, logits: torch.Tensor, labels: torch.Tensor, loss: float, *world: Any) -> None:
        add(self, logits, labels, loss, *world)
        if "step" in facts:
            row = [facts.pop("step"), facts["rate"].hex(), loss.hex(), upcoming.pop(0)]
            with open(file, "a") as stream:
                stream.write(json.dumps(row) + "\n")

    for kind in (batches.FeatureBatches, batches.ImageBatches):

        def epoch(self: Any, epoch: int, first_step: int = 0, of_kind: Any = kind.epoch) -> Iterator[Any]:
            if self.seed is not None:
                upcoming[:] = [chosen.tolist() for chosen in self.indices(epoch, first_step)]
            yield from of_kind(self, epoch, first_step)

        kind.epoch = epoch  # type: ignore[method-assign]
    loop.learning_rate_at, steps.seed_dropout = rate, seed
    accumulator.MetricAccumulator.add = added  # type: ignore[method-assign]


def count_steps(file: str) -> None:
    """Keep in a file of eight bytes, which outlives any kill, how many optimizer steps the run has done."""
    from tlkit.training import step as steps

    with open(file, "r+b") as stream:
        done = mmap.mmap(stream.fileno(), 8)
    seed_dropout, at = steps.seed_dropout, 0

    def seed(seed: int, step: int) -> None:
        nonlocal at
        at = step
        done[:] = struct.pack("q", step)
        seed_dropout(seed, step)

    def stepped(*arguments: Any) -> None:
        done[:] = struct.pack("q", at + 1)

    steps.seed_dropout = seed
    register_optimizer_step_post_hook(stepped)


def as_user(number: int) -> None:
    """Go on as somebody without the rights of root."""
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)


def limit_file_size(size: int) -> None:
    """No file may grow beyond so many bytes, as on a disk that is full; root is limited too."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def compute_at_step(step: int, started: str, ended: str) -> None:
    """A long computation inside a step, which never returns to Python meanwhile. Files tell when it starts and ends."""
    from tlkit.training import step as steps

    seed_dropout = steps.seed_dropout

    def seed(seed: int, at: int) -> None:
        if at == step:
            matrix = torch.ones(3000, 3000)
            open(started, "w").close()
            torch.linalg.multi_dot([matrix] * 6)
            open(ended, "w").close()
        seed_dropout(seed, at)

    steps.seed_dropout = seed


def forget(names: list[str]) -> None:
    """Environment variables that are not set."""
    for name in names:
        os.environ.pop(name, None)


def interrupt_before_logging(epoch: int, number: int = signal.SIGKILL) -> None:
    """Get a signal when an epoch is committed, and before anything that watches the run is told."""
    from tlkit.monitoring.monitor import Monitor

    log = Monitor.log

    def logging(self: Monitor, rows: list[Any]) -> None:
        if rows and rows[-1]["epoch"] == epoch:
            os.kill(os.getpid(), number)
        log(self, rows)

    Monitor.log = logging  # type: ignore[method-assign]


def interrupt_after_logging(epoch: int, number: int = signal.SIGKILL) -> None:
    """Get a signal when an epoch is committed and TensorBoard has it."""
    from tlkit.monitoring.tensorboard_sink import TensorBoardSink

    log = TensorBoardSink.log

    def logging(self: TensorBoardSink, row: Any) -> None:
        log(self, row)
        if row["epoch"] == epoch:
            os.kill(os.getpid(), number)

    TensorBoardSink.log = logging  # type: ignore[method-assign]


def fail_to_log(epoch: int, error: int) -> None:
    """TensorBoard's file cannot be written from an epoch on."""
    from tlkit.monitoring.tensorboard_sink import TensorBoardSink

    log = TensorBoardSink.log

    def logging(self: TensorBoardSink, row: Any) -> None:
        if row["epoch"] >= epoch:
            raise OSError(error, os.strerror(error))
        log(self, row)

    TensorBoardSink.log = logging  # type: ignore[method-assign]


def commit_and_go_back(times: int) -> None:
    """The log knows epochs that the last checkpoint does not: it is damaged when so many epochs are done."""
    from tlkit.monitoring.monitor import Monitor

    log = Monitor.log

    def logging(self: Monitor, rows: list[Any]) -> None:
        log(self, rows)
        if rows and rows[-1]["epoch"] == times:
            self.close()
            os.kill(os.getpid(), signal.SIGKILL)

    Monitor.log = logging  # type: ignore[method-assign]


def wait_little_for_tools(seconds: float) -> None:
    """A finished run waits so many seconds for its logging tools."""
    from tlkit.monitoring import run_monitor

    run_monitor.CLOSE_TIMEOUT = seconds
