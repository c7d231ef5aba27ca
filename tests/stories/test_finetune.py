"""Whole finetune runs: what they learn, write, and refuse."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import BACKBONE, Run, finetune_arguments, write_folder, write_image
from tlkit.files.artifact import digest, read_artifact
from tlkit.files.run_folder import RunFolder
from tlkit.options.finetune import METRIC_NAMES
from tlkit.training.metrics import METRICS


def history(run: Path) -> list[dict[str, float]]:
    """The rows of history.jsonl without the clock."""
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")} for row in rows
    ]


def head_of(run: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    content = read_artifact(str(run / "checkpoints" / name), "tlkit-checkpoint")
    state = content["model_state_dict"]
    assert isinstance(state, dict)
    return state


def test_a_run_learns_and_leaves_what_the_contract_says(images: Path, tmp_path: Path, tlkit: Run) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run"))
    run = tmp_path / "run"
    assert result.status == 0
    assert result.out == f"{run}/model.pt\n"
    rows = history(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["step"] == 6 * 4  # all 30 images train, in batches of 8
    assert rows[-1]["val_accuracy"] == 1.0
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["epoch"]) == ("finished", 0, 6)
    split = json.loads((run / "split.json").read_text())
    assert split["classes"] == ["blue", "green", "red"]
    assert split["train"] == split["val"]
    assert [len(split["train"][c]) for c in split["classes"]] == [10, 10, 10]
    assert [sorted(split["folds"][c]) for c in split["classes"]] == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]] * 3
    assert "out-of-fold on 30 images" in result.err
    options = json.loads((run / "options.json").read_text())
    assert options["given"]["epochs"] == options["resolved"]["epochs"] == 6
    names = sorted(os.listdir(run / "checkpoints"))
    assert [n for n in names if not n.startswith("epoch_")] == ["best.pt", "last.pt"]
    assert [int(n.split("_")[1]) for n in names if n.startswith("epoch_")] == [4, 5, 6]
    assert f"epoch_0006_loss_{rows[-1]['val_loss']:.4f}_accuracy_1.0000.pt" in names
    assert not [f for f in run.rglob("*") if f.name.endswith("tmp")]


def test_a_single_split_trains_on_four_fifths(images: Path, tmp_path: Path, tlkit: Run) -> None:
    for name, more in (("share", ["--val", "0.2"]), ("folds", ["--folds", "1"])):
        assert tlkit(*finetune_arguments(images, tmp_path / name, *more)).status == 0
        split = json.loads((tmp_path / name / "split.json").read_text())
        assert [len(split["train"][c]) for c in split["classes"]] == [8, 8, 8] and "folds" not in split
        assert [len(split["val"][c]) for c in split["classes"]] == [2, 2, 2]
        assert history(tmp_path / name)[-1]["step"] == 6 * 3
    assert history(tmp_path / "share") == history(tmp_path / "folds")


@pytest.mark.parametrize("others", [["--val", "0.3"], ["--unfreeze", "all"], ["--no-cache"]])
def test_folds_need_features_and_no_validation_images(
    others: list[str], images: Path, tmp_path: Path, tlkit: Run
) -> None:
    refused = tlkit(*finetune_arguments(images, tmp_path / "run", "--folds", 4, *others))
    assert refused.status == 2 and "--folds 4" in refused.err and others[0] in refused.err


def test_folds_and_a_folder_with_validation_images(tmp_path: Path, tlkit: Run) -> None:
    write_folder(tmp_path / "data" / "train", 6)
    write_folder(tmp_path / "data" / "val", 3, first_seed=500)
    refused = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run", "--folds", 4))
    assert refused.status == 2 and "--folds 4" in refused.err and "validation images" in refused.err
    assert tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run")).status == 0
    assert "folds" not in json.loads((tmp_path / "run" / "split.json").read_text())


def test_a_checkpoint_opens_safely_and_holds_the_head_alone(finished_run: Path) -> None:
    content = torch.load(finished_run / "checkpoints" / "last.pt", weights_only=True)
    assert {"format", "version", "epoch", "step", "model_state_dict", "optimizer_state_dict", "loss", "metrics",
            "options", "classes", "preprocessing", "backbone", "checksum"} <= content.keys()  # fmt: skip
    folds = {f"folds.{number}.{name}" for number in range(5) for name in ("weight", "bias")}
    head = {"head.layers.weight", "head.layers.bias", "head.mean", "head.std"}
    assert content["model_state_dict"].keys() == head | folds
    assert content["backbone"]["source"] == "timm" and len(content["backbone"]["sha256"]) == 64
    assert (finished_run / "checkpoints" / "last.pt").stat().st_size < 50_000
    model = torch.load(finished_run / "model.pt", weights_only=True)
    assert model["classes"] == ["blue", "green", "red"]


def test_vectors_and_images_give_the_same_head(images: Path, tmp_path: Path, tlkit: Run) -> None:
    assert tlkit(*finetune_arguments(images, tmp_path / "cached", "--folds", 1)).status == 0
    assert tlkit(*finetune_arguments(images, tmp_path / "uncached", "--no-cache")).status == 0
    cached, uncached = head_of(tmp_path / "cached"), head_of(tmp_path / "uncached")
    for name, tensor in cached.items():
        torch.testing.assert_close(uncached[name], tensor, rtol=1e-5, atol=1e-5)
    for left, right in zip(history(tmp_path / "cached"), history(tmp_path / "uncached"), strict=True):
        assert left == pytest.approx(right, abs=1e-5)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(images: Path, tmp_path: Path, tlkit: Run) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert tlkit(*finetune_arguments(images, tmp_path / name, "--seed", seed, "--val", images)).status == 0
    assert digest(head_of(tmp_path / "a")) == digest(head_of(tmp_path / "b"))
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert digest(head_of(tmp_path / "a")) != digest(head_of(tmp_path / "c"))


def test_train_and_val_folders_and_more_workers(tmp_path: Path, tlkit: Run) -> None:
    write_folder(tmp_path / "data" / "train", 6)
    write_folder(tmp_path / "data" / "val", 3, first_seed=500)
    for workers in (0, 3):
        arguments = finetune_arguments(tmp_path / "data", tmp_path / f"run{workers}", "--workers", workers)
        result = tlkit(*arguments)
        assert result.status == 0
        assert "18 training images, 9 validation images" in result.err
    assert digest(head_of(tmp_path / "run0")) == digest(head_of(tmp_path / "run3"))


@pytest.mark.parametrize(
    "options",
    [
        ["--head", "mlp", "--hidden", 16, "--label-smoothing", 0.1],
        ["--optimizer", "sgd", "--schedule", "step", "--class-weights", "balanced"],
        ["--augment", "strong", "--schedule", "constant"],
        ["--unfreeze", "layer4", "--augment", "light", "--epochs", 12],
        ["--metric", "macro_f1", "--image-size", 96],
        ["--metric", "loss", "--patience", 2, "--keep-checkpoints", 1],
    ],
    ids=lambda options: "".join(map(str, options)),
)
def test_every_way_to_train_learns_and_predicts(
    options: list[object], images: Path, tmp_path: Path, tlkit: Run
) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run", *options))
    assert result.status == 0
    best = json.loads((tmp_path / "run" / "status.json").read_text())["best"]
    assert best["val_accuracy"] >= 5 / 6
    predicted = tlkit("predict", tmp_path / "run", images / "red")
    assert predicted.status == 0
    assert predicted.out.count("\tred\t") >= 8


@pytest.mark.parametrize("metric", [name for name in METRIC_NAMES if name not in ("accuracy", "loss", "macro_f1")])
def test_a_metric_decides_and_is_shown_everywhere(metric: str, images: Path, tmp_path: Path, tlkit: Run) -> None:
    trained = tlkit(*finetune_arguments(images, tmp_path / "run", "--epochs", 3, "--metric", metric))
    assert trained.status == 0
    label = METRICS[metric].label
    assert f"{label} " in trained.err
    assert any(f"_{metric}_" in path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert tlkit("resume", tmp_path / "run", "--epochs", 5).status == 0
    rows = history(tmp_path / "run")
    best = json.loads((tmp_path / "run" / "status.json").read_text())["best"]
    assert len(rows) == 5
    assert best["epoch"] == max(rows, key=lambda row: (row[f"val_{metric}"], -row["val_loss"]))["epoch"]
    assert label in (tmp_path / "run" / "report.html").read_text()
    measured = json.loads(tlkit("evaluate", tmp_path / "run", images, "--format", "json").out)
    assert measured[metric] == pytest.approx(best[f"val_{metric}"], abs=1e-12)
    assert label in tlkit("evaluate", tmp_path / "run", images).out


def test_augmentation_and_unfreezing_change_what_is_learnt(images: Path, tmp_path: Path, tlkit: Run) -> None:
    plain = tlkit(*finetune_arguments(images, tmp_path / "plain", "--epochs", 2))
    augmented = tlkit(*finetune_arguments(images, tmp_path / "augmented", "--epochs", 2, "--augment", "light"))
    unfrozen = tlkit(*finetune_arguments(images, tmp_path / "unfrozen", "--epochs", 2, "--unfreeze", "layer4"))
    assert plain.status == augmented.status == unfrozen.status == 0
    assert digest(head_of(tmp_path / "plain")) != digest(head_of(tmp_path / "augmented"))
    names = head_of(tmp_path / "unfrozen").keys()
    assert any(name.startswith("backbone.layer4.") for name in names)
    assert not any(name.startswith(("backbone.layer3.", "backbone.fc.")) for name in names)


def test_early_stopping_stops(images: Path, tmp_path: Path, tlkit: Run) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run", "--epochs", 50, "--patience", 2, "--learning-rate", 0))
    assert result.status == 0
    rows = history(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_the_folder_is_numbered_when_it_is_taken(
    images: Path, tmp_path: Path, tlkit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["finetune", images, "--backbone", BACKBONE, "--weights", "none", "--epochs", 1]
    assert tlkit(*arguments).out == "runs/colours-test_resnet/model.pt\n"
    assert tlkit(*arguments).out == "runs/colours-test_resnet-2/model.pt\n"


def test_bad_images_are_named_together_or_skipped(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "red" / "text.jpg").write_text("this is no picture")
    whole = (data / "blue" / "03.png").read_bytes()
    (data / "blue" / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = tlkit(*finetune_arguments(data, tmp_path / "strict"))
    assert result.status == 65
    assert result.err.splitlines()[1].startswith(f"tlkit finetune: {data}: 2 images of 32 cannot be read")
    assert "text.jpg" in result.err and "cut.png" in result.err
    assert not (tmp_path / "strict").exists()
    result = tlkit(*finetune_arguments(data, tmp_path / "lenient", "--skip-bad"))
    assert result.status == 3
    assert result.out == f"{tmp_path}/lenient/model.pt\n"
    skipped = [json.loads(line) for line in (tmp_path / "lenient" / "skipped.jsonl").read_text().splitlines()]
    assert sorted(row["code"] for row in skipped) == ["image_truncated", "not_an_image"]
    assert json.loads((tmp_path / "lenient" / "status.json").read_text())["exit_code"] == 3


def test_damage_in_the_middle_of_a_file_is_found_before_training(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    damage(data / "red" / "01.png")
    result = tlkit(*finetune_arguments(data, tmp_path / "run"))
    assert result.status == 65 and "01.png" in result.err
    result = tlkit(*finetune_arguments(data, tmp_path / "run2", "--skip-bad"))
    assert result.status == 3
    assert json.loads((tmp_path / "run2" / "split.json").read_text())["train"]["red"].count("01.png") == 0


def damage(file: Path) -> None:
    """Change a byte where only decoding finds it."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def test_all_skipped_images_are_listed_wherever_they_were_found(images: Path, tmp_path: Path, tlkit: Run) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data)
    (data / "red" / "text.jpg").write_text("this is no picture")
    damage(data / "red" / "01.png")
    assert tlkit(*finetune_arguments(data, tmp_path / "run", "--skip-bad")).status == 3
    skipped = [json.loads(line) for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()]
    assert sorted(Path(row["path"]).name for row in skipped) == ["01.png", "text.jpg"]
    finished = tlkit("resume", tmp_path / "run")
    assert finished.status == 3 and finished.out == f"{tmp_path}/run/model.pt\n"


