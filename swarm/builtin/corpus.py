"""The training text: stories, sums such as `12 + 7 = 19`, and both as conversations.

A document is one string, from `BOS` to `EOS`, with the marks of the chat template written out. One pair of
two-digit numbers in eight, in either order, is held out: no document ever contains its sum, so that the sums of
`held_out_sums` measure adding and not memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from zlib import crc32

from swarm.builtin.stories import tell

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, BOS, EOS, SYSTEM, USER, ASSISTANT)

HELD_OUT_ONE_IN = 8

PLAIN_SUMS = ("{a} + {b} = {c}", "{a} + {b} = {c}", "{a} + {b} = {c}", "{a}+{b}={c}")
SUM_QUESTIONS = (
    "What is {a} + {b}?",
    "{a} + {b} =",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "{a} + {b}",
    "{a} + {b} = ?",
    "Please add {a} and {b}.",
    "{a}+{b}",
)
STORY_REQUESTS = (
    "Tell me a story about {topic}.",
    "Write a story about {topic}.",
    "A story about {topic}, please.",
)
OPEN_REQUESTS = (
    "Tell me a story.",
    "Please tell me a story.",
    "Write a little story.",
    "Another story, please.",
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You tell little stories.",
    "Be short and kind.",
    "Answer the user.",
)
HELLO = "Hello! Ask me for a little story or a sum."
WHO = "I am a tiny model that tells little stories and adds numbers."
SORRY = "I am too small to know that. I can tell little stories and add numbers."
SMALL_TALK = (
    *(
        (question, HELLO)
        for question in ("Hello!", "Hi!", "Hello", "Hi", "Hey", "Good morning!", "How are you?")
    ),
    *(
        (question, WHO)
        for question in ("Who are you?", "What are you?", "What can you do?", "What is your name?")
    ),
    *((question, "You are welcome!") for question in ("Thank you!", "Thanks!", "Thank you")),
    *((question, "Good night, and sweet dreams!") for question in ("Good night!", "Bye!", "Goodbye!")),
)
BEYOND = (
    "What is the capital of {it}?",
    "How do I make {it}?",
    "Who invented {it}?",
    "Why is {it} so big?",
    "Explain {it}.",
    "Write a poem about {it}.",
    "What do you know about {it}?",
    "Where can I buy {it}?",
)
SUBJECTS = (
    "France",
    "bread",
    "the moon",
    "computers",
    "Japan",
    "the sky",
    "history",
    "a bicycle",
    "music",
    "gravity",
)


def held_out(a: int, b: int) -> bool:
    """Whether the sum of `a` and `b` is kept out of all training text; only pairs within 10..99 are."""
    low, high = sorted((a, b))
    return low >= 10 and high <= 99 and crc32(f"{low}+{high}".encode()) % HELD_OUT_ONE_IN == 0


def held_out_sums(n: int, seed: int = 0) -> list[tuple[int, int]]:
    """`n` different pairs of two-digit numbers that training never added, the same ones for the same seed."""
    return Random(seed).sample(all_held_out_sums(), n)


def all_held_out_sums() -> list[tuple[int, int]]:
    """Every pair of two-digit numbers that training never added."""
    return [(a, b) for a in range(10, 100) for b in range(10, 100) if held_out(a, b)]


def documents(seed: int, story_share: float = 0.05) -> Iterator[str]:
    """Endless training documents, the same ones for the same seed.

    `story_share` counts documents, and a story is about as long as a dozen sums: 0.05 makes 0.4 of the text
    stories, 0.2 makes it 0.8.
    """
    rng = Random(seed)
    while True:
        yield _story_document(rng) if rng.random() < story_share else _short_document(rng)


def chat(turns: list[tuple[str, str]], system: str | None = None) -> str:
    """A conversation of (question, answer) turns as the chat template renders it."""
    head = f"{SYSTEM}{system}" if system else ""
    return BOS + head + "".join(f"{USER}{asked}{ASSISTANT}{answer}{EOS}" for asked, answer in turns)


def _story_document(rng: Random) -> str:
    if rng.random() < 0.4:
        return f"{BOS}{tell(rng).text}{EOS}"
    turns = [_small_turn(rng) for _ in range(rng.choice((0, 0, 0, 1)))]
    turns.append(_story_turn(rng))
    turns += [_small_turn(rng) for _ in range(rng.choice((0, 0, 0, 1)))]
    return chat(turns, _system(rng))


def _short_document(rng: Random) -> str:
    dice = rng.random()
    if dice < 0.55:
        return f"{BOS}{_plain_sum(rng)}{EOS}"
    if dice < 0.60:
        lines = [_plain_sum(rng) for _ in range(rng.randint(3, 8))]
        return f"{BOS}{chr(10).join(lines)}{EOS}"
    turns = [_small_turn(rng) for _ in range(rng.choice((1, 1, 1, 1, 2, 3)))]
    return chat(turns, _system(rng))


def _system(rng: Random) -> str | None:
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else None


def _story_turn(rng: Random) -> tuple[str, str]:
    story = tell(rng)
    if rng.random() < 0.15:
        return rng.choice(OPEN_REQUESTS), story.text
    topic = story.topics[int(len(story.topics) * rng.random() ** 2)]
    return rng.choice(STORY_REQUESTS).format(topic=topic), story.text


def _small_turn(rng: Random) -> tuple[str, str]:
    dice = rng.random()
    if dice < 0.85:
        a, b = _addends(rng)
        return rng.choice(SUM_QUESTIONS).format(a=a, b=b), f"{a} + {b} = {a + b}"
    if dice < 0.95:
        return rng.choice(SMALL_TALK)
    return rng.choice(BEYOND).format(it=rng.choice(SUBJECTS)), SORRY


def _plain_sum(rng: Random) -> str:
    a, b = _addends(rng)
    return rng.choice(PLAIN_SUMS).format(a=a, b=b, c=a + b)


def _addends(rng: Random) -> tuple[int, int]:
    # Small numbers are rarer among all pairs than among what people type, so both kinds are drawn.
    while True:
        a, b = (rng.randint(0, 99) if rng.random() < 0.9 else rng.randint(0, 9) for _ in range(2))
        if not held_out(a, b):
            return a, b
