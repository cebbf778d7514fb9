"""Text from tokens: whole characters, no part of a stop text, the same text in the end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli.sampling import Sampling
from swarm.client.token_stream import TextAssembler, TokenStream


def bytes_as_tokens(ids: Sequence[int]) -> str:
    """A byte-level tokenizer with the smallest vocabulary there is."""
    return bytes(ids).decode("utf-8", errors="replace")


def words_as_tokens(ids: Sequence[int]) -> str:
    """A sentencepiece-like one: a space before every word but the first."""
    return " ".join(("once", "upon", "a", "time")[i] for i in ids)


def pieces(assembler: TextAssembler, ids: Sequence[int]) -> list[str]:
    return [*(assembler.add([token]) for token in ids), assembler.finish()]


def test_a_character_comes_out_whole() -> None:
    out = pieces(TextAssembler(bytes_as_tokens), "aé€😀b".encode())
    assert [piece for piece in out if piece] == ["a", "é", "€", "😀", "b"]


def test_spaces_between_words_come_out_right() -> None:
    assert pieces(TextAssembler(words_as_tokens), [0, 1, 2, 3]) == ["once", " upon", " a", " time", ""]


def test_bytes_that_never_become_a_character_come_out_at_the_end() -> None:
    assert pieces(TextAssembler(bytes_as_tokens), b"a\xe2\x82") == ["a", "", "", "\ufffd"]


def test_the_text_ends_before_the_first_stop_text() -> None:
    assembler = TextAssembler(bytes_as_tokens, ["END", "!"])
    assert "".join(pieces(assembler, b"one E two EN three END four!")) == "one E two EN three "
    assert assembler.stopped


def test_what_could_begin_a_stop_text_waits() -> None:
    out = pieces(TextAssembler(bytes_as_tokens, ["\n\n"]), b"a\nb\n")
    assert out == ["a", "", "\nb", "", "\n"]


@given(st.text(), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_pieces_add_up_to_the_text_before_the_first_stop_text(text: str, stops: list[str]) -> None:
    assembler = TextAssembler(bytes_as_tokens, stops)
    shown = "".join(pieces(assembler, text.encode()))
    assert shown == assembler.text
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert assembler.stopped == any(stop in text for stop in stops)
    assert assembler.stopped or shown == text


def test_a_stream_skips_the_prompt_and_keeps_a_time_per_token() -> None:
    shown: list[str] = []
    stream = TokenStream(TextAssembler(bytes_as_tokens), shown.append)
    stream.put(torch.tensor([[1, 2, 3]]))
    for token in b"hi":
        stream.put(torch.tensor([token]))
    stream.end()
    assert (shown, stream.ids, len(stream.times)) == (["h", "i", ""], [104, 105], 2)


@pytest.mark.parametrize(
    ("sampling", "arguments"),
    [
        (Sampling(5), {}),
        (Sampling(5, temperature=0), {"do_sample": False}),
        (Sampling(5, temperature=0.7, seed=1), {"do_sample": True, "temperature": 0.7}),
        (Sampling(5, top_p=0.9, top_k=3), {"do_sample": True, "top_p": 0.9, "top_k": 3}),
    ],
)
def test_what_is_not_given_is_left_to_the_model(sampling: Sampling, arguments: dict[str, object]) -> None:
    assert sampling.arguments() == {"max_new_tokens": 5, **arguments}
