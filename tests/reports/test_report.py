"""The report page: nothing from outside becomes markup, nothing is loaded, and it fits desks, phones and paper."""

from __future__ import annotations

import dataclasses
import html.parser
import io
import math
import os
import re
import shlex
import subprocess
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import PROGRAM, open_browser
from tlkit.options import FinetuneOptions
from tlkit.reports.charts import epoch_ticks, nice_ticks
from tlkit.reports.facts import Measured, Mistake, ReportData
from tlkit.reports.findings import findings, headline
from tlkit.reports.gather import for_shell
from tlkit.reports.markup import shorten, tag, text
from tlkit.reports.page import render
from tlkit.training.evaluation import Predictions, evaluate_predictions
from tlkit.training.history import EpochRow

HOSTILE = ['<script src="http://example.com/x.js"></script>', "a\"b'&amp;", "\u202egpj.exe", "\x1b[31m\n", "caf\udce9",
           "x" * 200, "日本語", "</style></svg><img src=http://example.com/y onerror=alert(1)>"]  # fmt: skip


def thumbnail() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((160, 160), 60).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def facts(classes: int = 5, epochs: int = 40, names: list[str] | None = None) -> ReportData:
    names = [*(names or []), *(f"class {number}" for number in range(classes))][:classes]
    confusion = [[40 if t == g else int((7 * t + 3 * g) % 11 == 0) for g in range(classes)] for t in range(classes)]
    pairs = np.repeat(np.argwhere(np.ones((classes, classes))), np.ravel(confusion), axis=0)
    confidence = np.linspace(0.05, 1, len(pairs))
    predictions = Predictions(pairs[:, 0], pairs[:, 1], confidence, -np.log(confidence))
    mistakes = [
        Mistake(
            f"val/{name}/{place}.jpg", name, names[place - 1], 0.99 - place / 100, None if place == 1 else thumbnail()
        )
        for place, name in enumerate(names[:24])
    ]
    history = [
        EpochRow(e, 9 * e, 0.01 * math.cos(e / epochs), {"loss": 1 / e, "accuracy": 1 - 0.3 / e},
                 {"loss": 0.1 + 1 / e, "accuracy": 0.96 - 0.2 / e, "macro_f1": 0.95 - 0.2 / e}, 0.01)
        for e in range(1, epochs + 1)
    ]  # fmt: skip
    measured = Measured(evaluate_predictions(predictions, tuple(names)), [160] * classes, mistakes)
    best = history[-1] if history else None
    return ReportData(
        "run", "runs/run", "images", "tlkit finetune images", "finished", "1 May 2026", "accuracy", classes, 800, 200,
        1, history, best, measured,
        "images: 5 classes", "timm/test at 160x160 px", ["odd\n  one.jpg = two.jpg"], [("a.jpg", "is truncated")],
        {"--data": "images"}, {"--data": "images", "--epochs": "40"}, {"tlkit": "0.1.0"}, ["a note"],
    )  # fmt: skip


