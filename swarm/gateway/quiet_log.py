"""Logs unexpected errors without what they say: that may be a part of somebody's prompt."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def log_quietly(what: str, error: Exception) -> None:
    """Kind and place of an error that nobody expected."""
    logger.error("%s failed: %s at %s", what, type(error).__name__, _place(error))


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
