"""OpenAI's embeddings, for models that come with a way to pool."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.types import Send
from torch import Tensor

from swarm.gateway.api_error import bad_request
from swarm.gateway.body import Body, NewTokens, ShortText, Text, as_prompts
from swarm.gateway.completions_api import Prompts, TokenIds, TokenPrompts
from swarm.gateway.door import Caller
from swarm.gateway.prompts import Prompter
from swarm.gateway.watched_response import WatchedResponse, send_json


class EmbeddingsRequest(Body):
    """Texts, or token ids, to be made into vectors."""

    model: Text
    input: Annotated[Text, Field(min_length=1)] | Prompts | TokenIds | TokenPrompts
    dimensions: NewTokens | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: ShortText | None = None


Encode = Callable[[Sequence[Sequence[int]]], Awaitable[list[Tensor]]]
"""A vector for each of some texts of token ids."""


class EmbeddingsResponse(WatchedResponse):
    """Has the vectors computed while it is being sent."""

    def __init__(self, caller: Caller, prompter: Prompter, encode: Encode, body: EmbeddingsRequest) -> None:
        super().__init__(caller)
        self._prompter = prompter
        self._encode = encode
        self._body = body

    async def answer(self, send: Send) -> None:
        """Compute, and send the vectors."""
        body = self._body
        texts = await asyncio.to_thread(self._prompter.texts, as_prompts(body.input))
        vectors = await self._encode(texts)
        if body.dimensions not in (None, len(vectors[0])):
            raise bad_request(f"vectors of this model have {len(vectors[0])} numbers", "dimensions")
        count = sum(map(len, texts))
        data = [
            {"object": "embedding", "index": index, "embedding": self._numbers(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        await send_json(send, {"object": "list", "data": data, "model": body.model, "usage": usage}, {})

    def _numbers(self, vector: Tensor) -> Any:
        if self._body.encoding_format == "base64":
            return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
        return vector.tolist()
