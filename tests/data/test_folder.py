"""Folders as users have them, and how they are divided."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.data.odd_images import BAD, encoded
from tlkit.data.class_folders import Rules, read_dataset, read_labelled
from tlkit.data.folder import Dataset
from tlkit.data.listing import find_images
from tlkit.data.parts import find_parts
from tlkit.errors import DataError, MissingInputError, UsageError

IMAGE = encoded("PNG")


def fill(root: Path, *names: str) -> Path:
    """Write an image at each of these places."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(IMAGE)
    return root


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}/{number:03d}.png" for number in range(count)]


def two_classes(root: Path, count: int = 10) -> Path:
    return fill(root, *numbered("cat", count), *numbered("dog", count))


def relative(paths: Iterable[str], root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in paths]


def names(samples: Iterable[tuple[str, int]], root: Path) -> list[str]:
    return relative((path for path, _ in samples), root)


# Shapes


def test_class_folders_are_divided_class_by_class(tmp_path: Path) -> None:
    data = read_dataset(str(two_classes(tmp_path)))
    assert data.classes == ("cat", "dog")
    assert len(data.train) == 16 and len(data.val) == 4
    assert [sum(label == k for _, label in data.val) for k in (0, 1)] == [2, 2]
    assert not set(data.train) & set(data.val)
    assert data.warnings == ()


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_train_and_validation_folders_are_taken_as_they_are(validation: str, tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/a/2.png", "train/b/1.png", f"{validation}/a/3.png", f"{validation}/b/4.png")
    fill(tmp_path, "test/a/5.png")
    data = read_dataset(str(tmp_path))
    assert names(data.train, tmp_path) == ["train/a/1.png", "train/a/2.png", "train/b/1.png"]
    assert names(data.val, tmp_path) == [f"{validation}/a/3.png", f"{validation}/b/4.png"]
    assert data.classes == ("a", "b")
    assert find_parts(str(tmp_path)).test == str(tmp_path / "test")


def test_a_train_folder_alone_is_divided(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    data = read_dataset(str(tmp_path), val=0.3)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val)) == (14, 6)


def test_other_folders_beside_train_and_validation_are_left_out_and_said(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png", "raw/1.png")
    data = read_dataset(str(tmp_path))
    assert data.classes == ("a", "b")
    assert data.warnings == ("ignored folders beside train: 'raw'",)


def test_a_share_does_not_go_with_a_validation_folder(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "valid/a/2.png", "valid/b/2.png")
    with pytest.raises(UsageError, match="valid, which contains the validation images"):
        read_dataset(str(tmp_path), val=0.2)


def test_train_may_also_be_the_name_of_a_class(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("train", 3), *numbered("plane", 3))
    assert read_dataset(str(tmp_path)).classes == ("plane", "train")


def test_validation_from_another_folder(tmp_path: Path) -> None:
    two_classes(tmp_path / "data", 3)
    two_classes(tmp_path / "other", 2)
    data = read_dataset(str(tmp_path / "data"), val=str(tmp_path / "other"))
    assert len(data.train) == 6
    assert names(data.val, tmp_path / "other") == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]


# What counts as an image


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    two_classes(tmp_path, 2)
    fill(tmp_path, ".ipynb_checkpoints/x.png", "cat/.hidden.png", "cat/._000.png", "cat/.thumbs/x.png", ".git/x.png")
    fill(tmp_path, "cat/Thumbs.db", "__MACOSX/cat/x.png")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"\0")
    data = read_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.val) == 4


def test_images_are_known_by_content_and_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "without_suffix", "odd.xyz", "upper.PNG")
    (tmp_path / "text.jpg").write_text("meant as an image, and to be complained of")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "labels.csv").write_text("a,b")
    BAD["damaged.heic"][1](tmp_path / "photo.heic")
    assert relative(find_images(str(tmp_path)), tmp_path) == [
        "odd.xyz", "photo.heic", "text.jpg", "upper.PNG", "without_suffix",
    ]  # fmt: skip


