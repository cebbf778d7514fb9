"""A chat from its first message to its last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.cli.answer_progress import AnswerProgress
from swarm.cli.chat_commands import obey
from swarm.cli.chat_screen import ChatScreen
from swarm.cli.completion import complete
from swarm.cli.conversation import Conversation
from swarm.cli.sampling import Sampling
from swarm.core.errors import SwarmError

if TYPE_CHECKING:
    from swarm import SwarmModel

NO_TEMPLATE = (
    "this model has no chat template: it goes on with your text, and its answers are no more than that"
)


class Chat:
    """What commands work on.

    Attributes:
        sampling: how the next answer's tokens are chosen.
        first_sampling: the same at the beginning.
        unanswered: the last message, if it got no answer.
    """

    def __init__(self, model: SwarmModel, tokenizer: Any, screen: ChatScreen, sampling: Sampling) -> None:
        self.model = model
        self.screen = screen
        self.conversation = Conversation(templated=bool(tokenizer.chat_template))
        self.sampling = self.first_sampling = sampling
        self.unanswered: str | None = None
        self._tokenizer = tokenizer
        self._dialogue = model.dialogue()
        self._left = False

    def run(self) -> None:
        """Until the user leaves.

        Raises:
            SwarmError: something failed, and the screen has nobody to go on.
        """
        if not self.conversation.templated:
            self.screen.note(NO_TEMPLATE)
        while not self._left and (line := self.screen.read()) is not None:
            try:
                self.take(line)
            except SwarmError as error:
                self.screen.fail(error)
        self.forget_cache()

    def take(self, line: str) -> None:
        """A message, or a command if it begins with a slash; two slashes begin a message with one."""
        if not line.strip():
            return
        if line.startswith("/") and not line.startswith("//"):
            obey(self, line.strip())
        else:
            self.ask(line.removeprefix("/") if line.startswith("//") else line)

    def ask(self, text: str) -> None:
        """Let the model answer; what came of an answer that is stopped with Ctrl-C stays.

        Raises:
            SwarmError: there is no answer; the message is as if it had not been said.
        """
        self.conversation.ask(text)
        self.unanswered = text
        progress = AnswerProgress(self.model)
        pieces: list[str] = []
        try:
            self._generate(progress, pieces)
        except KeyboardInterrupt:
            self.screen.note("stopped")
        finally:
            if pieces and progress.tokens:
                self.conversation.answer("".join(pieces))
                self.unanswered = None
            else:
                self.conversation.take_back()
        self.screen.note(progress.summary())

    def _generate(self, progress: AnswerProgress, pieces: list[str]) -> None:
        with self.screen.answering(progress) as write:

            def show(text: str, tokens: int) -> None:
                progress.came(tokens)
                pieces.append(text)
                write(text)

            complete(self.model, self._tokenizer, self.conversation, self.sampling, show, self._dialogue)

    def load(self, path: Path) -> None:
        """Go on with a saved conversation.

        Raises:
            ConfigError: it cannot be read.
        """
        name = self.conversation.load(path)
        turns = len(self.conversation.messages) // 2
        other = "" if name == self.model.source_name else f", which was with {name}"
        self.screen.note(f"going on after {turns} {'answer' if turns == 1 else 'answers'}{other}")

    def forget_cache(self) -> None:
        """End the session on the peers; the next answer opens a new one."""
        self._dialogue.close()

    def leave(self) -> None:
        """End the chat."""
        self._left = True
