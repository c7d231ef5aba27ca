"""Of several failed ranks, the error of the cause is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from tlkit.distributed.env import environment
from tlkit.distributed.failures import write_note
from tlkit.distributed.launch import for_ranks, report_failure
from tlkit.errors import ResourceError
from tlkit.files.run_folder import RunFolder


def failure(folder: Path, rank: int, exitcode: int, said: str = "", at: float = 0.0) -> ProcessFailure:
    """How a rank ended, and what it left of its error."""
    file = folder / f"{rank}.json"
    if said:
        about = {"message": said, "errorCode": exitcode, "extraInfo": {"timestamp": str(int(at)), "py_callstack": ""}}
        file.write_text(json.dumps({"message": about, "time": at}))
    return ProcessFailure(rank, 1000 + rank, exitcode, str(file))


def test_the_first_error_of_a_rank_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failures = {
        0: failure(tmp_path, 0, 71),
        1: failure(tmp_path, 1, 66, "tlkit finetune: b: is missing", at=8.25),
        2: failure(tmp_path, 2, 65, "tlkit finetune: a: is bad\nMend it.", at=8.125),
        3: failure(tmp_path, 3, -15),
    }
    assert report_failure(str(tmp_path), failures) == 65
    assert capfd.readouterr().err == "tlkit finetune: a: is bad\nMend it.\n"


def test_what_killed_a_rank_goes_before_what_followed(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    Path(run.path).mkdir()
    run.write_status("running", epoch=3, step=7, best=None)
    write_note("run", run.path, str(tmp_path))
    failures = {
        0: failure(tmp_path, 0, 1, "tlkit finetune: unexpected error: RuntimeError: broken", at=1.0),
        1: failure(tmp_path, 1, -9),
        2: failure(tmp_path, 2, -15),
        3: failure(tmp_path, 3, 71),
    }
    with pytest.raises(ResourceError, match="rank 1: was killed by SIGKILL"):
        report_failure(str(tmp_path), failures)
    status = json.loads(Path(run.status_file).read_text())
    assert status["error"] == "rank 1 was killed by SIGKILL"
    assert {name: status[name] for name in ("state", "exit_code", "rank", "epoch", "step")} == {
        "state": "failed", "exit_code": 71, "rank": 1, "epoch": 3, "step": 7,
    }  # fmt: skip


def test_an_error_of_before_a_restart_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_note("settled", {"status": 73, "lines": ["tlkit finetune: out: is not empty"]}, str(tmp_path))
    assert report_failure(str(tmp_path), {0: failure(tmp_path, 0, 73), 1: failure(tmp_path, 1, -15)}) == 73
    assert capfd.readouterr().err == "tlkit finetune: out: is not empty\n"


def test_what_a_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with environment(for_ranks(str(tmp_path), 2)):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["GLOO_SOCKET_IFNAME"]) == ("7", "lo")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
