"""What a node says once it serves, and the file in which scripts read it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ReadyInfo:
    """A serving node; `model` and `span` (as `A:B`) are None for a bootstrap node.

    `metrics` is the URL of its page for Prometheus, if it has one.
    """

    peer_id: str
    addresses: tuple[str, ...]
    model: str | None
    span: str | None
    pid: int
    metrics: str | None = None


def write_ready_file(path: Path, info: ReadyInfo) -> None:
    """Write `info` as JSON in one atomic step, so that a reader sees all of it or nothing."""
    draft = path.with_name(f".{path.name}.{info.pid}")
    fields = {**asdict(info), "addresses": list(info.addresses)}
    if info.metrics is None:
        del fields["metrics"]
    draft.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    os.replace(draft, path)
