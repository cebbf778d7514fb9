"""Requests over a link that wait for their answers."""

from __future__ import annotations

import asyncio

from swarm.wire.control_messages import Done, Failed
from swarm.wire.failures import error_of


class PendingRequests:
    """Of one link, by number; `peer_id` answers them. For one event loop."""

    def __init__(self, peer_id: str) -> None:
        self._peer_id = peer_id
        self._answers: dict[int, asyncio.Future[Done]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._answers)

    def begin(self) -> tuple[int, asyncio.Future[Done]]:
        """The number of a new request, and its answer to be."""
        number, self._next = self._next, self._next + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        return number, answer

    def end(self, number: int) -> None:
        """Nobody waits for this one any more."""
        answer = self._answers.pop(number)
        if answer.done() and not answer.cancelled():
            answer.exception()  # it may have failed while it was being sent

    def settle(self, answer: Done | Failed) -> None:
        """An answer has come, perhaps after its deadline."""
        waiting = self._answers.get(answer.request)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Done):
            waiting.set_result(answer)
        else:
            waiting.set_exception(error_of(answer.kind, answer.message, self._peer_id, answer.retry_after_s))

    def fail(self, error: Exception) -> None:
        """No answer will come any more."""
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(error)
