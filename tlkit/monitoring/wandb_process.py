"""Process that logs to Weights & Biases. wandb_sink.py starts it; it imports nothing of tlkit.

Requests come on standard input and replies go to standard output, one JSON object per line; null ends the run. When
standard input ends, tlkit has ended, and this process and W&B's own are killed. An offline W&B run cannot be resumed,
so each offline session logs all epochs again and replaces the session before it.
"""

from __future__ import annotations

import base64
import glob
import io
import json
import os
import queue
import shlex
import shutil
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 20.0

UPLOAD_SECONDS = 45.0


def main() -> None:
    """Serve requests until one ends the run."""
    requests = queue.SimpleQueue[Any]()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    with os.fdopen(os.dup(1), "w", encoding="ascii") as output:
        os.dup2(2, 1)  # wandb prints to standard output

        def reply(**fields: object) -> None:
            output.write(json.dumps(fields) + "\n")
            output.flush()

        try:
            info = requests.get()
            run, why_offline = start_run(info)
            sync = "" if run.disabled else f"wandb sync {shlex.quote(os.path.dirname(run.settings.sync_file))}"
            logged = max(int(run.step) - 1, 0)  # the last epoch that the server has of a resumed run
            reply(logged=logged, url=run.url, why_offline=why_offline, sync=sync)
            while (request := requests.get()) is not None:
                log(run, request)
            reply(uploaded=finish(run, info["folder"]))
        except Exception as error:
            reply(problem=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def read_requests(requests: queue.SimpleQueue[Any]) -> None:
    """Body of a thread: queue requests, and kill this process and its children when standard input ends."""
    rest = b""
    while part := os.read(0, 1 << 16):  # not by sys.stdin, whose lock would stop Python from exiting
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            requests.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def start_run(info: Any) -> tuple[wandb.Run, str]:
    """Start or resume the W&B run. Returns it and why it is offline; "" if it is online."""
    for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):  # their default is in the home folder
        os.environ.setdefault(variable, os.path.join(info["folder"], "wandb", "cache"))
    import wandb

    def init(mode: str) -> wandb.Run:
        return wandb.init(
            dir=info["folder"],
            id=info["id"],
            name=info["name"],
            project=os.environ.get("WANDB_PROJECT", "tlkit"),
            config=info["config"],
            resume="allow" if mode != "offline" else None,
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(
                console="off", silent=True, save_code=False, disable_git=True,
                x_disable_meta=True, x_save_requirements=False,
                init_timeout=INIT_SECONDS, finish_timeout=UPLOAD_SECONDS, finish_timeout_raises=True,
            ),
        )  # fmt: skip

    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return init(mode), f"WANDB_MODE is {mode}"
    try:  # without a network this fails at once; behind a proxy, host names need not resolve
        if not getproxies():
            socket.getaddrinfo(urlsplit(wandb.setup().settings.base_url).hostname, None)
    except OSError:
        return init("offline"), "no connection"
    before = sessions(info["folder"], info["id"])
    try:
        return init("online"), ""
    except Exception as error:
        wandb.teardown()
        for left in sessions(info["folder"], info["id"]) - before:
            shutil.rmtree(left, ignore_errors=True)
        why = "no account" if isinstance(error, wandb.errors.UsageError) else "no connection"
        return init("offline"), why


def sessions(folder: str, id: str) -> set[str]:
    """The folders of a W&B run, one per session."""
    return set(glob.glob(os.path.join(glob.escape(folder), "wandb", f"*run-*-{id}")))


def log(run: wandb.Run, request: Any) -> None:
    """Log values, images and summary of a request."""
    import wandb
    from PIL import Image

    pngs = request.get("images", {})
    images = {title: wandb.Image(Image.open(io.BytesIO(base64.b64decode(png)))) for title, png in pngs.items()}
    run.summary.update(request.get("summary", {}))
    step = max(request["step"], run.step) if images else request["step"]  # the server may have that step already
    run.log({**request.get("values", {}), **images}, step=step)


def finish(run: wandb.Run, run_folder: str) -> bool:
    """End the run and remove earlier offline sessions, which it contains. Returns whether everything was uploaded."""
    try:
        run.finish()
    except TimeoutError:
        return False
    own = os.path.realpath(os.path.dirname(run.settings.sync_file))
    for folder in sessions(run_folder, run.id):
        if os.path.basename(folder).startswith("offline-") and os.path.realpath(folder) != own:
            shutil.rmtree(folder, ignore_errors=True)
    return True


if __name__ == "__main__":
    main()