def test_a_run_that_failed_early_leaves_nothing_though_images_were_skipped(
    images: Path, tmp_path: Path, tlkit: Run
) -> None:
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "red" / "text.jpg").write_text("this is no picture")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    arguments = finetune_arguments(tmp_path / "data", tmp_path / "run", "--skip-bad")
    assert tlkit(*arguments, "--weights", tmp_path / "other.pth").status == 78
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("everything", [False, True])
def test_damaged_images_are_found_before_any_epoch_when_images_are_fed(
    everything: bool, images: Path, tmp_path: Path, tlkit: Run
) -> None:
    for part in ("train", "val"):
        shutil.copytree(images, tmp_path / "data" / part)
    for file in (tmp_path / "data").rglob("*.png") if everything else [tmp_path / "data/val/red/01.png"]:
        damage(file)
    strict = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "strict", "--no-cache"))
    assert strict.status == 65 and "01.png" in strict.err and "epoch" not in strict.err
    lenient = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run", "--no-cache", "--skip-bad"))
    assert lenient.status == (65 if everything else 3), lenient.err
    assert "unexpected" not in lenient.err


def test_options_that_would_be_ignored_are_refused(images: Path, tmp_path: Path, tlkit: Run) -> None:
    for part in ("train", "val"):
        shutil.copytree(images, tmp_path / "data" / part)
    share = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run", "--val", "0.5"))
    assert share.status == 2 and f"{tmp_path}/data/val" in share.err
    nothing = tlkit(*finetune_arguments(images, tmp_path / "run", "--unfreeze", "fc"))
    assert nothing.status == 2 and "--unfreeze: 'fc' adds no trainable parameters" in nothing.err
    assert not (tmp_path / "run").exists()


