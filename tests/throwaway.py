"""Packages that a test writes, imports and forgets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def throwaway_package(
    name: str, files: Mapping[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A package of these files, by path in it, that can be imported; at the end none of its modules is left."""
    for path, text in files.items():
        file = folder / name / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    try:
        yield
    finally:
        for module in [module for module in sys.modules if module.partition(".")[0] == name]:
            del sys.modules[module]
