"""A package whose `__init__` is not run: the names it would import are imported when they are first asked for.

hivemind's `__init__` imports its training side, and with that torch and scipy: 1.6 s, of which the DHT and libp2p need
none. The package object made here is the real one in all but that, so whoever imports hivemind later finds every name.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any


class LeanPackage(ModuleType):
    """Stands for a package whose `__init__` consists of constants, and of imports from its own modules.

    Attributes:
        lean_homes: the name of each import to the module it comes from, and its name there.
    """

    lean_homes: dict[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        home = self.__dict__.get("lean_homes", {}).get(name)
        if home is not None:
            module, original = home
            found = getattr(import_module(module), original)
            setattr(self, name, found)
            return found
        if not name.startswith("_") and find_spec(f"{self.__name__}.{name}") is not None:
            return import_module(f"{self.__name__}.{name}")
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def make_lean(*names: str) -> None:
    """Enter these packages, parents first, without running their code. One that is imported already stays as it is."""
    for name in names:
        if name not in sys.modules:
            _enter(name)


def _enter(name: str) -> None:
    spec = find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.origin is not None, f"{name} has no __init__"
    package = module_from_spec(spec)
    package.__class__ = LeanPackage
    homes: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        match statement:
            case ast.ImportFrom(module=str(home), names=found, level=0):
                homes |= {alias.asname or alias.name: (home, alias.name) for alias in found}
            case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Constant(value=value)):
                setattr(package, constant, value)
    package.__dict__["lean_homes"] = homes
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)
