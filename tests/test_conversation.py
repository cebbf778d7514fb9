"""What was said in a chat, as prompts and as files; its commands; and how an answer is coming along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.cli.answer_progress import AnswerProgress
from swarm.cli.chat_loop import Chat
from swarm.cli.conversation import Conversation
from swarm.cli.live_line import printable
from swarm.cli.sampling import Sampling
from swarm.client.stats import ClientStats
from swarm.core.errors import ConfigError, SwarmError
from swarm.core.span import Span
from swarm.routing.chain import Chain, Hop

CHAIN = Chain((Hop("peer-one", Span(0, 5)), Hop("peer-two", Span(5, 8))), 0.0, "float32")


@dataclass
class Screen:
    """A screen that is a list."""

    lines: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def read(self) -> str | None:
        return self.lines.pop(0) if self.lines else None

    @contextmanager
    def answering(self, progress: AnswerProgress) -> Iterator[Callable[[str], None]]:
        yield self.said.append

    def say(self, text: str) -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        self.said.append(f"({text})")

    def fail(self, error: SwarmError) -> None:
        self.said.append(f"error: {error}")


def model(chain: Chain | None = CHAIN) -> Any:
    """What of a `SwarmModel` a chat looks at while nothing is generated."""
    names = {"peer-one": "ada"}
    return SimpleNamespace(
        stats=ClientStats(),
        chain=chain,
        source_name="demo",
        swarm=SimpleNamespace(peer_name=lambda peer_id: names.get(peer_id, "")),
        dialogue=lambda: SimpleNamespace(close=lambda: None),
    )


def chat(*lines: str, templated: bool = True) -> tuple[Chat, list[str]]:
    """A chat after these lines, and what stood on its screen."""
    screen = Screen(list(lines))
    tokenizer = SimpleNamespace(chat_template="{{ messages }}" if templated else None)
    talk = Chat(model(), tokenizer, screen, Sampling(64))
    talk.run()
    return talk, screen.said


def test_settings_change_until_their_default_is_asked_for() -> None:
    talk, said = chat("/set temperature=0.5 max_tokens=9", "/set temperature=default")
    assert said[0] == "temperature=0.5 top_p=default top_k=default seed=default max_tokens=9"
    assert talk.sampling == Sampling(9)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/sett", "there is no command /sett: did you mean /set?"),
        ("/xyzzy", "/help lists them"),
        ("/new york", "/new takes nothing after it"),
        ("/set warmth=1", "NAME is one of temperature, top_p"),
        ("/set top_p=2", "/set top_p: must be a number more than 0 and at most 1"),
        ("/save", "/save needs a file"),
        ("/load /nowhere/at/all", "cannot read /nowhere/at/all: No such file"),
        ("/save /nowhere/at/all", "cannot write /nowhere/at/all: No such file"),
        ("/retry", "nothing was asked yet"),
    ],
)
def test_a_wrong_command_is_one_line_and_the_chat_goes_on(line: str, complaint: str) -> None:
    _, said = chat(line, "/chain")
    assert said[0].startswith("error: ")
    assert complaint in said[0]
    assert said[1] == "ada 0:5 → er-two 5:8"


def test_help_names_every_command() -> None:
    _, said = chat("/help", "/quit", "/help")
    assert len(said) == 1
    for name in ("help", "new", "system", "retry", "set", "chain", "save", "load", "quit"):
        assert f"/{name} " in said[0]


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    said = Conversation(templated=True, system="be kind")
    said.ask("hello")
    said.answer("hi")
    said.save(tmp_path / "chat.json", "demo")
    assert (tmp_path / "chat.json").stat().st_mode & 0o777 == 0o600
    read = Conversation(templated=True)
    assert read.load(tmp_path / "chat.json") == "demo"
    assert (read.system, read.messages) == (said.system, said.messages)


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "{}",
        '{"model": "demo", "system": null, "messages": [{"role": "user", "content": "hello"}]}',
        '{"model": "demo", "system": null, "messages": [{"role": "root", "content": "hello"}]}',
    ],
)
def test_a_file_that_is_no_conversation_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "chat.json").write_text(text)
    conversation = Conversation(templated=True)
    with pytest.raises(ConfigError, match=r"chat\.json"):
        conversation.load(tmp_path / "chat.json")
    assert conversation.messages == []


def test_the_last_question_is_taken_back_with_its_answer() -> None:
    conversation = Conversation(templated=True)
    assert conversation.take_back() is None
    for text in ("one", "two"):
        conversation.ask(text)
        conversation.answer(text.upper())
    assert conversation.take_back() == "two"
    assert [message.content for message in conversation.messages] == ["one", "ONE"]


def test_without_a_chat_template_there_is_no_system_message() -> None:
    _, said = chat("/system be kind", templated=False)
    assert said[0].startswith("(this model has no chat template")
    assert said[1] == "error: this model has no chat template, and so no system message"


def test_progress_counts_tokens_and_tells_what_is_waited_for() -> None:
    now = [10.0]
    swarm = model()
    progress = AnswerProgress(swarm, lambda: now[0])
    for tokens in (1, 3):
        now[0] += 0.5
        progress.came(tokens)
    assert progress.line() == "ada 0:5 → er-two 5:8 · 4 tokens · 6.0 tokens/s"
    swarm.stats.failovers = 1
    now[0] += 3
    assert progress.line().endswith("1 failover · waiting 3 s")
    progress.notice("layers 5:8: nobody")
    assert progress.line().endswith("1 failover · layers 5:8: nobody")
    assert progress.summary() == "ada 0:5 → er-two 5:8 · 4 tokens · 6.0 tokens/s · 1 failover"


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\u009b31mb\n\tc\x7f") == "a[2J31mb\n\tc"
