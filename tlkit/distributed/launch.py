"""A command run by several ranks on this machine: started and watched by torch's elastic agent, as torchrun does it,
with the outcome told as that of one process."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tlkit.distributed.env import LAUNCHER, environment, rank_info
from tlkit.distributed.failures import read_note
from tlkit.errors import DONE, ResourceError, TlkitError, UnavailableError, escape_name
from tlkit.files.json_file import read_whole_json
from tlkit.files.python_path import python_arguments
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import HANDLED, Interrupted
from tlkit.options import RankOptions
from tlkit.options.declare import Options
from tlkit.terminal import count, log_status, output_for_processes, print_error

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def require_gpu_each(name: str, ranks: int) -> None:
    """Raises UnavailableError if ranks that work on GPUs are more than there are."""
    import torch

    gpus = torch.cuda.device_count()
    if ranks > gpus and (name.startswith("cuda") or (name == "auto" and gpus)):
        problem = f"{ranks} of them need a GPU each, but this machine shows {gpus} CUDA devices"
        raise UnavailableError("ranks", problem, "Start fewer, or compute on the processor: --device cpu")


def is_for_ranks(processes: int) -> bool:
    """Whether a command is to be run by ranks that are still to be started."""
    return processes > 1 and rank_info() is None


def launch(command: str, options: RankOptions, device: str, processes: int, max_restarts: int = 0) -> int:
    """Run a command by so many ranks. Returns its exit status; raises Interrupted by a signal, which all of them got.

    Raises ResourceError for a rank that was killed, UnavailableError for more ranks than GPUs.
    """
    assert isinstance(options, Options)
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    require_gpu_each(device, processes)
    if not options.debug:
        logging.disable(logging.CRITICAL)  # what the agent logs, this module tells
    log_status("ranks", f"{count(processes, 'process', 'processes')} on this machine")
    with tempfile.TemporaryDirectory(prefix="tlkit-ranks-") as folder, environment(for_ranks(folder, processes)):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="tlkit",
            # By a file: torch's rendezvous over a port would take words from anyone who reaches this machine.
            rdzv_backend="c10d",
            rdzv_endpoint=os.path.join(folder, "rendezvous"),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=max_restarts,
            signals_to_handle=",".join(wanted_signals()),
            logs_specs=DefaultLogsSpecs(log_dir=os.path.join(folder, "logs")),
        )
        words = [command, *options.command_line()]
        try:
            with output_for_processes():
                elastic_launch(config, sys.executable)(*python_arguments("from tlkit.cli import main; main()", *words))
        except SignalException as stop:
            raise Interrupted(int(stop.sigval)) from stop
        except ChildFailedError as error:
            return report_failure(folder, error.failures)
        status = read_note("status", folder)
        return status if isinstance(status, int) else DONE


def wanted_signals() -> list[str]:
    """Those that end a command. What is ignored stays ignored: nohup counts on it."""
    return [number.name for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]


def for_ranks(folder: str, processes: int) -> dict[str, str]:
    """The environment of ranks on one machine. What a user has set stays."""
    cores = len(os.sched_getaffinity(0))
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        "GLOO_SOCKET_IFNAME": "lo",  # no word leaves this machine, and its name need not resolve
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    own = {LAUNCHER: folder, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**{name: value for name, value in wanted.items() if name not in os.environ}, **own}


def report_failure(folder: str, failures: Mapping[int, ProcessFailure]) -> int:
    """Say once why the ranks failed, as the one whose fault it was would have. Returns the exit status.

    Raises ResourceError where a rank could not say it.
    """
    rank, failure = min(failures.items(), key=lambda item: failure_priority(item[1]))
    lines, status = reported_error(failure)
    if lines:
        print_error(*map(escape_name, lines))
        return status
    settled = read_note("settled", folder)
    if isinstance(settled, dict):
        print_error(*map(escape_name, settled["lines"]))
        return int(settled["status"])
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
    hint = "The kernel kills processes when memory runs out: fewer --processes take less."
    run = read_note("run", folder)
    if isinstance(run, str):
        record_failure(RunFolder(run), rank, f"rank {rank} {how}")
        hint = f"{hint}\nGo on with: tlkit resume {run}"
    raise ResourceError(f"rank {rank}", how, hint)


def failure_priority(failure: ProcessFailure) -> tuple[int, float]:
    """Orders failures: first what a rank said of itself, then what was done to one, then what followed from it."""
    told, status = reported_error(failure)
    if told and status != TlkitError.exit_code:
        return 0, failure.error_file_data.get("time", 0.0)
    if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
        return 1, failure.timestamp
    return (2 if told else 3), failure.timestamp


def reported_error(failure: ProcessFailure) -> tuple[list[str], int]:
    """The lines that a rank left of its error, and its status; none if it could not, or had none of its own.

    Whatever ended the process after that, it is of no account.
    """
    message: Any = failure.error_file_data.get("message")
    if isinstance(message, dict) and "errorCode" in message:
        return str(message["message"]).splitlines(), int(message["errorCode"])
    return [], failure.exitcode


def record_failure(run: RunFolder, rank: int, error: str) -> None:
    """Write into status.json how a run ended that could not do it itself, if that can be written."""
    with suppress(TlkitError), run.locked():
        status = read_whole_json(run.status_file, "state")
        if status["state"] != "finished":
            where = {name: status[name] for name in ("epoch", "step", "best") if name in status}
            run.write_status("failed", exit_code=ResourceError.exit_code, error=error, rank=rank, **where)