class Elements(html.parser.HTMLParser):
    """The elements of a page and all their attributes, as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_names_from_outside_are_text_wherever_they_stand() -> None:
    plain = facts(8)
    hostile = dataclasses.replace(
        facts(8, names=HOSTILE), name=HOSTILE[0], folder=HOSTILE[1], data=HOSTILE[7], model=HOSTILE[7],
        warnings=HOSTILE,
        skipped=[(name, name) for name in HOSTILE], given={"--data": HOSTILE[0]}, options={"--data": HOSTILE[7]},
        versions={HOSTILE[0]: HOSTILE[7]}, notes=HOSTILE,
    )  # fmt: skip
    page = Elements(render(hostile))
    page_bytes = render(hostile).encode()  # not every name is UTF-8
    assert set(page.names) == set(Elements(render(plain)).names)
    assert not {name for name, _ in page.attributes if name.startswith("on") or name == "style"}
    assert {value[:5] for name, value in page.attributes if name == "src" and value} == {"data:"}
    assert {value[0] for name, value in page.attributes if name == "href" and value} == {"#"}
    assert any(HOSTILE[0] in word for word in page.words)
    assert b"\xe2\x80\xae" not in page_bytes and b"\x1b" not in page_bytes


def test_attributes_and_text_are_escaped() -> None:
    assert tag("p", "<b>", tag("i", "&"), title='"', class_="x", hidden=None) == (
        '<p title="&quot;" class="x">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert text("\u202e") == r"\u202e"


@pytest.mark.parametrize("classes", [2, 20, 21, 200, 201])
def test_every_confusion_is_there_as_far_as_it_can_be_read(classes: int) -> None:
    page = Elements(render(facts(classes)))
    looks = [value for name, value in page.attributes if name == "class"]
    wrong = len(facts(classes).measured.evaluation.confusion.mistakes())
    assert sum(str(look).startswith("wrong s") for look in looks) == (wrong if classes <= 200 else 0)


def test_a_run_that_has_only_begun_has_a_page() -> None:
    begun = dataclasses.replace(facts(), history=[], best=None, measured=None, state="running", warnings=[], skipped=[])
    words = " ".join(Elements(render(begun)).words)
    assert "running" in words
    assert "Confusion" not in words


@pytest.mark.parametrize("epochs", [1, 2, 7, 100, 1234])
def test_axes_enclose_what_they_show(epochs: int) -> None:
    assert epoch_ticks(epochs)[0] == 1 and epoch_ticks(epochs)[-1] <= epochs and len(epoch_ticks(epochs)) <= 8
    ticks = nice_ticks(0.003, 0.1 * epochs)
    assert ticks[0] <= 0.003 and ticks[-1] >= 0.1 * epochs and len(ticks) <= 9
    assert "NaN" not in re.sub(r"data:[^\"]*", "", render(facts(epochs=epochs))), "images may hold the letters"


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_in_a_browser_it_loads_nothing_says_nothing_and_fits(tmp_path: Path) -> None:
    with open_browser() as browser:
        for classes in (8, 100):
            path = tmp_path / f"{classes}.html"
            path.write_bytes(render(facts(classes, names=HOSTILE)).encode())
            for width, dark in ((1280, False), (390, True)):
                page = browser.open(path, width, dark)
                assert (page.requests, page.messages, page.overflow()) == ([], [], 0)
                assert page.evaluate("[...document.images].every(image => image.naturalWidth == 160)")
                background = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert background == ("rgb(17, 21, 27)" if dark else "rgb(246, 247, 249)"), "the style sheet applies"


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_the_browser_would_tell_of_requests_and_overflow(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<img src='http://localhost:9/x.png'><p style='width: 5000px'>wide")
    with open_browser() as browser:
        page = browser.open(tmp_path / "bad.html", 390)
        assert page.requests == ["http://localhost:9/x.png"]
        assert page.messages != [] and page.overflow() > 0


def test_commands_can_be_typed_whatever_the_folders_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home / "my images", here / "my $run"):
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    told = dataclasses.replace(facts(), folder=for_shell("my $run"), data_folder=for_shell(str(home / "my images")))
    command = next(word for word in Elements(render(told)).words if word.startswith("tlkit evaluate"))
    typed = subprocess.run(
        ["sh", "-c", f'tlkit() {{ printf "%s\\n" "$@"; }}; {command}'], capture_output=True, text=True
    )
    assert typed.stdout.splitlines() == ["evaluate", "my $run", str(home / "my images")]
    assert for_shell(str(home)) == "~" and for_shell(os.sep) == "/"


def test_a_long_name_keeps_its_head_and_its_tail() -> None:
    assert shorten("n02085620_Chihuahua_long_haired", 20) == "n02085620_…ng_haired"
    assert [len(shorten("x" * length)) for length in (19, 20, 21, 300)] == [19, 20, 20, 20]


def with_classes(train: list[int], val: list[int], correct: list[int]) -> ReportData:
    """A report on classes a, b, ... with so many images; all that is wrong is predicted as the last class."""
    labels = np.repeat(np.arange(len(val)), val)
    right = np.concatenate([np.arange(images) < number for images, number in zip(val, correct, strict=True)])
    confidence = np.full(len(labels), 0.9)
    predictions = Predictions(labels, np.where(right, labels, len(val) - 1), confidence, -np.log(confidence))
    evaluation = evaluate_predictions(predictions, tuple("abcdefgh"[: len(val)]))
    return dataclasses.replace(facts(), measured=Measured(evaluation, train, []))


def test_the_first_lines_are_accuracy_interval_and_baseline() -> None:
    measured = with_classes([40, 40], [5, 5], [3, 5]).measured
    assert measured is not None and headline(measured) == (
        "Accuracy 80.0% on 10 validation images (95% confidence interval: 49.0% to 94.3%). "
        "Always predicting “a”, the largest class, has an accuracy of 50.0%."
    )
    assert headline(measured, folds=5).startswith("Accuracy 80.0% on 10 images, each out-of-fold in 5 folds (95%")


@pytest.mark.parametrize(
    ("train", "val", "correct", "words"),
    [
        ([40, 40, 40], [10, 10, 10], [9, 9, 9], []),
        ([100, 20, 20], [10, 10, 10], [9, 9, 9], []),
        ([101, 20, 30], [10, 10, 10], [9, 9, 9], ["imbalanced: “a” has 101 training images, “b” only 20."]),
        ([200, 9, 20], [10, 10, 10], [9, 9, 9], ["only 9, and 1 other class has less than a fifth."]),
        ([40, 36], [10, 9], [0, 9], ["no better than always predicting “a”"]),
        ([400, 36], [40, 3], [37, 3], ["no better than always predicting “a”", "imbalanced"]),
        ([40], [10], [10], []),
    ],
)
def test_the_page_says_what_is_wrong_and_the_command_that_helps(
    train: list[int], val: list[int], correct: list[int], words: list[str]
) -> None:
    data = with_classes(train, val, correct)
    found = findings(data)
    assert len(found) == len(words) and all(word in one.text for word, one in zip(words, found, strict=True))
    page = render(data)
    assert all(one.command in page and one.command.startswith("tlkit finetune images --") for one in found)
    arguments = [shlex.split(one.command)[2:] for one in found]
    for first, *flags in arguments:
        names = [flag.removeprefix("--").replace("-", "_") for flag in flags[::2]]
        FinetuneOptions(data=first, **dict(zip(names, flags[1::2], strict=True)))


def test_a_run_with_class_weights_is_not_told_to_use_them() -> None:
    data = with_classes([101, 20], [10, 10], [9, 9])
    (found,) = findings(dataclasses.replace(data, options={"--class-weights": "balanced"}))
    assert found.command == "tlkit check images" and "weight" not in found.text


def test_the_contents_link_to_every_section() -> None:
    page = Elements(render(facts()))
    links = [value.removeprefix("#") for name, value in page.attributes if name == "href" and value]
    assert links == [value for name, value in page.attributes if name == "id"] and len(links) == 8


def test_of_many_classes_the_worst_are_listed_and_the_page_stays_small() -> None:
    classes = 10_000
    labels = np.repeat(np.arange(classes), 2)
    predicted = np.where((labels == 7) | (labels % 2 == 1), labels, 0)
    confidence = np.full(len(labels), 0.9)
    names = tuple(f"class {number}" for number in range(classes))
    evaluation = evaluate_predictions(Predictions(labels, predicted, confidence, -np.log(confidence)), names)
    data = dataclasses.replace(facts(), classes=classes, measured=Measured(evaluation, [8] * classes, []))
    with limited_memory(100_000_000):  # a matrix of all pairs has 800 MB
        page = render(data)
    assert len(page) < 1_000_000
    assert "Lowest F1 first, 500 of 10,000 classes" in page
    assert "first 15 of 4,999" in page and "class 2</td><td>class 0</td>" in page


@contextmanager
def limited_memory(most: int) -> Iterator[None]:
    """Fails if Python allocates more bytes at a time in the block."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
