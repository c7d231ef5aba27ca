"""A fake Weights & Biases server with the requests of a run: start, resume, log, upload."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "a" * 40


@dataclass
class StoredRun:
    """A run on the server. history: a row for each step. uploads: file names."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    config: str = "{}"
    uploads: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        return [self.history[place] for place in sorted(self.history)]


@dataclass
class Server:
    """url: for WANDB_BASE_URL. hanging: while set, requests get no response."""

    url: str = ""
    runs: dict[str, StoredRun] = field(default_factory=dict)
    hanging: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make W&B use this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """The response to a request."""
        if self.hanging.is_set():
            self.released.wait()
        if path == "/graphql":
            request = json.loads(body)
            return {"data": self.query(request["query"], request.get("variables") or {})}
        if path.endswith("/file_stream"):
            self.stream(self.runs[path.split("/")[-2]], json.loads(body).get("files", {}))
        return {}

    def query(self, text: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The response to a GraphQL query."""
        if "upsertBucket" in text:
            new = variables["name"] not in self.runs
            run = self.runs.setdefault(variables["name"], StoredRun())
            run.config = variables.get("config") or run.config
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "somebody"}}
            bucket = {
                "id": "b", "name": variables["name"], "displayName": variables["displayName"], "config": run.config,
                "project": project, "historyLineCount": len(run.history),
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": new}}
        if "createRunFiles" in text:
            self.runs[variables["run"]].uploads += variables["files"]
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "RunResumeStatus" in text:
            return {"model": self.resume_status(variables["name"])}
        if "viewer" in text:
            return {
                "viewer": {
                    "id": "u",
                    "entity": "somebody",
                    "username": "somebody",
                    "flags": "{}",
                    "teams": {"edges": []},
                }
            }
        return {}

    def resume_status(self, name: str) -> dict[str, Any]:
        """The state of a run, for resuming."""
        run = self.runs.get(name)
        if run is None:
            return {"id": "p", "name": "tlkit", "entity": {"id": "e", "name": "somebody"}, "bucket": None}
        rows = run.rows()
        tail = json.dumps([json.dumps(rows[-1])] if rows else [])
        bucket = {
            "id": "b", "name": name, "displayName": name, "config": run.config, "summaryMetrics": "{}", "notes": "",
            "logLineCount": 0, "historyLineCount": len(rows), "eventsLineCount": 0, "historyTail": tail,
            "eventsTail": "[]", "tags": [], "wandbConfig": '{"t": 1}', "group": None, "jobType": None,
            "sweepName": None,
        }  # fmt: skip
        return {"id": "p", "name": "tlkit", "entity": {"id": "e", "name": "somebody"}, "bucket": bucket}

    def stream(self, run: StoredRun, files: dict[str, Any]) -> None:
        """Store lines of history at their steps."""
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        for place, line in enumerate(history["content"], start=history["offset"]):
            run.history[place] = json.loads(line)


@contextlib.contextmanager
def wandb_server() -> Iterator[Server]:
    """A server on this machine; stopped at the end."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            content = json.dumps(server.answer(self.path, body)).encode()
            with contextlib.suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, *about: object) -> None:
            """Print nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_port}"
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        listener.shutdown()
        listener.server_close()
