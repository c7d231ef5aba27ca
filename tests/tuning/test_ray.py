"""The parts of Ray that tlkit uses although they are not public: a new version of Ray may change them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tlkit.tuning.cluster import RAY_SETTINGS

ray = pytest.importorskip("ray")
SOURCES = Path(ray.__file__).parent


def test_ray_still_reads_every_variable_that_is_set() -> None:
    names = {*RAY_SETTINGS, "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
    folders = ("_private", "_common", "tune", "air")
    text = "".join(file.read_text() for folder in folders for file in sorted((SOURCES / folder).rglob("*.py")))
    text += (SOURCES / "_raylet.so").read_bytes().decode("latin-1")
    assert {name for name in names if name not in text} == set()


def test_asha_still_has_the_methods_that_are_overridden() -> None:
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    for name in ("on_trial_add", "on_trial_result"):
        parameters = list(inspect.signature(getattr(AsyncHyperBandScheduler, name)).parameters)
        assert parameters[:3] == ["self", "tune_controller", "trial"]
    assert TrialScheduler.STOP == "STOP"


def test_trials_of_ray_still_have_the_attributes_that_are_read() -> None:
    from ray.tune.experiment import Trial

    trial = Trial("trainable", config={"assignment": "{}"}, stub=True)
    assert trial.config == {"assignment": "{}"} and isinstance(trial.last_result, dict)
    assert isinstance(Trial.error_file, property)


def test_callbacks_of_ray_still_have_the_hooks_that_are_used() -> None:
    from ray import tune

    from tlkit.tuning.ray_tune import SearchCallback

    hooks = [name for name in vars(SearchCallback) if name == "setup" or name.startswith("on_")]
    assert len(hooks) == 5
    for name in hooks:
        expected = list(inspect.signature(getattr(tune.Callback, name)).parameters)
        used = [p for p, value in inspect.signature(getattr(SearchCallback, name)).parameters.items()
                if value.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]  # fmt: skip
        assert used == expected[: len(used)]
