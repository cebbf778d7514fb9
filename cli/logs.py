"""The log on stderr: lines for people, or a JSON object in each line for programs."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def start_logging(debug: bool) -> None:
    """Warnings as lines like the errors of `failure.py`; everything, with its origin, if `debug`."""
    logging.addLevelName(logging.WARNING, "warning")
    logging.addLevelName(logging.INFO, "info")
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s" if debug else "%(levelname)s: %(message)s",
    )


def tell_decisions() -> None:
    """Log where a peer goes and why, beside warnings."""
    for name in ("swarm.peer.balancer", "swarm.peer.life"):
        logging.getLogger(name).setLevel(logging.INFO)


def log_as_json() -> None:
    """From now on each record is one JSON object; what this package does is logged, too, not warnings alone."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
    ours = logging.getLogger("swarm")
    ours.setLevel(min(logging.INFO, logging.getLogger().level))


def logs_json() -> bool:
    """Whether `log_as_json` was called."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger`, `message`, what the record was given as `extra`, and `error` with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)
