"""Packages whose code is put off: their names are all there, and imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from swarm.core import lean_imports
from swarm.core.lean_imports import LeanFinder
from tests.throwaway import throwaway_package

FILES = {
    "__init__.py": """
from barn.cow import MILK
from .goat import Goat as Billy
from barn.shed import open_shed
__version__ = "3.1"
RUNS = []
RUNS.append(1)
EGGS = len(RUNS)
""",
    "cow.py": "MILK = 'white'",
    "goat.py": "class Goat: pass",
    "sheep.py": "from barn import MILK\nWOOL = 'grey'",
    "shed/__init__.py": "from barn.shed.door import open_shed\nraise RuntimeError('this must not run')",
    "shed/door.py": "def open_shed(): return 'creaks'",
    "sty/__init__.py": "import sys, types\nsys.modules[__name__] = types.SimpleNamespace(pigs=3, __name__=__name__)",
}


@pytest.fixture
def barn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The package above, imported without running its code."""
    monkeypatch.setattr(
        sys, "meta_path", [LeanFinder(frozenset({"barn", "barn.shed", "barn.sty"})), *sys.meta_path]
    )
    with throwaway_package("barn", FILES, tmp_path, monkeypatch):
        yield import_module("barn")


def test_modules_are_imported_without_the_code_of_their_packages(barn: Any) -> None:
    assert import_module("barn.sheep").WOOL == "grey"
    assert "barn.goat" not in sys.modules


def test_names_that_the_code_would_import_come_from_where_they_are(barn: Any) -> None:
    assert "barn.cow" not in sys.modules
    assert barn.MILK == "white"
    assert barn.Billy is import_module("barn.goat").Goat
    assert barn.open_shed() == "creaks"


def test_constants_and_modules_are_attributes(barn: Any) -> None:
    assert barn.__version__ == "3.1"
    assert barn.sheep.WOOL == "grey"
    assert barn.shed.door is import_module("barn.shed.door")
    assert Path(barn.__file__).name == "__init__.py"


def test_a_name_that_only_the_code_makes_has_it_run_once(barn: Any) -> None:
    assert barn.MILK == "white"
    assert barn.EGGS == 1
    assert barn.RUNS == [1]


def test_code_may_put_another_module_in_its_place(barn: Any) -> None:
    lean = import_module("barn.sty")
    assert lean.pigs == 3
    assert lean.pigs == 3


def test_what_there_is_not_is_an_attribute_error(barn: Any) -> None:
    assert not hasattr(barn, "__wrapped__")
    assert barn.RUNS == [1]
    with pytest.raises(AttributeError, match="has no attribute 'horse'"):
        _ = barn.horse


def test_the_finder_is_installed_once() -> None:
    lean_imports.install()
    assert sum(isinstance(finder, LeanFinder) for finder in sys.meta_path) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (
            "import swarm.wire.hivemind_parts, hivemind; from hivemind import DHT, Optimizer; "
            "from hivemind.utils import MPFuture; print(hivemind.__version__, hivemind.averaging.__name__, "
            "hivemind.moe.Server.__name__, hivemind.dht.DHT is DHT, MPFuture.__name__)",
            f"{version('hivemind')} hivemind.averaging Server True MPFuture",
        ),
        (
            "import swarm; from scipy.optimize import linear_sum_assignment as a; from scipy import optimize; "
            "print(optimize.linear_sum_assignment is a, optimize.minimize(lambda x: (x - 2) ** 2, 0).success)",
            "True True",
        ),
        (
            "import swarm; from scipy.optimize import OptimizeWarning, linprog; print(linprog([1], bounds=(3, 9)).fun)",
            "3.0",
        ),
        (
            "import swarm, transformers.models.gpt2; from transformers import models; "
            "from transformers.models import LlamaConfig; import transformers; "
            "print(models.gpt2.GPT2Config.model_type, LlamaConfig is transformers.LlamaConfig)",
            "gpt2 True",
        ),
    ],
)
def test_whoever_uses_such_a_package_beside_us_finds_all_of_it(script: str, expected: str) -> None:
    """In a process of its own: this one has them already."""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == expected
