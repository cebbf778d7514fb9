"""The body of OpenAI's `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from swarm.gateway.body import Body, NewTokens, ShortText, Text
from swarm.gateway.completions_api import Prompts, TokenIds, TokenPrompts


class EmbeddingsRequest(Body):
    """Texts to be made into vectors."""

    model: Text
    input: Annotated[Text, Field(min_length=1)] | Prompts | TokenIds | TokenPrompts
    dimensions: NewTokens | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: ShortText | None = None
