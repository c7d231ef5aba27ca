"""Slow proofs of tlkit tune: searches killed at random times and resumed, features counted, and a search on two nodes.

    python tests/searches.py [--kills 5] [--seed 0] [--only kills|servers|passes|nodes]

kills: kill a search with SIGKILL and resume it. Every trial must end once, with the same result as without a kill, and
no process of the search may be left. servers: kill Ray's gcs_server, its raylet and the process of a trial, so often
each. Without a server the search must end with one line, status 71 and "failed" in status.json, and resume to the same
results; a killed trial is restarted. passes: count the images that backbones compute in a search of 50 trials over two
backbones. nodes: run a search on a head and a worker node, and count the trials of each.
Prints the results; exits with a non-zero status unless all proofs succeed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SAMPLE = [ROOT / "sample_data" / "textures", "--weights", ROOT / "sample_data" / "backbone.safetensors"]
BACKBONE = ["--backbone", "timm/test_byobnet"]
WRITTEN_FOR_THE_BEST = ("model.pt", "report.html")
"""Files that are written at the end of the search, not of the trial."""

GONE_WITHIN = 60.0
"""Seconds after a kill within which all processes of the search must end."""

PROBES = ("images_per_second", "require_agreement")
"""Callers that run a backbone on made-up pixels: to measure its speed, and to compare its ONNX graph with torch."""

COUNTER = """
import importlib.abc, importlib.util, os, sys

