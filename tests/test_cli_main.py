"""The command line as a whole: what it imports, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from swarm import __version__
from swarm.cli import main as cli
from swarm.cli.failure import describe, report
from swarm.core.config import PeerLimits
from swarm.core.errors import ConfigError, ModelError, PeerBusy, SwarmUnavailable

HEAVY = {"torch", "transformers", "hivemind", "numpy", "pydantic", "uvloop"}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SWARM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def command_line(*arguments: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "swarm.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def imported_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    code = f"import sys\n{code}\nprint('LOADED', *sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return HEAVY & set(out.rsplit("LOADED", 1)[1].split())


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    assert imported_by("from swarm.cli.main import run; assert run(['--help']) == 0") == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["serve", "generate", "status", "bootstrap", "check", "demo", "bench", "simulate", "version"]
)
def test_the_help_of_a_command_imports_no_torch(name: str) -> None:
    loaded = imported_by(f"from swarm.cli.main import run; assert run([{name!r}, '--help']) == 0")
    assert not loaded & {"torch", "transformers", "hivemind"}


@pytest.mark.slow
def test_the_module_runs_as_a_script() -> None:
    done = command_line("version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"swarm ")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out and summary in out for name, summary in cli.COMMANDS.items())


def test_the_version_is_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == cli.run(["version"]) == 0
    option, command = capsys.readouterr().out.splitlines()
    assert option == command
    assert option.startswith(f"swarm {__version__} (python ")


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    assert "Usage: swarm" in capsys.readouterr().out


def test_the_help_of_serve_states_every_limit_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    for name in PeerLimits.__dataclass_fields__:
        line = next(line for line in out.splitlines() if f"--{name.replace('_', '-')} " in line)
        default = getattr(PeerLimits(), name)
        assert default is False or f"[default: {default:g}]" in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serv"], "No such command 'serv'"),
        (["serve", "demo", "--layer", "0:2"], "No such option: --layer"),
        (["serve", "demo", "more"], "unexpected extra argument"),
        (["serve", "demo", "--port"], "--port"),
        (["serve"], "MODEL is missing"),
        (["serve", "demo", "--layers", "2:2"], "--layers: a layer range needs 0 <= start < end, got 2:2"),
        (["serve", "demo", "--config", "/nowhere/x.yaml"], "--config: cannot read /nowhere/x.yaml"),
        (["serve", "demo", "--ready-file", "/nowhere/ready"], "--ready-file /nowhere/ready"),
        (["generate", "demo", "hello"], "--peers is missing"),
        (["generate", "demo", " "], "PROMPT is empty"),
        (["generate", "demo", "caf\udce9"], "PROMPT: is not UTF-8 text"),
        (["status"], "--peers is missing"),
        (["check", "demo", "--splits", "0"], "--splits: must be a positive integer"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert complaint in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_a_prompt_that_is_not_utf8_is_one_line_from_argv_and_from_stdin() -> None:
    peer = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"
    for prompt, stdin in ((b"caf\xe9", b""), (b"-", b"caf\xe9")):
        done = command_line("generate", "demo", prompt, "--peers", peer, stdin=stdin)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert b"not UTF-8" in done.stderr


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (ConfigError("wrong"), "wrong", 2),
        (ModelError("two\nlines \x1b[31m"), "two lines  [31m", 1),
        (PeerBusy("full", "abc"), "full", 1),
        (SwarmUnavailable("layers 0:2 are served by nobody"), "layers 0:2 are served by nobody", 1),
        (KeyboardInterrupt(), "", 130),
        (typer.Abort(), "", 130),
        (BrokenPipeError(), "", 1),
        (MemoryError(), "out of memory", 1),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [ConfigError("wrong")])]), "wrong", 2),
    ],
)
def test_an_error_becomes_a_line_and_a_status(error: BaseException, line: str, status: int) -> None:
    assert describe(error) == (line, status)


def test_an_unknown_error_says_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyError("x"), debug=False) == 1
    assert capsys.readouterr().err == (
        "error: unexpected error: KeyError: 'x' (run it again as `swarm --debug ...` for details)\n"
    )


def test_debug_shows_the_traceback_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--debug", "serve", "demo", "--port", "x"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: --port: must be a port number from 0 (any free port) to 65535\n")


def test_debug_is_also_an_environment_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_DEBUG", "1")
    assert cli.run(["status"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_reader_of_a_pipe_may_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`swarm ... | head -1` ends without a traceback."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "swarm.cli.main", "serve", "--help"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write_end)
    assert done.returncode == 1
    assert done.stderr == b""


def test_sigterm_ends_a_command_in_order() -> None:
    seen: list[str] = []

    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            seen.append("cleaned up")

    previous = signal.getsignal(signal.SIGTERM)
    try:
        cli.end_on_signals()
        with pytest.raises(SystemExit) as caught:
            interrupted()
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, previous)
    assert (caught.value.code, seen) == (128 + signal.SIGTERM, ["cleaned up"])
