"""A package whose `__init__` is not run: its names are all there, and imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from swarm.wire.lean_package import LeanPackage, make_lean

FILES = {
    "__init__.py": """
from barn.cow import MILK
from barn.goat import Goat as Billy
from barn.shed import open_shed
__version__ = "3.1"
raise RuntimeError("this must not run")
""",
    "cow.py": "MILK = 'white'",
    "goat.py": "class Goat: pass",
    "sheep.py": "from barn import MILK\nWOOL = 'grey'",
    "shed/__init__.py": "from barn.shed.door import open_shed\nraise RuntimeError('nor must this')",
    "shed/door.py": "def open_shed(): return 'creaks'",
}


@pytest.fixture
def barn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package above, entered without running its code."""
    for name, text in FILES.items():
        path = tmp_path / "barn" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    make_lean("barn", "barn.shed")
    yield sys.modules["barn"]
    for name in [name for name in sys.modules if name.partition(".")[0] == "barn"]:
        del sys.modules[name]


def test_modules_are_imported_without_the_code_of_their_packages(barn: Any) -> None:
    assert import_module("barn.sheep").WOOL == "grey"
    assert "barn.goat" not in sys.modules


def test_names_that_the_package_would_import_are_found_where_they_are(barn: Any) -> None:
    assert "barn.cow" not in sys.modules
    assert barn.MILK == "white"
    assert barn.Billy is import_module("barn.goat").Goat
    assert barn.open_shed() == "creaks"


def test_constants_and_modules_are_attributes(barn: Any) -> None:
    assert barn.__version__ == "3.1"
    assert barn.sheep.WOOL == "grey"
    assert barn.shed.door is import_module("barn.shed.door")


def test_what_the_package_does_not_have_is_an_attribute_error(barn: Any) -> None:
    with pytest.raises(AttributeError, match="module 'barn' has no attribute 'horse'"):
        _ = barn.horse
    assert not hasattr(barn, "__wrapped__")


def test_a_package_that_is_there_already_stays_as_it_is() -> None:
    make_lean("json")
    assert not isinstance(import_module("json"), LeanPackage)


@pytest.mark.slow
def test_whoever_uses_hivemind_beside_us_finds_all_of_it() -> None:
    """In a process of its own: other tests have hivemind already."""
    script = (
        "import swarm.wire.hivemind_parts; import hivemind; from hivemind import DHT, Optimizer; "
        "from hivemind.utils import MPFuture; print(hivemind.__version__, hivemind.averaging.__name__, "
        "hivemind.moe.Server.__name__, hivemind.dht.DHT is DHT, MPFuture.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [version("hivemind"), "hivemind.averaging", "Server", "True", "MPFuture"]
