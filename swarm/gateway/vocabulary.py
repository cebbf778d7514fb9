"""The model's side of texts: tokens, limits, and what ends an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from swarm.gateway.grammar import Grammars
from swarm.gateway.tool_format import ToolFormat


class Vocabulary:
    """Tokenizer and limits of one model. Usable from several threads.

    Attributes:
        ends: tokens that end an answer.
        padding: given to `generate()` so that it does not say which it takes.
        positions: most tokens of prompt and answer together; None where the model says nothing.
        size: how many logits the model has.
    """

    def __init__(self, tokenizer: Any, config: Any, generation_config: Any) -> None:
        self.tokenizer = tokenizer
        text = config.get_text_config(decoder=True)
        end = generation_config.eos_token_id
        self.ends: tuple[int, ...] = () if end is None else (end,) if isinstance(end, int) else tuple(end)
        self.padding: int | None = (
            tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        )
        self.positions: int | None = getattr(text, "max_position_embeddings", None)
        self.size = int(text.vocab_size)
        self.grammars = Grammars(tokenizer, self.size, self.ends)

    def encode(self, text: str) -> tuple[int, ...]:
        """A plain prompt, with the marks that the model wants at its beginning."""
        return tuple(self.tokenizer(text)["input_ids"])

    def encode_raw(self, text: str) -> tuple[int, ...]:
        """Text in the middle of a prompt."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoder(self, tools: ToolFormat | None) -> Callable[[Sequence[int]], str]:
        """Tokens to text, without special tokens but those that mark a tool call."""
        if tools is None or not tools.opening:
            return lambda ids: str(self.tokenizer.decode(ids, skip_special_tokens=True))
        marks = {self.tokenizer.convert_tokens_to_ids(tools.opening)}
        hidden = set(self.tokenizer.all_special_ids) - marks

        def decode(ids: Sequence[int]) -> str:
            return str(self.tokenizer.decode([i for i in ids if i not in hidden], skip_special_tokens=False))

        return decode

    def text_of(self, token: int) -> str:
        """A token alone."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))