def test_folders_in_a_class_are_searched_in_byte_order(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.png", "b/10.png", "a.png", "B.png", "é.png", "b/deep/er/1.png")
    expected = ["B.png", "a.png", "b/10.png", "b/2.png", "b/deep/er/1.png", "é.png"]
    assert relative(find_images(str(tmp_path)), tmp_path) == expected


def test_each_real_file_is_found_once(tmp_path: Path) -> None:
    fill(tmp_path, "real/1.png", "real/2.png")
    (tmp_path / "real" / "again").symlink_to(tmp_path / "real")
    (tmp_path / "other").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    assert len(list(find_images(str(tmp_path)))) == 2


def test_links_to_images_elsewhere_are_followed(tmp_path: Path) -> None:
    fill(tmp_path, "store/1.png", "store/2.png")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "linked.png").symlink_to(tmp_path / "store" / "1.png")
    (tmp_path / "cat" / "folder").symlink_to(tmp_path / "store")
    found = relative(find_images(str(tmp_path / "cat")), tmp_path)
    assert found == ["cat/folder/1.png", "cat/folder/2.png"]


def test_links_into_hidden_folders_are_followed(tmp_path: Path) -> None:
    """git-annex keeps files so."""
    fill(tmp_path, ".git/annex/1.png", ".git/annex/2.png")
    for number, name in enumerate(["cat", "dog"], start=1):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.png").symlink_to(f"../.git/annex/{number}.png")
    assert relative(find_images(str(tmp_path)), tmp_path) == ["cat/image.png", "dog/image.png"]


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    two_classes(tmp_path / "store", 4)
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / f"my {name}").symlink_to(tmp_path / "store" / name)
    data = read_dataset(str(tmp_path / "data"))
    assert data.classes == ("my cat", "my dog")
    assert len(data.train) + len(data.val) == 8


def test_links_that_lead_nowhere_are_found_to_be_reported(tmp_path: Path) -> None:
    for name in ("loop.jpg", "dangling.jpg"):
        BAD[name][1](tmp_path / name)
    (tmp_path / "loop").symlink_to("loop")
    assert relative(find_images(str(tmp_path)), tmp_path) == ["dangling.jpg", "loop.jpg"]


def test_folders_nested_more_deeply_than_python_calls_are_searched(tmp_path: Path) -> None:
    deepest = str(tmp_path)
    for _ in range(sys.getrecursionlimit() + 100):
        deepest += "/d"
        os.mkdir(deepest)
    image = f"{deepest}/1.png"
    with open(image, "wb") as file:
        file.write(b"x")
    found = list(find_images(str(tmp_path)))
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own cleaning up is recursive
    assert found == [image]


def test_a_chain_of_links_that_the_system_does_not_follow_is_found_to_be_reported(tmp_path: Path) -> None:
    length = sys.getrecursionlimit() + 100
    for number in range(length):
        (tmp_path / f"{number}.png").symlink_to(f"{number + 1}.png")
    (tmp_path / f"{length}.png").write_bytes(b"x")
    found = relative(find_images(str(tmp_path)), tmp_path)
    assert f"{length}.png" in found and "0.png" in found


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path, "1.png")
    os.link(tmp_path / "1.png", tmp_path / "2.png")
    assert relative(find_images(str(tmp_path)), tmp_path) == ["1.png", "2.png"]


def test_a_folder_that_cannot_be_listed_is_found_to_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_classes(tmp_path, 2)
    listed = os.scandir

    def scandir(folder: str):
        if str(folder).endswith("cat"):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert relative(find_images(str(tmp_path)), tmp_path) == ["cat", "dog/000.png", "dog/001.png"]
    monkeypatch.setattr(os, "scandir", lambda _: listed("/nowhere"))
    with pytest.raises(MissingInputError, match="cannot be read"):
        read_dataset(str(tmp_path))


def test_a_link_loop_ends(tmp_path: Path) -> None:
    """torchvision's ImageFolder makes 41 copies of everything, some of them with the wrong label."""
    two_classes(tmp_path, 2)
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "cat" / "others").symlink_to(tmp_path / "dog")
    (tmp_path / "cat" / "other.png").symlink_to(tmp_path / "dog" / "000.png")
    data = read_dataset(str(tmp_path))
    found = names([*data.train, *data.val], tmp_path)
    assert sorted(found) == ["cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png"]


