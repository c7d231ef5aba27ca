"""What a model says about itself: names of classes that can name folders."""

from __future__ import annotations

import os

import pytest

from tlkit.files.description import class_names


def test_names_of_folders_are_names_of_classes() -> None:
    names = ("cat", "\u00e9", os.fsdecode(b"caf\xe9"), "tab\t")
    assert class_names(list(names)) == names


@pytest.mark.parametrize("name", ["\ud800", "a\udc00", "\udfff"])
def test_a_name_that_no_file_name_can_be_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        class_names(["a", name])
