"""Start Ray on this machine for one search, or connect to a cluster; the resources of each trial."""

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
from collections.abc import Iterator, Mapping
from types import ModuleType

from tlkit.distributed.env import environment, silence
from tlkit.errors import ResourceError, UnavailableError, UsageError, first_line
from tlkit.interruption import HANDLED
from tlkit.options import TuneOptions
from tlkit.options.devices import GPU
from tlkit.options.tune import cores
from tlkit.terminal import count, log_status
from tlkit.tuning import reaper
from tlkit.tuning.driver import Watch

CONNECT_SECONDS = 5.0
"""Seconds to wait for the head node of a cluster."""

LONGEST_TEMP_FOLDER = 16
"""Characters. Ray creates sockets below the temporary folder, and Linux limits their paths to 107 bytes."""

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
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
"""Turn off Ray's telemetry, messages and state files, and keep the working directory of trials."""


def require_ray() -> None:
    """Raises UnavailableError if Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError("ray", "is not installed", "Install it with: pip install 'tlkit[tune]'")


def require_reachable(address: str) -> None:
    """Raises UsageError for a malformed address, UnavailableError if nothing listens there."""
    subject = f"--ray-address {address}"
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 1 << 16) or "/" in host:
        raise UsageError(subject, "is not an address; expected HOST:PORT of the head node, such as 10.0.0.5:6379")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        problem = f"cannot be reached: {error.strerror or 'no reply'}"
        hint = f"Start the head node with: ray start --head --port={port}"
        raise UnavailableError(subject, problem, hint) from error


@contextlib.contextmanager
def ray_session(address: str | None, cpus: int, gpus: int, watch: Watch) -> Iterator[ModuleType]:
    """The module `ray`, connected to the cluster at an address, or to a local one that ends with the block.

    watch: gets the marker of the servers of the local one, and "" at the end of the block.
    Raises ResourceError or UnavailableError if Ray does not start or refuses the connection.
    """
    with environment(RAY_SETTINGS), contextlib.ExitStack() as stack:
        watch(stack.enter_context(local_ray()) if address is None else "")
        import ray

        stack.callback(ray.shutdown)
        stack.callback(watch, "")  # before the servers end, whether they have started or not
        handlers = {number: signal.getsignal(number) for number in HANDLED}
        try:
            with silence():  # Ray's C++ code prints what it also raises
                ray.init(
                    address or "local",
                    num_cpus=cpus if address is None else None,
                    num_gpus=gpus if address is None else None,
                    include_dashboard=False if address is None else None,
                    object_store_memory=100 << 20 if address is None else None,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    configure_logging=True,
                )
        except Exception as error:
            if address is None:
                raise ResourceError("Ray", f"could not be started: {first_line(error)}") from error
            problem = f"refused the connection; the token is wrong or missing ({first_line(error)})"
            hint = (
                "Run tlkit on a machine of the cluster, with the same RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE "
                "in the environment as for `ray start`."
            )
            raise UnavailableError(f"--ray-address {address}", problem, hint) from error
        finally:  # ray.init installs its own signal handlers
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for name in ("ray", "ray.tune", "ray.train", "ray.air"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield ray


@contextlib.contextmanager
def local_ray() -> Iterator[str]:
    """The environment of a Ray of its own on this machine, in a temporary folder. Yields the marker of its processes.

    When the block or this process ends, even by SIGKILL, the reaper kills Ray's processes and removes the folder.
    Connections need a token that is only in the memory of these processes.
    """
    marker = f"{os.getppid()}-{secrets.token_hex(8)}"  # the process of the command, whose child this is
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < LONGEST_TEMP_FOLDER else "/tmp"
    folder = tempfile.mkdtemp(prefix="tlkit-ray-", dir=parent)
    variables = {
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        reaper.MARKER_VARIABLE: marker,
    }
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, marker, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not end the reaper before the search
    )
    try:
        with environment(variables, without=("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")):
            yield marker
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(reaper.KILL_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def with_trial_device(options: TuneOptions, gpu: float) -> TuneOptions:
    """The options with the device and precision that a trial will choose, given its share of a GPU.

    Both are part of the cache key of features, which are computed before the trials. Raises UsageError if this machine
    cannot compute them.
    """
    import torch

    from tlkit.devices.kinds import gpu_is_available
    from tlkit.devices.select import choose_precision

    if gpu == 0 and options.device == GPU:
        raise UsageError(f"--device {GPU}", "does not go with --gpus-per-trial 0")
    device = "cpu" if gpu == 0 else options.device
    is_available = device == "cpu" or gpu_is_available()
    if not is_available and not all(options.trial(point).feeds_images() for point in options.tried.corners()):
        problem = "needs a GPU on this machine too, to compute the features of all trials"
        raise UsageError(f"--gpus-per-trial {gpu:g}", problem, "Use a machine with a GPU, or --gpus-per-trial 0.")
    changes = {"device": device}
    if is_available and "precision" not in options.tried.dimensions:
        changes["precision"] = choose_precision(options.precision, torch.device("cpu" if device == "cpu" else GPU))
    return options.changed(changes)


def usable_gpus(options: TuneOptions) -> int:
    """The GPUs of this machine that trials may use. Raises UsageError if a trial needs more."""
    from tlkit.devices.kinds import gpu_count

    found = 0 if options.device == "cpu" or options.gpus_per_trial == 0 else gpu_count()
    if options.cluster is None and (options.gpus_per_trial or 0) > found:
        problem = f"is more than the {count(found, 'GPU')} of this machine"
        raise UsageError(f"--gpus-per-trial {options.gpus_per_trial:g}", problem)
    return found


def gpu_share(options: TuneOptions, gpus: int, cpus: int) -> float:
    """GPUs per trial: --gpus-per-trial, or this machine's GPUs divided by the trials that its CPU cores can run."""
    if options.gpus_per_trial is not None:
        return options.gpus_per_trial
    return min(1.0, gpus / max(cores() // cpus, 1)) if options.cluster is None else float(gpus > 0)


def require_resources(ray: ModuleType, resources: Mapping[str, float], cluster: str | None) -> None:
    """Log the size of the cluster. Raises UsageError unless one of its machines has the resources of a trial."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in ("cpu", "gpu"):
        most = max((node.get(name.upper(), 0.0) for node in nodes), default=0.0)
        if resources[name] > most:
            problem = f"is more than any machine of the cluster has; the largest has {most:g}"
            raise UsageError(f"--{name}s-per-trial {resources[name]:g}", problem)
    machines = "this machine" if cluster is None else f"{count(len(nodes), 'node')} of {cluster}"
    log_status("Ray", f"{count(int(sum(node.get('CPU', 0) for node in nodes)), 'core')} of {machines}")
