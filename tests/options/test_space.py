"""What a search tries: how it is written, what is refused, and what is drawn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tlkit.errors import TlkitError, UsageError
from tlkit.options import TuneOptions
from tlkit.options.dimensions import Choice, Grid, Integer, LogUniform, Uniform
from tlkit.options.space import Space, as_toml, described, read_written, space_of
from tlkit.options.tune import kinds_tried


def space(*inline: str, file: Path | None = None) -> Space:
    return space_of(read_written(inline, None if file is None else str(file)), kinds_tried())


def test_every_kind_is_read_from_the_command_line() -> None:
    read = space(
        "weight_decay=uniform:0:1",
        "learning_rate=loguniform:1e-4:1e-1",
        "epochs=randint:5:9",
        "batch-size=power-of-two:8:64",
        "optimizer=choice:adamw,sgd",
        "backbone=grid:resnet18,vgg16",
        "unfreeze=choice:default,layer4",
        "no_cache=choice:true,false",
    )
    assert read.dimensions == {
        "weight_decay": Uniform(0.0, 1.0),
        "learning_rate": LogUniform(1e-4, 1e-1),
        "epochs": Integer(5, 9),
        "batch_size": Choice((8, 16, 32, 64)),
        "optimizer": Choice(("adamw", "sgd")),
        "backbone": Grid(("resnet18", "vgg16")),
        "unfreeze": Choice((None, "layer4")),
        "no_cache": Choice((True, False)),
    }


def test_a_file_says_the_same_as_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text("learning_rate = { loguniform = [1e-4, 1e-1] }\nhidden = { power-of-two = [8, 32] }\n")
    inline = space("learning_rate=loguniform:1e-4:1e-1", "hidden=power-of-two:8:32")
    assert space(file=file).dimensions == inline.dimensions


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("learning_rat=choice:1,2", "is not a tunable option"),
        ("learning_rate", "NAME=KIND:VALUES"),
        ("learning_rate=0.1", "NAME=KIND:VALUES"),
        ("learning_rate=normal:0:1", "not a kind of values"),
        ("learning_rate=uniform:1:0", "empty range"),
        ("learning_rate=uniform:1:1", "empty range"),
        ("learning_rate=uniform:1", "1 bounds"),
        ("learning_rate=uniform:a:b", "is not a number"),
        ("learning_rate=uniform:0:inf", "not a finite number"),
        ("learning_rate=uniform:0:nan", "not a finite number"),
        ("learning_rate=loguniform:0:1", "starts above 0"),
        ("learning_rate=choice:", "has no value to try"),
        ("learning_rate=choice:1,,2", "empty value"),
        ("batch_size=uniform:1:8", "whole numbers"),
        ("batch_size=randint:1:8.5", "is not a whole number"),
        ("batch_size=power-of-two:6:64", "not a power of two"),
        ("optimizer=choice:adamw,adam", "'adam' is not a valid value"),
        ("optimizer=uniform:0:1", "has no range"),
        ("out=choice:a,b", "is not a tunable option"),
        ("resume=choice:a,b", "is not a tunable option"),
        ("val=choice:0.1,0.2", "is not a tunable option"),
    ],
)
def test_what_makes_no_sense_is_refused_naming_it(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as refused:
        space(text)
    assert refused.value.subject == f"--try {text}"
    assert problem in refused.value.problem


def test_a_misspelt_name_is_told_the_right_one() -> None:
    with pytest.raises(UsageError) as refused:
        space("learning_rat=choice:1,2")
    assert refused.value.hint == "Did you mean learning_rate?"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty; expected lines"),
        ("learning_rate = 3", "not of the form"),
        ("learning_rate = { loguniform = [1], uniform = [2] }", "not of the form"),
        ("learning_rate = { loguniform = 1 }", "not of the form"),
        ("learning_rate = { choice = [true] }", "is not a valid value"),
        ("learning_rate = [", "is not TOML"),
        ("\xff\xfe", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "space.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as refused:
        space(file=file)
    assert problem in refused.value.problem and refused.value.subject.startswith(str(file))


def test_a_missing_file_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(TlkitError) as refused:
        space(file=tmp_path / "none.toml")
    assert refused.value.exit_code == 66


def test_samples_stay_within_their_ranges() -> None:
    read = space("learning_rate=loguniform:1e-4:1e-1", "epochs=randint:5:7", "weight_decay=uniform:0:1")
    points = [read.sample(0, number) for number in range(300)]
    assert all(1e-4 <= point["learning_rate"] <= 1e-1 and 0 <= point["weight_decay"] <= 1 for point in points)
    assert {point["epochs"] for point in points} == {5, 6, 7}
    below = sum(point["learning_rate"] < 10**-2.5 for point in points)
    assert 110 < below < 190  # half of them, as each order of magnitude is as likely


def test_where_there_are_few_samples_each_comes_once() -> None:
    read = space("optimizer=choice:adamw,sgd", "batch_size=power-of-two:8:32", "backbone=grid:a,b")
    samples = [tuple(read.sample(0, number).values()) for number in range(6)]
    assert len(set(samples)) == 6 == read.most_samples()
    assert samples != [tuple(read.sample(1, number).values()) for number in range(6)]


def test_combinations_are_all_there_once() -> None:
    read = space("backbone=grid:a,b,c", "head=grid:linear,stack", "epochs=randint:1:9")
    found = [tuple(point.values()) for point in read.combinations(read.grids)]
    assert len(found) == 6 == len(set(found))


MANY = ",".join(map(str, range(1, 10_001)))


def tune(*tries: str, **options: Any) -> TuneOptions:
    return TuneOptions(**{"data": "photos", "try_": list(tries) or None, **options})


@pytest.mark.parametrize(
    ("tries", "options", "trials", "method"),
    [
        ((), {}, 20, "random"),
        (("backbone=grid:a,b,c",), {}, 3, "grid"),
        (("backbone=grid:a,b,c", "seed=grid:0,1"), {}, 6, "grid"),
        (("backbone=grid:a,b,c", "learning_rate=uniform:0:1"), {"samples": 4}, 12, "random"),
        (("optimizer=choice:adamw,sgd", "batch_size=choice:8,16"), {}, 4, "random"),
        (("backbone=grid:a,b,a",), {}, 2, "grid"),
        (
            ("epochs=grid:" + MANY, "batch_size=grid:" + MANY, "views=grid:default,1"),
            {"augment": "light"},
            2 * 10**8,
            "grid",
        ),
        (("optimizer=choice:adamw,sgd", "batch_size=choice:8,16"), {"samples": 3}, 3, "random"),
        (("optimizer=choice:adamw,sgd", "batch_size=power-of-two:8:64"), {"search": "grid"}, 8, "grid"),
        (("learning_rate=uniform:0:1",), {"samples": 7, "search": "bayesian"}, 7, "bayesian"),
    ],
)
def test_trials_are_counted(tries: tuple[str, ...], options: dict[str, object], trials: int, method: str) -> None:
    found = tune(*tries, **options)
    assert (found.trials(), found.method) == (trials, method)


@pytest.mark.parametrize(
    ("tries", "options", "subject", "problem"),
    [
        (("learning_rate=uniform:0:1",), {"search": "grid"}, "--search grid", "a range"),
        (("backbone=grid:a,b",), {"samples": 3}, "--samples", "each combination is tried once"),
        (("backbone=grid:a,b",), {"search": "bayesian"}, "--search bayesian", "use choice"),
        (("learning_rate=uniform:0:1",), {"learning_rate": 0.5}, "--learning-rate", "lists values of learning_rate"),
        (("learning_rate=uniform:-1:1",), {}, "learning_rate=-1", "too small"),
        (("head=choice:linear,mlp", "hidden=choice:8,16"), {}, "head=linear hidden=8", "needs --head mlp"),
        (("augment=choice:none,light",), {"views": 4}, "augment=none", "--views"),
        (("epochs=choice:5,9",), {"views": 4}, "epochs=5", "--views"),
        (("unfreeze=choice:default,layer4",), {"folds": 3}, "--folds", "unfreeze=layer4"),
        ((), {"folds": 3, "metric": "loss"}, "--metric loss", "cannot be combined with --folds"),
        (("epochs=choice:1,50",), {"grace_period": 2}, "--grace-period 2", "longer than the 1 epochs"),
        ((), {"resume": "runs/x"}, "DATA", "cannot be combined with --resume"),
        ((), {"data": ""}, "DATA", "is missing"),
        ((), {"log": ["wandb"]}, "--log", "applies to one run; tune writes results.jsonl"),
        ((), {"processes": 2}, "--processes", "applies to one run; tune runs trials in parallel instead"),
        ((), {"parallel": "data"}, "--parallel", "each trial of tune has one device"),
        ((), {"gpus_per_trial": 1.5}, "--gpus-per-trial 1.5", "neither a share of one GPU nor a whole number"),
        (("unfreeze=choice:default,layer4",), {"batch_size": "auto"}, "--batch-size auto", "(unfreeze=layer4)"),
        ((), {"device": "cuda:1"}, "--device cuda:1", "Ray gives each trial its GPU"),
    ],
)
def test_searches_that_cannot_be_are_refused_naming_why(
    tries: tuple[str, ...], options: dict[str, object], subject: str, problem: str
) -> None:
    with pytest.raises(UsageError) as refused:
        tune(*tries, **options)
    assert refused.value.subject == subject
    assert problem in refused.value.problem


def test_what_is_shared_need_only_go_with_what_is_tried() -> None:
    assert tune("augment=choice:light,strong", views=4).trials() == 2


def test_a_search_that_goes_on_may_be_given_what_and_how_much_to_use() -> None:
    assert tune(ray_address="none").cluster is None
    assert TuneOptions(resume="runs/x", samples=50, cpus_per_trial=2, time_budget=9.0).data == ""
    with pytest.raises(UsageError, match="--learning-rate: cannot be combined with --resume"):
        TuneOptions(resume="runs/x", learning_rate=0.5)


def test_points_are_told_briefly() -> None:
    told = described({"learning_rate": 0.0123456, "unfreeze": None, "no_cache": True})
    assert told == "learning_rate=0.01235 unfreeze=default no_cache=true"


def test_what_is_given_is_not_tried_by_default() -> None:
    assert list(tune(learning_rate=0.02, batch_size=8).tried.dimensions) == ["weight_decay", "label_smoothing"]
    with pytest.raises(UsageError, match="--try: is missing"):
        tune(learning_rate=0.02, batch_size=8, weight_decay=0.1, label_smoothing=0.05)


def test_a_space_is_kept_as_a_file_that_means_the_same_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(tmp_path / "a,b")
    (tmp_path / "space.toml").write_text('unfreeze = { choice = ["default", "a,b"] }\nhidden = { randint = [8, 32] }\n')
    tries = ["weights=grid:none,ünd.pth", "learning-rate=loguniform:1e-4:1e-1", "no_cache=choice:true,false"]
    written = read_written(tries, str(tmp_path / "space.toml"))
    first = space_of(written, kinds_tried())
    assert first.dimensions["weights"] == Grid(("none", str(tmp_path / "a,b" / "ünd.pth")))
    kept = tmp_path / "kept.toml"
    kept.write_text(as_toml(written))
    monkeypatch.chdir("/")
    again = read_written([], str(kept))
    assert space_of(again, kinds_tried()) == first
    assert as_toml(again) == as_toml(written)
