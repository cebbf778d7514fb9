"""`RecordGate` in the form in which hivemind's DHT asks it."""

from __future__ import annotations

import time

from swarm.wire.hivemind_parts import DHTRecord, RecordValidatorBase
from swarm.wire.record_gate import RecordGate


class DhtValidator(RecordValidatorBase):  # type: ignore[misc]
    """Lets only valid records into the DHT. A record without a subkey is never valid."""

    def __init__(self, gate: RecordGate) -> None:
        self._gate = gate

    def validate(self, record: DHTRecord) -> bool:
        return self._gate.admits(record.key, record.subkey, record.value, record.expiration_time, time.time())
