"""README.md, CONTRIBUTING.md and docs/ name things that exist: links, files, functions, commands and options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tlkit.options import declare
from tlkit.options.declare import flag_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))

OF_EVERY_COMMAND = {"--help"}


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", [*PAGES, *DECISIONS], ids=ids([*PAGES, *DECISIONS]))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name) if name else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
            assert heading in slugs, target


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_named_files_exist(page: Path) -> None:
    for name in re.findall(r"`((?:tlkit|tests|benchmarks|sample_data|docs)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"make ([a-z][a-z-]+)`", page.read_text()):
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"make {name}"


def test_the_architecture_page_names_functions_that_exist() -> None:
    pairs = re.findall(r"`([\w/]+\.py)`\s+`(\w+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(pairs) > 25
    for file, name in pairs:
        tree = ast.parse((ROOT / "tlkit" / file).read_text())
        defined = {getattr(node, "name", None) for node in tree.body}
        assigned = {ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)}
        assert name in defined | assigned, f"{file} {name}"
    for file in re.findall(r"`([a-z_]+/[\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text()):
        assert (ROOT / file).exists() or (ROOT / "tlkit" / file).exists(), file


def test_the_tables_that_contributing_names_are_in_the_first_file_of_their_row() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    for subject, tables, files in rows:
        texts = [(ROOT / name).read_text() for name in re.findall(r"`(tlkit/[\w/]+\.py)`", files)]
        for table in re.findall(r"`([A-Z]+)`", tables):
            assert any(re.search(rf"^{table}\b", text, re.MULTILINE) for text in texts), (subject, table)


def test_every_option_in_the_docs_exists() -> None:
    """A flag behind `tlkit COMMAND` must be one of that command."""
    commands = {
        kind.__name__.removesuffix("Options").lower(): {flag_of(name) for name in kind.__dataclass_fields__}
        for kind in every_kind()
    }
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command, rest in re.findall(r"tlkit (\w+)((?: [^\n`|#;&>]*)?)", text):
            if command in commands:
                for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest):
                    assert flag in commands[command] | OF_EVERY_COMMAND, f"{page.name}: tlkit {command} {flag}"


def every_kind() -> list[type[declare.Options]]:
    import tlkit.options

    kinds = [getattr(tlkit.options, name) for name in tlkit.options.__all__]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, declare.Options)]


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size <= 300_000
