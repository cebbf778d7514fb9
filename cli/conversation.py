"""A conversation with a model: what was said, as the model's next prompt and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from swarm.cli.prompt import encode_chat, encode_text
from swarm.core.errors import ConfigError


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"]
    content: str


class SavedConversation(BaseModel):
    """What /save writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    system: str | None
    messages: tuple[Message, ...]


class Conversation:
    """Questions and answers take turns.

    Args:
        templated: whether the model has a chat template; without one, all that was said is one text that goes on.
    """

    def __init__(self, *, templated: bool, system: str | None = None) -> None:
        self.templated = templated
        self.system: str | None = None
        self.messages: list[Message] = []
        if system is not None:
            self.instruct(system)

    def instruct(self, system: str | None) -> None:
        """Set the system message.

        Raises:
            ConfigError: the model has no chat template, so there is no place for one.
        """
        if not self.templated and system is not None:
            raise ConfigError("this model has no chat template, and so no system message")
        self.system = system

    def ask(self, text: str) -> None:
        """The user says something."""
        self.messages.append(Message(role="user", content=text))

    def answer(self, text: str) -> None:
        """The model has answered."""
        self.messages.append(Message(role="assistant", content=text))

    def take_back(self) -> str | None:
        """Forget the last question, with its answer if there is one; None if nothing was asked."""
        while self.messages:
            message = self.messages.pop()
            if message.role == "user":
                return message.content
        return None

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages.clear()

    def encode(self, tokenizer: Any) -> dict[str, Any]:
        """`input_ids` and `attention_mask`, `[1, n]` each, up to where the next answer begins.

        Raises:
            ConfigError: the chat template does not take this conversation.
        """
        if not self.templated:
            return encode_text(tokenizer, "".join(message.content for message in self.messages))
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return encode_chat(tokenizer, [*system, *(message.model_dump() for message in self.messages)])

    def save(self, path: Path, model: str) -> None:
        """Write it as JSON, readable for its owner only.

        Raises:
            ConfigError: the file cannot be written.
        """
        saved = SavedConversation(model=model, system=self.system, messages=tuple(self.messages))
        try:
            path.touch(mode=0o600)
            path.write_text(saved.model_dump_json(indent=2) + "\n", encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"cannot write {path}: {exc.strerror}") from exc

    def load(self, path: Path) -> str:
        """Take over what /save wrote; returns which model it was with.

        Raises:
            ConfigError: the file cannot be read, or is no conversation.
        """
        try:
            saved = SavedConversation.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
        except ValidationError as exc:
            raise ConfigError(f"{path} is no conversation that /save has written") from exc
        if not _takes_turns(saved.messages):
            raise ConfigError(f"{path}: questions and answers do not take turns")
        self.instruct(saved.system)
        self.messages = list(saved.messages)
        return saved.model


def _takes_turns(messages: Sequence[Message]) -> bool:
    roles = [message.role for message in messages]
    return roles == ["user", "assistant"] * (len(roles) // 2)
