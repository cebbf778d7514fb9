"""The documents agree with the code and with each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cli_reference
from tests.source_map import DOCUMENT, ROOT, document, source_files, summary

TROUBLE = ROOT / "docs" / "troubleshooting.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
OWN_FILE = re.compile(r"`((?:cli|peer|routing|swarm|tests|docs|\.ci)/[\w./-]+\.\w+)`")


def test_the_map_names_every_file_with_its_purpose() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `make map`"


def test_the_reference_of_commands_says_what_the_commands_say() -> None:
    assert cli_reference.PAGE.read_text(encoding="utf-8") == cli_reference.page(), "run `make reference`"


def test_every_file_says_what_it_is() -> None:
    assert [path for path in source_files() if not summary(path)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(path: Path) -> None:
    names = OWN_FILE.findall(path.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_decision_is_in_the_list() -> None:
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    pages = sorted(page.name for page in ROOT.glob("docs/adr/[0-9]*.md"))
    assert sorted(LINK.findall(index)) == pages


def test_the_errors_that_are_explained_are_those_that_are_raised() -> None:
    said = list(said_by_the_program())
    rows = re.findall(r"^\| (`[^|]+`[^|]*) \|", TROUBLE.read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 30
    assert [text for text in quoted if not any(text in line for line in said)] == []


def said_by_the_program() -> Iterator[str]:
    """Every text in the sources, with an ellipsis for what is put in."""
    for path in source_files():
        if path.startswith(("tests/", "docs/")) or not path.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(text)):
                    yield text
                case ast.JoinedStr(values=parts):
                    yield "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in parts)
