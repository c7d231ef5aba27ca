"""The process in which Ray runs: its errors, signals and death reach the command."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tlkit.errors import DataError, ResourceError
from tlkit.interruption import Interrupted, Interruption, handled
from tlkit.tuning.driver import Watch, run_in_driver
from tlkit.tuning.reaper import MARKER_VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_the_driver_is_another_process_whose_errors_are_raised(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    run_in_driver(lambda signals, watch: file.write_text(str(os.getpid())) and None, Interruption(), "")
    assert int(file.read_text()) != os.getpid()

    def fail(signals: Interruption, watch: Watch) -> None:
        raise DataError("photos", "no image", "Look.")

    with pytest.raises(DataError, match="photos: no image") as raised:
        run_in_driver(fail, Interruption(), "")
    assert raised.value.hint == "Look." and "in fail" in raised.value.__notes__[0]


def die(signals: Interruption, watch: Watch) -> None:
    os._exit(1)


def server(tmp_path: Path, marker: str) -> subprocess.Popen[bytes]:
    """A process with the name and the marker of one of Ray's servers."""
    program = tmp_path / "raylet"
    if not program.exists():
        shutil.copy(shutil.which("sleep") or "", program)
    return subprocess.Popen([program, "60"], env={**os.environ, MARKER_VARIABLE: marker})


def test_a_driver_that_loses_a_server_is_an_error(tmp_path: Path) -> None:
    def lose_a_server(signals: Interruption, watch: Watch) -> None:
        marker = f"lost-{os.getpid()}"
        watch(marker)
        with server(tmp_path, marker) as killed:
            time.sleep(0.5)
            killed.kill()
            time.sleep(60)

    began = time.monotonic()
    with pytest.raises(ResourceError):
        run_in_driver(lose_a_server, Interruption(), "")
    assert time.monotonic() - began < 30


def test_a_driver_that_dies_is_an_error_with_a_hint() -> None:
    with pytest.raises(ResourceError) as raised:
        run_in_driver(die, Interruption(), "Resume with: tlkit resume x")
    assert str(raised.value) == "Ray: ended unexpectedly; one of its processes was killed, or crashed"
    assert raised.value.hint == "Resume with: tlkit resume x"


def test_a_driver_may_end_its_servers(tmp_path: Path) -> None:
    def end_orderly(signals: Interruption, watch: Watch) -> None:
        marker = f"ended-{os.getpid()}"
        watch(marker)
        with server(tmp_path, marker) as ended:
            time.sleep(0.5)
            watch("")
            time.sleep(0.5)
            ended.kill()
        time.sleep(0.5)
        (tmp_path / "done").touch()

    run_in_driver(end_orderly, Interruption(), "")
    assert (tmp_path / "done").exists()


def test_a_signal_is_forwarded_and_the_driver_may_clean_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def wait(signals: Interruption, watch: Watch) -> None:
        threading.Timer(0.2, os.kill, (os.getppid(), signal.SIGTERM)).start()
        try:
            time.sleep(60)
        finally:
            (tmp_path / "cleaned").touch()

    with pytest.raises(Interrupted) as raised, handled("stopping") as signals:
        run_in_driver(wait, signals, "")
    assert raised.value.number == signal.SIGTERM and (tmp_path / "cleaned").exists()
    assert capfd.readouterr().err == "\nSIGTERM: stopping ...\n"
