"""A chain of shards within this process, for `swarm check` and for tests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from torch import Tensor

from swarm.core.errors import ConfigError
from swarm.shards.session import ShardSession
from swarm.shards.shard import Shard
from swarm.shards.step import Step


class LocalRunner:
    """Runs sessions through `shards`, one after the other; usable from several threads.

    Raises:
        ConfigError: if the shards do not follow each other from layer 0.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        ends = [0, *(shard.span.end for shard in shards)]
        if [shard.span.start for shard in shards] != ends[:-1]:
            raise ConfigError(
                f"shards {[str(shard.span) for shard in shards]} do not follow each other from layer 0"
            )
        self.shards = list(shards)
        self.sessions: list[LocalSession] = []
        self._device = threading.Lock()

    def open(self, *, max_tokens: int, rollback: bool) -> LocalSession:
        """A new session on every shard."""
        hops = [shard.open(shard.span, rollback=rollback) for shard in self.shards]
        session = LocalSession(hops, self._device, self.sessions)
        self.sessions.append(session)
        return session


class LocalSession:
    """One session on all shards of a runner; it is listed there until it is closed."""

    def __init__(self, hops: list[ShardSession], device: threading.Lock, listed: list[LocalSession]) -> None:
        self.hops = hops
        self._device = device
        self._listed = listed

    def step(self, step: Step, *, keep_last: int) -> Tensor:
        """Hidden state after the last shard."""
        with self._device:
            tensors = step.tensors
            for hop in self.hops:
                tensors = hop.apply(Step(step.number, step.start, tensors, step.select_rows))
        return tensors.hidden

    def close(self) -> None:
        """Free the sessions."""
        if self in self._listed:
            self._listed.remove(self)
