"""What the routes of all APIs share."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import Request

from swarm.gateway.api_error import ApiError
from swarm.gateway.ask import Ask
from swarm.gateway.desk import Desk
from swarm.gateway.dialect import Dialect
from swarm.gateway.door import Door
from swarm.gateway.lookout import Lookout
from swarm.gateway.meter import Meter
from swarm.gateway.origin import Origin
from swarm.gateway.pooling import Pooling
from swarm.gateway.prompts import Prompter
from swarm.gateway.pulse import Pulse
from swarm.gateway.responder import AnswerResponse


class Gateway:
    """One model behind HTTP.

    Attributes:
        name: what clients call the model.
        lookout: who sees the swarm.
        pooling: how the model makes vectors, if it is made for that.
        created: when it began to be served here, as a Unix time.

    Args:
        silence_s: the longest time without a byte in a stream.
    """

    def __init__(
        self,
        name: str,
        prompter: Prompter,
        desk: Desk,
        door: Door,
        meter: Meter,
        lookout: Lookout,
        pooling: Pooling | None = None,
        silence_s: float = 10.0,
    ) -> None:
        self.name = name
        self.prompter = prompter
        self.desk = desk
        self.door = door
        self.meter = meter
        self.lookout = lookout
        self.pooling = pooling
        self._silence_s = silence_s
        self.pulse = Pulse(desk, meter)
        self.created = int(time.time())

    def answer(
        self, request: Request, model: str, make: Callable[[Prompter], Ask], dialect: Dialect, streams: bool
    ) -> AnswerResponse:
        """The response to a request that wants text from `model`.

        Raises:
            ApiError: 401 or 404.
        """
        caller = self.door.admit(request.headers)
        self.require_model(model)
        origin: Origin = request.state.origin
        silence_s = self._silence_s if streams else None
        return AnswerResponse(self.desk, caller, origin, lambda: make(self.prompter), dialect, silence_s)

    def require_model(self, name: str) -> None:
        """Refuse models that are not served here.

        Raises:
            ApiError: 404.
        """
        if name != self.name:
            text = f"the model {name[:100]!r} does not exist here; this gateway serves {self.name!r}"
            raise ApiError(404, text, param="model", code="model_not_found")
