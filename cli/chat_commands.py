"""What begins with a slash in a chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from swarm.cli.answer_progress import chain_text
from swarm.cli.setting_types import Count, Probability, Seed, Temperature
from swarm.core.errors import ConfigError

if TYPE_CHECKING:
    from swarm.cli.chat_loop import Chat

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Command:
    """`takes` is how its argument is shown, empty for commands without one."""

    takes: str
    help: str
    run: Callable[[Chat, str], None]


def obey(chat: Chat, line: str) -> None:
    """Run `/name argument`.

    Raises:
        SwarmError: there is no such command, its argument is wrong, or it failed.
    """
    name, _, argument = line[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        close = get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean /{close[0]}?" if close else "/help lists them"
        raise ConfigError(f"there is no command /{name}: {advice} (a message may begin with //)")
    argument = argument.strip()
    if argument and not command.takes:
        raise ConfigError(f"/{name} takes nothing after it")
    command.run(chat, argument)


def _help(chat: Chat, argument: str) -> None:
    rows = [(f"/{name} {command.takes}".rstrip(), command.help) for name, command in COMMANDS.items()]
    width = max(len(left) for left, _ in rows)
    keys = "Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer, Ctrl-D leaves."
    chat.screen.say("\n".join([*(f"{left:<{width}}  {right}" for left, right in rows), keys]))


def _new(chat: Chat, argument: str) -> None:
    chat.conversation.clear()
    chat.forget_cache()
    chat.screen.note("a new conversation")


def _system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.screen.say(chat.conversation.system or "there is no system message")
        return
    chat.conversation.instruct(None if argument == "none" else argument)


def _save(chat: Chat, argument: str) -> None:
    chat.conversation.save(_path("save", argument), chat.model.source_name)
    chat.screen.note(f"saved to {argument}")


def _load(chat: Chat, argument: str) -> None:
    chat.load(_path("load", argument))


def _retry(chat: Chat, argument: str) -> None:
    question = chat.conversation.take_back() or chat.unanswered
    if question is None:
        raise ConfigError("nothing was asked yet")
    chat.ask(question)


def _set(chat: Chat, argument: str) -> None:
    changes = dict(_change(chat, word) for word in argument.split())
    chat.sampling = replace(chat.sampling, **changes)
    values = ((name, getattr(chat.sampling, name)) for name in _SETTABLE)
    chat.screen.say(" ".join(f"{name}={DEFAULT if value is None else value}" for name, value in values))


def _chain(chat: Chat, argument: str) -> None:
    chain = chat.model.chain
    chat.screen.say(chain_text(chat.model, chain) if chain is not None else "no chain yet: ask something")


def _quit(chat: Chat, argument: str) -> None:
    chat.leave()


COMMANDS = {
    "help": Command("", "list the commands", _help),
    "new": Command("", "forget the conversation and begin a new one", _new),
    "system": Command("[TEXT]", "show or set the system message; none removes it", _system),
    "retry": Command("", "answer the last message again", _retry),
    "set": Command("[NAME=VALUE ...]", "temperature, top_p, top_k, seed, max_tokens; or VALUE default", _set),
    "chain": Command("", "which peers answer, with their layers", _chain),
    "save": Command("FILE", "write the conversation as JSON", _save),
    "load": Command("FILE", "go on with a saved conversation", _load),
    "quit": Command("", "leave", _quit),
}

_SETTABLE: dict[str, Any] = {
    "temperature": Temperature,
    "top_p": Probability,
    "top_k": Count,
    "seed": Seed,
    "max_tokens": Count,
}


def _change(chat: Chat, word: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals or name not in _SETTABLE:
        raise ConfigError(f"/set {word}: give NAME=VALUE, where NAME is one of {', '.join(_SETTABLE)}")
    if text == DEFAULT:
        return name, getattr(chat.first_sampling, name)
    try:
        return name, TypeAdapter(_SETTABLE[name]).validate_python(text)
    except ValidationError as exc:
        raise ConfigError(f"/set {name}: {exc.errors()[0]['ctx']['error']}") from exc


def _path(name: str, argument: str) -> Path:
    if not argument:
        raise ConfigError(f"/{name} needs a file: /{name} FILE")
    return Path(argument).expanduser()
