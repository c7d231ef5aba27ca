"""The process in which Ray runs: its errors, signals and death reach the command."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tlkit.errors import DataError, ResourceError
from tlkit.interruption import Interrupted, Interruption, handled
from tlkit.tuning.driver import Watch, run_in_driver

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


def wait_for_nothing(signals: Interruption, watch: Watch) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping, subprocess.Popen(["sleep", "60"]) as killed:
        watch([sleeping.pid, killed.pid])
        killed.kill()
        time.sleep(60)


@pytest.mark.parametrize("function", [die, wait_for_nothing])
def test_a_driver_that_dies_or_loses_a_server_is_an_error_with_a_hint(function: object) -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError) as raised:
        run_in_driver(function, Interruption(), "Resume with: tlkit resume x")  # type: ignore[arg-type]
    assert str(raised.value) == "Ray: ended unexpectedly; one of its processes was killed, or crashed"
    assert raised.value.hint == "Resume with: tlkit resume x"
    assert time.monotonic() - began < 30


def test_a_driver_may_end_its_servers(tmp_path: Path) -> None:
    def end_orderly(signals: Interruption, watch: Watch) -> None:
        with subprocess.Popen(["sleep", "60"]) as server:
            watch([server.pid])
            watch([])
            server.kill()
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
