"""Packages whose `__init__` is put off, because it imports much of which we use little.

`import hivemind` brings its training side, and with that torch and scipy; `transformers.models` reads 2,500 files to
list names that are listed already; for one function of `scipy.optimize`, transformers imports all of it. A finder in
front of the others lets such a package be imported without running its code. Its modules can be imported as usual. A
name is taken from where the package's code would import it. If that does not tell, the code is run after all, so that
whoever else uses the package in this process finds everything.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name, spec_from_file_location
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader

LEAN = frozenset({"hivemind", "hivemind.dht", "hivemind.utils", "scipy.optimize", "transformers.models"})


class LeanPackage(ModuleType):
    """A package whose own code has not been run, or only when somebody asked for what nothing else provides."""

    def __getattr__(self, name: str) -> Any:
        loader: LeanLoader = self.__dict__["__loader__"]
        if loader.outcome is None and name in loader.homes:
            try:
                found = loader.fetch(name)
            except ImportError:
                if loader.is_fetching():
                    raise
                loader.run(
                    self
                )  # modules that import each other need the order in which the code imports them
            else:
                setattr(self, name, found)
                return found
        if loader.outcome is None and not name.startswith("_"):
            if find_spec(f"{self.__name__}.{name}") is not None:
                return import_module(f"{self.__name__}.{name}")
            loader.run(self)
        if loader.outcome is not None and (loader.outcome is not self or name in self.__dict__):
            return getattr(loader.outcome, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class LeanLoader:
    """Loads a package without running its code.

    Attributes:
        homes: names that the code imports from elsewhere: the module, and the name there.
        fetching: names that are being imported from there at this moment, and the threads that do.
        outcome: the module that stands for the package since its code was run after all.
    """

    def __init__(self, real: Loader, path: str) -> None:
        self._real = real
        self._path = path
        self.homes: dict[str, tuple[str, str]] = {}
        self.fetching: set[tuple[int, str]] = set()
        self.outcome: ModuleType | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return LeanPackage(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Read what the code would import, and take over its constants."""
        import ast

        with open(self._path, "rb") as file:
            source = file.read()
        for statement in ast.parse(source).body:
            match statement:
                case ast.ImportFrom(module=str(home), names=names, level=level):
                    origin = resolve_name("." * level + home, module.__name__)
                    self.homes |= {alias.asname or alias.name: (origin, alias.name) for alias in names}
                case ast.Assign(targets=[ast.Name(id=constant)], value=ast.Constant(value=value)):
                    setattr(module, constant, value)

    def fetch(self, name: str) -> Any:
        """A name from where the code would import it.

        Raises:
            ImportError: the import came back to this package, as modules do that import each other.
        """
        key = (get_ident(), name)
        if key in self.fetching:
            raise ImportError(f"{name} is wanted while it is imported")
        module, original = self.homes[name]
        self.fetching.add(key)
        try:
            return getattr(import_module(module), original)
        finally:
            self.fetching.remove(key)

    def is_fetching(self) -> bool:
        """Whether this thread is in the middle of fetching a name."""
        return any(thread == get_ident() for thread, _ in self.fetching)

    def run(self, module: ModuleType) -> None:
        """Run the code, which may put another module in the place of this one."""
        self.outcome = module
        self._real.exec_module(module)
        self.outcome = sys.modules[module.__name__]


class LeanFinder:
    """Finds the packages of `names`, each with a loader that does not run its code."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None or spec.origin is None:
            return None
        loader: Any = LeanLoader(spec.loader, spec.origin)  # not a subclass: importlib.abc costs 8 ms
        return spec_from_file_location(
            fullname,
            spec.origin,
            loader=loader,
            submodule_search_locations=spec.submodule_search_locations,
        )


def install() -> None:
    """Put the finder in front; idempotent. Packages that are imported already stay as they are."""
    if not any(isinstance(finder, LeanFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, LeanFinder(LEAN))
