"""`swarm version`: versions of this program and of what it builds on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import typer

from swarm import __version__

_DEPENDENCIES = ("torch", "transformers", "hivemind")


def version_of(distribution: str) -> str:
    """The installed version, read from package metadata without importing the package."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def command() -> None:
    """Print the versions of this program and of what it builds on."""
    parts = [f"{name} {version_of(name)}" for name in _DEPENDENCIES]
    typer.echo(f"swarm {__version__} (python {platform.python_version()}, {', '.join(parts)})")
