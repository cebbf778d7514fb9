"""The log as JSON: an object in each line, with the session it is about, and the error that ended the command."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

from swarm.cli.logs import JsonLines
from swarm.core.log_fields import session_fields


def record(message: str, *arguments: object, **others: object) -> logging.LogRecord:
    logger = logging.getLogger("swarm.peer.test")
    error = others.pop("exc_info", None)
    assert error is None or isinstance(error, Exception)
    found = (type(error), error, error.__traceback__) if error is not None else None
    return logger.makeRecord(logger.name, logging.INFO, __file__, 1, message, arguments, found, extra=others)


def test_a_record_is_one_object_in_one_line_with_its_session() -> None:
    fields = session_fields(bytes(16), layers="0:4")
    line = JsonLines().format(record("waited %g s\nin all", 2.0, **fields))
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info",
        "logger": "swarm.peer.test",
        "message": "waited 2 s\nin all",
        "session": "00" * 16,
        "layers": "0:4",
    }


def test_an_error_comes_with_its_traceback() -> None:
    found = json.loads(JsonLines().format(record("it failed", exc_info=ValueError("odd"))))
    assert found["error"].endswith("ValueError: odd")


def test_a_command_that_fails_says_why_as_json() -> None:
    command = [sys.executable, "-m", "swarm.cli.main", "serve", "/no/such/folder", "--log-format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert found[-1]["level"] == "error"
    assert "/no/such/folder" in found[-1]["message"]