class Counting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "tlkit.features.extractor":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def loaded(module):
            load(module)
            see = module.FeatureExtractor.__call__
            def counted(self, pixels):
                line = f"{len(pixels)} {sys._getframe(1).f_code.co_name}\\n".encode()
                descriptor = os.open(os.environ["TLKIT_TEST_PASSES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(descriptor, line)
                os.close(descriptor)
                return see(self, pixels)
            module.FeatureExtractor.__call__ = counted
        spec.loader.exec_module = loaded
        return spec

sys.meta_path.insert(0, Counting())
"""
"""sitecustomize of every process: records each batch that a backbone computes, and the calling function."""


def tune(folder: Path, *arguments: object) -> list[str]:
    """The command line of a search on the sample data."""
    return [sys.executable, "-m", "tlkit", "tune", *map(str, [*SAMPLE, *BACKBONE, "--out", folder, *arguments])]


def environment(cache: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [more.pop("first_path", ""), str(ROOT)]))
    return {**os.environ, "PYTHONPATH": path, "TLKIT_CACHE": str(cache), "OMP_NUM_THREADS": "1", **more}


def rows_of(folder: Path) -> dict[int, dict[str, Any]]:
    file = folder / "results.jsonl"
    return {row["trial"]: row for row in map(json.loads, file.read_text().splitlines())} if file.exists() else {}


def results_of(folder: Path) -> dict[int, tuple[Any, ...]]:
    """The results that must be the same with and without a kill."""
    names = ("state", "options", "accuracy", "macro_f1", "loss", "epoch", "epochs", "error")
    return {number: tuple(row[name] for name in names) for number, row in rows_of(folder).items()}


def history_of(folder: Path, row: dict[str, Any]) -> list[int]:
    """The epochs in the history of a trial's run."""
    return [json.loads(line)["epoch"] for line in (folder / row["path"] / "history.jsonl").read_text().splitlines()]


def left_behind(marker: str) -> list[str]:
    """The command lines of processes with a variable in their environment that starts with the marker."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if has_marker(entry, marker):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:90])
    return found


def kills(work: Path, times: int, seed: int) -> bool:
    """Kill and resume searches; compare each with one that was not killed."""
    generator = random.Random(seed)
    arguments = ["--samples", 6, "--epochs", 150, "--scheduler", "none"]
    began = time.monotonic()
    reference = work / "reference"
    subprocess.run(tune(reference, *arguments), env=environment(work / "cache"), check=True, capture_output=True)
    lasts = time.monotonic() - began
    expected, good = results_of(reference), 0
    for number in range(times):
        folder, waits = work / f"killed-{number}", generator.uniform(0.1, 0.95) * lasts
        process = subprocess.Popen(
            tune(folder, *arguments), env=environment(work / "cache"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=waits)
        process.kill()
        process.communicate()
        gone = seconds_until_gone(f"TLKIT_SEARCH={process.pid}-")
        ended = {n: row for n, row in rows_of(folder).items() if row["state"] != "running"}
        stamps = {n: stamps_of(folder / row["path"]) for n, row in ended.items()}
        begun = (folder / "search.json").exists()
        again = tune(folder, *arguments) if not begun else [sys.executable, "-m", "tlkit", "resume", str(folder)]
        status = subprocess.run(again, env=environment(work / "cache"), capture_output=True).returncode
        faults = [
            *([] if status == 0 else [f"resume ended with {status}"]),
            *([] if gone is not None else ["processes left"]),
            *([] if results_of(folder) == expected else ["other results"]),
            *(
                f"trial {n} was touched again"
                for n, row in ended.items()
                if stamps_of(folder / row["path"]) != stamps[n]
            ),
            *(
                f"trial {n} has epochs more than once, or not all"
                for n, row in rows_of(folder).items()
                if history_of(folder, row) != list(range(1, 151))
            ),
        ]
        good += not faults
        print(
            f"killed after {waits:5.1f} s of {lasts:.1f}, {len(ended)} of 6 trials ended; "
            f"nothing left after {gone} s; {', '.join(faults) or 'correct'}",
            flush=True,
        )
    print(f"kills: {good} of {times} searches ended like the one that was not killed", flush=True)
    return good == times


VICTIMS = {"gcs_server": "gcs_server", "raylet": "raylet", "trial": "ray::Implicit"}
"""Processes to kill, and how their names begin."""


def servers(work: Path, times: int, seed: int) -> bool:
    """Kill processes of Ray during searches, and resume these; compare each with one in which nothing was killed."""
    generator = random.Random(seed)
    arguments = ["--samples", 2, "--epochs", 60, "--scheduler", "none"]
    env = environment(work / "cache")
    subprocess.run(tune(work / "quiet", *arguments), env=env, check=True, capture_output=True)
    expected, good = results_of(work / "quiet"), Counter[str]()
    for number, victim in enumerate([*VICTIMS] * times):
        folder = work / f"without-{number}"
        words = tune(folder, *arguments)
        process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        marker = f"TLKIT_SEARCH={process.pid}-"
        found: list[int] = []
        while not (found := running(marker, VICTIMS[victim])) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.3 if victim == "trial" else 2))
        for one in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        began = time.monotonic()
        assert process.stderr is not None
        errors = [line for line in process.stderr.read().splitlines() if not line[:10].strip().isalpha()]
        seconds = time.monotonic() - began
        state = json.loads((folder / "status.json").read_text())["state"]
        outcome = (process.wait(), state)
        faults = [] if seconds_until_gone(marker) is not None else ["processes left"]
        if outcome != ((0, "finished") if victim == "trial" else (71, "failed")):
            faults.append(f"ended with {outcome}")
        if victim != "trial":
            expected_lines = ["tlkit tune: Ray: ended unexpectedly; one of its processes was killed, or crashed"]
            expected_lines.append(f"Resume with: tlkit resume {folder}")
            faults += [] if errors == expected_lines else [f"other lines: {errors}"]
            again = [sys.executable, "-m", "tlkit", "resume", str(folder)]
            status = subprocess.run(again, env=env, capture_output=True).returncode
            faults += [] if status == 0 else [f"resume ended with {status}"]
        faults += [] if results_of(folder) == expected else ["other results"]
        good[victim] += not faults
        print(
            f"{victim} killed, ended {seconds:.1f} s later with {outcome}; {', '.join(faults) or 'correct'}", flush=True
        )
    print(f"servers: {dict(good)} of {times} each as expected", flush=True)
    return good.total() == len(VICTIMS) * times


def running(marker: str, name: str) -> list[int]:
    """The processes of a search whose program or title begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            program = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
            if os.path.basename(program).startswith(name) and has_marker(entry, marker):
                found.append(int(entry.name))
    return found


def has_marker(process: Path, marker: str) -> bool:
    """Whether a process has a variable in its environment that starts with the marker."""
    return any(v.startswith(marker.encode()) for v in (process / "environ").read_bytes().split(b"\0"))


def stamps_of(run: Path) -> dict[str, int]:
    """Modification times of the files of a run, without those that are written at the end of the search."""
    return {
        str(file): file.stat().st_mtime_ns
        for file in run.rglob("*")
        if file.is_file() and file.name not in WRITTEN_FOR_THE_BEST
    }


def seconds_until_gone(marker: str) -> float | None:
    """Seconds until all processes of a killed search have ended; None if some remain."""
    began = time.monotonic()
    while time.monotonic() - began < GONE_WITHIN:
        if not left_behind(marker):
            return round(time.monotonic() - began, 1)
        time.sleep(0.1)
    print("\n".join(left_behind(marker)))
    return None


def passes(work: Path) -> bool:
    """Count the images that backbones compute during 50 trials over two of them."""
    (work / "first").mkdir()
    (work / "first" / "sitecustomize.py").write_text(COUNTER)
    file = work / "passes"
    more = {"first_path": str(work / "first"), "TLKIT_TEST_PASSES": str(file)}
    arguments = [
        sys.executable, "-m", "tlkit", "tune", SAMPLE[0], "--weights", "none", "--out", work / "passes-search",
        "--try", "backbone=grid:timm/test_byobnet,timm/test_resnet", "--try", "learning_rate=loguniform:1e-3:1e-1",
        "--samples", 25, "--epochs", 5,
    ]  # fmt: skip
    env = environment(work / "passes-cache", **more)
    subprocess.run([*map(str, arguments)], env=env, check=True, capture_output=True)
    batches = [line.split() for line in file.read_text().splitlines()]
    images = sum(int(size) for size, caller in batches if caller not in PROBES)
    trials = Counter(row["state"] for row in rows_of(work / "passes-search").values())
    print(
        f"passes: {images} images through a backbone in {trials.total()} trials ({dict(trials)}); expected 600",
        flush=True,
    )
    return images == 600 and trials.total() == 50 and not trials["failed"]


def nodes(work: Path) -> bool:
    """Run a search on a cluster of a head and a worker node with one core each."""
    token = work / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    port, marker = 6399, f"TLKIT_TEST_NODES={os.getpid()}"
    env = environment(
        work / "cache", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), RAY_USAGE_STATS_ENABLED="0",
        TLKIT_TEST_NODES=str(os.getpid()),
    )  # fmt: skip
    start = [Path(sys.executable).parent / "ray", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    head = [*start, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={work}/r"]
    worker = [*start, f"--address=127.0.0.1:{port}"]
    with started(head, env), started(worker, env):
        time.sleep(10)
        command = tune(work / "nodes-search", "--samples", 12, "--epochs", 40, "--ray-address", f"127.0.0.1:{port}")
        result = subprocess.run(command, env=env, capture_output=True, text=True)
        wrong = {**env, "RAY_AUTH_TOKEN_PATH": str(work / "other-token")}
        (work / "other-token").write_text(secrets.token_hex(32))
        began = time.monotonic()
        refused = subprocess.run(tune(work / "refused", *command[-2:]), env=wrong, capture_output=True, text=True)
        seconds = time.monotonic() - began
    counted = Counter(row["node"][:12] for row in rows_of(work / "nodes-search").values() if row["node"])
    print(f"nodes: {dict(counted)}, exit status {result.returncode}", flush=True)
    print(f"wrong token: exit status {refused.returncode} after {seconds:.0f} s:\n{refused.stderr}", flush=True)
    leaked = [
        str(path)
        for path in (work / "nodes-search").rglob("*")
        if path.is_file() and token.read_bytes() in path.read_bytes()
    ]
    gone = seconds_until_gone(marker)
    print(f"nothing left after {gone} s; the token is in {leaked or 'no file'}", flush=True)
    told = refused.stderr.splitlines()
    is_told = refused.returncode == 69 and "token" in told[-2] and not any(line.startswith("[") for line in told)
    return len(counted) == 2 and result.returncode == 0 and is_told and not leaked and gone is not None


@contextlib.contextmanager
def started(command: Sequence[object], env: dict[str, str]) -> Iterator[None]:
    """A Ray node that runs during the block."""
    process = subprocess.Popen([*map(str, command)], env=env, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["kills", "servers", "passes", "nodes"])
    options = parser.parse_args()
    proofs = {
        "kills": lambda work: kills(work, options.kills, options.seed),
        "servers": lambda work: servers(work, options.kills, options.seed),
        "passes": passes,
        "nodes": nodes,
    }
    with tempfile.TemporaryDirectory(prefix="tlkit-s-") as folder:
        found = [proof(Path(folder)) for name, proof in proofs.items() if options.only in (None, name)]
    sys.exit(not all(found))


if __name__ == "__main__":
    main()
