"""The JSON file of a run: what was measured, with which settings, on what."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from swarm.bench.plan import Plan
from swarm.bench.report import Report
from swarm.core.errors import ConfigError
from swarm.core.version import VERSION


def check_folder(path: Path, option: str) -> None:
    """Find out before hours of measuring whether `path` can be written.

    Raises:
        ConfigError: it cannot.
    """
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option}: cannot write {path}: give a file in a folder that exists and is yours")


def document(reports: Sequence[Report], plan: Plan, model: str) -> dict[str, Any]:
    """Everything a reader needs to compare two runs."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "settings": asdict(plan),
        "machine": {"system": platform.platform(), "machine": platform.machine(), "cores": os.cpu_count()},
        "versions": {"swarm": VERSION, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers")},
        "results": [report.as_json() for report in reports],
    }


def write(path: Path, found: dict[str, Any]) -> None:
    """Write in one step, so that an older file stays whole if this fails.

    Raises:
        ConfigError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, path)
    except OSError as exc:
        raise ConfigError(f"--json: cannot write {path}: {exc.strerror}") from exc
