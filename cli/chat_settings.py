"""Options of `swarm chat`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from swarm.cli.client_settings import TextSettings
from swarm.cli.setting_types import Count, File, Shown, Switch


class ChatSettings(TextSettings):
    """`swarm chat MODEL`."""

    max_tokens: Annotated[Count, Field(description="Most new tokens of an answer.")] = 512
    conversation: Annotated[
        File | None, Shown("FILE", flag="--load"), Field(description="Go on with a conversation of /save.")
    ] = None
    history: Annotated[
        File | None,
        Shown("FILE", default="chat-history in the user's state folder"),
        Field(description="Where your messages are kept for the arrow keys and Ctrl-R."),
    ] = None
    keep_history: Annotated[Switch, Field(description="Write that file at all.")] = True
