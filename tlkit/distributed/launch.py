"""Run a command in several ranks on this machine with torch's elastic agent; report failures as one process would."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from tlkit.distributed.env import LAUNCHER, LAUNCHER_PROCESS, environment, rank_info
from tlkit.distributed.failures import read_note
from tlkit.errors import DONE, ResourceError, TlkitError, UnavailableError, escape_name
from tlkit.files.json_file import read_whole_json
from tlkit.files.python_path import python_arguments
from tlkit.files.run_folder import RunFolder
from tlkit.interruption import HANDLED, Interrupted
from tlkit.options import RankOptions
from tlkit.options.declare import Options
from tlkit.options.devices import GPU
from tlkit.terminal import count, log_status, output_for_processes, print_error

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def require_gpu_each(device: str, ranks: int) -> None:
    """Raises UnavailableError if ranks that compute on GPUs outnumber the GPUs."""
    import torch

    gpus = torch.get_device_module(GPU).device_count()
    if ranks > gpus and (device.startswith(GPU) or (device == "auto" and gpus)):
        problem = f"{ranks} need a GPU each, but this machine has {count(gpus, 'GPU')}"
        raise UnavailableError("processes", problem, f"Start at most {gpus}, or use --device cpu.")


def is_for_ranks(processes: int) -> bool:
    """Whether this process has to launch the ranks of a command, instead of being one."""
    return processes > 1 and rank_info() is None


def launch(command: str, options: RankOptions, device: str, processes: int, max_restarts: int = 0) -> int:
    """Run a command in several ranks. Returns its exit status; raises Interrupted after a signal, sent to all ranks.

    Raises ResourceError if a rank was killed, UnavailableError if ranks outnumber GPUs.
    """
    assert isinstance(options, Options)
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import LaunchConfig, elastic_launch  # type: ignore[attr-defined]

    require_gpu_each(device, processes)
    if not options.debug:
        logging.disable(logging.CRITICAL)  # report_failure prints what matters of it
    log_status("launch", f"{count(processes, 'process', 'processes')} on this machine")
    # Ignored signals stay ignored, as nohup needs.
    wanted = [number.name for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    with tempfile.TemporaryDirectory(prefix="tlkit-ranks-") as folder, environment(for_ranks(folder, processes)):
        config = LaunchConfig(
            1,
            1,
            processes,
            run_id="tlkit",
            # A file, because any process that reaches this machine could connect to a port.
            rdzv_backend="c10d",
            rdzv_endpoint=os.path.join(folder, "rendezvous"),
            rdzv_configs={"store_type": "file"},
            local_addr="127.0.0.1",
            max_restarts=max_restarts,
            signals_to_handle=",".join(wanted),
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
        return read_note("status", int, folder) or DONE


def for_ranks(folder: str, processes: int) -> dict[str, str]:
    """Environment variables for ranks on one machine. Values set by the user are kept."""
    cores = len(os.sched_getaffinity(0))
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        "GLOO_SOCKET_IFNAME": "lo",  # no traffic leaves the machine, whose host name need not resolve
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    own = {LAUNCHER: folder, LAUNCHER_PROCESS: str(os.getpid()), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**{name: value for name, value in defaults.items() if name not in os.environ}, **own}


def report_failure(folder: str, failures: Mapping[int, ProcessFailure]) -> int:
    """Print the error of the rank that caused the failure. Returns its exit status.

    Raises ResourceError if that rank left no error.
    """
    rank, failure = min(failures.items(), key=lambda item: failure_priority(item[1]))
    lines, status = reported_error(failure)
    settled = read_note("settled", dict, folder)
    if settled and not lines:
        lines, status = settled["lines"], int(settled["status"])
    if lines:
        print_error(*map(escape_name, lines))
        return status
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"exited with {failure.exitcode}"
    hint = "The kernel kills processes when memory runs out: use fewer --processes."
    run = read_note("run", str, folder)
    if run is not None:
        record_failure(RunFolder(run), rank, f"rank {rank} {how}")
        hint = f"{hint}\nResume with: tlkit resume {shlex.quote(run)}"
    raise ResourceError(f"rank {rank}", how, hint)


def failure_priority(failure: ProcessFailure) -> tuple[int, float]:
    """Sort key of failures: errors that a rank reported, then kills, then consequences; each by time."""
    lines, status = reported_error(failure)
    if lines and status != TlkitError.exit_code:
        return 0, failure.error_file_data.get("time", 0.0)
    if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
        return 1, failure.timestamp
    return (2 if lines else 3), failure.timestamp


def reported_error(failure: ProcessFailure) -> tuple[list[str], int]:
    """The error lines in a rank's error file and their exit status; no lines if it left none."""
    message = failure.error_file_data.get("message")
    if isinstance(message, dict) and "errorCode" in message:
        return str(message["message"]).splitlines(), int(message["errorCode"])
    return [], failure.exitcode


def record_failure(run: RunFolder, rank: int, error: str) -> None:
    """Write a rank's failure into status.json, since the rank could not; skipped if that cannot be written."""
    with suppress(TlkitError), run.locked():
        status = read_whole_json(run.status_file, "state")
        if status["state"] != "finished":
            where = {name: status[name] for name in ("epoch", "step", "best") if name in status}
            run.write_status("failed", exit_code=ResourceError.exit_code, error=error, rank=rank, **where)
