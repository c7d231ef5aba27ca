"""A headless Chromium that tests look at pages with, driven over a pipe by its own protocol.

    with open_browser() as browser:
        page = browser.open(path, width=390)
        assert page.requests == [] and page.messages == []

As a program it takes screenshots: python tests/browser.py page.html folder
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--remote-debugging-pipe",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@dataclass
class Page:
    """A page that is open. requests: what it asked for beside itself; messages: what the console says."""

    browser: Browser
    session: str
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.browser.ask("Runtime.evaluate", self.session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def screenshot(self, path: Path) -> None:
        """A picture of the whole page."""
        answer = self.browser.ask("Page.captureScreenshot", self.session, captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """The process, and the two ends of its pipes."""

    def __init__(self, orders: int, answers: int) -> None:
        self.orders, self.answers = orders, answers
        self.received, self.number = b"", 0
        self.pages: dict[str, Page] = {}

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self.number += 1
        order = {"id": self.number, "method": method, "params": parameters}
        os.write(self.orders, json.dumps(order | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            message = self.next_message()
            if message.get("id") == self.number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def next_message(self) -> dict[str, Any]:
        """An answer or an event; of events a page keeps what it wants to know."""
        while b"\0" not in self.received:
            part = os.read(self.answers, 1 << 16)
            assert part, "the browser is gone"
            self.received += part
        line, _, self.received = self.received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        page = self.pages.get(message.get("sessionId", ""))
        if page is not None:
            if message.get("method") == "Network.requestWillBeSent":
                page.requests.append(message["params"]["request"]["url"])
            elif message.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                page.messages.append(json.dumps(message["params"]))
        return message

    def open(self, path: Path, width: int = 1280, dark: bool = False, media: str = "screen") -> Page:
        """A file, in a window of that width."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.ask(f"{domain}.enable", session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", session, media=media, features=[scheme])
        self.ask(
            "Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        url = path.resolve().as_uri()
        self.ask("Page.navigate", session, url=url)
        while self.next_message().get("method") != "Page.loadEventFired":
            pass
        page.requests = [request for request in page.requests if request != url and not request.startswith("data:")]
        return page


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start it, and end it afterwards."""
    assert PROGRAM is not None, "there is no Chromium here"
    with tempfile.TemporaryDirectory(prefix="tlkit-browser-", ignore_cleanup_errors=True) as profile:
        (theirs_in, orders), (answers, theirs_out) = os.pipe(), os.pipe()
        line = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
        process = subprocess.Popen(
            ["bash", "-c", line, "browser", PROGRAM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(orders, answers)
        finally:
            process.kill()
            process.wait()
            os.close(orders)
            os.close(answers)


def main(file: str, folder: str) -> None:
    """Pictures of a page at the widths of a desk and a phone, light and dark, and printed."""
    with open_browser() as browser:
        for width in (1280, 390):
            for dark in (False, True):
                page = browser.open(Path(file), width, dark)
                page.screenshot(Path(folder) / f"{Path(file).stem}_{width}_{'dark' if dark else 'light'}.png")
                print(width, "dark" if dark else "light", page.overflow(), page.requests, page.messages)
        page = browser.open(Path(file))
        printed = browser.ask("Page.printToPDF", page.session, printBackground=False)
        (Path(folder) / f"{Path(file).stem}.pdf").write_bytes(base64.b64decode(printed["data"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
