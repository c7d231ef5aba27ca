"""Tables of paths and labels: formats, one report of all problems, ids, groups, and the same data set as a folder."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.data.test_folder import fill, names, numbered
from tlkit.data import table_file
from tlkit.data.class_folders import Rules, read_dataset
from tlkit.data.folder import Dataset, Sample
from tlkit.data.sources import find_dataset
from tlkit.data.splitting import cross_validated, divide, folds_of, grouped
from tlkit.data.table_file import read_table
from tlkit.errors import DataError, MissingInputError, UsageError
from tlkit.options import CheckOptions, PredictOptions
from tlkit.options import data as data_options

Rows = Sequence[Sequence[str]]


def as_text(separator: str, rows: Rows) -> str:
    return "".join(separator.join(row) + "\n" for row in rows)


def write_parquet(path: Path, rows: Rows) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    header, *body = rows
    parquet.write_table(pyarrow.table({name: [row[i] for row in body] for i, name in enumerate(header)}), path)


WRITERS: dict[str, Callable[[Path, Rows], object]] = {
    "table.csv": lambda path, rows: path.write_text(as_text(",", rows)),
    "excel.csv": lambda path, rows: path.write_bytes(
        b"\xef\xbb\xbf" + as_text(";", rows).replace("\n", "\r\n").encode()
    ),
    "unicode.csv": lambda path, rows: path.write_bytes(as_text("\t", rows).encode("utf-16")),
    "TABLE.TSV": lambda path, rows: path.write_text(as_text("\t", rows)),
    "table.jsonl": lambda path, rows: path.write_text(
        "".join(json.dumps(dict(zip(rows[0], row, strict=True))) + "\n" for row in rows[1:])
    ),
    "table.parquet": write_parquet,
}


def read(path: Path, **options: object) -> Dataset:
    return find_dataset(CheckOptions(data=str(path), **options))  # type: ignore[arg-type]


def write_csv(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def small_folder(root: Path) -> Path:
    return fill(root, *(name for label in ("cat", "dog", "owl") for name in numbered(label, 10)), "cat/deep/1.png")


def rows_of(root: Path) -> list[list[str]]:
    """A row for each image of a folder of class folders, in random order."""
    files = [str(path.relative_to(root)) for path in root.rglob("*.png")]
    random.Random(3).shuffle(files)
    return [[name, name.split("/")[0]] for name in files]


# Formats


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_data_set_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data")
    WRITERS[name](folder / name, [["path", "label"], *rows_of(folder)])
    expected, found = read(folder), read(folder / name)
    assert (found.classes, found.train, found.val) == (expected.classes, expected.train, expected.val)
    assert found.to_split() == expected.to_split()
    assert [fold.val for fold in folds_of(found, 3, 1)] == [fold.val for fold in folds_of(expected, 3, 1)]
    assert found.table == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_the_options_list_the_formats_that_are_read() -> None:
    assert tuple(table_file.READERS) == data_options.TABLE_SUFFIXES


def test_values_of_any_type_are_text(tmp_path: Path) -> None:
    rows = [{"path": "a", "label": value} for value in (3, 3.0, True, None, "x", float("nan"))]
    (tmp_path / "t.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    table = read_table(str(tmp_path / "t.jsonl"))
    assert table.columns["label"] == ["3", "3", "true", "", "x", ""]
    assert [*table.lines] == [1, 3, 5, 7, 9, 11]


def test_columns_that_not_all_rows_have(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"path": "a"}\n{"label": "b", "path": "c"}\n{"path": "d"}\n')
    table = read_table(str(tmp_path / "t.jsonl"))
    assert table.columns == {"path": ["a", "c", "d"], "label": ["", "b", ""]}


def test_quoted_cells_and_lines_in_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path, label\n"a, b.png", cat\n\n"two\nlines.png",dog,\n"say ""x"".png","owl"\n')
    table = read_table(str(tmp_path / "t.csv"))
    assert table.columns == {"path": ["a, b.png", "two\nlines.png", 'say "x".png'], "label": ["cat", "dog", "owl"]}
    assert [*table.lines] == [2, 4, 6] and table.problems == []


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"caf\xe9.png", b"b.png", b"c.png", b"d.png"):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(b"x")
    (tmp_path / "t.csv").write_bytes(b"path,label\ncaf\xe9.png,x\nb.png,x\nc.png,y\nd.png,y\n")
    data = read(tmp_path / "t.csv")
    assert os.fsencode(tmp_path) + b"/caf\xe9.png" in {os.fsencode(sample.path) for sample in data.train + data.val}


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(Exception, match="needs pyarrow") as refused:
        read(tmp_path / "t.parquet")
    assert "pip install 'tlkit[parquet]'" in refused.value.hint  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("t.csv", b"", "is empty"),
        ("t.jsonl", b"\n", "is empty"),
        ("t.csv", b"path,label\n", "contains no rows"),
        ("t.csv", b"a,b\n1,2\n", "has no column 'path', 'label'; its columns are 'a', 'b'"),
        ("t.csv", b"path,path,label\n", "several columns named 'path'"),
        ("t.csv", b'path,label\n"' + b"x" * 2_000_000, "line 2 is not valid CSV"),
        ("t.csv", b"path,label\na\0b,c\n", "line 2 is not valid CSV|1 of 1 rows"),
        ("t.parquet", b"PAR1 no", "not a valid Parquet file"),
    ],
)
def test_files_that_are_no_tables(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        read(tmp_path / name)


def test_a_table_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such file"):
        read(tmp_path / "missing.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="contains no images"):
        read(tmp_path / "folder.csv")


# The report


def test_all_problems_are_in_one_report_with_lines(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.png", "c.png")
    table = write_csv(
        tmp_path / "t.csv",
        "path,label,split,weight",
        "a.png,cat,train,1",
        "b.png,,train,1",
        "missing.png,cat,train,1",
        "./a.png,dog,train,1",
        "a.png,cat,train,1",
        ",cat,train,1",
        "c.png,cat,later,heavy",
        "c.png",
    )
    with pytest.raises(DataError, match="7 of 8 rows cannot be used") as refused:
        read(table)
    assert refused.value.exit_code == 65
    assert refused.value.hint.splitlines() == [
        "rows that cannot be read: 1",
        "  line 9: has 1 cells, the header has 4",
        "empty labels: 1",
        "  line 3: b.png has no label",
        "missing files: 1",
        "  line 4: no such file: missing.png",
        "duplicate rows: 2",
        "  line 5: ./a.png of line 2 again, as 'dog' instead of 'cat'",
        "  line 6: a.png of line 2 again",
        "empty paths: 1",
        "  line 7: has no path",
        "unknown parts: 1",
        "  line 8: split is 'later'; expected train, val or test",
        "invalid weights: 1",
        "  line 8: weight is 'heavy'; expected a number of at least 0",
    ]


def test_a_long_report_is_cut_short(tmp_path: Path) -> None:
    table = write_csv(tmp_path / "t.csv", "path,label", *(f"{number}.png,a" for number in range(1000)))
    with pytest.raises(DataError, match="1,000 of 1,000 rows") as refused:
        read(table)
    assert len(refused.value.hint.splitlines()) == 12 and "  and 990 more" in refused.value.hint


def test_columns_of_other_names(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("x", 4), *numbered("y", 4))
    rows = [f"{folder}/{number:03d}.png,{folder}" for folder in "xy" for number in range(4)]
    table = write_csv(tmp_path / "t.csv", "Filename,Species", *rows)
    with pytest.raises(DataError, match="has no column 'path', 'label'") as refused:
        read(table)
    columns = refused.value.hint.partition("--columns ")[2]
    assert columns == "path=Filename,label=Species"
    assert read(table, columns=columns).classes == ("x", "y")
    with pytest.raises(DataError, match="has no column 'nothing'"):
        read(table, columns=f"{columns},group=nothing")


@pytest.mark.parametrize("columns", ["path", "path=", "=a", "name=a", "path=a,path=b", "path=a,"])
def test_columns_that_are_no_pairs(columns: str) -> None:
    with pytest.raises(UsageError, match="--columns"):
        CheckOptions(data="t.csv", columns=columns)


def test_options_of_tables_and_folders_are_not_mixed() -> None:
    for options in ({"root": "x"}, {"columns": "path=a"}):
        with pytest.raises(UsageError, match="needs a table"):
            CheckOptions(data="folder", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="applies to folders"):
        CheckOptions(data="t.csv", nested=True)
    with pytest.raises(UsageError, match="not a regular expression"):
        CheckOptions(data="folder", group_by="(")
    with pytest.raises(UsageError, match="the only PATH"):
        PredictOptions(model="m", paths=["t.csv", "a.png"])


# Paths


def test_ids_without_suffix_in_another_folder(tmp_path: Path) -> None:
    """The layout of Kaggle: labels.csv beside a folder of images."""
    fill(tmp_path / "train", *(f"{number:04x}.png" for number in range(8)))
    table = write_csv(tmp_path / "labels.csv", "id,breed", *(f"{n:04x},{'ab'[n % 2]}" for n in range(8)))
    with pytest.raises(DataError, match="8 of 8 rows") as refused:
        read(table, columns="path=id,label=breed")
    root = refused.value.hint.partition("--root ")[2]
    data = read(table, columns="path=id,label=breed", root=root)
    assert sorted(names(data.train + data.val, tmp_path)) == [f"train/{number:04x}.png" for number in range(8)]


def test_an_id_of_two_files_is_a_problem(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "a.jpg", "b.png", "v1.0.png")
    table = write_csv(tmp_path / "t.csv", "path,label", "a,x", "b,y", "v1.0,x", "b.jpg,y")
    with pytest.raises(DataError, match="2 of 4 rows") as refused:
        read(table)
    assert "line 2: a is the name of several files: a.jpg, a.png" in refused.value.hint
    assert "line 5: no such file: b.jpg" in refused.value.hint


def test_paths_of_every_kind(tmp_path: Path) -> None:
    fill(tmp_path / "data", "a/1.png", "a/2.png", "a/3.png", "b/1.png")
    fill(tmp_path / "other", "b/2.png")
    rows = ["./a//1.png,a", "a/../a/2.png,a", r"a\3.png,a", f"{tmp_path}/other/b/2.png,b", "b/1.png,b"]
    data = read(write_csv(tmp_path / "data" / "t.csv", "path,label", *rows))
    assert sorted(names(data.train + data.val, tmp_path)) == [
        "data/a/1.png", "data/a/2.png", "data/a/3.png", "data/b/1.png", "other/b/2.png",
    ]  # fmt: skip
    again = Dataset.from_split(data.to_split(), data.root)
    assert (again.train, again.val) == (data.train, data.val)


# Parts


def test_a_split_column_gives_the_data_set_of_the_folder(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        fill(tmp_path, *numbered(f"{part}/cat", count), *numbered(f"{part}/dog", count))
    rows = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")]
    random.Random(1).shuffle(rows)
    lines = [f"{name},{name.split('/')[1]},{name.split('/')[0].upper()}" for name in rows]
    found = read(write_csv(tmp_path / "t.csv", "path,label,split", *lines))
    expected = read(tmp_path)
    assert (found.classes, found.train, found.val) == (expected.classes, expected.train, expected.val)
    with pytest.raises(UsageError, match="split column"):
        read(tmp_path / "t.csv", val="0.3")
    without = [line for line in lines if not line.endswith("VAL")]
    os.rename(tmp_path / "val", tmp_path.parent / f"{tmp_path.name}-val")
    divided = read(write_csv(tmp_path / "u.csv", "path,label,split", *without))
    assert (divided.train, divided.val) == (read(tmp_path).train, read(tmp_path).val)


def test_labels_of_validation_rows_are_matched_or_refused_with_lines(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("x", 6))
    rows = ["x/000.png,cat,train", "x/001.png,cat,train", "x/002.png,dog,train", "x/003.png,Cat,val"]
    data = read(write_csv(tmp_path / "t.csv", "path,label,split", *rows))
    assert [sample.label for sample in data.val] == [0]
    assert any("'Cat' is 'cat'" in warning for warning in data.warnings)
    assert "no validation images of 'dog'" in data.warnings
    with pytest.raises(DataError, match="1 rows have labels that are not classes") as refused:
        read(write_csv(tmp_path / "u.csv", "path,label,split", *rows, "x/004.png,owl,val"))
    assert "line 6: 'owl'" in refused.value.hint


def test_validation_from_another_table_or_folder(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "data")
    fill(tmp_path / "val", *(f"{label}/1.png" for label in ("cat", "dog", "owl")))
    table = write_csv(folder / "t.csv", "path,label", *(",".join(row) for row in rows_of(folder)))
    other = write_csv(tmp_path / "val" / "v.csv", "path,label", "cat/1.png,cat", "dog/1.png,dog", "owl/1.png,owl")
    by_table, by_folder = read(table, val=str(other)), read(table, val=str(tmp_path / "val"))
    assert by_table.val == by_folder.val == read(folder, val=str(tmp_path / "val")).val
    assert len(by_table.train) == 31


# Groups


def straddling(data: Dataset, group_of: Callable[[str], str]) -> set[str]:
    return {group_of(s.path) for s in data.train} & {group_of(s.path) for s in data.val}


@pytest.mark.parametrize("seed", range(30))
def test_a_group_never_straddles_the_split(seed: int) -> None:
    """Random groups: sizes from 1 to many, within classes and across them."""
    generator = random.Random(seed)
    classes = generator.randint(2, 6)
    count, kinds = generator.randint(30, 400), generator.choice([4, 20, 100, 1000])
    samples = [Sample(f"data/{n}.png", n % classes) for n in range(count)]
    across = generator.random() < 0.5
    groups = {
        sample.path: f"g{generator.randrange(kinds)}" + ("" if across else f" of {sample.label}") for sample in samples
    }
    whole = Dataset("data", tuple(map(str, range(classes))), samples, [], "", groups=groups)
    try:
        data = divide(whole, 0.2, seed, "data")
    except DataError:
        assert across and kinds == 4
        return
    assert straddling(data, groups.__getitem__) == set()
    assert sorted(data.train + data.val) == sorted(samples)
    assert {sample.label for sample in data.train} == set(range(classes))
    assert data.val == divide(whole, 0.2, seed, "data").val
    if kinds == 1000 and not across:
        per_class = Counter(sample.label for sample in data.val)
        wanted = {label: round(0.2 * sum(s.label == label for s in samples)) for label in range(classes)}
        assert all(abs(per_class[label] - wanted[label]) <= 2 for label in wanted)
    for fold in folds_of(whole, 3, seed):
        assert straddling(fold, groups.__getitem__) == set()
    assert sorted(s for fold in folds_of(whole, 3, seed) for s in fold.val) == sorted(samples)
    crossed = cross_validated(whole, 3, seed)
    assert len({(groups[path], fold) for path, fold in crossed.folds.items()}) == len(set(groups.values()))


def test_a_group_column(tmp_path: Path) -> None:
    folder = small_folder(tmp_path)
    rows = [[name, label, f"p{sum(name.encode()) % 7}"] for name, label in rows_of(folder)]
    group_of = {str(tmp_path / name): group for name, _, group in rows}
    data = read(write_csv(tmp_path / "t.csv", "path,label,group", *map(",".join, rows)))
    assert straddling(data, group_of.__getitem__) == set() and "whole groups" in data.shape
    shuffled = read(write_csv(tmp_path / "u.csv", "path,label,group", *map(",".join, reversed(rows))))
    assert (shuffled.train, shuffled.val) == (data.train, data.val)
    with pytest.raises(UsageError, match="--group-by"):
        read(tmp_path / "t.csv", group_by="x")


def test_rows_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    folder = small_folder(tmp_path)
    data = read(write_csv(tmp_path / "t.csv", "path,label,group", *(f"{','.join(row)}," for row in rows_of(folder))))
    assert len(data.val) == 6 and Counter(sample.label for sample in data.val) == {0: 2, 1: 2, 2: 2}


def test_groups_from_file_names(tmp_path: Path) -> None:
    for label in ("sick", "well"):
        fill(tmp_path, *(f"{label}/patient{number // 4}_{number}.png" for number in range(40)))
    data = read(tmp_path, group_by=r"(patient\d+)_")
    assert straddling(data, lambda path: re.findall(r"patient\d+", path)[0]) == set()
    assert Counter(sample.label for sample in data.val) == {0: 8, 1: 8}
    assert data.warnings == ()
    with pytest.raises(DataError, match="matches no file name"):
        read(tmp_path, group_by="nobody")
    fill(tmp_path, "sick/other.png")
    assert "does not match 1 of 81 images" in read(tmp_path, group_by=r"(patient\d+)_").warnings[0]


def test_a_group_on_both_sides_of_a_given_split_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("x", 5))
    rows = [f"x/{n:03d}.png,{'ab'[n % 2]},{'val' if n > 2 else 'train'},p{min(n, 3)}" for n in range(5)]
    data = read(write_csv(tmp_path / "t.csv", "path,label,split,group", *rows))
    assert (len(data.train), len(data.val)) == (3, 2)
    rows[4] = rows[4].replace("p3", "p0")
    with pytest.raises(DataError, match="in both training and validation: 'p0'"):
        read(write_csv(tmp_path / "u.csv", "path,label,split,group", *rows))


def test_classes_of_one_group_cannot_be_validated(tmp_path: Path) -> None:
    samples = [Sample(f"d/{n}.png", n % 2) for n in range(20)]
    groups = {s.path: "all of 0" if s.label == 0 else s.path for s in samples}
    data = divide(Dataset("d", ("zero", "one"), samples, [], "", groups=groups), 0.2, 0, "d")
    assert data.warnings == ("these classes cannot be validated, as their images are in too few groups: 'zero'",)
    assert {s.label for s in data.val} == {1}
    with pytest.raises(DataError, match="two groups"):
        divide(Dataset("d", ("a", "b"), samples, [], "", groups=dict.fromkeys(groups, "one")), 0.2, 0, "d")


def test_the_rules_of_class_folders_have_groups_too(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{part}/{label}/p1_{n}.png" for part in ("train", "val") for label in "ab" for n in range(2)))
    with pytest.raises(DataError, match="in both training and validation: 'p1'"):
        read_dataset(str(tmp_path), rules=Rules(group_by=re.compile(r"p\d")))
    data = read_dataset(str(tmp_path))
    assert len(set(grouped(data, re.compile(r"(\w+)/\w/p1")).groups.values())) == 2


# Weights


def test_weights_are_kept_in_the_split(tmp_path: Path) -> None:
    fill(tmp_path, *numbered("x", 6))
    rows = [f"x/{n:03d}.png,{'ab'[n % 2]},{n / 2}" for n in range(6)]
    data = read(write_csv(tmp_path / "t.csv", "path,label,weight", *rows))
    assert data.weights == {str(tmp_path / f"x/{n:03d}.png"): n / 2 for n in range(6)}
    again = Dataset.from_split(json.loads(json.dumps(data.to_split())), data.root)
    assert again.to_split() == data.to_split() and again.weights
    with pytest.raises(DataError, match="all weights are 0"):
        read(write_csv(tmp_path / "u.csv", "path,label,weight", *(row.rsplit(",", 1)[0] + ",0" for row in rows)))
