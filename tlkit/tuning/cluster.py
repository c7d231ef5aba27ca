"""Ray for the time of a search: started on this machine, or found on a cluster; quiet, and gone afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
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

from tlkit.distributed.env import environment
from tlkit.errors import ResourceError, UnavailableError, UsageError, first_line
from tlkit.interruption import HANDLED
from tlkit.options import TuneOptions
from tlkit.options.tune import cores
from tlkit.terminal import STANDARD_ERROR, count
from tlkit.tuning import reaper

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
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), reaper.VARIABLE: marker}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, marker, folder],
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
            process.wait(reaper.LONGEST)
        shutil.rmtree(folder, ignore_errors=True)


def as_in_trials(options: TuneOptions, gpu: float) -> TuneOptions:
    """The options with the device and precision of the trials, which each would choose by what it gets: so vectors are
    computed beforehand as they will be looked up.

    Raises UsageError if they cannot be computed here.
    """
    import torch

    from tlkit.devices.select import choose_precision

    if gpu == 0 and options.device == "cuda":
        raise UsageError("--device cuda", "is not what a trial gets by --gpus-per-trial 0")
    device = "cpu" if gpu == 0 else options.device
    is_here = device == "cpu" or torch.cuda.is_available()
    if not is_here and not all(options.trial(point).feeds_images() for point in options.tried.corners()):
        problem = "needs a GPU on this machine too, as it computes the features for all"
        raise UsageError(f"--gpus-per-trial {gpu:g}", problem, "Use a machine that has one, or --gpus-per-trial 0.")
    changes = {"device": device}
    if is_here and "precision" not in options.tried.dimensions:
        changes["precision"] = choose_precision(options.precision, torch.device("cpu" if device == "cpu" else "cuda"))
    return dataclasses.replace(options, **changes)  # type: ignore[arg-type]


def choose_gpus(options: TuneOptions) -> int:
    """The GPUs that trials may use here. Raises UsageError for a share of what is not here."""
    import torch

    found = 0 if options.device == "cpu" or options.gpus_per_trial == 0 else torch.cuda.device_count()
    if options.cluster is None and (options.gpus_per_trial or 0) > found:
        raise UsageError(
            f"--gpus-per-trial {options.gpus_per_trial:g}", f"is more than the {found} GPUs that there are"
        )
    return found


def gpu_share(options: TuneOptions, gpus: int, cpus: int) -> float:
    """What of a GPU each trial takes: what was asked for, or an equal share of those here."""
    if options.gpus_per_trial is not None:
        return options.gpus_per_trial
    return min(1.0, gpus / max(cores() // cpus, 1)) if options.cluster is None else float(gpus > 0)


def require_resources(ray: Any, options: TuneOptions, resources: dict[str, float]) -> None:
    """Raises UsageError unless some machine of a cluster has what a trial asks for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, flag, ray_name in (("cpu", "--cpus-per-trial", "CPU"), ("gpu", "--gpus-per-trial", "GPU")):
        most = max((node.get(ray_name, 0.0) for node in nodes), default=0.0)
        if resources[name] > most:
            raise UsageError(f"{flag} {resources[name]:g}", f"is more than any machine of the cluster has, {most:g}")


def where(ray: Any, options: TuneOptions) -> str:
    """What the trials run on, for people."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = int(sum(node["Resources"].get("CPU", 0) for node in nodes))
    place = "this machine" if options.cluster is None else f"{count(len(nodes), 'node')} of {options.cluster}"
    return f"{count(total, 'core')} of {place}"