def test_what_is_not_here_is_told_before_the_images_are_read(images: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copytree(images, tmp_path / "data")
    (tmp_path / "data" / "red" / "text.jpg").write_text("this is no picture")
    arguments = finetune_arguments(tmp_path / "data", tmp_path / "run")
    assert tlkit(*arguments, "--weights", tmp_path / "none.pth").status == 66
    assert tlkit(*arguments, "--device", "cuda:99").status == 69


def test_bad_folders(images: Path, tmp_path: Path, tlkit: Run) -> None:
    (tmp_path / "empty").mkdir()
    write_image(tmp_path / "loose" / "a.png", (1, 2, 3), 0)
    shutil.copytree(images / "red", tmp_path / "one" / "red")
    shutil.copytree(images, tmp_path / "hollow")
    (tmp_path / "hollow" / "white").mkdir()
    write_folder(tmp_path / "differ" / "train", 2)
    shutil.copytree(images / "red", tmp_path / "differ" / "val" / "pink")
    expected = {"missing": 66, "empty": 65, "loose": 65, "one": 65, "hollow": 65, "differ": 65}
    for name, status in expected.items():
        result = tlkit(*finetune_arguments(tmp_path / name, tmp_path / "run"))
        assert result.status == status, name
        assert result.err.startswith(f"tlkit finetune: {tmp_path / name}"), result.err
        assert result.out == ""
    assert not (tmp_path / "run").exists()


def test_a_class_with_one_image_is_trained_on_and_said(images: Path, tmp_path: Path, tlkit: Run) -> None:
    shutil.copytree(images, tmp_path / "data")
    write_image(tmp_path / "data" / "white" / "only.png", (250, 250, 250), 1)
    result = tlkit(*finetune_arguments(tmp_path / "data", tmp_path / "run"))
    assert result.status == 0
    assert "class 'white' has only one image" in result.err


def test_a_run_folder_in_use_and_outputs_that_cannot_be(
    images: Path, finished_run: Path, tmp_path: Path, tlkit: Run
) -> None:
    before = digest([f.read_bytes().hex() for f in sorted(finished_run.rglob("*")) if f.is_file()])
    with RunFolder(str(finished_run)).locked():
        assert tlkit(*finetune_arguments(images, finished_run)).status == 73
        assert tlkit("resume", finished_run).status == 73
    taken = tlkit(*finetune_arguments(images, finished_run))
    assert taken.status == 73 and "already contains a run" in taken.err
    assert before == digest([f.read_bytes().hex() for f in sorted(finished_run.rglob("*")) if f.is_file()])
    (tmp_path / "file").write_text("mine")
    assert tlkit(*finetune_arguments(images, tmp_path / "file")).status == 73
    assert tlkit(*finetune_arguments(images, tmp_path / "file" / "below")).status == 73
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.tex").write_text("mine")
    assert tlkit(*finetune_arguments(images, tmp_path / "strange")).status == 73
    assert os.listdir(tmp_path / "strange") == ["thesis.tex"]


def test_unknown_backbones_and_wrong_weights(images: Path, tmp_path: Path, tlkit: Run) -> None:
    common = ["finetune", images, "--out", tmp_path / "run"]
    unknown = tlkit(*common, "--backbone", "resnet51")
    assert unknown.status == 2 and "resnet50" in unknown.err
    other = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    wrong = tlkit(*common, "--backbone", BACKBONE, "--weights", other)
    assert wrong.status == 78 and "1 unexpected: conv.weight" in wrong.err
    missing = tlkit(*common, "--backbone", BACKBONE, "--weights", tmp_path / "none.pth")
    assert missing.status == 66
    (tmp_path / "text.pth").write_text("no weights")
    assert tlkit(*common, "--backbone", BACKBONE, "--weights", tmp_path / "text.pth").status == 65
    assert not (tmp_path / "run").exists()


DIVERGES = ["--optimizer", "sgd", "--learning-rate", 1e6, "--weight-decay", 1e6, "--batch-size", 3]


def test_a_loss_that_is_no_number_stops_the_run(images: Path, tmp_path: Path, tlkit: Run) -> None:
    result = tlkit(*finetune_arguments(images, tmp_path / "run", *DIVERGES))
    assert result.status == 65
    assert "the loss is" in result.err and "learning rate" in result.err
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_the_status_says_how_far_a_run_came(images: Path, finished_run: Path, tmp_path: Path, tlkit: Run) -> None:
    status = json.loads((finished_run / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["epoch"]) == ("finished", 0, 6)
    assert tlkit(*finetune_arguments(images, tmp_path / "run", *DIVERGES)).status == 65
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["epoch"]) == ("failed", 65, 0)


def test_debug_adds_a_traceback_and_changes_no_status(tmp_path: Path, tlkit: Run) -> None:
    plain = tlkit("finetune", tmp_path / "nowhere")
    debugged = tlkit("finetune", tmp_path / "nowhere", "--debug")
    assert plain.status == debugged.status == 66
    assert debugged.err.startswith(plain.err) and "Traceback" in debugged.err


def test_weights_that_give_equal_features_are_an_error(images: Path, tmp_path: Path, tlkit: Run) -> None:
    import timm
    from safetensors.torch import save_file

    state = timm.create_model("test_resnet").state_dict()
    save_file({name: torch.zeros_like(tensor) for name, tensor in state.items()}, tmp_path / "zero.safetensors")
    found = tlkit(*finetune_arguments(images, tmp_path / "run", "--weights", tmp_path / "zero.safetensors"))
    assert found.status == 65
    assert "timm/test_resnet: the features are the same for all training images" in found.err
    assert f"tlkit check {images}" in found.err


def test_unfrozen_layers_with_random_weights_start_with_small_losses(images: Path, tmp_path: Path, tlkit: Run) -> None:
    """The features of batches are hundreds of times as large as those of running statistics that were never updated."""
    more = ("--backbone", "timm/test_efficientnet", "--unfreeze", "all", "--image-size", 32, "--epochs", 1)
    found = tlkit(*finetune_arguments(images, tmp_path / "run", *more))
    assert found.status == 0 and "the running statistics of BatchNorm do not fit" in found.err
    (row,) = map(json.loads, (tmp_path / "run" / "history.jsonl").read_text().splitlines())
    assert row["train_loss"] < 3
