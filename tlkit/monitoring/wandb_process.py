"""The process that talks to Weights & Biases. It is started by wandb_sink.py, imports nothing of tlkit, reads orders
from standard input, a line of JSON each, and says what came of it on standard output likewise.

Offline, a W&B run cannot be gone on with: each session is a whole one. So each is told all epochs again, and takes the
place of the one before.
"""

from __future__ import annotations

import base64
import glob
import io
import json
import os
import shlex
import shutil
import socket
import sys
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

INIT_SECONDS = 20.0


UPLOAD_SECONDS = 45.0


def main() -> None:
    """From the first order to the last."""
    with os.fdopen(os.dup(1), "w", encoding="ascii") as output:
        os.dup2(2, 1)  # what wandb prints is for nobody

        def say(**facts: Any) -> None:
            output.write(json.dumps(facts) + "\n")
            output.flush()

        try:
            about = json.loads(sys.stdin.readline())
            run, why_offline = begin(about)
            say(logged=logged(run), url=run.url, why_offline=why_offline, sync=sync_command(run))
            for line in sys.stdin:
                obey(run, json.loads(line))
            say(uploaded=finish(run, about["folder"]))
        except Exception as error:
            say(problem=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def begin(about: dict[str, Any]) -> tuple[Any, str]:
    """The W&B run, and why it is offline; nothing if it is not."""
    for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):  # else in the home folder
        os.environ.setdefault(variable, os.path.join(about["folder"], "wandb", "cache"))
    import wandb

    def init(mode: str | None) -> Any:
        return wandb.init(
            dir=about["folder"],
            id=about["id"],
            name=about["name"],
            project=os.environ.get("WANDB_PROJECT", "tlkit"),
            config=about["config"],
            resume="allow" if mode != "offline" else None,
            mode=mode,  # type: ignore[arg-type]
            settings=wandb.Settings(
                console="off", silent=True, save_code=False, disable_git=True,
                x_disable_meta=True, x_save_requirements=False,
                init_timeout=INIT_SECONDS, finish_timeout=UPLOAD_SECONDS, finish_timeout_raises=True,
            ),
        )  # fmt: skip

    wanted = os.environ.get("WANDB_MODE", "online")
    if wanted != "online":
        return init(wanted), f"WANDB_MODE is {wanted}"
    if not has_a_name(wandb.setup().settings.base_url):
        return init("offline"), "no connection"
    before = sessions(about["folder"], about["id"])
    try:
        return init("online"), ""
    except Exception as error:
        wandb.teardown()
        for left in sessions(about["folder"], about["id"]) - before:
            shutil.rmtree(left, ignore_errors=True)
        why = "no account" if isinstance(error, wandb.errors.UsageError) else "no connection"
        return init("offline"), why


def has_a_name(url: str) -> bool:
    """Whether the network knows the server: where there is none, that shows at once. A proxy may know more."""
    try:
        return bool(getproxies() or socket.getaddrinfo(urlsplit(url).hostname, None))
    except OSError:
        return False


def sessions(folder: str, id: str) -> set[str]:
    """The folders of a W&B run: one for each time that it went on."""
    return set(glob.glob(os.path.join(glob.escape(folder), "wandb", f"*run-*-{id}")))


def logged(run: Any) -> int:
    """The last step that the server has of a run that goes on; 0 if there is none, as offline."""
    return max(int(run.step) - 1, 0)


def obey(run: Any, order: dict[str, Any]) -> None:
    """Log what an order holds."""
    import wandb
    from PIL import Image

    pictures = order.get("pictures", {})
    images = {title: wandb.Image(Image.open(io.BytesIO(base64.b64decode(png)))) for title, png in pictures.items()}
    run.summary.update(order.get("summary", {}))
    step = max(order["step"], run.step) if images else order["step"]  # the server may have that step already
    run.log({**order.get("values", {}), **images}, step=step)


def finish(run: Any, run_folder: str) -> bool:
    """Whether all is where it should be. What offline sessions before this one have kept, it has too."""
    try:
        run.finish()
    except TimeoutError:
        return False
    own = os.path.realpath(os.path.dirname(run.settings.sync_file))
    for folder in sessions(run_folder, run.id):
        if os.path.basename(folder).startswith("offline-") and os.path.realpath(folder) != own:
            shutil.rmtree(folder, ignore_errors=True)
    return True


def sync_command(run: Any) -> str:
    """What uploads a run from disk; nothing where W&B was told to keep none."""
    return "" if run.disabled else f"wandb sync {shlex.quote(os.path.dirname(run.settings.sync_file))}"


if __name__ == "__main__":
    main()
