"""One generation's session: a chain of hops, the inputs sent so far, and steps that survive the loss of hops.

    step -> chain whole?  -- no -->  fill the gaps, or build a chain anew
              | yes
            send, wait   -- a hop failed -->  mark it lost, avoid its peer, again
              | answered
            hidden state

A repeated step is harmless: hops recognise its number and answer from what they kept.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import torch
from torch import Tensor

from swarm.client.block_hashes import BlockHashes
from swarm.client.courier import Courier
from swarm.client.gap import find_gap
from swarm.client.hop import RemoteHop, SessionShape
from swarm.client.pieces import cut, wanted_from
from swarm.client.profile import StepProfile
from swarm.client.repair import Rebuild, Repairer
from swarm.client.replanner import Replanner
from swarm.client.replay import Past
from swarm.client.shared import LoadedModel, Shared
from swarm.client.takeover import Takeover
from swarm.client.trouble import Trouble
from swarm.client.waiting import PROBE_TIMEOUT_S
from swarm.core.errors import NextUnreachable, PeerError, RequestError
from swarm.routing.chain import Chain, Hop
from swarm.shards.history import History
from swarm.shards.step import Step, StepTensors
from swarm.wire.message import MAX_POSITION, MAX_ROWS
from swarm.wire.tensors import row_nbytes

logger = logging.getLogger(__name__)


class ChainSession:
    """Runs the steps of one sequence batch. For the event loop only; one step at a time.

    Args:
        max_tokens: positions per row the caller expects at most.
        rollback: whether the caller may go back to earlier positions.
        only: the only peers to use; None allows all.
    """

    def __init__(
        self,
        shared: Shared,
        model: LoadedModel,
        *,
        max_tokens: int,
        rollback: bool,
        only: frozenset[str] | None = None,
    ) -> None:
        self._shared = shared
        self._model = model
        self._max_tokens = max_tokens
        self._rollback = rollback
        self._history = History()
        self._repairer = Repairer(shared, model.dtype, self._begin_takeover, only)
        self._takeover = Takeover(shared, self._repairer, self)
        self._replanner = Replanner(shared, self._repairer)
        self._courier = Courier(shared)
        self._precision: str | None = None
        self._recorded = -1
        self._row_bytes = 0
        self._resend_from: int | None = 0  # the next step brings the past from there on; None: hops have it
        self._hashes = BlockHashes(shared.config.coding)
        self._may_reuse = True
        self._is_settled = False  # the last step was answered: all hops have run it
        self._answered = False
        self._is_moving = False  # a hop was left for better ones, and its layers have nobody yet
        self.turn = asyncio.Lock()  # an interrupted step may still take its leave when the next one comes
        self.hops: list[RemoteHop] = []

    @property
    def profile(self) -> StepProfile:
        """Where the time of this session's decode steps went."""
        return self._courier.profile

    async def step(self, step: Step, keep_last: int) -> Tensor:
        """The hidden state `[B, n, H]` after the last layer; only the last `keep_last` positions count (0: all).

        Raises:
            RequestError: if the request is impossible.
            SwarmUnavailable: if layers stay unserved until the deadline; the session can be resumed afterwards.
        """
        async with self.turn:
            was_settled, self._is_settled = self._is_settled, False
            self._record(step)
            trouble = Trouble(self._shared.config.unavailable_timeout_s)
            if was_settled and self._replanner.is_time():
                await self._leave_for_better()
            while True:
                try:
                    await self._make_whole(step, keep_last, trouble)
                    hidden = await self._run(step, keep_last)
                except PeerError as error:
                    trouble.note(error, _now_s())
                    await self._blame(error, trouble)
                    await asyncio.sleep(trouble.pause_s)
                except RequestError:
                    if not self._resend_from:
                        raise
                    await self._start_over()
                else:
                    self._is_settled = True
                    self._count(trouble)
                    return hidden

    def _count(self, trouble: Trouble) -> None:
        stats = self._shared.stats
        if trouble.since_s is not None and self._answered:
            stats.stalled_s += _now_s() - trouble.since_s
        self._answered = True
        stats.steps += 1

    async def close(self) -> None:
        """End the sessions on all hops; these may keep what they have cached, unless a step is half done."""
        await self._takeover.stop()
        hops, self.hops = self.hops, []
        prefix = self._prefix() if self._is_settled else ()
        if hops and prefix:
            chain = Chain(tuple(Hop(hop.peer_id, hop.span) for hop in hops), 0.0, hops[0].precision)
            self._shared.routes.remember(prefix, chain)
        await self._repairer.close(hops, prefix)

    def shape(self) -> SessionShape:
        """What the hops of this session are opened with, now that so much is behind it."""
        rows, length = self._history.rows, self._history.length
        return SessionShape(
            model_uid=self._shared.model_uid,
            tokens=rows * max(self._max_tokens, length),
            prompt_share=rows * length / max(self._max_tokens - length, 1),
            row_bytes=self._row_bytes,
            rollback=self._rollback,
            timeout_s=self._shared.config.open_timeout_s,
            coding=self._shared.config.coding,
        )

    def _begin_takeover(self) -> None:
        self._takeover.begin()

    def _prefix(self) -> tuple[bytes, ...]:
        """The hashes of what is cached or to come; none for sessions whose past nobody can continue."""
        traits = self._model.traits
        return self._hashes.of(self._history) if traits.croppable and not traits.slides else ()

    def _record(self, step: Step) -> None:
        """Bring the client's own past up to and including this step."""
        if step.number == self._recorded:
            return  # the caller repeats a step that failed
        _check_bounds(step, self._history.rows)
        self._recorded = step.number
        history, traits = self._history, self._model.traits
        if step.start < history.length:
            if not traits.croppable or (traits.slides and not self._rollback):
                self._resend_from = 0  # hops of this model cannot go back, but can be fed again
            elif self._resend_from is not None:
                self._resend_from = min(self._resend_from, step.start)  # what hops reused may go now, too
            history.truncate(step.start)
            self._hashes.truncate(step.start)
        if step.select_rows is not None and history.length:
            history.select_rows(step.select_rows)
            self._hashes.truncate(0)
        history.append(step.tensors)
        self._row_bytes = self._row_bytes or row_nbytes(step.tensors.named(), self._shared.config.coding)

    async def _make_whole(self, step: Step, keep_last: int, trouble: Trouble) -> None:
        self._notice_lost_links()
        if self.hops and find_gap(self.hops) is None:
            return
        give_up_s = trouble.begin(_now_s()) + self._shared.config.unavailable_timeout_s
        shape = self.shape()
        is_move, self._is_moving = self._is_moving, False
        if self._answered and not is_move:
            self._shared.stats.failovers += 1
        try:
            past = Past(self._history, step.number, self._most(step.tensors))
            while self.hops and find_gap(self.hops) is not None:
                self.hops = await self._repairer.fill(self.hops, shape, past, give_up_s)
        except Rebuild:
            await self.close()
        if not self.hops:
            await self._build(shape, wanted_from(step, keep_last), give_up_s)
        self._replanner.changed()

    async def _build(self, shape: SessionShape, wanted: int, give_up_s: float) -> None:
        """A fresh chain; what all its hops have kept need not be computed, as far as it is not wanted."""
        if self._may_reuse and wanted:
            shape = replace(shape, prefix=self._prefix())
        self.hops = await self._repairer.build(shape, self._precision, give_up_s)
        self._resend_from = min(wanted, *(hop.reused for hop in self.hops))
        self._precision = self.hops[0].precision

    async def _leave_for_better(self) -> None:
        """Between two steps: drop a hop whose layers others serve clearly better, without blame."""
        left = max(self._max_tokens - self._history.length, 0)
        hop = self._replanner.hop_to_leave(self.hops, self.shape(), self._history, left)
        if hop is not None:
            self._shared.stats.replans += 1
            self._is_moving = True
            self._repairer.left.add(hop.peer_id)
            await hop.dismiss()

    def _notice_lost_links(self) -> None:
        """Peers that went away between two steps are not asked again at once."""
        for hop in self.hops:
            if hop.link.closed and not hop.lost:
                hop.lost = True
                self._shared.navigator.standing.failed(hop.peer_id, hop.link.close_reason)

    def _most(self, tensors: StepTensors) -> int:
        """Positions that fit into one message; 0 where this model's past must come in one piece."""
        if not self._model.traits.chunkable:
            return 0
        per_token = sum(t.numel() * t.element_size() for t in tensors.named().values()) // tensors.tokens
        return max(self._shared.chunk_bytes // max(per_token, 1), 1)

    async def _run(self, step: Step, keep_last: int) -> Tensor:
        past, most = self._history, self._most(step.tensors)
        first = self._resend_from
        tokens = step.tensors.tokens if first is None else past.length - first
        chunk = most and min(self._shared.pace.chunk(tokens, step.tensors.rows, len(self.hops)), most)
        pieces = cut(step, past, resend_from=first, keep_last=keep_last, chunk=chunk)
        outputs = await self._courier.carry(self.hops, pieces)
        self._shared.stats.reused_tokens += first or 0
        self._resend_from = None
        found = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        missing = step.tensors.tokens - found.shape[1]
        if missing == 0:
            return found
        return torch.cat([found.new_zeros(found.shape[0], missing, *found.shape[2:]), found], dim=1)

    async def _blame(self, error: PeerError, trouble: Trouble) -> None:
        """Draw the consequences of a failure: which hops are lost, which peer is avoided."""
        self._may_reuse = self._may_reuse and not self._resend_from  # what was reused may be the reason
        guilty = [hop for hop in self.hops if hop.peer_id == error.peer_id]
        if isinstance(error, NextUnreachable) and guilty and await _lives(guilty[0]):
            await self._mend_edge(guilty[0])
            return
        logger.warning("%s; rerouting", error)
        if error.peer_id is None:
            await self.close()
            return
        if trouble.is_peers_fault(error):
            self._shared.navigator.standing.blame(error.peer_id, error)
        for hop in guilty:
            await hop.dismiss()

    async def _start_over(self) -> None:
        """A hop did not accept what followed the past that it said it had: compute all of it."""
        self._may_reuse, self._resend_from = False, 0
        await self.close()

    async def _mend_edge(self, victim: RemoteHop) -> None:
        """Both ends of an edge live: their caches stay."""
        try:
            await self._repairer.mend_edge(self.hops, victim, self._shared.config.open_timeout_s)
        except PeerError as error:
            logger.warning("%s; building a new chain", error)
            await self.close()


def _check_bounds(step: Step, rows: int) -> None:
    """Refuse what no message can say, in a session of so many rows so far."""
    if step.start + step.tensors.tokens > MAX_POSITION:
        raise RequestError(f"a session has at most {MAX_POSITION} positions")
    if step.select_rows is not None and max(rows, step.tensors.rows) > MAX_ROWS:
        raise RequestError(f"rows can be selected in sessions of at most {MAX_ROWS} rows")


async def _lives(hop: RemoteHop) -> bool:
    try:
        await hop.inspect(PROBE_TIMEOUT_S)
    except PeerError:
        return False
    return True


def _now_s() -> float:
    """The event loop's clock, which deadlines are measured by."""
    return asyncio.get_running_loop().time()
