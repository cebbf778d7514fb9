"""Every error this package raises on purpose, split by what the caller does next.

SwarmError
├── ConfigError            what the user gave is wrong: change it (exit status 2)
├── ModelError             this checkpoint cannot be used: choose another or repair it
├── NodeError              this machine's own node cannot run: port in use, bad identity, p2pd died
├── RequestError           this request can never succeed as it is: do not retry
├── Interrupted            another thread ended this generation on purpose: nothing is wrong
├── SwarmUnavailable       nobody serves what is needed now: wait, or add peers
├── ApiError               an HTTP request gets an error as its answer   (in swarm/gateway/api_error.py)
└── PeerError              this peer failed: try another one   (carries .peer_id)
    ├── PeerUnreachable    cannot be dialled, or its link ended
    ├── PeerTimeout        a deadline passed without an answer
    ├── PeerBusy           full or draining: it refuses new work
    ├── PeerIncompatible   other protocol version, other checkpoint, malformed messages
    ├── SessionLost        it does not know the session (restarted, idle limit)
    ├── SessionBehind      its session lacks positions before the step: send them first
    └── NextUnreachable    it cannot reach the next hop: carry that edge yourself
"""

from __future__ import annotations

LONGEST_RETRY_S = 60.0  # a stranger who says more is believed so far


class SwarmError(Exception):
    """Root of all errors raised on purpose; its text is one line that says what to do."""


class ConfigError(SwarmError):
    """A setting, option or argument is wrong."""


class ModelError(SwarmError):
    """The checkpoint is missing, damaged, or of an unsupported kind."""


class NodeError(SwarmError):
    """This machine's own node cannot start or run."""


class RequestError(SwarmError):
    """The request itself is impossible; another peer would say the same."""


class Interrupted(SwarmError):
    """Another thread has ended this generation, because nobody waits for it any more."""


class SwarmUnavailable(SwarmError):
    """Some layers are served by nobody, or by nobody with room, until the deadline."""


class PeerError(SwarmError):
    """One peer failed; another may do."""

    def __init__(self, message: str, peer_id: str | None = None) -> None:
        super().__init__(message)
        self.peer_id = peer_id


class PeerUnreachable(PeerError):
    """The peer cannot be dialled, or the connection to it ended."""


class PeerTimeout(PeerError):
    """The peer did not answer before its deadline."""


class PeerBusy(PeerError):
    """The peer has no room, or takes no new sessions; `retry_after_s` says when to ask again, within a minute."""

    def __init__(self, message: str, peer_id: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, peer_id)
        self.retry_after_s = min(max(retry_after_s, 0.0), LONGEST_RETRY_S)


class PeerIncompatible(PeerError):
    """The peer speaks another protocol version, serves another checkpoint, or sends malformed messages."""


class SessionLost(PeerError):
    """The peer does not hold this session any more."""


class SessionBehind(PeerError):
    """The session lacks positions before those of the step; the error names both."""


class NextUnreachable(PeerError):
    """This peer is fine but cannot reach the next hop; the client can carry that edge itself."""
