"""The pings of a link: heartbeats measure round trips, and those behind bulk payloads what the link carries."""

from __future__ import annotations

from time import perf_counter

from swarm.wire.bandwidth import FIRST_NONCE, Bandwidth, BulkTimer
from swarm.wire.heartbeat import Heartbeat
from swarm.wire.messages import Ping, Pong
from swarm.wire.stream import FrameStream


class Pulse:
    """Sends, answers and times the pings on one stream. Its clock is perf_counter: uvloop's counts milliseconds."""

    def __init__(self, stream: FrameStream, bandwidth: Bandwidth) -> None:
        self._stream = stream
        self._bandwidth = bandwidth
        self._heartbeat = Heartbeat()
        self._bulk = BulkTimer(bandwidth.upload)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time; None until the first pong."""
        return self._heartbeat.rtt_s

    def beat(self) -> None:
        """The heartbeat's next ping."""
        nonce = self._heartbeat.next_ping(perf_counter(), timed=not self._stream.busy)
        self._stream.send_now(Ping(nonce=nonce, bytes_per_s=self._bulk.take_news()))

    def has_sent(self, size: int, began_s: float) -> None:
        """So many bytes have been sent since `began_s`."""
        if (nonce := self._bulk.sent(size, began_s)) is not None:
            self._stream.send_now(Ping(nonce=nonce))

    def answer(self, ping: Ping) -> None:
        """The other end asks, and may say what bulk payloads to here reached."""
        self._stream.send_now(Pong(nonce=ping.nonce))
        if ping.bytes_per_s:
            self._bandwidth.download.add(ping.bytes_per_s)

    def take(self, pong: Pong) -> None:
        """The other end answers."""
        now_s = perf_counter()
        if pong.nonce >= FIRST_NONCE:
            self._bulk.pong(pong.nonce, now_s, self.rtt_s)
            return
        sampled = self._heartbeat.pong(pong.nonce, now_s, timed=not self._stream.busy)
        if sampled and self._heartbeat.warming_up:
            self.beat()
