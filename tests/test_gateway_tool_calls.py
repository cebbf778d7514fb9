"""Tool calls told apart from text, in whatever pieces they come."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest

from swarm.gateway.events import Piece, ToolCall
from swarm.gateway.tool_calls import CallReader
from swarm.gateway.tool_format import LLAMA, MISTRAL, TAGGED, ToolFormat, find_format

CALL = '{"name": "weather", "arguments": {"place": "Rome"}}'
OTHER = '{"name": "time", "arguments": {}}'
CASES: list[tuple[ToolFormat, str, str, list[str]]] = [
    (TAGGED, "Only text.", "Only text.", []),
    (TAGGED, f"<tool_call>\n{CALL}\n</tool_call>", "", ["weather"]),
    (TAGGED, f"Let me see. <tool_call>{CALL}</tool_call>", "Let me see. ", ["weather"]),
    (TAGGED, f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call>", "", ["weather", "time"]),
    (TAGGED, "a < b, a <tool", "a < b, a <tool", []),
    (TAGGED, "<tool_call>nonsense</tool_call> and on", "<tool_call>nonsense</tool_call> and on", []),
    (TAGGED, f"<tool_call>{CALL[:20]}", f"<tool_call>{CALL[:20]}", []),
    (TAGGED, '<tool_call>{"name": 1}</tool_call>', '<tool_call>{"name": 1}</tool_call>', []),
    (MISTRAL, f"[TOOL_CALLS][{CALL}, {OTHER}]", "", ["weather", "time"]),
    (MISTRAL, "[1, 2]", "[1, 2]", []),
    (LLAMA, '{"name": "weather", "parameters": {"place": "Rome"}}', "", ["weather"]),
    (LLAMA, 'So: {"name": "weather"}', 'So: {"name": "weather"}', []),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
]


def read(form: ToolFormat, text: str, cuts: list[int], *, forced: bool = False) -> tuple[str, list[ToolCall]]:
    """The text and the calls of what comes in pieces."""
    reader = CallReader(form, forced=forced)
    edges = [0, *cuts, len(text)]
    events = [e for a, b in pairwise(edges) for e in reader.add(Piece(text[a:b]))]
    events += list(reader.finish())
    shown = "".join(event.text for event in events if isinstance(event, Piece))
    return shown, [event for event in events if isinstance(event, ToolCall)]


@pytest.mark.parametrize(("form", "text", "shown", "names"), CASES)
def test_text_and_calls_are_the_same_however_they_are_cut(
    form: ToolFormat, text: str, shown: str, names: list[str]
) -> None:
    dice = random.Random(5)
    for _ in range(20):
        cuts = sorted(dice.sample(range(len(text)), min(dice.randrange(6), len(text))))
        found, calls = read(form, text, cuts)
        assert found == shown
        assert [call.name for call in calls] == names
    everywhere = read(form, text, list(range(1, len(text))))
    assert everywhere[0] == shown
    assert len(everywhere[1]) == len(names)


def test_arguments_are_the_text_of_a_json_object() -> None:
    _, (call,) = read(TAGGED, f"<tool_call>{CALL}</tool_call>", [])
    assert json.loads(call.arguments) == {"place": "Rome"}
    assert call.id.startswith("call_")


def test_text_is_given_out_as_soon_as_it_can_be_no_call() -> None:
    reader = CallReader(TAGGED, forced=False)
    assert [event.text for event in reader.add(Piece("Well <")) if isinstance(event, Piece)] == ["Well "]
    assert [event.text for event in reader.add(Piece(" 3")) if isinstance(event, Piece)] == ["< 3"]


def test_a_forced_call_is_the_whole_text() -> None:
    assert [call.name for call in read(TAGGED, CALL, [7], forced=True)[1]] == ["weather"]
    cut_short = CALL[:-5]
    assert read(TAGGED, cut_short, [], forced=True) == (cut_short, [])


def test_without_tools_everything_is_text() -> None:
    reader = CallReader(None, forced=False)
    piece = Piece(f"<tool_call>{CALL}</tool_call>")
    assert list(reader.add(piece)) == [piece]
    assert list(reader.finish()) == []


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{{ tools }} <tool_call>", TAGGED),
        ("{{ tools }} <tool_call><function=NAME>", None),
        ("{{ tools }} [TOOL_CALLS]", MISTRAL),
        ('{{ tools }} {"name": "f", "parameters": {}}', LLAMA),
        ("{{ tools }}", None),
    ],
)
def test_the_format_is_read_off_the_template(template: str, form: ToolFormat | None) -> None:
    assert find_format(template) == form


@pytest.mark.parametrize("form", [TAGGED, MISTRAL, LLAMA])
def test_a_call_follows_the_schema_that_forces_it(form: ToolFormat) -> None:
    schema = form.call_schema({"a": {"type": "object"}, "b": {"type": "object"}})
    call = schema["items"] if form.is_list else schema
    names = [option["properties"]["name"]["const"] for option in call["anyOf"]]
    assert names == ["a", "b"]
    assert all(form.arguments_key in option["required"] for option in call["anyOf"])
