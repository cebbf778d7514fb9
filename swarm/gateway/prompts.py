"""Prompts of the model from messages, tools and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from swarm.gateway.api_error import ApiError, bad_request
from swarm.gateway.tool_format import ToolFormat, find_format
from swarm.gateway.vocabulary import Vocabulary

DEFAULT_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called; `parameters` is a JSON schema."""

    name: str
    description: str | None
    parameters: Mapping[str, Any]

    def as_template(self) -> dict[str, Any]:
        """As chat templates expect it."""
        function = {
            "name": self.name,
            "description": self.description or "",
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`auto`, `none`, `required`, or the `name` of the tool that must be called."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """A conversation made into a prompt, and how to read the answer."""

    prompt: tuple[int, ...]
    grammar: str | None = None
    tools: ToolFormat | None = None
    call_is_forced: bool = False


class Prompter:
    """Makes prompts for one model. Usable from several threads."""

    def __init__(self, vocabulary: Vocabulary, model_name: str) -> None:
        self._vocabulary = vocabulary
        self._model_name = model_name

    @property
    def positions(self) -> int | None:
        """Most tokens of prompt and answer together; None where the model says nothing."""
        return self._vocabulary.positions

    @property
    def takes_messages(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._vocabulary.tokenizer.chat_template)

    def plain(self, prompts: Sequence[str | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Texts, or token ids as they are.

        Raises:
            ApiError: a prompt is empty, or an id is none of this model.
        """
        made = []
        for prompt in prompts:
            ids = self._vocabulary.encode(prompt) if isinstance(prompt, str) else tuple(prompt)
            if not ids:
                raise bad_request("an empty prompt cannot be continued", "prompt")
            if not all(0 <= token < self._vocabulary.size for token in ids):
                raise bad_request(f"token ids go from 0 to {self._vocabulary.size - 1}", "prompt")
            made.append(ids)
        return tuple(made)

    def texts(self, given: Sequence[str | Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Texts to be made into vectors.

        Raises:
            ApiError: one is empty, no text of this model, or longer than it allows.
        """
        made, positions = self.plain(given), self._vocabulary.positions
        longest = max(map(len, made))
        if positions is not None and longest > positions:
            text = f"a text has {longest} tokens; {self._model_name} has room for {positions}"
            raise bad_request(text, "input", "context_length_exceeded")
        return made

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Tool] = (),
        choice: ToolChoice = ToolChoice(),
        schema: Mapping[str, Any] | None = None,
    ) -> ChatPlan:
        """A conversation in the model's chat template; the answer follows `schema` if one is given.

        Raises:
            ApiError: the model has no template, or none for this.
        """
        if not tools or choice.mode == "none":
            if choice.mode == "required" or choice.name:
                raise bad_request("a tool must be called, but none is given", "tool_choice")
            grammar = None if schema is None else self._vocabulary.grammars.compile(schema, "response_format")
            return ChatPlan(self._rendered(messages, []), grammar)
        form = self._format(tools)
        prompt = self._rendered(messages, tools)
        if choice.mode == "auto" and choice.name is None:
            if schema is not None:
                raise bad_request("tools and a format of the answer cannot be combined", "response_format")
            return ChatPlan(prompt, tools=form)
        chosen = {tool.name: tool.parameters for tool in tools if choice.name in (None, tool.name)}
        if not chosen:
            raise bad_request(f"there is no tool {choice.name!r}", "tool_choice")
        grammar = self._vocabulary.grammars.compile(form.call_schema(chosen), "tools")
        return ChatPlan(prompt + self._vocabulary.encode_raw(form.opening + form.lead), grammar, form, True)

    def _format(self, tools: Sequence[Tool]) -> ToolFormat:
        if len({tool.name for tool in tools}) < len(tools):
            raise bad_request("two tools have the same name", "tools")
        template = self._vocabulary.tokenizer.chat_template
        form = find_format(str(template)) if template else None
        if form is None:
            raise bad_request(f"{self._model_name} has no tool calls in its chat template", "tools")
        return form

    def _rendered(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> tuple[int, ...]:
        tokenizer = self._vocabulary.tokenizer
        if not self.takes_messages:
            raise bad_request(
                f"{self._model_name} has no chat template: use /v1/completions", "messages", "no_chat"
            )
        try:
            found = tokenizer.apply_chat_template(
                list(messages),
                tools=[tool.as_template() for tool in tools] or None,
                add_generation_prompt=True,
                return_dict=True,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as exc:
            reason = str(exc) if isinstance(exc, TemplateError) else type(exc).__name__
            text = f"the chat template of {self._model_name} does not take these messages: {reason}"
            raise bad_request(text, "messages") from exc
        return tuple(found["input_ids"])

    def bias(self, given: Mapping[int, float]) -> Mapping[int, float]:
        """Biases of tokens.

        Raises:
            ApiError: for an id that is none of this model.
        """
        if not all(0 <= token < self._vocabulary.size for token in given):
            raise bad_request(f"token ids go from 0 to {self._vocabulary.size - 1}", "logit_bias")
        return given

    def room(self, prompts: Sequence[Sequence[int]], wanted: int | None, param: str) -> int:
        """How many new tokens there are to be.

        Raises:
            ApiError: prompt and answer together are longer than the model allows.
        """
        longest, positions = max(map(len, prompts)), self._vocabulary.positions
        if positions is None:
            return wanted or DEFAULT_TOKENS
        left = positions - longest
        if left < 1:
            raise ApiError(
                400,
                f"the prompt has {longest} tokens; {self._model_name} has room for {positions}, the answer included",
                code="context_length_exceeded",
            )
        if wanted is not None and wanted > left:
            raise ApiError(
                400,
                f"{param} {wanted} is too large: {self._model_name} has room for {positions} tokens, and the prompt "
                f"has {longest}",
                param=param,
                code="context_length_exceeded",
            )
        return wanted or min(left, DEFAULT_TOKENS)