# Splits


def test_the_split_is_a_function_of_seed_and_names_alone(tmp_path: Path) -> None:
    one, other = two_classes(tmp_path / "one", 50), two_classes(tmp_path / "elsewhere" / "two", 50)
    parts = [names(read_dataset(str(root), seed=3).val, root) for root in (one, other)]
    assert parts[0] == parts[1]
    assert parts[0] != names(read_dataset(str(one), seed=4).val, one)


def test_more_images_move_none_across_more_than_they_must(tmp_path: Path) -> None:
    root = two_classes(tmp_path, 50)
    before = set(names(read_dataset(str(root)).val, root))
    fill(root, *(f"cat/new{number}.png" for number in range(10)))
    after = set(names(read_dataset(str(root)).val, root))
    assert {name for name in before if name.startswith("dog")} == {n for n in after if n.startswith("dog")}
    old = {name for name in after if "new" not in name}
    # Two more images are kept for validation; the ten new ones push out at most as many as they take the places of.
    assert len(before - old) <= 10 - 2
    assert len(old - before) <= 2


def test_removing_a_training_image_moves_at_most_one_other(tmp_path: Path) -> None:
    root = two_classes(tmp_path, 50)
    data = read_dataset(str(root))
    before = set(names(data.val, root))
    os.remove(data.train[0].path)
    after = set(names(read_dataset(str(root)).val, root))
    assert len(before ^ after) <= 1


@pytest.mark.parametrize(("count", "share", "kept"), [(2, 0.2, 1), (3, 0.9, 2), (10, 0.01, 1), (10, 0.25, 2)])
def test_each_class_keeps_an_image_on_either_side(count: int, share: float, kept: int, tmp_path: Path) -> None:
    data = read_dataset(str(two_classes(tmp_path, count)), val=share)
    assert len(data.val) == 2 * kept
    assert {label for _, label in data.train} == {label for _, label in data.val} == {0, 1}


def test_a_class_with_one_image_warns_and_trains(tmp_path: Path) -> None:
    two_classes(tmp_path, 5)
    fill(tmp_path, "owl/1.png")
    data = read_dataset(str(tmp_path))
    assert data.warnings == ("class 'owl' has only one image, so it cannot be validated; add images",)
    assert names((s for s in data.train if s.label == 2), tmp_path) == ["owl/1.png"]


def test_nothing_to_validate_on(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match="no class has two images"):
        read_dataset(str(tmp_path))


def test_a_split_comes_back_from_json(tmp_path: Path) -> None:
    two_classes(tmp_path / "data", 5)
    two_classes(tmp_path / "val", 2)
    for val in (0.2, str(tmp_path / "val")):
        data = read_dataset(str(tmp_path / "data"), val=val)
        again = Dataset.from_split(json.loads(json.dumps(data.to_split())), data.root)
        assert (again.classes, again.train, again.val) == (data.classes, data.train, data.val)


def test_a_split_survives_moving_the_images(tmp_path: Path) -> None:
    data = read_dataset(str(two_classes(tmp_path / "old", 5)))
    (tmp_path / "old").rename(tmp_path / "new")
    again = Dataset.from_split(data.to_split(), str(tmp_path / "new"))
    assert names(again.train, tmp_path / "new") == names(data.train, tmp_path / "old")
    assert all(os.path.exists(path) for path, _ in again.train + again.val)


# Names


def test_classes_stand_in_byte_order_whatever_they_are_called(tmp_path: Path) -> None:
    odd = ["a,b", "con", "tab\there", "line\nbreak", "B", "a", "é", os.fsdecode(b"\xff")]
    for name in odd:
        fill(tmp_path, f"{name}/1.png", f"{name}/2.png")
    data = read_dataset(str(tmp_path))
    assert list(data.classes) == sorted(odd, key=os.fsencode)
    assert [data.classes[s.label] for s in data.train] == [Path(s.path).parent.name for s in data.train]


def test_ten_thousand_classes(tmp_path: Path) -> None:
    for number in range(10_000):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "1.png").touch()
        (folder / "2.png").touch()
    data = read_dataset(str(tmp_path))
    assert (len(data.classes), len(data.train), len(data.val)) == (10_000, 10_000, 10_000)


