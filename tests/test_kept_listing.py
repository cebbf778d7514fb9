"""What transformers lists of its models: read once, kept for as long as the files are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.core import kept_listing
from swarm.core.kept_listing import MOST_LISTINGS, Listing, kept

LISTING: Listing = {
    frozenset(): {"models.a.config": {"AConfig", "AOther"}},
    frozenset({"torch", "vision"}): {"models.a.model": {"AModel"}, "models.b.model": {"BModel"}},
}


class Reader:
    """Stands for transformers' own function; `reads` counts how often the files were read."""

    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.code = folder / "code.py"
        self.reads = 0
        for name in ("a/config.py", "a/model.py", "b/model.py", "../code.py"):
            file = self.models / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("names")

    def define(self, module_path: Path, prefix: str | None = None) -> Listing:
        self.reads += 1
        return {needs: dict(modules) for needs, modules in LISTING.items()}

    def in_a_new_process(self) -> Listing:
        """As a process that knows nothing yet."""
        return kept(self.define, str(self.code))(self.models, "models")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "swarm" / "listings"


@pytest.fixture
def reader(tmp_path: Path, cache: Path) -> Reader:
    return Reader(tmp_path / "package")


def test_the_files_are_read_once_for_many_processes(reader: Reader) -> None:
    assert [reader.in_a_new_process() for _ in range(3)] == [LISTING] * 3
    assert reader.reads == 1


def test_what_others_put_into_the_listing_is_not_kept(reader: Reader) -> None:
    define = kept(reader.define, str(reader.code))
    define(reader.models, "models")[frozenset()]["more"] = {"More"}
    assert "more" in define(reader.models, "models")[frozenset()], (
        "but stays in this process, as in transformers"
    )
    assert reader.in_a_new_process() == LISTING


@pytest.mark.parametrize(
    "change",
    [
        lambda reader: (reader.models / "a/config.py").write_text("other names"),
        lambda reader: os.utime(reader.models / "b/model.py", ns=(1, 1)),
        lambda reader: (reader.models / "c.py").write_text(""),
        lambda reader: (reader.models / "b/model.py").unlink(),
        lambda reader: (reader.models / "b").rename(reader.models / "c"),
        lambda reader: reader.code.write_text("another way to list"),
    ],
)
def test_another_file_makes_another_listing(reader: Reader, change: Callable[[Reader], object]) -> None:
    reader.in_a_new_process()
    change(reader)
    assert reader.in_a_new_process() == LISTING
    assert reader.reads == 2
    assert reader.in_a_new_process() == LISTING
    assert reader.reads == 2, "which is kept then"


def test_what_python_compiles_is_no_change(reader: Reader) -> None:
    reader.in_a_new_process()
    (reader.models / "a/__pycache__").mkdir()
    (reader.models / "a/__pycache__/model.pyc").write_text("compiled")
    reader.in_a_new_process()
    assert reader.reads == 1


def test_other_folders_have_listings_of_their_own_and_the_oldest_go(
    reader: Reader, cache: Path, tmp_path: Path
) -> None:
    readers = [reader, *(Reader(tmp_path / str(n)) for n in range(MOST_LISTINGS))]
    known: set[Path] = set()
    for age, each in enumerate(readers):
        each.in_a_new_process()
        (new,) = set(cache.iterdir()) - known
        os.utime(new, (age, age))
        known.add(new)
    assert len(list(cache.iterdir())) == MOST_LISTINGS
    readers[-1].in_a_new_process()
    reader.in_a_new_process()
    assert [each.reads for each in (readers[-1], reader)] == [1, 2]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '"x"', '{"made_of": 1}', '{"listing": []}', '{"made_of": "MADE", "listing": 3}'],
)
def test_a_damaged_file_is_made_anew(reader: Reader, cache: Path, content: str) -> None:
    reader.in_a_new_process()
    (file,) = cache.iterdir()
    file.write_text(content.replace("MADE", json.loads(file.read_text())["made_of"]))
    assert reader.in_a_new_process() == LISTING
    assert reader.reads == 2
    assert reader.in_a_new_process() == LISTING
    assert reader.reads == 2


def test_a_folder_where_others_may_write_is_not_used(reader: Reader, cache: Path) -> None:
    reader.in_a_new_process()
    cache.chmod(0o777)
    reader.in_a_new_process()
    assert reader.reads == 2


def test_without_a_folder_the_files_are_read_as_ever(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [reader.in_a_new_process() for _ in range(2)] == [LISTING] * 2
    assert reader.reads == 2


def test_without_a_home_the_files_are_read_as_ever(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert [reader.in_a_new_process() for _ in range(2)] == [LISTING] * 2
    assert reader.reads == 2


def test_the_few_files_of_one_model_are_read_each_time(reader: Reader, cache: Path) -> None:
    define = kept(reader.define, str(reader.code))
    assert define(reader.models / "a") == LISTING
    assert not cache.exists()


def test_it_is_put_in_front_once() -> None:
    before = list(sys.meta_path)
    kept_listing.install()
    assert sys.meta_path == before


SCRIPT = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
IMPORT
import transformers
read = sum("/transformers/models/" in path and path.endswith(".py") for path in opened)
structure = sys.modules["transformers"]._import_structure
print(read, transformers.LlamaForCausalLM.__module__, hash(frozenset(
    (module, name) for module, names in structure.items() for name in names)))
"""


@pytest.mark.slow
def test_transformers_finds_the_same_names_and_opens_no_file_of_a_model(tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONHASHSEED": "0"}
    found = []
    for own in ("", "import swarm", "import swarm"):
        command = [sys.executable, "-c", SCRIPT.replace("IMPORT", own)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found.append(done.stdout.split())
    (plain, *one), (first, *two), (second, *three) = found
    assert one == two == three
    assert int(plain) > 1000
    assert int(first) > 1000
    assert int(second) == 0
