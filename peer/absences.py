"""Which sessions will be back soon: a session that decodes leaves with every token and returns with the next one."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 0.7
_LOST_AFTER = 1.5  # times the usual absence; then it is not waited for


@dataclass(slots=True)
class _Absence:
    usual_s: float | None = None
    left_s: float | None = None  # None while it is here


class Absences:
    """Times in seconds, by one clock of the caller's."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _Absence] = {}

    def left(self, session: bytes, now_s: float) -> None:
        """A token of this session is done."""
        absence = self._sessions.get(session)
        if absence is None:
            absence = self._sessions[session] = _Absence()
        absence.left_s = now_s

    def came(self, session: bytes, now_s: float) -> None:
        """The next step of this session is here."""
        absence = self._sessions.get(session)
        if absence is None or absence.left_s is None:
            return
        away_s = now_s - absence.left_s
        usual_s = away_s if absence.usual_s is None else absence.usual_s
        absence.usual_s = _MEMORY * usual_s + (1 - _MEMORY) * min(away_s, 2 * usual_s)
        absence.left_s = None

    def is_alone(self, session: bytes) -> bool:
        """Whether this session has decoded here, and no other one does."""
        return self._sessions.keys() == {session}

    def forget(self, session: bytes) -> None:
        """This session has ended."""
        self._sessions.pop(session, None)

    def usual_s(self) -> float:
        """How long sessions are usually away, on average; 0 if nobody has come back yet."""
        known = [absence.usual_s for absence in self._sessions.values() if absence.usual_s is not None]
        return sum(known) / len(known) if known else 0.0

    def expected(self, now_s: float) -> list[float]:
        """In how many seconds each absent session will be back, the soonest first; 0 if it is overdue."""
        found = []
        for absence in self._sessions.values():
            if absence.left_s is None or absence.usual_s is None:
                continue
            away_s = now_s - absence.left_s
            if away_s <= _LOST_AFTER * absence.usual_s:
                found.append(max(absence.usual_s - away_s, 0.0))
        return sorted(found)
