"""The user's prompt: from the command line or stdin, as text and as tokens."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from swarm.core.errors import ConfigError

STDIN = "-"
_NAMES = ("input_ids", "attention_mask")


def read_prompt(argument: str) -> str:
    """The prompt; `-` reads all of stdin.

    Raises:
        ConfigError: it is empty or not UTF-8.
    """
    if argument != STDIN:
        text = argument
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as exc:
            raise ConfigError(f"PROMPT: stdin is not UTF-8 text (byte {exc.start})") from exc
    if not text.strip():
        raise ConfigError("PROMPT is empty: give some text to go on from")
    return text


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to go on from. `chat` puts it into the model's chat template, after `system` if given."""

    text: str
    chat: bool = False
    system: str | None = None

    def encode(self, tokenizer: Any) -> dict[str, Any]:
        """`input_ids` and `attention_mask`, `[1, n]` each.

        Raises:
            ConfigError: the model has no chat template, or one that does not take a system message.
        """
        if not self.chat:
            return encode_text(tokenizer, self.text)
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        return encode_chat(tokenizer, [*messages, {"role": "user", "content": self.text}])


def encode_text(tokenizer: Any, text: str) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of a text, `[1, n]` each."""
    encoded = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    return {name: encoded[name] for name in _NAMES}


def encode_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The same of a conversation in the model's chat template, up to where the next answer begins.

    Raises:
        ConfigError: the model has no chat template, or one that does not take these messages.
    """
    if not tokenizer.chat_template:
        raise ConfigError("--chat: this model has no chat template; leave it out")
    try:
        encoded = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    except TemplateError as exc:
        raise ConfigError(f"the model's chat template does not take this: {exc}") from exc
    return {name: encoded[name] for name in _NAMES}