# Bad folders


def test_missing_folders_are_missing_inputs(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="No such file"):
        read_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(MissingInputError, match="is a file"):
        read_dataset(str(fill(tmp_path, "a.png") / "a.png"))
    with pytest.raises(MissingInputError, match="No such file"):
        read_dataset(str(two_classes(tmp_path / "data")), val=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ([], "contains no images; expected DATA/<class>/image"),
        (["1.png", "2.png"], r"its images \(such as '1.png'\) are not in class folders; expected"),
        (["cat/1.png", "cat/2.png"], "contains only one class folder, 'cat'; a classifier needs at least two"),
        (["train/1.png"], r"its images \(such as '1.png'\) are not in class folders"),
        (["train/a/1.png", "val/a/1.png"], "contains only one class folder, 'a'"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], "missing class folders: 'b'"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/c/1.png"],
            "these folders are not classes of the training images: 'c'",
        ),
    ],
)
def test_folders_that_cannot_be_trained_on(files: list[str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=complaint):
        read_dataset(str(fill(tmp_path, *files)))


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "notes.txt").write_text("to be photographed")
    with pytest.raises(DataError, match="no images in class 'owl'"):
        read_dataset(str(tmp_path))


def test_labelled_images_of_known_classes(tmp_path: Path) -> None:
    two_classes(tmp_path, 2)
    samples, _ = read_labelled(str(tmp_path), ["bird", "cat", "dog"])
    assert [label for _, label in samples] == [1, 1, 2, 2]
    with pytest.raises(
        DataError, match=r"these folders are not classes of the model: 'dog'; the classes are: 'bird', 'cat'"
    ):
        read_labelled(str(tmp_path), ["bird", "cat"])


def test_one_class_where_that_is_allowed(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("cat", 5))
    data = read_dataset(str(tmp_path), rules=Rules(allow_one_class=True))
    assert (data.classes, len(data.train), len(data.val)) == (("cat",), 4, 1)
    with pytest.raises(DataError) as refused:
        read_dataset(str(tmp_path))
    assert "--allow-one-class" in refused.value.hint
    (tmp_path / "cat" / "sub").mkdir()
    with pytest.raises(DataError, match="contains no images"):
        read_dataset(str(tmp_path / "cat" / "sub"), rules=Rules(allow_one_class=True))


def test_empty_classes_are_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    two_classes(tmp_path, 5)
    (tmp_path / "owl").mkdir()
    (tmp_path / "auk").mkdir()
    with pytest.raises(DataError, match="no images in class 'auk', 'owl'") as refused:
        read_dataset(str(tmp_path))
    assert "--drop-empty" in refused.value.hint
    data = read_dataset(str(tmp_path), rules=Rules(drop_empty=True))
    assert data.classes == ("cat", "dog")
    assert [data.classes[label] for _, label in data.train] == ["cat"] * 4 + ["dog"] * 4
    assert data.warnings == ("ignored folders without images: 'auk', 'owl'",)


def test_an_empty_class_of_train_may_be_empty_in_validation_too(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "val/b/2.png")
    for part in ("train", "val"):
        (tmp_path / part / "c").mkdir()
    with pytest.raises(DataError, match="no images in class 'c'"):
        read_dataset(str(tmp_path))
    assert read_dataset(str(tmp_path), rules=Rules(drop_empty=True)).classes == ("a", "b")
    fill(tmp_path, "val/c/1.png")
    with pytest.raises(DataError, match="these folders are not classes of the training images: 'c'"):
        read_dataset(str(tmp_path), rules=Rules(drop_empty=True))


def test_a_class_that_is_empty_in_validation_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png")
    (tmp_path / "val" / "b").mkdir()
    with pytest.raises(DataError, match=r"val: no images in class 'b'"):
        read_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"val: missing class folders: 'b'"):
        read_dataset(str(tmp_path), rules=Rules(drop_empty=True))


def test_folders_that_are_named_like_images_are_folders(tmp_path: Path) -> None:
    two_classes(tmp_path, 2)
    fill(tmp_path, "cat/more.jpg/1.png")
    assert len(read_dataset(str(tmp_path)).train) == 3
