"""Whatever the README and the quickstart tell to type works, in that order.

The pages always use the same stand-ins for what is different everywhere: an address, two ports, a hub id. Here they
become the first node that the page has started, free ports of 127.0.0.1, and the built-in model. All else is run as it
stands.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.builtin import demo_path
from swarm.cli.main import COMMANDS
from tests.cli_reference import loaded
from tests.page_blocks import SHELL, Block, blocks_of, commands_in
from tests.peers import LocalSwarm
from tests.processes import QUIET, Zygote
from tests.source_map import ROOT
from tests.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.network]

PAGES = ["README.md", "docs/quickstart.md"]
ADDRESS = "/ip4/192.168.1.20/tcp/31330/p2p/12D3KooW..."
PORTS = ("--port 31330", "--port 8000")
GATEWAY = "http://127.0.0.1:8000"
HUB_ID = "Qwen/Qwen3-8B"
DIAGRAM = "mermaid"
NODES = ("serve", "bootstrap")
MAKES = {  # the quickstart runs the one, we are in the other
    "demo": "swarm demo",
    "test": "python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder",
}
DEADLINE_S = 120.0
WITHIN_TEXT = re.compile(r"`((?:swarm|make|pip install) [^`\n]+)`")
OPTION = re.compile(r"--[a-z][a-z-]*")


class Reader:
    """Does what a page says, block by block."""

    def __init__(self, swarm: LocalSwarm) -> None:
        self._swarm = swarm
        self._env: dict[str, str] = {}
        self._gateway = ""

    def follow(self, block: Block) -> None:
        """Run the block.

        Raises:
            AssertionError: if a command of it fails, or says nothing.
        """
        text = self._here(block.text)
        if block.language == "python":
            self._run_python(text)
        elif block.language != DIAGRAM:
            assert block.language == SHELL, f"a block in {block.language}, which nobody runs"
            for command in commands_in(text):
                self._run(shlex.split(command, comments=True))

    def _here(self, text: str) -> str:
        if ADDRESS in text:
            text = text.replace(ADDRESS, self._swarm.addresses[0])
        for port in PORTS:
            text = text.replace(port, "--port 0")
        return text.replace(HUB_ID, str(demo_path())).replace(GATEWAY, self._gateway)

    def _run(self, command: list[str]) -> None:
        match command:
            case ["export", assignment]:
                name, _, value = assignment.partition("=")
                self._env[name] = value
            case ["make", target]:
                assert Path(_recipe(target)).name == MAKES[target]
            case ["swarm", *arguments] if arguments[0] in NODES:
                node = self._swarm.node(*arguments)
                wait_for(lambda: node.addresses[0] in node.log, DEADLINE_S, "the address is printed")
            case ["swarm", "gateway", *arguments]:
                self._start_gateway(arguments)
            case ["swarm", *arguments]:
                done = self._swarm.run(*arguments, env=self._env, deadline_s=DEADLINE_S)
                assert done.status == 0, f"{command}: {done.stderr}"
                assert done.stdout
            case _:
                raise AssertionError(f"nobody runs {command}")

    def _start_gateway(self, arguments: list[str]) -> None:
        ready = self._swarm.folder / "gateway.json"
        process = self._swarm.start("gateway", *arguments, "--ready-file", str(ready), env=self._env)
        wait_for(lambda: ready.exists() or process.status is not None, DEADLINE_S, "the gateway serves")
        assert process.status is None, process.log
        [self._gateway] = json.loads(ready.read_text())["addresses"]

    def _run_python(self, code: str) -> None:
        env = os.environ | QUIET | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def _recipe(target: str) -> str:
    """The last command that `make TARGET` would run."""
    done = subprocess.run(
        ["make", "-n", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_works_as_it_is_told(page: str, zygote: Zygote) -> None:
    blocks = blocks_of(ROOT / page)
    assert blocks
    with LocalSwarm(zygote) as swarm:
        reader = Reader(swarm)
        for block in blocks:
            try:
                reader.follow(block)
            except AssertionError as error:
                raise AssertionError(f"{page}, line {block.line}: {error}") from error


def within_text(program: str) -> list[str]:
    """The commands of a program that the pages name outside of blocks."""
    found = [command for page in PAGES for command in WITHIN_TEXT.findall((ROOT / page).read_text("utf-8"))]
    return sorted({command for command in found if command.startswith(f"{program} ")})


@pytest.mark.parametrize("command", within_text("swarm"))
def test_a_command_within_the_text_exists_with_its_options(command: str) -> None:
    _, name, *arguments = shlex.split(command)
    if name == "COMMAND":  # stands for any of them
        assert arguments == ["--help"]
        return
    assert set(OPTION.findall(command)) <= options_of(name)


def test_the_options_in_the_table_of_commands_are_those_of_the_command() -> None:
    rows = re.findall(
        r"^\| `swarm ([\w-]+)[^`]*` \|(.*)\|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert {name for name, _ in rows} == set(COMMANDS)
    wrong = {name: set(OPTION.findall(text)) - options_of(name) for name, text in rows}
    assert {name: options for name, options in wrong.items() if options} == {}


@pytest.mark.parametrize("command", within_text("make"))
def test_a_target_within_the_text_exists(command: str) -> None:
    assert _recipe(shlex.split(command)[1])


@pytest.mark.parametrize("command", within_text("pip install"))
def test_what_the_text_tells_to_install_is_there(command: str) -> None:
    what = shlex.split(command)[2].replace("layerswarm", ".")
    dry = ["--dry-run", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--no-index"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *dry, what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "does not provide the extra" not in done.stdout + done.stderr


def options_of(name: str) -> set[str]:
    """All options of a command, in either sense."""
    return {option for each in loaded(name).params for option in (*each.opts, *each.secondary_opts)}
