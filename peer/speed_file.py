"""Speeds that peers of this machine measured, kept for an hour: who starts again need not measure again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from swarm.peer.speed import Speed

logger = logging.getLogger(__name__)
FRESH_S = 3600.0
MOST_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class Setup:
    """All that a speed depends on: `machine` and `device` by name, and the threads that compute on a CPU."""

    model_uid: str
    machine: str
    device: str
    precision: str
    threads: int

    @property
    def key(self) -> str:
        return "|".join((self.model_uid, self.machine, self.device, self.precision, str(self.threads)))


_Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    decode_s: _Seconds
    prefill_s: _Seconds
    measured_at: Annotated[float, Field(ge=0, allow_inf_nan=False)]


_ENTRIES = TypeAdapter(dict[str, _Entry])


class SpeedFile:
    """One JSON file for all models and devices of a user; `clock` is the time of day, which files outlive processes by.

    It is an aid: a file that cannot be read or written costs a measurement, and is logged.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def recall(self, setup: Setup) -> Speed | None:
        """What was measured with this setup within the last hour."""
        entry = self._fresh().get(setup.key)
        return None if entry is None else Speed(entry.decode_s, entry.prefill_s)

    def remember(self, setup: Setup, speed: Speed) -> None:
        """Keep a complete measurement; of two processes that write at once, one may be forgotten."""
        if not (speed.decode_s and speed.prefill_s):
            return
        entries = dict(list(self._fresh().items())[-MOST_ENTRIES + 1 :])
        entries.pop(setup.key, None)
        entries[setup.key] = _Entry(
            decode_s=speed.decode_s, prefill_s=speed.prefill_s, measured_at=self._clock()
        )
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(_ENTRIES.dump_json(entries))
            partial.replace(self._path)
        except OSError as error:
            logger.info("the measured speed could not be kept in %s: %s", self._path, error.strerror)

    def _fresh(self) -> dict[str, _Entry]:
        now = self._clock()
        try:
            entries = _ENTRIES.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except OSError as error:
            logger.info("%s cannot be read: %s", self._path, error.strerror)
            return {}
        except ValidationError:
            logger.info("%s does not hold speeds; it is written anew", self._path)
            return {}
        return {key: entry for key, entry in entries.items() if 0 <= now - entry.measured_at < FRESH_S}
