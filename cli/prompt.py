"""The user's prompt: from the command line or stdin, as text and as tokens."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from swarm.core.errors import ConfigError

STDIN = "-"


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
            ConfigError: the model has no chat template.
        """
        if not self.chat:
            encoded = tokenizer(self.text, return_tensors="pt", return_token_type_ids=False)
            return {name: encoded[name] for name in ("input_ids", "attention_mask")}
        if not tokenizer.chat_template:
            raise ConfigError("--chat: this model has no chat template; leave it out")
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        messages.append({"role": "user", "content": self.text})
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}
