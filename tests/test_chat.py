"""`swarm chat` over real peers: in a pseudo-terminal and as plain lines, with the answers of the local model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from swarm.builtin import demo_path
from tests.gateway_lab import local_text
from tests.peers import LocalSwarm
from tests.processes import QUIET, ROOT, Zygote

pytestmark = [pytest.mark.slow, pytest.mark.network]

STORY, SUM, LONG = "Tell me a story about Lily.", "What is 12 + 7?", "Tell me a long story about a dog."
TOKENS = 40


@pytest.fixture(scope="module")
def swarm(zygote: Zygote) -> Iterator[LocalSwarm]:
    with LocalSwarm(zygote) as swarm:
        swarm.serve("demo", "0:5", "--name", "ada", "--threads", "1")
        swarm.serve("demo", "5:8", "--name", "ben", "--threads", "1")
        yield swarm


def local_answers(*questions: str, tokens: int = TOKENS) -> list[str]:
    """What the local model answers to all of them, one after the other."""
    messages: list[Any] = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": local_text(messages, tokens)})
    return [message["content"] for message in messages[1::2]]


def plain(swarm: LocalSwarm, *lines: str, options: tuple[str, ...] = ()) -> Any:
    command = ["chat", "demo", "--peers", swarm.addresses[0], "--max-tokens", str(TOKENS), *options]
    return swarm.run(*command, stdin="".join(f"{line}\n" for line in lines).encode())


def heed_interrupts() -> None:
    """A test session that a shell started in the background ignores Ctrl-C, and whatever it starts would, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, swarm: LocalSwarm, *options: str, tokens: int = TOKENS) -> None:
        self.history = swarm.folder / "history"
        command = ["-m", "swarm.cli.main", "chat", "demo", "--peers", swarm.addresses[0]]
        command += ["--max-tokens", str(tokens), "--history", str(self.history), *options]
        home = {"HOME": str(swarm.folder), "XDG_CONFIG_HOME": str(swarm.folder)}
        settings = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONPATH": str(ROOT)}
        self.child = pexpect.spawn(
            sys.executable, command, env={**os.environ, **QUIET, **home, **settings}, timeout=120,
            encoding="utf-8", dimensions=(24, 160), preexec_fn=heed_interrupts,
        )  # fmt: skip
        self.child.expect_exact("/help lists commands")
        self.await_prompt()

    def await_prompt(self) -> None:
        """It waits for a message: paste brackets are on, and the cursor is shown again."""
        self.child.expect(r"\x1b\[\?2004h.*?\x1b\[\?25h")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)

    def say(self, text: str) -> None:
        self.child.send(text + "\r")

    def leave(self) -> int:
        self.child.send("\x04")
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus)


def test_plain_lines_get_the_answers_of_the_local_model(swarm: LocalSwarm) -> None:
    done = plain(swarm, STORY, "", SUM, STORY)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.splitlines() == local_answers(STORY, SUM, STORY)


def test_in_a_terminal_an_answer_streams_above_a_line_with_the_chain(swarm: LocalSwarm) -> None:
    with Terminal(swarm) as chat:
        chat.say(SUM)
        chat.child.expect(r"ada 0:5 → ben 5:8 · \d+ tokens? · [\d.]+ tokens/s")
        chat.await_prompt()
        chat.say("/chain")
        chat.child.expect_exact("ada 0:5 → ben 5:8\r\n")
        assert chat.leave() == 0
        assert SUM in chat.history.read_text()
        assert chat.history.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_the_answer_but_not_the_chat(swarm: LocalSwarm, tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    with Terminal(swarm, "--temperature", "1.5", tokens=1900) as chat:
        chat.say(LONG)
        chat.child.expect(r"\d\d tokens")
        chat.child.sendintr()
        chat.child.expect_exact("stopped")
        chat.await_prompt()
        chat.say("/set temperature=0 max_tokens=12")
        chat.child.expect_exact("max_tokens=12")
        chat.say(SUM)
        chat.child.expect(r"ben 5:8 · \d+ tokens · [\d.]+ tokens/s\x1b\[0m\r\n")
        chat.say(f"/save {saved}")
        chat.child.expect_exact("saved to")
        assert chat.leave() == 0
    question, stopped, second, answer = json.loads(saved.read_text())["messages"]
    assert (question["content"], second["content"]) == (LONG, SUM)
    messages: list[Any] = [question, stopped, second]
    assert answer["content"] == local_text(messages, 12)


def test_commands_between_messages(swarm: LocalSwarm) -> None:
    done = plain(swarm, SUM, "/retry", "/new", STORY, "/set max_tokens=5", f"//{SUM}")
    first, again, story, settings, last = done.stdout.splitlines()
    assert (done.status, done.stderr) == (0, "")
    assert [first, again] == local_answers(SUM) * 2
    assert story == local_answers(STORY)[0]
    assert settings.endswith("max_tokens=5")
    assert last  # one slash of two was taken off: this was a message


def test_the_first_error_ends_a_chat_of_plain_lines(swarm: LocalSwarm) -> None:
    done = plain(swarm, "/nonsense", SUM)
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no command /nonsense: ")


def test_a_model_without_a_chat_template_goes_on_with_the_text(swarm: LocalSwarm) -> None:
    folder = swarm.folder / "demo"
    shutil.copytree(demo_path(), folder)
    (folder / "chat_template.jinja").unlink()
    options = ["--peers", swarm.addresses[0], "--max-tokens", "12"]
    text = swarm.run("generate", "demo", "Once upon a time", *options).stdout
    done = swarm.run("chat", str(folder), *options, stdin=b"Once upon a time\n")
    assert (done.status, done.stderr, done.stdout) == (0, "", text)
    done = swarm.run("chat", str(folder), "--system", "Be kind.", *options)
    assert done.status == 2
    assert "no chat template" in done.stderr


def test_a_peer_that_dies_changes_the_line_but_not_the_answer(zygote: Zygote, tmp_path: Path) -> None:
    with LocalSwarm(zygote) as swarm:
        peers = {
            name: swarm.serve("demo", span, "--name", name, "--threads", "1")
            for name, span in (("ada", "0:5"), ("ben", "5:8"), ("dora", "5:8"))
        }
        with Terminal(swarm, tokens=400) as chat:
            chat.say(LONG)
            chat.child.expect(r"ada 0:5 → (ben|dora) 5:8 · \d\d tokens")
            peers[chat.child.match.group(1)].kill()
            chat.child.expect(r"1 failover\x1b\[0m\r\n")
            chat.await_prompt()
            chat.say(f"/save {tmp_path / 'chat.json'}")
            chat.child.expect_exact("saved to")
            assert chat.leave() == 0
    _, answer = json.loads((tmp_path / "chat.json").read_text())["messages"]
    assert answer["content"] == local_answers(LONG, tokens=400)[0]


def test_without_prompt_toolkit_a_terminal_is_told_what_to_install() -> None:
    script = (
        "import sys; sys.modules['prompt_toolkit'] = None; from swarm.cli.main import run;"
        "sys.exit(run(['chat', 'demo', '--peers', sys.argv[1]]))"
    )
    address = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWExeMD52dy9zaakce5QMLJGR7qZxyWjUfRKxYEb1rpoYw"
    output, status = pexpect.run(
        f'{sys.executable} -c "{script}" {address}', withexitstatus=True, cwd=ROOT, timeout=60
    )
    assert status == 2
    assert b"pip install 'layerswarm[chat]'" in output
