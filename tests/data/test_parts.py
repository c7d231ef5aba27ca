"""Parts of data sets under the names that people give them, what is no class, and class names that nearly agree."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.data.test_folder import fill, names, numbered
from tlkit.data.class_folders import Rules, is_labelled, read_dataset, read_labelled
from tlkit.data.class_names import matched, nearly_equal
from tlkit.data.listing import LeftOut, find_images, is_hidden, subfolders
from tlkit.data.parts import find_parts, parse, recognize
from tlkit.data.sources import find_dataset, find_training_set
from tlkit.errors import DataError
from tlkit.options import FinetuneOptions

TRAIN = [
    "train", "Train", "TRAIN", "training", "Training", "trainset", "train_set", "train-set", "TrainSet",
    "Train_Set", "training_set", "TrainingSet", "training-set", "train_data", "TrainData", "traindata",
    "train_images", "train_imgs", "images_train", "trainImages", "train_dir", "tr", "Tr", "trn", "train2017",
    "train_2014", "trainval", "data_train", "dataset_train", "TRAINING_SET", "train_split", "train.images",
]  # fmt: skip
VAL = [
    "val", "Val", "VAL", "valid", "Valid", "validation", "Validation", "validate", "valset", "val_set", "ValSet",
    "validation_set", "valid_data", "val2017", "val_images", "dev", "Dev", "devset", "dev_set", "development",
    "eval", "Eval", "evaluation", "Evaluation", "eval_set", "validation-images",
]  # fmt: skip
TEST = [
    "test", "Test", "TEST", "testing", "Testing", "testset", "test_set", "TestSet", "Test_Set", "testing_set",
    "test_images", "test_data", "tst", "te", "ts", "test1", "holdout", "hold-out", "held_out", "images_test",
    "testdir", "test2017", "test_imgs",
]  # fmt: skip


@pytest.mark.parametrize(("part", "spellings"), [("train", TRAIN), ("val", VAL), ("test", TEST)])
def test_names_of_parts(part: str, spellings: list[str]) -> None:
    found = {name: parse(name) for name in spellings}
    assert {name: one and (one.part, one.rest) for name, one in found.items()} == dict.fromkeys(spellings, (part, ()))


@pytest.mark.parametrize(
    "name", ["trains", "trainer", "strain", "tester", "value", "valley", "evil", "cat", "2017", "", "set", "train_test"]
)
def test_names_of_no_part(name: str) -> None:
    assert parse(name) is None


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["train", "val", "test"], {"train": "train", "val": "val", "test": "test"}),
        (["training", "validation", "evaluation"], {"train": "training", "val": "validation", "test": "evaluation"}),
        (["Train", "Eval"], {"train": "Train", "val": "Eval"}),
        (["seg_train", "seg_test", "seg_pred"], {"train": "seg_train", "test": "seg_test"}),
        (["asl_alphabet_train", "asl_alphabet_test"], {"train": "asl_alphabet_train", "test": "asl_alphabet_test"}),
        (["train", "train_masks", "valid"], {"train": "train", "val": "valid"}),
        (["val", "validation", "train"], {"train": "train", "val": "val"}),
        (["toy train", "toy car"], {}),
        (["cat", "dog"], {}),
    ],
)
def test_parts_among_names(folders: list[str], expected: dict[str, str]) -> None:
    assert recognize(folders) == expected


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("Training", None, "Testing"), ("TRAIN", "VALID", "TEST"), ("train_set", "dev", "test_set"), ("tr", "val", "te")],
)
def test_parts_are_read(train: str, val: str | None, test: str, tmp_path: Path) -> None:
    for part, count in ((train, 5), (val, 2), (test, 3)):
        if part is not None:
            fill(tmp_path, *numbered(f"{part}/cat", count), *numbered(f"{part}/dog", count))
    data = read_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog") and data.warnings == ()
    assert (len(data.train), len(data.val)) == ((10, 4) if val else (8, 2))
    assert all(name.startswith(f"{train}/") for name in names(data.train, tmp_path))
    assert find_parts(str(tmp_path)).test == str(tmp_path / test)


def test_parts_unpacked_into_folders_of_the_same_name(tmp_path: Path) -> None:
    for part in ("seg_train/seg_train", "seg_test/seg_test"):
        fill(tmp_path, *numbered(f"{part}/sea", 5), *numbered(f"{part}/wood", 5))
    fill(tmp_path, "seg_pred/seg_pred/1.png")
    data = read_dataset(str(tmp_path))
    assert data.classes == ("sea", "wood")
    assert data.warnings == ("ignored folders beside train: 'seg_pred'",)
    assert find_parts(str(tmp_path)).test == str(tmp_path / "seg_test/seg_test")


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    for classes in (["train", "plane"], ["te", "tr"], ["tr", "de", "fr"], ["dev", "ops"], ["Test", "Prod"]):
        root = tmp_path / classes[0]
        fill(root, *(name for one in classes for name in numbered(one, 2)))
        assert read_dataset(str(root)).classes == tuple(sorted(classes))
    assert find_parts(str(tmp_path / "Test"), ["Prod", "Test"]).test is None


def test_no_folder_beside_the_parts_vanishes_unsaid(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("Train/a", 3), *numbered("Train/b", 3), *numbered("Training/a", 3), "Test/a/1.png")
    assert read_dataset(str(tmp_path)).warnings == ("ignored folders beside train: 'Training'",)


def test_a_class_that_is_a_data_set_is_refused_with_the_command(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("my insects/Train/bee", 3), *numbered("my insects/Train/ant", 3), *numbered("photos", 3))
    with pytest.raises(DataError, match="'my insects/Train'") as refused:
        read_dataset(str(tmp_path))
    command = next(line for line in refused.value.hint.splitlines() if "tlkit finetune" in line)
    folder = shlex.split(command.partition("tlkit finetune ")[2])[0]
    assert read_dataset(folder).classes == ("ant", "bee")


def test_parts_inside_of_classes_are_refused_and_the_command_rearranges_them(tmp_path: Path) -> None:
    data = tmp_path / "my data"
    fill(data, *(n for c in ("cat", "dog") for p in ("train", "val") for n in numbered(f"{c}/{p}", 3)))
    with pytest.raises(DataError, match="parts of a data set") as refused:
        read_dataset(str(data))
    line = next(line for line in refused.value.hint.splitlines() if "for d in" in line)
    subprocess.run(["bash", "-c", line.partition(": ")[2]], check=True)
    arranged = read_dataset(f"{data}-parts")
    assert (arranged.classes, len(arranged.train), len(arranged.val)) == (("cat", "dog"), 6, 6)
    assert len(read_dataset(str(data), rules=Rules(merge=True)).train) == 10


def test_classes_with_the_same_subfolders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, *(n for site in ("north", "south") for c in ("cat", "dog") for n in numbered(f"{site}/{c}", 4)))
    with pytest.raises(
        DataError, match=r"\('north', 'south'\) contain the same subfolders \('cat', 'dog'\)"
    ) as refused:
        read_dataset(str(tmp_path))
    assert f"tlkit finetune {tmp_path}/north --val {tmp_path}/south" in refused.value.hint
    data = read_dataset(f"{tmp_path}/north", val=f"{tmp_path}/south")
    assert (data.classes, len(data.train), len(data.val)) == (("cat", "dog"), 8, 8)
    assert read_dataset(str(tmp_path), rules=Rules(merge=True)).classes == ("north", "south")
    nested = read_dataset(str(tmp_path), rules=Rules(nested=True))
    assert nested.classes == ("north/cat", "north/dog", "south/cat", "south/dog")


def test_one_subfolder_or_images_beside_it_are_no_problem(tmp_path: Path) -> None:
    """Tiny ImageNet has n01443537/images/."""
    fill(tmp_path / "tiny", *(n for c in ("a", "b") for n in numbered(f"{c}/images", 3)))
    fill(tmp_path / "mixed", *(n for c in ("a", "b") for s in ("", "/x", "/y") for n in numbered(f"{c}{s}", 2)))
    for name in ("tiny", "mixed"):
        data = read_dataset(str(tmp_path / name))
        assert (data.classes, data.warnings) == (("a", "b"), ())


def test_a_single_folder_around_the_classes_is_named_in_the_hint(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("dataset/cat", 3), *numbered("dataset/dog", 3))
    with pytest.raises(DataError, match="only one class folder, 'dataset'") as refused:
        read_dataset(str(tmp_path))
    assert f"tlkit finetune {tmp_path}/dataset" in refused.value.hint


def test_nested_classes_are_said_and_read(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("animal/cat", 5), *numbered("animal/dog", 5), *numbered("thing/car", 5))
    data = read_dataset(str(tmp_path))
    assert data.classes == ("animal", "thing")
    assert len(data.warnings) == 1 and "'animal/cat'" in data.warnings[0] and "--nested" in data.warnings[0]
    nested = read_dataset(str(tmp_path), rules=Rules(nested=True))
    assert nested.classes == ("animal/cat", "animal/dog", "thing/car") and nested.warnings == ()
    samples, _ = read_labelled(str(tmp_path), nested.classes)
    assert [nested.classes[s.label] for s in samples] == [os.path.dirname(n) for n in names(samples, tmp_path)]


# Junk


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "@EADIR", "lost+found", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "__pycache__",
     "__MACOSX", ".ipynb_checkpoints", "#recycle", "@Recycle", "#snapshot", ".Trash-1000", "found.000", "Thumbs.db",
     "ehthumbs.db", "Desktop.ini", ".@__thumb", "LOST.DIR", ".AppleDouble", "RECYCLER", "wandb", "node_modules"],
)  # fmt: skip
def test_junk_is_no_class(name: str, tmp_path: Path) -> None:
    assert is_hidden(name)
    fill(tmp_path, *numbered("cat", 3), *numbered("dog", 3), f"{name}/1.png", f"cat/{name}/SYNO.jpg")
    data = read_dataset(str(tmp_path))
    assert (data.classes, len(data.train) + len(data.val)) == (("cat", "dog"), 6)
    left_out = {} if name.startswith(".") else {name: 2}
    assert dict(data.left_out.folders) == left_out


@pytest.mark.parametrize("name", ["recycled", "$20", "lost", "trash", "tmp", "cache", "thumbs", "Windows", "system"])
def test_words_that_may_be_classes_are_no_junk(name: str) -> None:
    assert not is_hidden(name)


def test_left_out_files_are_counted_by_suffix(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("train/cat", 3), *numbered("train/dog", 3), "train/stray.png", "cat/@eaDir/1.png")
    for name in ("train/cat/a.TXT", "train/dog/b.txt", "train/cat/deep/c.xml", "train/labels", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    os.rename(tmp_path / "cat" / "@eaDir", tmp_path / "train" / "cat" / "@eaDir")
    (tmp_path / "cat").rmdir()
    left_out = read_dataset(str(tmp_path)).left_out
    assert left_out.suffixes == {".txt": 2, ".xml": 1, ".md": 1, "": 1}
    assert str(left_out) == (
        "1 image outside of the class folders, 2 (.txt), 1 (no suffix), 1 (.md), 1 (.xml), 1 in @eaDir"
    )


def test_nothing_left_out_says_nothing(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("cat", 3), *numbered("dog", 3), "cat/.DS_Store")
    (tmp_path / "Thumbs.db").touch()
    assert str(read_dataset(str(tmp_path)).left_out) == "" == str(LeftOut())


def test_many_kinds_are_cut_short() -> None:
    left_out = LeftOut()
    left_out.suffixes.update({f".{number}": 20 - number for number in range(15)})
    assert str(left_out).startswith("20 files (.0), 19 (.1), ") and str(left_out).endswith(", 5 more kinds")


@pytest.mark.parametrize("files", [[".lock"], ["options.json"], ["search.json", ".lock"]])
@pytest.mark.parametrize("place", ["runs/data-resnet", "out/deep/run", "run", "cat/run"])
def test_runs_of_tlkit_are_no_classes(place: str, files: list[str], tmp_path: Path) -> None:
    fill(tmp_path, *numbered("cat", 3), *numbered("dog", 3), f"{place}/report.png")
    (tmp_path / place / ("trials" if "search.json" in files else "checkpoints")).mkdir()
    for name in files:
        (tmp_path / place / name).touch()
    data = read_dataset(str(tmp_path))
    assert (data.classes, len(data.train) + len(data.val), data.warnings) == (("cat", "dog"), 6, ())
    assert len([*find_images(str(tmp_path))]) == 6
    fill(tmp_path, "train/1.png")
    assert "train" in subfolders(str(tmp_path))


def test_a_run_beside_the_parts_is_not_mentioned(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("train/cat", 3), *numbered("train/dog", 3))
    (tmp_path / "runs" / "one" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "options.json").touch()
    data = read_dataset(str(tmp_path))
    assert (data.classes, data.warnings) == (("cat", "dog"), ())


# Class names


def test_names_that_nearly_agree() -> None:
    assert matched(["Cat", "DOG", "gold_fish"], ["cat", "dog", "gold fish"]) == {
        "Cat": "cat", "DOG": "dog", "gold_fish": "gold fish",
    }  # fmt: skip
    assert matched(["cats", "dog"], ["cat", "dog"]) == {"cats": "cat", "dog": "dog"}
    assert matched(["Cat", "cat"], ["cat"]) == {"cat": "cat"}
    assert matched(["CAT"], ["Cat", "cat"]) == {}
    assert matched(["cafe\u0301"], ["caf\u00e9"]) == {"cafe\u0301": "caf\u00e9"}
    assert nearly_equal(["a", "as", "b", "glass", "1.0", "10", "C", "C++"]) == []
    assert nearly_equal(["Cat", "cats", "dog"]) == [("Cat", "cats")]


def test_names_that_nearly_agree_are_matched_between_parts(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *numbered("train/cat", 3),
        *numbered("train/dog", 3),
        *numbered("val/Cat", 2),
        *numbered("val/dogs", 2),
    )
    data = read_dataset(str(tmp_path))
    assert [(os.path.dirname(n), s.label) for n, s in zip(names(data.val, tmp_path), data.val, strict=True)] == [
        ("val/Cat", 0), ("val/Cat", 0), ("val/dogs", 1), ("val/dogs", 1),
    ]  # fmt: skip
    assert data.warnings == (f"folders of {tmp_path}/val matched to classes: 'Cat' is 'cat', 'dogs' is 'dog'",)


def test_a_misspelled_class_is_refused_with_the_command(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("train/giraffe", 3), *numbered("train/dog", 3), "val/girafe/1.png", "val/dog/1.png")
    with pytest.raises(DataError, match="'girafe'; missing class folders: 'giraffe'") as refused:
        read_dataset(str(tmp_path))
    subprocess.run(shlex.split(refused.value.hint.partition(": ")[2]), check=True)
    assert len(read_dataset(str(tmp_path)).val) == 2


def test_names_that_nearly_agree_in_one_part_are_said(tmp_path: Path) -> None:
    fill(tmp_path, *(n for name in ("Cat", "cat", "dog") for n in numbered(name, 3)))
    data = read_dataset(str(tmp_path))
    assert len(data.classes) == 3
    assert data.warnings[0].startswith("these classes have nearly the same name: 'Cat' and 'cat'.")


def test_imbalance_is_said_with_the_baseline(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("many", 60), *numbered("few", 10))
    (warning,) = find_dataset(FinetuneOptions(data=str(tmp_path))).warnings
    assert "class 'many' has 48 training images, class 'few' only 8" in warning
    assert "always predicting 'many' has an accuracy of 0.8571" in warning and "--class-weights balanced" in warning
    (warning,) = find_training_set(FinetuneOptions(data=str(tmp_path))).warnings
    assert "class 'many' has 60 training images, class 'few' only 10" in warning  # all of them train
    fill(tmp_path / "even", *numbered("a", 50), *numbered("b", 10))
    assert find_dataset(FinetuneOptions(data=str(tmp_path / "even"))).warnings == ()


# Unlabelled test images


@pytest.mark.parametrize(
    ("files", "labelled"),
    [(["1.png"], False), (["unknown/1.png"], False), (["test/1.png"], False), (["Cat/1.png"], True),
     (["cat/1.png"], True), (["lion/1.png", "tiger/1.png"], True), ([], False)],
)  # fmt: skip
def test_unlabelled_folders(files: list[str], labelled: bool, tmp_path: Path) -> None:
    assert is_labelled(str(fill(tmp_path, *files)), ["cat", "dog"]) is labelled
