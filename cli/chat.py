"""`swarm chat`: a conversation with a model of the swarm, in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from swarm.cli.chat_settings import ChatSettings
from swarm.cli.options import command_of
from swarm.cli.text_source import open_model, sampling_of
from swarm.core.errors import ConfigError
from swarm.core.user_folders import state_folder

if TYPE_CHECKING:
    from swarm.cli.chat_screen import ChatScreen

MISSING = "the terminal chat needs prompt_toolkit: pip install 'layerswarm[chat]' (or pipe lines into it)"


def chat(settings: ChatSettings) -> None:
    """Talk with a model of the swarm. /help lists what else can be done.

    Without a terminal, every line of stdin is a message, and answers are plain lines on stdout.
    """
    settings.require_peers()
    screen = _screen(settings)
    if sys.stderr.isatty():
        typer.secho(f"Joining the swarm of {settings.model} ...", dim=True, err=True)
    with open_model(settings) as model:
        from swarm.cli.chat_loop import Chat
        from swarm.shards.tokenizer import load_tokenizer

        talk = Chat(model, load_tokenizer(settings.model_source()), screen, sampling_of(settings))
        talk.conversation.instruct(settings.system)
        if settings.conversation is not None:
            talk.load(settings.conversation)
        screen.note("Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer, /help lists commands.")
        talk.run()


def _screen(settings: ChatSettings) -> ChatScreen:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        from swarm.cli.chat_screen import PlainScreen

        return PlainScreen()
    try:
        from swarm.cli.chat_terminal import TerminalScreen
    except ModuleNotFoundError as exc:
        if exc.name != "prompt_toolkit":
            raise
        raise ConfigError(MISSING) from exc
    return TerminalScreen(
        (settings.history or state_folder() / "chat-history") if settings.keep_history else None
    )


command = command_of(ChatSettings, chat)
