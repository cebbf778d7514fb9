"""Compiled functions outlive processes; whatever is wrong with the kept ones, they are compiled anew."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.shards import compiled
from swarm.shards.compiled import compiled_text
from swarm.shards.library_folder import MOST_LIBRARIES, LibraryFolder, _digest

pytestmark = pytest.mark.skipif(compiled.compiled("multiply_row") is None, reason="no C compiler here")
PARTS = ("a compiler", "a text")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "compiled"
    monkeypatch.setattr(compiled, "_libraries", LibraryFolder(path))
    return path


def answer_of(number: int) -> Callable[[Path], None]:
    """Compiles a library whose `answer` sets what it is given to `number`."""

    def make(path: Path) -> None:
        source = path.with_suffix(".c")
        source.write_text(f"void answer(int *found) {{ *found = {number}; }}")
        compiled._run(["cc", "-shared", "-fPIC", str(source), "-o", str(path)])
        source.unlink()

    return make


def never(path: Path) -> None:
    raise AssertionError("it is compiled anew")


def answer(library: ctypes.CDLL) -> int:
    found = ctypes.c_int(0)
    library.answer(ctypes.byref(found))
    return found.value


def test_what_one_has_compiled_others_load(tmp_path: Path) -> None:
    assert answer(LibraryFolder(tmp_path).library(PARTS, answer_of(7))) == 7
    assert answer(LibraryFolder(tmp_path).library(PARTS, never)) == 7
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


def test_other_parts_are_another_library(tmp_path: Path) -> None:
    libraries = LibraryFolder(tmp_path)
    parts = [("a", "bc"), ("ab", "c"), ("abc",), ("a", "bc", "")]
    found = [libraries.library(made_of, answer_of(n)) for n, made_of in enumerate(parts)]
    assert list(map(answer, found)) == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF"])
def test_a_broken_library_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{_digest(PARTS)}.so").write_bytes(content)
    assert answer(LibraryFolder(tmp_path).library(PARTS, answer_of(8))) == 8
    assert answer(LibraryFolder(tmp_path).library(PARTS, never)) == 8


def test_a_folder_that_others_may_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tmp_path.chmod(0o777)
    assert answer(LibraryFolder(tmp_path).library(PARTS, answer_of(7))) == 7
    assert not list(tmp_path.iterdir())
    assert "others may write" in caplog.text


def test_without_a_place_for_the_folder_all_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "file").touch()
    libraries = LibraryFolder(tmp_path / "file" / "compiled")
    assert [answer(libraries.library(PARTS, answer_of(number))) for number in (1, 2)] == [1, 2]
    assert caplog.text.count("are not kept") == 1


def test_where_libraries_cannot_be_loaded_from_the_folder_they_are_from_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def make(path: Path) -> None:  # as where the folder's disk is mounted with `noexec`
        if path.is_relative_to(tmp_path):
            path.write_bytes(b"cannot be loaded")
        else:
            answer_of(7)(path)

    assert answer(LibraryFolder(tmp_path).library(PARTS, make)) == 7
    assert "are not kept" in caplog.text


def test_what_is_not_used_is_dropped_in_the_end(tmp_path: Path) -> None:
    libraries = LibraryFolder(tmp_path)
    first, second = (libraries.library((part,), answer_of(1)) for part in ("first", "second"))
    for age, path in enumerate(sorted(tmp_path.iterdir())):
        os.utime(path, (1000 + age, 1000 + age))
    for number in range(MOST_LIBRARIES):
        (tmp_path / f"{number}.so").touch()
    libraries.library(("first",), never)
    libraries.library(("third",), answer_of(3))
    assert len(list(tmp_path.iterdir())) == MOST_LIBRARIES
    libraries.library(("first",), never)
    libraries.library(("second",), answer_of(2))
    assert (answer(first), answer(second)) == (1, 1), "those in use are not disturbed"


def test_the_next_process_does_not_compile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = "void twice(int *number) { *number *= 2; }"
    for _ in range(2):
        compiled_text.cache_clear()
        function = compiled_text("twice", text, ())
        number = ctypes.c_int(21)
        function(ctypes.byref(number))
        assert number.value == 42
    (library,) = folder.iterdir()
    made_at = library.stat().st_ino
    monkeypatch.setattr(compiled, "_meaning", lambda compiler, target: "another processor")
    compiled_text.cache_clear()
    assert compiled_text("twice", text, ()) is not None
    assert len(list(folder.iterdir())) == 2
    assert library.stat().st_ino == made_at
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_folder_may_be_given_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_libraries", LibraryFolder())
    monkeypatch.chdir(tmp_path)
    compiled.keep_compiled(Path("cache"))
    compiled_text.cache_clear()
    assert compiled_text("nothing", "void nothing(void) {}", ()) is not None
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".so"]


def test_a_program_that_does_not_compile_leaves_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiled_text.cache_clear()
    assert compiled_text("broken", "this is no C", ()) is None
    assert "broken could not be compiled" in caplog.text
    assert not list(folder.iterdir())
