"""What a node says once it serves: in its log, and in a file for scripts."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


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


def tell_ready(info: ReadyInfo, path: Path | None) -> None:
    """Log that the node serves, and write it into the file, if there is to be one."""
    logger.info("serving", extra=_fields(info))
    if path is not None:
        _write(path, info)


def _fields(info: ReadyInfo) -> dict[str, object]:
    fields = {**asdict(info), "addresses": list(info.addresses)}
    if info.metrics is None:
        del fields["metrics"]
    return fields


def _write(path: Path, info: ReadyInfo) -> None:
    """In one atomic step, so that a reader sees all of it or nothing."""
    draft = path.with_name(f".{path.name}.{info.pid}")
    draft.write_text(json.dumps(_fields(info)) + "\n", encoding="utf-8")
    os.replace(draft, path)
