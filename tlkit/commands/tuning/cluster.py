"""Ray for the time of a search: started on this machine, or found on a cluster; quiet, and gone afterwards."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from tlkit.commands.tuning import keeper
from tlkit.commands.variables import environment
from tlkit.errors import ResourceError, UnavailableError, UsageError, first_line
from tlkit.interruption import HANDLED
from tlkit.terminal import STANDARD_ERROR

REACHED_WITHIN = 5.0
"""Seconds for a cluster's head node to answer."""

LONGEST_SOCKET_FOLDER = 40
"""Ray makes sockets below its temporary folder, whose names the system limits to 107 bytes."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "3600",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
}
"""Nobody is told of the search but its user, no state of Ray's is kept, and trials work in our folders."""


def require_ray() -> None:
    """Raises UnavailableError."""
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError("tlkit tune", "needs ray, which is not installed; get it by: pip install 'tlkit[tune]'")


def require_answer(address: str) -> None:
    """Raises UsageError for what is no address, UnavailableError for one where nobody answers."""
    subject = f"--ray-address {address}"
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 1 << 16) or "/" in host:
        raise UsageError(subject, "is no address; expected HOST:PORT of the head node, as in 10.0.0.5:6379")
    try:
        socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()
    except OSError as error:
        reason = error.strerror or "no answer"
        raise UnavailableError(subject, f"cannot be reached: {reason}", "Is it the head node's, and up?") from error


@contextlib.contextmanager
def connected(address: str | None, cpus: int, gpus: int) -> Iterator[Any]:
    """Ray, connected: to the cluster at an address, or to one of this machine alone, which ends with the block."""
    with environment(QUIET), contextlib.ExitStack() as stack:
        if address is None:
            how: dict[str, Any] = stack.enter_context(own_cluster(cpus, gpus))
        else:
            how = {"address": address}
        import ray

        stack.callback(ray.shutdown)
        handlers = {number: signal.getsignal(number) for number in HANDLED}
        try:
            with silent_libraries():
                ray.init(log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=True, **how)
        except Exception as error:
            raise not_connected(address, error) from error
        finally:  # it puts its own in their places
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for name in ("ray", "ray.tune", "ray.train", "ray.air"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield ray


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Inside, nothing reaches standard error: Ray's own C++ repeats there what it raises in the end."""
    kept = os.dup(STANDARD_ERROR)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STANDARD_ERROR)
        yield
    finally:
        os.dup2(kept, STANDARD_ERROR)
        os.close(kept)
        os.close(nowhere)


def not_connected(address: str | None, error: Exception) -> Exception:
    """Why Ray cannot be had, for people."""
    if address is None:
        return ResourceError("Ray", f"cannot be started: {first_line(error)}")
    problem = f"answers, but lets nobody in with this token, or without one ({first_line(error)})"
    hint = (
        "Give the command on a machine of the cluster, with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE set as "
        "they were for `ray start`."
    )
    return UnavailableError(f"--ray-address {address}", problem, hint)


@contextlib.contextmanager
def own_cluster(cpus: int, gpus: int) -> Iterator[dict[str, Any]]:
    """What starts Ray on this machine, in a folder of its own; when the block ends all of it is gone, by whatever
    this process ends.

    It answers to a secret that lives in the memory of its processes alone.
    """
    marker = f"{os.getpid()}-{secrets.token_hex(8)}"
    room = tempfile.gettempdir() if len(tempfile.gettempdir()) < LONGEST_SOCKET_FOLDER - 20 else "/tmp"
    folder = tempfile.mkdtemp(prefix="tlkit-ray-", dir=room)
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), keeper.VARIABLE: marker}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", keeper.__file__, marker, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the search, which then ends
    )
    try:
        with environment(secret, without=("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")):
            yield {
                "address": "local",
                "num_cpus": cpus,
                "num_gpus": gpus,
                "include_dashboard": False,
                "object_store_memory": 100 << 20,
                "_temp_dir": folder,
            }
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(keeper.LONGEST)
        shutil.rmtree(folder, ignore_errors=True)
